"""Pyramid networks that learn from one pair of images, coarse to fine, any band counts, seam-free in tiles.

Reference: Lin et al., 2020, arXiv:2004.04634 (TuiGAN), with `SceneNorm` in place of batch normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.blocks import fill_and_pad, init_normal, pad_edges
from rsgeo_gan.models.norm import SceneNorm

__all__ = ["Level", "PyramidDiscriminator", "PyramidGenerator"]

_LEAST_SHARE = 1e-3
"""Valid share of its taps below which a resampled pixel is invalid."""


class Level(NamedTuple):
    """An image at one scale, (B, C, h, w), 0 where invalid, and its validity (B, 1, h, w), None when all counts."""

    image: Tensor
    mask: Tensor | None


def _resized(level: Level, size: tuple[int, int]) -> Level:
    """Bring a level to another size; valid pixels only are averaged, and low-pass comes before sub-sampling."""

    def to(values: Tensor) -> Tensor:
        return F.interpolate(values.float(), size=size, mode="bilinear", align_corners=False, antialias=True)

    if level.mask is None:
        return Level(to(level.image), None)
    share = to(level.mask)
    mask = (share > _LEAST_SHARE).to(share.dtype)
    return Level(to(level.image * level.mask) / share.clamp_min(_LEAST_SHARE) * mask, mask)


class _BatchMoments(SceneNorm):
    """`SceneNorm` which, while training, takes the moments of the whole batch: patches that stand for one scene.

    The mean of a patch is then not lost (water stays darker than town), and a generated scene, whose moments are
    frozen from windows spread over it, is normalised as the training was.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if not self.training or self.mean is not None or self.collecting:
            return super().forward(x, mask)
        flat = (1, -1, x.shape[0] * x.shape[2], x.shape[3])
        wide = None if mask is None else mask.transpose(0, 1).reshape(flat)
        y = super().forward(x.transpose(0, 1).reshape(flat), wide)
        return y.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1)


class _Stack(nn.Module):
    """3 x 3 convolutions with reflection, all but the last followed by norm (optional) and leaky ReLU 0.2."""

    def __init__(self, in_channels: int, out_channels: int, width: int, layers: int, *, norm: bool) -> None:
        super().__init__()
        sizes = [in_channels, *[width] * (layers - 1), out_channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(sizes[i], sizes[i + 1], 3, bias=not norm or i == layers - 1) for i in range(layers)
        )
        self.norms = nn.ModuleList(_BatchMoments(width, affine=True) for _ in range(layers - 1 if norm else 0))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for i, conv in enumerate(self.convs):
            x = conv(pad_edges(x, 1, 1, 1, 1))
            if self.norms and i < len(self.norms):
                x = self.norms[i](x, mask)
            if i < len(self.convs) - 1:
                x = F.leaky_relu(x, 0.2)
        return x.to(torch.promote_types(x.dtype, torch.float32))


