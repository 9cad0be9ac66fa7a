"""What is told about a measured pair: the JSON record, its headline and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
from odc.geo.geobox import GeoBox

import rsgeo_gan
from rsgeo_gan.coregister.apply import status_of
from rsgeo_gan.coregister.files import reasons_of
from rsgeo_gan.coregister.inputs import Input
from rsgeo_gan.coregister.registration import Registration
from rsgeo_gan.grid import crs_of, pixels_in

__all__ = ["FORMAT", "describe", "headline", "in_a_word", "in_numbers"]

FORMAT = 1
"""Version of the record's keys."""

_PARTS = "Relief or change moves parts differently: try --model field, other bands, or RTC instead of GRD."
_NEXT_STEPS = {
    "no overlap": "Check the CRS and the georeference of both rasters.",
    "too little valid data": "Choose scenes with less nodata or cloud, or with more of the ground in common.",
    "no texture": "Choose a scene that shows edges: coast, roads, fields.",
    "peak at the edge of the search": "The content may lie further away: raise --max-shift-px.",
    "two peaks": "The ground repeats itself (rows, blocks): choose a larger piece or other bands.",
    "halves disagree": _PARTS,
    "windows disagree": _PARTS,
    "weak match": "Check that both rasters show the same place; try other bands or a date closer in time.",
}
"""What to try when a pair was declined, by reason code."""

_ADVICE = (
    "Sentinel-1 GRD in relief is displaced by up to 16 px, differently within one tile, which a smooth displacement "
    "follows only in part: prefer terrain-corrected products (RTC)."
)


def headline(record: Mapping[str, Any]) -> str:
    """Say in one line which raster was put on which, and what came of it."""
    moving, reference = (Path(record[role]["path"]).name for role in ("moving", "reference"))
    return f"{moving} on {reference}: {in_a_word(record)}"


def in_a_word(record: Mapping[str, Any]) -> str:
    """Say what came of a pair."""
    if record["status"] == "declined":
        return f"DECLINED, geometry left alone: {record['reason']}"
    if record["status"] == "unchanged":
        return "reprojected only, as asked" if record.get("model_asked") == "none" else "left as it is, already aligned"
    return "aligned"


def in_numbers(record: Mapping[str, Any]) -> dict[str, str]:
    """Give the numbers that matter to a person, with their units, by their names."""
    if record["status"] == "declined":
        return {"tie points": str(record["n_tie_points"]), "overlap": f"{record['overlap_share']:.0%}"}
    numbers = {
        "model": record["model"],
        "dx": f"{record['dx_px']:+.2f} px",
        "dy": f"{record['dy_px']:+.2f} px",
        "σ": f"{record['sigma_px']:.2f} px" if record["sigma_px"] is not None else "unknown",
        "confidence": f"{record['confidence']:.2f}",
        "tie points": str(record["n_tie_points"]),
    }
    if record["status"] == "aligned" and "east_m" in record:
        east, north = record["east_m"], record["north_m"]
        across, along = "east" if east >= 0 else "west", "north" if north >= 0 else "south"
        numbers["content lay"] = f"{abs(east):.1f} m {across}, {abs(north):.1f} m {along}"
    return numbers


def describe(here: Input, there: Input, found: Registration, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Tell everything that is known about a pair.

    Args:
        here: The reference.
        there: The moving raster.
        found: What was measured.
        settings: How it was measured.

    Returns:
        Plain types; what is not known is None. `conventions` says what the numbers mean.
    """
    displacement, points = found.displacement, found.points
    dx, dy = displacement.mean(found.overlap if found.overlap is not None else displacement.geobox)
    used = reasons_of(found) == ""
    expected = np.stack(displacement.at(*points.at.T), axis=-1)
    residual = np.hypot(*(points.found - expected).T)[used]
    share_here, share_there = _shares(here.info.geobox, there.info.geobox)
    known = bool(residual.size) and displacement.reliable
    return {
        "format": FORMAT,
        "status": status_of(displacement),
        "reason": displacement.reason,
        "next_step": _NEXT_STEPS.get(displacement.reason, "") if status_of(displacement) == "declined" else "",
        "reliable": displacement.reliable,
        "model": displacement.model,
        "dx_px": dx,
        "dy_px": dy,
        **_metres(displacement.geobox, dx, dy),
        "sigma_px": displacement.sigma_px if np.isfinite(displacement.sigma_px) else None,
        "confidence": displacement.confidence,
        "n_tie_points": displacement.n_tie_points,
        "n_tie_points_rejected": int((~used).sum()),
        "residual_px": found.residual_px if known else None,
        "radial_residual_px": {
            "median": float(np.median(residual)) if known else None,
            "p90": float(np.quantile(residual, 0.9)) if known else None,
            "max": float(residual.max()) if known else None,
        },
        "matrix": [float(value) for value in displacement.matrix],
        **settings,
        "overlap_share": max(share_here, share_there),
        "overlap_share_of_reference": share_here,
        "reference": here.to_dict(),
        "moving": there.to_dict(),
        "notes": [*here.notes, *there.notes, *([_ADVICE] if _is_grd(here, there) else [])],
        "conventions": {
            "dx_px, dy_px": "mean over the overlap of where the moving content lies relative to the reference, by the "
            "moving raster's own georeference; pixels of the reference, + right, + down",
            "dx_m, dy_m": "the same in metres of the map, along the reference's rows and columns",
            "matrix": "dx = a + b*u + c*v, dy = d + e*u + f*v; u, v: column, row from the reference's centre",
            "sigma_px": "expected error, pixels of the reference; null when unknown",
            "confidence": "probability of an error below 1 px, 0 to 1",
        },
        "versions": {
            "rsgeo_gan": rsgeo_gan.__version__,
            "gdal": rasterio.__gdal_version__,
            "rasterio": rasterio.__version__,
            "proj": pyproj.proj_version_str,
            "numpy": np.__version__,
        },
    }


def _is_grd(*inputs: Input) -> bool:
    return any(entry.view.sensor.quantity == "sigma0" for entry in inputs)


def _metres(box: GeoBox, dx: float, dy: float) -> dict[str, float]:
    """The displacement in metres, where the CRS has a unit of length."""
    crs = crs_of(box).proj
    if not (crs.is_projected or crs.is_engineering) or not crs.axis_info:
        return {}
    unit = crs.axis_info[0].unit_conversion_factor
    a = box.affine
    return {
        "dx_m": dx * float(np.hypot(a.a, a.d)) * unit,
        "dy_m": dy * float(np.hypot(a.b, a.e)) * unit,
        "east_m": (a.a * dx + a.b * dy) * unit,
        "north_m": (a.d * dx + a.e * dy) * unit,
    }


def _shares(a: GeoBox, b: GeoBox, steps: int = 64) -> tuple[float, float]:
    """Share of a that b covers, and share of b that a covers, by a lattice of places."""
    return _covered(a, b, steps), _covered(b, a, steps)


def _covered(box: GeoBox, other: GeoBox, steps: int) -> float:
    height, width = box.shape
    middle = (np.arange(steps) + 0.5) / steps
    col, row = (part.ravel() for part in np.meshgrid(middle * width, middle * height))
    col, row = pixels_in(other, box, col, row)
    rows, cols = other.shape
    return float(((col >= 0) & (col < cols) & (row >= 0) & (row < rows)).mean())
