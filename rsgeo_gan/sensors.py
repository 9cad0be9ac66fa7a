"""Facts of an instrument: bands, units, nodata, valid range, and the way to model units and back.

Three domains, always named:

* *raw*: the numbers in the file (DN, linear power, dB or display values);
* *analysis*: reflectance for optical, dB for SAR, display values where nothing else is known;
* *model*: [-1, 1], by a `Scaler` fitted on the training split.

SAR is averaged and resampled in linear power, whatever unit the file has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from rsgeo_gan.errors import SourceError

__all__ = ["SENSORS", "Band", "Scaler", "Sensor", "get_sensor"]

Modality = Literal["optical", "sar"]
Quantity = Literal["reflectance", "gamma0", "sigma0", "display"]
Unit = Literal["dn", "reflectance", "linear", "dB", "display"]

POWER_FLOOR = 1e-5
"""Linear backscatter below this (-50 dB) is noise; it keeps the logarithm finite."""

_QUANTITY_SYMBOL = {"gamma0": "γ⁰", "sigma0": "σ⁰"}


@dataclass(frozen=True)
class Band:
    """One band: its name in files, its ground sampling distance in metres, its common name in STAC."""

    name: str
    gsd_m: float
    common_name: str = ""


@dataclass(frozen=True)
class Sensor:
    """What is known about a product before any pixel is read.

    Attributes:
        name: Registered name.
        modality: "optical" or "sar"; the optical side is the geometric reference of a pair.
        quantity: What is measured; "display" means stretched values without physical unit.
        unit: Unit of the numbers in the file.
        bands: All bands, in file order.
        scale: Analysis = raw · scale + offset, for optical DN; 1 elsewhere.
        offset: See scale. A scene's own offset (`rsgeo:offset_dn`) is added to raw first.
        nodata: Value that marks missing pixels when the file does not say; None for none.
        valid_range: Plausible values in analysis units; used by the unit check, not to clip.
    """

    name: str
    modality: Modality
    quantity: Quantity
    unit: Unit
    bands: tuple[Band, ...]
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    valid_range: tuple[float, float] = (float("-inf"), float("inf"))

    @property
    def analysis_unit(self) -> Literal["reflectance", "dB", "display"]:
        """Unit of tiles, products and scores."""
        if self.quantity == "display":
            return "display"
        return "dB" if self.modality == "sar" else "reflectance"

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of all bands, in file order."""
        return tuple(band.name for band in self.bands)

    @property
    def physical(self) -> bool:
        """Whether values carry a physical unit, so that dB, ENL and reflectance arithmetic are allowed."""
        return self.quantity != "display"

    def index(self, name: str) -> int:
        """Return the position of a band, counted from 0; letter case does not matter.

        Raises:
            SourceError: If the sensor has no such band.
        """
        wanted = name.lower()
        for position, band in enumerate(self.bands):
            if wanted in (band.name.lower(), band.common_name.lower()):
                return position
        raise SourceError(
            f"Sensor {self.name} has no band {name!r}; it has {', '.join(self.band_names)}. "
            "Correct `bands` in the catalogue."
        )

    def select(self, names: Sequence[str] | None) -> Sensor:
        """Return the sensor reduced to the named bands, in that order; all bands when None."""
        if names is None:
            return self
        return replace(self, bands=tuple(self.bands[self.index(name)] for name in names))

    def to_linear(self, raw: np.ndarray) -> np.ndarray:
        """Bring raw values into the unit that may be averaged.

        Args:
            raw: Values as in the file, any shape, NaN where invalid.

        Returns:
            float32: linear power for physical SAR, the values themselves for the rest.
        """
        values = np.asarray(raw, dtype=np.float32)
        if self.unit == "dB":
            return np.power(np.float32(10), values / np.float32(10))
        return values

    def linear_to_analysis(self, values: np.ndarray) -> np.ndarray:
        """Bring averaged values of a SAR sensor to dB; optical and display values stay as they are.

        Args:
            values: What `to_linear` returned, after resampling; NaN where invalid.

        Returns:
            float32; dB for physical SAR, floored at -50 dB. Optical values are still raw: their scale and
            offset are kept as tags of the file.
        """
        if self.analysis_unit == "dB":
            return (10 * np.log10(np.maximum(values, POWER_FLOOR))).astype(np.float32)
        return np.asarray(values, dtype=np.float32)

    def check_units(self, raw: np.ndarray, where: str, *, offset_dn: float = 0.0) -> None:
        """Compare values with the declared unit.

        Args:
            raw: Sample of raw values, any shape; NaN or masked values already taken out or NaN.
            where: File or item, for the message.
            offset_dn: Radiometric offset of this scene, added to raw.

        Raises:
            SourceError: If the values contradict the unit: negative linear power, dB in a linear product,
                display values declared as dB, reflectance declared as DN.
        """
        values = np.asarray(raw, dtype=np.float64)
        values = values[np.isfinite(values)]
        if not values.size:
            return
        low, high = (float(q) for q in np.quantile(values, (0.01, 0.99)))
        got = f"got values from {low:.4g} to {high:.4g} (1st to 99th percentile)"
        if self.unit == "linear" and low < 0:
            raise SourceError(
                f"{where}: sensor {self.name} declares {self._what()} in linear power, which cannot be negative; "
                f"{got}, which look like dB. Use a sensor with unit dB (such as sentinel1-rtc-db)."
            )
        if self.unit == "linear" and low > 20:
            raise SourceError(
                f"{where}: sensor {self.name} declares {self._what()} in linear power, expected mostly 0 to 1; "
                f"{got}, which look like amplitude DN or display values. Use sentinel1-display, or calibrate first."
            )
        if self.unit == "dB" and low >= 0:
            raise SourceError(
                f"{where}: sensor {self.name} declares {self._what()} in dB, expected mostly -35 to 5; {got}, "
                "which look like linear power or display values. Use sentinel1-rtc or sentinel1-display."
            )
        if self.unit == "display" and (low < -1 or high > 70000):
            raise SourceError(
                f"{where}: sensor {self.name} declares display values, which are not negative; {got}. "
                "Declare the physical unit instead."
            )
        if self.unit == "dn" and 0 < high <= 2 and self.scale < 0.01:
            raise SourceError(
                f"{where}: sensor {self.name} declares digital numbers with scale {self.scale:g}; {got}, which "
                "look like reflectance already. Declare the sensor inline with unit: reflectance."
            )
        if self.unit in ("dn", "reflectance") and self.physical:
            top = (high + offset_dn) * self.scale + self.offset
            if top > 10:
                raise SourceError(
                    f"{where}: sensor {self.name} gives reflectance up to {top:.3g}, expected 0 to about 1.5; "
                    f"{got}. Check scale and offset of the sensor."
                )

    def _what(self) -> str:
        return _QUANTITY_SYMBOL.get(self.quantity, self.quantity)

    @classmethod
    def generic(
        cls,
        name: str,
        *,
        modality: Modality,
        unit: Unit,
        bands: Sequence[str],
        gsd_m: float = 10.0,
        quantity: Quantity | None = None,
        scale: float = 1.0,
        offset: float = 0.0,
        nodata: float | None = None,
    ) -> Sensor:
        """Describe a product that is not registered.

        Args:
            name: A name for tags and messages.
            modality: "optical" or "sar".
            unit: Unit of the numbers in the file.
            bands: Band names in file order.
            gsd_m: Ground sampling distance, metres.
            quantity: What is measured; by default display for unit display, gamma0 for SAR, else reflectance.
            scale: Analysis = raw · scale + offset.
            offset: See scale.
            nodata: Value of missing pixels, when the file does not say.

        Returns:
            The sensor.

        Raises:
            SourceError: If unit and modality contradict each other.
        """
        if quantity is None:
            quantity = "display" if unit == "display" else ("gamma0" if modality == "sar" else "reflectance")
        allowed = ("linear", "dB", "display") if modality == "sar" else ("dn", "reflectance", "display")
        if unit not in allowed or (quantity == "display") != (unit == "display"):
            raise SourceError(
                f"Sensor {name}: unit {unit!r} and quantity {quantity!r} do not fit modality {modality!r}; "
                f"expected one of the units {', '.join(allowed)}. Correct `sensor` in the catalogue."
            )
        return cls(
            name,
            modality,
            quantity,
            unit,
            tuple(Band(band, gsd_m) for band in bands),
            scale=scale,
            offset=offset,
            nodata=nodata,
        )


