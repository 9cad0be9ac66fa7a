"""Uniformity and entropy of features: how far the samples of a batch lie apart, and how much each of them holds.

Reference: Su et al., arXiv:2303.05240 (UR and ER); the uniformity is that of Wang and Isola, 2020, arXiv:2005.10242.
Both look at one batch on one device: they are not gathered across processes, because their values depend on the number
of samples.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "EntropyLimit",
    "entropy",
    "feature_scale",
    "halved_uniformity",
    "halves",
    "masked_features",
    "potential",
    "uniformity",
]

_EPS = 1e-8
_GAUSSIAN = 0.5 * math.log(2 * math.pi * math.e)


def uniformity(features: Tensor, t: float = 2.0) -> Tensor:
    """Log of the mean Gaussian kernel between directions of features, U = log mean_{i<j} exp(-t |f̄_i - f̄_j|²).

    To be minimised. 0 where all samples are equal, which is a stationary point: it does not lead out of a total
    collapse. -2 t m / (m - 1) or more for m samples, so values of unequal batches are not comparable. Scale of the
    features, order of the samples and a common rotation change nothing.

    Args:
        features: One vector per sample, shape (B, D), B >= 2; for maps see `masked_features`.
        t: Sharpness of the kernel.

    Returns:
        Scalar, float32 (float64 for float64 features), <= 0.

    Raises:
        ValueError: If the features are not (B, D) with B >= 2.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"uniformity: expected (B, D) with B >= 2, got {tuple(features.shape)}; it compares samples of one batch, "
            "use larger batches, and flatten feature maps"
        )
    with torch.autocast(features.device.type, enabled=False):
        x = _direction(_wide(features))
        # Distances do not depend on the origin; at the batch's mean they are exact also where samples nearly agree.
        x = x - x.detach().mean(dim=0)
        gram = x @ x.T  # (B, B)
        norms = gram.diagonal()
        squared = (norms[:, None] + norms - 2 * gram).clamp_min(0)
        i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
        return torch.logsumexp(-t * squared[i, j], dim=0) - math.log(len(i))


