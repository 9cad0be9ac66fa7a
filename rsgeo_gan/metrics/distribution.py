"""Distances between two sets of images by the distributions of their features: Fréchet and kernel distance."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from rsgeo_gan.metrics.features import FeatureBackend

__all__ = ["FrechetDistance", "KernelDistance", "distance_name", "frechet_distance", "kernel_distance"]

_ROWS = 2048


def _check(name: str, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Leave out images without features; return float64."""
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"{name}: expected two sets of features (N, D) with equal D, got {tuple(real.shape)} and "
            f"{tuple(fake.shape)}"
        )
    kept = [x[torch.isfinite(x).all(dim=1)].to(torch.float64) for x in (real, fake)]
    if min(len(x) for x in kept) < 2:
        raise ValueError(
            f"{name}: expected at least 2 images with features on both sides, got {len(kept[0])} real and "
            f"{len(kept[1])} fake; use more or larger valid tiles"
        )
    return kept[0], kept[1]


@torch.no_grad()
def frechet_distance(real: Tensor, fake: Tensor) -> Tensor:
    """Fréchet distance of two Gaussians fitted to features, |m₁ - m₂|² + Tr(S₁ + S₂ - 2 (S₁ S₂)^½).

    The trace of the root is the sum of singular values of S₁^½ S₂^½, taken from the centred features themselves, which
    stays exact when there are fewer images than dimensions. Few images give too large a value: two draws of N from one
    distribution with unit variance along D directions lie about D (D + 5) / (2 N) apart, more with heavy
    tails. Compare systems at equal N only, beside the distance of two halves of the real set, or use `kernel_distance`,
    which has no such bias.

    Reference: Heusel et al., 2017, arXiv:1706.08500.

    Args:
        real: Shape (N, D); images whose features are not finite are left out.
        fake: Shape (M, D).

    Returns:
        Scalar, float64, >= 0 up to rounding; |v|² for `fake = real + v`.

    Raises:
        ValueError: If D differs or a set has less than 2 images.
    """
    a, b = _check("frechet_distance", real, fake)
    means = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    a, b = ((x - x.mean(dim=0)) / (len(x) - 1) ** 0.5 for x in (a, b))
    traces = a.square().sum() + b.square().sum()
    # Only products xᵀx matter; the triangular factor has the same ones and at most D rows.
    a, b = (torch.linalg.qr(x, mode="r").R if len(x) > x.shape[1] else x for x in (a, b))
    return means + traces - 2 * torch.linalg.svdvals(a @ b.T).sum()


@torch.no_grad()
def kernel_distance(real: Tensor, fake: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy with the kernel (xᵀy / D + 1)³, over the whole sets.

    Its mean is 0 for equal distributions whatever the number of images, so single values may be negative.

    Reference: Bińkowski et al., 2018, arXiv:1801.01401; a mean over subsets, as there, has the same mean
    and more scatter.

    Args:
        real: Shape (N, D); images whose features are not finite are left out.
        fake: Shape (M, D).

    Returns:
        Scalar, float64.

    Raises:
        ValueError: If D differs or a set has less than 2 images.
    """
    a, b = _check("kernel_distance", real, fake)

    def mean_kernel(x: Tensor, y: Tensor, *, same: bool) -> Tensor:
        total = x.new_zeros(())
        for rows in torch.split(x, _ROWS):
            total = total + (rows @ y.T / x.shape[1] + 1).pow(3).sum()
        if same:
            total = total - (x.square().sum(dim=1) / x.shape[1] + 1).pow(3).sum()
        return total / (len(x) * (len(y) - same))

    return mean_kernel(a, a, same=True) + mean_kernel(b, b, same=True) - 2 * mean_kernel(a, b, same=False)


def distance_name(kind: Literal["F", "K"], backend: FeatureBackend) -> str:
    """Return what a Fréchet (F) or kernel (K) distance is called; FID and KID are those of one network's features."""
    return f"{kind}ID" if getattr(backend, "is_fid", False) else f"{kind}D-{backend.name}"


class _SetDistance(Metric):
    """Collects the features of real and fake images."""

    higher_is_better = False
    is_differentiable = False
    full_state_update = False

    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, backend: FeatureBackend, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.backend = backend
        if isinstance(backend, nn.Module):
            backend.eval()
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("fake", [], dist_reduce_fx="cat")

    @abstractmethod
    def _distance(self, real: Tensor, fake: Tensor) -> Tensor:
        """Compare two sets of features."""

    @torch.no_grad()
    def update(self, images: Tensor, real: bool, mask: Tensor | None = None) -> None:
        """Add images of one kind, shape (B, C, H, W), model domain; mask (B, 1, H, W)."""
        (self.real if real else self.fake).append(self.backend.describe(images, mask))

    def compute(self) -> Tensor:
        """Return the distance of all images seen; NaN with less than two of a kind."""
        sets = [
            x if isinstance(x, Tensor) else torch.cat(x) if x else torch.empty(0, 1) for x in (self.real, self.fake)
        ]
        if min(int(torch.isfinite(x).all(dim=1).sum()) for x in sets) < 2:
            return torch.tensor(torch.nan)
        return self._distance(*sets).float()


class FrechetDistance(_SetDistance):
    """`frechet_distance` between real and fake images.

    Args:
        backend: Feature network, already fitted.
        kwargs: See `torchmetrics.Metric`.

    Attributes:
        name: What a report calls the value: "FD-" and the backend's name, or "FID" where its features are the ones
            that name stands for.
    """

    def __init__(self, backend: FeatureBackend, **kwargs: Any) -> None:
        super().__init__(backend, **kwargs)
        self.name = distance_name("F", backend)

    def _distance(self, real: Tensor, fake: Tensor) -> Tensor:
        return frechet_distance(real, fake)


class KernelDistance(_SetDistance):
    """`kernel_distance` between real and fake images.

    Args:
        backend: Feature network, already fitted.
        kwargs: See `torchmetrics.Metric`.

    Attributes:
        name: What a report calls the value: "KD-" and the backend's name, or "KID" likewise.
    """

    def __init__(self, backend: FeatureBackend, **kwargs: Any) -> None:
        super().__init__(backend, **kwargs)
        self.name = distance_name("K", backend)

    def _distance(self, real: Tensor, fake: Tensor) -> Tensor:
        return kernel_distance(real, fake)
