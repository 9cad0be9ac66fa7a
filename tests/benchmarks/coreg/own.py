"""Our method behind the same call: through files as a user has them, and on arrays to try settings quickly."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from coreg.cases import Points, Tile
from coreg.rivals import Answer

__all__ = ["files", "on_arrays", "survey_files", "written"]

PIXEL_M = 10.0


def written(tile: Tile, path: Path) -> Path:
    """Write a tile as a plain GeoTIFF on a UTM grid, NaN as nodata."""
    height, width = tile.values.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=1, dtype="float32", nodata=float("nan"),
        crs="EPSG:32632", transform=Affine(PIXEL_M, 0, 300000, 0, -PIXEL_M, 5000000),
    ) as file:  # fmt: skip
        file.write(tile.values, 1)
    return path


def files(reference: Tile, moving: Tile, reach_px: float) -> Answer:
    """Public route: two files, `survey`. Writing is not timed, reading is."""
    with tempfile.TemporaryDirectory(prefix="rsgeo-coreg-") as folder:
        paths = [written(tile, Path(folder) / f"{name}.tif") for name, tile in (("ref", reference), ("mov", moving))]
        return survey_files(paths[0], paths[1], reference, moving, reach_px)


def survey_files(here: Path, there: Path, reference: Tile, moving: Tile, reach_px: float) -> Answer:
    """Measure two files; the tiles only tell unit and modality."""
    from rsgeo_gan.coregister.registration import survey, view
    from rsgeo_gan.sensors import Sensor

    sensors = [
        Sensor.generic("benchmark", modality=tile.modality, unit=tile.unit, bands=("band",))  # type: ignore[arg-type]
        for tile in (reference, moving)
    ]
    start = time.process_time()
    found = survey(view(here, sensors[0], (1,)), view(there, sensors[1], (1,)), max_shift_px=reach_px).displacement
    seconds = time.process_time() - start

    def at(xy: Points) -> Points:
        return np.stack(found.at(xy[:, 0], xy[:, 1]), axis=1)

    note = found.reason or found.model
    return Answer(found.reliable, at if found.reliable else None, seconds, found.sigma_px, found.confidence, note)


def on_arrays(reference: Tile, moving: Tile, reach_px: float) -> Answer:
    """The same measurement without files."""
    from rsgeo_gan.coregister.features import METHODS
    from rsgeo_gan.coregister.matching import Block
    from rsgeo_gan.coregister.measure import measure

    start = time.process_time()
    sides = []
    for tile in (reference, moving):
        valid = np.isfinite(tile.values)
        linear = np.power(np.float32(10), tile.values / np.float32(10)) if tile.unit == "dB" else tile.values
        sides.append(METHODS["structure"](np.where(valid, linear, np.float32(0))[None], valid))
    (here, known), (there, also) = sides
    height, width = reference.values.shape
    block = Block(here, there, known.astype(np.float32), also.astype(np.float32), (0.0, 0.0), (0, 0, width, height))
    found = measure([block], reach_px, ("none", "shift", "affine", "field"))
    seconds = time.process_time() - start
    at = found if found.reliable else None
    note = found.reason or found.kind
    return Answer(found.reliable, at, seconds, found.sigma_px, found.confidence, note)
