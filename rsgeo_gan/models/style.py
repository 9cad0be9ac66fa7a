"""Style-based generator and residual discriminator, any band count, 8 to 256 px and more.

Reference: Karras et al., 2020, arXiv:1912.04958 (StyleGAN2: skip generator, residual discriminator).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.modulated import (
    GAIN,
    SLOPE,
    ModulatedConv,
    ScaledConv,
    ScaledLinear,
    minibatch_deviation,
    noise_key,
    seeded_noise,
)
from rsgeo_gan.models.resampling import Fir
from rsgeo_gan.models.synthesis import Embedding, SynthesisDiscriminator, SynthesisGenerator, channels_at, unit

__all__ = ["StyleDiscriminator", "StyleGenerator"]


class _Mapping(nn.Module):
    """Latent and condition to style: fully connected layers that learn a hundred times slower, float32."""

    def __init__(self, latent_dim: int, condition_dim: int, style_dim: int, layers: int) -> None:
        super().__init__()
        self.embed = Embedding(condition_dim, latent_dim) if condition_dim else None
        widths = [latent_dim * (2 if condition_dim else 1), *[style_dim] * layers]
        self.layers = nn.Sequential(*(ScaledLinear(a, b, rate=0.01, activation=True) for a, b in pairwise(widths)))

    def forward(self, z: Tensor, condition: Tensor | None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            x = unit(z.float())
            if self.embed is not None and condition is not None:
                x = torch.cat([x, self.embed(condition)], dim=1)
            style: Tensor = self.layers(x)
            return style


class _Layer(nn.Module):
    """Modulated convolution, noise, bias, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, double_px: int | None = None) -> None:
        super().__init__()
        self.conv = ModulatedConv(in_channels, out_channels, style_dim, size_px=double_px)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        x = self.conv(x, style, gain=GAIN)
        if noise is not None:
            x = x + (noise * (self.strength * GAIN)).to(x.dtype)
        return F.leaky_relu(x + (self.bias * GAIN).to(x.dtype)[:, None, None], SLOPE)


