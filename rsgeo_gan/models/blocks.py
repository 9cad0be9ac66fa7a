"""Convolution blocks shared by the networks: residual, down and up, with anti-aliased resampling.

All blocks pad by reflection, keep grid point i of a stride-s map on input pixel s * i, and take an optional
validity mask for their normalisation. Low-pass before sub-sampling: Zhang, 2019, arXiv:1904.11486.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.norm import SceneNorm

__all__ = ["Blur", "ConvBlock", "ResidualBlock", "UpBlock", "fill_and_pad", "init_normal", "pad_edges", "pool_mask"]


def pad_edges(x: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Pad by reflection about the edge pixel, or by repeating it where the image is too small to reflect."""
    h, w = x.shape[-2:]
    fits = max(left, right) < w and max(top, bottom) < h
    return F.pad(x, (left, right, top, bottom), mode="reflect" if fits else "replicate")


def fill_and_pad(x: Tensor, mask: Tensor | None, stride: int) -> tuple[Tensor, Tensor | None]:
    """Fill invalid pixels with 0 and pad right and bottom to a multiple of the stride."""
    h, w = x.shape[-2:]
    if mask is not None:
        mask = mask.to(x.dtype)
        x = torch.where(mask > 0, x, x.new_zeros(()))
    if h % stride or w % stride:
        right, bottom = -w % stride, -h % stride
        x = pad_edges(x, 0, right, 0, bottom)
        mask = None if mask is None else pad_edges(mask, 0, right, 0, bottom)
    return x, mask


def pool_mask(mask: Tensor) -> Tensor:
    """Halve a validity mask; a cell counts when any of its four pixels does."""
    return F.max_pool2d(mask, 2)


def init_normal(network: nn.Module, std: float = 0.02) -> None:
    """Draw all convolution weights from N(0, std), biases zero (Zhu et al., 2017, arXiv:1703.10593)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Blur(nn.Module):
    """Binomial low-pass [1, 2, 1] x [1, 2, 1] / 16 per channel, without padding: 1 px is lost at each edge.

    Args:
        gain: Factor on the output; 4 after zero insertion of stride 2, which keeps the mean.
    """

    kernel: Tensor

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", (taps[:, None] * taps * gain / 16)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Filter, (B, C, H, W) to (B, C, H - 2, W - 2)."""
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.to(x.dtype).expand(channels, 1, 3, 3), groups=channels)


class ConvBlock(nn.Module):
    """Reflection padding, convolution, `SceneNorm`, ReLU; with stride 2 a blur comes before the stride.

    The blur has no weights, so it can be switched per call: the same weights serve both modes.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel: Odd kernel size in pixels.
        stride: 1 or 2; with 2 the height and width must be even.
        antialias: Blur before a stride of 2.
        activation: End with a ReLU.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        antialias: bool = True,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.margin = kernel // 2
        self.antialias = antialias
        self.activation = activation
        # A bias before normalisation is removed by it.
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, bias=False)
        self.blur = Blur() if stride > 1 else None
        self.norm = SceneNorm(out_channels)

    def forward(self, x: Tensor, mask: Tensor | None = None, antialias: bool | None = None) -> Tensor:
        """Apply the block; `mask` is at the output's resolution, `antialias` overrides the setting."""
        blur = self.blur if (self.antialias if antialias is None else antialias) else None
        n = self.margin + (blur is not None)
        x = pad_edges(x, n, n, n, n)
        if blur is not None:
            x = blur(x)
        x = self.norm(self.conv(x), mask)
        return F.relu(x, inplace=True) if self.activation else x


class ResidualBlock(nn.Module):
    """x + (conv, norm, ReLU, conv, norm)(x), all 3 x 3 with reflection padding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels)
        self.second = ConvBlock(channels, channels, activation=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the block, shape unchanged."""
        return x + self.second(self.first(x, mask), mask)


class UpBlock(nn.Module):
    """Double the resolution: linear interpolation, 3 x 3 convolution, `SceneNorm`, ReLU.

    Computed as a transposed convolution followed by the binomial blur, which is the same operator (both are
    shift-invariant on the fine grid) at a quarter of the multiplications. No checkerboard: every output pixel
    sees the same total weight.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=2, output_padding=1, bias=False)
        self.blur = Blur(gain=4.0)
        self.norm = SceneNorm(out_channels)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Apply the block, (B, C, H, W) to (B, C', 2H, 2W); `mask` is at the fine resolution."""
        x = self.blur(self.conv(pad_edges(x, 1, 1, 1, 1)))
        return F.relu(self.norm(x, mask), inplace=True)
