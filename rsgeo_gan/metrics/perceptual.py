"""Distance of two images as a feature network sees them, place by place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan.metrics.similarity import check_pair

__all__ = ["FeatureMaps", "feature_distance", "feature_distance_map", "feature_distance_name"]


class FeatureMaps(Protocol):
    """A network that gives standardised feature maps by level, such as `RandomConv` after `fit`."""

    name: str

    def __call__(self, images: Tensor, mask: Tensor | None = None) -> Mapping[str, Tensor]: ...  # noqa: D102


def feature_distance_name(backend: FeatureMaps) -> str:
    """Return what to call the distance: it is not LPIPS, whose weights were learnt from people."""
    return f"FDist-{backend.name}"


def feature_distance_map(pred: Tensor, target: Tensor, backend: FeatureMaps, mask: Tensor | None = None) -> Tensor:
    """Squared distance of the unit feature vectors of every pixel, summed over levels.

    Reference: Zhang et al., 2018, doi:10.1109/CVPR.2018.00068, without learnt weights of the channels.

    Args:
        pred: Shape (B, C, H, W), model domain.
        target: Same shape.
        backend: Network with maps of any stride.
        mask: Validity, shape (B, 1, H, W); what lies under 0 is taken as 0 in both.

    Returns:
        Shape (B, 1, H, W), in [0, 4 * levels]; coarse levels are spread bilinearly.

    Raises:
        ValueError: If shapes differ.
    """
    check_pair("feature_distance", pred, target, mask)
    total = pred.new_zeros(len(pred), 1, *pred.shape[-2:])
    ours, theirs = backend(pred, mask), backend(target, mask)
    for level, a in ours.items():
        apart = (F.normalize(a, dim=1) - F.normalize(theirs[level], dim=1)).square().sum(dim=1, keepdim=True)
        total = total + F.interpolate(apart, size=pred.shape[-2:], mode="bilinear", align_corners=False)
    return total


@torch.no_grad()
def feature_distance(pred: Tensor, target: Tensor, backend: FeatureMaps, mask: Tensor | None = None) -> Tensor:
    """Mean of `feature_distance_map` over valid pixels, an LPIPS-like score without learnt weights.

    Args:
        pred: Shape (B, C, H, W), model domain.
        target: Same shape.
        backend: Network with maps of any stride; name it with the score (`feature_distance_name`).
        mask: Validity, shape (B, 1, H, W).

    Returns:
        Per sample, shape (B,); 0 for equal images, NaN where nothing is valid.
    """
    apart = feature_distance_map(pred, target, backend, mask)
    if mask is None:
        return apart.mean(dim=(1, 2, 3))
    valid = (mask > 0).to(apart)
    return (apart * valid).sum(dim=(1, 2, 3)) / valid.sum(dim=(1, 2, 3))
