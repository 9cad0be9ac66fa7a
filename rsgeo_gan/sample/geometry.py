"""Where the invented scenes lie: optical and radar grids, and the known displacement between them."""

from __future__ import annotations

import math

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer

__all__ = ["OPTICAL_M", "RADAR_M", "displacement", "optical_box", "outline", "radar_box", "radar_positions"]

OPTICAL_M, RADAR_M = 10.0, 12.0
"""Pixel sizes, metres."""

OPTICAL_CRS, RADAR_CRS = "EPSG:32632", "EPSG:32633"
UPPER_LEFT = (698_760.0, 5_324_200.0)
"""Upper-left corner of the optical scene, metres in its CRS."""

SHIFT_PX = (2.3, -1.6)
"""Mean displacement in optical pixels: +x right, +y down."""

AFFINE_PX = (0.16, -0.10, 0.08, 0.13)
"""Linear part at the scene's edge, optical pixels: dx by column, dx by row, dy by column, dy by row."""

SMOOTH_RMS_PX = 0.4
"""Root mean square length of the smooth part, optical pixels."""

FloatArray = NDArray[np.float64]


def optical_box(size_px: int, pixel_m: float = OPTICAL_M) -> GeoBox:
    """Return the grid of the optical scene, UTM zone 32 north; with coarser pixels it may reach over the edge."""
    affine = Affine(pixel_m, 0, UPPER_LEFT[0], 0, -pixel_m, UPPER_LEFT[1])
    side = math.ceil(size_px * OPTICAL_M / pixel_m)
    return GeoBox((side, side), affine, OPTICAL_CRS)


def radar_box(size_px: int) -> GeoBox:
    """Return the radar grid around the optical scene: the next UTM zone, its own pixel size and phase."""
    east, north = outline(optical_box(size_px), RADAR_CRS)
    left = math.floor(east.min() / RADAR_M) * RADAR_M - 4 * RADAR_M + 5
    top = math.ceil(north.max() / RADAR_M) * RADAR_M + 4 * RADAR_M - 3
    width = math.ceil((east.max() - left) / RADAR_M) + 4
    height = math.ceil((top - north.min()) / RADAR_M) + 4
    return GeoBox((height, width), Affine(RADAR_M, 0, left, 0, -RADAR_M, top), RADAR_CRS)


def outline(box: GeoBox, crs: str, *, per_side: int = 16) -> tuple[FloatArray, FloatArray]:
    """Walk around a grid's outer edge, counterclockwise from the upper-left corner, without closing.

    Args:
        box: The grid.
        crs: Reference system of the result.
        per_side: Points on each side.

    Returns:
        Eastings and northings (or longitudes and latitudes), float64, shape (4 * per_side,).
    """
    height, width = box.shape
    steps = np.arange(per_side) / per_side
    columns = np.concatenate([0 * steps, steps, 0 * steps + 1, 1 - steps]) * width
    rows = np.concatenate([steps, 0 * steps + 1, 1 - steps, 0 * steps]) * height
    x, y = _apply(box.affine, columns, rows)
    east, north = Transformer.from_crs(str(box.crs), crs, always_xy=True).transform(x, y)
    return np.asarray(east), np.asarray(north)


def displacement(column: FloatArray, row: FloatArray, size_px: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Say how far radar content is moved: ground at optical pixel p appears at p + d in the radar scene.

    A constant shift, a small affine part and a smooth field of plane waves. Evaluated anywhere, exactly.

    Args:
        column: Optical pixel columns; 0 is the centre of the first pixel. Any shape, may lie outside.
        row: Optical pixel rows, same shape.
        size_px: Side of the optical scene, pixels.
        seed: Which smooth field.

    Returns:
        dx (right) and dy (down) in optical pixels, float64, of the shape of `column`.
    """
    rng = np.random.default_rng([seed, 3])
    half = size_px / 2
    u, v = (column - (size_px - 1) / 2) / half, (row - (size_px - 1) / 2) / half
    parts = []
    waves = 5
    amplitude = SMOOTH_RMS_PX / math.sqrt(waves)
    for shift, by_column, by_row in ((SHIFT_PX[0], *AFFINE_PX[:2]), (SHIFT_PX[1], *AFFINE_PX[2:])):
        part = shift + by_column * u + by_row * v
        for _ in range(waves):
            direction, phase = rng.uniform(0, 2 * np.pi, 2)
            number = 2 * np.pi / rng.uniform(260, 700)
            part = part + amplitude * np.sin(
                number * (math.cos(direction) * column + math.sin(direction) * row) + phase
            )
        parts.append(part)
    return parts[0], parts[1]


def radar_positions(box: GeoBox, size_px: int, seed: int) -> tuple[FloatArray, FloatArray]:
    """Find which ground each radar pixel shows.

    Args:
        box: Radar grid.
        size_px: Side of the optical scene, pixels.
        seed: Of the displacement.

    Returns:
        Columns and rows in optical pixels of the ground shown, float64, of the shape of the box: the p that
        solves p + d(p) = q, where q is the place the radar georeference claims.
    """
    height, width = box.shape
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    east, north = _apply(box.affine, columns, rows)
    to_optical = Transformer.from_crs(str(box.crs), OPTICAL_CRS, always_xy=True)
    east, north = to_optical.transform(east, north)
    claimed_x, claimed_y = _apply(~optical_box(size_px).affine, np.asarray(east), np.asarray(north))
    claimed_x, claimed_y = claimed_x - 0.5, claimed_y - 0.5
    x, y = claimed_x, claimed_y
    # The displacement varies by under 1 % a pixel, so each round gains two digits.
    for _ in range(4):
        dx, dy = displacement(x, y, size_px, seed)
        x, y = claimed_x - dx, claimed_y - dy
    return x, y


def _apply(affine: Affine, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f
