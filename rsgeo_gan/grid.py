"""Where things lie: the regular grid of a study area.

Place is always an odc-geo `GeoBox` (shape, affine and CRS as one float64 value). Pixel positions here
are counted at pixel centres: column 0, row 0 is the centre of the upper-left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from odc.geo.gridspec import GridSpec
from odc.geo.types import xy_

from rsgeo_gan.errors import GridError

__all__ = ["Grid", "box_from_dict", "box_to_dict", "crs_code", "crs_of", "same_lattice", "transformed"]

LATTICE_TOLERANCE_PX = 1e-4
"""Two grids whose pixel corners differ by less than this are one lattice: no resampling between them."""


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
    relative = ~a.affine * b.affine
    height, width = b.shape
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
