"""Layers of style-based networks: equalised learning rate, modulated convolution, noise, minibatch deviation.

References: Karras et al., 2018, arXiv:1710.10196 (equalised rate, minibatch deviation); Karras et al., 2020,
arXiv:1912.04958 (modulation and demodulation of weights).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.resampling import Fir, double_by, extend

__all__ = ["ModulatedConv", "ScaledConv", "ScaledLinear", "minibatch_deviation", "noise_key", "seeded_noise"]

SLOPE = 0.2
"""Of the leaky ReLU below zero."""
GAIN = math.sqrt(2)
"""Keeps the second moment through a ReLU. Put on its input, which is the same for a homogeneous function."""


class ScaledLinear(nn.Module):
    """Linear layer whose weights are N(0, 1) and scaled when used, so that all learn at the same relative rate.

    Args:
        in_features: Length of the input.
        out_features: Length of the output.
        offset: First value of the bias.
        rate: Learning rate of this layer relative to the network's.
        activation: End with a leaky ReLU.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        offset: float = 0.0,
        rate: float = 1.0,
        activation: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / rate)
        self.bias = nn.Parameter(torch.full((out_features,), offset / rate))
        self.activation = activation
        gain = GAIN if activation else 1.0
        self.scale = gain * rate / math.sqrt(in_features)
        self.bias_scale = gain * rate

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer, (B, I) to (B, O)."""
        x = F.linear(x, self.weight * self.scale, self.bias * self.bias_scale)
        return F.leaky_relu(x, SLOPE) if self.activation else x


class ScaledConv(nn.Module):
    """Convolution with equalised learning rate, zero padding; with stride 2 a binomial low-pass comes first.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel: Odd kernel size.
        size_px: Height and width of the input, where it is to be halved.
        activation: End with a leaky ReLU.
        gain: Factor on the output.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        *,
        size_px: int | None = None,
        activation: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if activation else None
        self.activation = activation
        self.bias_scale = gain * GAIN if activation else gain
        self.scale = self.bias_scale / math.sqrt(in_channels * kernel**2)
        self.padding = kernel // 2 if size_px is None else 0
        self.stride = 1 if size_px is None else 2
        reach = kernel // 2
        self.blur = None if size_px is None else Fir(size_px, pad=(reach + 1, reach + 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        if self.blur is not None:
            x = self.blur(x)
        bias = None if self.bias is None else self.bias * self.bias_scale
        x = F.conv2d(x, self.weight * self.scale, bias, self.stride, self.padding)
        return F.leaky_relu(x, SLOPE) if self.activation else x


class ModulatedConv(nn.Module):
    """Convolution whose weights are scaled per sample and input channel by a style.

    With demodulation each output map has unit variance for independent inputs of unit variance, whatever the style.
    Computed by scaling the maps before and after one convolution that all samples share, which is the same operator as
    a convolution with weights of its own for each sample. Past the edge the outermost cells are repeated.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        style_dim: Length of the style.
        kernel: Kernel size, 1 or 3; 3 where the resolution is doubled.
        size_px: Height and width of the input, where it is to be doubled.
        demodulate: Restore unit variance.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style_dim: int,
        kernel: int = 3,
        *,
        size_px: int | None = None,
        demodulate: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.style = ScaledLinear(style_dim, in_channels, offset=1.0)
        self.scale = 1 / math.sqrt(in_channels * kernel**2)
        self.kernel = kernel
        self.demodulate = demodulate
        self.smooth = None if size_px is None else Fir.smoothing(size_px)

    def forward(self, x: Tensor, style: Tensor, gain: float = 1.0) -> Tensor:
        """Apply the layer.

        Args:
            x: Features, shape (B, C, H, W).
            style: Shape (B, style_dim), float32.
            gain: Factor on the output.

        Returns:
            Shape (B, C', H, W), or (B, C', 2H, 2W).
        """
        with torch.autocast(x.device.type, enabled=False):
            scale = self.style(style.float())  # (B, C)
            weight = self.weight * self.scale
            after: Tensor | None = None
            if self.demodulate:
                power = scale.square() @ weight.square().sum(dim=(2, 3)).mT
                after = torch.rsqrt(power + 1e-8) * gain  # (B, C')
            elif gain != 1.0:
                scale = scale * gain
        x = x * scale.to(x.dtype)[:, :, None, None]
        weight = weight.to(x.dtype)
        if self.smooth is not None:
            x = double_by(weight, x, self.smooth)
        else:
            x = F.conv2d(extend(x) if self.kernel == 3 else x, weight)
        return x if after is None else x * after.to(x.dtype)[:, :, None, None]


def minibatch_deviation(x: Tensor, group: int = 4) -> Tensor:
    """Append one map that says how much the samples of a group differ.

    Args:
        x: Features, shape (B, C, H, W).
        group: Most samples of a group: the largest divisor of B up to it, or the whole batch where that is 1.

    Returns:
        Shape (B, C + 1, H, W): the standard deviation over the group, averaged over channels and space.
    """
    count = len(x)
    size = next((n for n in range(min(group, count), 1, -1) if count % n == 0), count)
    grouped = x.float().reshape(size, count // size, *x.shape[1:])  # (G, B / G, C, H, W)
    deviation = (grouped.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(1, 2, 3))  # (B / G,)
    extra = deviation.repeat(size).to(x.dtype)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, extra], dim=1)


def noise_key(z: Tensor) -> Tensor:
    """Fold each row of a matrix into an integer below 2³², shape (B,), int64."""
    bits = z.detach().float().contiguous().view(torch.int32).to(torch.int64) & _MASK
    place = torch.arange(z.shape[1], device=z.device) * 0x9E3779B1
    return _mixed(_mixed(bits) + place & _MASK).sum(dim=1) & _MASK


def seeded_noise(key: Tensor, stream: int, size_px: int) -> Tensor:
    """Draw N(0, 1) that depends on the key, the stream and the pixel alone.

    The same in any batch and, to rounding, on any device.

    Args:
        key: Integers, shape (B,), see `noise_key`.
        stream: Which of several fields.
        size_px: Height and width.

    Returns:
        Shape (B, 1, size_px, size_px), float32.
    """
    start = _mixed(key + 0x9E3779B1 * (stream + 1) & _MASK)[:, None]
    place = torch.arange(2 * size_px**2, device=key.device)
    bits = _mixed(_mixed(start ^ place) + place & _MASK)
    uniform = (bits.float() + 0.5) / 2.0**32
    first, second = uniform.chunk(2, dim=1)
    normal = (-2 * first.log()).clamp_min(0).sqrt() * torch.cos(2 * math.pi * second)
    return normal.view(-1, 1, size_px, size_px)


_MASK = 0xFFFFFFFF


def _mixed(x: Tensor) -> Tensor:
    """Spread the bits of integers below 2³²; factors below 2³¹ keep the products within int64."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & _MASK
    x = (x ^ (x >> 15)) * 0x2C1B3C6D & _MASK
    return x ^ (x >> 16)
