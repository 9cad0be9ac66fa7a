"""How strong speckle is in homogeneous places: what the noise of a generator is brought to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["speckle_distance"]

_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Quantiles of the local deviation that stand for homogeneous places; those above belong to edges and texture."""
_EPSILON = 1e-4


def speckle_distance(
    fake: Tensor, real: Tensor, mask_fake: Tensor | None = None, mask_real: Tensor | None = None, side: int = 7
) -> Tensor:
    """Compare deviation and skewness within windows, over the less varied half of the windows.

    The sum of the mean absolute difference of log deviations between equal quantiles, and of the difference of mean
    skewness. Images in dB: there, speckle deviates alike whatever the backscatter, and its skewness (-0.55 for four
    looks) tells it from symmetric noise, which would have fewer looks at the same deviation. The windows are compared
    as two sets, so it does not matter how the images are aligned. The log makes a ratio: 0.1 is about 10 % in
    deviation.

    Args:
        fake: Shape (B, C, H, W).
        real: Same bands, any size.
        mask_fake: Validity, shape (B, 1, H, W); only wholly valid windows count.
        mask_real: Likewise.
        side: Of the windows, in pixels; they overlap by half.

    Returns:
        Scalar, float32, mean over bands; zero when a side has no wholly valid window.
    """
    found = [_windows(image.float(), mask, side) for image, mask in ((fake, mask_fake), (real, mask_real))]
    if not all(len(logs) for logs, _ in found):
        return fake.new_zeros((), dtype=torch.float32)
    shares = found[0][0].new_tensor(_SHARES)
    deviations = [torch.quantile(logs, shares, dim=0) for logs, _ in found]
    skews = [_mean_of_calm(logs, skew) for logs, skew in found]
    a, b = (torch.cat([deviation, skew[None]]) for deviation, skew in zip(deviations, skews, strict=True))
    weights = a.new_tensor([1 / len(_SHARES)] * len(_SHARES) + [1.0])[:, None]
    return ((a - b.detach()).abs() * weights).sum(dim=0).mean()


def _mean_of_calm(logs: Tensor, skew: Tensor) -> Tensor:
    """Mean skewness of the less varied half of the windows, by band."""
    calm = (logs <= logs.median(dim=0).values).to(skew)
    return (skew * calm).sum(dim=0) / calm.sum(dim=0)


def _windows(image: Tensor, mask: Tensor | None, side: int) -> tuple[Tensor, Tensor]:
    """Log deviation and skewness by window and band, (windows, C) each."""
    side = min(side, *image.shape[-2:])
    step = max(1, side // 2)
    if mask is not None:
        image = torch.where(mask > 0, image, image.new_zeros(()))
    # From the mean of the whole image: squares of small differences would drown in those of the level.
    centre = image.mean(dim=(2, 3), keepdim=True).detach()
    moments = [F.avg_pool2d((image - centre) ** power, side, step) for power in (1, 2, 3)]
    first = moments[0]
    spread = (moments[1] - first.square()).clamp_min(_EPSILON**2)
    third = moments[2] - 3 * first * moments[1] + 2 * first**3
    rows = [part.permute(0, 2, 3, 1).flatten(0, 2) for part in (0.5 * spread.log(), third / spread**1.5)]
    if mask is not None:
        whole = (-F.max_pool2d(-mask.float(), side, step) > 0).flatten()
        rows = [part[whole] for part in rows]
    return rows[0], rows[1]
