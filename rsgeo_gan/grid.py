"""Where things lie: the regular grid of a study area.

Place is always an odc-geo `GeoBox` (shape, affine and CRS as one float64 value). Pixel positions here
are counted at pixel centres: column 0, row 0 is the centre of the upper-left pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import ArrayLike
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from odc.geo.gridspec import GridSpec
from odc.geo.types import xy_
from pyproj import Geod, Transformer
from pyproj.exceptions import ProjError

from rsgeo_gan.errors import GridError

__all__ = [
    "Grid",
    "box_from_dict",
    "box_to_dict",
    "crs_code",
    "crs_of",
    "divided",
    "fineness",
    "is_local",
    "local_box",
    "pixel_m",
    "pixels_in",
    "same_lattice",
    "sharpness",
    "transformed",
    "turn_of",
    "turned_to",
    "whole_offset",
]

LATTICE_TOLERANCE_PX = 1e-4
"""Two grids whose pixel corners differ by less than this are one lattice: no resampling between them."""

_FINEST = 8
_SHARPER = 1.5

_LOCAL_CRS = (
    'LOCAL_CS["Image without georeference",UNIT["metre",1,AUTHORITY["EPSG","9001"]],'
    'AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
)


def local_box(shape: tuple[int, int], pixel: float) -> GeoBox:
    """Return a frame for an image that lies at no known place: its upper-left corner is the origin.

    Args:
        shape: Rows and columns.
        pixel: Pixel size, metres.

    Returns:
        A box in a CRS of its own, which nothing can be transformed from or to.
    """
    return GeoBox(shape, Affine(pixel, 0, 0, 0, -pixel, 0), _LOCAL_CRS)


def is_local(box: GeoBox) -> bool:
    """Tell whether a box lies in an engineering CRS, so that its place on the earth is not known."""
    return bool(crs_of(box).proj.is_engineering)


def divided(box: GeoBox, scale: int) -> GeoBox:
    """Return the box of the same place with each pixel divided into scale by scale; the corner stays where it is."""
    a, b, left, d, e, top = box.affine[:6]
    height, width = box.shape
    finer = Affine(a / scale, b / scale, left, d / scale, e / scale, top)
    return GeoBox((height * scale, width * scale), finer, box.crs)


def fineness(box: GeoBox, other: GeoBox) -> float:
    """Return how many pixels of another box span one of a box at its middle; NaN where it reaches nothing there."""
    height, width = box.shape
    col, row = width / 2 + np.array([0, 1, 0]), height / 2 + np.array([0, 0, 1])
    there_col, there_row = pixels_in(other, box, col, row)
    if not np.isfinite([there_col, there_row]).all():
        return math.nan
    across = np.hypot(there_col[1] - there_col[0], there_row[1] - there_row[0])
    down = np.hypot(there_col[2] - there_col[0], there_row[2] - there_row[0])
    return math.sqrt(across * down)


def sharpness(box: GeoBox, other: GeoBox) -> int:
    """Return the fineness of another box in whole numbers, 1 to 8, as blurring and thinning out need it."""
    finer = fineness(box, other)
    return min(_FINEST, max(2, round(finer))) if finer >= _SHARPER else 1


def pixel_m(box: GeoBox) -> tuple[float, float]:
    """Return the lengths in metres of the two sides of a pixel in the middle of a box: along a row, and down a column.

    A projected CRS is taken at its word: distances on its plane, in its own unit.
    """
    height, width = box.shape
    crs = crs_of(box)
    if crs.geographic:
        middle = box.affine * (width / 2, height / 2)
        ends = (box.affine * (width / 2 + 1, height / 2), box.affine * (width / 2, height / 2 + 1))
        across, down = (abs(float(Geod(ellps="WGS84").inv(*middle, *end)[2])) for end in ends)
        return across, down
    unit = float(crs.proj.axis_info[0].unit_conversion_factor) if crs.proj.axis_info else 1.0
    a, b, _, d, e, _ = box.affine[:6]
    return unit * math.hypot(a, d), unit * math.hypot(b, e)


def crs_of(box: GeoBox) -> CRS:
    """Return the CRS of a box.

    Raises:
        GridError: If it has none.
    """
    if box.crs is None:
        raise GridError(f"A box of {tuple(box.shape)} pixels has no CRS: expected one. Give the CRS of the raster.")
    return box.crs


def crs_code(box: GeoBox) -> str:
    """Return the CRS of a box as `EPSG:n`, or as WKT where there is no such code."""
    epsg = crs_of(box).to_epsg()
    return f"EPSG:{epsg}" if epsg else crs_of(box).to_wkt()


def transformed(affine: Affine, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply an affine transform to arrays of coordinates, in float64."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def turn_of(box: GeoBox) -> float | None:
    """Return a full circle of longitude in CRS units, 360 for degrees; None when the CRS is not geographic."""
    proj = crs_of(box).proj
    if not proj.is_geographic:
        return None
    return float(round(2 * np.pi / proj.axis_info[0].unit_conversion_factor, 6))


def _middle(box: GeoBox) -> float:
    return float((box.affine * (box.shape.x / 2, box.shape.y / 2))[0])


def turned_to(box: GeoBox, near: GeoBox) -> GeoBox:
    """Count a geographic box's longitudes as `near` does: both sides of 180° are one place.

    Args:
        box: A box.
        near: The box whose count of longitudes is wanted.

    Returns:
        The box, moved by whole turns so that it lies within half a turn of `near`; as it is when the two CRSs
        differ or are not geographic.
    """
    turn = turn_of(near) if box.crs == near.crs else None
    turns = 0 if turn is None else round((_middle(near) - _middle(box)) / turn)
    return GeoBox(box.shape, Affine.translation(turns * turn, 0) * box.affine, box.crs) if turn and turns else box


def pixels_in(box: GeoBox, other: GeoBox, col: ArrayLike, row: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Say where pixel positions of one box lie in another, whatever their CRSs.

    Args:
        box: The box whose pixels are wanted.
        other: The box whose positions are given.
        col: Columns of `other`, counted from the box's corner (0.5 is the centre of the first pixel), any shape.
        row: Rows, same shape.

    Returns:
        Columns and rows of `box`, counted from its corner, float64; infinite where no place corresponds.
        Longitudes are counted within half a turn of the middle of `box`.

    Raises:
        GridError: If one CRS cannot be transformed to the other.
    """
    x, y = transformed(other.affine, np.asarray(col), np.asarray(row))
    if other.crs != box.crs:
        try:
            x, y = Transformer.from_crs(crs_of(other).proj, crs_of(box).proj, always_xy=True).transform(x, y)
        except ProjError as error:
            raise GridError(
                f"There is no transformation from {crs_of(other).proj.name} to {crs_of(box).proj.name}: expected two "
                "CRSs of one body. Pair scenes of the same planet, or correct the CRS of one."
            ) from error
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    turn = turn_of(box)
    if turn is not None:
        with np.errstate(invalid="ignore"):
            x = x + turn * np.nan_to_num(np.round((_middle(box) - x) / turn), nan=0, posinf=0, neginf=0)
    with np.errstate(invalid="ignore"):
        found_col, found_row = transformed(~box.affine, x, y)
    lost = ~(np.isfinite(found_col) & np.isfinite(found_row))
    return np.where(lost, np.inf, found_col), np.where(lost, np.inf, found_row)


