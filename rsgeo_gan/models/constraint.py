"""A hard constraint of low frequencies: what the sensor measured is kept, the network adds only what it could not see.

Reference: Aybar et al., 2026, SEN2SR: low frequencies of the interpolated measurement, high ones of the network. The
default here works per coarse pixel instead, where it is exact and knows no window.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from rsgeo_gan.models.sampling import FILL_PX, UP_PX, coarsen, fill, repeat_up, upsample
from rsgeo_gan.optics import MTF, reach_px

__all__ = ["Constrained", "Form", "constrain", "constraint_radius_px", "low_pass"]

Form = Literal["local", "mtf", "fourier", "butterworth", "gaussian", "sigmoid"]
_STEPS = 3
"""Rounds of back-projection of the `mtf` form."""
_ORDER = 4
"""Of the Butterworth mask."""
_EDGE = 0.05
"""Width of the sigmoid mask's edge, as a part of its radius."""


def constrain(
    image: Tensor,
    low: Tensor,
    scale: int,
    form: Form = "local",
    mask: Tensor | None = None,
    mtf: float | None = MTF,
) -> Tensor:
    """Bring the low frequencies of a refined image to those of the measurement.

    "local": every square of `scale` by `scale` pixels is shifted to the mean its coarse pixel has: exact, and the
    same in every window. "mtf": the image as the sensor would see it, see `coarsen`, is brought towards the
    measurement in a few rounds of back-projection, smoothly across pixels: approximate. "fourier": frequencies
    below the coarse grid's Nyquist frequency are those of the interpolated measurement; "butterworth", "gaussian" and
    "sigmoid" blend softly around it. These look at the whole image, so that windows of a scene do not fit.

    Args:
        image: Refined image, shape (B, C, s h, s w), model domain.
        low: Measurement of the same bands, shape (B, C, h, w), in the same domain.
        scale: s.
        form: Which constraint.
        mask: Validity of the measurement, shape (B, 1, h, w); nothing is corrected where it is 0, except by the
            Fourier forms, for which gaps are filled.
        mtf: Transfer at Nyquist, of the `mtf` form; plain means when None.

    Returns:
        Image, shape and dtype of `image`, not clipped.

    Raises:
        ValueError: If the shapes do not fit the scale, or the form is unknown.
    """
    if form not in get_args(Form):
        raise ValueError(f"constrain: unknown form {form!r}; choose from {get_args(Form)}")
    b, c, h, w = low.shape
    if image.shape != (b, c, scale * h, scale * w):
        raise ValueError(
            f"constrain: expected an image {(b, c, scale * h, scale * w)} for a measurement {tuple(low.shape)} at "
            f"scale {scale}, got {tuple(image.shape)}"
        )
    wide = image.to(torch.promote_types(image.dtype, torch.float32))
    known = fill(low, mask).to(wide)
    if form == "local":
        wide = wide + repeat_up(_where(known - coarsen(wide, scale), mask), scale)
    elif form == "mtf":
        for _ in range(_STEPS):
            wide = wide + upsample(_where(known - _seen(wide, scale, mtf, mask), mask), scale)
    else:
        wide = wide + low_pass(upsample(known, scale) - wide, scale, form)
    return wide.to(image.dtype)


def constraint_radius_px(form: Form, scale: int, mtf: float | None = MTF) -> int | None:
    """Coarse pixels that a constraint looks beyond a pixel's own; None for the whole image."""
    if form == "local":
        return 0
    return _STEPS * (UP_PX + reach_px(scale, mtf)) + FILL_PX if form == "mtf" else None


def low_pass(image: Tensor, scale: int, form: Form = "fourier") -> Tensor:
    """Keep what is below the Nyquist frequency of a grid `scale` times coarser, in all directions.

    Args:
        image: Shape (B, C, H, W), taken as periodic.
        scale: Pixels of the image per pixel of the coarser grid.
        form: "fourier" cuts, the others leave one half at that frequency.

    Returns:
        Shape of `image`.
    """
    height, width = image.shape[-2:]
    weight = _response(height, width, scale, form, image.dtype, image.device)
    return torch.fft.irfft2(torch.fft.rfft2(image) * weight, s=(height, width))


