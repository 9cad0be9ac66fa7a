"""The files of a measured pair: displacement as a raster, tie points as arrows, the result as JSON.

Everywhere dx is positive to the right and dy positive downwards, in pixels of the reference: the content
that the reference shows at a place lies there plus (dx, dy) by the moving raster's own georeference.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from rsgeo_gan.coregister.registration import Registration
from rsgeo_gan.coregister.styles import arrow_scale, displacement_style, tie_point_style
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import ProductError
from rsgeo_gan.grid import crs_code, transformed
from rsgeo_gan.manifest import write_json
from rsgeo_gan.raster import StripWriter

__all__ = [
    "FIELD_BANDS",
    "MAP_BANDS",
    "coarsened",
    "plain_numbers",
    "reasons_of",
    "stored_whole",
    "write_displacement",
    "write_displacement_map",
    "write_record",
    "write_tie_points",
]

FIELD_BANDS = ("dx", "dy", "confidence", "sigma_px")
"""Bands of a stored displacement."""
MAP_BANDS = (*FIELD_BANDS, "magnitude_px")
"""Bands of a displacement to be looked at: the last one is the length of (dx, dy)."""

_NODES_A_SIDE = 256
_STRIP_PX = 256
_UNITS = (
    "dx, dy: pixels of the reference, + right, + down, from where the reference shows a content to where the moving "
    "raster holds it; confidence: 0..1; sigma_px: expected error, pixels of the reference, infinite when unknown"
)


def coarsened(box: GeoBox, longest_px: int) -> GeoBox:
    """Return the box itself, or one of pixels a whole factor larger so that no side exceeds a length.

    Args:
        box: A box.
        longest_px: Greatest number of pixels a side.

    Returns:
        A box on the same axes and corner; its last row and column may reach beyond.
    """
    height, width = box.shape
    factor = math.ceil(max(height, width) / longest_px)
    if factor <= 1:
        return box
    shape = math.ceil(height / factor), math.ceil(width / factor)
    return GeoBox(shape, box.affine * Affine.scale(factor), box.crs)


def write_displacement(path: Path, displacement: Displacement) -> Path:
    """Store a displacement so that it can be read back: a field at its nodes, another on a coarse grid.

    Args:
        path: GeoTIFF to write, bands `FIELD_BANDS`, float32.
        displacement: What to store.

    Returns:
        The path.

    Raises:
        ProductError: If it cannot be written.
    """
    field = displacement.field
    if field is None:
        box = coarsened(displacement.geobox, _NODES_A_SIDE)
        return _write(path, box, FIELD_BANDS, displacement, lambda at: _evaluated(displacement, at), cog=False)
    nodes = np.stack([*field.values, field.confidence, field.sigma_px]).astype(np.float32)
    height, width = field.box.shape
    row = iter(range(0, height, _STRIP_PX))

    def strip(at: GeoBox) -> NDArray[np.float32]:
        start = next(row)
        return nodes[:, start : start + at.shape.y, :width]

    return _write(path, field.box, FIELD_BANDS, displacement, strip, cog=False)


def write_displacement_map(
    path: Path, displacement: Displacement, box: GeoBox, *, tags: Mapping[str, str] | None = None, known: bool = True
) -> Path:
    """Write a displacement for people and programs that look at it, with a QGIS style.

    Args:
        path: COG to write, bands `MAP_BANDS`, float32.
        displacement: What to write.
        box: Where, on the reference's axes.
        tags: More tags.
        known: Whether there is anything to tell; without any overlap all bands are NaN.

    Returns:
        The path.

    Raises:
        ProductError: If it cannot be written.
    """
    longest = 0.0

    def strip(at: GeoBox) -> NDArray[np.float32]:
        nonlocal longest
        if not known:
            return np.full((len(MAP_BANDS), *at.shape), np.nan, np.float32)
        values = _evaluated(displacement, at)
        length = np.hypot(values[0], values[1])[None]
        longest = max(longest, float(length.max()))
        return np.concatenate([values, length])

    _write(path, box, MAP_BANDS, displacement, strip, tags=tags, cog=True)
    displacement_style(path, len(MAP_BANDS), longest)
    return path


def _write(
    path: Path,
    box: GeoBox,
    bands: tuple[str, ...],
    displacement: Displacement,
    strip: Callable[[GeoBox], NDArray[np.float32]],
    *,
    cog: bool,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Write a raster strip by strip; `strip` is asked from top to bottom."""
    about = {
        "RSGEO_UNIT": _UNITS,
        "RSGEO_MODEL": displacement.model,
        "RSGEO_RELIABLE": str(displacement.reliable).lower(),
        "RSGEO_REASON": displacement.reason,
        "RSGEO_SIGMA_PX": f"{displacement.sigma_px:.4f}",
        **(tags or {}),
    }
    height, width = box.shape
    writer = StripWriter(
        path, box, len(bands), "float32", float("nan"), bands, tags=about, cog=cog, masked=False
    )  # fmt: skip
    with writer:
        for row in range(0, height, _STRIP_PX):
            shape = min(_STRIP_PX, height - row), width
            writer.write(strip(GeoBox(shape, box.affine * Affine.translation(0, row), box.crs)), row)
    return path


