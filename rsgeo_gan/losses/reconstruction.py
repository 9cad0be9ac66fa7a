"""Pixel objectives and the masked mean every other loss reduces with."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["masked_l1", "masked_mean", "total_variation"]


def masked_mean(values: Tensor, mask: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Average over valid elements.

    `weight` scales the values and is not divided out: an image trusted by half contributes half, also when
    it is alone in its batch.

    Args:
        values: Any quantity, shape (B, C, H, W), finite.
        mask: 1 where values count, broadcastable to them, usually (B, 1, H, W).
        weight: Trust in [0, 1], shape (B,), or broadcastable to the values.

    Returns:
        Scalar, float32; zero when nothing is valid.
    """
    values = values.float()
    if weight is not None:
        weight = weight.float()
        values = values * (weight.view(-1, *[1] * (values.ndim - 1)) if weight.ndim == 1 else weight)
    if mask is None:
        return values.mean()
    mask = mask.float()
    repeats = values.numel() / mask.numel()
    return (values * mask).sum() / (mask.sum() * repeats).clamp_min(1.0)


def masked_l1(pred: Tensor, target: Tensor, mask: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference over valid pixels.

    Args:
        pred: Shape (B, C, H, W).
        target: Same shape.
        mask: Validity, shape (B, 1, H, W); what lies under 0 is ignored, even when not finite.
        weight: As in `masked_mean`.

    Returns:
        Scalar, float32.

    Raises:
        ValueError: If the shapes differ.
    """
    if pred.shape != target.shape:
        raise ValueError(f"masked_l1: expected equal shapes, got {tuple(pred.shape)} and {tuple(target.shape)}")
    return masked_mean(_valid(pred.float() - target.float(), mask).abs(), mask, weight)


def total_variation(image: Tensor, mask: Tensor | None = None, *, squared: bool = False) -> Tensor:
    """Mean absolute difference of neighbouring valid pixels, anisotropic, rows plus columns.

    Args:
        image: Shape (B, C, H, W).
        mask: Validity, shape (B, 1, H, W); a difference counts when both of its pixels do.
        squared: Mean squared differences instead, which smooth everywhere and spare edges less.

    Returns:
        Scalar, float32, in units of the image per pixel, squared where differences are.
    """
    image = image.float()
    total = image.new_zeros(())
    for dim in (2, 3):
        n = image.shape[dim] - 1
        both = None if mask is None else mask.float().narrow(dim, 0, n) * mask.float().narrow(dim, 1, n)
        steps = _valid(image.diff(dim=dim), both)
        total = total + masked_mean(steps.square() if squared else steps.abs(), both)
    return total


def _valid(difference: Tensor, mask: Tensor | None) -> Tensor:
    """Zero what is invalid, so that values that are not finite leave neither loss nor gradient."""
    return difference if mask is None else torch.where(mask > 0, difference, difference.new_zeros(()))
