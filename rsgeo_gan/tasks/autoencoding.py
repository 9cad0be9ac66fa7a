"""Conditional auto-encoder whose images are also judged: tied to one generator, or decoupled into two.

References: Zhang et al., 2017, arXiv:1702.08423 (CAAE); Zhang et al., 2018, arXiv:1801.06790 (decoupled learning).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn

from rsgeo_gan.conditions import Conditions
from rsgeo_gan.losses import AdversarialLoss, NonSaturating, masked_l1, r1, total_variation
from rsgeo_gan.metrics import FeatureBackend, feature_cosine, low_pass_share, out_of_range, ssim
from rsgeo_gan.models import start_at_zero
from rsgeo_gan.tasks.base import Batch, Terms
from rsgeo_gan.tasks.generation import GenerationTask
from rsgeo_gan.tasks.judging import Judge
from rsgeo_gan.tasks.noise import sample_noise
from rsgeo_gan.tasks.pictures import picture, show
from rsgeo_gan.tasks.randomness import Stream
from rsgeo_gan.tasks.scoring import Channels
from rsgeo_gan.tasks.stepping import batches_planned

__all__ = ["ConditionalAutoencoding", "Mode"]

Mode = Literal["tied", "decoupled", "none"]

_ADVERSARIAL = {"tied": 1e-4, "decoupled": 1.0, "none": 0.0}
"""Weight of the image's adversarial term beside a reconstruction of weight 1."""
_MODEL_RANGE = 2.0
_SHOWN = 4
_STEPS = 5
"""Values of a condition that a picture of a walk shows."""


