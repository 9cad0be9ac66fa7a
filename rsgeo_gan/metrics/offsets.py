"""Where one image lies on another, to a fiftieth of a pixel, and how to move it there."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["offset", "shifted"]

_STEPS = 50
"""Parts of a pixel to which offsets are measured."""


def offset(moving: Tensor, fixed: Tensor, mask: Tensor | None) -> Tensor:
    """Shift (dx, dy), shape (B, 2), that brings `moving` onto `fixed`, by phase correlation of the bands' mean.

    To 1/50 px: the transform is evaluated exactly, on a fine grid around the best whole pixel.
    Reference: Guizar-Sicairos et al., 2008, doi:10.1364/OL.33.000156.
    """
    sides = []
    for image in (fixed, moving):
        grey = image.mean(dim=1).double()
        if mask is not None:
            valid = mask[:, 0] > 0
            level = torch.where(valid, grey, 0.0).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp_min(1)
            grey = torch.where(valid, grey, level[:, None, None])
        sides.append(torch.fft.fft2(grey))
    cross = sides[0] * sides[1].conj()
    cross = cross / cross.abs().clamp_min(100 * torch.finfo(cross.real.dtype).eps)
    h, w = cross.shape[-2:]
    peak = torch.fft.ifft2(cross).abs().flatten(1).argmax(dim=1)
    rows, columns = (
        torch.where(place > n // 2, place - n, place).double() for place, n in ((peak // w, h), (peak % w, w))
    )
    reach = math.ceil(0.75 * _STEPS)
    around = torch.arange(-reach, reach + 1, dtype=torch.float64, device=cross.device) / _STEPS
    waves = []
    for start, n in ((rows, h), (columns, w)):
        frequency = torch.fft.fftfreq(n, dtype=torch.float64, device=cross.device)
        angle = 2 * torch.pi * (start[:, None] + around)[..., None] * frequency
        waves.append(torch.polar(torch.ones_like(angle), angle))  # (B, steps, n)
    fine = torch.einsum("byh,bhw,bxw->byx", waves[0], cross, waves[1]).abs()
    best = fine.flatten(1).argmax(dim=1)
    return torch.stack([columns + around[best % len(around)], rows + around[best // len(around)]], dim=1).float()


def shifted(image: Tensor, shift: Tensor) -> Tensor:
    """Move content by (dx, dy), bilinear, edges repeated."""
    h, w = image.shape[-2:]
    dx, dy = shift.to(image).unbind(dim=1)
    x = (torch.arange(w, device=image.device) - dx[:, None, None]).expand(-1, h, -1)
    y = (torch.arange(h, device=image.device)[:, None] - dy[:, None, None]).expand(-1, -1, w)
    grid = torch.stack([2 * x / max(1, w - 1) - 1, 2 * y / max(1, h - 1) - 1], dim=-1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