def box_to_dict(box: GeoBox) -> dict[str, Any]:
    """Describe a box in plain JSON types, without loss: `shape`, `transform` and `crs`."""
    return {
        "shape": [int(box.shape.y), int(box.shape.x)],
        "transform": [float(value) for value in box.affine[:6]],
        "crs": crs_code(box),
    }


def box_from_dict(data: dict[str, Any]) -> GeoBox:
    """Rebuild the box that `box_to_dict` described, to the last bit."""
    return GeoBox(tuple(data["shape"]), Affine(*data["transform"]), data["crs"])


def same_lattice(a: GeoBox, b: GeoBox) -> tuple[int, int] | None:
    """Find the whole-pixel offset between two boxes of one lattice.

    Args:
        a: A box.
        b: Another box.

    Returns:
        Column and row of b's upper-left pixel in a's pixels, or None when CRS, pixel size, rotation or
        phase differ by more than `LATTICE_TOLERANCE_PX` anywhere on b.
    """
    if a.crs != b.crs:
        return None
    return whole_offset(~a.affine * b.affine, (b.shape.y, b.shape.x))


def whole_offset(relative: Affine, shape: tuple[int, int]) -> tuple[int, int] | None:
    """Find the whole-pixel offset that an affine way between pixels amounts to.

    Args:
        relative: Position on one box → position on another, both counted from the corner.
        shape: Rows and columns of the first box.

    Returns:
        Column and row of its upper-left pixel on the other, or None when anything but a whole-pixel shift is
        left, by more than `LATTICE_TOLERANCE_PX` anywhere.
    """
    height, width = shape
    col, row = round(relative.c), round(relative.f)
    for x, y in ((0, 0), (width, 0), (0, height), (width, height)):
        px, py = relative * (x, y)
        if abs(px - col - x) > LATTICE_TOLERANCE_PX or abs(py - row - y) > LATTICE_TOLERANCE_PX:
            return None
    return col, row


