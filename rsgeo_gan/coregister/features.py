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
_ROUNDING = 1e-4


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
    return _finish([strength, cosine, sine], keep), keep


def double_angle(bands: Image, valid: Mask) -> tuple[Image, Mask]:
    """Describe an image by the double angle of its gradients, weighted by their strength, two channels."""
    _, cosine, sine, keep = _edges(bands, valid)
    return _finish([cosine, sine], keep), keep


def gradient_magnitude(bands: Image, valid: Mask) -> tuple[Image, Mask]:
    """Describe an image by its relative gradient strength alone, one channel."""
    strength, _, _, keep = _edges(bands, valid)
    return _finish([strength], keep), keep


METHODS: dict[str, Descriptor] = {
    "structure": structure,
    "double-angle": double_angle,
    "gradient": gradient_magnitude,
}
"""Descriptors by the name `register` knows them by."""


def _edges(bands: Image, valid: Mask) -> tuple[Image, Image, Image, Mask]:
    """Gradient strength in [0, 1) less its local mean, its double-angle cosine and sine, and their mask.

    The parts of several bands are averaged after each has been made relative to its own neighbourhood,
    so bands that run against each other do not cancel, and two polarisations halve the speckle.
    """
    weight = _inside(valid) if valid.all() else _blur(valid.astype(np.float32), _GRADIENT_SIGMA_PX)
    keep: Mask = (weight > _FULL) & valid
    share = np.maximum(_mean_around(keep.astype(np.float32)), np.float32(1e-3))
    strength, cosine, sine = (np.zeros(valid.shape, np.float32) for _ in range(3))
    for band in bands:
        gx, gy, floor = _gradient(band, valid, weight, keep)
        xx, yy = gx * gx, gy * gy
        squared = xx + yy
        relative = np.sqrt(squared)
        usual = float(relative.sum()) / max(int(keep.sum()), 1)
        around = _mean_around(relative)
        around /= share
        around += np.float32(0.05 * usual + floor)
        relative /= around
        relative /= 1.0 + relative
        strength += relative
        # cos 2a and sin 2a are (gx² - gy²) and 2 gx gy over the squared length.
        relative /= np.maximum(squared, np.float32(1e-24))
        cosine += relative * (xx - yy)
        gx *= gy
        sine += relative * gx
    sine *= 2.0
    strength -= _mean_around(strength) / share
    n = np.float32(max(len(bands), 1))
    return strength / n, cosine / n, sine / n, keep


def _gradient(band: Image, valid: Mask, weight: Image, keep: Mask) -> tuple[Image, Image, float]:
    """Gradient of the smoothed band, and the strength below which it is rounding.

    The gradient of the logarithm is taken when no value is negative, as speckle wants.
    """
    values = band[valid]
    if not len(values):
        empty = np.zeros(valid.shape, np.float32)
        return empty, empty.copy(), 1.0
    filled = np.where(valid, band, np.float32(0.0))
    smooth: Image = cast(Image, _blur(filled, _GRADIENT_SIGMA_PX) / np.maximum(weight, np.float32(1e-3)))
    sample = np.abs(values[:: max(1, len(values) // 50_000)])
    level = float(np.median(sample)) or float(sample.mean())
    floor = _ROUNDING * level + 1e-12
    if values.min() >= 0 and level > 0:
        floor = _ROUNDING
        ratio = np.maximum(smooth, 0.0) / np.float32(level) + np.float32(_LOG_FLOOR)
        smooth = cast(Image, np.log(ratio))
    gx, gy = np.zeros_like(smooth), np.zeros_like(smooth)
    gx[:, 1:-1] = 0.5 * (smooth[:, 2:] - smooth[:, :-2])
    gy[1:-1] = 0.5 * (smooth[2:] - smooth[:-2])
    gx[~keep] = 0.0
    gy[~keep] = 0.0
    return gx, gy, floor


def _finish(channels: list[Image], keep: Mask) -> Image:
    """Smooth the channels, which widens the capture range, and clear them outside the mask."""
    out = np.empty((len(channels), *keep.shape), np.float32)
    for channel, smooth in zip(channels, out, strict=True):
        channel *= keep
        smooth[...] = _blur(channel, _CHANNEL_SIGMA_PX)
        smooth *= keep
    return out


def _blur(image: Image, sigma: float) -> Image:
    """Gaussian smoothing with zeros outside the raster."""
    blurred: Image = ndimage.gaussian_filter(image, sigma, mode="constant", truncate=3.0)
    return blurred


def _inside(valid: Mask) -> Image:
    """What `_blur` makes of a mask that is valid everywhere."""
    lines = [ndimage.gaussian_filter1d(np.ones(n, np.float32), _GRADIENT_SIGMA_PX, mode="constant", truncate=3.0)
             for n in valid.shape]  # fmt: skip
    return cast(Image, np.outer(*lines))


def _mean_around(image: Image) -> Image:
    """Mean over a square neighbourhood with zeros outside the raster and under the mask."""
    mean: Image = ndimage.uniform_filter(image, _NEIGHBOURHOOD_PX, mode="constant")
    return mean
