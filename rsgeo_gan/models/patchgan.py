"""Patch discriminator: one logit per overlapping patch, 70 x 70 px at the defaults.

Reference: Isola et al., 2017, arXiv:1611.07004 (PatchGAN), as used by Zhu et al., 2017, arXiv:1703.10593.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.blocks import Blur, init_normal, pad_edges
from rsgeo_gan.models.norm import SceneNorm

__all__ = ["PatchDiscriminator", "logit_mask"]


def logit_mask(mask: Tensor, logits: Tensor, threshold: float = 0.9) -> Tensor:
    """Bring a validity mask to the size of patch logits.

    Args:
        mask: Validity, shape (B, 1, H, W).
        logits: Logits the mask is for, shape (B, 1, h, w).
        threshold: Least valid share of a logit's own cell.

    Returns:
        1 where a logit counts, 0 elsewhere, shape (B, 1, h, w), dtype of the logits.
    """
    share = F.adaptive_avg_pool2d(mask.to(torch.float32), (logits.shape[-2], logits.shape[-1]))
    return (share >= threshold).to(logits.dtype)


class _Stage(nn.Module):
    """conv 4 x 4, optional norm, leaky ReLU 0.2."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: bool, antialias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 4, stride=stride, padding=1, bias=not norm)
        self.norm = SceneNorm(out_channels) if norm else None
        self.blur = Blur() if antialias and stride > 1 else None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.blur is not None:
            x = self.blur(pad_edges(x, 1, 1, 1, 1))
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x, None if mask is None else _nearest(mask, x))
        return F.leaky_relu(x, 0.2, inplace=True)


def _nearest(mask: Tensor, like: Tensor) -> Tensor:
    """A mask at a feature map's size: a cell counts when any of its pixels does."""
    return F.adaptive_max_pool2d(mask, (like.shape[-2], like.shape[-1]))


class PatchDiscriminator(nn.Module):
    """Judge overlapping patches of an image.

    Args:
        in_channels: Bands of the image.
        width: Channels of the first stage; doubled up to 8 times.
        layers: Stages of stride 2; 3 gives a receptive field of 70 px (without `antialias`).
        antialias: Blur before each stride.
    """

    def __init__(self, in_channels: int, width: int = 64, layers: int = 3, antialias: bool = False) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.layers = layers
        channels = [in_channels, *(width * min(2**i, 8) for i in range(layers + 1))]
        self.stages = nn.ModuleList(
            _Stage(a, b, stride=2 if i < layers else 1, norm=i > 0, antialias=antialias)
            for i, (a, b) in enumerate(pairwise(channels))
        )
        self.head = nn.Conv2d(channels[-1], 1, 4, padding=1)
        init_normal(self)

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the inner features, `stage0` first."""
        return tuple(f"stage{i}" for i in range(len(self.stages)))

    @property
    def min_size_px(self) -> int:
        """Smallest height or width that leaves at least one logit (and two features to normalise)."""
        return 3 * 2**self.layers

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Judge.

        Args:
            x: Image, shape (B, C, H, W), model domain.
            mask: Validity, shape (B, 1, H, W); invalid pixels are set to 0, for reals and fakes alike, and kept
                out of the normalisation. Weight the logits with `logit_mask`.

        Returns:
            Logits, shape (B, 1, h, w).

        Raises:
            ValueError: If the band count is wrong or the image is smaller than `min_size_px`.
        """
        return self.forward_head(self.forward_features(x, mask=mask)[self.taps[-1]])

    def forward_features(self, x: Tensor, taps: Sequence[str] = (), mask: Tensor | None = None) -> dict[str, Tensor]:
        """Compute inner features: always the last stage (the head's input), and the named taps."""
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[-2:]) < self.min_size_px:
            raise ValueError(
                f"PatchDiscriminator: expected (B, {self.in_channels}, H, W) with H, W >= {self.min_size_px}, "
                f"got {tuple(x.shape)}; use larger patches or fewer layers"
            )
        unknown = set(taps) - set(self.taps)
        if unknown:
            raise ValueError(f"PatchDiscriminator: unknown taps {sorted(unknown)}; choose from {self.taps}")
        if mask is not None:
            mask = mask.to(x.dtype)
            x = torch.where(mask > 0, x, x.new_zeros(()))
        found: dict[str, Tensor] = {}
        for name, stage in zip(self.taps, self.stages, strict=True):
            x = stage(x, mask)
            if name in taps or name == self.taps[-1]:
                found[name] = x
        return found

    def forward_head(self, features: Tensor) -> Tensor:
        """Turn the last stage's features into logits, float32."""
        return self.head(features).float()
