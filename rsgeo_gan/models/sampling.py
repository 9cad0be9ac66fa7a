"""Between a coarse grid and one `scale` times finer, upper-left corners shared: up, down, and filling of gaps.

Every operator is shift-invariant by whole coarse pixels and repeats the edge, so that a window clipped at a scene's
edge computes there what the whole scene computes. None loses digits under mixed precision.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan.optics import weights

__all__ = ["FILL_PX", "UP_PX", "coarsen", "enlarge", "fill", "repeat_up", "upsample"]

UP_PX = 2
"""Coarse pixels that `upsample` looks to either side."""
FILL_PX = 2
"""Pixels into a gap that `fill` continues its border, just what `upsample` needs of it."""
_KEYS = -0.5
"""Slope of the cubic kernel at 1; this one reproduces parabolas (Keys, 1981, doi:10.1109/TASSP.1981.1163711)."""


def enlarge(low: Tensor, scale: int, mask: Tensor | None = None) -> Tensor:
    """Fill the gaps of an image and interpolate it, (B, C, h, w) to (B, C, scale h, scale w), float32."""
    return upsample(fill(low.float(), mask), scale)


def upsample(image: Tensor, scale: int) -> Tensor:
    """Interpolate by cubic convolution.

    Args:
        image: Shape (B, C, h, w).
        scale: Fine pixels per coarse pixel, >= 1.

    Returns:
        Shape (B, C, scale h, scale w).
    """
    if scale == 1:
        return image
    b, c, h, w = image.shape
    taps = _cubic(scale, image.dtype, image.device)
    x = image.reshape(b * c, 1, h, w)
    with _exact(image):
        x = F.conv2d(F.pad(x, (0, 0, UP_PX, UP_PX), mode="replicate"), taps[:, None, :, None])
        x = x.permute(0, 2, 1, 3).reshape(b * c, 1, scale * h, w)
        x = F.conv2d(F.pad(x, (UP_PX, UP_PX, 0, 0), mode="replicate"), taps[:, None, None, :])
    return x.permute(0, 2, 3, 1).reshape(b, c, scale * h, scale * w)


def repeat_up(image: Tensor, scale: int) -> Tensor:
    """Repeat every pixel of (B, C, h, w) to a square of `scale` by `scale`."""
    return F.interpolate(image, scale_factor=scale, mode="nearest")


def coarsen(image: Tensor, scale: int, mtf: float | None = None) -> Tensor:
    """Show an image as an instrument of larger pixels would, see `rsgeo_gan.optics`.

    Args:
        image: Shape (B, C, scale h, scale w).
        scale: Fine pixels per coarse pixel.
        mtf: Contrast that optics and detector leave at the coarse grid's Nyquist frequency, in (0, 1); None averages
            squares instead.

    Returns:
        Shape (B, C, h, w); a constant image stays constant.
    """
    if mtf is None:
        return F.avg_pool2d(image, scale)
    down, across = (_blur(size // scale, scale, mtf, image.dtype, image.device) for size in image.shape[-2:])
    with _exact(image):
        return down @ image @ across.T


def fill(image: Tensor, mask: Tensor | None, rounds: int = FILL_PX) -> Tensor:
    """Continue an image into its gaps: ring by ring the mean of the known among the eight neighbours, then 0.

    Args:
        image: Shape (B, C, H, W); what lies under 0 of the mask is ignored, even when not finite.
        mask: Validity, shape (B, 1, H, W), or (B, C, H, W) for gaps of their own in every channel.
        rounds: Rings to fill, pixels.

    Returns:
        Finite image of the same shape, unchanged where valid.
    """
    if mask is None:
        return image
    known = (mask > 0).to(image)
    x = torch.where(known > 0, image, image.new_zeros(()))
    for _ in range(rounds):
        count = _around(known)
        mean = _around(x) / count.clamp_min(1)
        x = torch.where(known > 0, x, mean)
        known = (count > 0).to(image)
    return x


def _around(x: Tensor) -> Tensor:
    """Sum over 3 x 3 pixels, nothing past the edge."""
    return 9 * F.avg_pool2d(x, 3, 1, 1)


def _exact(image: Tensor) -> AbstractContextManager[object]:
    """Leave mixed precision, in which convolutions and products would be rounded to half the digits."""
    kind = image.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


@cache
def _cubic(scale: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights of the five nearest coarse pixels for every fine pixel within one, shape (scale, 5)."""
    # What is made in inference mode could not be learned through later.
    with torch.inference_mode(False):
        within = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
        away = (torch.arange(-UP_PX, UP_PX + 1) - within[:, None]).abs()
        near = (_KEYS + 2) * away**3 - (_KEYS + 3) * away**2 + 1
        far = _KEYS * (away**3 - 5 * away**2 + 8 * away - 4)
        return torch.where(away <= 1, near, torch.where(away < 2, far, 0.0)).to(device, dtype)


@cache
def _blur(coarse: int, scale: int, mtf: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights of fine pixels in coarse ones along one axis, shape (coarse, scale coarse)."""
    with torch.inference_mode(False):
        rows = torch.from_numpy(weights(coarse, scale, mtf).copy())
        return (rows / rows.sum(dim=1, keepdim=True)).to(device, dtype)