_S2_BANDS = (
    Band("B01", 60, "coastal"),
    Band("B02", 10, "blue"),
    Band("B03", 10, "green"),
    Band("B04", 10, "red"),
    Band("B05", 20, "rededge071"),
    Band("B06", 20, "rededge075"),
    Band("B07", 20, "rededge078"),
    Band("B08", 10, "nir"),
    Band("B8A", 20, "nir08"),
    Band("B09", 60, "nir09"),
    Band("B10", 60, "cirrus"),
    Band("B11", 20, "swir16"),
    Band("B12", 20, "swir22"),
)
_S1_BANDS = (Band("VV", 10), Band("VH", 10))
_DB_RANGE = (-50.0, 30.0)


def _s1(name: str, quantity: Quantity, unit: Unit, nodata: float) -> Sensor:
    return Sensor(name, "sar", quantity, unit, _S1_BANDS, nodata=nodata, valid_range=_DB_RANGE)


SENSORS: dict[str, Sensor] = {
    sensor.name: sensor
    for sensor in (
        Sensor(
            "sentinel2-l2a",
            "optical",
            "reflectance",
            "dn",
            tuple(band for band in _S2_BANDS if band.name != "B10"),
            scale=1e-4,
            nodata=0,
            valid_range=(-0.1, 2.0),
        ),
        Sensor(
            "sentinel2-l1c",
            "optical",
            "reflectance",
            "dn",
            _S2_BANDS,
            scale=1e-4,
            nodata=0,
            valid_range=(-0.1, 2.0),
        ),
        Sensor(
            "sentinel2-display",
            "optical",
            "display",
            "display",
            (Band("red", 10, "red"), Band("green", 10, "green"), Band("blue", 10, "blue")),
            valid_range=(0, 255),
        ),
        _s1("sentinel1-rtc", "gamma0", "linear", float("nan")),
        _s1("sentinel1-rtc-db", "gamma0", "dB", float("nan")),
        _s1("sentinel1-grd-db", "sigma0", "dB", float("nan")),
        Sensor("sentinel1-display", "sar", "display", "display", (Band("VH", 10),), valid_range=(0, 255)),
    )
}


