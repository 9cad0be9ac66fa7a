"""The one resampling of every read: where each wanted pixel lies in a raster, and GDAL's kernels to get it there.

GDAL is told positions in pixels of the source, in a frame of its own, so it never transforms coordinates itself.
A displacement that is not affine, or a change of CRS, is handed over as a mesh of positions at the corners of
wanted pixels, between which GDAL interpolates linearly.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.warp import reproject
from rasterio.windows import Window

from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import GridError
from rsgeo_gan.grid import crs_code, pixels_in, transformed, turn_of, turned_to, whole_offset

__all__ = ["TOLERANCE_PX", "Mesh", "Straight", "Way", "way"]

# rasterio hands the same options to GDAL's transformer and to its warper, which says that it does not know them.
logging.getLogger("rasterio._env").addFilter(lambda record: "not support option DST_" not in record.getMessage())

TOLERANCE_PX = 0.01
"""Error of a position between the nodes of a mesh, in pixels of the source or the box, whichever are larger; exceeded
only where nodes two pixels apart are too few."""

_WIDEST_STEP_PX = 16
_FINEST_STEP_PX = 2
_KERNEL_PX = 4
_JUMP = 20
_FULL_CIRCLE = 0.999

# Any CRS serves, because source, mesh and result are all in it; the frame is not the identity, which GDAL would
# take for a raster without georeference.
_CRS = "EPSG:3857"
_FRAME = Affine(1, 0, 1, 0, -1, -1)


@dataclass(frozen=True)
class Straight:
    """An affine way from the pixels of a box to those of a source.

    Attributes:
        shape: Rows and columns of the box.
        affine: Position on the box → position in the source, both counted from the corner.
    """

    shape: tuple[int, int]
    affine: Affine

    def offset(self) -> tuple[int, int] | None:
        """Return column and row of the source's window that is the answer itself; None when there is none."""
        return whole_offset(self.affine, self.shape)

    def window(self, source: GeoBox) -> Window | None:
        """Return the part of the source that is needed, with room for the kernel; None when they do not meet."""
        height, width = self.shape
        col, row = transformed(self.affine, np.array([0, width, 0, width]), np.array([0, 0, height, height]))
        return _window(source, col.min(), col.max(), row.min(), row.max(), self.zoom())

    def zoom(self) -> tuple[float, float]:
        """Return how many columns and rows of the source a pixel of the box spans."""
        return math.hypot(self.affine.a, self.affine.b), math.hypot(self.affine.d, self.affine.e)

    def resample(self, values: NDArray[np.floating], window: Window, kernel: str) -> NDArray[np.floating]:
        """Resample once.

        Args:
            values: The source's `window`, shape (C, h, w), float32 or float64, NaN where invalid.
            window: What `window` returned.
            kernel: GDAL's name of the kernel.

        Returns:
            Shape (C, H, W), same dtype, NaN where nothing valid lies.
        """
        out = np.full((len(values), *self.shape), np.nan, values.dtype)
        placed = _FRAME * Affine.translation(-window.col_off, -window.row_off) * self.affine
        _reproject(values, out, placed, kernel, self.zoom(), {})
        return out


