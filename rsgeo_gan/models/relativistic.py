"""Residual generator and discriminator without normalisation, for relativistic training with both gradient penalties.

No style, no noise, no minibatch deviation: grouped convolutions in residual blocks whose last layer begins at zero, and
resampling between them.

References: Huang et al., 2024, arXiv:2501.05441 (R3GAN); Zhang et al., 2019, arXiv:1901.09321 (variance by depth).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.resampling import LINEAR, Fir, extend
from rsgeo_gan.models.synthesis import Embedding, SynthesisDiscriminator, SynthesisGenerator, channels_at

__all__ = ["RelativisticDiscriminator", "RelativisticGenerator"]

_SLOPE = 0.2
_EXPANSION = 2


def _drawn(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Conv2d | nn.Linear:
    """Draw weights whose output has `gain` times the standard deviation of the input; biases zero."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _groups(channels: int, group_width: int) -> int:
    """Groups of at least `group_width` channels that divide the channels."""
    return next(n for n in range(max(1, channels // group_width), 0, -1) if channels % n == 0)


class _Residual(nn.Module):
    """x + (1 x 1 to twice the channels, 3 x 3 in groups, 1 x 1 back)(x), leaky ReLUs between.

    Past the edge lie zeros in a discriminator and the outermost cells again in a generator (`extended`).
    """

    def __init__(self, channels: int, group_width: int, depth: int, extended: bool) -> None:
        super().__init__()
        wide = _EXPANSION * channels
        groups = _groups(wide, group_width)
        self.widen = nn.Conv2d(channels, wide, 1)
        self.extended = extended
        self.mix = nn.Conv2d(wide, wide, 3, padding=0 if extended else 1, groups=groups)
        self.narrow = nn.Conv2d(wide, channels, 1, bias=False)
        # Three layers in a branch, of which the last is zero: the other two share the scaling by depth.
        gain = math.sqrt(2 / (1 + _SLOPE**2)) * depth**-0.25
        _drawn(self.widen, gain)
        _drawn(self.mix, gain)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.leaky_relu(self.widen(x), _SLOPE)
        wide = self.mix(extend(wide) if self.extended else wide)
        return x + self.narrow(F.leaky_relu(wide, _SLOPE))


def _stage(channels: int, blocks: int, group_width: int, depth: int, extended: bool = False) -> nn.Sequential:
    return nn.Sequential(*(_Residual(channels, group_width, depth, extended) for _ in range(blocks)))


class _Resample(nn.Module):
    """Another resolution, and another number of channels by a 1 x 1 convolution at the coarser of the two."""

    def __init__(self, in_channels: int, out_channels: int, size_px: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.fir = Fir.doubling(size_px, LINEAR) if up else Fir.halving(size_px, LINEAR)
        plain = in_channels == out_channels
        self.project = None if plain else _drawn(nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return self.fir(x if self.project is None else self.project(x))
        x = self.fir(x)
        return x if self.project is None else self.project(x)


class RelativisticGenerator(SynthesisGenerator):
    """Latent and condition scale a learnt coarse map; residual stages and doublings refine it.

    The image leaves a 1 x 1 convolution without squashing: it leaves [-1, 1] a little.

    Args:
        out_channels: Bands of the image.
        size_px: Height and width: 4, 5, 6 or 7 times a power of two.
        width: Channels at the finest resolution; doubled at each coarser one.
        max_width: Most channels at any resolution.
        latent_dim: Length of the latent.
        condition_dim: Length of the condition vector; 0 for none.
        blocks: Residual blocks at each resolution.
        group_width: Channels that a 3 x 3 convolution joins.
    """

    def __init__(
        self,
        out_channels: int,
        size_px: int = 64,
        width: int = 64,
        max_width: int = 256,
        latent_dim: int = 64,
        condition_dim: int = 0,
        blocks: int = 2,
        group_width: int = 16,
    ) -> None:
        super().__init__(out_channels, size_px, latent_dim, condition_dim)
        channels = channels_at(size_px, width, max_width)
        self.tap_channels = {f"b{px}": count for px, count in channels.items()}
        coarsest = next(iter(channels))
        depth = blocks * len(channels)
        self.embed = Embedding(condition_dim, latent_dim) if condition_dim else None
        self.basis = nn.Parameter(torch.randn(channels[coarsest], coarsest, coarsest))
        self.scale = _drawn(nn.Linear(latent_dim * (2 if condition_dim else 1), channels[coarsest], bias=False))
        self.doublings = nn.ModuleList(_Resample(channels[a], channels[b], a, up=True) for a, b in pairwise(channels))
        self.stages = nn.ModuleList(_stage(count, blocks, group_width, depth, True) for count in channels.values())
        self.to_bands = _drawn(nn.Conv2d(width, out_channels, 1))

    def forward_features(
        self,
        z: Tensor,
        condition: Tensor | None = None,
        taps: Sequence[str] = (),
        origin_px: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the named taps, the output of the stage at their resolution, and the finest under `_last`."""
        self._check(z, condition, taps)
        if self.embed is not None and condition is not None:
            z = torch.cat([z, self.embed(condition).to(z.dtype)], dim=1)
        x = self.basis * self.scale(z)[:, :, None, None]
        found: dict[str, Tensor] = {}
        for name, stage, enlarge in zip(self.taps, self.stages, [None, *self.doublings], strict=True):
            x = stage(x if enlarge is None else enlarge(x))
            if name in taps:
                found[name] = x
        return found | {"_last": x}

    def forward_head(self, features: Mapping[str, Tensor]) -> Tensor:
        """Turn the finest features into the image, float32."""
        return self.to_bands(features["_last"]).float()


class RelativisticDiscriminator(SynthesisDiscriminator):
    """Residual stages and halvings, then one weight for each cell of the coarsest map and a linear logit.

    Args:
        in_channels: Bands of the image.
        size_px: Height and width: 4, 5, 6 or 7 times a power of two.
        width: Channels at the finest resolution; doubled at each coarser one.
        max_width: Most channels at any resolution.
        condition_dim: Length of the condition vector, which enters by projection; 0 for none.
        blocks: Residual blocks at each resolution.
        group_width: Channels that a 3 x 3 convolution joins.
    """

    def __init__(
        self,
        in_channels: int,
        size_px: int = 64,
        width: int = 64,
        max_width: int = 256,
        condition_dim: int = 0,
        blocks: int = 2,
        group_width: int = 16,
    ) -> None:
        super().__init__(in_channels, size_px, condition_dim)
        channels = channels_at(size_px, width, max_width)
        sizes = sorted(channels, reverse=True)
        self.tap_channels = {f"b{px}": channels[px // 2] for px in sizes[:-1]}
        depth = blocks * len(sizes)
        last = channels[sizes[-1]]
        self.stem = _drawn(nn.Conv2d(in_channels, channels[size_px], 1))
        self.stages = nn.ModuleList(_stage(channels[px], blocks, group_width, depth) for px in sizes)
        self.halvings = nn.ModuleList(_Resample(channels[a], channels[b], a, up=False) for a, b in pairwise(sizes))
        self.basis = _drawn(nn.Conv2d(last, last, sizes[-1], groups=last, bias=False))
        self.logit = _drawn(nn.Linear(last, 1, bias=False))
        self.embed = Embedding(condition_dim, last) if condition_dim else None

    def _features(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        x = self.stem(x)
        for name, stage, halve in zip(self.taps, self.stages, self.halvings, strict=False):
            x = halve(stage(x))
            if name in taps:
                found[name] = x
        return found | {"last": self.stages[-1](x)}

    def _head(self, last: Tensor, condition: Tensor | None) -> Tensor:
        with torch.autocast(last.device.type, enabled=False):
            x = self.basis(last.float()).flatten(1)
            logit: Tensor = self.logit(x)
            if self.embed is not None and condition is not None:
                logit = logit + (x * self.embed(condition)).sum(dim=1, keepdim=True) / math.sqrt(x.shape[1])
            return logit
