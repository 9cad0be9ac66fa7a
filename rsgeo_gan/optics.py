"""How an instrument of larger pixels would see an image: blurred as by its optics, and thinned out.

The contrast that optics and detector leave at the instrument's own Nyquist frequency (MTF) is the one fact of the blur,
a Gaussian. Blurring and thinning are one small banded matrix for each axis. Invalid pixels have no weight; neither has
what lies beyond the edge, so that constants stay constant everywhere.

Reference: Aiazzi et al., MTF-tailored multiscale fusion of high-resolution MS and Pan imagery, PE&RS 72, 2006.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["MTF", "reach_px", "sigma_px", "thin", "thinned", "weights"]

MTF = 0.2
"""Contrast at the Nyquist frequency where nothing is known of an instrument; most are built for 0.1 to 0.3."""

LEAST_WEIGHT = 0.25
"""Least share of a coarse pixel's weight on valid pixels."""

_SIGMAS = 4.0


def sigma_px(scale: int, mtf: float) -> float:
    """Return the standard deviation of the Gaussian that leaves a contrast at the coarse Nyquist frequency.

    Args:
        scale: Fine pixels per coarse pixel, at least 1.
        mtf: Contrast at 1 / (2 scale) cycles per fine pixel, in (0, 1).

    Returns:
        Fine pixels.

    Raises:
        ValueError: If scale or mtf lie outside.
    """
    if scale < 1 or not 0 < mtf < 1:
        raise ValueError(f"expected a scale of at least 1 and an MTF between 0 and 1, got {scale} and {mtf}")
    return scale / math.pi * math.sqrt(-2 * math.log(mtf))


def reach_px(scale: int, mtf: float | Sequence[float] | None) -> int:
    """Return how far beyond a coarse pixel its fine pixels have weight, in whole coarse pixels; 0 for plain means."""
    if mtf is None:
        return 0
    lowest = min(mtf) if isinstance(mtf, Sequence) else mtf
    return math.ceil(max(0.0, _SIGMAS * sigma_px(scale, lowest) - scale / 2) / scale)


@lru_cache(maxsize=256)
def weights(coarse: int, scale: int, mtf: float | None) -> NDArray[np.float32]:
    """Return the weight of every fine pixel in every coarse pixel of one axis, both counted from the same corner.

    Args:
        coarse: Number of coarse pixels.
        scale: Fine pixels per coarse pixel.
        mtf: Contrast at the coarse Nyquist frequency; None for the plain mean of `scale` pixels.

    Returns:
        Shape (coarse, coarse · scale), read-only; rows sum to 1, and to less where weight lies beyond the edges.
    """
    if mtf is None:
        found = np.kron(np.eye(coarse), np.full((1, scale), 1 / scale))
    else:
        sigma = sigma_px(scale, mtf)
        room = reach_px(scale, mtf) * scale
        away = np.arange(-room, scale + room) + 0.5 - scale / 2
        taps = np.exp(-(away**2) / (2 * sigma**2))
        taps /= taps.sum()
        found = np.zeros((coarse, coarse * scale + 2 * room))
        for row in range(coarse):
            found[row, row * scale : row * scale + len(taps)] = taps
        found = found[:, room : room + coarse * scale]
    made = found.astype(np.float32)
    made.flags.writeable = False
    return made


def thinned(values: NDArray[np.floating], scale: int, mtf: float | None = MTF) -> NDArray[np.float32]:
    """Show an image as an instrument of larger pixels would.

    Args:
        values: Linear quantities, shape (C, s h, s w), NaN where invalid.
        scale: Fine pixels per coarse pixel.
        mtf: Contrast at the coarse Nyquist frequency; None for plain means.

    Returns:
        float32 of shape (C, h, w), NaN where not all own fine pixels of a coarse one are valid, or less than a quarter
        of its weight is.

    Raises:
        ValueError: If the sides are no whole multiples of the scale.
    """
    valid = np.isfinite(values).all(axis=0)
    image, share, whole = thin(np.where(valid, values, 0).astype(np.float32), valid.astype(np.float32), scale, mtf)
    seen = whole & (share >= LEAST_WEIGHT)
    return np.where(seen, image / np.maximum(share, 1e-6), np.float32(np.nan)).astype(np.float32)


def thin(
    image: NDArray[np.float32], mask: NDArray[np.float32], scale: int, mtf: float | None
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return weighted sums (C, h, w), their weights (h, w), and which coarse pixels have all their fine ones."""
    height, width = image.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f"expected sides of whole multiples of {scale}, got {height} x {width} pixels")
    rows, cols = height // scale, width // scale
    down, across = weights(rows, scale, mtf), weights(cols, scale, mtf).T
    whole = mask.reshape(rows, scale, cols, scale).min(axis=(1, 3)) > 0
    total: NDArray[np.float32] = np.matmul(np.matmul(down, image), across, dtype=np.float32)
    share: NDArray[np.float32] = np.matmul(np.matmul(down, mask), across, dtype=np.float32)
    return total, share, whole
