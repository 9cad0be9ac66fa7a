"""Translation in one direction from pairs that are taken at their word: a conditional GAN with a pixel term.

Reference: Isola et al., 2017, arXiv:1611.07004 (Pix2Pix).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from rsgeo_gan.losses import AdversarialLoss, Correspondence, NonSaturating, masked_l1
from rsgeo_gan.models import logit_mask
from rsgeo_gan.provenance import Direction, sides
from rsgeo_gan.tasks.base import Batch, Terms
from rsgeo_gan.tasks.scoring import IMAGE, MASK, Channels, TranslationTask, holes, trust

__all__ = ["PairedTranslation"]


class PairedTranslation(TranslationTask):
    """Pix2Pix in one direction, with an optional term that forgives misalignment.

    The discriminator judges an image together with what it was made from. What is invalid on either side counts in no
    term and does not reach the discriminator. The pixel term believes that pairs are aligned, as far as the batch's
    `mask_confidence` or `confidence` says so; a correspondence takes its place or stands beside it where they are
    not. Of a correspondence only the direction made here counts: for the other one it is given the real image, which
    corresponds to itself. Terms that need both generators, such as `PairLoss`, are refused.

    Args:
        generator: From the side read to the side made, (B, C, H, W) to (B, C', H, W), model domain.
        discriminator: Judges both images joined along the bands, read then made; logits (B, 1, h, w).
        direction: Which side is read and which is made.
        adversarial: Adversarial objective; the non-saturating one when None.
        correspondence: Term that ties a translation to the image it is paired with; none when None.
        weights: Weight by term: adversarial 1, pixel 100, pair 1, speckle 1 (of a generator with noise).
        more: See `TranslationTask` and `AdversarialTask`.

    Raises:
        ValueError: If a weight names no term, or the correspondence needs two generators.
    """

    default_weights: ClassVar[dict[str, float]] = {"adversarial": 1.0, "pixel": 100.0, "pair": 1.0, "speckle": 1.0}
    generators: ClassVar[tuple[str, ...]] = ("generator", "correspondence")

    discriminator: nn.Module
    adversarial: AdversarialLoss

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        direction: Direction = "source_to_target",
        adversarial: AdversarialLoss | None = None,
        correspondence: Correspondence | None = None,
        weights: dict[str, float] | None = None,
        **more: Any,
    ) -> None:
        self.read, self.made = sides(direction)
        self.parts = {
            "generator": generator,
            "discriminator": discriminator,
            "adversarial": NonSaturating() if adversarial is None else adversarial,
            "correspondence": correspondence,
        }
        super().__init__(weights=weights, **more)

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> Channels:
        """Return which side's bands each network takes and gives; the discriminator sees both."""
        ((direction, _),) = cls.directions(arguments).items()
        read, made = sides(direction)
        return {
            "generator": {"in_channels": (read,), "out_channels": (made,)},
            "discriminator": {"in_channels": (read, made)},
        }

    @classmethod
    def directions(cls, arguments: Mapping[str, Any]) -> dict[Direction, str]:
        """Return the one direction and its generator."""
        return {arguments.get("direction", "source_to_target"): "generator"}

    def prepare(self, batch: Batch) -> Batch:
        """Add the translation and the masks: `clean_*` without speckle for the terms that compare, `fake_*` with it."""
        self._same_size(batch)
        mask = batch[MASK[self.read]]
        clean = self._run(self.generator, batch[IMAGE[self.read]], holes(mask)) * mask
        return batch | {
            f"clean_{self.made}": clean,
            f"fake_{self.made}": self._speckled(self.generator, clean) * mask,
            "mask_both": batch["mask_valid"] * batch["mask_valid_target"],
        }

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Judge the real and the made image, each with the one read: `adversarial`."""
        mask = batch["mask_both"]
        real, fake = (
            torch.cat([batch[IMAGE[self.read]], image], dim=1) * mask
            for image in (batch[IMAGE[self.made]], batch[f"fake_{self.made}"].detach())
        )
        on_real, on_fake = self._joined(self.discriminator, [real, fake], [mask, mask])
        counts = logit_mask(mask, on_real)
        return {"adversarial": self.adversarial.discriminator(on_real, on_fake, counts, counts)}

    def generator_terms(self, batch: Batch) -> Terms:
        """Return `adversarial`, and `pixel`, `speckle` and those of the correspondence where they have a weight."""
        mask, clean = batch["mask_both"], batch[f"clean_{self.made}"]
        shown = torch.cat([batch[IMAGE[self.read]], batch[f"fake_{self.made}"]], dim=1) * mask
        logits = self._run(self.discriminator, shown, holes(mask))
        terms = {"adversarial": self.adversarial.generator(logits, mask=logit_mask(mask, logits))}
        if self.weights["pixel"] > 0:
            terms["pixel"] = masked_l1(clean, batch[IMAGE[self.made]], mask, trust(batch))
        made = {**{side: batch[key] for side, key in IMAGE.items()}, self.made: clean}
        return terms | self._speckle(batch) | self._corresponding(batch, made["source"], made["target"])
