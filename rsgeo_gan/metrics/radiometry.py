"""Whether an image keeps the radiometry of another: PSNR, spectral angle, ERGAS, in physical units and with masks."""

from __future__ import annotations

import torch
from torch import Tensor

from rsgeo_gan.metrics.similarity import check_pair, check_range

__all__ = ["ergas", "psnr", "spectral_angle"]


def psnr(pred: Tensor, target: Tensor, data_range: float, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio of every band over valid pixels, averaged over bands.

    Args:
        pred: Shape (B, C, H, W).
        target: Same shape and units.
        data_range: Span of possible values in those units; state it with the score.
        mask: Pixels that count, shape (B, 1, H, W).

    Returns:
        dB per sample, shape (B,); infinite for equal images, NaN where nothing is valid.

    Raises:
        ValueError: If shapes differ or the data range is not positive.
    """
    check_pair("psnr", pred, target, mask)
    check_range("psnr", data_range)
    x, y, share = _prepared(pred, target, mask)
    error = ((x - y).square() * share).sum(dim=(2, 3))  # (B, C)
    return (10.0 * torch.log10(data_range**2 / error)).mean(dim=1).float()


def spectral_angle(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean angle between the spectra of corresponding pixels (SAM), blind to their brightness.

    Reference: Kruse et al., 1993, doi:10.1016/0034-4257(93)90013-N.

    Args:
        pred: Shape (B, C, H, W), C >= 2, reflectance or radiance that may not be negative on the whole; an angle
            between values in dB or in the model domain means nothing, bring them back first.
        target: Same shape and units.
        mask: Pixels that count, shape (B, 1, H, W).

    Returns:
        Degrees per sample, shape (B,), over valid pixels where neither spectrum is zero; NaN where there is none.

    Raises:
        ValueError: If shapes differ or there is only one band.
    """
    check_pair("spectral_angle", pred, target, mask)
    if pred.shape[1] < 2:
        raise ValueError("spectral_angle: expected at least 2 bands, got 1; one band has no spectrum")
    x, y, _ = _prepared(pred, target, mask)
    lengths = [torch.linalg.vector_norm(v, dim=1) for v in (x, y)]
    seen = (lengths[0] > 0) & (lengths[1] > 0)
    if mask is not None:
        seen &= mask[:, 0] > 0
    unit = [v / length.clamp_min(1e-300)[:, None] for v, length in zip((x, y), lengths, strict=True)]
    # Stable also where the angle is tiny and its cosine is 1 to the last digit.
    apart, together = (torch.linalg.vector_norm(v, dim=1) for v in (unit[0] - unit[1], unit[0] + unit[1]))
    angle = 2 * torch.atan2(apart, together)
    return torch.rad2deg((angle * seen).sum(dim=(1, 2)) / seen.sum(dim=(1, 2))).float()


def ergas(pred: Tensor, target: Tensor, scale: int, mask: Tensor | None = None, *, darkest: float = 1e-3) -> Tensor:
    """Relative error over all bands, 100 / scale * sqrt(mean over bands of (RMSE / mean)²).

    Reference: Wald, Data Fusion: Definitions and Architectures, 2002. The ratio is that of the pixel sizes, fine over
    coarse, hence the division by `scale`; some packages multiply.

    Args:
        pred: Shape (B, C, H, W), reflectance or radiance; not dB, whose mean may be zero.
        target: Same shape and units.
        scale: Fine pixels per coarse pixel, along one axis.
        mask: Pixels that count, shape (B, 1, H, W).
        darkest: Bands whose mean is not above this are left out: a relative error of darkness decides all.

    Returns:
        Percent per sample, shape (B,), 0 for equal images; NaN where nothing is valid or every band is dark.

    Raises:
        ValueError: If shapes differ or the scale is not at least 1.
    """
    check_pair("ergas", pred, target, mask)
    if scale < 1:
        raise ValueError(f"ergas: expected scale >= 1 (fine pixels per coarse pixel), got {scale}")
    x, y, share = _prepared(pred, target, mask)
    error, mean = ((x - y).square() * share).sum(dim=(2, 3)), (y * share).sum(dim=(2, 3))  # (B, C)
    relative = torch.where(mean > darkest, error / mean.square(), torch.nan)
    return (100.0 / scale * relative.nanmean(dim=1).sqrt()).float()


def _prepared(pred: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both images in double precision with zeros under the mask, and every pixel's share of the mean."""
    x, y = pred.to(torch.float64), target.to(torch.float64)
    if mask is None:
        return x, y, torch.full_like(x[:, :1], 1 / (x.shape[2] * x.shape[3]))
    valid = (mask > 0).to(x)
    x, y = (torch.where(valid > 0, v, v.new_zeros(())) for v in (x, y))
    return x, y, valid / valid.sum(dim=(2, 3), keepdim=True)
