"""Translation in one direction from pairs that are taken at their word: a conditional GAN with a pixel term.

References: Isola et al., 2017, arXiv:1611.07004 (Pix2Pix); Zhang et al., 2018, arXiv:1801.06790 (decoupled learning).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rsgeo_gan.losses import AdversarialLoss, Correspondence, NonSaturating, masked_l1
from rsgeo_gan.models import SummedGenerators, logit_mask, start_at_zero
from rsgeo_gan.provenance import Direction, sides
from rsgeo_gan.tasks.base import Batch, Terms
from rsgeo_gan.tasks.randomness import Stream
from rsgeo_gan.tasks.scoring import IMAGE, MASK, Channels, TranslationTask, holes, trust

__all__ = ["PairedTranslation"]


class PairedTranslation(TranslationTask):
    """Pix2Pix in one direction, with an optional term that forgives misalignment.

    The discriminator judges an image together with what it was made from. What is invalid on either side counts in no
    term and does not reach the discriminator. The pixel term believes that pairs are aligned, as far as the batch's
    `mask_confidence` or `confidence` says so; a correspondence takes its place or stands beside it where they are
    not. Of a correspondence only the direction made here counts: for the other one it is given the real image, which
    corresponds to itself. Terms that need both generators, such as `PairLoss`, are refused.

    With a residual generator the two kinds of terms are decoupled: the generator learns from those that compare, the
    residual, a whole second network that reads the same image, from the adversarial one, and their sum is what is
    judged, scored and written. Neither gradient reaches the other network, the residual is a parameter group of its
    own, and the adversarial branch draws its own random numbers, so what the generator learns is the same, bit for
    bit, whatever the branch does. The sum is limited to [-1, 1] where it is scored or written, not where it is
    judged in training.

    Args:
        generator: From the side read to the side made, (B, C, H, W) to (B, C', H, W), model domain.
        discriminator: Judges both images joined along the bands, read then made; logits (B, 1, h, w).
        direction: Which side is read and which is made.
        adversarial: Adversarial objective; the non-saturating one when None.
        correspondence: Term that ties a translation to the image it is paired with; none when None.
        weights: Weight by term: adversarial 1, pixel 100, pair 1, speckle 1 (of a generator with noise).
        residual: Second generator, for decoupled learning, of the same bands; its output layer is set to zero at the
            start. None ties all terms to the one generator.
        more: See `TranslationTask` and `AdversarialTask`.

    Raises:
        ValueError: If a weight names no term, the correspondence needs two generators, or generator and residual do
            not add up.
    """

    default_weights: ClassVar[dict[str, float]] = {"adversarial": 1.0, "pixel": 100.0, "pair": 1.0, "speckle": 1.0}
    generators: ClassVar[tuple[str, ...]] = ("generator", "residual", "correspondence")
    apart: ClassVar[tuple[str, ...]] = ("residual",)

    residual: nn.Module | None
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
        residual: nn.Module | None = None,
        **more: Any,
    ) -> None:
        if residual is not None:
            _check_sum(generator, residual)
        self.read, self.made = sides(direction)
        self.parts = {
            "generator": generator,
            "residual": residual,
            "discriminator": discriminator,
            "adversarial": NonSaturating() if adversarial is None else adversarial,
            "correspondence": correspondence,
        }
        super().__init__(weights=weights, **more)
        self.stream = Stream()

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> Channels:
        """Return which side's bands each network takes and gives; the discriminator sees both."""
        ((direction, _),) = cls.directions(arguments).items()
        read, made = sides(direction)
        both = {"in_channels": (read,), "out_channels": (made,)}
        residual = {} if arguments.get("residual") is None else {"residual": both}
        return {
            "generator": both,
            **residual,
            "discriminator": {"in_channels": (read, made)},
        }

    @classmethod
    def directions(cls, arguments: Mapping[str, Any]) -> dict[Direction, str]:
        """Return the one direction and its generator."""
        return {arguments.get("direction", "source_to_target"): "generator"}

    def prepare(self, batch: Batch) -> Batch:
        """Add the translation and the masks: `clean_*` for the terms that compare, `fake_*` for what judges.

        They differ by speckle, or by the residual.
        """
        self._same_size(batch)
        image, mask = batch[IMAGE[self.read]], batch[MASK[self.read]]
        clean = self._run(self.generator, image, holes(mask)) * mask
        fake = self._speckled(self.generator, clean) * mask
        if self.residual is not None:
            with self._branch():
                fake = clean.detach() + self._run(self.residual, image, holes(mask)) * mask
            fake = fake if self.training else fake.clamp(-1.0, 1.0)
        return batch | {
            f"clean_{self.made}": clean,
            f"fake_{self.made}": fake,
            "mask_both": batch["mask_valid"] * batch["mask_valid_target"],
        }

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Translate, shape (B, C, H, W), model domain, with the residual or the speckle there is."""
        if self.residual is None:
            return super().forward(image, mask)
        made = self._run(self.generator, image, mask) + self._run(self.residual, image, mask)
        return made.clamp(-1.0, 1.0)

    def _branch(self) -> AbstractContextManager[None]:
        """Let the adversarial branch of decoupled learning draw its own random numbers while it learns."""
        return self.stream() if self.training and self.residual is not None else nullcontext()

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Judge the real and the made image, each with the one read: `adversarial`."""
        mask = batch["mask_both"]
        real, fake = (
            torch.cat([batch[IMAGE[self.read]], image], dim=1) * mask
            for image in (batch[IMAGE[self.made]], batch[f"fake_{self.made}"].detach())
        )
        with self._branch():
            on_real, on_fake = self._joined(self.discriminator, [real, fake], [mask, mask])
        counts = logit_mask(mask, on_real)
        return {"adversarial": self.adversarial.discriminator(on_real, on_fake, counts, counts)}

    def generator_terms(self, batch: Batch) -> Terms:
        """Return `adversarial`, and `pixel`, `speckle` and those of the correspondence where they have a weight."""
        mask, clean = batch["mask_both"], batch[f"clean_{self.made}"]
        shown = torch.cat([batch[IMAGE[self.read]], batch[f"fake_{self.made}"]], dim=1) * mask
        with self._branch():
            logits = self._run(self.discriminator, shown, holes(mask))
        terms = {"adversarial": self.adversarial.generator(logits, mask=logit_mask(mask, logits))}
        if self.weights["pixel"] > 0:
            terms["pixel"] = masked_l1(clean, batch[IMAGE[self.made]], mask, trust(batch))
        made = {**{side: batch[key] for side, key in IMAGE.items()}, self.made: clean}
        return terms | self._speckle(batch) | self._corresponding(batch, made["source"], made["target"])

    def extra_state(self) -> dict[str, Any]:
        """Return where the branch's random numbers are."""
        return {} if self.residual is None else {"stream": self.stream.state()}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take them over."""
        self.stream.load(state.get("stream"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which network adds to which."""
        super().on_save_checkpoint(checkpoint)
        if self.residual is not None:
            checkpoint["rsgeo_gan"]["residuals"] = {"generator": "residual"}


def _check_sum(generator: nn.Module, residual: nn.Module) -> None:
    """Refuse a residual that does not add up with its generator; let it begin at zero."""
    noisy = [name for name, network in (("generator", generator), ("residual", residual)) if _noise(network)]
    if noisy:
        raise ValueError(
            f"PairedTranslation: decoupled learning takes networks without noise, but the {noisy[0]} has "
            "noise_channels; set them to 0, or leave the residual out"
        )
    SummedGenerators(generator, start_at_zero(residual))


def _noise(network: nn.Module) -> int:
    return int(getattr(network, "noise_channels", 0) or 0)
