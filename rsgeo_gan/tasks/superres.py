"""Super-resolution from pairs of a coarse and a fine image: regression, an adversarial pair, or both decoupled.

References: Dong et al., 2014, arXiv:1501.00092 (SRCNN); Ledig et al., 2017, arXiv:1609.04802 (SRResNet, SRGAN); Wang et
al., 2018, arXiv:1809.00219 (ESRGAN); Zhang et al., 2018, arXiv:1801.06790 (decoupled learning).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from rsgeo_gan.losses import AdversarialLoss, NonSaturating, masked_l1, masked_mean, spectral_angle_loss
from rsgeo_gan.metrics import low_pass_share
from rsgeo_gan.models import SummedResolvers, start_at_zero
from rsgeo_gan.tasks.base import Batch, Terms
from rsgeo_gan.tasks.contest import JudgedSharpening, counts_of
from rsgeo_gan.tasks.measuring import fit_features
from rsgeo_gan.tasks.randomness import Stream
from rsgeo_gan.tasks.scoring import Channels

__all__ = ["Norm", "SuperResolution"]

Norm = Literal["l1", "l2"]

_DECOUPLED = 1.0
"""Weight of the adversarial term where it shares no network with another; under Adam hardly any other differs."""
_DROP = 0.1


class SuperResolution(JudgedSharpening):
    """Make an image of finer pixels, `scale` of them along one of the image read.

    Without a discriminator the network is trained by comparison alone, which is the most accurate and a blurred answer.
    With one, terms that reward texture stand beside it. What is invalid on either side counts in no term, and real and
    made images reach the discriminator with one footprint.

    With a residual network the two kinds of terms are decoupled: the generator learns from the terms that compare
    pixel by pixel (pixel, spectral), the residual, a whole second network that reads the same image, from those that
    reward texture (perceptual, adversarial), and their sum is what is judged, scored and written; a generator with a
    low-frequency constraint imposes it on the sum too. Neither gradient reaches the other network, the residual is a
    parameter group of its own, and the adversarial branch draws its own random numbers, so what the generator learns
    is the same, bit for bit, whatever the branch does.

    Nothing is limited to [-1, 1], because a limit would undo the constraint.

    Args:
        generator: From a coarse to a fine image, (B, C, h, w) to (B, C', s · h, s · w), model domain.
        discriminator: Judges fine images, logits (B, 1, h, w) or (B, 1); regression only when None.
        perceptual: Distance of made image and truth in features, called with both and their mask; none when None.
            Features that still have to be standardised are, on the truth of the first batch that has valid pixels; of
            several processes all take what the first one has measured.
        adversarial: Adversarial objective; the non-saturating one when None.
        weights: Weight by term: pixel 1, perceptual 1, spectral 0 (mean spectral angle, radians, of two bands and more
            in reflectance), adversarial 0.001, or 1 with a residual; of the discriminator, discrimination 1, r1 and r2
            0 (gamma of the literature), penalty 0 (of WGAN-GP, 10 in the literature).
        residual: Second network, for decoupled learning, of the same bands and scale; its output layer is set to zero
            at the start. None ties all terms to the one network.
        conditional: Let the discriminator see the image read beside the fine one, enlarged by bicubic interpolation.
        norm: Of the pixel term, mean absolute or mean squared difference.
        plain_epochs: Epochs at the start without perceptual and adversarial terms, and without a discriminator's step.
        discriminator_steps: Steps of the discriminator for each of the generator, all on the fakes of the batch; the
            last one is made from the same state as the generator's.
        penalty_every: Batches between two evaluations of r1 and r2, which then have as many times their weight.
        drop_at: Share of the epochs after which learning rates are a tenth; no drop when None.
        betas: Adam's two decay rates.
        decay_share: See `AdversarialTask`; 0 here.
        more: See `AdversarialTask`.

    Raises:
        ValueError: If a weight names no term, a number is out of range, or networks do not belong together.
    """

    default_weights: ClassVar[dict[str, float]] = {
        "pixel": 1.0,
        "perceptual": 1.0,
        "spectral": 0.0,
        "adversarial": 1e-3,
        "discrimination": 1.0,
        "r1": 0.0,
        "r2": 0.0,
        "penalty": 0.0,
    }
    generators: ClassVar[tuple[str, ...]] = ("generator", "residual")
    apart: ClassVar[tuple[str, ...]] = ("residual",)
    compares: ClassVar[str] = "pixel"
    """Name of the term that compares pixels."""

    residual: nn.Module | None
    perceptual: nn.Module | None

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module | None = None,
        perceptual: nn.Module | None = None,
        adversarial: AdversarialLoss | None = None,
        weights: dict[str, float] | None = None,
        residual: nn.Module | None = None,
        conditional: bool = False,
        norm: Norm = "l1",
        plain_epochs: int = 0,
        discriminator_steps: int = 1,
        penalty_every: int = 1,
        drop_at: float | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
        decay_share: float = 0.0,
        **more: Any,
    ) -> None:
        name = type(self).__name__
        if norm not in get_args(Norm):
            raise ValueError(f"{name}: expected a norm out of {get_args(Norm)}, got {norm!r}")
        if plain_epochs < 0 or discriminator_steps < 1 or penalty_every < 1:
            raise ValueError(
                f"{name}: expected plain_epochs >= 0, discriminator_steps >= 1 and penalty_every >= 1, got "
                f"{plain_epochs}, {discriminator_steps} and {penalty_every}"
            )
        if drop_at is not None and not 0 < drop_at < 1:
            raise ValueError(f"{name}: expected drop_at between 0 and 1, or none, got {drop_at}")
        if discriminator_steps > 1 and int(more.get("accumulate", 1)) > 1:
            raise ValueError(f"{name}: discriminator_steps above 1 and accumulate above 1 exclude each other")
        if residual is not None:
            _check_sum(name, generator, residual, discriminator)
            weights = {"adversarial": _DECOUPLED, **(weights or {})}
        self.conditional = conditional
        self.norm = norm
        self.plain_epochs = plain_epochs
        self.discriminator_steps = discriminator_steps
        self.penalty_every = penalty_every
        self.drop_at = drop_at
        self.parts = {
            "generator": generator,
            "residual": residual,
            "discriminator": discriminator,
            "perceptual": perceptual,
            "adversarial": NonSaturating() if adversarial is None else adversarial,
        }
        super().__init__(weights=weights, betas=betas, decay_share=decay_share, **more)
        self.stream = Stream()
        self._standardised = False

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> Channels:
        """Return which side's bands each network takes and gives, and which have the scale."""
        own = super().channels(arguments)["generator"]
        judged = ("source", "target") if arguments.get("conditional") else ("target",)
        parts: dict[str, Mapping[str, tuple[str, ...]]] = {
            "generator": own,
            "residual": own,
            "discriminator": {"in_channels": judged},
            "perceptual.backend": {"in_channels": ("target",)},
        }
        return {name: of for name, of in parts.items() if arguments.get(name.split(".")[0]) is not None}

    def schedule(self, epoch: int) -> float:
        """Return the factor of the learning rates in an epoch: rise, plateau, drop or fall."""
        total = self.trainer.max_epochs or 0
        dropped = self.drop_at is not None and total > 0 and epoch >= round(self.drop_at * total)
        return super().schedule(epoch) * (_DROP if dropped else 1.0)

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Make the finer image, shape (B, C', s · h, s · w), model domain, with the residual there is."""
        made = self._run(self.generator, low, mask)
        if self.residual is None:
            return made
        return self._joined(made, self._run(self.residual, low, mask), low, mask)

    def prepare(self, batch: Batch) -> Batch:
        """Add `clean`, what the generator made, `made`, what is judged, and `mask_both`; once a batch."""
        if "made" in batch:
            return batch
        both, low, mask = self._sized(batch), batch["image"], batch["mask_valid"]
        clean = made = self._run(self.generator, low, mask)
        if self.residual is not None:
            with self._branch():
                added = self._run(self.residual, low, mask)
            made = self._joined(clean.detach(), added, low, mask)
        return batch | {"clean": clean, "made": made, "mask_both": both}

    def _joined(self, made: Tensor, added: Tensor, low: Tensor, mask: Tensor | None) -> Tensor:
        assert self.residual is not None
        return SummedResolvers.join(made, added, low, mask, self.generator, self.residual)

    def _branch(self) -> AbstractContextManager[None]:
        """Let the adversarial branch of decoupled learning draw its own random numbers while it learns."""
        return self.stream() if self.training and self.residual is not None else nullcontext()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Standardise features as long as they are not, then learn."""
        if not self._standardised:
            self._standardised = self._fit_features(batch)
        super().training_step(batch, batch_idx)

    @torch.no_grad()
    def _fit_features(self, batch: Batch) -> bool:
        """Standardise features that are not yet, on the truth of a batch; the checkpoint keeps that."""
        return fit_features(self.perceptual, batch["image_target"], batch["mask_valid_target"])

    def generator_terms(self, batch: Batch) -> Terms:
        """Return `pixel`, and `spectral`, `perceptual` and `adversarial` where they have a weight and a network."""
        clean, true, mask = batch["clean"], batch["image_target"], batch["mask_both"]
        terms = {self.compares: self._compared(clean, true, mask)}
        if self.weights["spectral"] > 0:
            terms["spectral"] = self._angle(clean, true, mask)
        if self._plain():
            return terms
        if self.perceptual is not None and self.weights["perceptual"] > 0:
            terms["perceptual"] = self.perceptual(batch["made"], true, mask)
        if self._judges():
            with self._branch():
                logits, real = self._judged(self._shown(batch["made"], batch), mask), None
                if self.adversarial.relativistic:
                    with torch.no_grad():
                        real = self._judged(self._shown(true, batch), mask)
            terms["adversarial"] = self.adversarial.generator(logits, real, counts_of(mask, logits))
        return terms

    def _compared(self, made: Tensor, true: Tensor, mask: Tensor) -> Tensor:
        if self.norm == "l1":
            return masked_l1(made, true, mask)
        return masked_mean(torch.where(mask > 0, made.float() - true.float(), 0.0).square(), mask)

    def _angle(self, made: Tensor, true: Tensor, mask: Tensor) -> Tensor:
        """Mean angle between spectra in physical units, radians; blind to brightness."""
        scaler = self._scaler("target")
        if scaler is None or made.shape[1] < 2:
            raise ValueError(
                f"{type(self).__name__}: the term spectral needs two bands or more and a data module that tells their "
                f"units, got {made.shape[1]} bands and {'no' if scaler is None else 'a'} scaler; set its weight to 0"
            )
        gain, bias = (torch.from_numpy(part)[:, None, None].to(made) for part in (scaler.gain, scaler.bias))
        return spectral_angle_loss((made.float() - bias) / gain, (true.float() - bias) / gain, mask)

    def _more_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Return how much of a residual repeats the work of the generator."""
        if self.residual is None:
            return {}
        return {"low_pass_share": low_pass_share(batch["made"] - batch["clean"], batch["clean"])}

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return finer images, model domain, and the tiles they belong to."""
        return {"prediction": self(batch["image"], batch["mask_valid"]).float(), "tile": batch["tile"]}

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


def _check_sum(name: str, generator: nn.Module, residual: nn.Module, discriminator: nn.Module | None) -> None:
    """Refuse a residual that nothing trains or that does not add up; let it begin at zero."""
    if discriminator is None:
        raise ValueError(
            f"{name}: a residual learns from a discriminator, but there is none; give one, or leave it out"
        )
    SummedResolvers(generator, start_at_zero(residual))
