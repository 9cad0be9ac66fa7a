"""ResNet generator for image translation, any band counts, any size, seam-free in tiles.

Reference: Zhu et al., 2017, arXiv:1703.10593 (9-block network), with blurred resampling in place of
plain strides and transposed convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.blocks import ConvBlock, ResidualBlock, UpBlock, fill_and_pad, init_normal, pad_edges, pool_mask
from rsgeo_gan.models.speckle import SpeckledGenerator

__all__ = ["ResNetEncoder", "ResNetGenerator"]

_STAGES = ("stem", "down1", "down2")


def _levels(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Masks at stride 1, 2 and 4."""
    if mask is None:
        return None, None, None
    half = pool_mask(mask)
    return mask, half, pool_mask(half)


class ResNetEncoder(nn.Module):
    """The three encoding stages: `stem` (7 x 7, stride 1), `down1` (stride 2), `down2` (stride 4).

    Args:
        in_channels: Bands of the input.
        width: Channels after the stem; doubled by each down stage.
        antialias: Blur before each stride.
    """

    stages = _STAGES

    def __init__(self, in_channels: int, width: int = 64, *, antialias: bool = True) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.antialias = antialias
        self.stem = ConvBlock(in_channels, width, 7)
        self.down1 = ConvBlock(width, 2 * width, stride=2, antialias=antialias)
        self.down2 = ConvBlock(2 * width, 4 * width, stride=2, antialias=antialias)

    def forward(
        self,
        x: Tensor,
        taps: Sequence[str] = ("down2",),
        mask: Tensor | None = None,
        *,
        antialias: bool | None = None,
    ) -> dict[str, Tensor]:
        """Compute the stages up to the deepest tap.

        Args:
            x: Image, shape (B, C, H, W), model domain [-1, 1]; any size.
            taps: Names out of `stages`.
            mask: Validity, shape (B, 1, H, W); invalid pixels are filled with 0 and kept out of all moments.
            antialias: Override the blur of the strides for this call; same weights.

        Returns:
            Features by tap, each (B, C_tap, ceil(H / s), ceil(W / s)); cell i lies on input pixel s * i.

        Raises:
            ValueError: If the band count or a tap name is wrong.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: expected (B, {self.in_channels}, H, W), got {tuple(x.shape)}; "
                "build the network with the number of bands of the data"
            )
        unknown = set(taps) - set(_STAGES)
        if unknown:
            raise ValueError(f"{type(self).__name__}: unknown taps {sorted(unknown)}; choose from {_STAGES}")
        h, w = x.shape[-2:]
        x, mask = fill_and_pad(x, mask, 4)
        found: dict[str, Tensor] = {}
        for level, (name, valid) in enumerate(zip(_STAGES, _levels(mask), strict=True)):
            if len(found) == len(set(taps)):
                break
            x = getattr(self, name)(x, valid, antialias)
            if name in taps:
                s = 2**level
                found[name] = x[..., : -(-h // s), : -(-w // s)]
        return found

    def tap_stride(self, tap: str) -> int:
        """Return the stride of a tap in input pixels."""
        return 2 ** _STAGES.index(tap)

    def tap_radius_px(self, tap: str, *, antialias: bool | None = None) -> int:
        """Return half the receptive field of a tap: it depends on input pixels s * i ± this many."""
        per_stage = 2 if (self.antialias if antialias is None else antialias) else 1
        return 3 + per_stage * (self.tap_stride(tap) - 1)


class _Direct(nn.Module):
    """A second way from input to output, without normalisation: three scales, each joined with the decoder's.

    It sees few pixels around each (less than the rest of the network), but knows how bright they are.
    """

    def __init__(self, in_channels: int, width: int, channels: int) -> None:
        super().__init__()
        wide = (channels, 2 * channels, 4 * channels)
        self.encode = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=stride)
            for a, b, stride in zip((in_channels, *wide), wide, (1, 2, 2), strict=False)
        )
        self.merge = nn.ModuleList(
            nn.Conv2d(level * width + extra, level * width, 1) for level, extra in zip((1, 2, 4), wide, strict=True)
        )
        for layer in (*self.encode, *self.merge):
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return what is known at strides 1, 2 and 4."""
        found: list[Tensor] = []
        for layer in self.encode:
            image = F.leaky_relu(layer(pad_edges(image, 1, 1, 1, 1)), 0.2)
            found.append(image)
        return found

    def join(self, features: Tensor, known: list[Tensor], level: int) -> Tensor:
        """Merge with the decoder's features at stride 2 ** level."""
        out: Tensor = F.relu(self.merge[level](torch.cat([features, known[level].to(features.dtype)], dim=1)))
        return out


