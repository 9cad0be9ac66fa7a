"""How a single raster given by hand is looked at: its instrument, the bands to match by, what was assumed.

Whoever co-registers two files may know nothing but their names. Where the file tells its instrument it is
believed; where it does not, the values are taken as they are, which is safe for matching structure and is
said in the result. A unit that was declared and contradicts the values is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from rsgeo_gan import raster
from rsgeo_gan.catalog.guess import guess_side, match_bands
from rsgeo_gan.coregister.views import View, default_bands
from rsgeo_gan.errors import CatalogError, SourceError
from rsgeo_gan.grid import crs_code
from rsgeo_gan.sensors import SENSORS, Sensor, get_sensor

__all__ = ["Input", "detected", "look_at", "sample"]

Role = Literal["reference", "moving"]

_SAMPLE_PX = 256
_STRIP_PX = 256


@dataclass(frozen=True)
class Input:
    """One raster of a pair given by hand.

    Attributes:
        view: How it is read for matching.
        info: What the file says about itself.
        source: The file the user gave; `view.path` may be a copy that holds its power.
        told: Where the sensor comes from: "given", "told by the file", or "not told".
        notes: What was assumed, in sentences.
        classes: Whether the values are classes (the file has a colour table), which must not be averaged.
    """

    view: View
    info: raster.RasterInfo
    source: str
    told: Literal["given", "told by the file", "not told"]
    notes: tuple[str, ...] = ()
    classes: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Describe the input in plain JSON types."""
        sensor, box = self.view.sensor, self.info.geobox
        height, width = box.shape
        return {
            "path": self.source,
            "sensor": sensor.name,
            "sensor_is": self.told,
            "modality": "unknown" if self.told == "not told" else sensor.modality,
            "unit": "as in the file" if self.told == "not told" else sensor.unit,
            "bands": list(self.view.bands),
            "size": [width, height],
            "pixel": [float(np.hypot(box.affine.a, box.affine.d)), float(np.hypot(box.affine.b, box.affine.e))],
            "crs": crs_code(box),
            "dtype": self.info.dtype,
            "nodata": "nan" if self.info.nodata is not None and np.isnan(self.info.nodata) else self.info.nodata,
        }


def look_at(path: str, role: Role, *, sensor: str | None = None, bands: Sequence[int] | None = None) -> Input:
    """Decide how a raster is looked at.

    Args:
        path: File or URL.
        role: Its role, which begins the names of the options in messages.
        sensor: Name of a registered sensor; told from the file when None.
        bands: Bands to match by, counted from 1; the sensor's finest when None.

    Returns:
        The input.

    Raises:
        SourceError: If the file cannot be read, has not the bands, or its values contradict the given sensor.
        GridError: If it has no usable georeference.
        CatalogError: If there is no such sensor.
    """
    info = raster.inspect(path)
    if np.dtype(info.dtype).kind == "c":
        raise SourceError(
            f"{path} holds complex values ({info.dtype}): expected real ones. Use the power of its samples."
        )
    chosen = _checked(bands, info, role)
    if sensor is not None:
        try:
            facts = get_sensor(sensor)
        except SourceError as error:
            raise CatalogError(f"--{role}-sensor: {error}") from error
        matching = chosen or _finest(facts, info)
        facts.check_units(sample(path, info, matching), f"{path} (--{role}-sensor {sensor})")
        return Input(View(path, facts, matching), info, path, "given")
    known = _told(path, info)
    if known is not None:
        matching = chosen or _finest(known, info)
        try:
            known.check_units(sample(path, info, matching), str(path))
            return Input(View(path, known, matching), info, path, "told by the file")
        except SourceError:
            pass
    facts, shown, classes = _plain(path, info)
    notes = [f"{role}: neither band names nor data type tell the sensor; values are compared as they are in the file"]
    if classes:
        notes.append(f"{role}: the colour table makes its values classes, each taken from the nearest pixel")
    return Input(View(path, facts, chosen or shown[:2]), info, path, "not told", tuple(notes), classes)


