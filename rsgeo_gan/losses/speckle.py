"""How strong speckle is in homogeneous places: what the noise of a generator is brought to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan.losses.reconstruction import masked_mean

__all__ = ["speckle_distance"]

_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Quantiles of the local deviation that stand for homogeneous places; those above belong to edges and texture."""
_EPSILON = 1e-4


def speckle_distance(
    fake: Tensor, real: Tensor, mask_fake: Tensor | None = None, mask_real: Tensor | None = None, side: int = 7
) -> Tensor:
    """Mean absolute difference of log deviations within windows, between equal quantiles of the less varied half.

    Images in dB: there, speckle deviates alike whatever the backscatter. The windows are compared as two sets, so it
    does not matter how the images are aligned. The log makes it a ratio: 0.1 is about 10 % in deviation.

    Args:
        fake: Shape (B, C, H, W).
        real: Same bands, any size.
        mask_fake: Validity, shape (B, 1, H, W); only wholly valid windows count.
        mask_real: Likewise.
        side: Of the windows, in pixels; they overlap by half.

    Returns:
        Scalar, float32, mean over bands; zero when a side has no wholly valid window.
    """
    found = [_deviations(image.float(), mask, side) for image, mask in ((fake, mask_fake), (real, mask_real))]
    if not all(len(values) for values in found):
        return fake.new_zeros((), dtype=torch.float32)
    shares = found[0].new_tensor(_SHARES)
    a, b = (torch.quantile(values, shares, dim=0) for values in found)
    return masked_mean((a - b.detach()).abs()[None, None])


def _deviations(image: Tensor, mask: Tensor | None, side: int) -> Tensor:
    """Log deviation by window and band, (windows, C)."""
    side = min(side, *image.shape[-2:])
    step = max(1, side // 2)
    if mask is not None:
        image = torch.where(mask > 0, image, image.new_zeros(()))
    mean = F.avg_pool2d(image, side, step)
    # From the mean of the whole image: squares of small differences would drown in those of the level.
    centre = image.mean(dim=(2, 3), keepdim=True).detach()
    spread = F.avg_pool2d((image - centre).square(), side, step) - (mean - centre).square()
    logs = 0.5 * spread.clamp_min(_EPSILON**2).log()
    rows = logs.permute(0, 2, 3, 1).flatten(0, 2)
    if mask is None:
        return rows
    whole = -F.max_pool2d(-mask.float(), side, step) > 0
    return rows[whole.flatten()]
