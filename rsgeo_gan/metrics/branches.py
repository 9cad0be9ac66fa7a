"""What tells a reconstruction and a residual apart: low frequencies, values out of range, kept identity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["feature_cosine", "low_pass_share", "out_of_range"]


def low_pass_share(residual: Tensor, base: Tensor, below: float = 0.125) -> Tensor:
    """Norm of the low frequencies of a residual over that of what it is added to.

    Small where the residual adds texture; large where it repeats the work of the base, such as shifting colours.

    Args:
        residual: Shape (B, C, H, W).
        base: Same shape.
        below: Highest frequency that counts as low, cycles per pixel, in (0, 0.5]; the mean counts too.

    Returns:
        Per sample, shape (B,), >= 0; infinite where the base has no low frequencies but the residual has, 0 where
        neither has.

    Raises:
        ValueError: If the shapes differ or the frequency is out of range.
    """
    if residual.shape != base.shape or residual.ndim != 4:
        raise ValueError(
            f"low_pass_share: expected two images of one shape (B, C, H, W), got {tuple(residual.shape)} and "
            f"{tuple(base.shape)}"
        )
    if not 0 < below <= 0.5:
        raise ValueError(f"low_pass_share: expected 0 < below <= 0.5 cycles per pixel, got {below}")
    h, w = base.shape[-2:]
    rows, columns = torch.fft.fftfreq(h, device=base.device)[:, None], torch.fft.fftfreq(w, device=base.device)
    low = rows.square() + columns.square() <= below**2
    norms = [(torch.fft.fft2(x.float()).abs().square() * low).sum(dim=(1, 2, 3)).sqrt() for x in (residual, base)]
    return torch.where(norms[0] > 0, norms[0] / norms[1], norms[0])


def out_of_range(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Share of values outside [-1, 1] among the valid ones; scalar, 0 when nothing is valid."""
    outside = (image.abs() > 1).float()
    if mask is None:
        return outside.mean()
    valid = (mask > 0).float().expand_as(outside)
    return (outside * valid).sum() / valid.sum().clamp_min(1.0)


def feature_cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine between two sets of features, pair by pair: how much of a place's identity is kept.

    Args:
        one: Features of images, shape (B, D), such as `FeatureBackend.describe` or an encoder's codes.
        other: Features of the same places under other conditions.

    Returns:
        Shape (B,), in [-1, 1]; 0 for a vector of zeros.

    Raises:
        ValueError: If the shapes differ.
    """
    if one.shape != other.shape or one.ndim != 2:
        raise ValueError(
            f"feature_cosine: expected two sets of features (B, D), got {tuple(one.shape)} and {tuple(other.shape)}"
        )
    return F.cosine_similarity(one.float(), other.float(), dim=1)
