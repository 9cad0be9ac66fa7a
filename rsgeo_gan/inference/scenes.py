"""Generates whole scenes: one COG per scene and direction, seamless, in memory that grows with the width.

A scene is read once from top to bottom by a thread that runs ahead, translated window by window, and
written by another thread. A window is its core and a halo as wide as the generator's receptive radius; the
halo is cropped. With normalisation frozen for the scene (a first pass over sample windows), every kept
pixel equals the forward pass over the whole scene, so there is no seam to blend away.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pystac
import rasterio
import torch

from rsgeo_gan.errors import CheckpointError, ProductError, RSGeoGANError, SourceError
from rsgeo_gan.grid import Grid, box_to_dict
from rsgeo_gan.inference.baseline import untrained
from rsgeo_gan.inference.checkpoints import TRUSTED
from rsgeo_gan.inference.devices import device_of
from rsgeo_gan.inference.encoding import Encoding
from rsgeo_gan.inference.placement import ordered, place
from rsgeo_gan.inference.records import finished, write_item
from rsgeo_gan.inference.streaming import SceneReader, sample_windows, strips_of, translate
from rsgeo_gan.inference.translator import Translator
from rsgeo_gan.manifest import (
    Manifest,
    check_share,
    make_item,
    safe_name,
    write_text,
)
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.provenance import Direction, Provenance, fingerprint, noise_seed, product_stem, qml, sides
from rsgeo_gan.raster import GDAL_CACHE_MIB, StripWriter, inspect
from rsgeo_gan.tiling import side_of

__all__ = ["generate"]

_log = logging.getLogger(__name__)

_STAGE = "generate"


@dataclass(frozen=True)
class _Job:
    """One product to make."""

    stem: str
    item: pystac.Item
    reader: SceneReader
    provenance: Provenance


def generate(
    scenes: Manifest,
    tiles: Manifest,
    checkpoint: Path,
    out: Path,
    *,
    directions: Sequence[Direction],
    grid: Grid,
    pairs: Manifest,
    window_px: int = 512,
    item_limit: int | None = None,
    max_failed_share: float = 0.5,
    trusted: Sequence[str] = TRUSTED,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    progress: Progress = silent,
) -> Manifest:
    """Translate every scene of the side that each direction reads, one COG a scene.

    An optical scene keeps its own grid when its pixel size is the one the model was trained on, else it is
    brought to the declared grid; SAR is read on the tiled grid through its pair's displacement, because
    optical is the geometric reference. Pixels that are nodata, cloud or cloud shadow in the scene are
    nodata in the product. The file name follows from scene, direction and checkpoint; a product that is
    finished with the same inputs is left alone, and products of other checkpoints keep their files.

    For the report, test tiles are also translated by the same network without training, see `untrained`;
    they go to `baseline/untrained` beside the folder of products.

    Args:
        scenes: Ingested scenes.
        tiles: Tiles; those of the test split get an untrained baseline.
        checkpoint: Checkpoint of a translation task.
        out: Folder of products; `products.json` is written there.
        directions: Which ways to translate.
        grid: The declared grid.
        pairs: Co-registered pairs; tell where the content of a SAR scene lies.
        window_px: Side of a prediction window's core, pixels.
        item_limit: Most scenes translated per direction; None for all.
        max_failed_share: Share of failed scenes that is accepted, 0 to 1.
        trusted: Packages whose networks the checkpoint may name.
        device: Torch device, or "auto" for a GPU where there is one.
        precision: "bf16" computes in mixed precision; seams then stay below its rounding.
        progress: Receives finished and all strips.

    Returns:
        The products, with what failed and why.

    Raises:
        CheckpointError: If the checkpoint is not usable, or fits none of the scenes.
        ProductError: If the output folder cannot be written or the disk is full.
        SourceError: If a larger share of scenes failed than accepted.
    """
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MIB << 20, GDAL_NUM_THREADS="ALL_CPUS"):
        products = _generate(
            scenes,
            Path(checkpoint),
            Path(out),
            directions,
            grid,
            pairs,
            window_px,
            item_limit,
            max_failed_share,
            progress,
            {"trusted": trusted, "device": str(device_of(device)), "precision": precision},
        )
    try:
        untrained(tiles, checkpoint, Path(out).parent, direction=directions[0], trusted=trusted, progress=progress)
    except SourceError as error:
        _log.warning("generate: no untrained baseline: %s", error)
    return products


def _generate(
    scenes: Manifest,
    checkpoint: Path,
    out: Path,
    directions: Sequence[Direction],
    grid: Grid,
    pairs: Manifest,
    window_px: int,
    item_limit: int | None,
    max_failed_share: float,
    progress: Progress,
    loading: dict[str, Any],
) -> Manifest:
    products = Manifest.open(out / "products.json")
    products.items = [item for item in products.items if Path(item.assets["data"].href).is_file()]
    failures: list[RSGeoGANError] = []
    jobs: list[tuple[Translator, _Job]] = []
    tried = 0
    for direction in directions:
        translator = Translator.load(checkpoint, direction, **loading)
        side, _ = sides(direction)
        chosen = [item for item in scenes if item.properties.get("rsgeo:side") == side][:item_limit]
        for item in chosen:
            tried += 1
            try:
                job = _plan(item, translator, grid, pairs)
            except ProductError:
                raise
            except RSGeoGANError as error:
                _record(products, f"{item.id}_{direction}", error, failures)
                continue
            made = finished(out, job.stem, job.provenance.decisive())
            if made is None:
                jobs.append((translator, job))
            else:
                products.add(made)
    strips = [
        len(strips_of(job.reader, translator, len(translator.target_scaler.bands), window_px))
        for translator, job in jobs
    ]
    counter = _Counter(sum(strips), progress)
    for (translator, job), count in zip(jobs, strips, strict=True):
        before = counter.value
        try:
            products.add(_make(job, translator, out, window_px, counter))
        except ProductError:
            products.save()
            raise
        except RSGeoGANError as error:
            _record(products, job.stem, error, failures)
        counter.value = before + count
        products.save()
    products.save()
    if failures and len(failures) == tried and all(isinstance(error, CheckpointError) for error in failures):
        raise failures[0]
    check_share(len(failures), tried, max_failed_share, _STAGE, products.path)
    _log.info(
        "generate: %d made, %d were finished, %d failed", len(jobs), tried - len(jobs) - len(failures), len(failures)
    )
    return products


@dataclass
class _Counter:
    """Strips done so far, over all products."""

    total: int
    progress: Progress
    value: int = 0

    def step(self) -> None:
        self.value = min(self.value + 1, self.total)
        self.progress(_STAGE, self.value, self.total)


def _record(products: Manifest, item_id: str, error: RSGeoGANError, failures: list[RSGeoGANError]) -> None:
    """Keep a failure in the manifest and the log; the other scenes go on."""
    _log.warning("generate: %s left out: %s", item_id, error)
    failures.append(error)
    products.drop(item_id, _STAGE, type(error).__name__, str(error))


def _plan(item: pystac.Item, translator: Translator, grid: Grid, pairs: Manifest) -> _Job:
    """Decide what is read, on which grid, and what the product is called."""
    scaler = translator.source_scaler
    side = side_of(item)
    if side.sensor.analysis_unit != scaler.unit:
        raise CheckpointError(
            f"{item.id}: the checkpoint was trained on {scaler.unit} ({scaler.sensor}), the scene gives "
            f"{side.sensor.analysis_unit} ({side.sensor.name}); train on this sensor, or correct `sensor` in the "
            "catalogue."
        )
    side = ordered(side, scaler.bands)
    box, grid_name, displacement = place(side, inspect(side.path).geobox, translator.facts.gsd, grid, pairs)
    if displacement is not None:
        side = replace(side, displacement=displacement)
    provenance = Provenance(
        direction=translator.direction,
        checkpoint=translator.digest,
        recipe=translator.facts.recipe,
        sources=(item.id,),
        radius_px=translator.facts.radius_px,
        grid=grid_name,
        inputs=fingerprint({"side": side.key(), "box": box_to_dict(box)}),
    )
    stem = product_stem(safe_name(item.id), translator.direction, translator.digest)
    return _Job(safe_name(stem), item, SceneReader(side, box, scaler), provenance)


def _make(job: _Job, translator: Translator, out: Path, window_px: int, counter: _Counter) -> pystac.Item:
    """Freeze the normalisation for the scene, translate it, and write raster, style and item."""
    for left in out.glob(f".{job.stem}.*.stage*.tif"):
        left.unlink(missing_ok=True)
    reader, scaler = job.reader, translator.target_scaler
    samples, valid = sample_windows(reader, translator.stride)
    translator.freeze(torch.from_numpy(samples), torch.from_numpy(valid[:, None].astype(np.float32)))
    encoding = Encoding.of(scaler, translator.target_sensor)
    path = out / f"{job.stem}.tif"
    with StripWriter(
        path,
        reader.box,
        len(scaler.bands),
        encoding.dtype,
        encoding.nodata,
        encoding.names,
        encoding.unit,
        encoding.scale,
        encoding.offset,
        job.provenance.tags(),
    ) as writer:
        translate(
            reader,
            translator,
            lambda model, row, kept: writer.write(encoding(model, kept), row, kept),
            channels=len(scaler.bands),
            window_px=window_px,
            seed=noise_seed(job.item.id),
            done=counter.step,
        )
    style = write_text(path.with_suffix(".qml"), qml(scaler, masked=encoding.nodata is None))
    item = make_item(
        job.stem,
        reader.box,
        when=job.item.datetime or datetime.now(UTC),
        properties=job.provenance.properties(),
        assets={"data": path.resolve(), "style": style.resolve()},
        titles={"data": f"Synthetic {', '.join(scaler.bands)} ({scaler.unit})", "style": "QGIS style"},
    )
    write_item(item, path.with_suffix(".json"))
    return item
