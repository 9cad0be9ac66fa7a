"""What tasks of super-resolution share: sizes of networks and images, scores beside those of bicubic, pictures.

A subclass's `prepare` adds `made`, the finer image, and `mask_both`, where it can be compared with the truth.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from rsgeo_gan.losses import masked_l1
from rsgeo_gan.metrics import log_spectral_distance, psnr, spectral_angle, ssim
from rsgeo_gan.models.sampling import coarsen, enlarge
from rsgeo_gan.sensors import Scaler
from rsgeo_gan.tasks.base import AdversarialTask, Batch
from rsgeo_gan.tasks.pictures import picture, show
from rsgeo_gan.tasks.scoring import Channels
from rsgeo_gan.transforms import Denormalize

__all__ = ["SharpeningTask"]

_MODEL_RANGE = 2.0
_SHOWN = 4
"""Samples drawn for TensorBoard."""
_BEST_DB = 100.0
"""PSNR of images that are equal to the last digit."""
_WRAPPED = ("base", "network", "content", "backend")
"""Attributes in which a network holds the one it is built around."""


class SharpeningTask(AdversarialTask):
    """Base of tasks that make an image of finer pixels.

    Scores are in the physical units of the target, where the data tell them, otherwise in the model domain [-1, 1].
    PSNR and SSIM take as data range the span of the target's scaler, from its lowest to its highest limit over all
    bands. Every score of the made image stands beside the same score of bicubic interpolation (`bicubic_`), where the
    images on both sides have the same bands.
    """

    monitor = "val/psnr"
    mode = "max"

    generator: nn.Module

    @classmethod
    def channels(cls, arguments: Mapping[str, Any]) -> Channels:
        """Return what the numbers of each network must be: bands of the sides, and the scale."""
        return {"generator": {"in_channels": ("source",), "out_channels": ("target",), "scale": ("scale",)}}

    @property
    def scale(self) -> int:
        """Pixels of the made image along one of the image read."""
        return int(self.generator.scale)  # type: ignore[arg-type]

    def setup(self, stage: str) -> None:
        """Take facts of the data over and see that the networks fit them.

        Raises:
            ValueError: If a network has other bands or another scale than the tiles.
        """
        super().setup(stage)
        # Frozen feature networks stay in evaluation mode, of which Lightning warns.
        warnings.filterwarnings("ignore", message="Found .* in eval mode at the start of training")
        found = {side: len((self.facts.get(side) or {}).get("bands", ())) for side in ("source", "target", "reference")}
        found |= {"scale": int(self.facts.get("scale") or 0), "common": len(self.facts.get("common") or ())}
        for name, numbers in self.channels(self.hparams).items():
            network: Any = self
            for part in name.split("."):
                network = next((held for at in _around(network) if (held := getattr(at, part, None)) is not None), None)
            for number, counted in numbers.items():
                built, wanted = getattr(network, number, None), sum(found[part] for part in counted)
                if all(found[part] for part in counted) and built is not None and built != wanted:
                    raise ValueError(
                        f"{type(self).__name__}: {name} was built with {number} {built}, but the tiles have {wanted} "
                        f"({' and '.join(counted)}); set {number} of model.init_args.{name} to {wanted}"
                    )

    def _run(self, network: nn.Module, image: Tensor, mask: Tensor | None) -> Tensor:
        """Pass the mask to networks that take one."""
        takes = "mask" in inspect.signature(network.forward).parameters
        out: Tensor = network(image, mask=mask) if takes else network(image)
        return out

    def _sized(self, batch: Batch) -> Tensor:
        """Return where made image and truth can be compared: both valid, shape (B, 1, s · h, s · w).

        Raises:
            ValueError: If the truth is not `scale` times as large as the image.
        """
        low, true = batch["image"], batch["image_target"]
        wanted = tuple(length * self.scale for length in low.shape[-2:])
        if tuple(true.shape[-2:]) != wanted:
            raise ValueError(
                f"{type(self).__name__}: expected image_target of {wanted} px for an image of {tuple(low.shape[-2:])} "
                f"px and the scale {self.scale}, got {tuple(true.shape[-2:])} px; give data and network one scale"
            )
        mask: Tensor = batch["mask_valid_target"] * _nearest(batch["mask_valid"], self.scale)
        return mask

    @torch.no_grad()
    def contrast(self, batch: Batch) -> float:
        """Return the standard deviation of made images over that of the truth."""
        mask = batch["mask_both"] > 0
        made, true = (torch.where(mask, batch[key].detach().float(), 0.0).std() for key in ("made", "image_target"))
        return float(made / true.clamp_min(1e-6))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score and, once an epoch, draw."""
        made = self._score(dict(batch), "val")
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self._draw(made)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score."""
        self._score(dict(batch), "test")

    def _score(self, batch: Batch, stage: str) -> Batch:
        batch = self.prepare(batch)
        low, mask = batch["image"].float(), batch["mask_both"]
        compared = {"": batch["made"].float()}
        if low.shape[1] == batch["image_target"].shape[1]:
            compared["bicubic_"] = self._as_target(enlarge(low, self.scale, batch["mask_valid"]))
        for prefix, image in compared.items():
            for name, values in self._scores_of(image, batch, mask).items():
                self._log_mean(f"{stage}/{prefix}{name}", values)
        for name, values in self._more_scores(batch).items():
            self._log_mean(f"{stage}/{name}", values)
        return batch

    def _more_scores(self, batch: Batch) -> dict[str, Tensor]:
        """Return scores that only made images have, a value per sample."""
        return {}

    def _scores_of(self, image: Tensor, batch: Batch, mask: Tensor) -> dict[str, Tensor]:
        """Return scores of images in the target's model domain, a value per sample, NaN where there is none."""
        true, span = batch["image_target"].float(), _MODEL_RANGE
        shown, wanted = image, true
        scaler = self._scaler("target")
        if scaler is not None:
            physical = Denormalize(scaler).to(image.device)
            shown, wanted, span = physical(image), physical(true), max(scaler.high) - min(scaler.low)
        found = {
            "psnr": psnr(shown, wanted, span, mask).clamp(max=_BEST_DB),
            "l1": torch.stack([masked_l1(*pair) for pair in _samples(shown, wanted, mask)]),
        }
        found["l1"] = torch.where(mask.flatten(1).any(dim=1), found["l1"], torch.nan)
        if min(image.shape[-2:]) >= 11:
            found["ssim"] = ssim(shown, wanted, span, mask)
        if image.shape[1] > 1 and scaler is not None and scaler.unit != "dB":
            found["sam"] = spectral_angle(shown, wanted, mask)
        if batch["image"].shape[1] == image.shape[1]:
            found["consistency"] = self._apart(image, batch)
        whole = mask.flatten(1).all(dim=1)
        # Spectra of single images scatter; those of a batch are compared, once for each of its whole images.
        found["spectrum_db"] = torch.full_like(whole, torch.nan, dtype=torch.float32)
        if whole.any():
            found["spectrum_db"][whole] = log_spectral_distance(image[whole], true[whole])
        return found

    def _apart(self, image: Tensor, batch: Batch) -> Tensor:
        """Mean absolute difference of the image read and the made one as its instrument would see it.

        In physical units if known. Blur is that by which the data make coarse images, the mean one where bands differ;
        of real ones, of which nobody knows it, there is none.
        """
        mtf = (self.facts.get("degradation") or {}).get("mtf")
        blur = fmean(mtf) if isinstance(mtf, list) else mtf
        low, coarse = batch["image"].float(), coarsen(image, self.scale, blur)
        if (source := self._scaler("source")) is not None and (target := self._scaler("target")) is not None:
            low, coarse = Denormalize(source).to(low.device)(low), Denormalize(target).to(low.device)(coarse)
        mask = batch["mask_valid"]
        apart = torch.stack([masked_l1(*pair) for pair in _samples(coarse, low, mask)])
        return torch.where(mask.flatten(1).any(dim=1), apart, torch.nan)

    def _scaler(self, side: str) -> Scaler | None:
        stored = self.facts.get(side)
        return Scaler.from_dict(stored) if stored else None

    def _as_target(self, image: Tensor) -> Tensor:
        """Bring an image from the source's model domain to the target's; as it is where they share one."""
        source, target = self._scaler("source"), self._scaler("target")
        if source is None or target is None or source == target:
            return image
        gain, bias = (torch.from_numpy(part)[:, None, None].to(image) for part in (target.gain, target.bias))
        return Denormalize(source).to(image.device)(image) * gain + bias

    def _log_mean(self, name: str, values: Tensor) -> None:
        """Log the mean of the samples that have a value; a batch without one is logged too, without weight."""
        seen = torch.isfinite(values)
        value = values[seen].mean() if seen.any() else values.new_zeros(())
        # What one process logs, all must, or they wait for each other.
        self.log(name, value.float(), on_step=False, on_epoch=True, batch_size=int(seen.sum()))

    def _draw(self, batch: Batch) -> None:
        """Show input, bicubic, made image, first reference where there is one, and truth."""
        low, mask = batch["image"][:_SHOWN].float(), batch["mask_valid"][:_SHOWN]
        columns = {
            "input": ("source", _nearest(low, self.scale)),
            "bicubic": ("source", enlarge(low, self.scale, mask)),
            "made": ("target", batch["made"][:_SHOWN]),
            "reference": ("reference", self._first_reference(batch)),
            "real": ("target", batch["image_target"][:_SHOWN]),
        }
        shown = {name: (side, image) for name, (side, image) in columns.items() if image is not None}
        panels = [
            torch.cat(list(picture(image, (self.facts.get(side) or {}).get("bands"))), dim=-2)
            for side, image in shown.values()
        ]
        show(self.loggers, f"images ({', '.join(shown)})", torch.cat(panels, dim=-1), self.batches_seen)

    def _first_reference(self, batch: Batch) -> Tensor | None:
        stacked, masks = batch.get("image_reference"), batch.get("mask_reference")
        if stacked is None or masks is None:
            return None
        first: Tensor = stacked[:_SHOWN, : stacked.shape[1] // masks.shape[1]]
        return first


def _nearest(image: Tensor, scale: int) -> Tensor:
    return image.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)


def _samples(*parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Cut batches into samples, each still a batch."""
    return zip(*(torch.split(part, 1) for part in parts), strict=True)


def _around(network: Any) -> Iterator[Any]:
    """Go from a network to the one it is built around, and so on."""
    while isinstance(network, nn.Module):
        yield network
        network = next((held for at in _WRAPPED if isinstance(held := getattr(network, at, None), nn.Module)), None)
