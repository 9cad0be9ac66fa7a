"""Quality and variety apart: how much of one set of features lies among the neighbours of another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "precision_recall"]


class PrecisionRecall(NamedTuple):
    """Scalars in [0, 1], float64.

    Attributes:
        precision: Share of fake images that lie among the real ones: quality.
        recall: Share of real images that lie among the fake ones: variety; low when modes are missing.
    """

    precision: Tensor
    recall: Tensor


class DensityCoverage(NamedTuple):
    """Scalars, float64.

    Attributes:
        density: Real neighbourhoods that hold a fake image, per fake image and `k`; about 1 for equal distributions,
            and may be larger.
        coverage: Share of real images whose neighbourhood holds a fake one, in [0, 1].
    """

    density: Tensor
    coverage: Tensor


@torch.no_grad()
def precision_recall(real: Tensor, fake: Tensor, k: int = 3, *, chunk: int = 1024) -> PrecisionRecall:
    """Estimate precision and recall with manifolds made of balls to the k-th neighbour.

    An image lies on a set's manifold when it is at most as far from one of the set's images as that image is from its
    k-th nearest neighbour in the set. Both depend on the number of images: compare systems at equal numbers, beside
    the values of two halves of the real set.

    Reference: Kynkäänniemi et al., 2019, arXiv:1904.06991.

    Args:
        real: Features, shape (N, D); images whose features are not finite are left out.
        fake: Shape (M, D).
        k: Neighbour that gives a ball its radius, without the image itself.
        chunk: Rows whose distances are held at a time.

    Returns:
        Both shares.

    Raises:
        ValueError: If D differs or a set has at most `k` images.
    """
    a, b = _check("precision_recall", real, fake, k)
    return PrecisionRecall(_covered(b, a, _radii(a, k, chunk), chunk), _covered(a, b, _radii(b, k, chunk), chunk))


@torch.no_grad()
def density_coverage(real: Tensor, fake: Tensor, k: int = 5, *, chunk: int = 1024) -> DensityCoverage:
    """Estimate density and coverage, which a single odd image changes less than precision and recall.

    Reference: Naeem et al., 2020, arXiv:2002.09797.

    Args:
        real: Features, shape (N, D); images whose features are not finite are left out.
        fake: Shape (M, D).
        k: Neighbour that gives a real image's ball its radius, without the image itself.
        chunk: Rows whose distances are held at a time.

    Returns:
        Both values.

    Raises:
        ValueError: If D differs or a set has at most `k` images.
    """
    a, b = _check("density_coverage", real, fake, k)
    radius = _radii(a, k, chunk)
    inside = 0
    covered = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    for distance in _distances(b, a, chunk):
        within = distance <= radius
        inside += int(within.sum())
        covered |= within.any(dim=0)
    return DensityCoverage(a.new_tensor(inside / (k * len(b))), covered.double().mean())


def _check(name: str, real: Tensor, fake: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Leave out images without features; return float64."""
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"{name}: expected two sets of features (N, D) with equal D, got {tuple(real.shape)} and "
            f"{tuple(fake.shape)}"
        )
    kept = [x[torch.isfinite(x).all(dim=1)].to(torch.float64) for x in (real, fake)]
    if k < 1 or min(len(x) for x in kept) <= k:
        raise ValueError(
            f"{name}: expected k >= 1 and more than k = {k} images with features on both sides, got {len(kept[0])} "
            f"real and {len(kept[1])} fake; use more tiles or a smaller k"
        )
    return kept[0], kept[1]


def _distances(x: Tensor, y: Tensor, chunk: int) -> Iterator[Tensor]:
    """Exact distances, so that an image is at 0 from its copy."""
    for rows in torch.split(x, chunk):
        yield torch.cdist(rows, y, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(x: Tensor, k: int, chunk: int) -> Tensor:
    """Distance of every image to its k-th neighbour; the image itself is the 0-th."""
    return torch.cat([rows.kthvalue(k + 1, dim=1).values for rows in _distances(x, x, chunk)])


def _covered(x: Tensor, centres: Tensor, radius: Tensor, chunk: int) -> Tensor:
    """Share of `x` within a ball."""
    return torch.cat([(rows <= radius).any(dim=1) for rows in _distances(x, centres, chunk)]).double().mean()
