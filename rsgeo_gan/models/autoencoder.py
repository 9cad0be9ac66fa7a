"""Conditional adversarial auto-encoder: encoder, conditional decoder, and the discriminators of code and image.

Reference: Zhang et al., 2017, arXiv:1702.08423 (CAAE), for any bands and conditions, with anti-aliased upsampling in
place of plain transposed convolutions. A condition is a vector in [-1, 1] (classes coded as -1 and +1, an ordinal as
one number, a cycle as sine and cosine).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.blocks import Blur, pad_edges

__all__ = ["Encoder", "ImageDecoder", "ImageDiscriminator", "LatentDiscriminator", "Norm", "Prior", "comparable"]

Prior = Literal["uniform", "normal"]
"""Distribution of codes: uniform on [-1, 1], or standard normal."""
Norm = Literal["none", "batch", "group"]

_SIZES = (32, 64, 128)
_COARSEST_PX = 4
_JUDGED_PX = 8
"""Side of the feature map that the discriminator's last layers read."""
_FAINT = 0.02
"""Deviation of the decoder's last weights: the first images are grey."""
_MOMENT = {"uniform": 1 / 3, "normal": 1.0}
"""Mean square of one number of a code."""


def comparable(condition: Tensor, latent_dim: int, prior: Prior = "uniform") -> Tensor:
    """Repeat a condition until it is about as long as a code, and scale it to a code's norm.

    A few numbers beside some fifty would be ignored. A condition of ones and minus ones gets the root mean square norm
    of codes, one of sine and cosine 0.71 of it.

    Args:
        condition: Shape (B, K), K >= 1.
        latent_dim: Length d of a code.
        prior: Distribution of codes.

    Returns:
        Shape (B, n K), n the nearest whole number to d / K, at least 1.
    """
    width = condition.shape[1]
    times = max(1, round(latent_dim / width))
    return condition.repeat(1, times) * math.sqrt(latent_dim * _MOMENT[prior] / (times * width))


def _check_size(name: str, size_px: int) -> None:
    if size_px not in _SIZES:
        raise ValueError(f"{name}: expected size_px in {_SIZES}, got {size_px}; cut tiles of such a size")


def _check_prior(name: str, prior: str) -> None:
    if prior not in get_args(Prior):
        raise ValueError(f"{name}: expected the prior {' or '.join(get_args(Prior))}, got {prior!r}")


def _check_condition(name: str, condition: Tensor | None, width: int, count: int) -> Tensor | None:
    """Refuse a condition that is missing, unexpected, or of another shape."""
    if width == 0:
        if condition is not None:
            raise ValueError(
                f"{name}: built without a condition, got one of shape {tuple(condition.shape)}; set condition_dim"
            )
        return None
    if condition is None or tuple(condition.shape) != (count, width):
        got = "none" if condition is None else tuple(condition.shape)
        raise ValueError(f"{name}: expected a condition ({count}, {width}), got {got}; conditions come with the tiles")
    return condition


def _check_image(name: str, image: Tensor, channels: int, size_px: int) -> None:
    if tuple(image.shape[1:]) != (channels, size_px, size_px):
        raise ValueError(
            f"{name}: expected (B, {channels}, {size_px}, {size_px}), got {tuple(image.shape)}; build the network with "
            "the bands and the patch size of the data"
        )


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(math.gcd(channels, 8), channels) if kind == "group" else nn.Identity()


class _Down(nn.Module):
    """5 x 5 convolution of stride 2, optional norm, activation."""

    def __init__(self, in_channels: int, out_channels: int, slope: float = 0.0, norm: Norm = "none") -> None:
        super().__init__()
        self.slope = slope
        self.conv = nn.Conv2d(in_channels, out_channels, 5, stride=2)
        self.norm = _norm(norm, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(pad_edges(x, 2, 2, 2, 2))), self.slope)


