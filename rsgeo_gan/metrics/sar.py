"""SAR scores: looks, amplitude distribution, and agreement after averaging the speckle away.

Everything that averages works on linear intensity (power), never on decibel: the mean of dB values is not the
dB value of the mean.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan.metrics.similarity import check_pair, check_range, correlation, ssim

__all__ = [
    "AmplitudeDistance",
    "MultilookScore",
    "amplitude_distance",
    "enl",
    "enl_map",
    "multilook",
    "multilook_score",
]


class AmplitudeDistance(NamedTuple):
    """How far two sets of values are apart.

    Attributes:
        ks: Kolmogorov-Smirnov statistic, in [0, 1].
        wasserstein: Wasserstein-1 distance, in the units of the values.
    """

    ks: Tensor
    wasserstein: Tensor


class MultilookScore(NamedTuple):
    """Agreement of two multilooked images per sample, each of shape (B,)."""

    correlation: Tensor
    ssim: Tensor


def _check_linear(name: str, linear: Tensor, mask: Tensor | None) -> Tensor:
    """Return intensity with invalid pixels zeroed; refuse what cannot be power."""
    valid = torch.isfinite(linear)
    if mask is not None:
        if mask.shape[-2:] != linear.shape[-2:]:
            raise ValueError(f"{name}: expected a mask of {tuple(linear.shape[-2:])}, got {tuple(mask.shape[-2:])}")
        valid = valid | (mask <= 0)
    if not valid.all():
        raise ValueError(f"{name}: valid pixels hold values that are not finite; pass the validity mask")
    x = linear.float()
    x = x if mask is None else torch.where(mask > 0, x, x.new_zeros(()))
    if (x < 0).any():
        raise ValueError(
            f"{name}: expected linear intensity (>= 0), got values down to {float(x.min()):.4g}, which look like dB; "
            "convert with 10 ** (dB / 10)"
        )
    return x


def enl(linear: Tensor, mask: Tensor | None = None) -> Tensor:
    """Equivalent number of looks of a homogeneous area, mean² / variance of intensity.

    Reference: Oliver and Quegan, Understanding Synthetic Aperture Radar Images, 2004 (section 4.3).

    Args:
        linear: Linear intensity, shape (B, C, H, W).
        mask: Pixels of the area, shape (B, 1, H, W).

    Returns:
        Looks per sample and band, shape (B, C); infinite for a constant area, NaN below two pixels.

    Raises:
        ValueError: If a valid value is negative (dB, or scaled to [-1, 1]) or not finite.
    """
    x = _check_linear("enl", linear, mask).to(torch.float64)
    share = torch.ones_like(x[:, :1]) if mask is None else (mask > 0).to(x.dtype)
    count = share.sum(dim=(2, 3))
    mean = (x * share).sum(dim=(2, 3)) / count
    centred = (x - mean[..., None, None]) * share
    variance = centred.square().sum(dim=(2, 3)) / (count - 1)
    # Float rounding of a constant leaves a variance of about eps² mean², not zero.
    flat = variance <= (torch.finfo(torch.float32).eps * mean).square()
    return torch.where((count > 1) & flat, torch.inf, mean.square() / variance).float()


def multilook(linear: Tensor, looks: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Average intensity over looks × looks blocks, valid pixels only.

    Rows and columns beyond the last whole block are dropped.

    Args:
        linear: Linear intensity, shape (B, C, H, W).
        looks: Side of the blocks, in pixels.
        mask: Validity, shape (B, 1, H, W).

    Returns:
        Means, shape (B, C, H // looks, W // looks), and validity (B, 1, ...), 1 where at least half of the block
        is valid; invalid blocks hold 0.

    Raises:
        ValueError: If a valid value is negative or not finite, or no block fits.
    """
    if not 1 <= looks <= min(linear.shape[-2:]):
        raise ValueError(f"multilook: expected 1 <= looks <= {min(linear.shape[-2:])} (the image's side), got {looks}")
    x = _check_linear("multilook", linear, mask)
    valid = torch.ones_like(x[:, :1]) if mask is None else (mask > 0).to(x.dtype)
    share = F.avg_pool2d(valid, looks)
    kept = (share >= 0.5).to(x.dtype)
    return F.avg_pool2d(x, looks) / share.clamp_min(1e-6) * kept, kept