def _evaluated(displacement: Displacement, box: GeoBox) -> NDArray[np.float32]:
    """dx, dy, confidence and expected error at the pixel centres of a box on the reference's axes."""
    height, width = box.shape
    to_reference = ~displacement.geobox.affine * box.affine
    col, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    col, row = (part - 0.5 for part in transformed(to_reference, col, row))
    dx, dy = displacement.at(col, row)
    sigma, confidence = displacement.quality(col, row)
    return np.stack([dx, dy, confidence, sigma]).astype(np.float32)


def write_tie_points(path: Path, registration: Registration) -> Path:
    """Write tie points as arrows of true length, with a QGIS style.

    Each arrow leads from the place where the reference shows a content to where the moving raster holds it,
    in the reference's CRS. Fields: `dx_px`, `dy_px`, `length_px` (measured), `score`, `confidence`,
    `residual_px` (distance of the measured from the stated displacement), `used` and `reason`, which is
    empty for a tie point that supports the displacement.

    Args:
        path: GeoPackage to write, one layer `tie_points`; without tie points it is empty.
        registration: What was measured.

    Returns:
        The path.

    Raises:
        ProductError: If it cannot be written.
    """
    points, displacement = registration.points, registration.displacement
    affine = displacement.geobox.affine
    dx, dy = displacement.at(*points.at.T)
    start = np.stack(transformed(affine, *(points.at + 0.5).T), axis=-1)
    end = np.stack(transformed(affine, *(points.at + points.found + 0.5).T), axis=-1)
    reason = reasons_of(registration)
    layer = geopandas.GeoDataFrame(
        {
            "dx_px": points.found[:, 0],
            "dy_px": points.found[:, 1],
            "length_px": np.hypot(*points.found.T),
            "score": points.score,
            "confidence": points.confidence,
            "residual_px": np.hypot(points.found[:, 0] - dx, points.found[:, 1] - dy),
            "used": reason == "",
            "reason": reason.astype(object),
        },
        geometry=shapely.linestrings(np.stack([start, end], axis=1)),
        crs=crs_code(displacement.geobox),
    )

    def store(staged: Path) -> None:
        layer.to_file(
            staged, driver="GPKG", layer="tie_points", engine="pyogrio", geometry_type="LineString", VERSION="1.2"
        )

    stored_whole(path, store)
    lengths = np.hypot(*(end - start).T)
    tie_point_style(path, arrow_scale(lengths, _spacing(start)))
    return path


def reasons_of(registration: Registration) -> NDArray[np.str_]:
    """Why each tie point does not support a displacement that is used; empty where it does.

    Of a pair that was declined no tie point is used; one that has no reason of its own says "declined".
    """
    points = registration.points
    known: NDArray[np.str_] = np.asarray(points.reason)
    return known if registration.displacement.reliable else np.where(known == "", "declined", known)


def _spacing(places: NDArray[np.float64]) -> float:
    """Typical distance between neighbours, in the unit of the places."""
    if len(places) < 2:
        return math.inf
    extent = np.ptp(places, axis=0)
    return float(np.sqrt(max(extent[0] * extent[1], 0.0) / len(places)) or extent.max() / len(places))


def write_record(path: Path, record: Mapping[str, Any]) -> Path:
    """Write the result as JSON; what is not finite becomes null.

    Raises:
        ProductError: If it cannot be written.
    """
    return write_json(path, plain_numbers(record))


def plain_numbers(value: Any) -> Any:
    """Return plain JSON types: NumPy values as numbers, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): plain_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain_numbers(entry) for entry in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str) else str(value)


def stored_whole(path: Path, store: Callable[[Path], Any]) -> Path:
    """Let something be written under a temporary name, then rename it.

    Args:
        path: Final path; its folder is created.
        store: Writes the file it is given.

    Returns:
        The path.

    Raises:
        ProductError: If it cannot be written.
    """
    staged = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store(staged)
        staged.replace(path)
    except (OSError, RuntimeError) as error:
        raise ProductError(
            f"Cannot write {path}: {getattr(error, 'strerror', None) or error}. Free some space or choose a folder "
            "that you may write to, and start again."
        ) from error
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
    return path
