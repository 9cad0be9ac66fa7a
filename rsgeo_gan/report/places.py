"""Outlines of grids in another reference system, for maps and mosaics."""

from __future__ import annotations

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer

__all__ = ["affine_apply", "outline", "placed"]


def affine_apply(affine: Affine, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply an affine to arrays of coordinates."""
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def placed(box: GeoBox, column: np.ndarray, row: np.ndarray, crs: str) -> tuple[np.ndarray, np.ndarray]:
    """Return where pixel positions of a box (0, 0 is its upper-left corner) lie in another reference system."""
    x, y = affine_apply(box.affine, column, row)
    x, y = Transformer.from_crs(str(box.crs), crs, always_xy=True).transform(x, y)
    return np.asarray(x), np.asarray(y)


def outline(box: GeoBox, crs: str, *, per_side: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Walk around a box, closed.

    Args:
        box: The box.
        crs: Reference system of the result.
        per_side: Points on each side.

    Returns:
        Eastings and northings, shape (4 * per_side,).
    """
    height, width = box.shape
    steps = np.linspace(0, 1, per_side)
    column = np.concatenate([steps, 0 * steps + 1, 1 - steps, 0 * steps]) * width
    row = np.concatenate([0 * steps, steps, 0 * steps + 1, 1 - steps]) * height
    return placed(box, column, row, crs)