@dataclass(frozen=True, eq=False)
class Mesh:
    """A smooth way from the pixels of a box to those of a source, by positions at nodes.

    Attributes:
        shape: Rows and columns of the box.
        step: Pixels of the box between nodes; the first node is the box's corner.
        nodes: Columns and rows in the source, counted from its corner, shape (2, R, C); the last row and column
            of nodes lie at or beyond the box's end.
        sound: Whether a cell between four nodes is continuous and defined, shape (R - 1, C - 1).
    """

    shape: tuple[int, int]
    step: int
    nodes: NDArray[np.float64]
    sound: NDArray[np.bool_]

    @property
    def torn(self) -> bool:
        """Whether neighbours that have a place each are far apart, as on both sides of a raster's seam."""
        placed = _corners(np.isfinite(self.nodes).all(axis=0)[None], np.logical_and)[0]
        return bool((placed & ~self.sound).any())

    def offset(self) -> None:
        """No window of the source is the answer itself."""
        return None

    def window(self, source: GeoBox) -> Window | None:
        """Return the part of the source that is needed, with room for the kernel; None when they do not meet."""
        zoom = self.zoom()
        low, high = (_corners(self.nodes, reduce) for reduce in (np.minimum, np.maximum))
        height, width = source.shape
        room = [_KERNEL_PX * max(1.0, factor) + 2 for factor in zoom]
        met = self.sound & (high[0] > -room[0]) & (low[0] < width + room[0])
        met &= (high[1] > -room[1]) & (low[1] < height + room[1])
        if not met.any():
            return None
        return _window(source, low[0][met].min(), high[0][met].max(), low[1][met].min(), high[1][met].max(), zoom)

    def zoom(self) -> tuple[float, float]:
        """Return how many columns and rows of the source a pixel of the box typically spans."""
        if not self.sound.any():
            return 1.0, 1.0
        with np.errstate(invalid="ignore"):
            across = np.diff(self.nodes, axis=2)[:, :-1][:, self.sound] / self.step
            down = np.diff(self.nodes, axis=1)[:, :, :-1][:, self.sound] / self.step
        along_col, along_row = np.median(np.hypot(across, down), axis=1)
        return float(along_col), float(along_row)

    def resample(self, values: NDArray[np.floating], window: Window, kernel: str) -> NDArray[np.floating]:
        """Resample once; see `Straight.resample`."""
        height, width = self.shape
        _, rows, cols = self.nodes.shape
        finite = np.isfinite(self.nodes).all(axis=0)
        col = np.where(finite, self.nodes[0] - window.col_off, 0)
        row = np.where(finite, self.nodes[1] - window.row_off, 0)
        placed = np.ascontiguousarray(np.stack(transformed(_FRAME, col, row)))
        # GDAL takes the step to be the ratio of the sizes of result and mesh.
        out = np.full((len(values), rows * self.step, cols * self.step), np.nan, values.dtype)
        mesh = (
            f"MEM:::DATAPOINTER={placed.ctypes.data},PIXELS={cols},LINES={rows},BANDS=2,DATATYPE=FLOAT64,"
            f"SPATIALREFERENCE={_CRS}"
        )
        options = {"DST_METHOD": "GEOLOC_ARRAY", "DST_GEOLOC_ARRAY": mesh}
        with rasterio.Env(GDAL_MEM_ENABLE_OPEN=True):
            _reproject(values, out, _FRAME, kernel, self.zoom(), options)
        if not self.sound.all():
            lost = np.kron(~self.sound, np.ones((self.step, self.step), bool))
            out[:, : lost.shape[0], : lost.shape[1]][:, lost] = np.nan
        return out[:, :height, :width]


Way = Straight | Mesh


