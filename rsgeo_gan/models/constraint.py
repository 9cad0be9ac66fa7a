"""A hard constraint of super-resolution: at the resolution of the image read, the image made is the image read.

Reference: Aybar et al., SEN2SR, Remote Sensing of Environment, 2026 (low frequencies of the input, high ones of the
network). Its ideal and soft masks in Fourier space look at the whole image; the local form here does not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.superres import ENLARGED_RADIUS_PX, enlarge
from rsgeo_gan.optics import MTF, reach_px, weights

__all__ = ["Constrained", "Form", "coarsen", "constrain", "constraint_radius_px", "low_pass"]

Form = Literal["local", "mtf", "fourier", "butterworth", "gaussian", "sigmoid"]
"""local: means over coarse pixels; mtf: means weighted as by optics; the others: masks in Fourier space."""

_STEPS = 4
"""Corrections of the weighted form; each removes most of what the last one left."""
_ORDER = 4
_SHARPNESS = 40.0


def constrain(
    image: Tensor, low: Tensor, scale: int, form: Form = "local", mask: Tensor | None = None, *, mtf: float = MTF
) -> Tensor:
    """Give an image the low frequencies of the image it was made from.

    With "local", the mean of the pixels in each coarse pixel is exactly what was read there. With "mtf", the image as
    optics of this contrast would have seen it approaches what was read. With the masks in Fourier space, the part of
    low frequencies is that of the bicubic enlargement; all of it with "fourier", which cuts sharply.

    Args:
        image: Shape (B, C, s · h, s · w), in the units of `low`.
        low: Image read, shape (B, C, h, w).
        scale: Fine pixels per coarse pixel.
        form: Of the constraint.
        mask: Validity of `low`, shape (B, 1, h, w); where nothing was read, nothing is imposed by "local" and "mtf".
        mtf: Contrast of the optics at the coarse Nyquist frequency, with "mtf".

    Returns:
        The image, float32.

    Raises:
        ValueError: If the form is unknown or the shapes do not fit.
    """
    if form not in get_args(Form):
        raise ValueError(f"constrain: expected a form out of {get_args(Form)}, got {form!r}")
    wanted = (*low.shape[:2], low.shape[2] * scale, low.shape[3] * scale)
    if tuple(image.shape) != wanted:
        raise ValueError(
            f"constrain: expected an image of {wanted} for one of {tuple(low.shape)} and the scale {scale}, got "
            f"{tuple(image.shape)}; a constraint needs the same bands on both sides"
        )
    image, low = image.float(), low.float()
    if form not in ("local", "mtf"):
        return image + low_pass(enlarge(low, scale, mask) - image, scale, form)
    for _ in range(1 if form == "local" else _STEPS):
        apart = low - coarsen(image, scale, None if form == "local" else mtf)
        if mask is not None:
            apart = torch.where(mask > 0, apart, apart.new_zeros(()))
        image = image + apart.repeat_interleave(scale, dim=-2).repeat_interleave(scale, dim=-1)
    return image


def coarsen(image: Tensor, scale: int, mtf: float | None = None) -> Tensor:
    """Show an image (B, C, s · h, s · w) on the coarse grid: plain means, or weighted as by optics of this contrast."""
    if mtf is None:
        return F.avg_pool2d(image, scale)
    down, across = (_matrix(size // scale, scale, mtf).to(image) for size in image.shape[-2:])
    return down @ image @ across.T


@lru_cache(maxsize=64)
def _matrix(coarse: int, scale: int, mtf: float) -> Tensor:
    rows = torch.from_numpy(weights(coarse, scale, mtf).copy())
    return rows / rows.sum(dim=1, keepdim=True)


def low_pass(image: Tensor, scale: int, form: Form = "fourier") -> Tensor:
    """Keep the frequencies that a grid `scale` times coarser can show, up to 1 / (2 scale) cycles per pixel.

    Args:
        image: Shape (..., H, W).
        scale: Fine pixels per coarse pixel.
        form: Edge of the mask: "fourier" sharp, the others soft with the half, or for "gaussian" exp(-1/2), at the cut.

    Returns:
        Same shape.
    """
    height, width = image.shape[-2:]
    rows = torch.fft.fftfreq(height, device=image.device)[:, None]
    cols = torch.fft.rfftfreq(width, device=image.device)[None, :]
    ratio = torch.sqrt(rows**2 + cols**2) * (2 * scale)
    if form == "fourier":
        mask = (ratio <= 1).to(image)
    elif form == "butterworth":
        mask = 1 / (1 + ratio ** (2 * _ORDER))
    elif form == "gaussian":
        mask = torch.exp(-(ratio**2) / 2)
    else:
        mask = torch.sigmoid(_SHARPNESS / scale * (1 - ratio))
    return torch.fft.irfft2(torch.fft.rfft2(image) * mask, s=(height, width))


def constraint_radius_px(form: Form, scale: int, mtf: float = MTF) -> int | None:
    """Return how many coarse pixels a constraint looks beyond a pixel's own; None for the whole image."""
    if form == "local":
        return 0
    return _STEPS * reach_px(scale, mtf) if form == "mtf" else None


class Constrained(nn.Module):
    """A network of super-resolution under the constraint.

    Both sides must be in the same units, as they are where one scaler serves both.

    Args:
        network: Of this package, or with its attributes, as many bands out as in.
        form: See `constrain`.
        mtf: See `constrain`.

    Raises:
        ValueError: If the form is unknown, or the bands of both sides differ.
    """

    def __init__(self, network: nn.Module, form: Form = "local", mtf: float = MTF) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise ValueError(f"Constrained: expected a form out of {get_args(Form)}, got {form!r}")
        self.in_channels, self.out_channels, self.scale = (
            int(getattr(network, name)) for name in ("in_channels", "out_channels", "scale")
        )
        if self.in_channels != self.out_channels:
            raise ValueError(
                f"Constrained: {type(network).__name__} reads {self.in_channels} bands and makes {self.out_channels}; "
                "the constraint compares band by band, so use it where both sides have the same bands"
            )
        self.network = network
        self.form: Form = form
        self.mtf = mtf

    @property
    def stride(self) -> int:
        """Pixels that a read origin must be a multiple of."""
        return int(getattr(self.network, "stride", 1))

    @property
    def receptive_radius_px(self) -> int | None:
        """Radius of what an output pixel depends on, in pixels of the image read; None where it has no bound."""
        own = constraint_radius_px(self.form, self.scale, self.mtf)
        within: int | None = getattr(self.network, "receptive_radius_px", None)
        return None if own is None or within is None else max(within, ENLARGED_RADIUS_PX) + own

    @property
    def head(self) -> nn.Module | None:
        """The network's output layer."""
        found: nn.Module | None = getattr(self.network, "head", None)
        return found

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Enlarge (B, C, h, w) to (B, C, s · h, s · w); `mask` is the validity, (B, 1, h, w)."""
        return self.constrain(self.network(low, mask=mask), low, mask)

    def constrain(self, image: Tensor, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Impose the constraint on any image of this shape."""
        return constrain(image, low, self.scale, self.form, mask, mtf=self.mtf)

    def enlarged(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what an untrained network makes: the enlargement, constrained."""
        base: Tensor = self.network.enlarged(low, mask)  # type: ignore[operator]
        return self.constrain(base, low, mask)
