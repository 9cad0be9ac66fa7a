"""Plain convolutional generator and discriminator for small tiles, 32 to 64 px, with resampling that does not alias.

Reference: Radford et al., 2015, arXiv:1511.06434 (DCGAN), its strides replaced by filtered resampling and without
normalisation in the discriminator, whose penalties are per sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.resampling import Fir, double_by, extend
from rsgeo_gan.models.synthesis import Embedding, Prior, SynthesisDiscriminator, SynthesisGenerator, channels_at

__all__ = ["DCGANDiscriminator", "DCGANGenerator"]


class _Offset(nn.Module):
    """A bias per channel, in the place of a normalisation that has one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.to(x.dtype)


class _Up(nn.Module):
    """Linear interpolation to twice the resolution, 3 x 3 convolution, optional normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, size_px: int, norm: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3) * math.sqrt(2 / (9 * in_channels)))
        self.smooth = Fir.smoothing(size_px)
        self.norm = nn.BatchNorm2d(out_channels) if norm else _Offset(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = double_by(self.weight.to(x.dtype), x, self.smooth)
        return F.relu(self.norm(x))


class DCGANGenerator(SynthesisGenerator):
    """Dense layer to a coarse map, doublings with a convolution each, tanh.

    Args:
        out_channels: Bands of the image.
        size_px: Height and width: 4, 5, 6 or 7 times a power of two.
        width: Channels at the finest resolution; doubled at each coarser one.
        max_width: Most channels at any resolution.
        latent_dim: Length of the latent.
        condition_dim: Length of the condition vector; 0 for none.
        norm: `batch` normalises over the batch in training, `none` not at all.
        prior: Distribution of each entry of the latent, `normal` or `uniform` in [-1, 1].
    """

    def __init__(
        self,
        out_channels: int,
        size_px: int = 32,
        width: int = 32,
        max_width: int = 256,
        latent_dim: int = 64,
        condition_dim: int = 0,
        norm: Literal["batch", "none"] = "batch",
        prior: Prior = "normal",
    ) -> None:
        super().__init__(out_channels, size_px, latent_dim, condition_dim, prior)
        channels = channels_at(size_px, width, max_width)
        self.tap_channels = {f"b{px}": count for px, count in channels.items()}
        coarsest = next(iter(channels))
        self.embed = Embedding(condition_dim, latent_dim) if condition_dim else None
        self.dense = nn.Linear(latent_dim * (2 if condition_dim else 1), channels[coarsest] * coarsest**2)
        self.norm = nn.BatchNorm2d(channels[coarsest]) if norm == "batch" else None
        self.ups = nn.ModuleList(_Up(channels[a], channels[b], a, norm == "batch") for a, b in pairwise(channels))
        self.to_bands = nn.Conv2d(width, out_channels, 3)

    def forward_features(
        self,
        z: Tensor,
        condition: Tensor | None = None,
        taps: Sequence[str] = (),
        origin_px: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the named taps, the maps at their resolution, and the finest under `_last`."""
        self._check(z, condition, taps)
        if self.embed is not None and condition is not None:
            z = torch.cat([z, self.embed(condition).to(z.dtype)], dim=1)
        coarsest = int(self.taps[0][1:])
        x = self.dense(z).view(len(z), -1, coarsest, coarsest)
        x = F.relu(x if self.norm is None else self.norm(x))
        found: dict[str, Tensor] = {}
        for name, enlarge in zip(self.taps, [None, *self.ups], strict=True):
            x = x if enlarge is None else enlarge(x)
            if name in taps:
                found[name] = x
        return found | {"_last": x}

    def forward_head(self, features: Mapping[str, Tensor]) -> Tensor:
        """Turn the finest features into the image, float32 in [-1, 1]."""
        return torch.tanh(self.to_bands(extend(features["_last"])).float())


class _Down(nn.Module):
    """Low-pass, 3 x 3 convolution of stride 2, leaky ReLU 0.2."""

    def __init__(self, in_channels: int, out_channels: int, size_px: int) -> None:
        super().__init__()
        self.blur = Fir(size_px, pad=(2, 2))
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(self.blur(x)), 0.2)


class DCGANDiscriminator(SynthesisDiscriminator):
    """A 3 x 3 convolution, halvings with a convolution each, one dense logit; no normalisation.

    Args:
        in_channels: Bands of the image.
        size_px: Height and width: 4, 5, 6 or 7 times a power of two.
        width: Channels at the finest resolution; doubled at each coarser one.
        max_width: Most channels at any resolution.
        condition_dim: Length of the condition vector, which enters by projection; 0 for none.
    """

    def __init__(
        self, in_channels: int, size_px: int = 32, width: int = 32, max_width: int = 256, condition_dim: int = 0
    ) -> None:
        super().__init__(in_channels, size_px, condition_dim)
        channels = channels_at(size_px, width, max_width)
        sizes = sorted(channels, reverse=True)
        self.tap_channels = {f"b{px}": channels[px // 2] for px in sizes[:-1]}
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1)
        self.downs = nn.ModuleList(_Down(channels[a], channels[b], a) for a, b in pairwise(sizes))
        entries = channels[sizes[-1]] * sizes[-1] ** 2
        self.logit = nn.Linear(entries, 1)
        self.project = nn.Linear(entries, channels[sizes[-1]], bias=False) if condition_dim else None
        self.embed = Embedding(condition_dim, channels[sizes[-1]]) if condition_dim else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, 0.2)
                nn.init.zeros_(cast(Tensor, module.bias))

    def _features(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        x = F.leaky_relu(self.stem(x), 0.2)
        for name, halve in zip(self.taps, self.downs, strict=True):
            x = halve(x)
            if name in taps:
                found[name] = x
        return found | {"last": x}

    def _head(self, last: Tensor, condition: Tensor | None) -> Tensor:
        with torch.autocast(last.device.type, enabled=False):
            x = last.float().flatten(1)
            logit: Tensor = self.logit(x)
            if self.embed is not None and self.project is not None and condition is not None:
                logit = logit + (self.project(x) * self.embed(condition)).sum(dim=1, keepdim=True)
            return logit
