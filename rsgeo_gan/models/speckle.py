"""Noise that a translation generator adds to its finished image, as speckle is added in dB."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rsgeo_gan.models.blocks import pad_edges

__all__ = ["SpeckledGenerator"]

_SKEW_GAIN = 10.0
"""What a step of the skew is worth: speckle of a few looks needs some -0.6, far in steps of the convolutions' size."""


class SpeckledGenerator(nn.Module):
    """What generators share that may draw speckle; a subclass calls `make_noise` while it is built.

    Attributes:
        noise_channels: Channels of noise that are drawn; none when 0.
    """

    noise_channels: int
    noise: nn.Conv2d | None
    noise_skew: nn.Parameter | None

    def make_noise(self, noise_channels: int, out_channels: int) -> None:
        """Make the filter of the noise and its skew; nothing without channels."""
        self.noise_channels = noise_channels
        self.noise = nn.Conv2d(noise_channels, out_channels, 3, bias=False) if noise_channels else None
        self.noise_skew = nn.Parameter(torch.zeros(out_channels)) if noise_channels else None

    def speckled(self, image: Tensor, noise: Tensor | torch.Generator | None) -> Tensor:
        """Add noise to an image made without, as speckle is in dB: additive, alike everywhere, correlated over 3 px.

        Filtered noise u becomes u + b (u² - E u²), b learnt per band: speckle in dB is log-gamma, with a tail of dark
        pixels. Symmetric noise of four looks' spread in dB has the intensity's variance of three looks.

        Args:
            image: What the network made, shape (B, C', H, W).
            noise: As in `forward`; the image comes back unchanged when it is None.

        Returns:
            Shape (B, C', H, W), in [-1, 1].

        Raises:
            ValueError: If the noise's shape is wrong.
        """
        drawn = self._noise(noise, image)
        if self.noise is None or self.noise_skew is None or drawn is None:
            return image
        filtered = self.noise(pad_edges(drawn, 1, 1, 1, 1))
        variance = self.noise.weight.square().sum(dim=(1, 2, 3))[:, None, None].to(filtered.dtype)
        skewed = _SKEW_GAIN * self.noise_skew[:, None, None] * (filtered.square() - variance)
        return (image + filtered + skewed).clamp(-1, 1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take weights from before the noise had a skew as having none."""
        if self.noise_skew is not None:
            state_dict.setdefault(f"{prefix}noise_skew", torch.zeros_like(self.noise_skew))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _noise(self, noise: Tensor | torch.Generator | None, like: Tensor) -> Tensor | None:
        if noise is None or not self.noise_channels:
            return None
        shape = (like.shape[0], self.noise_channels, *like.shape[-2:])
        if isinstance(noise, torch.Generator):
            return torch.randn(shape, generator=noise, device=noise.device).to(like.device, like.dtype)
        if tuple(noise.shape) != shape:
            raise ValueError(f"{type(self).__name__}: expected noise {shape}, got {tuple(noise.shape)}")
        return noise.to(like.dtype)
