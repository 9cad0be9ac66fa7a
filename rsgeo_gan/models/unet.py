"""U-Net generator of Pix2Pix, any band counts, any size, seam-free in tiles with a wide halo.

Reference: Isola et al., 2017, arXiv:1611.07004 (encoder and decoder with skips, dropout as its only noise), with
`SceneNorm` in place of batch normalisation, 3 x 3 kernels, and interpolation in place of plain transposed
convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.blocks import Blur, UpBlock, fill_and_pad, init_normal, pad_edges, pool_mask
from rsgeo_gan.models.norm import SceneNorm
from rsgeo_gan.models.speckle import SpeckledGenerator

__all__ = ["UNetGenerator"]

_DROPPED = 3
"""Innermost up blocks with dropout."""


class _Down(nn.Module):
    """3 x 3 convolution of stride 2, optional norm, leaky ReLU 0.2; cell i lies on pixel 2 * i."""

    def __init__(self, in_channels: int, out_channels: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, bias=not norm)
        self.norm = SceneNorm(out_channels) if norm else None

    def forward(self, x: Tensor, mask: Tensor | None, blur: Blur | None = None) -> Tensor:
        n = 1 + (blur is not None)
        x = pad_edges(x, n, n, n, n)
        x = self.conv(x if blur is None else blur(x))
        return F.leaky_relu(x if self.norm is None else self.norm(x, mask), 0.2)


class UNetEncoder(nn.Module):
    """The first two downs: `down1` (stride 2) and `down2` (stride 4), with or without a blur before the stride.

    Args:
        downs: Down blocks, shared with the generator they belong to.
        in_channels: Bands of the input.
    """

    stages = ("down1", "down2")

    def __init__(self, downs: Iterable[nn.Module], in_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.downs = nn.ModuleList(downs)
        self.blur = Blur()

    def forward(
        self,
        x: Tensor,
        taps: Sequence[str] = ("down2",),
        mask: Tensor | None = None,
        *,
        antialias: bool | None = None,
    ) -> dict[str, Tensor]:
        """Compute the stages that are named; arguments and result as those of `ResNetEncoder`.

        Raises:
            ValueError: If the band count or a tap name is wrong.
        """
        unknown = set(taps) - set(self.stages)
        if x.ndim != 4 or x.shape[1] != self.in_channels or unknown or not taps:
            raise ValueError(
                f"UNetEncoder: expected (B, {self.in_channels}, H, W) and taps out of {self.stages}, got "
                f"{tuple(x.shape)} and {tuple(taps)}"
            )
        h, w = x.shape[-2:]
        x, mask = fill_and_pad(x, mask, 4)
        found = {}
        for level, (name, down) in enumerate(zip(self.stages, self.downs, strict=True), 1):
            mask = None if mask is None else pool_mask(mask)
            x = down(x, mask, self.blur if antialias else None)
            found[name] = x[..., : -(-h // 2**level), : -(-w // 2**level)]
        return {name: found[name] for name in taps}

    def tap_stride(self, tap: str) -> int:
        """Return the stride of a tap in input pixels."""
        return int(2 ** (1 + self.stages.index(tap)))

    def tap_radius_px(self, tap: str, *, antialias: bool | None = None) -> int:
        """Return half the receptive field of a tap: it depends on input pixels s * i ± this many."""
        return (2 if antialias else 1) * (self.tap_stride(tap) - 1)


class _Fine(nn.Module):
    """A second way from input to output at full resolution, two 3 x 3 convolutions, without normalisation."""

    def __init__(self, in_channels: int, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3)
        self.second = nn.Conv2d(channels, channels, 3)
        self.merge = nn.Conv2d(width + channels, width, 1)
        for layer in (self.first, self.second, self.merge):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            image = F.leaky_relu(layer(pad_edges(image, 1, 1, 1, 1)), 0.2)
        return F.leaky_relu(self.merge(torch.cat([features, image.to(features.dtype)], dim=1)), 0.2)


class UNetGenerator(SpeckledGenerator):
    """Translate an image: `depth` downs to stride 2**depth, as many ups, each joined with the down of its size.

    Any size works: the input is padded right and bottom to a multiple of `stride` and the output cropped back.
    Each level doubles the receptive field, so that depth is paid for with the halo of a scene's windows: 94 px at
    depth 5, 190 px at 6, 766 px at 8, which is the depth of the literature, made for images of 256 px that
    are never cut. Choose a depth that leaves a few cells of the training patch at the bottom, such as 6 for 256 px:
    statistics of a single cell normalise to nothing. As in the literature the first and the innermost down are
    not normalised.

    Dropout is the network's noise while it learns. In evaluation mode it is off and the answer deterministic:
    features dropped at random differ between the windows of a scene, which would show.

    Args:
        in_channels: Bands of the input.
        out_channels: Bands of the output.
        width: Channels after the first down; doubled by each down up to 8 times.
        depth: Number of downs, at least 2.
        dropout: Share of features dropped in the three innermost ups, while training.
        noise_channels: Channels of noise, added to the finished image, see `speckled`; the rest of the network never
            sees them.
        direct_channels: Channels of a second path from input to output at full resolution, without normalisation. The
            literature's network has no skip at stride 1 and knows of brightness only what the first down passes on.

    Raises:
        ValueError: If the depth is below 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 64,
        depth: int = 6,
        dropout: float = 0.5,
        noise_channels: int = 0,
        direct_channels: int = 0,
    ) -> None:
        super().__init__()
        if depth < 2:
            raise ValueError(f"UNetGenerator: expected a depth of at least 2, got {depth}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.depth = depth
        channels = [width * min(2**level, 8) for level in range(depth)]
        self.downs = nn.ModuleList(
            _Down(a, b, norm=0 < level < depth - 1) for level, (a, b) in enumerate(pairwise([in_channels, *channels]))
        )
        # From the innermost out; all but the first take their skip along.
        given = [channels[-1], *(2 * count for count in channels[-2::-1])]
        made = [*channels[-2::-1], width]
        self.ups = nn.ModuleList(UpBlock(a, b) for a, b in zip(given, made, strict=True))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv2d(width, out_channels, 3)
        self.make_noise(noise_channels, out_channels)
        init_normal(self)
        self.direct = _Fine(in_channels, direct_channels, width) if direct_channels else None

    @property
    def encoder(self) -> UNetEncoder:
        """The first two downs, as correspondence terms use them; its weights are the generator's own."""
        return UNetEncoder(self.downs[:2], self.in_channels)

    @property
    def stride(self) -> int:
        """Pixels that a read origin must be a multiple of."""
        return int(2**self.depth)

    @property
    def receptive_radius_px(self) -> int:
        """Half the receptive field: an output pixel depends on no input pixel farther away, per axis."""
        down = up = self.stride - 1  # one cell of each grid, 1 + 2 + 4 + ..., by the convolutions of either way
        interpolation = self.stride - 1
        return down + up + interpolation + 1

    def forward(self, x: Tensor, mask: Tensor | None = None, noise: Tensor | torch.Generator | None = None) -> Tensor:
        """Translate.

        Args:
            x: Image, shape (B, C, H, W), model domain [-1, 1].
            mask: Validity, shape (B, 1, H, W), 1 valid; what lies under 0 changes no valid output.
            noise: Only with `noise_channels`: standard normal noise, shape (B, noise_channels, H, W), or a
                random generator to draw it from, or None for no speckle.

        Returns:
            Image, shape (B, C', H, W), float32 in [-1, 1].

        Raises:
            ValueError: If the band count or the noise's shape is wrong.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"UNetGenerator: expected (B, {self.in_channels}, H, W), got {tuple(x.shape)}; "
                "build the network with the number of bands of the data"
            )
        h, w = x.shape[-2:]
        x, mask = fill_and_pad(x, mask, self.stride)
        image = x
        masks, skips = [mask], []
        for down in self.downs:
            masks.append(None if masks[-1] is None else pool_mask(masks[-1]))
            x = down(x, masks[-1])
            skips.append(x)
        skips.pop()
        for number, up in enumerate(self.ups):
            masks.pop()
            x = up(x, masks[-1])
            if number < min(_DROPPED, self.depth - 1):
                x = self.dropout(x)
            if skips:
                x = torch.cat([x, skips.pop()], dim=1)
        if self.direct is not None:
            x = self.direct(x, image)
        y = self.head(pad_edges(x, 1, 1, 1, 1))[..., :h, :w]
        # bfloat16 cannot tell values apart near the ends of tanh.
        return self.speckled(torch.tanh(y.to(torch.promote_types(y.dtype, torch.float32))), noise)
