"""Both rasters on one matching grid: which grid, which blocks of it, and their descriptors.

The matching grid is the reference's own lattice, coarsened per axis to the moving raster's pixel size
where that is coarser, and cut to where the moving raster lies. The moving raster is warped onto it once,
for matching only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from pyproj.exceptions import ProjError
from scipy import ndimage

from rsgeo_gan import raster
from rsgeo_gan.coregister.features import Descriptor
from rsgeo_gan.coregister.matching import Block
from rsgeo_gan.errors import GridError
from rsgeo_gan.sensors import Sensor

__all__ = ["Lattice", "View", "blocks", "common_lattice", "default_bands"]

BLOCK_PX = 1024
"""Side of a block of the matching grid; what is held in memory grows with its square."""
MAX_BLOCKS_A_SIDE = 4
"""Larger scenes are sampled by this many blocks a side, spread evenly."""
RIM_PX = 12
"""Reach of the descriptors' filters, pixels."""

_COARSER = 1.25
_ZERO_BLOCK_PX = 33
_MAX_BANDS = 2
_PREFERRED = ("red", "nir", "green", "blue", "vv", "vh")


@dataclass(frozen=True)
class View:
    """How one raster of a pair is looked at.

    Attributes:
        path: File or URL.
        sensor: Facts of the instrument; gives the unit in which values are averaged.
        bands: Bands counted from 1.
        classes: A class raster and its classes that hide the ground (cloud, shadow), if there is one; where
            it has no data, nothing is compared.
    """

    path: Path | str
    sensor: Sensor
    bands: tuple[int, ...]
    classes: tuple[Path | str, tuple[int, ...]] | None = None

    def on(self, box: GeoBox) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read onto a box in averageable units.

        Args:
            box: Where pixels are wanted.

        Returns:
            Values, shape (B, H, W), float32, and validity, shape (H, W).
        """
        nodata = self.sensor.nodata
        values = raster.warp(
            self.path,
            box,
            bands=self.bands,
            nodata=None if nodata is None or np.isnan(nodata) else nodata,
            prepare=self.sensor.to_linear,
        )
        valid = np.isfinite(values).all(axis=0) & ~_empty(values)
        if self.classes is not None and valid.any():
            classes = raster.warp(self.classes[0], box, bands=(1,), resampling="nearest")[0]
            valid &= np.isfinite(classes) & ~np.isin(classes, self.classes[1])
        return values, valid


@dataclass(frozen=True)
class Lattice:
    """The matching grid and how it lies on the reference.

    Attributes:
        box: The grid, wherever the moving raster or search room for it is.
        core: First column, first row, width and height of the part that both rasters cover, in pixels of
            the grid.
        origin: Reference column and row (corner based) of the grid's corner.
        zoom: Reference pixels per grid pixel, x and y, at least 1.
    """

    box: GeoBox
    core: tuple[int, int, int, int]
    origin: tuple[int, int]
    zoom: tuple[float, float]

    @property
    def overlap(self) -> GeoBox:
        """The part of the grid that both rasters cover."""
        col, row, width, height = self.core
        return GeoBox((height, width), self.box.affine * Affine.translation(col, row), self.box.crs)

    def to_reference(self, at: NDArray[np.float64]) -> NDArray[np.float64]:
        """Turn grid positions x, y (pixel centres whole) into reference positions of the same kind."""
        result: NDArray[np.float64] = (at + 0.5) * np.array(self.zoom) + np.array(self.origin) - 0.5
        return result


def default_bands(sensor: Sensor, names: Sequence[str], indexes: Sequence[int]) -> tuple[int, ...]:
    """Choose the bands to match by: the finest ones, red and near infrared or both polarisations first.

    Args:
        sensor: Facts of the instrument.
        names: Band names to choose from.
        indexes: Their bands in the file, counted from 1.

    Returns:
        At most two bands of the file, counted from 1.
    """

    def rank(entry: tuple[str, int]) -> tuple[float, int]:
        band = sensor.bands[sensor.index(entry[0])]
        keys = [k for k, word in enumerate(_PREFERRED) if word in (band.common_name.lower(), band.name.lower())]
        return band.gsd_m, keys[0] if keys else len(_PREFERRED)

    ordered = sorted(zip(names, indexes, strict=True), key=rank)
    return tuple(index for _, index in ordered[:_MAX_BANDS])


def common_lattice(reference: GeoBox, moving: GeoBox, room_px: float) -> Lattice | None:
    """Find the matching grid of two boxes.

    Args:
        reference: Box of the reference raster.
        moving: Box of the moving raster, any CRS.
        room_px: Width of search room around the overlap, reference pixels.

    Returns:
        The grid, or None when the boxes do not overlap.

    Raises:
        GridError: If one CRS cannot be transformed to the other.
    """
    height, width = reference.shape
    col, row = _outline(moving)
    x, y = _pixels(moving, reference, col, row)
    seen = np.isfinite(x) & np.isfinite(y)
    if seen.sum() < 4:
        return None
    low = np.array([x[seen].min(), y[seen].min()])
    high = np.array([x[seen].max(), y[seen].max()])
    size = np.array([width, height], float)
    start, stop = np.maximum(low, 0.0), np.minimum(high, size)
    if (stop - start <= 1.0).any():
        return None
    zoom = _pixel_ratio(reference, moving, (start + stop) / 2)
    if zoom is None:
        return None
    frame = np.floor(np.maximum(low, -room_px)), np.ceil(np.minimum(high, size + room_px))
    frame = np.minimum(frame[0], np.floor(start)), np.maximum(frame[1], np.ceil(stop))
    shape = np.maximum(1, np.ceil((frame[1] - frame[0]) / zoom)).astype(int)
    first = np.round((start - frame[0]) / zoom).astype(int)
    last = np.minimum(np.round((stop - frame[0]) / zoom).astype(int), shape)
    origin = int(frame[0][0]), int(frame[0][1])
    affine = reference.affine * Affine.translation(*origin) * Affine.scale(*zoom)
    box = GeoBox((int(shape[1]), int(shape[0])), affine, reference.crs)
    extent = np.maximum(last - first, 1)
    core = (int(first[0]), int(first[1]), int(extent[0]), int(extent[1]))
    return Lattice(box, core, origin, (float(zoom[0]), float(zoom[1])))


def blocks(lattice: Lattice, reference: View, moving: View, describe: Descriptor, room_px: int) -> Iterator[Block]:
    """Read and describe both rasters block by block; blocks without anything in common are left out.

    Args:
        lattice: The matching grid.
        reference: How the reference is read.
        moving: How the moving raster is read.
        describe: The descriptor.
        room_px: Search room around each block, grid pixels.

    Yields:
        Descriptors of both rasters.
    """
    height, width = lattice.box.shape
    first_col, first_row, core_width, core_height = lattice.core
    pad = room_px + RIM_PX
    for row, rows in _cuts(first_row, core_height):
        for col, cols in _cuts(first_col, core_width):
            left, top = max(0, col - pad), max(0, row - pad)
            right, bottom = min(width, col + cols + pad), min(height, row + rows + pad)
            affine = lattice.box.affine * Affine.translation(left, top)
            box = GeoBox((bottom - top, right - left), affine, lattice.box.crs)
            there, there_valid = moving.on(box)
            if not there_valid.any():
                continue
            here, here_valid = reference.on(box)
            if not here_valid.any():
                continue
            a, a_mask = describe(here, here_valid)
            b, b_mask = describe(there, there_valid)
            core = (col - left, row - top, cols, rows)
            yield Block(a, b, a_mask.astype(np.float32), b_mask.astype(np.float32), (left, top), core)


def _cuts(start: int, length: int) -> list[tuple[int, int]]:
    """Starts and lengths of blocks along one axis; a sample of them when there are too many."""
    count = max(1, round(length / BLOCK_PX))
    edges = np.linspace(start, start + length, count + 1).round().astype(int)
    chosen = range(count)
    if count > MAX_BLOCKS_A_SIDE:
        chosen = np.linspace(0, count - 1, MAX_BLOCKS_A_SIDE).round().astype(int)  # type: ignore[assignment]
    return [(int(edges[i]), int(edges[i + 1] - edges[i])) for i in chosen]


def _outline(box: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns and rows along a box's edge and across its middle, corner based."""
    height, width = box.shape
    steps = np.linspace(0.0, 1.0, 21)
    col, row = np.meshgrid(steps * width, steps * height)
    return col.ravel(), row.ravel()


