"""What networks of super-resolution are made of: layers, and what all that refine one image share.

Outputs are in the input's model domain and not clipped. Input and output share their upper-left corner.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.blocks import pad_edges
from rsgeo_gan.models.sampling import FILL_PX, UP_PX, fill, upsample

__all__ = ["ContentNetwork", "Conv", "Norm", "PixelShuffle", "ResidualConvs", "SuperResolver", "reach", "zoom_steps"]

Norm = Literal["none", "batch"]


def zoom_steps(scale: int) -> tuple[int, ...]:
    """Cut a scale into its prime factors, smallest first: 4 is (2, 2), 6 is (2, 3), 5 is (5,)."""
    if scale < 2:
        raise ValueError(f"zoom_steps: expected a scale of 2 or more, got {scale}")
    steps, factor = [], 2
    while scale > 1:
        while scale % factor == 0:
            steps.append(factor)
            scale //= factor
        factor += 1
    return tuple(steps)


class Conv(nn.Conv2d):
    """Convolution of odd kernel size that keeps the image's size, reflecting at its edge; weights after He et al."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, gain: float = 1.0) -> None:
        super().__init__(in_channels, out_channels, kernel)
        with torch.no_grad():
            nn.init.kaiming_normal_(self.weight).mul_(gain)
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Apply, (B, C, H, W) to (B, C', H, W)."""
        n = self.kernel_size[0] // 2
        return super().forward(pad_edges(x, n, n, n, n) if n else x)


class PixelShuffle(nn.Module):
    """Multiply the resolution: 3 x 3 convolution to factor² times the channels, rearranged, activation.

    Starts without checkerboard: the channels of one output pixel's square share their first weights.

    Args:
        channels: Channels of input and output.
        factor: Pixels per pixel.
        leak: Slope of the activation below 0.
    """

    def __init__(self, channels: int, factor: int, leak: float = 0.0) -> None:
        super().__init__()
        self.factor, self.leak = factor, leak
        self.conv = Conv(channels, channels * factor**2)
        with torch.no_grad():
            self.conv.weight.copy_(self.conv.weight[:: factor**2].repeat_interleave(factor**2, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """Apply, (B, C, H, W) to (B, C, factor H, factor W)."""
        return F.leaky_relu(F.pixel_shuffle(self.conv(x), self.factor), self.leak)


class ResidualConvs(nn.Module):
    """x + (conv, ReLU, conv)(x), with batch normalisation after either convolution on request."""

    def __init__(self, channels: int, norm: Norm = "none") -> None:
        super().__init__()
        batch = norm == "batch"
        self.first = nn.Sequential(Conv(channels, channels), *([nn.BatchNorm2d(channels)] if batch else []))
        # A small second weight keeps a deep stack near the identity, where training begins well.
        self.second = nn.Sequential(Conv(channels, channels, gain=0.1), *([nn.BatchNorm2d(channels)] if batch else []))

    def forward(self, x: Tensor) -> Tensor:
        """Apply, shape unchanged."""
        out: Tensor = x + self.second(F.relu(self.first(x)))
        return out


class SuperResolver(nn.Module):
    """What networks share that refine one image.

    Args:
        in_channels: Bands of the input.
        out_channels: Bands of the output.
        scale: Output pixels per input pixel along each axis, an integer >= 2.
        bands: For every output band the input band whose interpolation it corrects; by default that of the same
            number, or the last.

    Attributes:
        receptive_radius_px: An output pixel depends on no input pixel farther away, per axis; input pixels.
    """

    stride = 1

    def __init__(self, in_channels: int, out_channels: int, scale: int, bands: Sequence[int] | None = None) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.scale = in_channels, out_channels, scale
        self.steps = zoom_steps(scale)
        self.bands = tuple(bands) if bands is not None else tuple(min(i, in_channels - 1) for i in range(out_channels))
        if len(self.bands) != out_channels or not all(0 <= band < in_channels for band in self.bands):
            raise ValueError(
                f"{type(self).__name__}: expected one of {in_channels} input bands for each of {out_channels} output "
                f"bands, got {self.bands}"
            )

    @property
    def receptive_radius_px(self) -> int:
        """Of the interpolation alone; networks add theirs."""
        return UP_PX + FILL_PX

    def known(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Check the input and fill its gaps.

        Raises:
            ValueError: If it is not (B, in_channels, h, w), or the mask not (B, 1, h, w).
        """
        if low.ndim != 4 or low.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: expected (B, {self.in_channels}, h, w), got {tuple(low.shape)}; give the "
                "bands it was trained with, in their order"
            )
        if mask is not None and mask.shape != (len(low), 1, *low.shape[-2:]):
            raise ValueError(
                f"{type(self).__name__}: expected a mask {(len(low), 1, *low.shape[-2:])}, got {tuple(mask.shape)}"
            )
        return fill(low, mask)

    def interpolate(self, known: Tensor) -> Tensor:
        """Interpolate the bands the output begins with, (B, C, h, w) to (B, C', s h, s w), at least float32."""
        known = known.to(torch.promote_types(known.dtype, torch.float32))
        return upsample(
            known if self.bands == tuple(range(self.in_channels)) else known[:, list(self.bands)], self.scale
        )

    def enlarged(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Interpolate `low`, (B, C, h, w) to (B, C', s h, s w): what the details are added to."""
        return self.interpolate(self.known(low, mask))


class ContentNetwork(SuperResolver):
    """What networks share that compute at the input's resolution and end in pixel shuffles.

    A subclass builds `stem`, `body` (with `body_radius_px`) and `fuse`; the content is fuse(body(stem)) + stem.

    Args:
        in_channels: Bands of the input.
        out_channels: Bands of the output.
        scale: Output pixels per input pixel.
        width: Channels of the content.
        leak: Slope of the head's activations below 0.
        bands: See `SuperResolver`.
    """

    stem: nn.Module
    body: nn.Module
    fuse: nn.Module
    body_radius_px: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale: int,
        width: int,
        leak: float = 0.0,
        bands: Sequence[int] | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, scale, bands)
        self.width, self.leak = width, leak
        self.stem = Conv(in_channels, width)
        self.ups = nn.Sequential(*(PixelShuffle(width, factor, leak) for factor in self.steps))
        self.last = Conv(width, width)
        self.head = Conv(width, out_channels, gain=0.0)

    @property
    def content_radius_px(self) -> int:
        """Half the receptive field of the content."""
        return FILL_PX + self.body_radius_px + 2

    @property
    def receptive_radius_px(self) -> int:
        """See `SuperResolver`."""
        ups = sum(1 / math.prod(self.steps[:n]) for n in range(len(self.steps)))
        return max(super().receptive_radius_px, self.content_radius_px + math.ceil(ups + 2 / self.scale))

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Refine, see `SRCNN.forward`."""
        known = self.known(low, mask)
        return self.forward_head(self.forward_features(known), known)

    def forward_features(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the content of an image (B, C, h, w), shape (B, width, h, w)."""
        x = self.stem(self.known(low, mask))
        out: Tensor = self.fuse(self.body(x)) + x
        return out

    def forward_head(self, content: Tensor, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turn the content of `low` (B, C, h, w) into the image (B, C', s h, s w)."""
        details = self.head(F.leaky_relu(self.last(self.ups(content)), self.leak))
        return self.interpolate(self.known(low, mask)) + details.float()


def reach(levels: Iterable[tuple[int, int]]) -> int:
    """Coarse pixels that convolutions on finer and finer grids look beyond a pixel's own.

    Args:
        levels: From fine to coarse: cells along one coarse pixel, and the sum of the radii on that grid, cells.
    """
    total = Fraction(0)
    for cells, radius in levels:
        total = Fraction(math.ceil(total * cells) + radius, cells)
    return math.ceil(total)
