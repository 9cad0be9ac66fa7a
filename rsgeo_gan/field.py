"""A smooth displacement by its nodes: what it says between them, how far it can be trusted, how it is undone.

Pixel positions are counted at pixel centres: column 0, row 0 is the centre of the upper-left pixel.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from odc.geo.geobox import GeoBox
from scipy import ndimage

from rsgeo_gan.errors import GridError
from rsgeo_gan.grid import transformed

__all__ = ["Field"]

Values = NDArray[np.float32]

_RIM = 8
_ROUNDS = 100
_SETTLED_PX = 1e-4


@dataclass(frozen=True, eq=False)
class Field:
    """A smooth displacement given at the nodes of a coarse lattice over the reference grid.

    Between nodes it is a cubic spline through them, beyond the outermost ones it stays as it is at the nearest
    place of the lattice.

    Attributes:
        box: The lattice: its pixel centres are the nodes. It has the reference's CRS and axes, coarser pixels,
            and covers what both rasters show.
        values: dx, dy at the nodes in pixels of the reference, shape (2, R, C), float32; the whole
            displacement, not what an affine part leaves.
        sigma_px: Expected error at the nodes, reference pixels, shape (R, C).
        confidence: Probability-like trust at the nodes, 0 to 1, shape (R, C).
    """

    box: GeoBox
    values: Values
    sigma_px: Values
    confidence: Values

    def at(self, geobox: GeoBox, col: ArrayLike, row: ArrayLike) -> NDArray[np.float64]:
        """Evaluate the displacement at pixels of the reference grid.

        Args:
            geobox: The reference grid.
            col: Columns at pixel centres, any shape.
            row: Rows, same shape.

        Returns:
            dx and dy, shape (2, ...), float64.
        """
        places = self._places(geobox, col, row)
        # Nodes go on in a straight line beyond the rim, so that the spline has no bend of its own there.
        wide = np.pad(
            self.values.astype(np.float64), ((0, 0), (_RIM, _RIM), (_RIM, _RIM)), "reflect", reflect_type="odd"
        )
        found = np.stack([ndimage.map_coordinates(v, places + _RIM, order=3, mode="mirror") for v in wide])
        return found.reshape(2, *np.broadcast_shapes(np.shape(col), np.shape(row)))

    def quality(self, geobox: GeoBox, col: ArrayLike, row: ArrayLike) -> NDArray[np.float64]:
        """Evaluate expected error and confidence, linear between nodes; arguments as `at`.

        Returns:
            sigma_px and confidence, shape (2, ...), float64.
        """
        places = self._places(geobox, col, row)
        parts = (self.sigma_px, self.confidence)
        found = np.stack([ndimage.map_coordinates(v, places, np.float64, order=1, mode="nearest") for v in parts])
        for part, unknown in zip(found, (np.inf, 0.0), strict=True):
            part[np.isnan(part)] = unknown
        return found.reshape(2, *np.broadcast_shapes(np.shape(col), np.shape(row)))

    def _places(self, geobox: GeoBox, col: ArrayLike, row: ArrayLike) -> NDArray[np.float64]:
        """Node rows and columns of reference pixels, shape (2, N), those beyond the rim brought to it."""
        to_node = ~self.box.affine * geobox.affine
        col, row = np.broadcast_arrays(np.asarray(col, np.float64), np.asarray(row, np.float64))
        x, y = transformed(to_node, col.ravel() + 0.5, row.ravel() + 0.5)
        height, width = self.box.shape
        return np.stack([np.clip(y - 0.5, 0, height - 1), np.clip(x - 0.5, 0, width - 1)])

    def inverse(self, geobox: GeoBox) -> Field:
        """Return the field that leads back, on the same lattice.

        Args:
            geobox: The reference grid.

        Returns:
            The field of -d(p) at q = p + d(p), with the quality known at p.

        Raises:
            GridError: If the field folds.
        """
        rows, cols = self.box.shape
        to_reference = ~geobox.affine * self.box.affine
        grid = np.meshgrid(np.arange(cols) + 0.5, np.arange(rows) + 0.5)
        there = np.stack(transformed(to_reference, *grid)) - 0.5
        origin = there
        for _ in range(_ROUNDS):
            origin, before = there - self.at(geobox, *origin), origin
            left = float(np.abs(origin - before).max())
            if left < _SETTLED_PX:
                break
        else:
            raise GridError(
                f"A displacement field of {rows} x {cols} nodes folds: expected it to change by less than a pixel a "
                f"pixel, and its inverse is {left:.3g} px apart after {_ROUNDS} rounds. Use a stiffer model."
            )
        sigma_px, confidence = self.quality(geobox, *origin).astype(np.float32)
        return Field(self.box, (origin - there).astype(np.float32), sigma_px, confidence)

    @property
    def digest(self) -> str:
        """Fingerprint of the nodes and their values; the same after a journey through a file."""
        parts = (self.values, self.sigma_px, self.confidence)
        where = [f"{value:.9g}" for value in self.box.affine[:6]]
        known = hashlib.sha256(repr([tuple(self.box.shape), where]).encode())
        for part in parts:
            known.update(np.ascontiguousarray(part, np.float32).tobytes())
        return known.hexdigest()
