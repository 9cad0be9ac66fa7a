"""Offset between two sets of patches of one modality, to hundredths of a pixel, with its uncertainty."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan.metrics.similarity import check_pair

__all__ = ["Drift", "drift"]

_STEP_PX = 0.1
_CUT = 0.25
"""Cycles per pixel at which the correlation's weight has fallen to 1/e: speckle and aliasing lie above."""
_RESAMPLES = 200
_EDGE_PX = 4
"""Half the width over which the weight falls to 0 beside holes: a sharp edge would be matched with itself."""


class Drift(NamedTuple):
    """One offset of all patches together.

    Attributes:
        shift: (dx, dy), shape (2,), pixels: where the target's content lies relative to the prediction's, +x right, +y
            down. NaN where nothing could be compared or the best offset lies at the edge of the search.
        error: Standard error of both, shape (2,), from resampled patches; NaN for a single patch.
    """

    shift: Tensor
    error: Tensor


@torch.no_grad()
def drift(pred: Tensor, target: Tensor, mask: Tensor | None = None, radius_px: float = 2.0) -> Drift:
    """Find the sub-pixel offset at which all patches of `target` correlate best with those of `pred`.

    Correlations are interpolated exactly (in Fourier space) on a grid of offsets, added over patches and bands, and
    divided by the correlation of the windows alone, without which any window pulls the peak towards zero.

    Args:
        pred: Shape (B, C, H, W).
        target: Same shape; brightness and contrast may differ.
        mask: Pixels valid in both, shape (B, 1, H, W).
        radius_px: Largest offset per axis.

    Returns:
        Offset and standard error, float32.

    Raises:
        ValueError: If shapes differ or the radius is not below a quarter of the image.
    """
    check_pair("drift", pred, target, mask)
    h, w = pred.shape[-2:]
    if not 0 < radius_px < min(h, w) / 4:
        raise ValueError(f"drift: expected 0 < radius_px < {min(h, w) / 4} (a quarter of the patch), got {radius_px}")
    rows, columns = (torch.hann_window(n, periodic=False, dtype=torch.float64, device=pred.device) for n in (h, w))
    weight = rows[:, None] * columns * torch.ones_like(pred[:, :1], dtype=torch.float64)
    if mask is not None:
        weight = weight * _soft((mask > 0).to(weight))
    usable = weight.sum(dim=(1, 2, 3)) > 0.1 * rows.sum() * columns.sum()
    weight, sides = weight[usable], [v[usable].to(torch.float64) for v in (pred, target)]
    if not len(weight):
        nothing = torch.full((2,), torch.nan)
        return Drift(nothing, nothing)
    steps = round(radius_px / _STEP_PX) + 1
    offsets = torch.arange(-steps, steps + 1, device=weight.device, dtype=torch.float64) * _STEP_PX
    spectrum_pred, spectrum_target = (_spectrum(v, weight) for v in sides)
    matched = _correlation(spectrum_pred, spectrum_target, offsets, _CUT).sum(dim=1)  # (B, dy, dx)
    windows = torch.fft.fft2(weight, s=_padded(h, w))
    overlap = _correlation(windows, windows, offsets, math.inf).sum(dim=1)
    shift = _peak(matched.sum(dim=0) / overlap.sum(dim=0), offsets)
    draw = torch.Generator().manual_seed(0)
    picked = [torch.randint(len(matched), (len(matched),), generator=draw) for _ in range(_RESAMPLES)]
    again = torch.stack([_peak(matched[i].sum(dim=0) / overlap[i].sum(dim=0), offsets) for i in picked])
    error = again.std(dim=0) if len(matched) > 1 else torch.full((2,), torch.nan)
    return Drift(shift.float().cpu(), error.float().cpu())


def _soft(mask: Tensor) -> Tensor:
    """Weight that falls smoothly to 0 before it reaches a hole."""
    side = 2 * _EDGE_PX + 1
    for _ in range(2):
        mask = F.avg_pool2d(-F.max_pool2d(-mask, side, 1, _EDGE_PX), side, 1, _EDGE_PX, count_include_pad=False)
    return mask


def _padded(h: int, w: int) -> tuple[int, int]:
    """Room enough that a window does not meet its own other end."""
    return 2 * h, 2 * w


def _spectrum(image: Tensor, weight: Tensor) -> Tensor:
    """Spectrum of weighted, centred patches of equal energy; a band without contrast gives nothing."""
    image = torch.where(weight > 0, image, image.new_zeros(()))
    image = (image - (image * weight).sum(dim=(2, 3), keepdim=True) / weight.sum(dim=(2, 3), keepdim=True)) * weight
    energy = image.square().sum(dim=(2, 3), keepdim=True).sqrt()
    return torch.fft.fft2(image / energy.clamp_min(1e-12), s=_padded(*image.shape[-2:]))


def _correlation(a: Tensor, b: Tensor, offsets: Tensor, cut: float) -> Tensor:
    """Correlation at every offset of both axes, (B, C, dy, dx)."""
    fy, fx = (torch.fft.fftfreq(n, dtype=torch.float64, device=a.device) for n in a.shape[-2:])
    kept = torch.exp(-(fy[:, None].square() + fx.square()) / cut**2)
    ey, ex = (torch.exp(2j * math.pi * offsets[:, None] * f) for f in (fy, fx))
    return (ey @ (a.conj() * b * kept) @ ex.T).real


def _peak(surface: Tensor, offsets: Tensor) -> Tensor:
    """Place of the maximum, refined by a parabola along each axis, (dx, dy)."""
    n = len(offsets)
    row, column = divmod(int(surface.argmax()), n)
    if not (0 < row < n - 1 and 0 < column < n - 1):
        return surface.new_full((2,), torch.nan)
    found = []
    for at, line in ((column, surface[row]), (row, surface[:, column])):
        before, here, after = line[at - 1 : at + 2]
        found.append(offsets[at] + 0.5 * _STEP_PX * (before - after) / (before - 2 * here + after))
    return torch.stack(found)
