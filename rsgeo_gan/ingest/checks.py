"""What a scene must be before the night is spent on it: whole, not empty, in the declared unit, in its place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from rsgeo_gan import raster
from rsgeo_gan.errors import SourceError
from rsgeo_gan.grid import crs_of
from rsgeo_gan.sensors import Sensor

__all__ = ["Declined", "check_place", "check_sensor", "check_whole", "sample", "sample_windows"]

WINDOW_PX = 256
WHOLE_PX = 1 << 20
"""Rasters of at most so many pixels are sampled whole."""
SHIFT_PX = 0.01
"""Largest difference between the transform of an item and of its file, pixels."""


class Declined(SourceError):
    """A scene is left out; `code` says why in one or two words.

    Args:
        code: Reason for counting.
        reason: Reason for people.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def sample_windows(box: GeoBox) -> list[Window]:
    """Return the windows looked at: all of a small raster, else 4 x 4 spread to the very edges."""
    rows, columns = box.shape
    if rows * columns <= WHOLE_PX:
        return [Window(0, 0, columns, rows)]
    high, wide = min(WINDOW_PX, rows), min(WINDOW_PX, columns)
    tops = np.linspace(0, rows - high, 4).astype(int)
    lefts = np.linspace(0, columns - wide, 4).astype(int)
    return [Window(left, top, wide, high) for top in tops for left in lefts]


def sample(
    path: Path | str, info: raster.RasterInfo, bands: Sequence[int], nodata: float | None, *, in_all: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Read sample windows of a raster.

    Args:
        path: The raster.
        info: Its facts.
        bands: Bands counted from 1.
        nodata: Value of missing pixels where the file states none.
        in_all: A pixel is missing only where all bands have that value.

    Returns:
        Raw values of shape (C, N) and validity of shape (N,), bool.

    Raises:
        SourceError: If a window cannot be read.
        Declined: If no pixel of the raster is valid.
    """
    parts = [_flat(path, bands, window, nodata, in_all) for window in sample_windows(info.geobox)]
    values = np.concatenate([part[0] for part in parts], axis=1)
    valid = np.concatenate([part[1] for part in parts])
    if not valid.any():
        height, width = info.geobox.shape
        for top in range(0, height, 512):
            more, good = _flat(path, bands, Window(0, top, width, min(512, height - top)), nodata, in_all)
            if good.any():
                return more, good
        raise Declined(
            "all nodata",
            f"{path} holds no valid pixel in any of its {len(bands)} bands: expected data, got nodata only. "
            "Take it out of the catalogue, or correct `nodata` of the sensor.",
        )
    return values, valid


def _flat(
    path: Path | str, bands: Sequence[int], window: Window, nodata: float | None, in_all: bool
) -> tuple[np.ndarray, np.ndarray]:
    values, valid = raster.read(path, bands=bands, window=window)
    if nodata is not None and not math.isnan(nodata):
        known = values != nodata
        valid = valid & (known.any(axis=0) if in_all else known.all(axis=0))
    return values.reshape(values.shape[0], -1), valid.ravel()


def check_whole(path: Path | str, where: str) -> None:
    """Compare the places of all blocks of a local GeoTIFF with its length; other formats pass.

    Raises:
        Declined: If blocks lie beyond the end of the file.
    """
    path = Path(path)
    if not path.is_file():
        return
    length = path.stat().st_size
    with raster.opened(path) as dataset:
        if dataset.driver not in ("GTiff", "COG"):
            return
        end = _end_of_blocks(dataset)
    if end > length:
        raise Declined(
            "truncated",
            f"{where}: {path} is truncated: expected at least {end} bytes, got {length}. "
            "Fetch it again or take it out of the catalogue.",
        )


def _end_of_blocks(dataset: rasterio.DatasetReader) -> int:
    """Return the first byte after the last block of the first and last band."""
    end = 0
    for band in {1, dataset.count}:
        high, wide = dataset.block_shapes[band - 1]
        for row in range(math.ceil(dataset.height / high)):
            for column in range(math.ceil(dataset.width / wide)):
                place = dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band)
                length = dataset.get_tag_item(f"BLOCK_SIZE_{column}_{row}", "TIFF", bidx=band)
                if place is not None and length is not None:
                    end = max(end, int(place) + int(length))
    return end


def check_place(info: raster.RasterInfo, stated: Mapping[str, Any], where: str) -> None:
    """Compare the georeference of a file with the `proj:*` an item states.

    Args:
        info: Facts of the file.
        stated: Properties of the item, overridden by those of the asset.
        where: Item and asset, for the message.

    Raises:
        Declined: If CRS, shape or transform contradict each other.
    """
    crs = crs_of(info.geobox)
    code = stated.get("proj:code") or (f"EPSG:{stated['proj:epsg']}" if stated.get("proj:epsg") else None)
    name = Path(info.path.split("?")[0]).name
    if code is not None and crs != type(crs)(code):
        own = f"EPSG:{crs.to_epsg()}" if crs.to_epsg() else str(crs)
        raise Declined(
            "georeference",
            f"{where}: expected the CRS {code} that the item states (proj:code), got {own} in {name}. "
            "One of them is wrong; mend the item or drop it.",
        )
    shape = stated.get("proj:shape")
    if shape and tuple(shape) != tuple(info.geobox.shape):
        raise Declined(
            "georeference",
            f"{where}: expected {shape[0]} x {shape[1]} pixels as the item states (proj:shape), got "
            f"{info.geobox.shape.y} x {info.geobox.shape.x} in {name}. Mend the item or drop it.",
        )
    transform = stated.get("proj:transform")
    if transform and len(transform) >= 6:
        affine = tuple(info.geobox.affine)[:6]
        rows, columns = info.geobox.shape
        pixel = math.hypot(affine[0], affine[3]) or 1.0
        corners = [(0, 0), (columns, 0), (0, rows), (columns, rows)]
        delta = [mine - float(theirs) for mine, theirs in zip(affine, transform, strict=False)]
        worst = max(
            math.hypot(delta[0] * x + delta[1] * y + delta[2], delta[3] * x + delta[4] * y + delta[5])
            for x, y in corners
        )
        if worst > SHIFT_PX * pixel:
            raise Declined(
                "georeference",
                f"{where}: expected the transform that the item states (proj:transform), got one that lies up to "
                f"{worst / pixel:.3g} pixels elsewhere in {name}. Mend the item or drop it.",
            )


def check_sensor(values: np.ndarray, valid: np.ndarray, sensor: Sensor, where: str, offset_dn: float) -> None:
    """Compare sampled values with the declared unit; see `Sensor.check_units`.

    Raises:
        Declined: With code "units".
    """
    try:
        sensor.check_units(values[:, valid], where, offset_dn=offset_dn)
    except SourceError as error:
        raise Declined("units", str(error)) from error
