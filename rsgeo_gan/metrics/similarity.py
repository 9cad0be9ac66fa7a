"""PSNR, SSIM and correlation of single images, with masks and an explicit data range."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["check_pair", "check_range", "correlation", "ssim"]


def check_pair(name: str, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
    """Refuse images or masks whose shapes do not belong together."""
    if pred.ndim != 4 or pred.shape != target.shape:
        raise ValueError(
            f"{name}: expected two images of one shape (B, C, H, W), got {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    if mask is not None and (mask.ndim != 4 or mask.shape[-2:] != pred.shape[-2:]):
        raise ValueError(f"{name}: expected a mask (B, 1, H, W) of {tuple(pred.shape[-2:])}, got {tuple(mask.shape)}")


def check_range(name: str, data_range: float) -> None:
    """Refuse a data range that is not positive."""
    if not data_range > 0:
        raise ValueError(
            f"{name}: data_range must be positive and in the units of the images "
            f"(1.0 for reflectance, the span in dB, 255 for display values), got {data_range}"
        )


def ssim(pred: Tensor, target: Tensor, data_range: float, mask: Tensor | None = None, *, window: int = 11) -> Tensor:
    """Structural similarity with a Gaussian window (sigma 1.5), K = (0.01, 0.03), interior windows only.

    Reference: Wang et al., 2004, doi:10.1109/TIP.2003.819861.

    Args:
        pred: Shape (B, C, H, W).
        target: Same shape and units.
        data_range: Span of possible values in those units.
        mask: Validity, shape (B, 1, H, W); windows that touch an invalid pixel are left out.
        window: Odd side of the window in pixels, at most H and W.

    Returns:
        Mean over bands and windows per sample, shape (B,); NaN where no window is wholly valid.

    Raises:
        ValueError: If shapes differ, the data range is not positive or the image is smaller than the window.
    """
    check_pair("ssim", pred, target, mask)
    check_range("ssim", data_range)
    if window % 2 == 0 or window > min(pred.shape[-2:]):
        raise ValueError(f"ssim: expected an odd window within the image {tuple(pred.shape[-2:])}, got {window}")
    x, y = pred.to(torch.float64), target.to(torch.float64)
    if mask is not None:
        x, y = (torch.where(mask > 0, v, v.new_zeros(())) for v in (x, y))
    offsets = torch.arange(window, device=x.device, dtype=x.dtype) - window // 2
    taps = torch.exp(-offsets.square() / (2 * 1.5**2))
    taps = taps / taps.sum()

    def smooth(v: Tensor) -> Tensor:
        flat = v.flatten(0, 1)[:, None]  # (B C, 1, H, W)
        flat = F.conv2d(F.conv2d(flat, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
        return flat.view(*v.shape[:2], *flat.shape[-2:])

    mean_x, mean_y = smooth(x), smooth(y)
    var_x = smooth(x * x) - mean_x.square()
    var_y = smooth(y * y) - mean_y.square()
    cov = smooth(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    index = luminance * (2 * cov + c2) / (var_x + var_y + c2)
    if mask is None:
        return index.mean(dim=(1, 2, 3)).float()
    valid = 1.0 - F.max_pool2d(1.0 - mask.to(index.dtype), window, 1)
    return ((index * valid).mean(dim=1).sum(dim=(1, 2)) / valid.sum(dim=(1, 2, 3))).float()


def correlation(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pearson correlation over valid pixels, averaged over bands.

    Args:
        pred: Shape (B, C, H, W).
        target: Same shape.
        mask: Validity, shape (B, 1, H, W).

    Returns:
        Per sample, shape (B,), in [-1, 1]; a constant band counts as 0, NaN where nothing is valid.
    """
    check_pair("correlation", pred, target, mask)
    x, y = pred.to(torch.float64), target.to(torch.float64)
    share = torch.ones_like(x[:, :1]) if mask is None else mask.to(x.dtype)
    x, y = (torch.where(share > 0, v, v.new_zeros(())) for v in (x, y))
    share = share / share.sum(dim=(2, 3), keepdim=True)
    x = x - (x * share).sum(dim=(2, 3), keepdim=True)
    y = y - (y * share).sum(dim=(2, 3), keepdim=True)
    cov = (x * y * share).sum(dim=(2, 3))
    spread = ((x.square() * share).sum(dim=(2, 3)) * (y.square() * share).sum(dim=(2, 3))).sqrt()
    return (cov / spread.clamp_min(1e-30)).mean(dim=1).float()