class _Block(nn.Module):
    """One resolution of the generator: features, and their share of the image."""

    def __init__(self, in_channels: int, channels: int, style_dim: int, bands: int, size_px: int, first: bool) -> None:
        super().__init__()
        self.size_px = size_px
        half = size_px // 2
        self.layers = nn.ModuleList([] if first else [_Layer(in_channels, channels, style_dim, half)])
        self.layers.append(_Layer(channels, channels, style_dim))
        self.to_bands = ModulatedConv(channels, bands, style_dim, 1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(bands))
        self.enlarge = None if first else Fir.doubling(half)

    def forward(
        self, x: Tensor, image: Tensor | None, styles: Sequence[Tensor], noise: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        for layer, style, field in zip(self.layers, styles, noise, strict=False):
            x = layer(x, style, field)
        share = self.to_bands(x, styles[len(self.layers)])
        with torch.autocast(x.device.type, enabled=False):
            share = share.float() + self.bias[:, None, None]
            return x, share if image is None or self.enlarge is None else share + self.enlarge(image)


class StyleGenerator(SynthesisGenerator):
    """Style-based generator: a mapping from latent to style, and blocks that double the resolution.

    In training two styles are mixed in a share of the samples, and every layer receives fresh noise. In evaluation
    nothing is mixed, the noise is a function of the latent (an image does not depend on the batch), and
    styles can be drawn towards their mean, see `truncate`.

    The image is the sum of the blocks' shares, without a final squashing: it leaves [-1, 1] a little.

    Args:
        out_channels: Bands of the image.
        size_px: Height and width: 4, 5, 6 or 7 times a power of two.
        width: Channels at the finest resolution; doubled at each coarser one.
        max_width: Most channels at any resolution.
        latent_dim: Length of the latent.
        style_dim: Length of the style; `latent_dim` when 0.
        condition_dim: Length of the condition vector; 0 for none.
        mapping_layers: Layers from latent to style.
        mixing: Share of the samples of a training batch whose finer layers get the style of another latent.
        noise: Add noise in every layer.
        fixed_noise: In training, too, make the noise a function of the latent.
    """

    mean_style: Tensor

    def __init__(
        self,
        out_channels: int,
        size_px: int = 64,
        width: int = 64,
        max_width: int = 512,
        latent_dim: int = 128,
        style_dim: int = 0,
        condition_dim: int = 0,
        mapping_layers: int = 4,
        mixing: float = 0.9,
        noise: bool = True,
        fixed_noise: bool = False,
    ) -> None:
        super().__init__(out_channels, size_px, latent_dim, condition_dim)
        if mapping_layers < 1 or not 0 <= mixing <= 1:
            raise ValueError(
                f"StyleGenerator: expected mapping_layers >= 1 and 0 <= mixing <= 1, got {mapping_layers} and {mixing}"
            )
        channels = channels_at(size_px, width, max_width)
        self.tap_channels = {f"b{px}": count for px, count in channels.items()}
        self.style_dim = style_dim or latent_dim
        self.mixing = mixing
        self.noise = noise
        self.fixed_noise = fixed_noise
        self.truncation = 1.0
        self.mapping = _Mapping(latent_dim, condition_dim, self.style_dim, mapping_layers)
        coarsest = next(iter(channels))
        self.constant = nn.Parameter(torch.randn(channels[coarsest], coarsest, coarsest))
        before = [channels[coarsest], *channels.values()]
        self.blocks = nn.ModuleList(
            _Block(a, count, self.style_dim, out_channels, px, first=px == coarsest)
            for a, (px, count) in zip(before, channels.items(), strict=False)
        )
        self.register_buffer("mean_style", torch.zeros(self.style_dim))

    @property
    def style_count(self) -> int:
        """Styles of an image: one for each layer and one for the last share of the image."""
        return 2 * len(self.blocks)

    def truncate(self, psi: float) -> None:
        """Draw styles towards their mean in evaluation: 1 leaves them, 0 gives the mean image."""
        self.truncation = psi

    def style(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Compute the styles of all layers.

        Args:
            z: Latent, shape (B, latent_dim).
            condition: Shape (B, condition_dim).

        Returns:
            Shape (B, style_count, style_dim), float32; mixed in training, truncated in evaluation.

        Raises:
            ValueError: If the latent or the condition has another shape.
        """
        self._check(z, condition)
        style = self.mapping(z, condition)
        styles = style[:, None].expand(-1, self.style_count, -1)
        if not self.training:
            return styles if self.truncation == 1.0 else torch.lerp(self.mean_style, styles, self.truncation)
        with torch.no_grad():
            # The first batch counts whole, or short trainings would draw styles towards 0.
            share = torch.where(self.mean_style.any(), 0.002, 1.0)
            self.mean_style.lerp_(style.detach().mean(dim=0), share)
        if self.mixing > 0:
            other = self.mapping(torch.randn_like(z), condition)[:, None]
            place = torch.arange(self.style_count, device=z.device)
            start = torch.randint(1, self.style_count, (len(z), 1), device=z.device)
            mixed = (torch.rand(len(z), 1, device=z.device) < self.mixing) & (place >= start)
            styles = torch.where(mixed[..., None], other, styles)
        return styles

    def forward_features(
        self,
        z: Tensor,
        condition: Tensor | None = None,
        taps: Sequence[str] = (),
        origin_px: Tensor | None = None,
        styles: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the named taps and the image.

        Args:
            z: Latent, shape (B, latent_dim).
            condition: Shape (B, condition_dim).
            taps: Names out of `taps`.
            origin_px: Not used here.
            styles: Of all layers, shape (B, style_count, style_dim), in place of `style(z, condition)`; the latent then
                seeds the noise alone.

        Returns:
            Features by tap, the output of the block at that resolution, and the image under `_image`.

        Raises:
            ValueError: If the latent or the condition has another shape, or a tap does not exist.
        """
        self._check(z, condition, taps)
        if styles is None:
            styles = self.style(z, condition)
        key = noise_key(z) if self.noise and (self.fixed_noise or not self.training) else None
        x = self.constant.repeat(len(styles), 1, 1, 1)
        image: Tensor | None = None
        found: dict[str, Tensor] = {}
        at = 0
        for name, block in zip(self.taps, cast("Iterable[_Block]", self.blocks), strict=True):
            count = len(block.layers)
            fields = [self._field(len(styles), at + n, block.size_px, key) for n in range(count)]
            x, image = block(x, image, styles[:, at : at + count + 1].unbind(1), fields)
            at += count
            if name in taps:
                found[name] = x
        return found if image is None else found | {"_image": image}

    def forward_head(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the image, float32."""
        return features["_image"].float()

    def _field(self, count: int, layer: int, size_px: int, key: Tensor | None) -> Tensor | None:
        if not self.noise:
            return None
        if key is not None:
            return seeded_noise(key, layer, size_px)
        return torch.randn(count, 1, size_px, size_px, device=self.constant.device)


class _Down(nn.Module):
    """Residual block that halves the resolution."""

    def __init__(self, in_channels: int, out_channels: int, size_px: int) -> None:
        super().__init__()
        # Two branches of unit variance are added.
        half = math.sqrt(0.5)
        self.first = ScaledConv(in_channels, in_channels)
        self.second = ScaledConv(in_channels, out_channels, size_px=size_px, gain=half)
        self.halve = Fir.halving(size_px)
        self.skip = ScaledConv(in_channels, out_channels, 1, activation=False, gain=half)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.skip(self.halve(x))


class StyleDiscriminator(SynthesisDiscriminator):
    """Residual discriminator with minibatch deviation; a condition enters by projection on its embedding.

    Args:
        in_channels: Bands of the image.
        size_px: Height and width: 4, 5, 6 or 7 times a power of two.
        width: Channels at the finest resolution; doubled at each coarser one.
        max_width: Most channels at any resolution.
        condition_dim: Length of the condition vector; 0 for none.
        group: Samples whose deviation is shown to the discriminator; 0 for none.
    """

    def __init__(
        self,
        in_channels: int,
        size_px: int = 64,
        width: int = 64,
        max_width: int = 512,
        condition_dim: int = 0,
        group: int = 4,
    ) -> None:
        super().__init__(in_channels, size_px, condition_dim)
        channels = channels_at(size_px, width, max_width)
        sizes = sorted(channels, reverse=True)
        self.tap_channels = {f"b{px}": channels[px // 2] for px in sizes[:-1]}
        self.group = group
        self.stem = ScaledConv(in_channels, channels[size_px], 1)
        self.blocks = nn.ModuleList(_Down(channels[a], channels[b], a) for a, b in pairwise(sizes))
        last = channels[sizes[-1]]
        self.conv = ScaledConv(last + (group > 0), last)
        self.dense = ScaledLinear(last * sizes[-1] ** 2, last, activation=True)
        self.logit = ScaledLinear(last, 1)
        self.embed = Embedding(condition_dim, last) if condition_dim else None

    def _features(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        x = self.stem(x)
        for name, block in zip(self.taps, self.blocks, strict=True):
            x = block(x)
            if name in taps:
                found[name] = x
        return found | {"last": x}

    def _head(self, last: Tensor, condition: Tensor | None) -> Tensor:
        with torch.autocast(last.device.type, enabled=False):
            x = last.float()
            x = self.conv(minibatch_deviation(x, self.group) if self.group else x)
            x = self.dense(x.flatten(1))
            logit: Tensor = self.logit(x)
            if self.embed is not None and condition is not None:
                logit = logit + (x * self.embed(condition)).sum(dim=1, keepdim=True) / math.sqrt(x.shape[1])
            return logit
