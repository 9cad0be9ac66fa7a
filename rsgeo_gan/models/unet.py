"""U-Net generator of Pix2Pix, any band counts, any size, seam-free in tiles with a wide halo.

Reference: Isola et al., 2017, arXiv:1611.07004 (encoder and decoder with skips, dropout as its only noise), with
`SceneNorm` in place of batch normalisation, 3 x 3 kernels, and interpolation in place of plain transposed
convolutions.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.blocks import UpBlock, fill_and_pad, init_normal, pad_edges, pool_mask
from rsgeo_gan.models.norm import SceneNorm

__all__ = ["UNetGenerator"]

_DROPPED = 3
"""Innermost up blocks with dropout."""


class _Down(nn.Module):
    """3 x 3 convolution of stride 2, optional norm, leaky ReLU 0.2; cell i lies on pixel 2 * i."""

    def __init__(self, in_channels: int, out_channels: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, bias=not norm)
        self.norm = SceneNorm(out_channels) if norm else None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.conv(pad_edges(x, 1, 1, 1, 1))
        return F.leaky_relu(x if self.norm is None else self.norm(x, mask), 0.2)


class UNetGenerator(nn.Module):
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

    Raises:
        ValueError: If the depth is below 2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, width: int = 64, depth: int = 6, dropout: float = 0.5
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
        init_normal(self)

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

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Translate.

        Args:
            x: Image, shape (B, C, H, W), model domain [-1, 1].
            mask: Validity, shape (B, 1, H, W), 1 valid; what lies under 0 changes no valid output.

        Returns:
            Image, shape (B, C', H, W), float32 in [-1, 1].

        Raises:
            ValueError: If the band count is wrong.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"UNetGenerator: expected (B, {self.in_channels}, H, W), got {tuple(x.shape)}; "
                "build the network with the number of bands of the data"
            )
        h, w = x.shape[-2:]
        x, mask = fill_and_pad(x, mask, self.stride)
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
        y = self.head(pad_edges(x, 1, 1, 1, 1))[..., :h, :w]
        # bfloat16 cannot tell values apart near the ends of tanh.
        return torch.tanh(y.to(torch.promote_types(y.dtype, torch.float32)))
