"""What networks of image synthesis share: latent and condition in, image out; image and condition in, logit out.

A generator computes named features and an image from them; a discriminator named features and a logit. Losses on
features and side branches attach to the names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["Embedding", "SynthesisDiscriminator", "SynthesisGenerator", "channels_at", "ladder", "unit"]

Prior = Literal["normal", "uniform"]


def ladder(size_px: int) -> tuple[int, ...]:
    """Resolutions from the coarsest (4 to 7 px) to `size_px`, each twice the one before.

    Raises:
        ValueError: If the size is less than 8 px, or has no such series.
    """
    sizes = [size_px]
    while sizes[0] > 7 and sizes[0] % 2 == 0:
        sizes.insert(0, sizes[0] // 2)
    if len(sizes) < 2 or not 4 <= sizes[0] <= 7:
        raise ValueError(
            f"size_px: expected 4, 5, 6 or 7 times a power of two and at least 8, got {size_px}; take 32, 48, 64 or 128"
        )
    return tuple(sizes)


def channels_at(size_px: int, width: int, max_width: int) -> dict[int, int]:
    """Channels by resolution: `width` at the finest, twice as many at each coarser one, at most `max_width`."""
    return {px: min(width * (size_px // px), max_width) for px in ladder(size_px)}


def unit(x: Tensor) -> Tensor:
    """Scale each row to a mean square of 1."""
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class Embedding(nn.Module):
    """Condition vector to a vector of mean square 1, float32.

    The first weights count from -1, the lowest value of every entry: classes then start far apart (the many -1 that
    two of them share cancel), and an ordinal value turns the vector, of which scaling would leave no trace.

    Args:
        condition_dim: Length of the condition vector, entries in [-1, 1].
        out_features: Length of the output.
    """

    def __init__(self, condition_dim: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, condition_dim))
        self.bias = nn.Parameter(self.weight.detach().sum(dim=1) + torch.randn(out_features))

    def forward(self, condition: Tensor) -> Tensor:
        """Embed, (B, K) to (B, D)."""
        with torch.autocast(condition.device.type, enabled=False):
            return unit(nn.functional.linear(condition.float(), self.weight, self.bias))


def _conditioned(owner: str, condition: Tensor | None, rows: int, condition_dim: int) -> None:
    """Refuse a condition that does not fit."""
    got = None if condition is None else tuple(condition.shape)
    expected = (rows, condition_dim) if condition_dim else None
    if got != expected:
        raise ValueError(
            f"{owner}: expected a condition of shape {expected}, got {got}; condition_dim is the width of the "
            "conditions in the data, 0 without"
        )


def _known(owner: str, taps: Sequence[str], names: Sequence[str]) -> None:
    """Refuse a tap that does not exist."""
    unknown = sorted(set(taps) - set(names))
    if unknown:
        raise ValueError(f"{owner}: unknown taps {unknown}; choose from {tuple(names)}")


class SynthesisGenerator(nn.Module, ABC):
    """Noise, and a condition, to an image.

    Args:
        out_channels: Bands of the image.
        size_px: Height and width of the image.
        latent_dim: Length of the latent vector.
        condition_dim: Length of the condition vector; 0 for none.
        prior: Distribution of each entry of the latent: `normal` N(0, 1) or `uniform` U(-1, 1).
    """

    tap_channels: Mapping[str, int]
    """Channels of the features by tap, coarsest first; tap `b16` has 16 x 16 cells."""

    def __init__(
        self, out_channels: int, size_px: int, latent_dim: int, condition_dim: int, prior: Prior = "normal"
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.size_px = size_px
        self.latent_dim = latent_dim
        self.condition_dim = condition_dim
        self.prior = prior

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the inner features, coarsest first."""
        return tuple(self.tap_channels)

    def forward(self, z: Tensor, condition: Tensor | None = None, origin_px: Tensor | None = None) -> Tensor:
        """Generate.

        Args:
            z: Latent, shape (B, latent_dim), from the `prior`.
            condition: Shape (B, condition_dim), as the data encode it.
            origin_px: Column and row of each image on its grid, shape (B, 2); for branches bound to the grid.

        Returns:
            Image, shape (B, out_channels, size_px, size_px), float32, model domain.

        Raises:
            ValueError: If the latent or the condition has another shape.
        """
        return self.forward_head(self.forward_features(z, condition, origin_px=origin_px))

    @abstractmethod
    def forward_features(
        self,
        z: Tensor,
        condition: Tensor | None = None,
        taps: Sequence[str] = (),
        origin_px: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the named taps, and under private keys what `forward_head` needs."""

    @abstractmethod
    def forward_head(self, features: Mapping[str, Tensor]) -> Tensor:
        """Make the image of what `forward_features` returned."""

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents from the prior, shape (count, latent_dim), on the device of the network.

        Args:
            count: How many.
            generator: Source of chance, on the same device; torch's own where not given.
        """
        device = next(self.parameters()).device
        if self.prior == "normal":
            return torch.randn(count, self.latent_dim, device=device, generator=generator)
        return torch.rand(count, self.latent_dim, device=device, generator=generator) * 2 - 1

    def _check(self, z: Tensor, condition: Tensor | None, taps: Sequence[str] = ()) -> None:
        owner = type(self).__name__
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"{owner}: expected a latent of shape (B, {self.latent_dim}), got {tuple(z.shape)}")
        _conditioned(owner, condition, len(z), self.condition_dim)
        _known(owner, taps, self.taps)


