"""Wraps a generator in the units of files: stored values in, physical values out, any size.

This is what is exported, so normalisation, nodata and padding travel with the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from rsgeo_gan.inference import Translator
from rsgeo_gan.sensors import POWER_FLOOR, Scaler, Sensor

__all__ = ["Physical", "StoredValues"]


@dataclass(frozen=True)
class StoredValues:
    """How the numbers in a raster become analysis units, and which of them mean nothing.

    Attributes:
        sensor: Name of the sensor.
        unit: Unit of the stored numbers: "dn", "reflectance", "linear", "dB" or "display".
        scale: Analysis = stored · scale + offset, unless the unit is linear power, whose analysis unit is dB.
        offset: See scale.
        nodata: Stored value that marks missing pixels; NaN always does.
    """

    sensor: str
    unit: str
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None

    @classmethod
    def of(cls, scaler: Scaler, sensor: Sensor | None, offset_dn: float = 0.0) -> StoredValues:
        """Describe the rasters of a sensor; without one, they hold the scaler's analysis units.

        Args:
            scaler: Scaler of the side that is read.
            sensor: Its sensor, where it is known.
            offset_dn: Radiometric offset of the rasters, added to stored digital numbers first; other units have none.
        """
        if sensor is None:
            return cls(scaler.sensor, scaler.unit)
        nodata = None if sensor.nodata is None or np.isnan(sensor.nodata) else float(sensor.nodata)
        offset = sensor.offset + (offset_dn * sensor.scale if sensor.unit == "dn" else 0.0)
        return cls(sensor.name, sensor.unit, sensor.scale, offset, nodata)

    def from_analysis(self, values: np.ndarray) -> np.ndarray:
        """Return what a raster would store, float32, nodata (else NaN) where `values` are NaN."""
        if self.unit == "linear":
            stored = np.power(10.0, values / 10)
        else:
            stored = (values.astype(np.float64) - self.offset) / self.scale
        if self.nodata is not None:
            stored = np.where(np.isnan(stored), self.nodata, stored)
        return stored.astype(np.float32)

    def sentence(self) -> str:
        """Say for people what is read."""
        shift = f" {self.offset:+g}" if self.offset else ""
        if self.unit == "dn":
            text = f"digital numbers of {self.sensor} (reflectance = DN · {self.scale:g}{shift})"
        elif self.unit == "linear":
            text = f"linear power of {self.sensor} (not dB)"
        else:
            text = f"{self.unit} values of {self.sensor}"
        return text if self.nodata is None else f"{text}, nodata {self.nodata:g}"


class Physical(nn.Module):
    """Stored values to physical values, (B, C, H, W) to (B, C', H, W), NaN where a pixel lacks a band.

    The forward pass is written so that `torch.export` keeps batch, height and width free: the size is brought to a
    multiple of the stride by index, as the networks themselves do by padding.

    Args:
        translator: The generator with frozen normalisation. A noise input stays zero: the answer is deterministic.
        stored: What the input holds.
    """

    gain: Tensor
    bias: Tensor
    out_gain: Tensor
    out_bias: Tensor

    def __init__(self, translator: Translator, stored: StoredValues) -> None:
        super().__init__()
        self.generator = translator.generator
        self.stride = translator.stride
        self.takes_mask = translator.takes_mask
        self.linear = stored.unit == "linear"
        self.nodata = stored.nodata
        source, target = translator.source_scaler, translator.target_scaler
        scale, offset = (1.0, 0.0) if self.linear else (stored.scale, stored.offset)
        for name, values in {
            "gain": source.gain * scale,
            "bias": source.bias + source.gain * offset,
            "out_gain": 1 / target.gain,
            "out_bias": -target.bias / target.gain,
        }.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32)[None, :, None, None])

    def forward(self, stored: Tensor) -> Tensor:
        """Translate stored values, float32."""
        height, width = stored.shape[-2:]
        given = ~torch.isnan(stored)
        if self.nodata is not None:
            # What has been divided and multiplied on its way here is not exactly nodata any more.
            given = given & ((stored - self.nodata).abs() > 1e-6 * max(1.0, abs(self.nodata)))
        valid = given.all(dim=1, keepdim=True)
        analysis = 10 * torch.log10(stored.clamp_min(POWER_FLOOR)) if self.linear else stored
        model = torch.where(valid, (analysis * self.gain + self.bias).clamp(-1, 1), 0.0)
        rows, columns = _reflected(height, self.stride), _reflected(width, self.stride)
        model = model.index_select(2, rows).index_select(3, columns)
        if self.takes_mask:
            mask = valid.to(model.dtype).index_select(2, rows).index_select(3, columns)
            answer = self.generator(model, mask=mask)
        else:
            answer = self.generator(model)
        answer = answer[..., :height, :width]
        return torch.where(valid, answer * self.out_gain + self.out_bias, float("nan"))


def _reflected(length: int, stride: int) -> Tensor:
    """Indexes that lengthen an axis to a multiple of the stride, reflected about its last pixel."""
    index = torch.arange(stride * ((length + stride - 1) // stride))
    return torch.where(index < length, index, 2 * (length - 1) - index)
