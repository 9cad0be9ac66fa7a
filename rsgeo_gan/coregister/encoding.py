"""How values of a file become averageable, and values of the same file again after resampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rsgeo_gan.raster import RasterInfo
from rsgeo_gan.sensors import Sensor

__all__ = ["Form"]

_DARKEST = np.float32(1e-30)
_EXACT = {"int8", "uint8", "int16", "uint16", "float16", "float32"}


@dataclass(frozen=True)
class Form:
    """How values become averageable, and become values of the file again.

    Attributes:
        dtype: Data type of the file.
        nodata: Nodata of the result.
        hidden: Nodata that the file does not declare.
        masked: Whether the result gets a mask.
        gain: dB = raw · gain + bias, per band, when values are dB; else None.
        bias: See gain.
    """

    dtype: np.dtype[Any]
    nodata: float | None
    hidden: float | None
    masked: bool
    gain: NDArray[np.float32] | None
    bias: NDArray[np.float32]

    @classmethod
    def of(cls, info: RasterInfo, sensor: Sensor, classes: bool) -> Form:
        """Take the form from what a file says about itself and from the sensor, whose nodata is not that of classes."""
        dtype = np.dtype(info.dtype)
        hidden = None if classes or info.nodata is not None else sensor.nodata
        if hidden is not None and not _holds(dtype, hidden):
            hidden = None
        nodata = info.nodata if info.nodata is not None and _holds(dtype, info.nodata) else hidden
        if nodata is None and dtype.kind == "f":
            nodata = math.nan
        in_db = sensor.unit == "dB" and not classes
        gain = np.asarray(info.scales, np.float32)[:, None, None] if in_db else None
        bias = np.asarray(info.offsets, np.float32)[:, None, None]
        return cls(dtype, nodata, hidden, info.masked or nodata is None, gain, bias)

    @property
    def working(self) -> Literal["float32", "float64"]:
        """Precision that holds every value of the file."""
        return "float32" if self.dtype.name in _EXACT else "float64"

    def averageable(self, raw: np.ndarray) -> np.ndarray:
        """Raw values to what may be averaged: linear power for dB."""
        if self.gain is None:
            return raw
        return np.power(10, (raw * self.gain + self.bias) / 10)

    def encoded(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Averaged values, NaN where invalid, to values of the file and the validity of each band."""
        each = np.isfinite(values)
        if self.gain is not None:
            values = (10 * np.log10(np.maximum(values, _DARKEST)) - self.bias) / self.gain
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            # The largest 64-bit whole number is no float; the next smaller float is the most that can be stored.
            top = float(limits.max) if self.dtype.itemsize < 8 else float(np.nextafter(float(limits.max), 0))
            values = np.clip(np.rint(np.where(each, values, 0)), limits.min, top)
            stored = values.astype(self.dtype)
            if self.nodata is not None:
                kept = stored.dtype.type(self.nodata)
                stored[each & (stored == kept)] = kept + 1 if kept < limits.max else kept - 1
        else:
            stored = values.astype(self.dtype)
            if self.nodata is not None and not math.isnan(self.nodata):
                kept = self.dtype.type(self.nodata)
                stored[each & (stored == kept)] = np.nextafter(kept, self.dtype.type(0 if kept else 1))
        return self.filled(stored, each), each

    def filled(self, stored: np.ndarray, each: np.ndarray) -> np.ndarray:
        """Put nodata, or 0 where there is none, into invalid pixels."""
        if not each.all():
            stored[~each] = 0 if self.nodata is None else self.nodata
        return stored


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "f":
        return True
    limits = np.iinfo(dtype)
    return math.isfinite(value) and value == math.floor(value) and limits.min <= value <= limits.max