class SynthesisDiscriminator(nn.Module, ABC):
    """An image, and a condition, to one logit.

    Args:
        in_channels: Bands of the image.
        size_px: Height and width of the image.
        condition_dim: Length of the condition vector; 0 for none.
    """

    tap_channels: Mapping[str, int]
    """Channels of the features by tap, finest first; tap `b32` comes from 32 x 32 cells and has 16 x 16."""

    def __init__(self, in_channels: int, size_px: int, condition_dim: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.size_px = size_px
        self.condition_dim = condition_dim

    @property
    def taps(self) -> tuple[str, ...]:
        """Names of the inner features, finest first."""
        return tuple(self.tap_channels)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Judge.

        Args:
            x: Image, shape (B, in_channels, size_px, size_px), model domain.
            condition: Shape (B, condition_dim), as the data encode it.

        Returns:
            Logits, shape (B, 1), float32.

        Raises:
            ValueError: If the image or the condition has another shape.
        """
        return self.forward_head(self.forward_features(x), condition)

    def forward_features(self, x: Tensor, taps: Sequence[str] = ()) -> dict[str, Tensor]:
        """Compute inner features.

        Args:
            x: Image, shape (B, in_channels, size_px, size_px).
            taps: Names out of `taps`.

        Returns:
            Features by name: `last`, which the head needs, and the named taps.

        Raises:
            ValueError: If the image has another shape or a tap does not exist.
        """
        owner = type(self).__name__
        if x.ndim != 4 or x.shape[1:] != (self.in_channels, self.size_px, self.size_px):
            raise ValueError(
                f"{owner}: expected (B, {self.in_channels}, {self.size_px}, {self.size_px}), got {tuple(x.shape)}; "
                "build the network with the bands and the patch size of the data"
            )
        _known(owner, taps, self.taps)
        return self._features(x, taps)

    @abstractmethod
    def _features(self, x: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
        """Compute `last` and the named taps."""

    def forward_head(self, features: Mapping[str, Tensor], condition: Tensor | None = None) -> Tensor:
        """Turn what `forward_features` returned into logits, shape (B, 1), float32."""
        _conditioned(type(self).__name__, condition, len(features["last"]), self.condition_dim)
        return self._head(features["last"], condition).float()

    @abstractmethod
    def _head(self, last: Tensor, condition: Tensor | None) -> Tensor:
        """Turn the last features into logits, (B, 1)."""
