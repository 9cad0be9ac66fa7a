"""What super-resolution kept, added, missed and invented, by the definitions of the benchmark opensr-test.

Reference: Aybar et al., 2024, doi:10.1109/LGRS.2024.3401394. Images are reflectance; `low` lies on the coarse grid,
`pred` and `target` on the fine one. A border is cut off everywhere, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan.metrics.offsets import offset, shifted
from rsgeo_gan.metrics.radiometry import spectral_angle
from rsgeo_gan.metrics.similarity import check_pair

__all__ = [
    "Consistency",
    "Correctness",
    "consistency",
    "correctness",
    "harmonised",
    "normalised_difference",
    "synthesis",
]

BORDER_PX = 16
_FARTHEST_PX = 5.0
_LEAST = 1e-3
"""Share of valid pixels in a resampled one below which it shows nothing."""
_SHARPNESS, _TEMPERATURE = 0.05, 0.25

Distance = Callable[[Tensor, Tensor], Tensor]
"""Of two images (B, C, H, W): distance of every pixel, shape (B, 1, H, W)."""


class Consistency(NamedTuple):
    """Agreement of an image with what it was made from, per sample, each of shape (B,).

    Attributes:
        reflectance: Mean absolute difference, units of the images.
        spectral: Mean spectral angle, degrees; NaN for one band.
        spatial: Length of the offset, coarse pixels; NaN where it is implausibly large.
    """

    reflectance: Tensor
    spectral: Tensor
    spatial: Tensor


class Correctness(NamedTuple):
    """Shares of detail, each of shape (B,), that sum to 1 per sample.

    Attributes:
        hallucination: Far from the truth and from the low-resolution image.
        omission: As in the low-resolution image, though the truth has more.
        improvement: As in the truth.
    """

    hallucination: Tensor
    omission: Tensor
    improvement: Tensor


def normalised_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean over bands of |a - b| / |a + b|, shape (B, 1, H, W): a difference that dark places do not hide."""
    return ((a - b).abs() / (a + b + 1e-8).abs()).mean(dim=1, keepdim=True)


@torch.no_grad()
def consistency(low: Tensor, pred: Tensor, mask: Tensor | None = None, border_px: int = BORDER_PX) -> Consistency:
    """Compare an image, brought to the coarse grid, with the low-resolution image.

    Args:
        low: Shape (B, C, h, w), reflectance.
        pred: Shape (B, C, s h, s w).
        mask: Coarse pixels that count, shape (B, 1, h, w).
        border_px: Fine pixels cut off at every side.

    Raises:
        ValueError: If the sizes do not belong together or nothing is left inside the border.
    """
    scale = _scale(low, pred)
    low, pred, valid = _inner(low, border_px // scale), _inner(pred, border_px), _inner(mask, border_px // scale)
    fine = None if valid is None else valid.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)
    coarse = _resized(pred, 1 / scale, fine)
    apart = (low - coarse).abs().mean(dim=1, keepdim=True)
    angle = spectral_angle(low, coarse, valid) if low.shape[1] > 1 else low.new_full((len(low),), torch.nan)
    apart_px = torch.linalg.vector_norm(offset(low, coarse, valid), dim=1)
    return Consistency(_mean(apart, valid), angle, torch.where(apart_px > _FARTHEST_PX, torch.nan, apart_px))


@torch.no_grad()
def synthesis(
    low: Tensor, pred: Tensor, target: Tensor, mask: Tensor | None = None, border_px: int = BORDER_PX
) -> Tensor:
    """Measure how much detail an image has added: its distance from the interpolated low-resolution image.

    Args:
        low: Shape (B, C, h, w), reflectance.
        pred: Shape (B, C, s h, s w); harmonised with the target first.
        target: Same shape as `pred`.
        mask: Fine pixels that count, shape (B, 1, s h, s w).
        border_px: Fine pixels cut off at every side.

    Returns:
        Units of the images per sample, shape (B,). More is not better by itself: detail may be invented.
    """
    wide, made, _, valid = _prepared("synthesis", low, pred, target, mask, border_px)
    return _mean((wide - made).abs().mean(dim=1, keepdim=True), valid)


@torch.no_grad()
def correctness(
    low: Tensor,
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    distance: Distance = normalised_difference,
    border_px: int = BORDER_PX,
    flattest: float = 0.75,
) -> Correctness:
    """Divide the detail of an image into improvement, omission and hallucination.

    A pixel counts when one of the three distances (low to target, image to target, image to low) is above the quantile
    `flattest` of the first: where nothing is to be found, nothing can be missed.

    Args:
        low: Shape (B, C, h, w), reflectance.
        pred: Shape (B, C, s h, s w); harmonised with the target first.
        target: Same shape as `pred`.
        mask: Fine pixels that count, shape (B, 1, s h, s w).
        distance: Of every pixel; name it with the score.
        border_px: Fine pixels cut off at every side.
        flattest: Quantile, in (0, 1).

    Returns:
        Shares per sample; NaN where no pixel counts.
    """
    wide, made, truth, valid = _prepared("correctness", low, pred, target, mask, border_px)
    there, improved, omitted = (distance(a, b)[:, 0] for a, b in ((wide, truth), (made, truth), (made, wide)))
    found = []
    for index, (d_ref, d_im, d_om) in enumerate(zip(there, improved, omitted, strict=True)):
        seen = torch.ones_like(d_ref, dtype=torch.bool) if valid is None else valid[index, 0] > 0
        if not seen.any():
            found.append(d_ref.new_full((3,), torch.nan))
            continue
        values = d_ref[seen]
        least = values.kthvalue(max(1, int(flattest * values.numel()))).values
        counted = seen & (torch.stack([d_ref, d_im, d_om]) > least).any(dim=0)
        found.append(_shares(d_im[counted] / d_ref[counted], d_om[counted] / d_ref[counted]))
    return Correctness(*torch.stack(found).float().unbind(dim=1))