class ConditionalAutoencoding(GenerationTask):
    """Encode a place, decode it under any condition, and have both code and image judged.

    *Tied*, one generator is to reconstruct and to convince: the weight of the adversarial term decides between blur and
    artefacts. *Decoupled*, the generator only reconstructs, and a residual one, which reads the same code, adds what
    convinces: `made = stopgrad(reconstruction) + residual(stopgrad(code), condition)`. Neither gradient reaches the
    other side, the parameters of the residual and of the code's discriminator are groups of their own, and the
    adversarial branch draws its own random numbers; the reconstruction is the same, bit for bit, whatever the branch
    does. With *none* it is an auto-encoder.

    The sum may leave [-1, 1], which real images do not. It is limited where it is scored or written, not where it is
    judged in training; `val/out_of_range` tells how much of it there is.

    Discriminators have terms of their own, so the weight of an adversarial term scales what reaches encoder, generator
    or residual only. Terms whose weight is 0 are not computed, nor is the discriminator they need trained. What is
    invalid counts in no term; real and made images reach the discriminator with one footprint.

    Args:
        encoder: Image to code, see `rsgeo_gan.models.Encoder`.
        generator: Code and condition to image, see `rsgeo_gan.models.ImageDecoder`.
        discriminator: Judges images under conditions, logits (B, 1).
        discriminator_z: Judges codes against draws of the generator's prior.
        residual: Second decoder, for decoupled learning; its output is set to zero at the start.
        mode: How reconstruction and adversarial term share the work.
        adversarial: Adversarial objective; the non-saturating one when None.
        weights: Weight by term: reconstruction 1 (L1), tv 0 (squared differences of neighbours in the reconstruction),
            adversarial 0.0001 tied and 1 decoupled, adversarial_z 0 (how much the encoder is to follow the prior);
            of the discriminators, discrimination 1, discrimination_z 1 and r1 1, which is the gamma of the literature.
        quiet_share: Share of all batches at the start in which the adversarial terms have no weight for encoder and
            generator, because reconstruction comes first. The residual need not wait.
        ramp_share: Share of all batches over which these weights then rise.
        r1_every: Batches between two evaluations of r1, which then has as many times its weight.
        backend: Feature network of the scores, ready for use; a random one, standardised on the first validation, when
            None.
        betas: Adam's two decay rates.
        more: See `AdversarialTask`.

    Raises:
        ValueError: If a weight names no term, a network is missing or superfluous for the mode, or networks do not
            belong together.
    """

    default_weights: ClassVar[dict[str, float]] = {
        "reconstruction": 1.0,
        "tv": 0.0,
        "adversarial": 1.0,
        "adversarial_z": 0.0,
        "discrimination": 1.0,
        "discrimination_z": 1.0,
        "r1": 1.0,
    }
    discriminators: ClassVar[tuple[str, ...]] = ("discriminator", "discriminator_z")
    generators: ClassVar[tuple[str, ...]] = ("encoder", "generator", "residual")
    apart: ClassVar[tuple[str, ...]] = ("residual", "discriminator_z")

    encoder: nn.Module
    residual: nn.Module | None
    discriminator: nn.Module | None  # type: ignore[assignment]
    discriminator_z: nn.Module | None
    adversarial: AdversarialLoss

    def __init__(
        self,
        encoder: nn.Module,
        generator: nn.Module,
        discriminator: nn.Module | None = None,
        discriminator_z: nn.Module | None = None,
        residual: nn.Module | None = None,
        mode: Mode = "decoupled",
        adversarial: AdversarialLoss | None = None,
        weights: dict[str, float] | None = None,
        quiet_share: float = 0.1,
        ramp_share: float = 0.1,
        r1_every: int = 1,
        backend: nn.Module | None = None,
        betas: tuple[float, float] = (0.5, 0.999),
        **more: Any,
    ) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"ConditionalAutoencoding: expected a mode out of {get_args(Mode)}, got {mode!r}")
        if min(quiet_share, ramp_share) < 0 or quiet_share + ramp_share > 1 or r1_every < 1:
            raise ValueError(
                "ConditionalAutoencoding: expected quiet_share and ramp_share >= 0, at most 1 together, and "
                f"r1_every >= 1, got {quiet_share}, {ramp_share} and {r1_every}"
            )
        weights = {"adversarial": _ADVERSARIAL[mode], **(weights or {})}
        _check_parts(mode, {**self.default_weights, **weights}, discriminator, discriminator_z, residual)
        _check_together(encoder, generator, discriminator, discriminator_z, residual)
        self.sharing = mode
        self.quiet_share = quiet_share
        self.ramp_share = ramp_share
        self.r1_every = r1_every
        self.parts = {
            "encoder": encoder,
            "generator": generator,
            "residual": None if residual is None else start_at_zero(residual),
            "discriminator": discriminator,
            "discriminator_z": discriminator_z,
            "adversarial": NonSaturating() if adversarial is None else adversarial,
        }
        super().__init__(weights=weights, betas=betas, **more)
        self.judge = Judge(cast("FeatureBackend | None", backend))
        self.streams = {"image": Stream(), "code": Stream(1)}

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> Channels:
        """Return what the numbers of each network must be: bands, pixels and conditions of the tiles."""
        size, conditions = {"size_px": ("patch",)}, {"condition_dim": ("condition",)}
        return {
            "encoder": {"in_channels": ("image",), **size},
            "generator": {"out_channels": ("image",), **size, **conditions},
            "residual": {"out_channels": ("image",), **size, **conditions},
            "discriminator": {"in_channels": ("image",), **size, **conditions},
        }

    @property
    def conditions(self) -> Conditions:
        """What the tiles' conditions mean; none where they have none."""
        return Conditions.from_dict(self.facts.get("conditions") or {})

    def weight_of(self, term: str) -> float:
        """Return a term's weight at this moment; encoder and generator hear of discriminators only later."""
        weight = self.weights[term]
        if term == "r1":
            return weight * self.r1_every
        waits = term == "adversarial_z" or (term == "adversarial" and self.sharing == "tied")
        return weight * self.ramp() if waits else weight

    def ramp(self) -> float:
        """Return how far the adversarial terms have come in, 0 to 1."""
        total = batches_planned(self.trainer, self.accumulate)
        total = total if total != float("inf") else 1000.0
        since = self.batches_seen - self.quiet_share * total
        if since < 0:
            return 0.0
        return min(1.0, since / (self.ramp_share * total)) if self.ramp_share else 1.0

    def forward(self, z: Tensor, condition: Tensor | None = None, origin_px: Tensor | None = None) -> Tensor:
        """Return the finished images of codes, residual included, shape (B, C, H, W), limited to [-1, 1]."""
        made = _under(self.generator, z, condition)
        if self.residual is not None:
            made = made + _under(self.residual, z, condition)
        return made.clamp(-1.0, 1.0)

    def encode(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the code of images (B, C, H, W), shape (B, d); what is invalid is taken as 0."""
        code: Tensor = self.encoder(image if mask is None else torch.where(mask > 0, image, image.new_zeros(())))
        return code

    def prepare(self, batch: Batch) -> Batch:
        """Add the code `z`, the `reconstruction`, and the image that is judged, `made`.

        Encoder and generator run once: layers that keep statistics would otherwise see the adversarial branch.
        """
        condition = self._condition(batch)
        z = self.encode(batch["image"], batch["mask_valid"])
        clean = made = _under(self.generator, z, condition)
        if self.residual is not None:
            with self._branch():
                made = clean.detach() + _under(self.residual, z.detach(), condition)
        return batch | {"z": z, "reconstruction": clean, "made": made}

    def _branch(self, name: str = "image") -> AbstractContextManager[None]:
        """Let an adversarial branch draw its own random numbers while it learns."""
        return self.streams[name]() if self.training else nullcontext()

    def discriminator_terms(self, batch: Batch) -> Terms:
        """Return `discrimination` and `r1` of images and `discrimination_z` of codes, where they are needed."""
        terms: Terms = {}
        condition, mask = self._condition(batch), batch["mask_valid"]
        if self.discriminator is not None and self.weights["adversarial"] > 0:
            discriminator, real = self.discriminator, _footprint(batch["image"], mask)
            with self._branch():
                on_real = _under(discriminator, real, condition)
                on_fake = _under(discriminator, _footprint(batch["made"].detach(), mask), condition)
                terms["discrimination"] = self.adversarial.discriminator(on_real, on_fake)
                if self.weights["r1"] > 0 and self.batches_seen % self.r1_every == 0:
                    terms["r1"] = r1(real, lambda at: _under(discriminator, at * (mask > 0), condition))
        if self.discriminator_z is not None and self.weights["adversarial_z"] > 0:
            with self._branch("code"):
                on_real, on_fake = self.discriminator_z(self._drawn_like(batch["z"])), batch["z"].detach()
                terms["discrimination_z"] = self.adversarial.discriminator(on_real, self.discriminator_z(on_fake))
        return terms

    def generator_terms(self, batch: Batch) -> Terms:
        """Return `reconstruction`, and `tv`, `adversarial` and `adversarial_z` where they have a weight."""
        condition, mask = self._condition(batch), batch["mask_valid"]
        terms = {"reconstruction": masked_l1(batch["reconstruction"], batch["image"], mask)}
        if self.weights["tv"] > 0:
            terms["tv"] = total_variation(batch["reconstruction"], mask, squared=True)
        if self.discriminator is not None and self.weights["adversarial"] > 0:
            with self._branch():
                judged = _under(self.discriminator, _footprint(batch["made"], mask), condition)
                real = None
                if self.adversarial.relativistic:
                    with torch.no_grad():
                        real = _under(self.discriminator, _footprint(batch["image"], mask), condition)
                terms["adversarial"] = self.adversarial.generator(judged, real)
        if self.discriminator_z is not None and self.weights["adversarial_z"] > 0:
            with self._branch("code"):
                judged = self.discriminator_z(batch["z"])
                real = None
                if self.adversarial.relativistic:
                    with torch.no_grad():
                        real = self.discriminator_z(self._drawn_like(batch["z"]))
                terms["adversarial_z"] = self.adversarial.generator(judged, real)
        return terms

    def _drawn_like(self, z: Tensor) -> Tensor:
        return sample_noise(self.generator, len(z), z.device)

    @torch.no_grad()
    def walk(
        self,
        image: Tensor,
        condition_name: str,
        values: Sequence[Any],
        condition: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Decode places under a sequence of conditions, each place with its one code.

        Args:
            image: Places, shape (B, C, H, W), model domain.
            condition_name: The condition that changes.
            values: Its values as people know them, such as days of the year.
            condition: Codes of all conditions of the places, shape (B, K), for those that do not change; needed where
                there are others.
            mask: Validity, shape (B, 1, H, W).

        Returns:
            Shape (B, N, C, H, W) for N values, in [-1, 1].

        Raises:
            CatalogError: If there is no such condition, or a value is not one of its own.
            ValueError: If the other conditions are not given.
        """
        known = self.conditions
        part, place = known.part(condition_name), known.slices[condition_name]
        if condition is None:
            if len(known.parts) > 1:
                raise ValueError(
                    f"ConditionalAutoencoding.walk: {condition_name} is one of the conditions "
                    f"{', '.join(known.names)}; give the codes of the others (condition)"
                )
            condition = image.new_zeros(len(image), known.width)
        z, frames = self.encode(image, mask), []
        for value in values:
            asked = condition.clone()
            asked[:, place] = torch.from_numpy(part.encode(value)).to(asked)
            frames.append(self(z, asked))
        return torch.stack(frames, dim=1)

    @torch.no_grad()
    def contrast(self, batch: Batch) -> float:
        """Return the standard deviation of made images over that of reals."""
        made, real = (_footprint(batch[name], batch["mask_valid"]).float().std() for name in ("made", "image"))
        return float(made / real.clamp_min(1e-6))

    def extra_state(self) -> dict[str, Any]:
        """Return also where the branches' random numbers are."""
        return {**super().extra_state(), "streams": {name: stream.state() for name, stream in self.streams.items()}}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `extra_state` returned."""
        super().load_extra_state(state)
        for name, stream in self.streams.items():
            stream.load(state["streams"][name])

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score and, once an epoch, draw."""
        made = self._score(dict(batch), "val")
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self._draw(made)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score."""
        self._score(dict(batch), "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return images under the batch's conditions, model domain, and the tiles they belong to.

        They are of the batch's places where it has an `image`, else of codes drawn from the samples' seeds.
        """
        if "image" not in batch:
            return super().predict_step(batch, batch_idx)
        z = self.encode(batch["image"], batch.get("mask_valid"))
        return {"prediction": self(z, self._condition(batch)), "tile": batch["tile"]}

    def _score(self, batch: Batch, stage: str) -> Batch:
        batch = self.prepare(batch)
        image, mask, size = batch["image"].float(), batch["mask_valid"], len(batch["image"])
        clean, made = batch["reconstruction"].float(), batch["made"].float()
        limited = made.clamp(-1.0, 1.0)
        found = {
            "l1": masked_l1(clean, image, mask),
            "made_l1": masked_l1(limited, image, mask),
            "out_of_range": out_of_range(made, mask),
        }
        alike = ssim(limited, image, _MODEL_RANGE, mask)
        found["ssim"] = torch.nanmean(alike) if torch.isfinite(alike).any() else alike.new_zeros(())
        if self.residual is not None:
            added, base = (_footprint(part, mask) for part in (made - clean, clean))
            found["low_pass_share"] = low_pass_share(added, base).mean()
        condition = self._condition(batch)
        if condition is not None and size > 1:
            # Every place under the condition of another one.
            other = self(batch["z"], condition.roll(1, dims=0))
            found["identity"] = feature_cosine(self.encode(other, mask), batch["z"]).mean()
        for name, value in found.items():
            self.log(f"{stage}/{name}", value, on_step=False, on_epoch=True, batch_size=size)
        self.judge.add("real", _footprint(image, mask), mask)
        self.judge.add("fake", _footprint(limited, mask), mask)
        return batch

    def _draw(self, batch: Batch) -> None:
        bands = (self.facts.get("image") or {}).get("bands")
        shown = {name: batch[name][:_SHOWN] for name in ("image", "reconstruction", "made")}
        columns = [torch.cat(list(picture(images, bands)), dim=-2) for images in shown.values()]
        show(self.loggers, f"images ({', '.join(shown)})", torch.cat(columns, dim=-1), self.batches_seen)
        for part in self.conditions.parts:
            values = _walked(part)
            frames = self.walk(
                batch["image"][:_SHOWN],
                part.name,
                values,
                batch["condition"][:_SHOWN],
                batch["mask_valid"][:_SHOWN],
            )
            rows = [torch.cat(list(picture(row, bands)), dim=-1) for row in frames]
            title = f"images/{part.name} ({', '.join(str(value) for value in values)})"
            show(self.loggers, title, torch.cat(rows, dim=-2), self.batches_seen)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which network makes images, and which one adds to them."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["rsgeo_gan"]["residuals"] = {} if self.residual is None else {"generator": "residual"}


def _under(network: nn.Module, given: Tensor, condition: Tensor | None) -> Tensor:
    """Run a network, under a condition where it takes one."""
    out: Tensor = network(given, condition) if getattr(network, "condition_dim", 0) else network(given)
    return out


def _footprint(image: Tensor, mask: Tensor) -> Tensor:
    """Set what is invalid to 0, also where it is not finite."""
    return torch.where(mask > 0, image, image.new_zeros(()))


def _walked(part: Any) -> list[Any]:
    """Choose some values of a condition for a picture."""
    if hasattr(part, "classes"):
        return list(part.classes[: 2 * _STEPS])
    if hasattr(part, "period"):
        return [round(part.period * k / _STEPS, 3) for k in range(_STEPS)]
    return [round(part.low + (part.high - part.low) * k / (_STEPS - 1), 3) for k in range(_STEPS)]


def _check_parts(
    mode: Mode,
    weights: Mapping[str, float],
    discriminator: nn.Module | None,
    discriminator_z: nn.Module | None,
    residual: nn.Module | None,
) -> None:
    """Refuse a mode that lacks a network or could not use one."""
    name = "ConditionalAutoencoding"
    if mode == "none" and (weights["adversarial"] > 0 or weights["adversarial_z"] > 0):
        raise ValueError(f"{name}: mode none has no adversarial terms; set their weights to 0, or choose another mode")
    if weights["adversarial"] > 0 and discriminator is None:
        raise ValueError(f"{name}: the term adversarial needs a discriminator; give one, or set its weight to 0")
    if weights["adversarial_z"] > 0 and discriminator_z is None:
        raise ValueError(f"{name}: the term adversarial_z needs a discriminator_z; give one, or set its weight to 0")
    if (residual is None) == (mode == "decoupled"):
        wanted = "a residual generator" if residual is None else "no residual generator"
        raise ValueError(f"{name}: mode {mode} needs {wanted}; decoupled learning has one, the other modes have none")


def _check_together(encoder: Any, generator: Any, discriminator: Any, discriminator_z: Any, residual: Any) -> None:
    """Refuse networks that differ in what they hand to each other."""
    for facts, networks in (
        (("latent_dim", "prior"), {"encoder": encoder, "residual": residual, "discriminator_z": discriminator_z}),
        (("size_px",), {"encoder": encoder, "residual": residual, "discriminator": discriminator}),
        (("out_channels", "condition_dim"), {"residual": residual}),
    ):
        for name, network in networks.items():
            for fact in facts:
                one, other = getattr(generator, fact, None), getattr(network, fact, None)
                if None not in (one, other) and one != other:
                    raise ValueError(
                        f"ConditionalAutoencoding: generator has {fact} {one}, but {name} has {other}; build both alike"
                    )
