"""Super-resolution that takes texture over from sharp images of the same place.

Reference: Zhang et al., 2019, arXiv:1903.00834 (SRNTT), with the order of updates, the sign of the weight and the
schedule stated here rather than those of its published program.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from rsgeo_gan.losses import texture_loss
from rsgeo_gan.tasks.base import Batch, Terms
from rsgeo_gan.tasks.measuring import agree, fit_features
from rsgeo_gan.tasks.scoring import Channels
from rsgeo_gan.tasks.superres import SuperResolution

__all__ = ["ReferenceSuperResolution"]

log = logging.getLogger(__name__)

_TURNS = 3
"""Other samples whose references are shown to a sample to learn how alike unrelated places look."""


class ReferenceSuperResolution(SuperResolution):
    """Make an image of finer pixels with the texture of reference images where they show the same.

    A training has up to three parts, in epochs: the content network, under the constraint there is, learns from pixels
    (`content_epochs`; none for one that is trained already); then, with the content frozen, what transfers texture
    learns from pixels (`plain_epochs`); then all terms count.

    The features that are matched are standardised on the truth of the first batch, and the similarity at which the gate
    begins to open is measured there, or on the first one that has references, between samples and the references of
    others, which are of unrelated places.

    A tile whose references are missing keeps its content, as do places that no reference resembles.

    Args:
        generator: See `rsgeo_gan.models.TextureTransfer`; a constraint is its own argument `form`.
        discriminator: See `SuperResolution`.
        perceptual: See `SuperResolution`.
        adversarial: See `SuperResolution`.
        weights: Weight by term: reconstruction 1, texture 0.005 (distance of Gram matrices to the texture that was
            found, where the gate is open), perceptual 0.005, spectral 0, adversarial 0.001; of the discriminator as in
            `SuperResolution`.
        content_epochs: Epochs at the start in which the content network learns.
        plain_epochs: Epochs after those with the image compared only.
        asymmetric: Weight the made image's texture only, as the paper prints the texture term.
        truth_share: Share of the samples of a training that are shown their own truth in the place of their first
            reference, 0 to 1. Where all references are poor, the network would else never learn to use a good one.
            The published program shows every batch both ways.
        more: See `SuperResolution`; there is no residual.

    Raises:
        ValueError: If a weight names no term, a number is out of range, or the generator takes no references.
    """

    default_weights: ClassVar[dict[str, float]] = {
        "reconstruction": 1.0,
        "texture": 0.005,
        "perceptual": 0.005,
        "spectral": 0.0,
        "adversarial": 1e-3,
        "discrimination": 1.0,
        "r1": 0.0,
        "r2": 0.0,
        "penalty": 0.0,
    }
    generators: ClassVar[tuple[str, ...]] = ("generator",)
    apart: ClassVar[tuple[str, ...]] = ()
    compares: ClassVar[str] = "reconstruction"

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module | None = None,
        perceptual: nn.Module | None = None,
        weights: dict[str, float] | None = None,
        content_epochs: int = 0,
        plain_epochs: int = 0,
        asymmetric: bool = False,
        truth_share: float = 0.25,
        **more: Any,
    ) -> None:
        if more.get("residual") is not None:
            raise ValueError("ReferenceSuperResolution: texture is transferred by one network; leave the residual out")
        if not hasattr(generator, "transfer"):
            raise ValueError(
                f"ReferenceSuperResolution: {type(generator).__name__} takes no references (it has no `transfer`); use "
                "rsgeo_gan.models.TextureTransfer, or the task SuperResolution"
            )
        if content_epochs < 0:
            raise ValueError(f"ReferenceSuperResolution: expected content_epochs >= 0, got {content_epochs}")
        if not 0 <= truth_share <= 1:
            raise ValueError(f"ReferenceSuperResolution: expected truth_share from 0 to 1, got {truth_share}")
        self.content_epochs = content_epochs
        self.truth_share = truth_share
        self.asymmetric = asymmetric
        if content_epochs:
            # Parameters that are to learn at any time must be known to the optimiser from the beginning.
            cast(nn.Module, generator.content).requires_grad_(True)
        super().__init__(generator, discriminator, perceptual, weights=weights, plain_epochs=plain_epochs, **more)

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> Channels:
        """Return also how many bands the features that are matched see."""
        return {**super().channels(arguments), "generator.features": {"in_channels": ("common",)}}

    def setup(self, stage: str) -> None:
        """See also that there are references to learn from.

        Raises:
            ValueError: If the data have none, or networks do not fit them.
        """
        super().setup(stage)
        if stage == "fit" and self.facts and "reference" not in self.facts:
            raise ValueError(
                "ReferenceSuperResolution: expected tiles with references, got none; set data.references to 1 or more, "
                "collect tiles with references, or use the task SuperResolution"
            )

    def on_train_start(self) -> None:
        """Begin where the checkpoint says, also within an epoch."""
        super().on_train_start()
        if 0 < (self.trainer.max_epochs or 0) <= self.content_epochs:
            log.warning(
                "content_epochs is %d and max_epochs %d: only the content network learns, nothing of references",
                self.content_epochs,
                self.trainer.max_epochs,
            )
        self.on_train_epoch_start()

    def on_train_epoch_start(self) -> None:
        """Let the content learn in its epochs, and freeze it after them."""
        if self.content_epochs:
            learns = self._learns_content()
            cast(nn.Module, self.generator.content).requires_grad_(learns).train(learns)

    def _learns_content(self) -> bool:
        return self.training and self.current_epoch < self.content_epochs

    def _plain(self) -> bool:
        return self.training and self.current_epoch < self.content_epochs + self.plain_epochs

    def forward(  # type: ignore[override]  # the order of `TextureTransfer`
        self,
        low: Tensor,
        reference: Tensor | None = None,
        mask: Tensor | None = None,
        mask_reference: Tensor | None = None,
    ) -> Tensor:
        """Make the finer image, (B, C', s · h, s · w), with references (B, R, Cr, s · h, s · w) if there are any."""
        if reference is None:
            reference, mask_reference = self._nothing(low)
        made: Tensor = self.generator(low, reference, mask=mask, mask_reference=mask_reference)
        return made

    def prepare(self, batch: Batch) -> Batch:
        """Add `clean` and `made`, which are one image here, `mask_both`, and what was `found` in the references."""
        if "made" in batch:
            return batch
        both, low, mask = self._sized(batch), batch["image"], batch["mask_valid"]
        if self._learns_content():
            made = self.generator.alone(low, mask)  # type: ignore[operator]
            return batch | {"clean": made, "made": made, "mask_both": both}
        found = self._transferred(self._with_truth(batch))
        return batch | {"clean": found.image, "made": found.image, "mask_both": both, "found": found}

    def _transferred(self, batch: Batch) -> Any:
        reference, mask_reference = self._references(batch)
        generator: Any = self.generator
        return generator.transfer(
            batch["image"], reference, mask=batch.get("mask_valid"), mask_reference=mask_reference
        )

    def _with_truth(self, batch: Batch) -> Batch:
        """Show a share of the samples their own truth as the first reference, while the network learns."""
        if not (self.training and self.truth_share):
            return batch
        reference, seen = (part.clone() for part in self._references(batch))
        chosen = torch.rand(len(reference)) < self.truth_share
        for mine, other in cast(Any, self.generator).common:
            reference[chosen, 0, other] = batch["image_target"][chosen, mine].to(reference)
        seen[chosen, 0] = batch["mask_valid_target"][chosen, 0].to(seen)
        return batch | {"image_reference": reference.flatten(1, 2), "mask_reference": seen}

    def _references(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the references of a batch, (B, R, Cr, s · h, s · w), and their validity, (B, R, s · h, s · w)."""
        stacked, masks = batch.get("image_reference"), batch.get("mask_reference")
        if stacked is None or masks is None:
            return self._nothing(batch["image"])
        return stacked.unflatten(1, (masks.shape[1], -1)), masks

    def _nothing(self, low: Tensor) -> tuple[Tensor, Tensor]:
        """Return a reference that shows nothing anywhere."""
        bands = len((self.facts.get("reference") or {}).get("bands", ()))
        bands = bands or 1 + max((other for _, other in getattr(self.generator, "common", ())), default=0)
        sides = [length * self.scale for length in low.shape[-2:]]
        return low.new_zeros(len(low), 1, bands, *sides), low.new_zeros(len(low), 1, *sides)

    @torch.no_grad()
    def _fit_features(self, batch: Batch) -> bool:
        """Standardise features on the truth of a batch, and measure how alike unrelated places look to them."""
        done, network = super()._fit_features(batch), cast(Any, self.generator)
        shown = [mine for mine, _ in network.common]
        if not fit_features(network.features, batch["image_target"][:, shown], batch["mask_valid_target"]):
            return False
        if not network.calibrated:
            low, mask = batch["image"], batch["mask_valid"]
            reference, mask_reference = self._references(batch)
            others = [
                tuple(_elsewhere(part, turn) for part in (reference, mask_reference))
                for turn in range(1, 1 + min(_TURNS, max(1, len(low) - 1)))
            ]
            network.calibrate(
                low.repeat(len(others), 1, 1, 1),
                torch.cat([image for image, _ in others]),
                mask.repeat(len(others), 1, 1, 1),
                torch.cat([seen for _, seen in others]),
            )
            return agree(network.calibrated, (network.floor, network.calibrated_on)) and done
        return done

    def generator_terms(self, batch: Batch) -> Terms:
        """Return the terms of `SuperResolution`, pixels as `reconstruction`, and `texture` where it has a weight."""
        terms = super().generator_terms(batch)
        if self.weights["texture"] > 0 and not self._plain():
            found, network = batch["found"], cast(Any, self.generator)
            made = network.textures(batch["made"], batch["mask_both"])
            trust = network.trusted(found.gate, batch["mask_both"])
            terms["texture"] = texture_loss(made, found.maps, trust, asymmetric=self.asymmetric)
        return terms

    def _more_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Return how alike the references were found to be, how far the gate opened, and PSNR without references."""
        found, mask = batch.get("found"), batch["mask_valid"]
        if found is None:
            return {}
        total = mask.sum(dim=(1, 2, 3))
        means = {name: (getattr(found, name) * mask).sum(dim=(1, 2, 3)) / total for name in ("similarity", "gate")}
        alone = cast(Any, self.generator).alone(batch["image"], mask).float()
        return {**means, "content_psnr": self._scores_of(alone, batch, batch["mask_both"])["psnr"]}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return finer images, model domain, their tiles, and the maps `similarity` and `gate`, (B, 1, h, w)."""
        found = self._transferred(batch)
        return {
            "prediction": found.image.float(),
            "similarity": found.similarity,
            "gate": found.gate,
            "tile": batch["tile"],
        }


def _elsewhere(part: Tensor, turn: int) -> Tensor:
    """Return the references of other samples; of a single sample, its own half a turn round."""
    return part.roll(turn, dims=0) if len(part) > 1 else torch.rot90(part, 2, (-2, -1))