@torch.no_grad()
def harmonised(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Give an image the histogram of each band of the target and shift it onto the target.

    What is left is the difference in detail. An offset beyond 5 px is not believed and left.

    Args:
        pred: Shape (B, C, H, W).
        target: Same shape.
        mask: Pixels that count, shape (B, 1, H, W).
    """
    return _harmonised(pred, target, mask)[0]


def _harmonised(pred: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The image as `harmonised` makes it, and which of the pixels that count are made of such pixels."""
    made = torch.empty_like(pred)
    for index, (image, truth) in enumerate(zip(pred, target, strict=True)):
        seen = slice(None) if mask is None else mask[index, 0].flatten() > 0
        for band, (values, wanted) in enumerate(zip(image.flatten(1), truth.flatten(1), strict=True)):
            matched = values.clone()
            if len(values[seen]):
                matched[seen] = _matched(values[seen], wanted[seen])
            made[index, band] = matched.view(image.shape[1:])
    shift = offset(made, target, mask)
    shift = torch.where(torch.linalg.vector_norm(shift, dim=1, keepdim=True) > _FARTHEST_PX, 0.0, shift)
    if mask is None:
        return shifted(made, shift), None
    valid = (mask > 0).to(made)
    share = shifted(valid, shift)
    made = shifted(torch.where(valid > 0, made, made.new_zeros(())), shift) / share.clamp_min(_LEAST)
    return made, valid * (share > 1 - _LEAST)


def _shares(d_im: Tensor, d_om: Tensor) -> Tensor:
    """Improvement, omission and hallucination from relative distances, as means of a soft minimum over pixels."""
    beyond = 1 - torch.exp(-_SHARPNESS * (d_im + d_om - 1))
    far = torch.stack([torch.exp(-_SHARPNESS * d_im * d_om), d_om + d_im * beyond, d_im + d_om * beyond])
    return torch.softmax(-far / _TEMPERATURE, dim=0).nanmean(dim=1)


def _prepared(
    name: str, low: Tensor, pred: Tensor, target: Tensor, mask: Tensor | None, border_px: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The interpolated low image, the harmonised image, the target and the mask, inside the border."""
    check_pair(name, pred, target, mask)
    scale = _scale(low, pred)
    low = _inner(low, border_px // scale)
    pred, target, valid = _inner(pred, border_px), _inner(target, border_px), _inner(mask, border_px)
    if pred.shape[-2:] != tuple(scale * side for side in low.shape[-2:]):
        raise ValueError(f"{name}: border_px must be a multiple of the scale {scale}, got {border_px}")
    # A coarse pixel counts where anything of it does.
    wide = _resized(low, scale, None if valid is None else F.max_pool2d((valid > 0).to(low), scale))
    made, kept = _harmonised(pred, target, valid)
    return wide, made, target, kept


def _scale(low: Tensor, pred: Tensor) -> int:
    """Fine pixels per coarse pixel."""
    (h, w), (high, wide) = low.shape[-2:], pred.shape[-2:]
    scale = high // h
    if scale < 1 or (high, wide) != (h * scale, w * scale) or low.shape[:2] != pred.shape[:2]:
        raise ValueError(
            f"opensr: expected low (B, C, h, w) and images (B, C, s h, s w) with one integer s, got {tuple(low.shape)} "
            f"and {tuple(pred.shape)}"
        )
    return scale


def _inner[T: (Tensor, Tensor | None)](image: T, border: int) -> T:
    if image is None or border == 0:
        return image
    if min(image.shape[-2:]) <= 2 * border:
        raise ValueError(f"opensr: nothing is left of {tuple(image.shape[-2:])} px inside a border of {border} px")
    return image[..., border:-border, border:-border]


def _resized(image: Tensor, factor: float, mask: Tensor | None = None) -> Tensor:
    """Resample bilinearly with antialiasing, from valid pixels where a mask is given."""
    if mask is None:
        return F.interpolate(image, scale_factor=factor, mode="bilinear", antialias=True)
    valid = (mask > 0).to(image)
    return _resized(torch.where(valid > 0, image, image.new_zeros(())), factor) / _resized(valid, factor).clamp_min(
        _LEAST
    )


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of (B, 1, H, W) over valid pixels, (B,)."""
    if mask is None:
        return values.mean(dim=(1, 2, 3))
    valid = mask > 0
    return torch.where(valid, values, 0.0).sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3))


def _matched(values: Tensor, wanted: Tensor) -> Tensor:
    """Values with the distribution of `wanted`: equal ranks get equal values, linear between them."""
    _, place, counts = torch.unique(values, return_inverse=True, return_counts=True)
    goals, goal_counts = torch.unique(wanted, return_counts=True)
    ranks = counts.cumsum(0).double() / len(values)
    goal_ranks = goal_counts.cumsum(0).double() / len(wanted)
    right = torch.searchsorted(goal_ranks, ranks).clamp(1, max(1, len(goals) - 1)).clamp_max(len(goals) - 1)
    left = (right - 1).clamp_min(0)
    span = (goal_ranks[right] - goal_ranks[left]).clamp_min(1e-300)
    share = ((ranks - goal_ranks[left]) / span).clamp(0, 1)
    return torch.lerp(goals[left].double(), goals[right].double(), share).to(values.dtype)[place]