def _checked(bands: Sequence[int] | None, info: raster.RasterInfo, role: Role) -> tuple[int, ...]:
    """Bands asked for, if the file has them; none when none were asked for."""
    asked = tuple(int(band) for band in bands or ())
    if any(not 1 <= band <= info.count for band in asked):
        listed = ",".join(str(band) for band in asked)
        raise SourceError(
            f"--{role}-bands {listed}: {info.path} has {info.count} band{'s' if info.count > 1 else ''}, counted from "
            f"1; expected numbers from 1 to {info.count}. Correct the option or leave it out."
        )
    return asked


def _told(path: str, info: raster.RasterInfo) -> Sensor | None:
    """The sensor that a local file tells, if it does: bytes without band names tell none, nor do colours alone."""
    if (info.dtype == "uint8" and not any(info.names)) or not Path(path).is_file():
        return None
    try:
        found = get_sensor(guess_side(Path(path), None, "source")["sensor"])
    except CatalogError:
        return None
    if not found.name.startswith("sentinel2") or not any(info.names):
        return found
    codes = tuple(replace(band, common_name="") for band in SENSORS["sentinel2-l1c"].bands)
    named = match_bands(replace(found, bands=codes), info.names)
    return None if None in named else found


def _finest(sensor: Sensor, info: raster.RasterInfo) -> tuple[int, ...]:
    """Bands to match by: by the names in the file, else by the sensor's order."""
    found = [(name, i) for i, name in enumerate(match_bands(sensor, info.names), start=1) if name]
    if not found:
        found = [(name, i) for i, name in enumerate(sensor.band_names[: info.count], start=1)]
    return default_bands(sensor, [name for name, _ in found], [i for _, i in found]) or (1,)


def _plain(path: str, info: raster.RasterInfo) -> tuple[Sensor, tuple[int, ...], bool]:
    """A sensor that takes values as they are, the bands that are no alpha, and whether values are classes."""
    with raster.opened(path) as dataset:
        kinds = dataset.colorinterp
    shown = tuple(i for i, kind in enumerate(kinds, start=1) if kind != ColorInterp.alpha) or (1,)
    names = [f"band{i}" for i in range(1, info.count + 1)]
    facts = Sensor.generic("image", modality="optical", unit="display", bands=names)
    return facts, shown, kinds[0] == ColorInterp.palette


def sample(path: str, info: raster.RasterInfo, bands: Sequence[int]) -> np.ndarray:
    """Valid values from the first of a few windows, middle first, that has any."""
    height, width = info.geobox.shape
    rows, cols = min(_SAMPLE_PX, height), min(_SAMPLE_PX, width)
    for down, right in ((1, 1), (1, 0), (0, 1), (2, 1), (1, 2), (0, 0), (2, 2), (0, 2), (2, 0)):
        window = Window((width - cols) * right // 2, (height - rows) * down // 2, cols, rows)
        values, valid = raster.read(path, bands=bands, window=window)
        good = values[:, valid]
        if good.size:
            return good
    return np.zeros(0)


def detected(path: str, copy: Path) -> Path:
    """Write the power of complex samples, |z|², on the same grid, strip by strip.

    Args:
        path: A raster of complex samples (single look complex).
        copy: GeoTIFF to write, float32, linear power, NaN where invalid.

    Returns:
        The copy.

    Raises:
        SourceError: If the raster cannot be read.
        ProductError: If the copy cannot be written.
    """
    info = raster.inspect(path)
    height, width = info.geobox.shape
    names = info.names if all(info.names) else tuple(f"band{i}" for i in range(1, info.count + 1))
    writer = raster.StripWriter(
        copy, info.geobox, info.count, "float32", float("nan"), names, "linear", cog=False, masked=False
    )
    with writer:
        for row in range(0, height, _STRIP_PX):
            values, valid = raster.read(path, window=Window(0, row, width, min(_STRIP_PX, height - row)))
            power = (values.real.astype(np.float64) ** 2 + values.imag.astype(np.float64) ** 2).astype(np.float32)
            writer.write(np.where(valid, power, np.float32(np.nan)), row)
    return copy
