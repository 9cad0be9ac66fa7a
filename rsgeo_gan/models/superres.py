"""Networks of super-resolution: any bands, any whole scale, details added to a bicubic enlargement.

No network normalises its features, so what a pixel becomes depends on nothing but its surroundings, of a radius that is
stated; products can be made window by window. The output layer is zero at first: training begins at bicubic.

References: Dong et al., 2014, arXiv:1501.00092 (SRCNN); Ledig et al., 2017, arXiv:1609.04802 (SRResNet), without its
batch normalisation; Wang et al., 2018, arXiv:1809.00219 (RRDB); Shi et al., 2016, arXiv:1609.05158 (pixel shuffle).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ENLARGED_RADIUS_PX",
    "RRDB",
    "SRCNN",
    "Bicubic",
    "Plain",
    "Resolver",
    "SRResNet",
    "conv",
    "enlarge",
    "fill_holes",
    "reach",
    "steps_of",
]

_FILL_STEPS = 2
_BICUBIC_RADIUS_PX = 2
ENLARGED_RADIUS_PX = _FILL_STEPS + _BICUBIC_RADIUS_PX
"""Radius of `enlarge` in coarse pixels, with the filling of holes before it."""
_LEAK = 0.2
_DAMPED = 0.2
"""Share of a dense block's answer that is added to its input."""


def fill_holes(image: Tensor, mask: Tensor | None, steps: int = _FILL_STEPS) -> Tensor:
    """Fill invalid pixels with the mean of the known ones around them, ring by ring, and with 0 further inside.

    Args:
        image: Shape (B, C, H, W).
        mask: Validity, shape (B, 1, H, W); nothing is filled when None.
        steps: Rings that are filled, pixels.

    Returns:
        The image; nothing of what lay under an empty mask is left in it.
    """
    if mask is None:
        return image
    known = (mask > 0).to(image.dtype)
    image = torch.where(known > 0, image, image.new_zeros(()))
    for _ in range(steps):
        share = F.avg_pool2d(known, 3, 1, 1)
        around = F.avg_pool2d(image, 3, 1, 1) / share.clamp_min(1e-6)
        image = torch.where(known > 0, image, around)
        known = (share > 0).to(image.dtype)
    return image


def enlarge(low: Tensor, scale: int, mask: Tensor | None = None) -> Tensor:
    """Enlarge (B, C, h, w) to (B, C, s · h, s · w) by bicubic interpolation, corners kept, holes filled before."""
    return F.interpolate(fill_holes(low, mask).float(), scale_factor=scale, mode="bicubic", antialias=True)


def steps_of(scale: int) -> list[int]:
    """Return the prime factors of a scale, ascending: the steps in which a network enlarges."""
    steps, rest, factor = [], scale, 2
    while rest > 1:
        while rest % factor == 0:
            steps.append(factor)
            rest //= factor
        factor += 1
    return steps


def reach(levels: Iterable[tuple[int, int]]) -> int:
    """Return how many coarse pixels convolutions on several grids reach.

    Args:
        levels: From fine to coarse: cells along one coarse pixel, and the sum of the radii on that grid, cells.
    """
    total = Fraction(0)
    for cells, radius in levels:
        total = Fraction(math.ceil(total * cells) + radius, cells)
    return math.ceil(total)


def conv(in_channels: int, out_channels: int, kernel: int = 3) -> nn.Conv2d:
    """Return a convolution that repeats the edge, so that a constant image stays constant."""
    return nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, padding_mode="replicate")


