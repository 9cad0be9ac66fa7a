"""Scores of a trained system against the target as it truly lies, on places it has not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.coregister import METHODS
from rsgeo_gan.datasets import TileDataset
from rsgeo_gan.losses import PairLoss
from rsgeo_gan.metrics import (
    FrechetDistance,
    RandomConv,
    amplitude_distance,
    drift,
    enl_map,
    log_spectral_distance,
    multilook,
    multilook_score,
    shift_response,
)
from rsgeo_gan.sensors import Scaler
from rsgeo_gan.tasks import AdversarialTask, CycleTranslation

LOOKS = 7
PATCH_PX = 64
SHIFTS = (1, 2, 3, 8)
STRIPS = 3
_VALID = 0.98
_ACROSS_TILES, _ACROSS_GROUPS, _ACROSS_PX = 64, 8, 4.0
"""Tiles whose structure is matched across modalities, groups that are left out in turn, and the search, pixels."""

Images = tuple[Tensor, Tensor, Tensor]


def images(tiles: Path, facts: dict[str, Any], every: int = 1) -> Images:
    """Read source, target and mask of the tiles that are almost wholly valid, model domain."""
    scalers = [Scaler.from_dict(facts[side]) for side in ("source", "target")]
    data = TileDataset(tiles, None, 0, *scalers)
    found = [data[index] for index in range(0, len(data), every)]
    masks = [sample["mask_valid"] * sample["mask_valid_target"] for sample in found]
    kept = [k for k, mask in enumerate(masks) if mask.mean() >= _VALID]
    return (
        torch.stack([found[k]["image"] for k in kept]),
        torch.stack([found[k]["image_target"] for k in kept]),
        torch.stack([masks[k] for k in kept]),
    )


class Judge:
    """Holds what all systems are compared with.

    Args:
        train: Training tiles; the feature network is fitted on their targets.
        test: Tiles of other places.
        facts: The task's facts: scalers of both sides.
    """

    def __init__(self, train: Path, test: Path, facts: dict[str, Any]) -> None:
        self.scaler = Scaler.from_dict(facts["target"])
        self.source, self.target, self.mask = images(test, facts)
        backend = RandomConv(self.target.shape[1]).fit([_patches(images(train, facts, every=2)[1])])
        self.backend = backend
        self.chosen = torch.linspace(0, len(self.source) - 1, STRIPS + 2).long()[1:-1]
        self.span = float(max(b - a for a, b in zip(self.scaler.low, self.scaler.high, strict=True)))
        self.optical = Scaler.from_dict(facts["source"])
        self.whole = self.mask.flatten(1).all(dim=1).nonzero()[:, 0]
        self.whole = self.whole[torch.linspace(0, len(self.whole) - 1, min(_ACROSS_TILES, len(self.whole))).long()]
        values = torch.from_numpy(self.optical.inverse(self.source[self.whole].numpy()))
        self.source_structure = _structure(values)
        self.target_structure = _structure(self.linear(self.target[self.whole]))

    def linear(self, model: Tensor) -> Tensor:
        """Bring model values to what may be averaged: power, or display values."""
        values = torch.from_numpy(self.scaler.inverse(model.numpy()))
        return 10 ** (values / 10) if self.scaler.unit == "dB" else values.clamp_min(0)

    @torch.no_grad()
    def __call__(self, task: AdversarialTask) -> dict[str, Any]:
        """Score a task: places and values by the image without drawn speckle, looks and texture by the one with it."""
        clean, fake = self._made(task, speckle=False), self._made(task, speckle=True)
        a, b = self.linear(fake), self.linear(self.target)
        distance = FrechetDistance(self.backend)
        distance.update(_patches(self.target), real=True)
        distance.update(_patches(fake), real=False)
        off = drift(clean, self.target, self.mask)
        scores: dict[str, Any] = {
            **self._agreement(clean),
            **{f"speckled_{name}": value for name, value in self._agreement(fake).items()},
            "spectrum_db": float(log_spectral_distance(fake, self.target)),
            "fd": float(distance.compute()),
            "ks": float(amplitude_distance(fake, self.target).ks),
            "drift_px": [round(float(v), 3) for v in off.shift],
            "drift_error_px": [round(float(v), 3) for v in off.error],
            **self._across(clean),
        }
        if self.scaler.unit == "dB":
            scores["enl_ratio"] = float(_looks(a, self.mask) / _looks(b, self.mask))
        correspondence = getattr(task, "correspondence", None)
        if isinstance(task, CycleTranslation) and isinstance(correspondence, PairLoss):
            scores["response"] = self._response(task, correspondence)
        return scores

    def _made(self, task: Any, *, speckle: bool) -> Tensor:
        channels = getattr(task.generator, "noise_channels", 0)
        if not speckle:
            task.generator.noise_channels = 0
        try:
            return torch.cat([task(x, m) for x, m in zip(self.source.split(8), self.mask.split(8), strict=True)])
        finally:
            task.generator.noise_channels = channels

    def _across(self, clean: Tensor) -> dict[str, list[float]]:
        """Where the product's and the target's structure lie as seen from the source: offsets, and their difference.

        The standard error is the jackknife's over groups of tiles, of the difference itself: both offsets share the
        source's structure, so their errors are not independent.
        """
        made = _structure(self.linear(clean[self.whole]))
        groups = torch.arange(len(made)) % _ACROSS_GROUPS

        def offsets(kept: Tensor) -> Tensor:
            seen = self.source_structure[kept]
            return torch.stack(
                [drift(seen, other[kept], radius_px=_ACROSS_PX).shift for other in (made, self.target_structure)]
            )

        product, target = offsets(groups >= 0)
        left = torch.stack([offsets(groups != k) for k in range(_ACROSS_GROUPS)])
        apart = left[:, 0] - left[:, 1]
        error = ((_ACROSS_GROUPS - 1) * apart.var(dim=0, unbiased=False)).sqrt()
        found = {"source_product_px": product, "source_target_px": target}
        found |= {"across_px": product - target, "across_error_px": error}
        return {name: [round(float(v), 3) for v in value] for name, value in found.items()}

    def _agreement(self, fake: Tensor) -> dict[str, float]:
        """Correlation, SSIM and PSNR after averaging 7 x 7 looks, in dB where the target is in dB."""
        scale = "dB" if self.scaler.unit == "dB" else "linear"
        a, b = self.linear(fake), self.linear(self.target)
        agreement = multilook_score(a, b, self.span, LOOKS, self.mask, scale=scale)  # type: ignore[arg-type]
        seen, true = (multilook(v, LOOKS, self.mask)[0] for v in (a, b))
        if scale == "dB":
            seen, true = (10 * v.clamp_min(1e-5).log10() for v in (seen, true))
        return {
            "correlation": float(agreement.correlation.nanmean()),
            "ssim": float(agreement.ssim.nanmean()),
            "psnr_db": float(10 * torch.log10(self.span**2 / (seen - true).square().mean())),
        }

    def _response(self, task: CycleTranslation, loss: PairLoss) -> dict[str, list[float]]:
        """Shift response of the trained encoder of the source, as the loss uses it, literally, and of the image."""
        picked = self.source[self.mask.flatten(1).all(dim=1)][:24]
        encoder: Any = loss.encoder if loss.encoder is not None else task.generator.encoder
        literal = PairLoss(antialias=False)

        def rounded(values: Tensor) -> list[float]:
            return [round(float(v), 3) for v in values]

        return {
            "image": rounded(shift_response(nn.Identity(), picked, SHIFTS)),
            "pooled image": rounded(shift_response(lambda x: F.avg_pool2d(x, 4), picked, SHIFTS)),
            "anti-aliased": rounded(
                shift_response(lambda x: PairLoss().features(encoder, x)["down2"], picked, SHIFTS, margin_px=16)
            ),
            "literal": rounded(
                shift_response(lambda x: literal.features(encoder, x)["down2"], picked, SHIFTS, margin_px=16)
            ),
        }

    @torch.no_grad()
    def strip(self, task: AdversarialTask) -> Tensor:
        """Translate the tiles shown in the pictures."""
        return task(self.source[self.chosen], self.mask[self.chosen])  # type: ignore[no-any-return]

    def shown(self) -> dict[str, Tensor]:
        """Return source and true target of those tiles."""
        return {"source": self.source[self.chosen], "target": self.target[self.chosen]}


def _structure(values: Tensor) -> Tensor:
    """Describe images by what looks alike in both modalities, as co-registration does: (B, C, H, W) to (B, 3, H, W)."""
    everywhere = np.ones(values.shape[-2:], bool)
    return torch.stack([torch.from_numpy(METHODS["structure"](v.numpy(), everywhere)[0]) for v in values.float()])


def _patches(batch: Tensor) -> Tensor:
    """Cut tiles into patches of 64 px."""
    side = min(PATCH_PX, *batch.shape[-2:])
    cut = batch.unfold(2, side, side).unfold(3, side, side)  # (B, C, rows, columns, side, side)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, batch.shape[1], side, side)


def _looks(linear: Tensor, mask: Tensor) -> Tensor:
    """Looks of homogeneous places: the upper decile over windows, mean over bands."""
    found = enl_map(linear, LOOKS, mask).transpose(0, 1).flatten(1)
    return found.nanquantile(0.9, dim=1).mean()
