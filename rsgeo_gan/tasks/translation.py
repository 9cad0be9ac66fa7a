"""Translation between two sensors from pairs that are only roughly aligned.

Reference: Zhu et al., 2017, arXiv:1703.10593 (cycle consistency), with the shift-insensitive pair loss of
Qing et al. as an injected correspondence term.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.losses import AdversarialLoss, Correspondence, LeastSquares, masked_l1
from rsgeo_gan.metrics import ShiftTolerantPSNR, ShiftTolerantSSIM, log_spectral_distance
from rsgeo_gan.models import logit_mask
from rsgeo_gan.tasks.base import AdversarialTask, Batch, Terms
from rsgeo_gan.tasks.pool import ImagePool

__all__ = ["CycleTranslation"]

_MODEL_RANGE = 2.0
"""Span of the model domain [-1, 1]."""
_LOOKS_PX = 7
"""Side of the averaging window behind `ssim_multilook`."""
_EVALUATION_SEED = 0
"""Noise of validation, test and prediction."""
_SHOWN = 4
"""Samples drawn for TensorBoard."""
_NATURAL = (("b04", "red"), ("b03", "green"), ("b02", "blue"))


class CycleTranslation(AdversarialTask):
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
        weights: Weight by term: adversarial 1, cycle 10, pair 1, identity 0.
        ramp_share: Share of all batches over which the weight of `pair` rises from 0, because the encoders it
            compares in begin at random.
        pool_size: Earlier fakes kept for the discriminators; 0 uses the newest only.
        radius_px: Largest shift the scores forgive, pixels; the data module's own value has precedence.
        lr: Learning rate of the generators.
        lr_discriminator: Learning rate of the discriminators; that of the generators when None.
        betas: Adam's two decay rates.
        warmup_epochs: Epochs over which the learning rates rise linearly.
        decay_share: Share of the epochs, at the end, over which they fall linearly.
        fused: Adam in one kernel, where the device has it.

    Raises:
        ValueError: If a weight names no term, or identity is asked for between unequal band counts.
    """

    monitor = "val/ssim_multilook"
    mode = "max"
    default_weights: ClassVar[dict[str, float]] = {"adversarial": 1.0, "cycle": 10.0, "pair": 1.0, "identity": 0.0}
    discriminators: ClassVar[tuple[str, ...]] = ("discriminator", "discriminator_back")
    generators: ClassVar[tuple[str, ...]] = ("generator", "generator_back", "correspondence")

    generator: nn.Module
    generator_back: nn.Module
    discriminator: nn.Module
    discriminator_back: nn.Module
    adversarial: AdversarialLoss
    correspondence: Correspondence | None

    def __init__(
        self,
        generator: nn.Module,
        generator_back: nn.Module,
        discriminator: nn.Module,
        discriminator_back: nn.Module,
        adversarial: AdversarialLoss | None = None,
        correspondence: Correspondence | None = None,
        weights: dict[str, float] | None = None,
        ramp_share: float = 0.1,
        pool_size: int = 50,
        radius_px: int = 3,
        lr: float = 2e-4,
        lr_discriminator: float | None = None,
        betas: tuple[float, float] = (0.5, 0.999),
        warmup_epochs: int = 0,
        decay_share: float = 0.5,
        fused: bool = True,
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
        self.ramp_share = ramp_share
        self.radius_px = radius_px
        self.pools = (ImagePool(pool_size), ImagePool(pool_size))
        super().__init__(
            weights=weights,
            lr=lr,
            lr_discriminator=lr_discriminator,
            betas=betas,
            warmup_epochs=warmup_epochs,
            decay_share=decay_share,
            fused=fused,
        )

    def configure_models(self) -> None:
        """Make modules of the networks and let the correspondence term meet the generators."""
        super().configure_models()
        if self.correspondence is not None:
            self.correspondence.attach(self.generator, self.generator_back)
        networks = (self.generator, self.generator_back, self.discriminator, self.discriminator_back)
        self._takes_mask = {
            id(network): "mask" in inspect.signature(network.forward).parameters for network in networks
        }
        self._joins = not any(
            isinstance(part, nn.modules.batchnorm._BatchNorm) for network in networks for part in network.modules()
        )

    def configure_metrics(self) -> None:
        """Make the scores of validation and test, forward and back."""
        self.scores = nn.ModuleDict(
            {
                f"{way}{name}": kind(data_range=_MODEL_RANGE, radius_px=self.radius_px)
                for way in ("", "back_")
                for name, kind in (
                    ("psnr_tolerant", ShiftTolerantPSNR),
                    ("ssim_tolerant", ShiftTolerantSSIM),
                    ("ssim_multilook", ShiftTolerantSSIM),
                )
            }
        )

    def setup(self, stage: str) -> None:
        """Take facts of the data over and see that the networks fit them.

        Raises:
            ValueError: If a network expects another number of bands than the tiles have.
        """
        super().setup(stage)
        self.radius_px = int(self.facts.get("radius_px", self.radius_px))
        for score in self.scores.values():
            score.radius_px = self.radius_px  # type: ignore[assignment]
        expected = {
            "generator": ("source", "target"),
            "generator_back": ("target", "source"),
            "discriminator": ("target", None),
            "discriminator_back": ("source", None),
        }
        for name, sides in expected.items():
            for side, argument in zip(sides, ("in_channels", "out_channels"), strict=True):
                bands = (self.facts.get(side) or {}).get("bands") if side else None
                built = getattr(getattr(self, name), argument, None)
                if bands and built is not None and built != len(bands):
                    raise ValueError(
                        f"CycleTranslation: {name} was built with {argument} {built}, but the {side} tiles have "
                        f"{len(bands)} bands ({', '.join(bands)}); set model.init_args.{name}.init_args.{argument} to "
                        f"{len(bands)}"
                    )

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Translate source to target, shape (B, C, H, W), model domain, with its speckle."""
        return self._speckled(self.generator, self._run(self.generator, image, mask))

    def _run(self, network: nn.Module, image: Tensor, mask: Tensor | None) -> Tensor:
        """Pass the mask to networks that take one."""
        out: Tensor = network(image, mask=mask) if self._takes_mask[id(network)] else network(image)
        return out

    def _speckled(self, network: nn.Module, image: Tensor) -> Tensor:
        """Add the noise of generators that have some: fresh while they learn, always the same to score."""
        channels = int(getattr(network, "noise_channels", 0) or 0)
        if not channels:
            return image
        draw = None if self.training else torch.Generator(image.device).manual_seed(_EVALUATION_SEED)
        shape = (image.shape[0], channels, *image.shape[-2:])
        out: Tensor = network.speckled(image, torch.randn(shape, generator=draw, device=image.device))  # type: ignore[operator]
        return out

    def _joined(self, network: nn.Module, images: Sequence[Tensor], masks: Sequence[Tensor]) -> list[Tensor]:
        """Run a network on several batches as one, where no layer mixes samples."""
        if not self._joins:
            return [self._run(network, image, _holes(mask)) for image, mask in zip(images, masks, strict=True)]
        out = self._run(network, torch.cat(list(images)), _holes(torch.cat(list(masks))))
        return list(torch.split(out, [len(image) for image in images]))

    def prepare(self, batch: Batch) -> Batch:
        """Add both translations, both cycles and the masks; four generator passes.

        Translations come twice: `clean_*` without speckle, for the terms that compare pixels or features, which
        would only learn to suppress it, and `fake_*` with speckle, which the discriminators and the scores see.
        """
        source, target = batch["image"], batch["image_target"]
        if source.shape[-2:] != target.shape[-2:]:
            raise ValueError(
                f"CycleTranslation: expected source and target of one size, got {tuple(source.shape)} and "
                f"{tuple(target.shape)}; translation works at one pixel size"
            )
        mask_source, mask_target = batch["mask_valid"], batch["mask_valid_target"]
        identity = self.weights["identity"] > 0
        clean_source = self._run(self.generator_back, target, _holes(mask_target)) * mask_target
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
        """Return `adversarial`, `cycle`, and `pair` and `identity` where they have a weight."""
        mask_source, mask_target, mask = batch["mask_valid"], batch["mask_valid_target"], batch["mask_both"]
        source, target = batch["image"], batch["image_target"]
        adversarial = torch.zeros((), device=mask.device)
        for network, fake in (
            (self.discriminator, batch["fake_target"]),
            (self.discriminator_back, batch["fake_source"]),
        ):
            logits = self._run(network, fake * mask, _holes(mask))
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
        if self.correspondence is not None and self.weights["pair"] > 0:
            found: Terms = self.correspondence(
                source,
                target,
                batch["clean_source"],
                batch["clean_target"],
                mask_source,
                mask_target,
                batch.get("mask_confidence", batch.get("confidence")),
            )
            terms |= found
        return terms

    def weight_of(self, term: str) -> float:
        """Return a term's weight; those of the correspondence rise over the first batches."""
        if term in ("adversarial", "cycle", "identity"):
            return self.weights[term]
        factors = {} if self.correspondence is None else self.correspondence.factors
        return self.weights["pair"] * factors.get(term, 1.0) * self.ramp()

    def ramp(self) -> float:
        """Return how far the correspondence has come in, 0 to 1."""
        total = self.trainer.estimated_stepping_batches
        steps = self.ramp_share * total if total != float("inf") else 1000.0
        return min(1.0, self.batches_seen / steps) if steps >= 1 else 1.0

    def after_step(self) -> None:
        """Let the correspondence term follow the generators."""
        if self.correspondence is not None:
            self.correspondence.update(self.generator, self.generator_back)
            self.log("train_g/pair_weight", self.weight_of("pair"))

    @torch.no_grad()
    def contrast(self, batch: Batch) -> float:
        """Return the lower of both directions' standard deviation of fakes over that of reals."""
        mask = batch["mask_both"].float()
        shares = [
            _deviation(batch[fake], mask) / _deviation(batch[real], mask).clamp_min(1e-6)
            for fake, real in (("fake_target", "image_target"), ("fake_source", "image"))
        ]
        return float(torch.stack(shares).min())

    def extra_state(self) -> dict[str, Any]:
        """Return the histories of fakes."""
        return {"pools": [pool.state() for pool in self.pools]}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take the histories over."""
        for pool, kept in zip(self.pools, state["pools"], strict=True):
            pool.load(kept)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score both directions and, once an epoch, draw real, fake and cycle."""
        made = self._score(dict(batch), "val")
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self._draw(made)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score both directions."""
        self._score(dict(batch), "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the translation, model domain, and the tile it belongs to."""
        return {"prediction": self(batch["image"], batch["mask_valid"]), "tile": batch["tile"]}

    def _score(self, batch: Batch, stage: str) -> Batch:
        batch = self.prepare(batch)
        size = len(batch["image"])
        for way, fake, real, masks in (
            ("", "fake_target", "image_target", ("mask_valid", "mask_valid_target")),
            ("back_", "fake_source", "image", ("mask_valid_target", "mask_valid")),
        ):
            pred, true = batch[fake].float(), batch[real].float()
            mask = torch.cat([batch[name] for name in masks], dim=1)
            for name, args in (
                ("psnr_tolerant", (pred, true, mask)),
                ("ssim_tolerant", (pred, true, mask)),
                ("ssim_multilook", (_looks(pred), _looks(true), 1 - F.max_pool2d(1 - mask, _LOOKS_PX, 1))),
            ):
                score = self.scores[f"{way}{name}"]
                score.update(*args)  # type: ignore[operator]
                self.log(f"{stage}/{way}{name}", score, on_step=False, on_epoch=True, batch_size=size)  # type: ignore[arg-type]
            self.log(
                f"{stage}/{way}l1",
                masked_l1(pred, true, batch["mask_both"]),
                on_step=False,
                on_epoch=True,
                batch_size=size,
            )
            whole = batch["mask_both"].flatten(1).all(dim=1)
            if whole.any():
                distance = log_spectral_distance(pred[whole], true[whole])
                self.log(
                    f"{stage}/{way}spectrum_db", distance, on_step=False, on_epoch=True, batch_size=int(whole.sum())
                )
        cycle = masked_l1(batch["cycle_source"], batch["image"], batch["mask_valid"])
        self.log(f"{stage}/cycle_l1", cycle, on_step=False, on_epoch=True, batch_size=size)
        return batch

    def _draw(self, made: Batch) -> None:
        rows = {
            "images/source_to_target": (
                ("source", "image"),
                ("target", "fake_target"),
                ("target", "image_target"),
                ("source", "cycle_source"),
            ),
            "images/target_to_source": (
                ("target", "image_target"),
                ("source", "fake_source"),
                ("source", "image"),
                ("target", "cycle_target"),
            ),
        }
        for logger in self.loggers:
            show = getattr(getattr(logger, "experiment", None), "add_image", None)
            if show is None:
                continue
            for title, columns in rows.items():
                panels = [
                    torch.cat(list(_picture(made[key][:_SHOWN], (self.facts.get(side) or {}).get("bands"))), dim=-2)
                    for side, key in columns
                ]
                show(f"{title} (input, made, real, cycle)", torch.cat(panels, dim=-1), self.batches_seen)


def _holes(mask: Tensor) -> Tensor | None:
    """Return the mask, or None when nothing is missing: unmasked normalisation is faster."""
    return None if bool(mask.all()) else mask


def _deviation(image: Tensor, mask: Tensor) -> Tensor:
    """Mean over samples and bands of the standard deviation over valid pixels."""
    share = mask / mask.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    mean = (image.float() * share).sum(dim=(2, 3), keepdim=True)
    return ((image.float() - mean).square() * share).sum(dim=(2, 3)).sqrt().mean()


def _looks(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, _LOOKS_PX, 1)


def _picture(image: Tensor, bands: Sequence[str] | None) -> Tensor:
    """Choose up to three bands, (B, 3, H, W) in [0, 1]: red, green, blue where the names say so, else the first."""
    names = [name.lower() for name in bands or ()]
    natural = [next((k for k, name in enumerate(names) if name in kinds), None) for kinds in _NATURAL]
    known = [k for k in natural if k is not None]
    chosen = known if len(known) == 3 else [0, 1, 2] if image.shape[1] >= 3 else [0, 0, 0]
    return ((image[:, chosen].detach().float().cpu() + 1) / 2).clamp(0, 1)
