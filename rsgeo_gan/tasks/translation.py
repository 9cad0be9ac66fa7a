"""Translation between two sensors from pairs that are only roughly aligned.

Reference: Zhu et al., 2017, arXiv:1703.10593 (cycle consistency), with the shift-insensitive pair loss of
Qing et al. as an injected correspondence term.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from rsgeo_gan.losses import AdversarialLoss, Correspondence, LeastSquares, masked_l1
from rsgeo_gan.models import logit_mask
from rsgeo_gan.tasks.base import Batch, Terms
from rsgeo_gan.tasks.pool import ImagePool
from rsgeo_gan.tasks.scoring import TranslationTask, holes

__all__ = ["CycleTranslation"]


class CycleTranslation(TranslationTask):
    """CycleGAN between source and target, with an optional term that uses the pairing.

    A step runs each generator on each input once: both translations and both cycles, four passes in three calls. What
    is invalid on either side counts in no term and does not reach the discriminators, whose real and fake share one
    footprint, so that missing data is no cue.

    Args:
        generator: Source to target, (B, C, H, W) to (B, C', H, W), model domain.
        generator_back: Target to source.
        discriminator: Judges target images, logits (B, 1, h, w).
        discriminator_back: Judges source images.
        adversarial: Adversarial objective; least squares when None.
        correspondence: Term that ties a translation to the image it is paired with, such as `PairLoss`; none when
            None.
        weights: Weight by term: adversarial 1, cycle 10, pair 1, identity 0, speckle 1 (of generators with noise).
        pool_size: Earlier fakes kept for the discriminators; 0 uses the newest only.
        more: See `TranslationTask` and `AdversarialTask`.

    Raises:
        ValueError: If a weight names no term, or identity is asked for between unequal band counts.
    """

    default_weights: ClassVar[dict[str, float]] = {
        "adversarial": 1.0,
        "cycle": 10.0,
        "pair": 1.0,
        "identity": 0.0,
        "speckle": 1.0,
    }
    discriminators: ClassVar[tuple[str, ...]] = ("discriminator", "discriminator_back")
    generators: ClassVar[tuple[str, ...]] = ("generator", "generator_back", "correspondence")

    generator_back: nn.Module
    discriminator: nn.Module
    discriminator_back: nn.Module
    adversarial: AdversarialLoss

    def __init__(
        self,
        generator: nn.Module,
        generator_back: nn.Module,
        discriminator: nn.Module,
        discriminator_back: nn.Module,
        adversarial: AdversarialLoss | None = None,
        correspondence: Correspondence | None = None,
        weights: dict[str, float] | None = None,
        pool_size: int = 50,
        **more: Any,
    ) -> None:
        bands = [getattr(generator, name, None) for name in ("in_channels", "out_channels")]
        if (weights or {}).get("identity") and bands[0] != bands[1]:
            raise ValueError(
                "CycleTranslation: identity compares a generator's output with its own kind of input, which needs "
                f"equal band counts, got {bands[0]} source and {bands[1]} target bands; set weights.identity to 0"
            )
        self.parts = {
            "generator": generator,
            "generator_back": generator_back,
            "discriminator": discriminator,
            "discriminator_back": discriminator_back,
            "adversarial": LeastSquares() if adversarial is None else adversarial,
            "correspondence": correspondence,
        }
        self.pools = (ImagePool(pool_size), ImagePool(pool_size))
        super().__init__(weights=weights, **more)

    def prepare(self, batch: Batch) -> Batch:
        """Add both translations, both cycles and the masks; four generator passes.

        Translations come twice: `clean_*` without speckle, for the terms that compare pixels or features, which
        would only learn to suppress it, and `fake_*` with speckle, which the discriminators and the scores see.
        """
        source, target = batch["image"], batch["image_target"]
        self._same_size(batch)
        mask_source, mask_target = batch["mask_valid"], batch["mask_valid_target"]
        identity = self.weights["identity"] > 0
        clean_source = self._run(self.generator_back, target, holes(mask_target)) * mask_target
        forth = self._joined(
            self.generator,
            [source, clean_source, *([target] if identity else [])],
            [mask_source, mask_target, *([mask_target] if identity else [])],
        )
        clean_target = forth[0] * mask_source
        back = self._joined(
            self.generator_back,
            [clean_target, *([source] if identity else [])],
            [mask_source, *([mask_source] if identity else [])],
        )
        batch |= {
            "clean_source": clean_source,
            "clean_target": clean_target,
            "fake_source": self._speckled(self.generator_back, clean_source) * mask_target,
            "fake_target": self._speckled(self.generator, clean_target) * mask_source,
            "cycle_target": forth[1],
            "cycle_source": back[0],
            "mask_both": mask_source * mask_target,
        }
        if identity:
            batch |= {"same_target": forth[2], "same_source": back[1]}
        return batch

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Judge real and fake of both sides: `adversarial`, summed over the sides."""
        mask = batch["mask_both"]
        total = torch.zeros((), device=mask.device)
        for network, pool, real, fake in (
            (self.discriminator, self.pools[0], batch["image_target"], batch["fake_target"]),
            (self.discriminator_back, self.pools[1], batch["image"], batch["fake_source"]),
        ):
            # An older fake brings its own footprint along, as one more channel.
            kept = pool(torch.cat([fake.detach() * mask, mask], dim=1))
            shown, mask_fake = kept[:, :-1], kept[:, -1:]
            on_real, on_fake = self._joined(network, [real * mask, shown.to(real.dtype)], [mask, mask_fake])
            total = total + self.adversarial.discriminator(
                on_real, on_fake, logit_mask(mask, on_real), logit_mask(mask_fake, on_fake)
            )
        return {"adversarial": total}

    def generator_terms(self, batch: Batch) -> Terms:
        """Return `adversarial`, `cycle`, and `pair`, `speckle` and `identity` where they have a weight."""
        mask_source, mask_target, mask = batch["mask_valid"], batch["mask_valid_target"], batch["mask_both"]
        source, target = batch["image"], batch["image_target"]
        adversarial = torch.zeros((), device=mask.device)
        for network, fake in (
            (self.discriminator, batch["fake_target"]),
            (self.discriminator_back, batch["fake_source"]),
        ):
            logits = self._run(network, fake * mask, holes(mask))
            adversarial = adversarial + self.adversarial.generator(logits, mask=logit_mask(mask, logits))
        terms = {
            "adversarial": adversarial,
            "cycle": masked_l1(batch["cycle_source"], source, mask_source)
            + masked_l1(batch["cycle_target"], target, mask_target),
        }
        if self.weights["identity"] > 0:
            terms["identity"] = masked_l1(batch["same_source"], source, mask_source) + masked_l1(
                batch["same_target"], target, mask_target
            )
        return terms | self._speckle(batch) | self._corresponding(batch, batch["clean_source"], batch["clean_target"])

    def extra_state(self) -> dict[str, Any]:
        """Return the histories of fakes."""
        return {"pools": [pool.state() for pool in self.pools]}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take the histories over."""
        for pool, kept in zip(self.pools, state["pools"], strict=True):
            pool.load(kept)

    def _score(self, batch: Batch, stage: str) -> Batch:
        batch = super()._score(batch, stage)
        cycle = masked_l1(batch["cycle_source"], batch["image"], batch["mask_valid"])
        self._log_mean(f"{stage}/cycle_l1", cycle, len(batch["image"]))
        return batch
