"""Super-resolution of one image: bicubic, SRCNN, SRResNet and RRDB, all as a correction of bicubic interpolation.

References: Dong et al., 2014, arXiv:1501.00092 (SRCNN); Ledig et al., 2017, arXiv:1609.04802 (SRResNet); Wang et al.,
2018, arXiv:1809.00219 (RRDB).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.resolver import ContentNetwork, Conv, Norm, ResidualConvs, SuperResolver
from rsgeo_gan.models.sampling import upsample

__all__ = ["RRDB", "SRCNN", "Bicubic", "SRResNet"]


class Bicubic(SuperResolver):
    """Interpolation by cubic convolution, nothing to learn: the rung all others are measured against."""

    def __init__(
        self, in_channels: int, out_channels: int | None = None, scale: int = 4, bands: Sequence[int] | None = None
    ) -> None:
        super().__init__(in_channels, in_channels if out_channels is None else out_channels, scale, bands)

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Interpolate, see `SRCNN.forward`."""
        return self.interpolate(self.known(low, mask))


class SRCNN(SuperResolver):
    """Three convolutions (9, 1 and 5 px) on the interpolated image.

    Args:
        in_channels: Bands of the input.
        out_channels: Bands of the output.
        scale: Output pixels per input pixel.
        width: Channels of the first convolution, twice those of the second.
        bands: See `SuperResolver`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, scale: int = 4, width: int = 64, bands: Sequence[int] | None = None
    ) -> None:
        super().__init__(in_channels, out_channels, scale, bands)
        self.patch, self.map = Conv(in_channels, width, 9), Conv(width, width // 2, 1)
        self.head = Conv(width // 2, out_channels, 5, gain=0.0)

    @property
    def receptive_radius_px(self) -> int:
        """See `SuperResolver`."""
        return super().receptive_radius_px + math.ceil((4 + 2) / self.scale)

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Refine.

        Args:
            low: Image, shape (B, C, h, w), model domain.
            mask: Validity, shape (B, 1, h, w), 1 valid; what lies under 0 changes no output.

        Returns:
            Image, shape (B, C', s h, s w), float32, model domain, not clipped.

        Raises:
            ValueError: If the band count or the mask's shape is wrong.
        """
        known = self.known(low, mask)
        x = F.relu(self.map(F.relu(self.patch(upsample(known, self.scale)))))
        return self.interpolate(known) + self.head(x).float()


class SRResNet(ContentNetwork):
    """Residual blocks at the input's resolution.

    Args:
        in_channels: Bands of the input.
        out_channels: Bands of the output.
        scale: Output pixels per input pixel.
        width: Channels.
        blocks: Residual blocks.
        norm: "none", or "batch" for the batch normalisation of the reference, which blurs products of several
            sensors into one statistic and is of no use in them.
        bands: See `SuperResolver`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale: int = 4,
        width: int = 64,
        blocks: int = 16,
        norm: Norm = "none",
        bands: Sequence[int] | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, scale, width, bands=bands)
        self.body = nn.Sequential(*(ResidualConvs(width, norm) for _ in range(blocks)))
        self.fuse = nn.Sequential(Conv(width, width), *([nn.BatchNorm2d(width)] if norm == "batch" else []))
        self.blocks = blocks
        self.body_radius_px = 2 * blocks


class _Dense(nn.Module):
    """Five convolutions, each on everything before it; a fifth of the last joins the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            Conv(channels + n * growth, growth if n < 4 else channels, gain=0.1) for n in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        known = [x]
        for conv in self.convs[:-1]:
            known.append(F.leaky_relu(conv(torch.cat(known, dim=1)), 0.2))
        out: Tensor = x + 0.2 * self.convs[-1](torch.cat(known, dim=1))
        return out


class _DenseGroup(nn.Sequential):
    """Three dense blocks, a fifth of which joins the input."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__(*(_Dense(channels, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for block in self:
            y = block(y)
        return x + 0.2 * (y - x)


class RRDB(ContentNetwork):
    """Residual groups of dense blocks at the input's resolution.

    Args:
        in_channels: Bands of the input.
        out_channels: Bands of the output.
        scale: Output pixels per input pixel.
        width: Channels.
        blocks: Groups of three dense blocks.
        growth: Channels each convolution of a block adds.
        bands: See `SuperResolver`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        scale: int = 4,
        width: int = 64,
        blocks: int = 23,
        growth: int = 32,
        bands: Sequence[int] | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, scale, width, leak=0.2, bands=bands)
        self.body = nn.Sequential(*(_DenseGroup(width, growth) for _ in range(blocks)))
        self.fuse = Conv(width, width)
        self.body_radius_px = 15 * blocks
