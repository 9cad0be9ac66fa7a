"""Whole-tile integer shifts between two images: the search that losses and metrics share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rsgeo_gan.losses.reconstruction import masked_l1

__all__ = ["best_shift", "crop_shifted", "offset_errors", "shift_tolerant_l1"]


def offset_errors(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    radius_px: int = 3,
    *,
    power: Literal[1, 2] = 1,
    remove_bias: bool = False,
) -> Tensor:
    """Measure the error of the central crop of `pred` against `target` at every offset within a radius.

    An offset whose valid overlap is below half of the best one's counts as infinitely bad, so that an error
    cannot be won by comparing next to nothing.

    Args:
        pred: Shape (B, C, H, W), finite where valid.
        target: Same shape, finite where valid.
        mask: Pixels valid in both, shape (B, 1, H, W), or a pair's masks on two channels, (B, 2, H, W):
            that of `pred`, then that of `target`.
        radius_px: Largest offset per axis, in pixels.
        power: 1 for mean absolute, 2 for mean squared error.
        remove_bias: Take out the mean difference of each band first.

    Returns:
        Error per sample, offset and band, shape (B, (2r + 1)², C), float32; offsets run over rows
        (dy from -r to r) and within a row over columns (dx). Infinite where nothing can be compared.

    Raises:
        ValueError: If the shapes differ or the images are not larger than 2 * radius_px.
    """
    if pred.shape != target.shape or pred.ndim != 4:
        raise ValueError(
            f"best_shift: expected two images of one shape (B, C, H, W), got {tuple(pred.shape)} and "
            f"{tuple(target.shape)}"
        )
    h, w = pred.shape[-2] - 2 * radius_px, pred.shape[-1] - 2 * radius_px
    if radius_px < 0 or min(h, w) < 1:
        raise ValueError(
            f"best_shift: radius_px must be >= 0 and below half of the image, got {radius_px} for "
            f"{tuple(pred.shape[-2:])}; use a smaller radius or larger tiles"
        )
    crop = slice(radius_px, radius_px + h), slice(radius_px, radius_px + w)
    pred, target = pred.float(), target.float()
    errors, counts = [], []
    if mask is not None:
        mask = mask.float()
        pred, target = filled(pred, target, mask)
        mask_inner, mask_target = mask[:, :1, *crop], mask[:, -1:]
    inner = pred[..., *crop]
    measure = torch.abs if power == 1 else torch.square
    everywhere = torch.full_like(pred[:, :1, 0, 0], h * w)
    for row in range(2 * radius_px + 1):
        for column in range(2 * radius_px + 1):
            window = slice(row, row + h), slice(column, column + w)
            difference = inner - target[..., *window]  # (B, C, h, w)
            count, valid = everywhere, None
            if mask is not None:
                valid = mask_inner * mask_target[..., *window]
                count = valid.sum(dim=(2, 3))  # (B, 1)
                difference = difference * valid
            per_pixel = 1.0 / count.clamp_min(1.0)
            if remove_bias:
                bias = (difference.sum(dim=(2, 3)) * per_pixel)[..., None, None]
                difference = difference - (bias if valid is None else bias * valid)
            errors.append(measure(difference).sum(dim=(2, 3)) * per_pixel)
            counts.append(count)
    error = torch.stack(errors, dim=1)
    if mask is None:
        return error
    count = torch.stack(counts, dim=1)  # (B, offsets, 1)
    usable = (count > 0) & (2 * count >= count.amax(dim=1, keepdim=True))
    return torch.where(usable, error, torch.full_like(error, torch.inf))


@torch.no_grad()
def best_shift(pred: Tensor, target: Tensor, mask: Tensor | None = None, radius_px: int = 3) -> tuple[Tensor, Tensor]:
    """Find the integer offset of the whole tile at which `target` fits `pred` best.

    Args:
        pred: Shape (B, C, H, W).
        target: Same shape.
        mask: As in `offset_errors`.
        radius_px: Largest offset per axis, in pixels.

    Returns:
        Offset (dx, dy) per sample, shape (B, 2), int64: where the target's content lies relative to the
        prediction's, +x right, +y down; and the mean absolute error there, shape (B,). The smallest of
        equally good offsets is taken; with nothing to compare it is (0, 0) and the error infinite.
    """
    return least_offset(offset_errors(pred, target, mask, radius_px).mean(dim=2), radius_px)


def filled(pred: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Zero what is invalid, which may not be finite; masks as in `offset_errors`."""
    if mask is None:
        return pred, target
    zero = pred.new_zeros(())
    return torch.where(mask[:, :1] > 0, pred, zero), torch.where(mask[:, -1:] > 0, target, zero)


def least_offset(error: Tensor, radius_px: int) -> tuple[Tensor, Tensor]:
    """Pick the offset (dx, dy) of least error, shape (B, offsets), the one nearest to zero among equals."""
    steps = torch.arange(-radius_px, radius_px + 1, device=error.device)
    offsets = torch.cartesian_prod(steps, steps).flip(1)  # (offsets, 2)
    least = error.amin(dim=1)
    distance = offsets.square().sum(dim=1).expand_as(error)
    index = torch.where(error <= least[:, None], distance, 2 * radius_px**2 + 1).argmin(dim=1)
    return offsets[index], least


def crop_shifted(image: Tensor, shift: Tensor, radius_px: int) -> Tensor:
    """Cut from each sample the window that answers the central crop of its partner at `shift`.

    Args:
        image: Shape (B, C, H, W).
        shift: (dx, dy) per sample, shape (B, 2), within the radius.
        radius_px: Margin of the central crop.

    Returns:
        Shape (B, C, H - 2r, W - 2r).
    """
    b, _, h, w = image.shape
    rows = torch.arange(radius_px, h - radius_px, device=image.device) + shift[:, 1:]  # (B, h)
    columns = torch.arange(radius_px, w - radius_px, device=image.device) + shift[:, :1]
    sample = torch.arange(b, device=image.device)[:, None, None]
    return image[sample, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def shift_tolerant_l1(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    radius_px: int = 3,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean absolute difference at the best whole-tile offset; the search itself carries no gradient.

    The offset is one per sample, never per pixel, which would let a prediction borrow neighbours freely.

    Args:
        pred: Shape (B, C, H, W).
        target: Same shape.
        mask: As in `offset_errors`.
        radius_px: Largest offset per axis, in pixels.
        weight: As in `masked_mean`; per-pixel weights lie on `pred`.

    Returns:
        Scalar, float32; zero when an exact integer shift exists.
    """
    shift, _ = best_shift(pred, target, mask, radius_px)
    still = torch.zeros_like(shift)
    if weight is not None and weight.ndim == 4 and weight.shape[-2:] == pred.shape[-2:]:
        weight = crop_shifted(weight, still[: weight.shape[0]], radius_px)
    valid = None
    if mask is not None:
        valid = crop_shifted(mask[:, :1], still, radius_px) * crop_shifted(mask[:, -1:], shift, radius_px)
    return masked_l1(crop_shifted(pred, still, radius_px), crop_shifted(target, shift, radius_px), valid, weight)