class PyramidGenerator(nn.Module):
    """Translate an image at its coarsest scale, then scale by scale finer.

    At each scale one network translates the image of that scale, and another looks at the image, at this translation
    and at the enlarged result of the coarser scale, and blends the last two pixel by pixel:
    `a * current + (1 - a) * coarser`. Both of these have the target's bands, so the band counts of the two sides
    are free; nothing compares an image with its translation.

    Sizes of neighbouring scales are as p to q, `factor` being p / q: the lattice of the coarsest repeats every `stride`
    = q**(scales - 1) pixels. An image is padded to a multiple of that, and windows that begin there compute
    exactly what the whole scene does. With factor 0.5 four scales give stride 8 and a receptive radius of 103 px;
    0.75, the factor of the literature, gives stride 64 and 44 px: less context from as many scales, and more to
    compute, because neighbouring scales are nearly as large.

    Args:
        in_channels: Bands of the input.
        out_channels: Bands of the output.
        width: Channels of the inner layers.
        scales: Number of scales, 1 or more.
        factor: Size of a scale over that of the next finer one, such as 0.5 or 0.75.
        layers: Convolutions of each network.

    Attributes:
        gates: One number for each scale but the coarsest: its blend is multiplied by it. At 0 a scale passes the
            coarser result on, enlarged, as one does that was not yet trained; `activate` sets them. They are
            kept with the weights.

    Raises:
        ValueError: If a number is out of range.
    """

    gates: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 32,
        scales: int = 4,
        factor: float = 0.5,
        layers: int = 5,
    ) -> None:
        super().__init__()
        share = Fraction(factor).limit_denominator(4)
        if scales < 1 or layers < 2 or not 0 < share < 1 or abs(share - factor) > 1e-2:
            raise ValueError(
                f"PyramidGenerator: expected scales >= 1, layers >= 2 and a factor of 1/4, 1/3, 1/2, 2/3 or 3/4, got "
                f"{scales}, {layers} and {factor}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.scales = scales
        self.factor = share
        self.layers = layers
        self.current = nn.ModuleList(_Stack(in_channels, out_channels, width, layers, norm=True) for _ in range(scales))
        self.blend = nn.ModuleList(
            _Stack(in_channels + 2 * out_channels, 1, width, layers, norm=True) for _ in range(scales - 1)
        )
        self.register_buffer("gates", torch.ones(scales - 1))
        init_normal(self)

    @property
    def stride(self) -> int:
        """Pixels that a read origin must be a multiple of."""
        return int(self.factor.denominator ** (self.scales - 1))

    @property
    def receptive_radius_px(self) -> int:
        """Half the receptive field: an output pixel depends on no input pixel farther away, per axis."""
        pitch = [float(1 / self.factor**n) for n in range(self.scales)]
        # Resampling reaches less than one pixel of the coarser of the two scales.
        down = [sum(pitch[1 : n + 1]) for n in range(self.scales)]
        radius = self.layers * pitch[-1] + down[-1]
        for n in reversed(range(self.scales - 1)):
            radius = max(2 * self.layers * pitch[n] + down[n], self.layers * pitch[n] + pitch[n + 1] + radius)
        return math.ceil(radius)

    def activate(self, scales: int) -> None:
        """Let the coarsest `scales` count; finer ones pass their result on, enlarged."""
        self.gates.copy_((torch.arange(1, self.scales) < scales).to(self.gates))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Translate.

        Args:
            x: Image, shape (B, C, H, W), model domain [-1, 1], any size.
            mask: Validity, shape (B, 1, H, W), 1 valid; what lies under 0 changes no valid output.

        Returns:
            Image, shape (B, C', H, W), float32 in [-1, 1].

        Raises:
            ValueError: If the band count is wrong.
        """
        return self.refine(self.pyramid(x, mask))[-1][..., : x.shape[-2], : x.shape[-1]]

    def pyramid(self, x: Tensor, mask: Tensor | None = None) -> list[Level]:
        """Return an image at all scales, coarsest first, padded right and bottom to a multiple of `stride`.

        Args:
            x: Image, shape (B, C, H, W).
            mask: Validity, shape (B, 1, H, W).

        Raises:
            ValueError: If the band count is wrong.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"PyramidGenerator: expected (B, {self.in_channels}, H, W), got {tuple(x.shape)}; build the network "
                "with the number of bands of the data"
            )
        levels = [Level(*fill_and_pad(x, mask, self.stride))]
        for _ in range(self.scales - 1):
            h, w = levels[-1].image.shape[-2:]
            p, q = self.factor.numerator, self.factor.denominator
            levels.append(_resized(levels[-1], (h // q * p, w // q * p)))
        return levels[::-1]

    def refine(self, levels: Sequence[Level], frozen: int = 0) -> list[Tensor]:
        """Translate scale by scale.

        Args:
            levels: Image by scale, coarsest first; the finest may be left out.
            frozen: Scales, counted from the coarsest, that are computed without a gradient.

        Returns:
            Translation by scale, each (B, C', h, w), float32 in [-1, 1].
        """
        made: list[Tensor] = []
        for n, (image, mask) in enumerate(levels):
            with torch.set_grad_enabled(torch.is_grad_enabled() and n >= frozen):
                out = torch.tanh(self.current[n](image, mask))
                if n:
                    size = (image.shape[-2], image.shape[-1])
                    coarser = _resized(Level(made[-1], levels[n - 1].mask), size).image
                    share = torch.sigmoid(self.blend[n - 1](torch.cat([out, image, coarser], dim=1), mask))
                    out = coarser + self.gates[n - 1] * share * (out - coarser)
                made.append(out)
        return made


class PyramidDiscriminator(nn.Module):
    """Judge the images of one scale of a pyramid: a critic of its own for each, one logit per pixel.

    A logit sees (2 * layers + 1) pixels of its scale. There is no normalisation: moments of an image would hide its
    brightness from the critic, and moments of a batch would make a gradient penalty per image meaningless.

    Args:
        in_channels: Bands of the image.
        width: Channels of the inner layers.
        scales: Number of scales.
        layers: Convolutions of each critic.
    """

    def __init__(self, in_channels: int, width: int = 32, scales: int = 4, layers: int = 5) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.scales = scales
        self.critics = nn.ModuleList(_Stack(in_channels, 1, width, layers, norm=False) for _ in range(scales))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, 0.2)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: int = -1) -> Tensor:
        """Judge.

        Args:
            x: Image of a scale, shape (B, C, H, W), model domain.
            mask: Validity, shape (B, 1, H, W); invalid pixels are set to 0, for reals and fakes alike.
            scale: Which critic, 0 the coarsest.

        Returns:
            Logits, shape (B, 1, H, W), float32.

        Raises:
            ValueError: If the band count is wrong.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"PyramidDiscriminator: expected (B, {self.in_channels}, H, W), got {tuple(x.shape)}")
        logits: Tensor = self.critics[scale](fill_and_pad(x, mask, 1)[0], None)
        return logits