@dataclass(frozen=True)
class Grid:
    """A regular tiling of a projected CRS; a tile is one cell with an integer index.

    Indexes grow eastward and northward from `origin`, so a tile keeps its index whatever area is asked for.

    Attributes:
        crs: CRS as an authority code or WKT; its unit is the unit of `gsd`.
        gsd: Pixel size in CRS units.
        tile_px: Side of a tile, in pixels.
        origin: Easting and northing of a tile corner, CRS units.
    """

    crs: str
    gsd: float
    tile_px: int
    origin: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not self.gsd > 0 or self.tile_px < 1:
            raise GridError(
                f"A grid needs a pixel size above 0 and tiles of at least 1 pixel, got gsd={self.gsd}, "
                f"tile_px={self.tile_px}; set both in the catalogue's `grid`."
            )

    @property
    def spec(self) -> GridSpec:
        """The odc-geo grid behind this one."""
        return GridSpec(self.crs, (self.tile_px, self.tile_px), self.gsd, origin=xy_(*self.origin))

    def box(self, index: tuple[int, int]) -> GeoBox:
        """Return the box of one tile.

        Args:
            index: Column and row of the tile, counted eastward and northward.

        Returns:
            Its box, `tile_px` pixels a side, north up.
        """
        return self.spec.tile_geobox(index)

    def indices(self, footprint: Geometry) -> list[tuple[int, int]]:
        """List the tiles that touch a footprint, in reading order (north to south, west to east).

        Args:
            footprint: Polygon in any CRS.

        Returns:
            Tile indexes, without doubles.
        """
        area = footprint.to_crs(self.spec.crs, resolution=self.gsd * self.tile_px / 4)
        found = {index for index, _ in self.spec.tiles_from_geopolygon(area)}
        return sorted(found, key=lambda index: (-index[1], index[0]))

    @staticmethod
    def tile_id(index: tuple[int, int]) -> str:
        """Name a tile by its index, in a form that sorts and is safe as a file name."""
        return f"x{index[0]:+07d}_y{index[1]:+07d}"

    def to_dict(self) -> dict[str, Any]:
        """Describe the grid in plain JSON types."""
        return {"crs": self.crs, "gsd": self.gsd, "tile_px": self.tile_px, "origin": list(self.origin)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Grid:
        """Rebuild the grid that `to_dict` described."""
        return cls(data["crs"], float(data["gsd"]), int(data["tile_px"]), tuple(data["origin"]))
