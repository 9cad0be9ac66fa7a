"""Distances of super-resolution that are no pixel differences: in features of a frozen network, and in spectra.

References: Johnson et al., 2016, arXiv:1603.08155 (features); Kruse et al., 1993, doi:10.1016/0034-4257(93)90013-N
(spectral angle).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from rsgeo_gan.losses.reconstruction import masked_mean

__all__ = ["Features", "Perceptual", "spectral_angle_loss"]

_LEAST = 1e-12
_DARK = 0.01


class Features(Protocol):
    """What these losses ask of a feature network, such as `rsgeo_gan.models.RandomFeatures`."""

    taps: Iterable[str]

    def __call__(self, image: Tensor, taps: Iterable[str] | None) -> Mapping[str, Tensor]:
        """Return standardised features by tap, shape (B, c, h, w)."""

    def seen(self, mask: Tensor, tap: str) -> Tensor:
        """Return which cells of a tap saw valid pixels only, shape (B, 1, h, w)."""


class Perceptual(nn.Module):
    """Mean squared difference of standardised features, over cells that saw valid pixels only, averaged over taps.

    Args:
        backend: Frozen feature network for the bands of the images; standardise it with its `fit` first.
        taps: Taps to compare, one or more of the backend's; the deepest one when None.

    Raises:
        ValueError: If the backend lacks a tap.
    """

    def __init__(self, backend: nn.Module, taps: Sequence[str] | None = None) -> None:
        super().__init__()
        known = tuple(getattr(backend, "taps", ()))
        self.taps = known[-1:] if taps is None else tuple(taps)
        if not self.taps or not set(self.taps) <= set(known):
            raise ValueError(
                f"Perceptual: expected taps out of {known} of {type(backend).__name__}, got {self.taps}; use a feature "
                "network of rsgeo_gan.models"
            )
        self.backend = backend

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compare images (B, C, H, W) of the model domain.

        Args:
            pred: Made images.
            target: True ones; no gradient reaches them.
            mask: Validity of both, shape (B, 1, H, W).

        Returns:
            Scalar, float32; 0 where no cell is valid.
        """
        backend: Features = self.backend  # type: ignore[assignment]
        if mask is not None:
            pred, target = (torch.where(mask > 0, image, image.new_zeros(())) for image in (pred, target))
        ours = backend(pred.float(), self.taps)
        with torch.no_grad():
            theirs = backend(target.float(), self.taps)
        terms = [
            masked_mean((ours[tap] - theirs[tap]).square(), None if mask is None else backend.seen(mask, tap))
            for tap in self.taps
        ]
        return torch.stack(terms).mean()


def spectral_angle_loss(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean angle between the spectra of made and true pixels, whatever their brightness.

    Gradients stay bounded: near zero the angle is that of unit vectors by their distance, not by an arc cosine, and
    spectra shorter than a hundredth of their mean length count as vectors of that length.

    Args:
        pred: Shape (B, C, H, W), quantities of which zero is none, such as reflectance.
        target: Same shape.
        mask: Validity, shape (B, 1, H, W).

    Returns:
        Scalar, float32, radians.

    Raises:
        ValueError: If shapes differ.
    """
    if pred.shape != target.shape:
        raise ValueError(
            f"spectral_angle_loss: expected equal shapes, got {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    pred, target = pred.float(), target.float()
    if mask is not None:
        pred, target = (torch.where(mask > 0, image, image.new_ones(())) for image in (pred, target))
    lengths = [torch.linalg.vector_norm(image, dim=1, keepdim=True) for image in (pred, target)]
    least = [(_DARK * masked_mean(length.detach(), mask)).clamp_min(_LEAST) for length in lengths]
    one, other = (
        image / length.clamp_min(at) for image, length, at in zip((pred, target), lengths, least, strict=True)
    )
    apart = ((one - other).square().sum(dim=1, keepdim=True) + _LEAST).sqrt()
    summed = ((one + other).square().sum(dim=1, keepdim=True) + _LEAST).sqrt()
    return masked_mean(2 * torch.atan2(apart, summed), mask)
