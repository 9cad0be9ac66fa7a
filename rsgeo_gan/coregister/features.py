"""Descriptors of structure that look alike in optical and SAR images.

Each one turns a stack of bands into a few channels that depend on where edges are and how they run, not
on which side of an edge is brighter: the gradient strength relative to its neighbourhood, and twice the
angle of the gradient, which is the same for an edge and its negative. The channels are what is correlated.
"""

from __future__ import annotations

from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["METHODS", "Descriptor", "double_angle", "gradient_magnitude", "structure"]

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

_GRADIENT_SIGMA_PX = 1.0
_CHANNEL_SIGMA_PX = 1.8
_NEIGHBOURHOOD_PX = 25
_LOG_FLOOR = 0.1
_FULL = 0.98


class Descriptor(Protocol):
    """What turns bands into channels to correlate."""

    def __call__(self, bands: Image, valid: Mask) -> tuple[Image, Mask]:
        """Describe an image.

        Args:
            bands: Bands, shape (B, H, W), float32, in units that may be averaged (reflectance, digital
                numbers, linear power). Values under an invalid mask are never looked at.
            valid: Where the bands hold data, shape (H, W).

        Returns:
            Channels, shape (C, H, W), float32, zero where they are not defined, and the mask where they
            are, shape (H, W): the valid area without a rim of the filters' reach.
        """
        ...


def structure(bands: Image, valid: Mask) -> tuple[Image, Mask]:
    """Describe an image by relative gradient strength and double-angle direction, three channels."""
    strength, cosine, sine, keep = _edges(bands, valid)
    return _finish([_above_surroundings(strength, keep), cosine, sine], keep), keep


def double_angle(bands: Image, valid: Mask) -> tuple[Image, Mask]:
    """Describe an image by the double angle of its gradients, weighted by their strength, two channels."""
    _, cosine, sine, keep = _edges(bands, valid)
    return _finish([cosine, sine], keep), keep


def gradient_magnitude(bands: Image, valid: Mask) -> tuple[Image, Mask]:
    """Describe an image by its relative gradient strength alone, one channel."""
    strength, _, _, keep = _edges(bands, valid)
    return _finish([_above_surroundings(strength, keep)], keep), keep


METHODS: dict[str, Descriptor] = {
    "structure": structure,
    "double-angle": double_angle,
    "gradient": gradient_magnitude,
}
"""Descriptors by the name `register` knows them by."""


def _edges(bands: Image, valid: Mask) -> tuple[Image, Image, Image, Mask]:
    """Relative gradient strength in [0, 1), its double-angle cosine and sine parts, and their mask.

    The parts of several bands are averaged after each has been made relative to its own neighbourhood,
    so bands that run against each other do not cancel, and two polarisations halve the speckle.
    """
    weight = _blur(valid.astype(np.float32), _GRADIENT_SIGMA_PX)
    keep: Mask = (weight > _FULL) & valid
    share = _mean_around(keep.astype(np.float32))
    strength, cosine, sine = (np.zeros(valid.shape, np.float32) for _ in range(3))
    for band in bands:
        gx, gy = _gradient(band, valid, weight, keep)
        magnitude = np.hypot(gx, gy)
        usual = float(magnitude.sum()) / max(int(keep.sum()), 1)
        around = _mean_around(magnitude) / np.maximum(share, 1e-3)
        relative = magnitude / (around + np.float32(0.05 * usual + 1e-12))
        relative /= 1.0 + relative
        unit = 1.0 / np.maximum(magnitude, 1e-12)
        c, s = gx * unit, gy * unit
        strength += relative
        cosine += relative * (c * c - s * s)
        sine += relative * (2.0 * c * s)
    n = np.float32(max(len(bands), 1))
    return strength / n, cosine / n, sine / n, keep


def _gradient(band: Image, valid: Mask, weight: Image, keep: Mask) -> tuple[Image, Image]:
    """Gradient of the smoothed band; of its logarithm when no value is negative, as speckle wants."""
    values = band[valid]
    if not len(values):
        empty = np.zeros(valid.shape, np.float32)
        return empty, empty.copy()
    filled = np.where(valid, band, np.float32(0.0))
    smooth: Image = cast(Image, _blur(filled, _GRADIENT_SIGMA_PX) / np.maximum(weight, np.float32(1e-3)))
    if values.min() >= 0:
        sample = values[:: max(1, len(values) // 50_000)]
        level = float(np.median(sample)) or float(sample.mean())
        if level > 0:
            ratio = np.maximum(smooth, 0.0) / np.float32(level) + np.float32(_LOG_FLOOR)
            smooth = cast(Image, np.log(ratio))
    gx, gy = np.zeros_like(smooth), np.zeros_like(smooth)
    gx[:, 1:-1] = 0.5 * (smooth[:, 2:] - smooth[:, :-2])
    gy[1:-1] = 0.5 * (smooth[2:] - smooth[:-2])
    gx[~keep] = 0.0
    gy[~keep] = 0.0
    return gx, gy


def _above_surroundings(strength: Image, keep: Mask) -> Image:
    """Strength minus its local mean, so that a busy area does not attract everything."""
    share = np.maximum(_mean_around(keep.astype(np.float32)), 1e-3)
    return cast(Image, strength - _mean_around(strength * keep) / share)


def _finish(channels: list[Image], keep: Mask) -> Image:
    """Smooth the channels, which widens the capture range, and clear them outside the mask."""
    out = np.stack([_blur(np.where(keep, c, np.float32(0.0)), _CHANNEL_SIGMA_PX) for c in channels])
    out[:, ~keep] = 0.0
    return np.ascontiguousarray(out, np.float32)


def _blur(image: Image, sigma: float) -> Image:
    """Gaussian smoothing with zeros outside the raster."""
    blurred: Image = ndimage.gaussian_filter(image, sigma, mode="constant", truncate=3.0)
    return blurred


def _mean_around(image: Image) -> Image:
    """Mean over a square neighbourhood with zeros outside the raster."""
    mean: Image = ndimage.uniform_filter(image, _NEIGHBOURHOOD_PX, mode="constant")
    return mean
