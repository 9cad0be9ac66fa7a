"""What all translation tasks share: which side a network sees, noise, scores, pictures, and the correspondence term.

`channels` and `directions` say what the networks see, and can be asked of the class. A subclass's `prepare` adds
`fake_<side>` for the sides that it makes, `mask_both`, and `clean_<side>` and `cycle_<side>` where it has them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.losses import Correspondence, masked_l1, speckle_distance
from rsgeo_gan.metrics import ShiftTolerantPSNR, ShiftTolerantSSIM, log_spectral_distance
from rsgeo_gan.provenance import Direction, sides
from rsgeo_gan.tasks.base import AdversarialTask, Batch, Terms
from rsgeo_gan.tasks.pictures import picture, show
from rsgeo_gan.tasks.stepping import batches_planned

__all__ = ["IMAGE", "MASK", "Channels", "TranslationTask", "holes", "trust"]

Channels = Mapping[str, Mapping[str, tuple[str, ...]]]
"""By network and argument: the sides whose bands the argument counts together."""

IMAGE = {"source": "image", "target": "image_target"}
"""Key of a side's images in a batch."""
MASK = {"source": "mask_valid", "target": "mask_valid_target"}
"""Key of a side's validity in a batch."""

_MODEL_RANGE = 2.0
"""Span of the model domain [-1, 1]."""
_LOOKS_PX = 7
"""Side of the averaging window behind `ssim_multilook`."""
_EVALUATION_SEED = 0
"""Noise of validation, test and prediction."""
_SHOWN = 4
"""Samples drawn for TensorBoard."""