def halves(features: Tensor) -> tuple[Tensor, ...]:
    """Split a batch into the two halves over which the published uniformity is averaged.

    Args:
        features: Shape (B, ...).

    Returns:
        Two halves of B // 2 samples, without the last sample when B is odd; the whole batch when it has two or three
        samples; nothing when it has less.
    """
    count = len(features)
    if count < 4:
        return (features,) if count > 1 else ()
    return features[: count // 2], features[count // 2 : count // 2 * 2]


def halved_uniformity(features: Tensor, t: float = 2.0) -> Tensor:
    """Mean of `uniformity` over `halves`, the published loss; zero, without a gradient, for a single sample."""
    parts = [uniformity(part, t) for part in halves(features)]
    return torch.stack(parts).mean() if parts else _wide(features).new_zeros(())


def potential(features: Tensor, t: float = 2.0) -> Tensor:
    """Mean pairwise Gaussian potential e^U of `uniformity`, in (0, 1]; the lower, the more evenly samples spread.

    The diagnostic G₂ of the reference for t = 2; report the number of samples with it.
    """
    return uniformity(features, t).exp()


def entropy(features: Tensor, mode: Literal["gaussian", "reference"] = "gaussian") -> Tensor:
    """Estimate the entropy of the entries of a sample, averaged over samples. To be maximised, it has no upper bound.

    "gaussian": the differential entropy per entry of a Gaussian with their deviation, ½ log(2πe) + log std(f).
    "reference": ½ log std(f̄) + log |f|, f̄ = f / |f|, as in the published code. On features of mean 0 it has the same
    gradient; otherwise it rewards an offset of all features too.

    Args:
        features: One vector per sample, shape (B, D), D >= 2.
        mode: Which estimate.

    Returns:
        Scalar H, float32 (float64 for float64 features), in nats; features twice as large give log 2 more.

    Raises:
        ValueError: If the features are not (B, D) with D >= 2, or the mode is unknown.
    """
    if features.ndim != 2 or not len(features) or features.shape[1] < 2:
        raise ValueError(
            f"entropy: expected (B, D) with B >= 1 and D >= 2, got {tuple(features.shape)}; flatten feature maps"
        )
    if mode not in ("gaussian", "reference"):
        raise ValueError(f'entropy: unknown mode {mode!r}; expected "gaussian" or "reference"')
    x = _wide(features)
    if mode == "gaussian":
        return _GAUSSIAN + (x.std(dim=1) + _EPS).log().mean()
    spread = 0.5 * (_direction(x).std(dim=1) + _EPS).log()
    return (spread + (torch.linalg.vector_norm(x, dim=1) + _EPS).log()).mean()


def masked_features(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Flatten feature maps so that cells without data count for nothing.

    Per channel, an invalid cell takes the mean of the valid ones, and their deviations grow by the root of all cells
    over the valid ones. So norm, mean and deviation are those of the valid cells whatever their number, and samples
    with one mask keep the angles of their valid cells.

    Args:
        features: Shape (B, C, h, w).
        mask: Validity, shape (B, 1, H, W), H and W the same multiple of h and w; a cell is valid where all its pixels
            are. What lies under 0 is ignored, even when not finite.

    Returns:
        Shape (B, C · h · w), float32 (float64 for float64 features); zeros for a sample without a valid cell, the
        plain features without a mask.

    Raises:
        ValueError: If features or mask have other shapes.
    """
    if features.ndim != 4:
        raise ValueError(f"masked_features: expected maps (B, C, h, w), got {tuple(features.shape)}")
    x = _wide(features)
    if mask is None:
        return x.flatten(1)
    h, w = x.shape[-2:]
    step = mask.shape[-1] // w
    if mask.shape != (len(x), 1, h * step, w * step) or step < 1:
        raise ValueError(
            f"masked_features: expected a mask (B, 1, H, W) at a multiple of the features' size, got "
            f"{tuple(mask.shape)} for features {tuple(features.shape)}"
        )
    valid = (mask > 0).to(x)
    if step > 1:
        valid = 1 - F.max_pool2d(1 - valid, step)
    x = torch.where(valid > 0, x, x.new_zeros(()))
    count = valid.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    mean = x.sum(dim=(2, 3), keepdim=True) / count
    return (mean + (x - mean) * valid * (h * w / count).sqrt()).flatten(1)


def feature_scale(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean norm and the mean deviation of samples (B, D): they run away where entropy is not limited."""
    x = _wide(features.detach())
    return torch.linalg.vector_norm(x, dim=1).mean(), x.std(dim=1).mean()


class EntropyLimit(nn.Module):
    """Keeps generated features from exceeding the entropy of real ones: min(H, H_max).

    H_max is a running mean of H on real images through the same network. Before the first `update` nothing is limited.

    Args:
        decay: Share of the running mean that stays in an update.
    """

    limit: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"EntropyLimit: expected 0 <= decay < 1, got {decay}")
        self.decay = decay
        self.register_buffer("limit", torch.tensor(math.inf))

    @torch.no_grad()
    def update(self, real: Tensor) -> None:
        """Take in the entropy H of a batch of real images, a scalar."""
        fresh = real.detach().to(self.limit)
        self.limit.copy_(torch.where(self.limit.isfinite(), torch.lerp(fresh, self.limit, self.decay), fresh))

    def forward(self, value: Tensor) -> Tensor:
        """Return the smaller of an entropy and the limit; no gradient above it."""
        limit = self.limit.to(value)
        return torch.where(value > limit, limit, value)


def _wide(features: Tensor) -> Tensor:
    """At least float32."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def _direction(x: Tensor) -> Tensor:
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + _EPS)
