"""How model values become the numbers of a product file, by the unit of the sensor they imitate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsgeo_gan.sensors import Scaler, Sensor

__all__ = ["Encoding"]


@dataclass(frozen=True)
class Encoding:
    """How model values become the numbers of a product file.

    Attributes:
        dtype: NumPy name of the file's data type.
        nodata: Declared nodata, or None where only the mask tells.
        unit: Unit of the analysis values.
        scale: Analysis = raw · scale + offset.
        offset: See scale.
        names: Band names.
        gain: Raw per model unit, shape (C, 1, 1).
        bias: Raw at model 0, shape (C, 1, 1).
        limits: Smallest and largest raw value of a valid pixel.
    """

    dtype: str
    nodata: float | None
    unit: str
    scale: float
    offset: float
    names: tuple[str, ...]
    gain: np.ndarray
    bias: np.ndarray
    limits: tuple[float, float]

    @classmethod
    def of(cls, scaler: Scaler, sensor: Sensor | None = None) -> Encoding:
        """Choose how products of a scaler's sensor are stored.

        Reflectance becomes uint16 DN with scale and offset tags and nodata 0, as optical products are
        delivered; dB becomes float32 with nodata NaN; display values stay uint8 (uint16 where their range
        is larger) and rely on the mask, since 0 is one of their values.

        Args:
            scaler: Model units to analysis units.
            sensor: The sensor, where it is registered; one that delivers float reflectance gets float32.
        """
        if scaler.unit == "reflectance" and (sensor is None or sensor.unit == "dn"):
            scale, offset = (sensor.scale, sensor.offset) if sensor is not None else (1e-4, 0.0)
            kind: tuple[str, float | None, tuple[float, float]] = ("uint16", 0.0, (1.0, 65535.0))
        elif scaler.unit == "display":
            top = 255 if max(scaler.high) <= 255 else 65535
            scale, offset, kind = 1.0, 0.0, ("uint8" if top == 255 else "uint16", None, (0.0, float(top)))
        else:
            scale, offset, kind = 1.0, 0.0, ("float32", float("nan"), (-np.inf, np.inf))
        per_model = 1 / scaler.gain
        at_zero = -scaler.bias / scaler.gain
        return cls(
            *kind[:2],
            scaler.unit,
            scale,
            offset,
            scaler.bands,
            (per_model / scale).astype(np.float32)[:, None, None],
            ((at_zero - offset) / scale).astype(np.float32)[:, None, None],
            kind[2],
        )

    def __call__(self, model: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """Encode a strip; `model` is used up.

        Args:
            model: float32, shape (C, h, W), in [-1, 1].
            valid: Validity, shape (h, W).

        Returns:
            Raw values of shape (C, h, W) in the file's data type, nodata where invalid.
        """
        model *= self.gain
        model += self.bias
        if np.dtype(self.dtype).kind == "u":
            np.rint(model, out=model)
            np.clip(model, *self.limits, out=model)
        fill = 0.0 if self.nodata is None else self.nodata
        if not valid.all():
            np.copyto(model, np.float32(fill), where=~valid)
        return model.astype(self.dtype, copy=False)