def get_sensor(spec: str | Sensor | Mapping[str, Any]) -> Sensor:
    """Find a sensor by name, or build one from an inline description.

    Args:
        spec: A registered name, a sensor, or a mapping with the arguments of `Sensor.generic`.

    Returns:
        The sensor.

    Raises:
        SourceError: If the name is unknown or the description does not hold together.
    """
    if isinstance(spec, Sensor):
        return spec
    if isinstance(spec, str):
        if spec not in SENSORS:
            raise SourceError(
                f"No sensor is called {spec!r}; known are {', '.join(sorted(SENSORS))}. "
                "Use one of them or describe the sensor inline (name, modality, unit, bands)."
            )
        return SENSORS[spec]
    try:
        return Sensor.generic(**{"name": "custom", **spec})
    except TypeError as error:
        raise SourceError(
            f"Sensor {dict(spec)!r} is not complete: {_plain(error)}. "
            "Give name, modality, unit and bands, and optionally gsd_m, quantity, scale, offset, nodata."
        ) from error


def _plain(error: TypeError) -> str:
    return re.sub(r"^.*?\(\)\s*", "", str(error))


@dataclass(frozen=True)
class Scaler:
    """Analysis units to the model domain [-1, 1] and back, one affine map a band.

    model = 2 · (analysis - low) / (high - low) - 1, clipped. Fitted on the training split, stored with the
    model; there are no default statistics.

    Attributes:
        sensor: Name of the sensor the statistics belong to.
        unit: Analysis unit.
        bands: Band names, in channel order.
        low: Value that becomes -1, per band.
        high: Value that becomes 1, per band.
        mean: Mean over the training split, per band; empty when unknown.
        std: Standard deviation likewise.
        count: Valid pixels behind the statistics.
    """

    sensor: str
    unit: str
    bands: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...] = field(default=())
    std: tuple[float, ...] = field(default=())
    count: int = 0

    def __post_init__(self) -> None:
        if not len(self.bands) == len(self.low) == len(self.high):
            raise ValueError(
                f"Scaler of {self.sensor}: {len(self.bands)} bands, {len(self.low)} low and {len(self.high)} "
                "high values; one of each per band is needed."
            )
        for band, low, high in zip(self.bands, self.low, self.high, strict=True):
            if not (np.isfinite(low) and np.isfinite(high) and high > low):
                raise ValueError(
                    f"Scaler of {self.sensor}, band {band}: low {low} and high {high} span no range; "
                    "the band is constant or empty in the training split."
                )

    @property
    def gain(self) -> np.ndarray:
        """Model units per analysis unit, float64, shape (C,)."""
        return 2 / (np.asarray(self.high) - np.asarray(self.low))

    @property
    def bias(self) -> np.ndarray:
        """Model value of analysis 0, float64, shape (C,)."""
        return -1 - np.asarray(self.low) * self.gain

    def forward(self, analysis: np.ndarray) -> np.ndarray:
        """Normalise.

        Args:
            analysis: Values in analysis units, shape (C, H, W) or (B, C, H, W); NaN stays NaN.

        Returns:
            float32 in [-1, 1], same shape.
        """
        gain, bias = (part.astype(np.float32)[:, None, None] for part in (self.gain, self.bias))
        return np.clip(np.asarray(analysis, dtype=np.float32) * gain + bias, -1, 1)

    def inverse(self, model: np.ndarray) -> np.ndarray:
        """Undo `forward` for values that were not clipped.

        Args:
            model: Values in the model domain, shape (C, H, W) or (B, C, H, W).

        Returns:
            float32 in analysis units, same shape.
        """
        gain, bias = (part[:, None, None] for part in (self.gain, self.bias))
        return ((np.asarray(model, dtype=np.float64) - bias) / gain).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Describe the scaler in plain JSON types."""
        return {
            "sensor": self.sensor,
            "unit": self.unit,
            "bands": list(self.bands),
            "low": [float(value) for value in self.low],
            "high": [float(value) for value in self.high],
            "mean": [float(value) for value in self.mean],
            "std": [float(value) for value in self.std],
            "count": int(self.count),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Scaler:
        """Rebuild the scaler that `to_dict` described."""
        parts = {key: tuple(data[key]) for key in ("bands", "low", "high", "mean", "std")}
        return cls(sensor=data["sensor"], unit=data["unit"], count=int(data["count"]), **parts)