def way(source: GeoBox, box: GeoBox, displacement: Displacement | None = None) -> Way:
    """Find where the pixels of a box lie in a source.

    Args:
        source: Grid of the raster that is read.
        box: Where pixels are wanted, any CRS.
        displacement: Where the source's content lies relative to the reference; None for where its
            georeferencing says.

    Returns:
        The way from the box to the source; exact when it is affine, else within `TOLERANCE_PX`.

    Raises:
        GridError: If a CRS cannot be transformed, or the box crosses the seam of a raster around the world.
    """
    if displacement is not None and displacement.model == "none":
        displacement = None
    one_crs = source.crs == box.crs and (displacement is None or displacement.geobox.crs == box.crs)
    if one_crs and (displacement is None or displacement.field is None):
        placed = turned_to(box if displacement is None else displacement.apply(box), source)
        return Straight((int(box.shape.y), int(box.shape.x)), ~source.affine * placed.affine)
    step = min(_WIDEST_STEP_PX, max(1, min(box.shape) // 4))
    found = _mesh(source, box, displacement, step)
    error = _bend(found) / max(1.0, *found.zoom())
    if error > TOLERANCE_PX and step > _FINEST_STEP_PX:
        step = max(_FINEST_STEP_PX, math.floor(step * math.sqrt(TOLERANCE_PX / error)))
        found = _mesh(source, box, displacement, step)
    turn = turn_of(source)
    if turn is not None and found.torn and abs(source.affine.a) * source.shape.x > _FULL_CIRCLE * turn:
        raise GridError(
            f"A box of {tuple(box.shape)} pixels in {crs_code(box)} crosses the seam of a raster around the world: "
            "expected the place in one piece. Cut the raster so that its seam lies elsewhere "
            "(gdalwarp --config CENTER_LONG 180 -t_srs EPSG:4326)."
        )
    return found


def _mesh(source: GeoBox, box: GeoBox, displacement: Displacement | None, step: int) -> Mesh:
    height, width = int(box.shape.y), int(box.shape.x)
    rows, cols = -(-height // step) + 1, -(-width // step) + 1
    col, row = np.meshgrid(np.arange(cols) * float(step), np.arange(rows) * float(step))
    if displacement is None:
        found = np.stack(pixels_in(source, box, col, row))
    else:
        col, row = pixels_in(displacement.geobox, box, col, row)
        lost = ~np.isfinite(col)
        col, row = np.where(lost, 0, col), np.where(lost, 0, row)
        dx, dy = displacement.at(col - 0.5, row - 0.5)
        found = np.stack(pixels_in(source, displacement.geobox, col + dx, row + dy))
        found[:, lost] = np.inf
    return Mesh((height, width), step, found, _sound(found))


def _sound(nodes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Cells whose corners are defined and not torn apart, as by the longitude at which a CRS begins."""
    finite = np.isfinite(nodes).all(axis=0)
    safe = np.where(finite, nodes, 0)
    sound: NDArray[np.bool_] = _corners(finite[None], np.logical_and)[0]
    if not sound.any():
        return sound
    spread = (_corners(safe, np.maximum) - _corners(safe, np.minimum)).max(axis=0)
    sound &= spread <= _JUMP * np.median(spread[sound])
    return sound


def _corners(nodes: NDArray[Any], reduce: np.ufunc) -> NDArray[Any]:
    """Reduce the four corners of each cell, shape (K, R, C) to (K, R - 1, C - 1)."""
    return reduce(reduce(nodes[:, :-1, :-1], nodes[:, :-1, 1:]), reduce(nodes[:, 1:, :-1], nodes[:, 1:, 1:]))


def _bend(mesh: Mesh) -> float:
    """Estimate the largest error of linear interpolation between nodes, source pixels."""
    nodes = np.where(np.isfinite(mesh.nodes), mesh.nodes, np.nan)
    worst = 0.0
    for axis in (1, 2):
        if nodes.shape[axis] < 3:
            continue
        bend = np.abs(np.diff(nodes, 2, axis=axis)) / 8
        smooth = mesh.sound if axis == 1 else mesh.sound.T
        both = np.logical_and(smooth[:-1], smooth[1:])
        both = both if axis == 1 else both.T
        kept = bend[:, :, :-1] if axis == 1 else bend[:, :-1]
        kept = kept[:, both]
        worst += float(kept.max(initial=0.0))
    return worst


def _window(
    source: GeoBox, left: float, right: float, top: float, bottom: float, zoom: tuple[float, float]
) -> Window | None:
    pad_col, pad_row = (math.ceil(_KERNEL_PX * max(1.0, factor)) + 2 for factor in zoom)
    height, width = source.shape
    first_col, first_row = max(0, math.floor(left) - pad_col), max(0, math.floor(top) - pad_row)
    last_col, last_row = min(width, math.ceil(right) + pad_col), min(height, math.ceil(bottom) + pad_row)
    if last_col <= first_col or last_row <= first_row:
        return None
    return Window(first_col, first_row, last_col - first_col, last_row - first_row)


def _reproject(
    values: NDArray[np.floating],
    out: NDArray[np.floating],
    placed: Affine,
    kernel: str,
    zoom: tuple[float, float],
    options: dict[str, str],
) -> None:
    # Left alone, GDAL widens the kernel by the ratio of bounding boxes, which blurs what is merely rotated.
    wide, high = (1.0 if factor < 1.05 else 1 / factor for factor in zoom)
    reproject(
        values,
        out,
        src_transform=_FRAME,
        src_crs=_CRS,
        src_nodata=np.nan,
        dst_transform=placed,
        dst_crs=_CRS,
        dst_nodata=np.nan,
        resampling=Resampling[kernel],
        tolerance=0,
        num_threads=1,
        XSCALE=f"{wide:.9f}",
        YSCALE=f"{high:.9f}",
        UNIFIED_SRC_NODATA="NO",
        **options,
    )
