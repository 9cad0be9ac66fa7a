"""Where things lie: the regular grid of a study area, and how far two scenes are apart.

Place is always an odc-geo `GeoBox` (shape, affine and CRS as one float64 value). Pixel positions here
are counted at pixel centres: column 0, row 0 is the centre of the upper-left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry
from odc.geo.gridspec import GridSpec
from odc.geo.types import xy_
from pyproj import Transformer

from rsgeo_gan.errors import GridError

__all__ = ["Displacement", "Grid", "box_from_dict", "box_to_dict", "crs_code", "crs_of", "same_lattice", "transformed"]

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


@dataclass(frozen=True)
class Displacement:
    """Where the content of a moving raster lies relative to a reference raster.

    The content that the reference shows at pixel p lies, by the moving raster's own georeferencing, at
    p + d(p): `+x` right, `+y` down, in pixels of the reference. With u, v the column and row counted from
    the centre of the reference grid,

        dx = a + b·u + c·v,    dy = d + e·u + f·v.

    Attributes:
        geobox: The reference grid; its pixels are the unit.
        model: How much freedom the tie points supported; "none" leaves the geometry alone.
        matrix: (a, b, c, d, e, f); a and d are the mean displacement over the grid.
        sigma_px: Stated standard error, reference pixels; infinite when nothing could be measured.
        confidence: Probability-like trust in the displacement, 0 to 1.
        reliable: Whether the displacement may be applied.
        n_tie_points: Tie points that support it.
        reason: Why it is not reliable, or a remark; empty when all is well.
    """

    geobox: GeoBox
    model: Literal["none", "shift", "affine"] = "none"
    matrix: tuple[float, float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    sigma_px: float = float("inf")
    confidence: float = 0.0
    reliable: bool = False
    n_tie_points: int = 0
    reason: str = ""

    @classmethod
    def none(
        cls, geobox: GeoBox, *, reason: str, reliable: bool = False, sigma_px: float = float("inf")
    ) -> Displacement:
        """State that nothing is moved, and why."""
        return cls(geobox, sigma_px=sigma_px, reliable=reliable, reason=reason)

    @property
    def dx_px(self) -> float:
        """Mean displacement to the right, reference pixels."""
        return self.matrix[0]

    @property
    def dy_px(self) -> float:
        """Mean displacement downwards, reference pixels."""
        return self.matrix[3]

    @property
    def _affine(self) -> Affine:
        """Reference pixel coordinates (corner based) of content → where the moving raster holds it."""
        a, b, c, d, e, f = self.matrix
        height, width = self.geobox.shape
        about = Affine.translation(width / 2, height / 2)
        moved: Affine = about * Affine(1 + b, c, a, e, 1 + f, d) * ~about
        return moved

    def at(self, col: Any, row: Any) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate the displacement.

        Args:
            col: Reference columns at pixel centres, any shape.
            row: Reference rows, same shape.

        Returns:
            dx and dy in reference pixels, float64, same shape.
        """
        a, b, c, d, e, f = self.matrix
        height, width = self.geobox.shape
        u = np.asarray(col, dtype=np.float64) - (width - 1) / 2
        v = np.asarray(row, dtype=np.float64) - (height - 1) / 2
        return a + b * u + c * v, d + e * u + f * v

    def apply(self, box: GeoBox) -> GeoBox:
        """Say where the moving raster must be sampled so that its content fills `box` aligned.

        Reading the moving raster on the returned box, and labelling the pixels with `box`, applies the
        displacement and any reprojection in one resampling.

        Args:
            box: Where aligned content is wanted, in any CRS.

        Returns:
            A box of the same shape; exact when `box` is in the reference's CRS, else the best affine
            over the box.
        """
        if self.model == "none":
            return box
        if box.crs == self.geobox.crs:
            to_reference = ~self.geobox.affine * box.affine
            return GeoBox(box.shape, self.geobox.affine * self._affine * to_reference, box.crs)
        height, width = box.shape
        col, row = (part.ravel() for part in np.meshgrid(np.linspace(0, width, 5), np.linspace(0, height, 5)))
        there = Transformer.from_crs(crs_of(box).proj, crs_of(self.geobox).proj, always_xy=True)
        moved = self.geobox.affine * self._affine * ~self.geobox.affine
        x, y = there.transform(*transformed(box.affine, col, row))
        x, y = there.transform(*transformed(moved, x, y), direction="INVERSE")
        moved_col, moved_row = transformed(~box.affine, x, y)
        design = np.stack([col, row, np.ones_like(col)], axis=1)
        (a, b, c), (d, e, f) = np.linalg.lstsq(design, np.stack([moved_col, moved_row], axis=1), rcond=None)[0].T
        return box * Affine(a, b, c, d, e, f)

    def inverse(self) -> Displacement:
        """Return the displacement of the reference relative to the moving content, on the same grid."""
        height, width = self.geobox.shape
        about = Affine.translation(width / 2, height / 2)
        back = ~about * ~self._affine * about
        matrix = (back.c, back.a - 1, back.b, back.f, back.d, back.e - 1)
        return Displacement(
            self.geobox,
            self.model,
            matrix,
            self.sigma_px,
            self.confidence,
            self.reliable,
            self.n_tie_points,
            self.reason,
        )

    def to_dict(self) -> dict[str, Any]:
        """Describe the displacement in plain JSON types (an infinite sigma becomes null)."""
        return {
            "geobox": box_to_dict(self.geobox),
            "model": self.model,
            "matrix": [float(value) for value in self.matrix],
            "dx_px": float(self.dx_px),
            "dy_px": float(self.dy_px),
            "sigma_px": float(self.sigma_px) if np.isfinite(self.sigma_px) else None,
            "confidence": float(self.confidence),
            "reliable": bool(self.reliable),
            "n_tie_points": int(self.n_tie_points),
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Displacement:
        """Rebuild the displacement that `to_dict` described."""
        sigma = data["sigma_px"]
        return cls(
            box_from_dict(data["geobox"]),
            data["model"],
            tuple(data["matrix"]),
            float("inf") if sigma is None else float(sigma),
            float(data["confidence"]),
            bool(data["reliable"]),
            int(data["n_tie_points"]),
            data["reason"],
        )
