"""How far two scenes are apart: where the content of one raster lies relative to another.

Pixel positions are counted at pixel centres: column 0, row 0 is the centre of the upper-left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from affine import Affine
from numpy.typing import ArrayLike, NDArray
from odc.geo.geobox import GeoBox

from rsgeo_gan.errors import GridError
from rsgeo_gan.field import Field
from rsgeo_gan.grid import box_from_dict, box_to_dict, pixels_in, turned_to

__all__ = ["Displacement", "Field"]

_SPREAD = 16


@dataclass(frozen=True)
class Displacement:
    """Where the content of a moving raster lies relative to a reference raster.

    The content that the reference shows at pixel p lies, by the moving raster's own georeferencing, at
    p + d(p): `+x` right, `+y` down, in pixels of the reference. With u, v the column and row counted from
    the centre of the reference grid,

        dx = a + b·u + c·v,    dy = d + e·u + f·v,

    unless there is a field, which then says it all; the matrix is its best affine likeness.

    Attributes:
        geobox: The reference grid; its pixels are the unit.
        model: How much freedom the tie points supported; "none" leaves the geometry alone.
        matrix: (a, b, c, d, e, f); a and d are the mean displacement over the grid.
        sigma_px: Stated standard error, reference pixels; infinite when nothing could be measured.
        confidence: Probability-like trust in the displacement, 0 to 1.
        reliable: Whether the displacement may be applied.
        n_tie_points: Tie points that support it.
        reason: Why it is not reliable, or a remark; empty when all is well.
        field: The smooth displacement, when the model is "field".
    """

    geobox: GeoBox
    model: Literal["none", "shift", "affine", "field"] = "none"
    matrix: tuple[float, float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    sigma_px: float = float("inf")
    confidence: float = 0.0
    reliable: bool = False
    n_tie_points: int = 0
    reason: str = ""
    field: Field | None = None

    def __post_init__(self) -> None:
        if (self.model == "field") != (self.field is not None):
            raise GridError(
                f'A displacement of model "{self.model}" {"lacks its" if self.field is None else "has a"} field: '
                "expected a field with the model field, and only then. Read it with `manifest.displacement_of`."
            )

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
        if self.field is not None:
            dx, dy = self.field.at(self.geobox, col, row)
            return dx, dy
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
        if box.crs == self.geobox.crs and self.field is None:
            box = turned_to(box, self.geobox)
            to_reference = ~self.geobox.affine * box.affine
            return GeoBox(box.shape, self.geobox.affine * self._affine * to_reference, box.crs)
        height, width = box.shape
        col, row = (part.ravel() for part in np.meshgrid(np.linspace(0, width, 5), np.linspace(0, height, 5)))
        here_col, here_row = pixels_in(self.geobox, box, col, row)
        known = np.isfinite(here_col)
        if known.sum() < 3:
            return box
        here_col, here_row = here_col[known], here_row[known]
        dx, dy = self.at(here_col - 0.5, here_row - 0.5)
        moved = np.stack(pixels_in(box, self.geobox, here_col + dx, here_row + dy), axis=1)
        design = np.stack([col[known], row[known], np.ones_like(here_col)], axis=1)
        (a, b, c), (d, e, f) = np.linalg.lstsq(design, moved, rcond=None)[0].T
        return box * Affine(a, b, c, d, e, f)

    def mean(self, box: GeoBox) -> tuple[float, float]:
        """Average the displacement over a box.

        Args:
            box: Any box over the reference, any CRS.

        Returns:
            Mean dx and dy, reference pixels.
        """
        dx, dy = self.at(*self._spread(box))
        return float(np.mean(dx)), float(np.mean(dy))

    def quality(self, col: ArrayLike, row: ArrayLike) -> NDArray[np.float64]:
        """Evaluate expected error and confidence; arguments as `at`.

        Returns:
            sigma_px and confidence, shape (2, ...), float64; the same everywhere unless there is a field.
        """
        if self.field is not None:
            return self.field.quality(self.geobox, col, row)
        shape = np.broadcast_shapes(np.shape(col), np.shape(row))
        return np.stack([np.full(shape, self.sigma_px), np.full(shape, self.confidence)])

    def mean_quality(self, box: GeoBox) -> tuple[float, float]:
        """Summarise expected error and confidence over a box.

        Args:
            box: Any box over the reference, any CRS.

        Returns:
            Root mean square of sigma_px, and mean confidence.
        """
        sigma_px, confidence = self.quality(*self._spread(box))
        return float(np.sqrt(np.mean(sigma_px**2))), float(np.mean(confidence))

    def _spread(self, box: GeoBox) -> tuple[np.ndarray, np.ndarray]:
        """Reference positions (pixel centres whole) spread evenly over a box."""
        height, width = box.shape
        share = (np.arange(_SPREAD) + 0.5) / _SPREAD
        col, row = pixels_in(self.geobox, box, *np.meshgrid(share * width, share * height))
        seen = np.isfinite(col)
        if not seen.any():
            raise GridError(
                f"A box of {tuple(box.shape)} pixels has no place in the reference's CRS: expected a box over the "
                "reference grid. Take the box of the overlap."
            )
        return col[seen] - 0.5, row[seen] - 0.5

    def inverse(self) -> Displacement:
        """Return the displacement of the reference relative to the moving content, on the same grid.

        Raises:
            GridError: If a field folds, so that one place of the moving raster has several origins.
        """
        height, width = self.geobox.shape
        about = Affine.translation(width / 2, height / 2)
        back = ~about * ~self._affine * about
        matrix = (back.c, back.a - 1, back.b, back.f, back.d, back.e - 1)
        field = self.field.inverse(self.geobox) if self.field is not None else None
        return replace(self, matrix=matrix, field=field)

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
            **({"field": self.field.digest} if self.field is not None else {}),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any], field: Field | None = None) -> Displacement:
        """Rebuild the displacement that `to_dict` described.

        Args:
            data: What `to_dict` gave.
            field: The field, which lies in a file of its own; see `rsgeo_gan.manifest.displacement_of`.
        """
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
            field,
        )