@cache
def _response(height: int, width: int, scale: int, form: Form, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Mask of the spectrum by its distance from the cut-off, shape (H, W // 2 + 1)."""
    # What is made in inference mode could not be learned through later.
    with torch.inference_mode(False):
        rows, cols = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
        ratio = torch.hypot(rows[:, None], cols) * 2 * scale
        if form == "fourier":
            passed = (ratio <= 1).double()
        elif form == "butterworth":
            passed = 1 / (1 + ratio ** (2 * _ORDER))
        elif form == "gaussian":
            passed = 0.5 ** (ratio**2)
        else:
            passed = torch.sigmoid((1 - ratio) / _EDGE)
        return passed.to(device, dtype)


def _seen(image: Tensor, scale: int, mtf: float | None, mask: Tensor | None) -> Tensor:
    """Show an image as the sensor would that made the measurement, which lets invalid pixels have no weight."""
    if mask is None:
        return coarsen(image, scale, mtf)
    fine = repeat_up((mask > 0).to(image), scale)
    return coarsen(image * fine, scale, mtf) / coarsen(fine, scale, mtf).clamp_min(1e-6)


def _where(residual: Tensor, mask: Tensor | None) -> Tensor:
    return residual if mask is None else torch.where(mask > 0, residual, residual.new_zeros(()))


class Constrained(nn.Module):
    """A super-resolution network under the constraint.

    Both sides must be in the same units, as they are where one scaler serves both.

    Args:
        network: Any network of `rsgeo_gan.models` that refines an image without a reference.
        form: See `constrain`.
        mtf: Transfer at Nyquist, of the `mtf` form; plain means when None.

    Attributes:
        receptive_radius_px: Of the network and the constraint, input pixels; None where windows do not fit.
    """

    stride = 1

    def __init__(self, network: nn.Module, form: Form = "local", mtf: float | None = MTF) -> None:
        super().__init__()
        if form not in get_args(Form):
            raise ValueError(f"Constrained: unknown form {form!r}; choose from {get_args(Form)}")
        self.network: Any = network
        self.form: Form = form
        self.mtf = mtf
        if "reference" in inspect.signature(network.forward).parameters:
            raise ValueError(
                f"Constrained: {type(network).__name__} takes references and has a constraint of its own; give it form"
            )

    @property
    def in_channels(self) -> int:
        """Bands of the input."""
        return int(self.network.in_channels)

    @property
    def out_channels(self) -> int:
        """Bands of the output."""
        return int(self.network.out_channels)

    @property
    def scale(self) -> int:
        """Output pixels per input pixel."""
        return int(self.network.scale)

    @property
    def receptive_radius_px(self) -> int | None:
        """See the class."""
        inner: int | None = self.network.receptive_radius_px
        own = constraint_radius_px(self.form, self.scale, self.mtf)
        return None if inner is None or own is None else inner + own

    def forward(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Refine (B, C, h, w) to (B, C', s h, s w); `mask` is the validity, (B, 1, h, w)."""
        return self.constrain(self.network(low, mask=mask), low, mask)

    @property
    def head(self) -> nn.Module | None:
        """The network's output layer."""
        found: nn.Module | None = getattr(self.network, "head", None)
        return found

    def enlarged(self, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the details are added to, see `SuperResolver.enlarged`, under the constraint."""
        return self.constrain(self.network.enlarged(low, mask), low, mask)

    def constrain(self, image: Tensor, low: Tensor, mask: Tensor | None = None) -> Tensor:
        """Impose the constraint on any image of the output's shape."""
        return constrain(image, low[:, list(self.network.bands)], self.scale, self.form, mask, self.mtf)