class TranslationTask(AdversarialTask):
    """Base of tasks that make an image of one side of a pair from the other.

    Scores of the first direction have no prefix, those of a second one `back_`.

    Args:
        ramp_share: Share of all batches over which the weight of the correspondence rises from 0, because the encoders
            it may compare in begin at random.
        radius_px: Largest shift the scores forgive, pixels; the data module's own value has precedence.
        more: See `AdversarialTask`.
    """

    monitor = "val/ssim_multilook"
    mode = "max"

    generator: nn.Module
    correspondence: Correspondence | None

    def __init__(self, ramp_share: float = 0.1, radius_px: int = 3, **more: Any) -> None:
        self.ramp_share = ramp_share
        self.radius_px = radius_px
        super().__init__(**more)

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> Channels:
        """Return what the band counts of each network must be, for a task built with these arguments.

        Those of a generator and a discriminator for each direction, unless overridden.
        """
        return {
            "generator": {"in_channels": ("source",), "out_channels": ("target",)},
            "generator_back": {"in_channels": ("target",), "out_channels": ("source",)},
            "discriminator": {"in_channels": ("target",)},
            "discriminator_back": {"in_channels": ("source",)},
        }

    @classmethod
    def directions(cls, arguments: Mapping[str, Any]) -> dict[Direction, str]:
        """Return the generator of each direction, for a task built with these arguments; both unless overridden."""
        return {"source_to_target": "generator", "target_to_source": "generator_back"}

    def configure_models(self) -> None:
        """Make modules of the networks, see which take masks, and let the correspondence term meet the generators."""
        super().configure_models()
        if self.correspondence is not None:
            self.correspondence.attach(*self._both())
        networks = [getattr(self, name) for name in self.channels(self.hparams)]
        self._takes_mask = {
            id(network): "mask" in inspect.signature(network.forward).parameters for network in networks
        }
        self._joins = not any(
            isinstance(part, nn.modules.batchnorm._BatchNorm) for network in networks for part in network.modules()
        )

    def _both(self) -> list[nn.Module]:
        """Return the generators, source to target first, a stand-in for a missing one."""
        known: dict[Any, str] = {**self.directions(self.hparams)}
        return [getattr(self, known[way]) if way in known else MissingGenerator() for way in get_args(Direction)]

    def configure_metrics(self) -> None:
        """Make the scores of validation and test."""
        self.ways = dict(zip(("", "back_"), self.directions(self.hparams), strict=False))
        self.scores = nn.ModuleDict(
            {
                f"{way}{name}": kind(data_range=_MODEL_RANGE, radius_px=self.radius_px)
                for way in self.ways
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
        if self.correspondence is not None:
            self.correspondence.forgive(self.radius_px)
        for name, arguments in self.channels(self.hparams).items():
            for argument, counted in arguments.items():
                bands = [band for side in counted for band in (self.facts.get(side) or {}).get("bands", ())]
                built = getattr(getattr(self, name), argument, None)
                if bands and built is not None and built != len(bands):
                    raise ValueError(
                        f"{type(self).__name__}: {name} was built with {argument} {built}, but the "
                        f"{' and '.join(counted)} tiles have {len(bands)} bands ({', '.join(bands)}); set "
                        f"model.init_args.{name}.init_args.{argument} to {len(bands)}"
                    )

    def forward(self, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Translate in the first direction, shape (B, C, H, W), model domain, with its speckle."""
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
            return [self._run(network, image, holes(mask)) for image, mask in zip(images, masks, strict=True)]
        out = self._run(network, torch.cat(list(images)), holes(torch.cat(list(masks))))
        return list(torch.split(out, [len(image) for image in images]))

    def _same_size(self, batch: Batch) -> None:
        source, target = batch["image"], batch["image_target"]
        if source.shape[-2:] != target.shape[-2:]:
            raise ValueError(
                f"{type(self).__name__}: expected source and target of one size, got {tuple(source.shape)} and "
                f"{tuple(target.shape)}; translation works at one pixel size"
            )

    def _corresponding(self, batch: Batch, made_source: Tensor, made_target: Tensor) -> Terms:
        """Return the terms of the correspondence, where there is one with a weight."""
        if self.correspondence is None or self.weights["pair"] <= 0:
            return {}
        found: Terms = self.correspondence(
            batch["image"],
            batch["image_target"],
            made_source,
            made_target,
            batch["mask_valid"],
            batch["mask_valid_target"],
            trust(batch),
        )
        return found

    def _speckle(self, batch: Batch) -> Terms:
        """Return `speckle`, where it has a weight: of homogeneous places of what generators with noise make.

        It moves the noise alone: the image under it is held.
        """
        drawn = [side for side, network in self._made() if getattr(network, "noise_channels", 0)]
        if self.weights["speckle"] <= 0 or not drawn:
            return {}
        networks = dict(self._made())
        parts = [
            speckle_distance(
                self._speckled(networks[side], batch[f"clean_{side}"].detach()),
                batch[IMAGE[side]],
                batch["mask_both"],
                batch[MASK[side]],
            )
            for side in drawn
        ]
        return {"speckle": torch.stack(parts).sum()}

    def _made(self) -> list[tuple[str, nn.Module]]:
        """Return the sides that are made, each with its generator."""
        return [(sides(way)[1], getattr(self, name)) for way, name in self.directions(self.hparams).items()]

    def weight_of(self, term: str) -> float:
        """Return a term's weight; those of the correspondence rise over the first batches."""
        if term in self.weights and term != "pair":
            return self.weights[term]
        factors = {} if self.correspondence is None else self.correspondence.factors
        return self.weights["pair"] * factors.get(term, 1.0) * self.ramp()

    def ramp(self) -> float:
        """Return how far the correspondence has come in, 0 to 1."""
        total = batches_planned(self.trainer, self.accumulate)
        steps = self.ramp_share * total if total != float("inf") else 1000.0
        return min(1.0, self.batches_seen / steps) if steps >= 1 else 1.0

    def after_step(self) -> None:
        """Let the correspondence term follow the generators."""
        if self.correspondence is not None:
            self.correspondence.update(*self._both())
            self.log("train_g/pair_weight", self.weight_of("pair"))

    @torch.no_grad()
    def contrast(self, batch: Batch) -> float:
        """Return the lowest of the directions' standard deviations of fakes over those of reals."""
        mask = batch["mask_both"].float()
        made = [sides(direction)[1] for direction in self.ways.values()]
        shares = [
            _deviation(batch[f"fake_{side}"], mask) / _deviation(batch[IMAGE[side]], mask).clamp_min(1e-6)
            for side in made
        ]
        return float(torch.stack(shares).min())

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score every direction and, once an epoch, draw what was made."""
        made = self._score(dict(batch), "val")
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self._draw(made)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score every direction."""
        self._score(dict(batch), "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return the translation in the first direction, model domain, and the tile it belongs to."""
        read, _ = sides(self.ways[""])
        return {"prediction": self(batch[IMAGE[read]], batch[MASK[read]]), "tile": batch["tile"]}

    def _score(self, batch: Batch, stage: str) -> Batch:
        batch = self.prepare(batch)
        size = len(batch["image"])
        for way, direction in self.ways.items():
            read, side = sides(direction)
            pred, true = batch[f"fake_{side}"].float(), batch[IMAGE[side]].float()
            mask = torch.cat([batch[MASK[read]], batch[MASK[side]]], dim=1)
            for name, args in (
                ("psnr_tolerant", (pred, true, mask)),
                ("ssim_tolerant", (pred, true, mask)),
                ("ssim_multilook", (_looks(pred), _looks(true), 1 - F.max_pool2d(1 - mask, _LOOKS_PX, 1))),
            ):
                score = self.scores[f"{way}{name}"]
                score.update(*args)  # type: ignore[operator]
                self.log(f"{stage}/{way}{name}", score, on_step=False, on_epoch=True, batch_size=size)
            self._log_mean(f"{stage}/{way}l1", masked_l1(pred, true, batch["mask_both"]), size)
            whole = batch["mask_both"].flatten(1).all(dim=1)
            # Logged by every batch, if without weight: what one process logs, all must, or they wait for each other.
            distance = log_spectral_distance(pred[whole], true[whole]) if whole.any() else pred.new_zeros(())
            self._log_mean(f"{stage}/{way}spectrum_db", distance, int(whole.sum()))
        return batch

    def _log_mean(self, name: str, value: Tensor, size: int) -> None:
        self.log(name, value, on_step=False, on_epoch=True, batch_size=size)

    def _draw(self, made: Batch) -> None:
        for direction in self.ways.values():
            read, side = sides(direction)
            columns = {
                "input": (read, IMAGE[read]),
                "made": (side, f"fake_{side}"),
                "real": (side, IMAGE[side]),
                "cycle": (read, f"cycle_{read}"),
            }
            shown = {name: (of, key) for name, (of, key) in columns.items() if key in made}
            panels = [
                torch.cat(list(picture(made[key][:_SHOWN], (self.facts.get(of) or {}).get("bands"))), dim=-2)
                for of, key in shown.values()
            ]
            title = f"images/{direction} ({', '.join(shown)})"
            show(self.loggers, title, torch.cat(panels, dim=-1), self.batches_seen)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which generator translates in which direction."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["rsgeo_gan"]["generators"] = dict(self.directions(self.hparams))


class MissingGenerator(nn.Module):
    """Stands for the generator of the direction that a task of one direction has not."""


def holes(mask: Tensor) -> Tensor | None:
    """Return the mask, or None when nothing is missing: unmasked normalisation is faster."""
    return None if bool(mask.all()) else mask


def trust(batch: Batch) -> Tensor | None:
    """Return the trust in the alignment: per pixel where a batch has it, else per sample, if at all."""
    found: Tensor | None = batch.get("mask_confidence", batch.get("confidence"))
    return found


def _deviation(image: Tensor, mask: Tensor) -> Tensor:
    """Mean over samples and bands of the standard deviation over valid pixels."""
    share = mask / mask.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    mean = (image.float() * share).sum(dim=(2, 3), keepdim=True)
    return ((image.float() - mean).square() * share).sum(dim=(2, 3)).sqrt().mean()


def _looks(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, _LOOKS_PX, 1)
