"""Telling the sensor of a single raster from its band names, units, data type and values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.windows import Window

from rsgeo_gan import raster
from rsgeo_gan.errors import CatalogError, SourceError
from rsgeo_gan.sensors import SENSORS, Sensor, get_sensor

__all__ = ["guess_sensor", "guess_side", "match_bands"]

NO_DATE = "1970-01-01T00:00:00Z"
"""Date of files that state none; two files given by hand are a pair whatever their dates."""

_POLARISATIONS = {"VV", "VH", "HH", "HV"}


def guess_side(path: Path, sensor: str | dict[str, Any] | None, role: str) -> dict[str, Any]:
    """Describe one raster as a folder side.

    Args:
        path: The raster.
        sensor: Its sensor, or None to tell it from the file.
        role: "source" or "target", for messages.

    Returns:
        A side as plain values, as a catalogue file would hold it.

    Raises:
        CatalogError: If the sensor cannot be told, or does not fit the number of bands.
        SourceError: If the file is missing or cannot be read.
        GridError: If it has no usable georeferencing.
    """
    info = raster.inspect(path)
    names = tuple(name or "" for name in info.names)
    spec = sensor if sensor is not None else guess_sensor(info)
    if spec is None:
        listed = ", ".join(sorted(SENSORS))
        raise CatalogError(
            f"--{role} {path}: expected band names, units or a data type that tell the sensor, got {info.count} "
            f"{info.dtype} band(s) named {', '.join(name or '-' for name in names)}; "
            f"give --{role}-sensor, one of {listed}, or describe the sensor in a catalogue."
        )
    try:
        facts = get_sensor(spec)
    except SourceError as error:
        raise CatalogError(f"--{role}-sensor: {error}") from error
    bands = [band for band in match_bands(facts, names) if band]
    side: dict[str, Any] = {
        "kind": "folder",
        "path": str(path.expanduser().resolve()),
        "sensor": spec,
        "default_datetime": NO_DATE,
    }
    if bands:
        side["bands"] = bands
    elif info.count <= len(facts.band_names):
        first = facts.band_names[: info.count]
        if info.count not in (1, len(facts.band_names)) and any(names):
            raise CatalogError(
                f"--{role} {path}: expected bands of {facts.name} ({', '.join(facts.band_names)}), got "
                f"{', '.join(names)}; name the bands in the file, or write a catalogue with `file_bands`."
            )
        side |= {"bands": list(first), "file_bands": list(first)}
    else:
        raise CatalogError(
            f"--{role} {path}: expected at most {len(facts.band_names)} bands of {facts.name} "
            f"({', '.join(facts.band_names)}), got {info.count} without those names; "
            "write a catalogue with `file_bands` (see catalogs/folder.yaml)."
        )
    return side


def match_bands(facts: Sensor, names: Sequence[str]) -> list[str | None]:
    """Find a sensor's bands behind the names a file or item gives.

    Letter case does not matter, `B4` is `B04`, common names count, and a single band named within a longer text
    does ("B04 red", "Gamma0_VV").

    Args:
        facts: The sensor.
        names: Names as found.

    Returns:
        The sensor's name of each, or None where it has no such band.
    """
    known = {band.common_name.lower(): band.name for band in facts.bands if band.common_name}
    known |= {band.name.lower(): band.name for band in facts.bands}

    def named(text: str) -> str | None:
        plain = re.sub(r"^b(\d)$", r"b0\1", text)
        return known.get(plain)

    found: list[str | None] = []
    for name in names:
        text = name.strip().lower()
        within = {band for band in map(named, re.split(r"[\s_:()-]+", text)) if band}
        found.append(named(text) or (within.pop() if len(within) == 1 else None))
    return found


def guess_sensor(info: raster.RasterInfo) -> str | dict[str, Any] | None:
    """Tell the sensor of a raster.

    Args:
        info: What the raster says about itself.

    Returns:
        Name or facts of the sensor; None when the raster does not tell.
    """
    names = info.names
    upper = {name.upper() for name in names}
    units = {unit.lower() for unit in info.units if unit}
    radar = bool(upper & _POLARISATIONS)
    dtype = np.dtype(info.dtype)
    if dtype == np.uint8:
        return _display(info, names, "sar" if radar or info.count < 3 else "optical")
    if radar and np.issubdtype(dtype, np.floating):
        low = _low_value(Path(info.path), info)
        decibel = "db" in units or (not units and low < 0)
        bands = [name for name in names if name]
        if not upper <= {"VV", "VH"}:
            unit = "dB" if decibel else "linear"
            return {"name": "sar", "modality": "sar", "unit": unit, "bands": bands}
        if not decibel:
            return "sentinel1-rtc"
        return "sentinel1-rtc-db"
    if np.issubdtype(dtype, np.integer):
        for name in ("sentinel2-l2a", "sentinel2-l1c"):
            facts = SENSORS[name]
            if None not in match_bands(facts, names) or (not any(names) and info.count == len(facts.bands)):
                return name
    return None


def _display(info: raster.RasterInfo, names: tuple[str, ...], modality: str) -> str | dict[str, Any]:
    """Return the registered display sensor that fits the bands, or a generic one."""
    registered = SENSORS["sentinel1-display" if modality == "sar" else "sentinel2-display"]
    if info.count == len(registered.bands) and (not any(names) or None not in match_bands(registered, names)):
        return registered.name
    complete = all(names) and len(set(names)) == info.count
    bands = list(names) if complete else [f"band{i}" for i in range(1, info.count + 1)]
    return {"name": f"{modality}-display", "modality": modality, "unit": "display", "bands": bands}


def _low_value(path: Path, info: raster.RasterInfo) -> float:
    """Return a low value of the raster, from a window in its middle."""
    rows, columns = info.geobox.shape
    side = min(512, rows, columns)
    window = Window((columns - side) // 2, (rows - side) // 2, side, side)
    values, valid = raster.read(path, window=window)
    good = values[:, valid]
    good = good[np.isfinite(good)]
    return float(np.quantile(good, 0.05)) if good.size else 0.0
