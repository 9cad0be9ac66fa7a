"""A series on disk: every scene aligned to the reference, and what the pairs said about each other."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rsgeo_gan import raster
from rsgeo_gan.coregister.apply import status_of
from rsgeo_gan.coregister.inputs import Input
from rsgeo_gan.coregister.product import input_of, made_writable, write_pair
from rsgeo_gan.coregister.registration import Freedom, view
from rsgeo_gan.coregister.series_measure import measure_series
from rsgeo_gan.coregister.series_picture import draw_series
from rsgeo_gan.coregister.series_result import SeriesEdge, SeriesResult, SeriesScene
from rsgeo_gan.errors import CoregistrationError, GridError, RSGeoGANError, SourceError
from rsgeo_gan.grid import box_to_dict
from rsgeo_gan.manifest import write_json
from rsgeo_gan.progress import Progress, silent, track
from rsgeo_gan.sensors import Sensor

__all__ = ["SeriesResult", "align_series", "names_of", "series_record"]

Given = Sensor | str | None
Role = Literal["reference", "moving"]

_UNIT = (
    "dx, dy: where the content of the later-named scene lies relative to the first-named one, in pixels of the "
    "reference, + right, + down; mean over the reference grid"
)


def align_series(
    reference: Path | str,
    scenes: Sequence[Path | str],
    out: Path | str,
    *,
    reference_sensor: Given = None,
    sensors: Given | Sequence[Given] = None,
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

    See `measure_series` for what is measured. `out` then holds a folder per scene, named after its file, with
    the files of `align_pair`, and `series.json` and `series.png` for all of them. A scene that cannot be read has
    no folder; `series.json` says why.

    Args:
        reference: Raster that gives the geometry, a file or URL.
        scenes: Rasters whose content may lie elsewhere, best in the order of time.
        out: Folder to write into.
        reference_sensor: Facts or name of the reference's instrument; told from the file, or not needed, when None.
        sensors: The same for the scenes: one for all, or one for each.
        reference_bands: Bands to match by, counted from 1; by default up to two of the finest.
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
        CatalogError: If a sensor is not known.
        CoregistrationError: If the settings are not understood or do not fit the number of scenes.
        ProductError: If `out` cannot be written.
    """
    folder, names = Path(out), names_of(scenes)
    facts = _sensors(scenes, sensors)
    made_writable(folder)
    with tempfile.TemporaryDirectory(prefix=".power-", dir=folder) as spare:
        here = _seen(reference, "reference", reference_sensor, reference_bands, Path(spare) / "0")
        seen = [
            _tried(path, sensor, moving_bands, Path(spare) / str(number))
            for number, (path, sensor) in enumerate(zip(scenes, facts, strict=True), start=1)
        ]
        views = [entry.view if isinstance(entry, Input) else entry for entry in seen]
        result = measure_series(
            here.view, views, names, max_shift_px=max_shift_px, model=model, method=method, neighbours=neighbours,
            workers=workers, progress=progress,
        )  # fmt: skip
        settings = {"model_asked": model, "method": method, "max_shift_px": max_shift_px, "neighbours": neighbours}
        for old in ("series.json", "series.png"):
            (folder / old).unlink(missing_ok=True)
        written: list[SeriesScene] = []
        for scene, there in track(list(zip(result.scenes, seen, strict=True)), "writing scenes", progress):
            if isinstance(there, Input) and scene.direct is not None:
                own = folder / scene.name
                made_writable(own, here.source, there.source)
                found = replace(scene.direct, displacement=scene.displacement)
                try:
                    write_pair(own, here, there, found, settings | {"series": _evidence(scene)}, workers=workers)
                except (SourceError, GridError) as error:
                    scene = replace(scene, error=str(error))
            written.append(scene)
        result = replace(result, scenes=tuple(written))
    write_json(folder / "series.json", series_record(result, reference, scenes))
    draw_series(folder / "series.png", result)
    return result


def names_of(scenes: Sequence[Path | str]) -> list[str]:
    """Name scenes by their files, without doubles, fit for folders."""
    names: list[str] = []
    for number, path in enumerate(scenes, start=1):
        stem = Path(str(path).split("?")[0]).stem
        name = "".join(c if (c.isalnum() and c.isascii()) or c in "_-" else "_" for c in stem)[:100]
        name = name or f"scene_{number}"
        wanted, count = name, number
        while name in names:
            name, count = f"{wanted}_{count}", count + 1
        names.append(name)
    return names


def _sensors(scenes: Sequence[Path | str], sensors: Given | Sequence[Given]) -> list[Given]:
    one = sensors is None or isinstance(sensors, str | Sensor)
    facts = [sensors] * len(scenes) if one else list(sensors)  # type: ignore[arg-type]
    if not scenes or len(facts) != len(scenes):
        raise CoregistrationError(
            f"Series: expected at least one scene and one sensor for all or one for each, got {len(scenes)} scenes "
            f"and {len(facts)} sensors. Give as many sensors as files."
        )
    return facts  # type: ignore[return-value]


def _seen(path: Path | str, role: Role, sensor: Given, bands: Sequence[int] | None, spare: Path) -> Input:
    """Look at a raster, by facts or by the name of its sensor."""
    if isinstance(sensor, Sensor):
        return Input(view(path, sensor, bands), raster.inspect(path), str(path), "given")
    spare.mkdir()
    return input_of(str(path), role, sensor, bands, spare)


def _tried(path: Path | str, sensor: Given, bands: Sequence[int] | None, spare: Path) -> Input | RSGeoGANError:
    """Look at a scene, or say why that fails."""
    try:
        return _seen(path, "moving", sensor, bands, spare)
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
    return {
        "name": scene.name,
        "path": str(path),
        "status": status_of(scene.displacement),
        **described,
        **_evidence(scene),
        "error": scene.error,
    }


def _evidence(scene: SeriesScene) -> dict[str, Any]:
    """What the pairs say about a scene, next to what its direct pair says alone."""
    direct = scene.direct.displacement if scene.direct is not None else None
    alone = None
    if direct is not None:
        facts = direct.to_dict()
        alone = {key: facts[key] for key in ("model", "dx_px", "dy_px", "sigma_px", "confidence", "reliable", "reason")}
    return {"n_edges": scene.n_edges, "closure_px": _number(scene.residual_px), "direct": alone}


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