class Resolver(nn.Module):
    """Base of networks that add details to a bicubic enlargement.

    Args:
        in_channels: Bands of the image read.
        out_channels: Bands of the image made. Where they are other than those read, the enlargement of each is that of
            the mean of all bands read.
        scale: Pixels of the image made along one of the image read, 2 or more.

    Raises:
        ValueError: If a number is out of range.
    """

    stride = 1

    def __init__(self, in_channels: int, out_channels: int, scale: int) -> None:
        super().__init__()
        if min(in_channels, out_channels) < 1 or scale < 2:
            raise ValueError(
                f"{type(self).__name__}: expected one band or more on both sides and a scale of 2 or more, got "
                f"{in_channels}, {out_channels} and {scale}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.scale = scale

    @property
    def receptive_radius_px(self) -> int | None:
        """Radius of what an output pixel depends on, in pixels of the image read; None where it has no bound."""
        return ENLARGED_RADIUS_PX

    def as_made(self, low: Tensor) -> Tensor:
        """Return the image read in the bands of the image made, shape (B, C', h, w).

        Raises:
            ValueError: If the image has other bands than the network was made for.
        """
        if low.ndim != 4 or low.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: expected (B, {self.in_channels}, h, w), got {tuple(low.shape)}; make the "
                "network for the bands of the tiles"
            )
        if self.in_channels == self.out_channels:
            return low
        return low.mean(dim=1, keepdim=True).expand(-1, self.out_channels, -1, -1)

    def enlarged(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what details are added to, shape (B, C', s · h, s · w), float32."""
        return enlarge(self.as_made(low), self.scale, mask)

    def _grown(self) -> list[int]:
        """Return the cells along a coarse pixel after each step of enlargement, 1 before the first."""
        cells = [1]
        for step in steps_of(self.scale):
            cells.append(cells[-1] * step)
        return cells


class Bicubic(Resolver):
    """The enlargement alone: what every other network has to beat.

    Args:
        in_channels: See `Resolver`.
        out_channels: See `Resolver`.
        scale: See `Resolver`.
    """

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Enlarge (B, C, h, w) to (B, C', s · h, s · w); `mask` is the validity, (B, 1, h, w)."""
        return self.enlarged(low, mask)


class SRCNN(Resolver):
    """Three convolutions, 9-1-5, of the enlargement.

    Args:
        in_channels: See `Resolver`.
        out_channels: See `Resolver`.
        scale: See `Resolver`.
        width: Channels of the first layer; the second has half of them.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int, width: int = 64) -> None:
        super().__init__(in_channels, out_channels, scale)
        self.body = nn.Sequential(conv(in_channels, width, 9), nn.ReLU(), conv(width, max(1, width // 2), 1), nn.ReLU())
        self.head = _silent(conv(max(1, width // 2), out_channels, 5))

    @property
    def receptive_radius_px(self) -> int | None:
        """See `Resolver`."""
        return ENLARGED_RADIUS_PX + reach([(self.scale, 4 + 2)])

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Enlarge (B, C, h, w) to (B, C', s · h, s · w); `mask` is the validity, (B, 1, h, w)."""
        # Also tells wrong bands.
        base = self.enlarged(low, mask)
        seen = base if self.in_channels == self.out_channels else enlarge(low, self.scale, mask)
        made: Tensor = base + self.head(self.body(seen))
        return made


class _Grow(nn.Sequential):
    """Enlarges feature maps in prime steps: convolution, pixel shuffle, activation."""

    def __init__(self, width: int, scale: int, activation: type[nn.Module] = nn.ReLU) -> None:
        layers: list[nn.Module] = []
        for step in steps_of(scale):
            layers += [conv(width, width * step**2), nn.PixelShuffle(step), activation()]
        super().__init__(*layers)


class Plain(nn.Module):
    """x + (convolution, ReLU, convolution)(x), all 3 x 3, without normalisation.

    Args:
        width: Channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, shape unchanged."""
        out: Tensor = x + self.second(F.relu(self.first(x)))
        return out


class SRResNet(Resolver):
    """Residual blocks on the coarse grid, then pixel shuffle: what one image tells about its details.

    Args:
        in_channels: See `Resolver`.
        out_channels: See `Resolver`.
        scale: See `Resolver`.
        width: Channels of all feature maps.
        blocks: Residual blocks.
    """

    def __init__(self, in_channels: int, out_channels: int, scale: int, width: int = 64, blocks: int = 16) -> None:
        super().__init__(in_channels, out_channels, scale)
        self.width = width
        self.blocks = blocks
        self.stem = conv(in_channels, width)
        self.body = nn.Sequential(*(Plain(width) for _ in range(blocks)), conv(width, width))
        self.grow = _Grow(width, scale)
        self.head = _silent(conv(width, out_channels))

    @property
    def features_radius_px(self) -> int:
        """Radius of `forward_features`, filling of holes included."""
        return _FILL_STEPS + 1 + 2 * self.blocks + 1

    @property
    def receptive_radius_px(self) -> int | None:
        """See `Resolver`."""
        return max(ENLARGED_RADIUS_PX, self.features_radius_px + reach((cells, 1) for cells in self._grown()[::-1]))

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Enlarge (B, C, h, w) to (B, C', s · h, s · w); `mask` is the validity, (B, 1, h, w)."""
        return self.enlarged(low, mask) + self.forward_head(self.forward_features(low, mask))

    def forward_features(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the content of an image, shape (B, width, h, w)."""
        x = F.relu(self.stem(fill_holes(low, mask)))
        content: Tensor = x + self.body(x)
        return content

    def forward_head(self, content: Tensor) -> Tensor:
        """Turn content into details, shape (B, C', s · h, s · w)."""
        details: Tensor = self.head(self.grow(content))
        return details


class _Dense(nn.Module):
    """Five convolutions, each of all that came before it."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(width + k * growth, growth if k < 4 else width) for k in range(5))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, shape unchanged."""
        seen = x
        for layer in self.layers[:-1]:
            seen = torch.cat([seen, F.leaky_relu(layer(seen), _LEAK)], dim=1)
        out: Tensor = x + _DAMPED * self.layers[-1](seen)
        return out


class _DenseInResidual(nn.Sequential):
    """Three dense blocks in a residual one."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__(*(_Dense(width, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block, shape unchanged."""
        return x + _DAMPED * (super().forward(x) - x)


class RRDB(Resolver):
    """Dense blocks in residual blocks on the coarse grid, then pixel shuffle: larger and slower than `SRResNet`.

    Args:
        in_channels: See `Resolver`.
        out_channels: See `Resolver`.
        scale: See `Resolver`.
        width: Channels of all feature maps.
        blocks: Residual blocks, of three dense blocks each.
        growth: Channels that a convolution within a dense block adds; half the width when None.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale: int,
        width: int = 64,
        blocks: int = 23,
        growth: int | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, scale)
        self.width = width
        self.blocks = blocks
        growth = max(1, width // 2) if growth is None else growth
        self.stem = conv(in_channels, width)
        self.body = nn.Sequential(*(_DenseInResidual(width, growth) for _ in range(blocks)), conv(width, width))
        self.grow = _Grow(width, scale, lambda: nn.LeakyReLU(_LEAK))  # type: ignore[arg-type]
        self.last = conv(width, width)
        self.head = _silent(conv(width, out_channels))

    @property
    def receptive_radius_px(self) -> int | None:
        """See `Resolver`."""
        finest, *rest = self._grown()[::-1]
        return _FILL_STEPS + 1 + 15 * self.blocks + 1 + reach([(finest, 2), *((cells, 1) for cells in rest)])

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Enlarge (B, C, h, w) to (B, C', s · h, s · w); `mask` is the validity, (B, 1, h, w)."""
        x = self.stem(fill_holes(low, mask))
        x = self.grow(x + self.body(x))
        made: Tensor = self.enlarged(low, mask) + self.head(F.leaky_relu(self.last(x), _LEAK))
        return made


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    """Set an output layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
