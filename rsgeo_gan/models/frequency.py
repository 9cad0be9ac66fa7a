"""Frequency shifts of images, and generators with side branches that live in shifted bands.

Convolutional generators meet low spatial frequencies better than high ones. A shift moves the band that a network
finds easy to somewhere else; every shift is a carrier wave anchored to the pixel grid of the raster, not to the tile.

Reference: Khayatkhoei and Elgammal, 2022, arXiv:2010.01473 (FSG).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models.synthesis import SynthesisGenerator

__all__ = ["FrequencyShifted", "from_ground", "shift_frequency", "swap_spectrum"]

REFERENCE_FREQUENCIES = ((1 / 16, 0.0), (0.0, 1 / 16), (1 / 16, 1 / 16), (-1 / 16, 1 / 16))
"""Of the published branches, cycles per pixel; a half-plane, because a real image holds f and -f together."""


def from_ground(wavelength_m: float, gsd_m: float, direction_deg: float = 0.0) -> tuple[float, float]:
    """Return the frequency (fx, fy) in cycles per pixel of a wave on the ground.

    Args:
        wavelength_m: Crest to crest, metres on the ground.
        gsd_m: Size of a pixel, metres.
        direction_deg: In which the wave runs: 0 along the columns of pixels, 90 along the rows, downwards.

    Raises:
        ValueError: If the wave is shorter than two pixels along either axis, or a length is not positive.
    """
    if not wavelength_m > 0 or not gsd_m > 0:
        raise ValueError(f"from_ground: expected lengths above 0, got wavelength {wavelength_m} m and GSD {gsd_m} m")
    angle = math.radians(direction_deg)
    found = tuple(round(gsd_m / wavelength_m * part, 12) for part in (math.cos(angle), math.sin(angle)))
    if max(map(abs, found)) > 0.5:
        raise ValueError(
            f"from_ground: a wave of {wavelength_m:g} m needs pixels of at most {wavelength_m / 2:g} m, got a GSD of "
            f"{gsd_m:g} m; choose a longer wave"
        )
    return found[0], found[1]


def shift_frequency(
    real: Tensor,
    imaginary: Tensor,
    frequency: Sequence[float],
    origin_px: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Multiply a complex image by the carrier e^{iθ}, θ = 2π (fx · column + fy · row).

    The spectrum moves by (fx, fy): on N x N pixels by exactly (N fx, N fy) bins, if these are whole.

    Args:
        real: Real part, shape (B, C, H, W).
        imaginary: Imaginary part, same shape.
        frequency: (fx, fy) in cycles per pixel, within [-0.5, 0.5]; fx along columns, fy along rows.
        origin_px: Column and row of each tile on its grid, integers of shape (B, 2); 0, 0 if not given.
        mask: Validity, shape (B, 1, H, W), applied after the shift; what lies under 0 becomes 0, even when not finite.

    Returns:
        Real and imaginary part.

    Raises:
        ValueError: If the frequency is beyond Nyquist, or shapes do not fit.
    """
    if real.ndim != 4 or real.shape != imaginary.shape:
        raise ValueError(
            "shift_frequency: expected a real and an imaginary part (B, C, H, W), got "
            f"{tuple(real.shape)} and {tuple(imaginary.shape)}"
        )
    (wave,) = _checked([frequency])
    cosine, sine = (part[:, 0, None] for part in _carriers([wave], real, origin_px))
    parts = real * cosine - imaginary * sine, real * sine + imaginary * cosine
    return parts if mask is None else (_keep(parts[0], mask), _keep(parts[1], mask))


