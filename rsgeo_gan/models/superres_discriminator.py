"""Discriminators of super-resolution: one logit an image, or one a pixel. The patch discriminator serves as well.

References: Ledig et al., 2017, arXiv:1609.04802 (strided VGG); Wang et al., 2021, arXiv:2107.10833 (U-Net with spectral
normalisation). Neither has batch normalisation, which would couple the samples of a critic's batch.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from rsgeo_gan.models.resolver import Conv

__all__ = ["DetailDiscriminator", "UNetDiscriminator"]

_LEAK = 0.2


def _checked(x: Tensor, mask: Tensor | None, bands: int, least: int, name: str) -> Tensor:
    if x.ndim != 4 or x.shape[1] != bands or min(x.shape[-2:]) < least:
        raise ValueError(
            f"{name}: expected (B, {bands}, H, W) with H, W >= {least}, got {tuple(x.shape)}; use larger patches or "
            "fewer layers"
        )
    return x if mask is None else torch.where(mask > 0, x, x.new_zeros(()))


class DetailDiscriminator(nn.Module):
    """Pairs of a convolution and a strided one, then the mean over the image: one logit, for images of any size.

    Args:
        in_channels: Bands of the image.
        width: Channels of the first pair; doubled up to 8 times.
        layers: Pairs, each of which halves the map.
    """

    def __init__(self, in_channels: int, width: int = 32, layers: int = 4) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.layers = layers
        widths = [in_channels, *(width * min(2**k, 8) for k in range(layers))]
        parts: list[nn.Module] = []
        for before, after in pairwise(widths):
            parts += [Conv(before, after), nn.LeakyReLU(_LEAK)]
            parts += [nn.Conv2d(after, after, 4, stride=2, padding=1), nn.LeakyReLU(_LEAK)]
        self.body = nn.Sequential(*parts)
        self.inner = nn.Linear(widths[-1], widths[-1])
        self.head = nn.Linear(widths[-1], 1)

    @property
    def min_size_px(self) -> int:
        """Smallest height or width."""
        return int(2**self.layers)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Judge (B, C, H, W), model domain: logits (B, 1), float32; invalid pixels are 0 and left out of the mean."""
        x = _checked(x, mask, self.in_channels, self.min_size_px, type(self).__name__)
        found = self.body(x)
        if mask is None:
            pooled = found.mean(dim=(2, 3))
        else:
            share = F.adaptive_avg_pool2d(mask.to(found), (found.shape[-2], found.shape[-1]))
            pooled = (found * share).sum(dim=(2, 3)) / share.sum(dim=(2, 3)).clamp_min(1e-6)
        logits: Tensor = self.head(F.leaky_relu(self.inner(pooled), _LEAK))
        return logits.float()


class UNetDiscriminator(nn.Module):
    """U-Net of three strides whose filters are spectrally normalised: a logit for every pixel.

    Args:
        in_channels: Bands of the image.
        width: Channels at full resolution; doubled by each stride.
    """

    def __init__(self, in_channels: int, width: int = 32) -> None:
        super().__init__()
        self.in_channels = in_channels
        widths = [width * 2**k for k in range(4)]
        self.stem = Conv(in_channels, width)
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False))
            for before, after in pairwise(widths)
        )
        self.up = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 3, padding=1, bias=False))
            for before, after in pairwise(widths[::-1])
        )
        self.last = spectral_norm(nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.head = Conv(width, 1)

    @property
    def min_size_px(self) -> int:
        """Smallest height or width."""
        return 8

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Judge (B, C, H, W), model domain: logits (B, 1, H, W), float32; invalid pixels are set to 0."""
        x = _checked(x, mask, self.in_channels, self.min_size_px, type(self).__name__)
        x = F.leaky_relu(self.stem(x), _LEAK)
        passed = []
        for layer in self.down:
            passed.append(x)
            x = F.leaky_relu(layer(x), _LEAK)
        for layer, beside in zip(self.up, passed[::-1], strict=True):
            x = F.interpolate(x, size=beside.shape[-2:], mode="bilinear", align_corners=False)
            x = F.leaky_relu(layer(x), _LEAK) + beside
        logits: Tensor = self.head(F.leaky_relu(self.last(x), _LEAK))
        return logits.float()
