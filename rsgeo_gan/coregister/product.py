"""Co-registration alone: two files in, a folder with the aligned raster and the evidence out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from odc.geo.geobox import GeoBox

import rsgeo_gan
from rsgeo_gan import raster
from rsgeo_gan.coregister.apply import Status, align, status_of
from rsgeo_gan.coregister.files import coarsened, write_displacement_map, write_record, write_tie_points
from rsgeo_gan.coregister.inputs import Input, detected, look_at
from rsgeo_gan.coregister.pictures import Layer, checkerboard
from rsgeo_gan.coregister.record import describe, headline, in_a_word, in_numbers
from rsgeo_gan.coregister.registration import Freedom, Registration, survey
from rsgeo_gan.coregister.styles import style_path
from rsgeo_gan.coregister.views import View
from rsgeo_gan.errors import ProductError
from rsgeo_gan.sensors import Sensor

__all__ = ["FILES", "RECORD", "Product", "align_pair", "input_of", "made_writable", "write_pair"]

FILES = {
    "aligned": "aligned.tif",
    "displacement": "displacement.tif",
    "tie_points": "tie_points.gpkg",
    "checkerboard": "checkerboard.png",
}
"""Names in the folder, by their key in `coregistration.json`."""
RECORD = "coregistration.json"

_MAP_SIDE_PX = 1024


@dataclass(frozen=True)
class Product:
    """What one pair came to.

    Attributes:
        folder: Where the files are.
        status: "aligned": displaced and reprojected; "unchanged": measured, and nothing to displace;
            "declined": nothing certain could be measured, so at most reprojected.
        record: Content of `coregistration.json`.
    """

    folder: Path
    status: Status
    record: dict[str, Any] = field(repr=False)

    @property
    def summary(self) -> str:
        """What came of it, in a few words and numbers, for a person."""
        numbers = ", ".join(f"{name} {value}" for name, value in in_numbers(self.record).items())
        advice = f" {self.record['next_step']}" if self.record["next_step"] else ""
        return f"{headline(self.record)} ({numbers}); see {self.folder / RECORD}.{advice}"


def align_pair(
    reference: str | Path,
    moving: str | Path,
    out: str | Path,
    *,
    reference_sensor: str | None = None,
    moving_sensor: str | None = None,
    reference_bands: Sequence[int] | None = None,
    moving_bands: Sequence[int] | None = None,
    model: Freedom = "auto",
    max_shift_px: float = 12.0,
    method: str = "structure",
    workers: int = 1,
) -> Product:
    """Align one raster to another and write everything a person or program needs to judge it.

    Writes `aligned.tif` (on the reference's grid), `displacement.tif`, `tie_points.gpkg`,
    `checkerboard.png`, QGIS styles and, last, `coregistration.json`. When nothing certain can be measured
    the moving raster is only reprojected; without any overlap there is no `aligned.tif`.

    Args:
        reference: Raster that gives the geometry, a file or URL.
        moving: Raster whose content may lie elsewhere.
        out: Folder for the files.
        reference_sensor: Name of the reference's sensor; told from the file, or not needed, when None.
        moving_sensor: The same for the moving raster.
        reference_bands: Bands to match by, counted from 1; by default up to two of the finest.
        moving_bands: The same for the moving raster.
        model: Freedom allowed: "auto", "none", "shift", "affine" or "field".
        max_shift_px: Largest displacement looked for, reference pixels.
        method: Name of the descriptor.
        workers: Parallel workers.

    Returns:
        What came of it.

    Raises:
        SourceError: If a raster cannot be read, has not the bands, or contradicts its declared unit.
        GridError: If a raster has no usable georeference, or the two lie on different bodies.
        CatalogError: If a sensor is not known.
        CoregistrationError: If method, model or max_shift_px are not understood.
        ProductError: If the folder cannot be written.
    """
    folder = Path(out)
    reference, moving = str(reference), str(moving)
    made_writable(folder, reference, moving)
    with tempfile.TemporaryDirectory(prefix=".power-", dir=folder) as spare:
        here = input_of(reference, "reference", reference_sensor, reference_bands, Path(spare))
        there = input_of(moving, "moving", moving_sensor, moving_bands, Path(spare))
        found = survey(
            here.view, there.view, max_shift_px=max_shift_px, model=model, method=method, workers=workers
        )  # fmt: skip
        settings = {"model_asked": model, "method": method, "max_shift_px": max_shift_px}
        return write_pair(folder, here, there, found, settings, workers=workers)


def made_writable(folder: Path, *inputs: str) -> None:
    """Make a folder, and find out now whether files can be made in it without losing an input.

    Raises:
        ProductError: If not.
    """
    for path in inputs:
        if any(Path(path).resolve() == (folder / name).resolve() for name in FILES.values()):
            raise ProductError(
                f"{path} is both an input and a result to be written: expected another folder. Choose another --out."
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ProductError(
            f"Cannot write {folder}: {error.strerror or error}. Choose an output folder that you may write to."
        ) from error


def input_of(
    path: str, role: Literal["reference", "moving"], sensor: str | None, bands: Sequence[int] | None, spare: Path
) -> Input:
    """Look at a raster; complex samples are first turned into their power, in the folder `spare`.

    Raises:
        SourceError: If it cannot be read, has not the bands, or contradicts its declared unit.
        GridError: If it has no usable georeference.
        CatalogError: If the sensor is not known.
    """
    info = raster.inspect(path)
    if np.dtype(info.dtype).kind != "c":
        return look_at(path, role, sensor=sensor, bands=bands)
    copy = detected(path, spare / f"{role}.tif")
    seen = look_at(str(copy), role, sensor=sensor, bands=bands)
    note = f"{role}: complex samples were turned into their power, |z|²"
    if sensor is not None:
        return replace(seen, source=path, notes=(note,))
    names = [f"band{i}" for i in range(1, info.count + 1)]
    facts = Sensor.generic("complex-sar", modality="sar", unit="linear", bands=names)
    look = View(copy, facts, seen.view.bands)
    return Input(look, seen.info, path, "told by the file", (note,))


def write_pair(
    folder: Path, here: Input, there: Input, found: Registration, settings: Mapping[str, Any], *, workers: int = 1
) -> Product:
    """Write the files of a pair that was measured, the record last; what an earlier run left is taken away.

    Args:
        folder: Where to, an existing folder.
        here: The reference.
        there: The moving raster.
        found: What was measured.
        settings: How, for the record.
        workers: Threads that resample.

    Returns:
        What came of it.

    Raises:
        SourceError: If the moving raster breaks off.
        ProductError: If a file cannot be written.
    """
    for name in (*FILES.values(), RECORD):
        (folder / name).unlink(missing_ok=True)
        style_path(folder / name).unlink(missing_ok=True)
    displacement = found.displacement
    status = status_of(displacement)
    overlaps = found.overlap is not None
    record = describe(here, there, found, settings)
    tags = {
        "COREG_STATUS": status,
        "COREG_REASON": displacement.reason,
        "COREG_REFERENCE": Path(here.source).name,
        "COREG_MOVING": Path(there.source).name,
        "COREG_VERSION": rsgeo_gan.__version__,
    }
    aligned = folder / FILES["aligned"]
    if overlaps:
        align(
            there.view,
            displacement,
            aligned,
            workers=workers,
            classes=there.classes,
            reference_name=tags["COREG_REFERENCE"],
            tags={"COREG_MOVING": tags["COREG_MOVING"]},
        )
    box = coarsened(displacement.geobox, _MAP_SIDE_PX)
    write_displacement_map(folder / FILES["displacement"], displacement, box, tags=tags, known=overlaps)
    write_tie_points(folder / FILES["tie_points"], found)
    _picture(folder / FILES["checkerboard"], here, there, found, record, aligned if overlaps else None)
    record["files"] = {key: name if (folder / name).exists() else None for key, name in FILES.items()}
    write_record(folder / RECORD, record)
    return Product(folder, status, record)


def _picture(
    path: Path, here: Input, there: Input, found: Registration, record: dict[str, Any], aligned: Path | None
) -> None:
    """Draw the checkerboard of a registration."""
    displacement = found.displacement
    box = _on_reference(found.overlap, displacement.geobox) if found.overlap is not None else None
    moved = None
    if aligned is not None and record["status"] == "aligned":
        moved = Layer(View(aligned, there.view.sensor, there.view.bands), _power(there))
    centre = _detail_centre(found, box)
    checkerboard(
        path,
        Layer(here.view, _power(here)),
        Layer(there.view, _power(there)),
        moved,
        box=box,
        detail=centre,
        title=in_a_word(record),
        lines=(
            f"{Path(there.source).name} on {Path(here.source).name}",
            "    ".join(f"{name} {value}" for name, value in in_numbers(record).items()),
        ),
        alert=record["status"] == "declined",
    )


def _power(entry: Input) -> bool:
    return entry.view.sensor.physical and entry.view.sensor.modality == "sar"


def _on_reference(overlap: GeoBox, reference: GeoBox) -> GeoBox:
    """The overlap in whole pixels of the reference."""
    there = ~reference.affine * overlap.affine
    height, width = overlap.shape
    corners = np.array([there * corner for corner in ((0, 0), (width, 0), (0, height), (width, height))])
    low, high = np.floor(corners.min(axis=0) + 1e-6), np.ceil(corners.max(axis=0) - 1e-6)
    low, high = np.maximum(low, 0), np.minimum(high, [reference.shape.x, reference.shape.y])
    left, top, right, bottom = int(low[0]), int(low[1]), int(high[0]), int(high[1])
    return reference[top : max(bottom, top + 1), left : max(right, left + 1)]


def _detail_centre(found: Registration, box: GeoBox | None) -> tuple[float, float] | None:
    """Where the detail is worth looking at: about the best tie point, in pixels of the box."""
    if box is None or not len(found.points):
        return None
    points = found.points
    best = points.at[int(np.argmax(points.score * points.weight))]
    col, row = (~box.affine * found.displacement.geobox.affine) * (float(best[0]) + 0.5, float(best[1]) + 0.5)
    return float(col), float(row)