class _Up(nn.Module):
    """Twice the size: transposed 3 x 3 convolution and binomial blur, 5 x 5 on the fine grid; optional norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=2, output_padding=1)
        self.blur = Blur(gain=4.0)
        self.norm = _norm(norm, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.blur(self.conv(pad_edges(x, 1, 1, 1, 1)))))


class Encoder(nn.Module):
    """Image to code: 5 x 5 convolutions of stride 2 down to 4 px, ReLU, one linear layer; no normalisation.

    Args:
        in_channels: Bands.
        size_px: Side of the images: 32, 64 or 128.
        latent_dim: Length of a code.
        width: Channels after the first convolution, doubled by each further one; 64 in the reference.
        prior: With "uniform" codes end in tanh; with "normal" they are not bounded.

    Raises:
        ValueError: If size or prior are none of these.
    """

    def __init__(
        self, in_channels: int, size_px: int = 64, latent_dim: int = 50, width: int = 64, prior: Prior = "uniform"
    ) -> None:
        super().__init__()
        _check_size("Encoder", size_px)
        _check_prior("Encoder", prior)
        self.in_channels = in_channels
        self.size_px = size_px
        self.latent_dim = latent_dim
        self.prior = prior
        downs = int(math.log2(size_px // _COARSEST_PX))
        channels = [in_channels, *(width * 2**level for level in range(downs))]
        self.downs = nn.Sequential(*(_Down(a, b) for a, b in pairwise(channels)))
        self.head = nn.Linear(channels[-1] * _COARSEST_PX**2, latent_dim)
        _init(self)

    def forward(self, image: Tensor) -> Tensor:
        """Encode images (B, C, H, W) of the model domain as codes (B, d), float32.

        Raises:
            ValueError: If bands or size are not those of the network.
        """
        _check_image("Encoder", image, self.in_channels, self.size_px)
        z: Tensor = self.head(self.downs(image).flatten(1))
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        return torch.tanh(z) if self.prior == "uniform" else z


class ImageDecoder(nn.Module):
    """Code and condition to image: a linear layer to 4 px, doublings with ReLU, two convolutions, tanh.

    The condition is repeated and scaled beside the code, see `comparable`. As the residual branch of decoupled
    learning it has a norm and starts at zero.

    Args:
        out_channels: Bands.
        size_px: Side of the images: 32, 64 or 128.
        latent_dim: Length of a code.
        condition_dim: Length of a condition; 0 for none.
        width: Channels of the encoder's first convolution, twice those of the finest doubling.
        prior: Distribution of codes.
        norm: Of the doublings. "batch" belongs in networks that only one branch trains.
        zero: Begin with an output of zero.

    Attributes:
        taps: Blocks by the side of their output, "b8" to the full size.

    Raises:
        ValueError: If size, prior or width are not possible.
    """

    def __init__(
        self,
        out_channels: int,
        size_px: int = 64,
        latent_dim: int = 50,
        condition_dim: int = 0,
        width: int = 64,
        prior: Prior = "uniform",
        norm: Norm = "none",
        zero: bool = False,
    ) -> None:
        super().__init__()
        _check_size("ImageDecoder", size_px)
        _check_prior("ImageDecoder", prior)
        if width < 4 or width % 4:
            raise ValueError(f"ImageDecoder: expected a width that is a multiple of 4, got {width}")
        self.out_channels = out_channels
        self.size_px = size_px
        self.latent_dim = latent_dim
        self.condition_dim = condition_dim
        self.prior = prior
        ups = int(math.log2(size_px // _COARSEST_PX))
        self.taps = tuple(f"b{_COARSEST_PX * 2 ** (level + 1)}" for level in range(ups))
        channels = [width * 2**level // 2 for level in range(ups, -1, -1)]
        repeated = max(1, round(latent_dim / condition_dim)) * condition_dim if condition_dim else 0
        self.first = nn.Linear(latent_dim + repeated, channels[0] * _COARSEST_PX**2)
        self.ups = nn.ModuleList(_Up(a, b, norm) for a, b in pairwise(channels))
        self.last = nn.Conv2d(channels[-1], width // 4, 5)
        self.head = nn.Conv2d(width // 4, out_channels, 5)
        _init(self)
        nn.init.normal_(self.head.weight, 0.0, 0.0 if zero else _FAINT)

    def forward(self, z: Tensor, condition: Tensor | None = None, origin_px: Tensor | None = None) -> Tensor:
        """Decode.

        Args:
            z: Codes, shape (B, d).
            condition: Shape (B, K), numbers in [-1, 1].
            origin_px: Not used; what is decoded does not depend on its place.

        Returns:
            Images, shape (B, C, H, W), float32 in [-1, 1].

        Raises:
            ValueError: If code or condition have another shape.
        """
        return self.forward_head(self.forward_features(z, condition))

    def forward_features(
        self,
        z: Tensor,
        condition: Tensor | None = None,
        taps: Sequence[str] = (),
        origin_px: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the named blocks' outputs, and what `forward_head` needs.

        Raises:
            ValueError: If a tap is unknown, or code or condition have another shape.
        """
        unknown = sorted(set(taps) - set(self.taps))
        if unknown:
            raise ValueError(f"ImageDecoder: unknown taps {unknown}; choose from {self.taps}")
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"ImageDecoder: expected codes (B, {self.latent_dim}), got {tuple(z.shape)}")
        given = _check_condition("ImageDecoder", condition, self.condition_dim, len(z))
        if given is not None:
            z = torch.cat([z, comparable(given.to(z.dtype), self.latent_dim, self.prior)], dim=1)
        x = F.relu(self.first(z)).view(len(z), -1, _COARSEST_PX, _COARSEST_PX)
        found: dict[str, Tensor] = {}
        for name, up in zip(self.taps, self.ups, strict=True):
            x = up(x)
            if name in taps:
                found[name] = x
        return found | {"_last": x}

    def forward_head(self, features: dict[str, Tensor]) -> Tensor:
        """Turn the last block's output into an image."""
        x = F.relu(self.last(pad_edges(features["_last"], 2, 2, 2, 2)))
        y = self.head(pad_edges(x, 2, 2, 2, 2))
        # bfloat16 cannot tell values apart near the ends of tanh.
        return torch.tanh(y.to(torch.promote_types(y.dtype, torch.float32)))


