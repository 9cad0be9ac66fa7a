"""Both rasters on one matching grid: which grid, which blocks of it, and their descriptors.

The matching grid is the reference's own lattice, coarsened per axis to the moving raster's pixel size
where that is coarser, and cut to where the moving raster lies. The moving raster is warped onto it once,
for matching only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from dask.base import compute
from dask.delayed import delayed
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy import ndimage

from rsgeo_gan import raster
from rsgeo_gan.coregister.features import Descriptor
from rsgeo_gan.coregister.matching import Block
from rsgeo_gan.grid import pixels_in
from rsgeo_gan.sensors import Sensor

__all__ = ["Blocks", "Lattice", "View", "common_lattice", "default_bands"]

BLOCK_PX = 1024
"""Side of a block of the matching grid; what is held in memory grows with its square."""
MAX_BLOCKS_A_SIDE = 4
"""Larger scenes are sampled by this many blocks a side, spread evenly."""
RIM_PX = 12
"""Reach of the descriptors' filters, pixels."""

_COARSER = 1.25
_FEWEST_BLOCKS = 2
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
    x, y = pixels_in(reference, moving, col, row)
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


class Blocks:
    """The blocks of a matching grid, described when they are wanted.

    A scene of few blocks is held in memory. Of a larger one a sample, spread evenly, is held; `every` goes through
    all of it, so that memory does not grow with the scene.
    """

    def __init__(
        self,
        lattice: Lattice,
        reference: View,
        moving: View,
        describe: Descriptor,
        *,
        room_px: int,
        cell_px: int,
        workers: int = 1,
    ) -> None:
        """Lay the blocks out.

        Args:
            lattice: The matching grid.
            reference: How the reference is read.
            moving: How the moving raster is read.
            describe: The descriptor.
            room_px: Search room around each block, grid pixels.
            cell_px: Side of a cell; blocks hold whole cells.
            workers: Threads.
        """
        self.lattice, self.reference, self.moving, self.describe = lattice, reference, moving, describe
        self.room_px, self.workers = room_px, max(1, workers)
        first_col, first_row, core_width, core_height = lattice.core
        rows, columns = _cuts(first_row, core_height, cell_px), _cuts(first_col, core_width, cell_px)
        self._all = [(*col, *row) for row in rows for col in columns]
        some = [(*col, *row) for row in _spread(rows) for col in _spread(columns)]
        self._held = [block for block in _parallel(self._block, some, self.workers) if block is not None]
        self._whole = len(some) == len(self._all)
        left = [place for place in self._all if place not in set(some)]
        while left and len(self._held) < _FEWEST_BLOCKS:
            # The sample missed what both rasters show: look on until there is something to start from.
            part, left = left[: self.workers], left[self.workers :]
            self._held += [block for block in _parallel(self._block, part, self.workers) if block is not None]

    @property
    def sample(self) -> list[Block]:
        """Blocks that are held; those without anything in common are left out."""
        return self._held

    def every[T](self, function: Callable[[Block], T]) -> Iterator[T]:
        """Apply a function to every block of the scene, in order; what it returns should be small."""
        if self._whole:
            yield from _parallel(function, self._held, self.workers)
            return

        def described(place: tuple[int, int, int, int]) -> T | None:
            block = self._block(place)
            return None if block is None else function(block)

        for found in _parallel(described, self._all, self.workers):
            if found is not None:
                yield found

    def _block(self, place: tuple[int, int, int, int]) -> Block | None:
        """Read and describe both rasters; None where they have nothing in common."""
        col, cols, row, rows = place
        height, width = self.lattice.box.shape
        pad = self.room_px + RIM_PX
        left, top = max(0, col - pad), max(0, row - pad)
        right, bottom = min(width, col + cols + pad), min(height, row + rows + pad)
        affine = self.lattice.box.affine * Affine.translation(left, top)
        box = GeoBox((bottom - top, right - left), affine, self.lattice.box.crs)
        there, there_valid = self.moving.on(box)
        if not there_valid.any():
            return None
        here, here_valid = self.reference.on(box)
        if not here_valid.any():
            return None
        a, a_mask = self.describe(here, here_valid)
        b, b_mask = self.describe(there, there_valid)
        core = (col - left, row - top, cols, rows)
        return Block(a, b, a_mask.astype(np.float32), b_mask.astype(np.float32), (left, top), core)


class _Kept:
    """Hands an item to a task as it is; Dask would take a dataclass of arrays apart and copy it."""

    def __init__(self, item: Any) -> None:
        self.item = item


def _parallel[S, T](function: Callable[[S], T], items: Sequence[S], workers: int) -> Iterator[T]:
    """Apply a function to items in order, by so many threads, with no more results waiting than threads."""
    if workers == 1:
        yield from map(function, items)
        return
    task = delayed(lambda kept: function(kept.item), pure=False, traverse=False)
    for start in range(0, len(items), workers):
        part = [task(_Kept(item)) for item in items[start : start + workers]]
        yield from compute(*part, scheduler="threads", num_workers=workers)  # type: ignore[no-untyped-call]


def _cuts(start: int, length: int, cell_px: int) -> list[tuple[int, int]]:
    """Starts and lengths of blocks along one axis: whole cells, only the last block may be ragged."""
    side = max(1, BLOCK_PX // cell_px) * cell_px
    count = max(1, round(length / side))
    starts = [start + i * side for i in range(count)]
    return [(at, (side if i < count - 1 else start + length - at)) for i, at in enumerate(starts)]


def _spread(cuts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Cuts spread evenly, when there are too many."""
    if len(cuts) <= MAX_BLOCKS_A_SIDE:
        return cuts
    return [cuts[i] for i in np.linspace(0, len(cuts) - 1, MAX_BLOCKS_A_SIDE).round().astype(int)]


def _outline(box: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Columns and rows along a box's edge and across its middle, corner based."""
    height, width = box.shape
    steps = np.linspace(0.0, 1.0, 21)
    col, row = np.meshgrid(steps * width, steps * height)
    return col.ravel(), row.ravel()


def _pixel_ratio(reference: GeoBox, moving: GeoBox, at: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Size of a moving pixel in reference pixels along x and y, 1 where it is about as fine or finer."""
    probe = at + np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    col, row = pixels_in(moving, reference, probe[:, 0], probe[:, 1])
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