class ResNetGenerator(SpeckledGenerator):
    """Translate an image: 7 x 7 stem, two downs, residual blocks, two ups, 7 x 7 head with tanh.

    Any size works: the input is padded right and bottom to a multiple of `stride` (reflected, or repeated
    where too small) and the output cropped back. Convolutions reflect at the border, so a window
    clipped at a scene's edge computes there exactly what the whole scene computes.

    Args:
        in_channels: Bands of the input.
        out_channels: Bands of the output.
        width: Channels after the stem.
        blocks: Number of residual blocks at stride 4.
        antialias: Blur before each stride. The ups interpolate linearly in either case.
        noise_channels: Channels of noise, added to the finished image through a 3 x 3 convolution of their own, see
            `speckled`. The rest of the network never sees them.
        direct_channels: Channels, at stride 1, of a second path from input to output without normalisation: skip
            connections at strides 1, 2 and 4. Instance normalisation takes the mean and contrast of a patch away;
            through this path brightness stays known.
    """

    taps = (*_STAGES, "blocks")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 64,
        blocks: int = 9,
        antialias: bool = True,
        noise_channels: int = 0,
        direct_channels: int = 0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.antialias = antialias
        self.encoder = ResNetEncoder(in_channels, width, antialias=antialias)
        self.blocks = nn.ModuleList(ResidualBlock(4 * width) for _ in range(blocks))
        self.up1 = UpBlock(4 * width, 2 * width)
        self.up2 = UpBlock(2 * width, width)
        self.head = nn.Conv2d(width, out_channels, 7)
        self.make_noise(noise_channels, out_channels)
        init_normal(self)
        self.direct = _Direct(in_channels, width, direct_channels) if direct_channels else None

    @property
    def stride(self) -> int:
        """Pixels that a read origin must be a multiple of."""
        return 4

    @property
    def receptive_radius_px(self) -> int:
        """Half the receptive field: an output pixel depends on no input pixel farther away, per axis."""
        encode = self.encoder.tap_radius_px("down2")
        decode = (2 + 2) + (1 + 1) + 3  # interpolation and convolution per up stage, then the head
        return encode + 8 * len(self.blocks) + decode

    def forward(self, x: Tensor, mask: Tensor | None = None, noise: Tensor | torch.Generator | None = None) -> Tensor:
        """Translate.

        Args:
            x: Image, shape (B, C, H, W), model domain [-1, 1].
            mask: Validity, shape (B, 1, H, W), 1 valid; what lies under 0 changes no valid output.
            noise: Only with `noise_channels`: standard normal noise, shape (B, noise_channels, H, W), or a
                random generator to draw it from, or None for no speckle (the deterministic answer).

        Returns:
            Image, shape (B, C', H, W), float32 in [-1, 1].

        Raises:
            ValueError: If the band count or the noise's shape is wrong.
        """
        features = self.forward_features(x, mask=mask)["blocks"]
        return self.forward_head(features, (x.shape[-2], x.shape[-1]), mask=mask, noise=noise, image=x)

    def forward_features(self, x: Tensor, taps: Sequence[str] = (), mask: Tensor | None = None) -> dict[str, Tensor]:
        """Compute inner features: always `blocks` (the head's input), and the named taps.

        Args:
            x: Image, shape (B, C, H, W).
            taps: Names out of `taps`: stem (stride 1), down1 (2), down2 (4), blocks (4).
            mask: Validity, shape (B, 1, H, W).

        Returns:
            Features by name; strides count from the first pixel of an image padded to a multiple of 4.
        """
        x, mask = fill_and_pad(x, mask, self.stride)
        wanted = {*taps, "down2"} - {"blocks"}
        found: dict[str, Tensor] = self.encoder(x, tuple(wanted), mask)
        coarse = _levels(mask)[2]
        y = found["down2"]
        for block in self.blocks:
            y = block(y, coarse)
        if "down2" not in taps:
            del found["down2"]
        return {**found, "blocks": y}

    def forward_head(
        self,
        features: Tensor,
        size: tuple[int, int] | None = None,
        *,
        mask: Tensor | None = None,
        noise: Tensor | torch.Generator | None = None,
        image: Tensor | None = None,
    ) -> Tensor:
        """Decode the `blocks` features into an image of `size` (height, width; default: all they cover).

        Raises:
            ValueError: If the network has a direct path and is not given the input `image`.
        """
        h, w = size or (4 * features.shape[-2], 4 * features.shape[-1])
        right, bottom = 4 * features.shape[-1] - w, 4 * features.shape[-2] - h
        if self.direct is not None and image is None:
            raise ValueError("ResNetGenerator: a network with direct_channels decodes features with their `image`")
        filled = None if image is None else fill_and_pad(image, mask, self.stride)[0]
        if mask is not None:
            mask = mask.to(features.dtype)
            mask = pad_edges(mask, 0, right, 0, bottom) if right or bottom else mask
        full, half, _ = _levels(mask)
        if self.direct is None:
            y = self.up2(self.up1(features, half), full)
        else:
            known = self.direct(filled)
            y = self.up1(self.direct.join(features, known, 2), half)
            y = self.direct.join(self.up2(self.direct.join(y, known, 1), full), known, 0)
        y = self.head(pad_edges(y, 3, 3, 3, 3))[..., :h, :w]
        # bfloat16 cannot tell values apart near the ends of tanh.
        return self.speckled(torch.tanh(y.to(torch.promote_types(y.dtype, torch.float32))), noise)

    def encode(self, x: Tensor, stages: int = 3, mask: Tensor | None = None, antialias: bool | None = None) -> Tensor:
        """Return the features after the first `stages` (1 to 3) encoding stages; see `ResNetEncoder`."""
        name = _STAGES[stages - 1]
        found: dict[str, Tensor] = self.encoder(x, (name,), mask, antialias=antialias)
        return found[name]