class LatentDiscriminator(nn.Module):
    """Tells codes from draws of the prior: three linear layers with ReLU, then a logit. It sees codes only.

    Args:
        latent_dim: Length of a code.
        width: Of the first layer, halved by the next two; 64 in the reference.
    """

    def __init__(self, latent_dim: int = 50, width: int = 64) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        sizes = [latent_dim, width, width // 2, width // 4]
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))

    def forward(self, z: Tensor) -> Tensor:
        """Judge codes (B, d); logits (B, 1), float32.

        Raises:
            ValueError: If what is judged is not a batch of codes.
        """
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"LatentDiscriminator: expected codes (B, {self.latent_dim}), got {tuple(z.shape)}")
        return self.layers(z).float()


class ImageDiscriminator(nn.Module):
    """Judges an image under a condition, which joins as constant planes after the first convolution and only there.

    Args:
        in_channels: Bands.
        size_px: Side of the images: 32, 64 or 128.
        condition_dim: Length of a condition; 0 for none.
        width: Channels of the first convolution, doubled by each further one down to 8 px; 16 in the reference, 64
            in its decoupled form.
        hidden: Length of the vector before the logit.
        norm: Of all convolutions but the first; the penalty on the slope is defined without "batch" only.

    Attributes:
        taps: Blocks by the side of their input, such as "b32".
    """

    def __init__(
        self,
        in_channels: int,
        size_px: int = 64,
        condition_dim: int = 0,
        width: int = 16,
        hidden: int = 256,
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        _check_size("ImageDiscriminator", size_px)
        self.in_channels = in_channels
        self.size_px = size_px
        self.condition_dim = condition_dim
        downs = int(math.log2(size_px // _JUDGED_PX))
        self.taps = tuple(f"b{size_px // 2**level}" for level in range(downs))
        channels = [width * 2**level for level in range(downs)]
        self.first = _Down(in_channels, channels[0], 0.2)
        self.downs = nn.ModuleList(
            _Down(a + (condition_dim if k == 0 else 0), b, 0.2, norm) for k, (a, b) in enumerate(pairwise(channels))
        )
        self.hidden = nn.Linear(channels[-1] * _JUDGED_PX**2, hidden)
        self.head = nn.Linear(hidden, 1)
        _init(self)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Judge images (B, C, H, W) under conditions (B, K); logits (B, 1), float32.

        Raises:
            ValueError: If images or conditions are not of the network's shapes.
        """
        return self.forward_head(self.forward_features(x, condition=condition))

    def forward_features(
        self, x: Tensor, taps: Sequence[str] = (), condition: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the named blocks' outputs, and "last", the vector before the logit.

        Raises:
            ValueError: If a tap is unknown, or images or conditions are not of the network's shapes.
        """
        unknown = sorted(set(taps) - set(self.taps))
        if unknown:
            raise ValueError(f"ImageDiscriminator: unknown taps {unknown}; choose from {self.taps}")
        _check_image("ImageDiscriminator", x, self.in_channels, self.size_px)
        given = _check_condition("ImageDiscriminator", condition, self.condition_dim, len(x))
        found: dict[str, Tensor] = {}
        for k, name in enumerate(self.taps):
            if k == 1 and given is not None:
                planes = given.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[-2:])
                x = torch.cat([x, planes], dim=1)
            x = self.first(x) if k == 0 else self.downs[k - 1](x)
            if name in taps:
                found[name] = x
        return found | {"last": F.leaky_relu(self.hidden(x.flatten(1)), 0.2)}

    def forward_head(self, features: dict[str, Tensor], condition: Tensor | None = None) -> Tensor:
        """Turn the last vector into logits, float32; the condition has joined before."""
        return self.head(features["last"]).float()


def _init(network: nn.Module) -> None:
    """Draw weights that keep the scale of activations through (leaky) ReLU, and into the head's output; biases zero."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if name == "head" else "relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
