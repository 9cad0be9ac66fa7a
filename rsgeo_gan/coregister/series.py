"""A series on disk: every scene aligned to the reference, and what the pairs said about each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsgeo_gan.coregister.registration import Freedom, view
from rsgeo_gan.coregister.series_measure import SeriesEdge, SeriesResult, SeriesScene, measure_series
from rsgeo_gan.coregister.series_picture import draw_series
from rsgeo_gan.coregister.views import View
from rsgeo_gan.errors import CoregistrationError, GridError, RSGeoGANError, SourceError
from rsgeo_gan.grid import box_to_dict
from rsgeo_gan.manifest import write_json
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.sensors import Sensor

__all__ = ["SeriesResult", "align_series", "names_of", "series_record"]

_UNIT = (
    "dx, dy: where the content of the later-named scene lies relative to the first-named one, in pixels of the "
    "reference, + right, + down; mean over the reference grid"
)


def align_series(
    reference: Path | str,
    scenes: Sequence[Path | str],
    out: Path,
    *,
    reference_sensor: Sensor,
    sensors: Sensor | Sequence[Sensor],
    reference_bands: Sequence[int] | None = None,
    moving_bands: Sequence[int] | None = None,
    max_shift_px: float = 12.0,
    model: Freedom = "auto",
    method: str = "structure",
    neighbours: int = 3,
    workers: int = 1,
    progress: Progress = silent,
) -> SeriesResult:
    """Align many scenes to one reference, consistently, and write what a single pair writes for each of them.

    See `measure_series` for what is measured. `out` then holds a folder per scene, named after its file, and
    `series.json` and `series.png` for all of them.

    Args:
        reference: Raster that gives the geometry, a file or URL.
        scenes: Rasters whose content may lie elsewhere, best in the order of time.
        out: Folder to write into.
        reference_sensor: Facts of the reference's instrument.
        sensors: Facts of the scenes' instrument, or one for each.
        reference_bands: Bands to match by, counted from 1; by default chosen by the sensor.
        moving_bands: The same for all scenes.
        max_shift_px: Largest mean displacement looked for, reference pixels.
        model: Freedom allowed.
        method: Name of the descriptor.
        neighbours: How many of its followers each scene is compared with.
        workers: Pairs measured at the same time.
        progress: Told about every pair and every scene.

    Returns:
        The scenes with their displacements, and the pairs.

    Raises:
        SourceError: If the reference or none of the scenes can be read.
        GridError: If the reference has no usable georeference.
        CoregistrationError: If the settings are not understood or do not fit the number of scenes.
        ProductError: If `out` cannot be written.
    """
    out, names = Path(out), names_of(scenes)
    facts = _sensors(scenes, sensors)
    here = view(reference, reference_sensor, reference_bands)
    views = [_view(path, sensor, moving_bands) for path, sensor in zip(scenes, facts, strict=True)]
    result = measure_series(
        here, views, names, max_shift_px=max_shift_px, model=model, method=method, neighbours=neighbours,
        workers=workers, progress=progress,
    )  # fmt: skip
    write_json(out / "series.json", series_record(result, reference, scenes))
    draw_series(out / "series.png", result)
    return result


def names_of(scenes: Sequence[Path | str]) -> list[str]:
    """Name scenes by their files, without doubles, fit for folders."""
    names: list[str] = []
    for number, path in enumerate(scenes, start=1):
        stem = Path(str(path).split("?")[0]).stem
        name = "".join(c if (c.isalnum() and c.isascii()) or c in "_-" else "_" for c in stem)[:100]
        name = name or f"scene_{number}"
        names.append(name if name not in names else f"{name}_{number}")
    return names


def _sensors(scenes: Sequence[Path | str], sensors: Sensor | Sequence[Sensor]) -> list[Sensor]:
    facts = [sensors] * len(scenes) if isinstance(sensors, Sensor) else list(sensors)
    if not scenes or len(facts) != len(scenes):
        raise CoregistrationError(
            f"Series: expected at least one scene and one sensor for all or one for each, got {len(scenes)} scenes "
            f"and {len(facts)} sensors. Give as many sensors as files."
        )
    return facts


def _view(path: Path | str, sensor: Sensor, bands: Sequence[int] | None) -> View | RSGeoGANError:
    try:
        return view(path, sensor, bands)
    except (SourceError, GridError) as error:
        return error


def series_record(result: SeriesResult, reference: Path | str, scenes: Sequence[Path | str]) -> dict[str, Any]:
    """Describe a series in plain JSON types; numbers that are not finite become null."""
    names = ["reference", *(scene.name for scene in result.scenes)]
    return {
        "reference": str(reference),
        "geobox": box_to_dict(result.geobox),
        "unit": _UNIT,
        "scenes": [_scene(scene, path) for scene, path in zip(result.scenes, scenes, strict=True)],
        "edges": [_edge(edge, names) for edge in result.edges],
    }


def _scene(scene: SeriesScene, path: Path | str) -> dict[str, Any]:
    described = scene.displacement.to_dict()
    del described["geobox"]
    direct = scene.direct.displacement if scene.direct is not None else None
    return {
        "name": scene.name,
        "path": str(path),
        **described,
        "n_edges": scene.n_edges,
        "residual_px": _number(scene.residual_px),
        "direct": None
        if direct is None
        else {
            "dx_px": direct.dx_px,
            "dy_px": direct.dy_px,
            "sigma_px": _number(direct.sigma_px),
            "reliable": direct.reliable,
            "reason": direct.reason,
        },
        "error": scene.error,
    }


def _edge(edge: SeriesEdge, names: Sequence[str]) -> dict[str, Any]:
    return {
        "from": names[edge.start],
        "to": names[edge.stop],
        "measured_px": [_number(value) for value in edge.measured_px],
        "fitted_px": [_number(value) for value in edge.fitted_px],
        "residual_px": _number(edge.residual_px),
        "sigma_px": _number(edge.sigma_px),
        "used": edge.used,
        "reason": edge.reason,
    }


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