def swap_spectrum(x: Tensor, origin_px: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Exchange low and high frequencies: multiply by (-1)^(column + row) on the pixel grid of the raster.

    Real to real, and its own inverse. A crop, flip or rotation after it changes the sign of the wave: augment first.

    Args:
        x: Shape (B, C, H, W).
        origin_px: As in `shift_frequency`.
        mask: As in `shift_frequency`.

    Returns:
        Same shape and dtype.

    Raises:
        ValueError: If the origins have another shape.
    """
    columns, rows = _positions(x, origin_px)
    sign = 1 - 2 * ((rows + columns) % 2)  # (B or 1, H, W)
    swapped = x * sign[:, None].to(x.dtype)
    return swapped if mask is None else _keep(swapped, mask)


class FrequencyShifted(SynthesisGenerator):
    """A generator plus side branches, each of which fills the band around its own frequency.

    x̂ = g(z) + Σ_q Re((a_q + i b_q) e^{iθ_q}). A branch reads the base's features at `tap`: upsampling, 5 x 5
    convolution to `width` channels, a 1 x 1 head with a real and an imaginary part for every band, upsampling. Every
    branch has its own weights. Heads begin at zero, so training begins at the base. Real images are not shifted and
    the discriminator is an ordinary one.

    The published form is `upsample="nearest"`, `activation="tanh"`, `norm="batch"`. By default resampling is bilinear,
    as nearest repeats a band in combs, and branches are linear, but do not carry a pixel out of [-1, 1].

    What the base has beyond a generator, such as `style` or `truncate`, this network has too.

    Args:
        base: Any generator.
        frequencies: (fx, fy) of every branch, cycles per pixel; `REFERENCE_FREQUENCIES` if neither these nor
            `frequencies_per_m` are given.
        frequencies_per_m: The same on the ground, cycles per metre, with `gsd_m`.
        gsd_m: Size of a pixel, metres.
        tap: Features of the base that branches read; by default those at a quarter of the image's size.
        width: Channels of a branch.
        shift: False leaves the branches where they are, θ = 0: the control of equal capacity.
        upsample: Resampling in branches.
        activation: Of the heads.
        norm: After the 5 x 5 convolution.

    Raises:
        ValueError: If a frequency is beyond Nyquist or given twice (f and -f are one), frequencies are given in both
            units, the tap does not exist, or the base has branches itself.
    """

    def __init__(
        self,
        base: SynthesisGenerator,
        frequencies: Sequence[Sequence[float]] | None = None,
        frequencies_per_m: Sequence[Sequence[float]] | None = None,
        gsd_m: float | None = None,
        tap: str | None = None,
        width: int = 64,
        *,
        shift: bool = True,
        upsample: Literal["bilinear", "nearest"] = "bilinear",
        activation: Literal["linear", "tanh"] = "linear",
        norm: Literal["none", "batch"] = "none",
    ) -> None:
        if isinstance(base, FrequencyShifted):
            raise ValueError("FrequencyShifted: the base has branches already; give all frequencies to one network")
        super().__init__(base.out_channels, base.size_px, base.latent_dim, base.condition_dim, base.prior)
        self.base = base
        self.tap_channels = base.tap_channels
        self.frequencies = _chosen(frequencies, frequencies_per_m, gsd_m)
        self.gsd_m = gsd_m
        self.shift = shift
        self.upsample = upsample
        self.activation = activation
        self.tap = f"b{base.size_px // 4}" if tap is None else tap
        if self.tap not in self.taps:
            raise ValueError(f"FrequencyShifted: the base has no tap {self.tap!r}; choose from {self.taps}")
        count = len(self.frequencies)
        conv = nn.Conv2d(self.tap_channels[self.tap], count * width, 5, padding=2, padding_mode="replicate")
        self.trunk = nn.Sequential(conv, nn.BatchNorm2d(count * width) if norm == "batch" else nn.Identity(), nn.ReLU())
        self.heads = nn.Conv2d(count * width, count * 2 * base.out_channels, 1, groups=count)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        for start in (conv.bias, self.heads.weight, self.heads.bias):
            if start is not None:
                nn.init.zeros_(start)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base" or name.startswith("_"):
                raise
            return getattr(super().__getattr__("base"), name)

    def forward_features(
        self,
        z: Tensor,
        condition: Tensor | None = None,
        taps: Sequence[str] = (),
        origin_px: Tensor | None = None,
        **options: Any,
    ) -> dict[str, Tensor]:
        """Compute the base's features, and under private keys what `forward_head` needs.

        Args:
            z: As the base takes it.
            condition: As the base takes it.
            taps: Names out of `taps`.
            origin_px: Column and row of each image on its grid, integers of shape (B, 2): tiles of one raster fit
                together; 0, 0 if not given.
            options: For the base, such as `styles`.

        Raises:
            ValueError: If a tap does not exist, or the base refuses its input.
        """
        wanted = tuple(dict.fromkeys((*taps, self.tap)))
        features = self.base.forward_features(z, condition, wanted, origin_px, **options)
        features["_branches"] = self._shifted(features[self.tap], origin_px)
        if self.tap not in taps:
            del features[self.tap]
        return features

    def forward_head(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the base's image plus the branches'."""
        image = self.base.forward_head(features)
        total = image + features["_branches"]
        if self.activation == "tanh":
            return total
        # A base that leaves the domain by itself keeps what it says.
        low, high = image.detach().clamp_max(-1.0), image.detach().clamp_min(1.0)
        return torch.where(total < low, low, torch.where(total > high, high, total))

    def _shifted(self, x: Tensor, origin_px: Tensor | None) -> Tensor:
        """Sum of the branches in the image's own bands, (B, C, H, W)."""
        if x.shape[-1] < self.size_px // 2:
            x = self._resize(x, self.size_px // 2)
        parts = self.heads(self.trunk(x))  # (B, Q * 2C, h, w)
        if self.activation == "tanh":
            parts = parts.tanh()
        parts = self._resize(parts, self.size_px)
        parts = parts.to(torch.promote_types(parts.dtype, torch.float32))
        waves = self.frequencies if self.shift else ((0.0, 0.0),) * len(self.frequencies)
        cosine, sine = _carriers(waves, parts, origin_px)  # (B or 1, Q, H, W)
        whole = parts.reshape(len(parts), len(waves), 2, self.out_channels, *parts.shape[-2:])
        real, imaginary = whole.unbind(2)  # (B, Q, C, H, W)
        return (real * cosine[:, :, None] - imaginary * sine[:, :, None]).sum(dim=1)

    def _resize(self, x: Tensor, size: int) -> Tensor:
        if x.shape[-1] == size:
            return x
        corners = None if self.upsample == "nearest" else False
        return F.interpolate(x, size=(size, size), mode=self.upsample, align_corners=corners)


def _chosen(
    per_pixel: Sequence[Sequence[float]] | None, per_m: Sequence[Sequence[float]] | None, gsd_m: float | None
) -> tuple[tuple[float, float], ...]:
    """Frequencies in cycles per pixel."""
    if per_m is None:
        if gsd_m is not None:
            raise ValueError("FrequencyShifted: gsd_m belongs to frequencies_per_m, which is missing")
        return _checked(REFERENCE_FREQUENCIES if per_pixel is None else per_pixel)
    if per_pixel is not None or gsd_m is None or not gsd_m > 0:
        raise ValueError(
            "FrequencyShifted: expected either frequencies in cycles per pixel, or frequencies_per_m together with a "
            f"gsd_m above 0; got frequencies {per_pixel}, frequencies_per_m {per_m}, gsd_m {gsd_m}"
        )
    return _checked([[part * gsd_m for part in wave] for wave in per_m])


def _checked(frequencies: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """Pairs within Nyquist, no two of which are the same band."""
    if not frequencies:
        raise ValueError("Frequency shift: expected at least one frequency (fx, fy), got none")
    for wave in frequencies:
        if len(wave) != 2 or not all(abs(part) <= 0.5 + 1e-9 for part in wave):
            raise ValueError(
                "Frequency shift: expected frequencies (fx, fy) within [-0.5, 0.5] cycles per pixel, got "
                f"{list(wave)}; radians and bins need a conversion, waves below two pixels a finer grid"
            )
    pairs = tuple((float(fx), float(fy)) for fx, fy in frequencies)
    for k, wave in enumerate(pairs):
        for other in pairs[:k]:
            if any(
                all(abs(d - round(d)) < 1e-9 for d in (wave[0] - s * other[0], wave[1] - s * other[1])) for s in (1, -1)
            ):
                raise ValueError(
                    f"Frequency shift: {list(wave)} and {list(other)} are one band of a real image; leave one out"
                )
    return pairs


def _positions(x: Tensor, origin_px: Tensor | None) -> tuple[Tensor, Tensor]:
    """Columns (B or 1, 1, W) and rows (B or 1, H, 1) on the grid, int64."""
    if origin_px is None:
        origin_px = torch.zeros(1, 2, dtype=torch.int64, device=x.device)
    elif origin_px.shape != (len(x), 2) or origin_px.is_floating_point():
        raise ValueError(
            f"Frequency shift: expected origin_px as integers (column, row) of shape ({len(x)}, 2), got "
            f"{origin_px.dtype} of {tuple(origin_px.shape)}"
        )
    origin = origin_px.to(x.device, torch.int64)
    columns = origin[:, 0, None, None] + torch.arange(x.shape[-1], device=x.device)
    rows = origin[:, 1, None, None] + torch.arange(x.shape[-2], device=x.device)[:, None]
    return columns, rows


def _carriers(frequencies: Sequence[tuple[float, float]], x: Tensor, origin_px: Tensor | None) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every wave at every pixel, each (B or 1, Q, H, W), in x's dtype but float32 at least."""
    columns, rows = _positions(x, origin_px)
    waves = torch.tensor(frequencies, dtype=torch.float64, device=x.device)[:, :, None, None]
    # Whole turns are dropped in float64: rasters are larger than float32 counts turns well.
    turns = (waves[:, 0] * columns[:, None]).remainder(1) + (waves[:, 1] * rows[:, None]).remainder(1)
    angle = (2 * math.pi * turns).to(torch.promote_types(x.dtype, torch.float32))
    return angle.cos(), angle.sin()


def _keep(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask > 0, x, x.new_zeros(()))
