"""PSNR and SSIM that forgive a whole-tile shift up to a stated radius, and say which shift it was."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from rsgeo_gan.losses.shift import crop_shifted, filled, least_offset, offset_errors
from rsgeo_gan.metrics.similarity import check_pair, check_range, ssim

__all__ = [
    "ShiftScore",
    "ShiftTolerantPSNR",
    "ShiftTolerantSSIM",
    "shift_tolerant_psnr",
    "shift_tolerant_ssim",
]


class ShiftScore(NamedTuple):
    """A score at the best offset.

    Attributes:
        value: Per sample, shape (B,).
        shift: (dx, dy) per sample, shape (B, 2), int64, pixels: where the target's content lies relative
            to the prediction's, +x right, +y down. The same non-zero one on many tiles is a georeferencing error.
    """

    value: Tensor
    shift: Tensor


@torch.no_grad()
def shift_tolerant_psnr(
    pred: Tensor,
    target: Tensor,
    data_range: float,
    radius_px: int = 3,
    mask: Tensor | None = None,
    *,
    remove_bias: bool = True,
) -> ShiftScore:
    """Largest PSNR over all integer offsets within a radius (cPSNR-k, k = radius).

    The central crop of the prediction is compared with the target moved over all offsets; PSNR is
    per band, then averaged. Radius 0 without bias removal is plain PSNR.

    Args:
        pred: Shape (B, C, H, W).
        target: Same shape and units.
        data_range: Span of possible values in those units.
        radius_px: Largest offset per axis, in pixels.
        mask: Pixels valid in both, shape (B, 1, H, W), or that of pred and of target, (B, 2, H, W).
        remove_bias: Ignore each band's mean difference.

    Returns:
        PSNR in dB per sample (infinite for equal images, NaN where nothing can be compared), and the offset.

    Raises:
        ValueError: If shapes differ, the data range is not positive or the radius is too large.
    """
    check_range("shift_tolerant_psnr", data_range)
    check_pair("shift_tolerant_psnr", pred, target, mask)
    error = offset_errors(pred, target, mask, radius_px, power=2, remove_bias=remove_bias)
    psnr = (10.0 * torch.log10(data_range**2 / error)).mean(dim=2)  # (B, offsets)
    shift, value = least_offset(-psnr, radius_px)
    return ShiftScore(torch.where(value == torch.inf, torch.nan, -value), shift)


@torch.no_grad()
def shift_tolerant_ssim(
    pred: Tensor,
    target: Tensor,
    data_range: float,
    radius_px: int = 3,
    mask: Tensor | None = None,
    *,
    remove_bias: bool = False,
    window: int = 11,
) -> ShiftScore:
    """SSIM at the offset that `shift_tolerant_psnr` picks.

    Args:
        pred: Shape (B, C, H, W), larger than window + 2 * radius_px.
        target: Same shape and units.
        data_range: Span of possible values in those units.
        radius_px: Largest offset per axis, in pixels.
        mask: As there; windows touching an invalid pixel are left out.
        remove_bias: Move the prediction's mean to the target's, band by band, before comparing.
        window: Side of the SSIM window, in pixels.

    Returns:
        SSIM per sample (NaN where no window is wholly valid), and the offset.
    """
    shift = shift_tolerant_psnr(pred, target, data_range, radius_px, mask).shift
    still = torch.zeros_like(shift)
    x, y = crop_shifted(pred, still, radius_px), crop_shifted(target, shift, radius_px)
    valid = None
    if mask is not None:
        mask = mask.expand(pred.shape[0], -1, -1, -1).to(x.dtype)
        valid = crop_shifted(mask[:, :1], still, radius_px) * crop_shifted(mask[:, -1:], shift, radius_px)
        x, y = filled(x, y, valid)
    if remove_bias:
        share = torch.ones_like(x[:, :1]) if valid is None else valid
        share = share / share.sum(dim=(2, 3), keepdim=True).clamp_min(1.0)
        x = x + ((y - x) * share).sum(dim=(2, 3), keepdim=True)
    return ShiftScore(ssim(x, y, data_range, valid, window=window), shift)


class _ShiftTolerant(Metric):
    """Averages a shift-tolerant score over samples that could be compared."""

    higher_is_better = True
    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor
    shift_total: Tensor

    def __init__(self, data_range: float, radius_px: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_range(type(self).__name__, data_range)
        self.data_range = data_range
        self.radius_px = radius_px
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("shift_total", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    @abstractmethod
    def _score(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> ShiftScore:
        """Score every sample of a batch."""

    def update(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch; see the function of the same name for shapes."""
        score = self._score(pred, target, mask)
        usable = ~torch.isnan(score.value)
        self.total += torch.where(usable, score.value, 0.0).sum(dtype=torch.float64)
        self.count += usable.sum()
        self.shift_total += (score.shift * usable[:, None]).sum(dim=0, dtype=torch.float64)

    def compute(self) -> Tensor:
        """Mean score; NaN when nothing could be compared."""
        return (self.total / self.count).float()

    @property
    def mean_shift_px(self) -> Tensor:
        """Mean offset (dx, dy) in pixels of the samples seen so far."""
        return (self.shift_total / self.count).float()


class ShiftTolerantPSNR(_ShiftTolerant):
    """Mean of `shift_tolerant_psnr` over samples, in dB.

    Args:
        data_range: Span of possible values, in the units of the images.
        radius_px: Largest offset per axis, in pixels.
        remove_bias: Ignore each band's mean difference.
    """

    def __init__(self, data_range: float, radius_px: int = 3, *, remove_bias: bool = True, **kwargs: Any) -> None:
        super().__init__(data_range, radius_px, **kwargs)
        self.remove_bias = remove_bias

    def _score(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> ShiftScore:
        return shift_tolerant_psnr(pred, target, self.data_range, self.radius_px, mask, remove_bias=self.remove_bias)


class ShiftTolerantSSIM(_ShiftTolerant):
    """Mean of `shift_tolerant_ssim` over samples.

    Args:
        data_range: Span of possible values, in the units of the images.
        radius_px: Largest offset per axis, in pixels.
        remove_bias: Move the prediction's mean to the target's, band by band, before comparing.
    """

    def __init__(self, data_range: float, radius_px: int = 3, *, remove_bias: bool = False, **kwargs: Any) -> None:
        super().__init__(data_range, radius_px, **kwargs)
        self.remove_bias = remove_bias

    def _score(self, pred: Tensor, target: Tensor, mask: Tensor | None) -> ShiftScore:
        return shift_tolerant_ssim(pred, target, self.data_range, self.radius_px, mask, remove_bias=self.remove_bias)
