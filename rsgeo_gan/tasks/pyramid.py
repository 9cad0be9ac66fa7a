"""Translation learnt from a single pair of images, coarse to fine.

Reference: Lin et al., 2020, arXiv:2004.04634 (TuiGAN).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from rsgeo_gan.errors import TrainingError
from rsgeo_gan.losses import AdversarialLoss, Wasserstein, interpolated_penalty, masked_l1, total_variation
from rsgeo_gan.models import PyramidDiscriminator, PyramidGenerator
from rsgeo_gan.models.pyramid import Level
from rsgeo_gan.provenance import sides
from rsgeo_gan.tasks.base import Batch, Terms
from rsgeo_gan.tasks.scoring import IMAGE, MASK, TranslationTask, holes

__all__ = ["SinglePairTranslation"]

_LATE_RATE = 0.1
"""Factor of the learning rates late in a scale."""


class SinglePairTranslation(TranslationTask):
    """TuiGAN: two pyramids that translate one scene into another sensor's and back, without using the pairing.

    The scales have equal shares of the epochs, the coarsest first. While one learns, the coarser ones are computed
    without a gradient and do not move; finer ones pass its result on, so that scores and products are whole images
    at any time. Where there are fewer epochs than scales, several scales learn together by the finest of them.

    The literature feeds the whole pair at once. Here a batch is patches of the tiles, whose moments are taken
    together, so memory does not grow with the scene; the batch should hold what the scene holds. Tiles of several
    pairs work as well.

    The literature steps critics and generators three times each for an iteration, 4000 iterations a scale. Here a
    batch is one step of each, so three batches stand for one iteration.

    What is invalid on either side counts in no term and does not reach the critics, whose real and fake share one
    footprint.

    Args:
        generator: Source to target.
        generator_back: Target to source; as many scales and the same factor.
        discriminator: Judges target images, a critic for each scale.
        discriminator_back: Judges source images.
        adversarial: Adversarial objective; Wasserstein when None.
        weights: Weight by term: adversarial 1, penalty (of the critics' slope) 0.1, cycle 1, tv 0.1, and identity 1
            between equal band counts, else 0.
        lr: Learning rate of the generators.
        decay_share: Share of each scale's epochs, at the end, with a tenth of the learning rates.
        more: See `TranslationTask` and `AdversarialTask`.

    Attributes:
        active: Scales that count, the finest of which learns.
        frozen: Scales that do not move any more.

    Raises:
        ValueError: If a weight names no term, identity is asked for between unequal band counts, or the networks
            have different scales.
    """

    default_weights: ClassVar[dict[str, float]] = {
        "adversarial": 1.0,
        "penalty": 0.1,
        "cycle": 1.0,
        "identity": 1.0,
        "tv": 0.1,
    }
    discriminators: ClassVar[tuple[str, ...]] = ("discriminator", "discriminator_back")
    generators: ClassVar[tuple[str, ...]] = ("generator", "generator_back")

    generator: PyramidGenerator
    generator_back: PyramidGenerator
    discriminator: PyramidDiscriminator
    discriminator_back: PyramidDiscriminator
    adversarial: AdversarialLoss

    def __init__(
        self,
        generator: PyramidGenerator,
        generator_back: PyramidGenerator,
        discriminator: PyramidDiscriminator,
        discriminator_back: PyramidDiscriminator,
        adversarial: AdversarialLoss | None = None,
        weights: dict[str, float] | None = None,
        lr: float = 5e-4,
        decay_share: float = 0.6,
        **more: Any,
    ) -> None:
        equal = generator.in_channels == generator.out_channels
        if (weights or {}).get("identity") and not equal:
            raise ValueError(
                "SinglePairTranslation: identity compares a generator's output with its own kind of input, which needs "
                f"equal band counts, got {generator.in_channels} source and {generator.out_channels} target bands; "
                "set weights.identity to 0"
            )
        scales = [network.scales for network in (generator, generator_back, discriminator, discriminator_back)]
        if len(set(scales)) > 1 or generator.factor != generator_back.factor:
            raise ValueError(
                f"SinglePairTranslation: expected networks of equal scales and factor, got {scales} scales and factors "
                f"{float(generator.factor)} and {float(generator_back.factor)}"
            )
        self.parts = {
            "generator": generator,
            "generator_back": generator_back,
            "discriminator": discriminator,
            "discriminator_back": discriminator_back,
            "adversarial": Wasserstein() if adversarial is None else adversarial,
            "correspondence": None,
        }
        self.active, self.frozen = scales[0], 0
        super().__init__(weights={"identity": float(equal), **(weights or {})}, lr=lr, decay_share=decay_share, **more)

    def on_train_start(self) -> None:
        """Bring everything, the scales too, to where the checkpoint left it."""
        if (self.trainer.max_epochs or 0) < 1:
            raise TrainingError(
                f"{type(self).__name__}: scales are learnt one after another, each in its share of the epochs: "
                f"expected a positive trainer.max_epochs, got {self.trainer.max_epochs}."
            )
        super().on_train_start()
        self.grow()

    def on_train_epoch_start(self) -> None:
        """Let the next scale in where its share of the epochs begins."""
        self.grow()

    def grow(self) -> None:
        """Set the active and the frozen scales; both follow from the epoch."""
        self.active, self.frozen = self._scales_at(self._epochs_done())
        for network in (self.generator, self.generator_back):
            network.activate(self.active)

    def _scales_at(self, epoch: int) -> tuple[int, int]:
        """Return the active and the frozen scales of an epoch."""
        scales, total = self.generator.scales, max(1, self.trainer.max_epochs or 1)
        active, before = (min(scales, -(-scales * done // total)) for done in (epoch + 1, epoch))
        return active, min(before, active - 1)

    def schedule(self, epoch: int) -> float:
        """Return the factor of the learning rates in an epoch: 1, then a tenth, in each scale."""
        scales, total = self.generator.scales, max(1, self.trainer.max_epochs or 1)
        first = (self._scales_at(epoch)[0] - 1) * total / scales
        late = epoch >= first + (1 - self.decay_share) * total / scales
        return _LATE_RATE if late else 1.0

    def prepare(self, batch: Batch) -> Batch:
        """Add both translations, both cycles and the masks, all at one scale.

        While training this is the active scale, and images and masks of the batch are replaced by those of this
        scale; else it is the finest.
        """
        self._same_size(batch)
        active, frozen = (self.active, self.frozen) if self.training else (self.generator.scales, 0)
        h, w = batch["image"].shape[-2:]
        ways = {"source": self.generator, "target": self.generator_back}
        levels = {
            side: network.pyramid(batch[IMAGE[side]], holes(batch[MASK[side]]))[:active]
            for side, network in ways.items()
        }
        found: Batch = {}
        for direction in self.ways.values():
            read, made = sides(direction)
            there = _translated(ways[read], levels[read], frozen)
            again = ways[made].refine(there, frozen)
            found |= {f"fake_{made}": there[-1].image, f"cycle_{read}": again[-1]}
            if self.training and self.weights["identity"] > 0:
                found[f"same_{made}"] = ways[read].refine(levels[made], frozen)[-1]
        for side in ways:
            image, mask = levels[side][-1]
            found |= {IMAGE[side]: image, MASK[side]: torch.ones_like(image[:, :1]) if mask is None else mask}
        found["mask_both"] = found["mask_valid"] * found["mask_valid_target"]
        return batch | {name: value[..., :h, :w] for name, value in found.items()}

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Judge real and fake of both sides: `adversarial` and `penalty`, summed over the sides."""
        mask, found = batch["mask_both"], []
        for network, side in ((self.discriminator, "target"), (self.discriminator_back, "source")):
            real, fake = batch[IMAGE[side]] * mask, batch[f"fake_{side}"].detach() * mask

            def judge(image: Tensor, network: PyramidDiscriminator = network) -> Tensor:
                return network(image, mask, self.active - 1) * mask

            terms = {
                "adversarial": self.adversarial.discriminator(judge(real), judge(fake), mask, mask),
                "penalty": interpolated_penalty(real, fake, judge, mask),
            }
            found.append(terms)
        return _summed(found)

    def generator_terms(self, batch: Batch) -> Terms:
        """Return `adversarial`, `cycle`, `tv`, and `identity` where it has a weight, summed over the sides."""
        both, found = batch["mask_both"], []
        for network, side, other in (
            (self.discriminator, "target", "source"),
            (self.discriminator_back, "source", "target"),
        ):
            fake, real, mask = batch[f"fake_{side}"], batch[IMAGE[side]], batch[MASK[side]]
            terms = {
                "adversarial": self.adversarial.generator(network(fake * both, both, self.active - 1), mask=both),
                "cycle": masked_l1(batch[f"cycle_{side}"], real, mask),
                "tv": total_variation(fake, batch[MASK[other]]),
            }
            if self.weights["identity"] > 0:
                terms["identity"] = masked_l1(batch[f"same_{side}"], real, mask)
            found.append(terms)
        return _summed(found)


def _summed(sides_terms: Sequence[Terms]) -> Terms:
    """Add up the terms of both sides by name."""
    return {name: torch.stack([terms[name] for terms in sides_terms]).sum() for name in sides_terms[0]}


def _translated(network: PyramidGenerator, levels: Sequence[Level], frozen: int) -> list[Level]:
    """Translate the levels of a pyramid, which stay invalid where they were."""
    made = network.refine(levels, frozen)
    return [Level(image if mask is None else image * mask, mask) for image, (_, mask) in zip(made, levels, strict=True)]
