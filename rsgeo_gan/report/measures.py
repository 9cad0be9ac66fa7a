"""Names, units and meaning of the scores in a report, and how they are gathered over tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rsgeo_gan.metrics import (
    amplitude_distance,
    enl_map,
    multilook_score,
    radial_psd,
    shift_tolerant_psnr,
    shift_tolerant_ssim,
)

__all__ = ["DATA_RANGE", "LOOKS_PX", "MEASURES", "Measure", "Tally"]

LOOKS_PX = 7
"""Side of the blocks that are averaged before two speckled images are compared."""

DATA_RANGE = {"dB": 30.0, "reflectance": 1.0, "display": 255.0}
"""Span of values that PSNR and SSIM refer to, by analysis unit."""

_SPECTRUM_PX = (64, 32)
_ENOUGH_SPECTRA = 8
_PIXELS_PER_TILE = 20_000
_HOMOGENEOUS_QUANTILE = 0.9
_SPECTRUM_FLOOR = {"dB": 1e-4, "reflectance": 1e-10, "display": 1e-4}


@dataclass(frozen=True)
class Measure:
    """One column of a score table.

    Attributes:
        key: Name in `scores.json`.
        label: Heading.
        digits: Decimals shown.
        better: Which way is better; "real" means closer to the value of the real image.
        meaning: One sentence for the reader.
    """

    key: str
    label: str
    digits: int
    better: Literal["higher", "lower", "real"]
    meaning: str


MEASURES: tuple[Measure, ...] = (
    Measure(
        "correlation_multilook",
        "Correlation 7×7",
        3,
        "higher",
        "Pearson correlation after averaging 7×7 pixels (SAR: in linear power, then compared in dB).",
    ),
    Measure("ssim_multilook", "SSIM 7×7", 3, "higher", "Structural similarity of the same averages."),
    Measure(
        "spectrum_db",
        "Spectrum, dB",
        2,
        "lower",
        "Log-spectral distance: how far the radial power spectra of generated and real tiles are apart.",
    ),
    Measure(
        "amplitude_ks",
        "Distribution KS",
        3,
        "lower",
        "Kolmogorov–Smirnov distance of the distributions of values, 0 (equal) to 1.",
    ),
    Measure(
        "amplitude_wasserstein",
        "Distribution W1",
        3,
        "lower",
        "Wasserstein-1 distance of the same distributions, in the unit of the values.",
    ),
    Measure(
        "psnr_tolerant",
        "PSNR, shift-tolerant",
        2,
        "higher",
        "PSNR in dB at the best whole-pixel shift within the radius, band means removed.",
    ),
    Measure("ssim_tolerant", "SSIM, shift-tolerant", 3, "higher", "Structural similarity at that shift."),
    Measure(
        "psnr",
        "PSNR, raw",
        2,
        "higher",
        "Plain PSNR in dB. With speckle in the target a constant image does well here: shown, not judged by.",
    ),
    Measure(
        "enl",
        "ENL",
        1,
        "real",
        "Equivalent number of looks of homogeneous areas (upper decile of 7×7 windows); SAR in dB only.",
    ),
)


@dataclass
class Tally:
    """Scores of one kind of image against the real one, gathered tile by tile.

    Attributes:
        unit: Analysis unit: "dB", "reflectance" or "display".
        bands: Band names.
        radius_px: Largest shift forgiven, pixels.
        tiles: Number of tiles added.
    """

    unit: str
    bands: tuple[str, ...]
    radius_px: int
    tiles: int = 0
    _scores: dict[str, list[float]] = field(default_factory=dict)
    _shifts: list[tuple[float, float]] = field(default_factory=list)
    _spectra: dict[int, tuple[list[Tensor], list[Tensor]]] = field(default_factory=dict)
    _values: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))

    def add(self, made: np.ndarray, real: np.ndarray) -> None:
        """Compare one tile.

        Args:
            made: Analysis units, shape (C, H, W), float32, NaN where invalid.
            real: Same shape and units.
        """
        valid = np.isfinite(made).all(axis=0) & np.isfinite(real).all(axis=0)
        if not valid.any():
            return
        self.tiles += 1
        x, y = (torch.from_numpy(np.where(valid, image, 0).astype(np.float32))[None] for image in (made, real))
        mask = torch.from_numpy(valid.astype(np.float32))[None, None]
        span = DATA_RANGE[self.unit]
        radius = min(self.radius_px, (min(valid.shape) - 12) // 2)
        if radius >= 0:
            tolerant = shift_tolerant_psnr(x, y, span, radius, mask)
            self._keep("psnr_tolerant", tolerant.value)
            if not torch.isnan(tolerant.value).any():
                self._shifts.append((float(tolerant.shift[0, 0]), float(tolerant.shift[0, 1])))
            self._keep("ssim_tolerant", shift_tolerant_ssim(x, y, span, radius, mask).value)
        self._keep("psnr", shift_tolerant_psnr(x, y, span, 0, mask, remove_bias=False).value)
        if min(valid.shape) >= LOOKS_PX:
            physical = self.unit == "dB"
            mine, theirs = (10 ** (image / 10) if physical else image.clamp_min(0) for image in (x, y))
            looked = multilook_score(mine, theirs, span, LOOKS_PX, mask, scale="dB" if physical else "linear")
            # A constant image correlates with nothing; rounding in its averages would say otherwise.
            flat = np.ptp(made[:, valid], axis=1).max() == 0
            self._keep("correlation_multilook", looked.correlation * (0.0 if flat else 1.0))
            self._keep("ssim_multilook", looked.ssim)
            if physical:
                for key, image in (("enl", mine), ("enl_real", theirs)):
                    looks = enl_map(image, LOOKS_PX, mask)
                    looks = looks[torch.isfinite(looks)]
                    if looks.numel():
                        self._keep(key, torch.quantile(looks, _HOMOGENEOUS_QUANTILE))
        self._add_spectra(x, y, valid)
        self._add_values(x, y, valid)

    def extend(self, other: Tally) -> None:
        """Take over what another tally of the same unit and bands has gathered."""
        self.tiles += other.tiles
        self._shifts += other._shifts
        for key, scores in other._scores.items():
            self._scores.setdefault(key, []).extend(scores)
        for side, spectra in other._spectra.items():
            for mine, theirs in zip(self._spectra.setdefault(side, ([], [])), spectra, strict=True):
                mine.extend(theirs)
        for values, more in zip(self._values, other._values, strict=True):
            values.extend(more)

    def summary(self) -> dict[str, Any]:
        """Return the means over tiles by measure, and the mean best shift; plain JSON types, None for unknown."""
        result: dict[str, Any] = {key: _mean(scores) for key, scores in self._scores.items()}
        pooled = [self._pooled(which) for which in (0, 1)]
        if all(side.numel() for side in pooled):
            apart = [amplitude_distance(a, b) for a, b in zip(*pooled, strict=True)]
            result["amplitude_ks"] = _mean([float(d.ks) for d in apart])
            result["amplitude_wasserstein"] = _mean([float(d.wasserstein) for d in apart])
        _, made, real = self.spectra()
        if len(made):
            apart_db = 10 * np.log10(made / real)
            result["spectrum_db"] = float(np.sqrt((apart_db**2).mean(axis=1)).mean())
        if self._shifts:
            result["shift_px"] = [round(float(value), 3) for value in np.mean(self._shifts, axis=0)]
        return result

    def spectra(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return frequencies (cycles per pixel) and the mean radial spectra of made and real, shape (C, N)."""
        if not self._spectra:
            nothing = np.empty((0, 0))
            return np.empty(0), nothing, nothing
        # Large windows show more scales; small ones find room between clouds.
        counts = {size: len(made) for size, (made, _) in self._spectra.items()}
        side = max(counts, key=lambda size: (min(counts[size], _ENOUGH_SPECTRA), size))
        mine, theirs = (torch.stack(part).mean(dim=0).numpy() for part in self._spectra[side])
        floor = _SPECTRUM_FLOOR[self.unit]
        return np.arange(1, side // 2 + 1) / side, np.maximum(mine, floor), np.maximum(theirs, floor)

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a sample of the values of made and real, shape (C, n) each."""
        return self._pooled(0).numpy(), self._pooled(1).numpy()

    def _keep(self, key: str, value: Tensor) -> None:
        number = float(value)
        if np.isfinite(number):
            self._scores.setdefault(key, []).append(number)

    def _add_spectra(self, x: Tensor, y: Tensor, valid: np.ndarray) -> None:
        for side in _SPECTRUM_PX:
            for row in range(0, valid.shape[0] - side + 1, side):
                for column in range(0, valid.shape[1] - side + 1, side):
                    window = np.s_[row : row + side, column : column + side]
                    if valid[window].all():
                        mine = self._spectra.setdefault(side, ([], []))
                        for part, image in zip(mine, (x, y), strict=True):
                            part.append(radial_psd(image[..., window[0], window[1]])[0])

    def _add_values(self, x: Tensor, y: Tensor, valid: np.ndarray) -> None:
        where = np.flatnonzero(valid)
        # Every n-th valid pixel: the same ones in every run.
        chosen = torch.from_numpy(where[:: max(1, len(where) // _PIXELS_PER_TILE)])
        for part, image in zip(self._values, (x, y), strict=True):
            part.append(image[0].flatten(1)[:, chosen])

    def _pooled(self, which: int) -> Tensor:
        values = self._values[which]
        return torch.cat(values, dim=1) if values else torch.empty((len(self.bands), 0))


def _mean(numbers: Sequence[float]) -> float | None:
    return round(float(np.mean(numbers)), 6) if len(numbers) else None