def multilook_score(
    pred: Tensor,
    target: Tensor,
    data_range: float,
    looks: int = 7,
    mask: Tensor | None = None,
    *,
    scale: Literal["dB", "linear"] = "dB",
    floor: float = 1e-5,
) -> MultilookScore:
    """Correlation and SSIM after averaging both images in linear power.

    Args:
        pred: Linear intensity, shape (B, C, H, W).
        target: Same shape.
        data_range: Span of values for SSIM, in dB or in linear power, as `scale` says.
        looks: Side of the averaged blocks, in pixels.
        mask: Pixels valid in both, shape (B, 1, H, W).
        scale: Compare the averages in dB (default: bright targets do not decide alone) or as they are.
        floor: Least power before the logarithm.

    Returns:
        Both scores per sample; NaN where nothing is valid. The SSIM window shrinks to the image when fewer
        than 11 blocks fit.

    Raises:
        ValueError: If shapes differ, values are negative or the data range is not positive.
    """
    check_pair("multilook_score", pred, target, mask)
    check_range("multilook_score", data_range)
    x, valid = multilook(pred, looks, mask)
    y, _ = multilook(target, looks, mask)
    if scale == "dB":
        x, y = (10.0 * torch.log10(v.clamp_min(floor)) for v in (x, y))
    side = min(11, *x.shape[-2:])
    window = side if side % 2 else side - 1
    return MultilookScore(correlation(x, y, valid), ssim(x, y, data_range, valid, window=window))


def enl_map(linear: Tensor, window: int = 7, mask: Tensor | None = None) -> Tensor:
    """ENL of every window × window block; its upper quantiles come from homogeneous areas.

    Args:
        linear: Linear intensity, shape (B, C, H, W).
        window: Side of the blocks, in pixels.
        mask: Validity, shape (B, 1, H, W).

    Returns:
        Shape (B, C, H // window, W // window); NaN where a block is not wholly valid.

    Raises:
        ValueError: If a valid value is negative or not finite.
    """
    x = _check_linear("enl_map", linear, mask).to(torch.float64)
    mean = F.avg_pool2d(x, window)
    n = window * window
    blocks = F.unfold(x.flatten(0, 1)[:, None], window, stride=window)  # (B C, n, blocks)
    variance = blocks.var(dim=1, correction=min(1, n - 1)).view_as(mean)
    looks = torch.where(variance > 0, mean.square() / variance, torch.inf)
    if mask is not None:
        whole = -F.max_pool2d(-(mask > 0).to(x.dtype), window)
        looks = torch.where(whole > 0, looks, torch.nan)
    return looks.float()


def amplitude_distance(
    pred: Tensor, target: Tensor, mask_pred: Tensor | None = None, mask_target: Tensor | None = None
) -> AmplitudeDistance:
    """Compare the distributions of two sets of values (dB, amplitude, display), wherever they lie.

    Args:
        pred: Any shape; NaN are left out.
        target: Any shape, same units.
        mask_pred: Same shape as `pred` or broadcastable to it, 1 where values count.
        mask_target: The same for `target`.

    Returns:
        Kolmogorov-Smirnov statistic and Wasserstein-1 distance, both exact for the two samples.

    Raises:
        ValueError: If one side has no valid value.
    """
    a, b = _values(pred, mask_pred), _values(target, mask_target)
    if not a.numel() or not b.numel():
        raise ValueError(f"amplitude_distance: expected valid values on both sides, got {a.numel()} and {b.numel()}")
    points = torch.cat([a, b]).sort().values
    cdf_a = torch.searchsorted(a, points, right=True) / a.numel()
    cdf_b = torch.searchsorted(b, points, right=True) / b.numel()
    gap = (cdf_a - cdf_b).abs().to(torch.float64)
    distance = (gap[:-1] * points.diff().to(torch.float64)).sum()
    return AmplitudeDistance(gap.max().float(), distance.float())


def _values(x: Tensor, mask: Tensor | None) -> Tensor:
    x = x.detach().float()
    keep = torch.isfinite(x)
    if mask is not None:
        keep = keep & (mask > 0).expand_as(x)
    return x[keep].sort().values