def _pixels(
    source: GeoBox, target: GeoBox, col: NDArray[np.float64], row: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Corner-based pixel positions of one box in pixels of another; infinite where undefined."""
    x, y = _through(source.affine, col, row)
    if source.crs is not None and target.crs is not None and source.crs != target.crs:
        try:
            x, y = Transformer.from_crs(source.crs.proj, target.crs.proj, always_xy=True).transform(x, y)
        except ProjError as error:
            raise GridError(
                f"There is no transformation from {_crs_name(source)} to {_crs_name(target)}: expected two CRSs of one "
                "body. Pair scenes of the same planet, or correct the CRS of one."
            ) from error
    return _through(~target.affine, np.asarray(x, float), np.asarray(y, float))


def _crs_name(box: GeoBox) -> str:
    return str(box.crs.proj.name) if box.crs is not None else "no CRS"


def _through(
    affine: Affine, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions through an affine; what is infinite stays without a place."""
    with np.errstate(invalid="ignore"):
        return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def _pixel_ratio(reference: GeoBox, moving: GeoBox, at: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Size of a moving pixel in reference pixels along x and y, 1 where it is about as fine or finer."""
    probe = at + np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    col, row = _pixels(reference, moving, probe[:, 0], probe[:, 1])
    steps = np.array([[col[1] - col[0], col[2] - col[0]], [row[1] - row[0], row[2] - row[0]]])
    if not np.isfinite(steps).all() or abs(np.linalg.det(steps)) < 1e-12:
        return None
    ratio = np.hypot(*np.linalg.inv(steps).T)
    return np.where(ratio > _COARSER, ratio, 1.0)


def _empty(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Large squares of exact zeros, which are the undeclared border of a product."""
    zero = (values == 0).all(axis=0)
    if not zero.any():
        return zero
    inside = ndimage.minimum_filter(zero, _ZERO_BLOCK_PX, mode="nearest")
    # One pixel more, because interpolation mixes the border into its neighbours.
    found: NDArray[np.bool_] = ndimage.maximum_filter(inside, _ZERO_BLOCK_PX + 2, mode="constant")
    return found
