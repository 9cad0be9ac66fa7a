"""Bringing the wanted part of a scene onto this machine: one raster on the lattice of its finest band, raw values."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from odc.geo import geom
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError

from rsgeo_gan import raster
from rsgeo_gan.errors import GridError, SourceError
from rsgeo_gan.grid import crs_of, same_lattice, transformed
from rsgeo_gan.ingest.checks import Declined
from rsgeo_gan.ingest.web import retrying
from rsgeo_gan.sensors import Sensor

__all__ = ["Layer", "Reader", "copy", "crop", "finest"]

STRIP_ROWS = 1024
FINGERPRINT = "RSGEO_FINGERPRINT"

_PATIENCE = {"GDAL_HTTP_CONNECTTIMEOUT": 30, "GDAL_HTTP_TIMEOUT": 300}
"""Seconds until a server that does not answer counts as failed; GDAL would wait for ever."""


@dataclass(frozen=True)
class Layer:
    """One band of one file.

    Attributes:
        name: Name of the band.
        href: Path or address, not signed.
        index: Band in the file, counted from 1.
    """

    name: str
    href: str
    index: int = 1


@dataclass(frozen=True)
class Reader:
    """How files of one scene are reached.

    Attributes:
        sign: Makes an address readable now; the identity for local files.
        retries: How often a failed read is repeated.
        pause_s: First pause, seconds.
        refresh: Called before a repeated read, such as to drop tokens.
    """

    sign: Callable[[str], str] = str
    retries: int = 0
    pause_s: float = 1.0
    refresh: Callable[[], None] | None = None

    def inspect(self, href: str) -> raster.RasterInfo:
        """Return the facts of a file; see `raster.inspect`."""
        return self._tried(href, raster.inspect)

    def warp(self, layer: Layer, box: GeoBox, resampling: str, nodata: float | None) -> np.ndarray:
        """Read one band onto a box, float32 of shape (H, W), NaN where invalid; see `raster.warp`."""

        def action(address: str) -> np.ndarray:
            return raster.warp(address, box, bands=[layer.index], resampling=resampling, nodata=nodata)[0]

        return self._tried(layer.href, action)

    def _tried[T](self, href: str, action: Callable[[str], T]) -> T:
        def once() -> T:
            address = self.sign(href)
            try:
                with rasterio.Env(**(_PATIENCE if "://" in address else {})):
                    return action(address)
            except SourceError:
                _forget(address)
                raise

        def transient(error: SourceError) -> bool:
            if re.search(r"HTTP response code: (400|404|410)|There is no file", str(error)):
                return False
            if self.refresh is not None:
                self.refresh()
            return True

        what = f"reading {href}"
        return retrying(once, retries=self.retries, pause_s=self.pause_s, what=what, transient=transient)


def _forget(address: str) -> None:
    """Make GDAL forget what it remembers of a remote file: a failure to open one is remembered, too."""
    if "://" not in address:
        return
    # with this option a file is forgotten when it is closed, also when opening it failed
    with rasterio.Env(CPL_VSIL_CURL_NON_CACHED="/vsicurl/:/vsis3/", GDAL_HTTP_MAX_RETRY=0), suppress(RasterioError):
        rasterio.open(address).close()


def finest(infos: Mapping[str, raster.RasterInfo], where: str) -> GeoBox:
    """Return the box of the band with the smallest pixels.

    Raises:
        Declined: If the bands lie in different CRS.
    """
    boxes = [info.geobox for info in infos.values()]
    best = min(boxes, key=lambda box: abs(box.affine.determinant))
    for href, info in infos.items():
        if crs_of(info.geobox) != crs_of(best):
            raise Declined(
                "georeference",
                f"{where}: expected all bands in one CRS ({crs_of(best)}), got {crs_of(info.geobox)} in {href}; "
                "mend the item or drop it.",
            )
    return best


def crop(box: GeoBox, bbox: tuple[float, float, float, float] | None, where: str) -> GeoBox:
    """Return the part of a box that an area needs, on the same lattice.

    Args:
        box: Box of a scene.
        bbox: West, south, east, north in degrees; all of the scene when None.
        where: Scene, for the message.

    Raises:
        Declined: If the area lies outside.
    """
    if bbox is None:
        return box
    west, south, east, north = bbox
    area = geom.box(west, south, east, north, "EPSG:4326")
    outside = Declined(
        "outside area",
        f"{where} lies outside the area of interest {bbox} (west, south, east, north in degrees); "
        "nothing to do unless the area is wrong.",
    )
    if not box.footprint("EPSG:4326", npoints=16).intersects(area):
        raise outside
    ring = area.segmented((east - west) / 16).to_crs(crs_of(box)).exterior.points
    x, y = (np.array(axis) for axis in zip(*ring, strict=True))
    columns, rows = transformed(~box.affine, x, y)
    left, right = max(0, math.floor(columns.min())), min(box.shape.x, math.ceil(columns.max()))
    top, bottom = max(0, math.floor(rows.min())), min(box.shape.y, math.ceil(rows.max()))
    if right <= left or bottom <= top:
        raise outside
    return box[top:bottom, left:right]


def copy(
    layers: Sequence[Layer],
    box: GeoBox,
    path: Path,
    *,
    infos: Mapping[str, raster.RasterInfo],
    reader: Reader,
    sensor: Sensor | None,
    fingerprint: str,
    where: str,
) -> Path:
    """Write the layers into one raster on a box: raw values, in the files' data type.

    Bands on the lattice of the box are copied exactly; coarser optical bands are brought onto it bilinearly,
    classes by nearest neighbour. A file that was finished earlier with the same fingerprint is kept.

    Args:
        layers: Bands, in order.
        box: Where they are wanted.
        path: File to write.
        infos: Facts of each file by address.
        reader: How files are reached.
        sensor: Sensor of the bands; None for classes.
        fingerprint: Tells whether an existing file is the same.
        where: Scene, for messages.

    Returns:
        The path.

    Raises:
        SourceError: If a file cannot be read, or SAR bands lie on different lattices.
        ProductError: If the file cannot be written.
    """
    with suppress(SourceError, GridError):
        if path.exists() and raster.inspect(path).tags.get(FINGERPRINT) == fingerprint:
            return path
    kernels = {}
    for layer in layers:
        exact = same_lattice(infos[layer.href].geobox, box) is not None
        kernels[layer] = "nearest" if exact or sensor is None else "bilinear"
        if not exact and sensor is not None and sensor.modality == "sar":
            raise Declined(
                "georeference",
                f"{where}: expected all SAR bands on one lattice, got another one in {layer.href}; "
                "resample them together first.",
            )
    dtype = np.result_type(*(infos[layer.href].dtype for layer in layers))
    whole = dtype.kind in "iu"
    if dtype.kind == "f":
        dtype = np.dtype(np.float32)
    elif not whole or dtype.itemsize > 4:
        raise Declined("bands", f"{where}: expected integer or float pixels, got {dtype}; convert the file first.")
    nodata = float("nan") if not whole else _whole_nodata(infos, layers, sensor)
    writer = raster.StripWriter(
        path,
        box,
        len(layers),
        str(dtype),
        nodata=nodata,
        names=[layer.name for layer in layers],
        unit="" if sensor is None else {"dn": "", "linear": "1", "reflectance": "1"}.get(sensor.unit, sensor.unit),
        tags={FINGERPRINT: fingerprint},
    )
    with writer, ThreadPoolExecutor(max_workers=min(8, len(layers))) as pool:
        for row in range(0, box.shape.y, STRIP_ROWS):
            strip = box[row : min(row + STRIP_ROWS, box.shape.y), :]

            def part(layer: Layer, strip: GeoBox = strip) -> np.ndarray:
                missing = infos[layer.href].nodata
                if missing is None and sensor is not None:
                    missing = sensor.nodata
                return reader.warp(layer, strip, kernels[layer], missing)

            values = np.stack(list(pool.map(part, layers)))  # (C, h, W)
            valid = np.isfinite(values).all(axis=0)
            if whole:
                values = np.rint(np.where(np.isfinite(values), values, nodata))
            writer.write(values.astype(dtype), row, valid)
    return path


def _whole_nodata(infos: Mapping[str, raster.RasterInfo], layers: Sequence[Layer], sensor: Sensor | None) -> float:
    """Nodata of integer copies: the files' own, else the sensor's, else 0."""
    for stated in (*(infos[layer.href].nodata for layer in layers), sensor.nodata if sensor else None):
        if stated is not None and not math.isnan(stated):
            return stated
    return 0.0
