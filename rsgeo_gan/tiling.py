"""Pairs to tiles: one warp per side (reprojection, displacement and regridding together), mask, split.

Every tile is a folder with `source.tif`, `target.tif` and its own STAC item, written last; the item collection
beside them is gathered from these. Where a smooth field was applied, `confidence.tif` holds how far it is trusted,
pixel by pixel of the source. A tile whose inputs have not changed is never made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from odc.geo.geom import Geometry

from rsgeo_gan import raster
from rsgeo_gan.catalog import GridSettings, Tiling
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import GridError, SourceError
from rsgeo_gan.grid import Grid, crs_code, crs_of, divided, pixels_in
from rsgeo_gan.manifest import (
    Manifest,
    asset_path,
    check_share,
    displacement_of,
    item_box,
    make_item,
    safe_name,
    write_json,
)
from rsgeo_gan.optics import reach_px, thinned
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.sensors import Sensor, get_sensor
from rsgeo_gan.splits import Blocks, Index

__all__ = ["Side", "resolve_grid", "side_of", "sides_of_pair", "tile", "write_image"]

logger = logging.getLogger(__name__)

FORMAT = 3
"""Part of every tile's key: a change of what tiles hold makes them anew."""


@dataclass(frozen=True)
class Side:
    """One side of a pair, ready to be read on any box.

    Attributes:
        item: The scene's STAC item.
        sensor: Its sensor, reduced to the wanted bands.
        bands: Indexes of these bands in the file, counted from 1.
        displacement: Applied when the side is read; model "none" for the geometric reference.
    """

    item: pystac.Item
    sensor: Sensor
    bands: tuple[int, ...]
    displacement: Displacement

    @property
    def path(self) -> str:
        """Where the scene's raster lies."""
        return asset_path(self.item, "data")

    def read(self, box: GeoBox, *, in_all: bool = False) -> np.ndarray:
        """Read aligned content with a single resampling.

        Args:
            box: Where pixels are wanted.
            in_all: Where the sensor's nodata is in some bands only, the pixel is there. By default it is missing, as
                it is at the edge of a swath, where bands end at different lines.

        Returns:
            float32 of shape (C, H, W), NaN where invalid (nodata, mask, cloud classes): DN of optical and
            display sensors, dB of physical SAR (resampled in linear power).
        """
        kernel = "cubic" if self.sensor.modality == "optical" else "bilinear"
        values = raster.warp(
            self.path,
            box,
            bands=self.bands,
            resampling=kernel,
            nodata=self.sensor.nodata,
            in_all=in_all,
            prepare=self.sensor.to_linear,
            displacement=self.displacement,
        )
        values = self.sensor.linear_to_analysis(values)
        values[:, np.isnan(values).any(axis=0)] = np.nan
        bad = self.item.properties.get("rsgeo:invalid_classes") or []
        if "scl" in self.item.assets and bad:
            scl = asset_path(self.item, "scl")
            classes = raster.warp(scl, box, bands=[1], resampling="nearest", displacement=self.displacement)[0]
            values[:, np.isin(classes, bad)] = np.nan
        return values

    def seen(self, box: GeoBox, factor: int, mtf: float | None) -> np.ndarray:
        """Read a finer raster on a box as an instrument with the pixels of the box would see it.

        Args:
            box: Where pixels are wanted.
            factor: Pixels of the raster along one of the box, in whole numbers; below 2 it is no finer, and read as
                by `read`.
            mtf: Contrast left at the Nyquist frequency of the box; None for plain anti-aliased resampling.

        Returns:
            As `read`.
        """
        if mtf is None or factor < 2:
            return self.read(box)
        room = reach_px(factor, mtf)
        values = self.read(divided(box.pad(room), factor))
        power = self.sensor.analysis_unit == "dB"
        made = thinned(np.power(10, values / 10) if power else values, factor, mtf)
        made = made[:, room : made.shape[1] - room, room : made.shape[2] - room]
        return self.sensor.linear_to_analysis(made) if power else made

    @property
    def offset(self) -> float:
        """Offset of analysis = raw · scale + offset, with the scene's own radiometric offset in it."""
        offset_dn = float(self.item.properties.get("rsgeo:offset_dn") or 0)
        return self.sensor.offset + offset_dn * self.sensor.scale

    def key(self) -> list[Any]:
        """Everything that the pixels of this side depend on, in plain JSON types."""
        properties = self.item.properties
        facts = [properties.get(name) for name in ("rsgeo:offset_dn", "rsgeo:invalid_classes", "proj:transform")]
        path = Path(self.path)
        stamp = path.stat().st_mtime_ns if path.exists() else None
        moved = self.displacement.to_dict() if self.displacement.model != "none" else None
        return [self.item.id, self.sensor.name, list(self.bands), facts, stamp, moved]


def side_of(item: pystac.Item, displacement: Displacement | None = None) -> Side:
    """Prepare a scene for reading.

    Args:
        item: A scene's STAC item, as `ingest` writes it.
        displacement: Where its content lies relative to the reference; None for the reference itself.

    Returns:
        The side.
    """
    properties = item.properties
    sensor = get_sensor(properties["rsgeo:sensor"]).select(properties.get("rsgeo:bands"))
    bands = tuple(int(i) for i in properties.get("rsgeo:band_indexes") or range(1, len(sensor.bands) + 1))
    return Side(item, sensor, bands, displacement or Displacement.none(item_box(item), reason="reference"))


def sides_of_pair(pair: pystac.Item, scenes: Manifest) -> tuple[Side, Side]:
    """Prepare both sides of a pair; the one that is not the reference carries the displacement.

    Args:
        pair: A pair's STAC item, as `coregister` writes it.
        scenes: The scenes.

    Returns:
        Source and target.
    """
    properties = pair.properties
    source, target = scenes.get(properties["rsgeo:source_item"]), scenes.get(properties["rsgeo:target_item"])
    displacement = displacement_of(pair)
    applied = displacement if properties.get("rsgeo:reliable", displacement.reliable) else None
    if properties.get("rsgeo:reference", "source") == "source":
        return side_of(source), side_of(target, applied)
    return side_of(source, applied), side_of(target)


def resolve_grid(settings: GridSettings, scenes: Manifest, known: Path | None = None) -> Grid:
    """Decide the grid of a study area.

    What the settings leave "auto" comes from the first optical scene (by id): its CRS when that is projected,
    else the UTM zone of its centre; its pixel size; its pixel lattice, so that it needs no resampling.

    Args:
        settings: The catalogue's `grid`.
        scenes: Scenes to take the rest from.
        known: An earlier `tiles.json`; its grid is kept where settings are "auto", so that new scenes do not
            move old tiles.

    Returns:
        The grid.

    Raises:
        GridError: If the CRS is geographic, or there is no scene to take the rest from.
    """
    auto = settings.crs == "auto" or settings.gsd_m == "auto"
    if auto and known is not None and known.exists():
        kept = Grid.from_dict(Manifest.read(known).extra["rsgeo:grid"])
        if kept.tile_px == settings.tile_px:
            return kept
    if not auto:
        return _checked(Grid(settings.crs, float(settings.gsd_m), settings.tile_px))
    if not scenes.items:
        raise GridError(
            "The grid is to be taken from the scenes, but there are none. Declare `grid.crs` and `grid.gsd_m`."
        )
    optical = [item for item in scenes if get_sensor(item.properties["rsgeo:sensor"]).modality == "optical"]
    box = item_box(min(optical or scenes.items, key=lambda item: item.id))
    wanted = settings.crs
    if wanted == "auto":
        wanted = crs_code(box) if crs_of(box).projected else "utm"
    straight = box.axis_aligned and math.isclose(abs(box.resolution.x), abs(box.resolution.y), rel_tol=1e-6)
    if wanted == "utm" or box.crs != CRS(wanted) or not straight:
        box = box.to_crs(wanted, resolution="auto")
    gsd = abs(box.resolution.x) if settings.gsd_m == "auto" else float(settings.gsd_m)
    if abs(gsd - round(gsd)) < 0.05 * gsd and (wanted == "utm" or not straight):
        gsd = float(round(gsd))
    corner = box.affine * (0, 0)
    return _checked(Grid(crs_code(box), float(gsd), settings.tile_px, (float(corner[0]), float(corner[1]))))


def _checked(grid: Grid) -> Grid:
    if not grid.spec.crs.projected:
        raise GridError(
            f"The grid needs a projected CRS with metres, got {grid.crs}; declare a UTM zone in `grid.crs`, or auto."
        )
    return grid


def tile(
    pairs: Manifest,
    scenes: Manifest,
    grid: Grid,
    settings: Tiling,
    out: Path,
    *,
    max_failed_share: float = 0.5,
    workers: int | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Cut pairs into tiles on one grid.

    Args:
        pairs: What `coregister` left.
        scenes: What `ingest` left.
        grid: The grid.
        settings: The catalogue's `tiling`.
        out: Folder of the tiles; `tiles.json` is written there.
        max_failed_share: Share of tiles that may be unreadable before the stage fails.
        workers: Threads; the number of processors when None.
        progress: Receives finished and all tiles.

    Returns:
        Tiles as STAC items, with `rsgeo:split`, `rsgeo:usable` and what co-registration knows.

    Raises:
        SourceError: If too large a share of the tiles cannot be made.
        ProductError: If the folder cannot be written.
    """
    manifest = Manifest(out / "tiles.json")
    before = Manifest.open(manifest.path)
    jobs: list[_Job] = []
    broken: dict[str, SourceError] = {}
    for pair in pairs:
        try:
            jobs += _jobs(pair, scenes, grid, settings, out)
        except SourceError as error:
            broken[pair.id] = error
            logger.warning("pair %s left out: %s", pair.id, error)
    blocks = Blocks(settings, before.extra.get("rsgeo:splits", {}), grid.tile_px)
    blocks.assign({job.index for job in jobs})
    manifest.extra = {"rsgeo:grid": grid.to_dict(), "rsgeo:splits": blocks.to_dict()}
    progress("tile", 0, len(jobs))
    skipped: Counter[str] = Counter()
    failed = 0
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for done, (job, outcome) in enumerate(zip(jobs, pool.map(_attempt, jobs), strict=True), start=1):
            if isinstance(outcome, pystac.Item):
                outcome.properties["rsgeo:split"] = blocks.split(job.index)
                outcome.properties["rsgeo:usable"] = blocks.usable(job.index)
                manifest.add(outcome)
            elif isinstance(outcome, str):
                skipped[outcome] += 1
            else:
                failed += 1
                manifest.drop(job.id, "tile", "unreadable", str(outcome))
                logger.warning("tile %s left out: %s", job.id, outcome)
            progress("tile", done, len(jobs))
    manifest.extra["rsgeo:skipped"] = dict(skipped)
    for pair in pairs:
        if pair.id in broken:
            manifest.drop(pair.id, "tile", "unreadable", str(broken[pair.id]))
        elif not any(item.properties["rsgeo:pair"] == pair.id for item in manifest):
            manifest.drop(
                pair.id,
                "tile",
                "no tiles",
                f"No tile of this pair holds {settings.min_valid:.0%} valid pixels on both sides.",
            )
    manifest.save()
    check_share(failed + len(broken), len(jobs) + len(broken), max_failed_share, "tile", manifest.path)
    return manifest


@dataclass(frozen=True)
class _Job:
    pair: pystac.Item
    source: Side
    target: Side
    index: Index
    box: GeoBox
    out: Path
    min_valid: float

    @property
    def id(self) -> str:
        return safe_name(f"{self.pair.id}_{Grid.tile_id(self.index)}")

    @property
    def field(self) -> Displacement | None:
        """The displacement of either side, when it is a field."""
        moved = (side.displacement for side in (self.source, self.target))
        return next((displacement for displacement in moved if displacement.field is not None), None)

    def digest(self) -> str:
        facts = [
            FORMAT,
            self.min_valid,
            list(self.box.affine[:6]),
            str(self.box.crs),
            self.source.key(),
            self.target.key(),
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _jobs(pair: pystac.Item, scenes: Manifest, grid: Grid, settings: Tiling, out: Path) -> Iterator[_Job]:
    source, target = sides_of_pair(pair, scenes)
    common = _footprint(source, grid) & _footprint(target, grid)
    if common.is_empty:
        return
    for index in grid.indices(common):
        yield _Job(pair, source, target, index, grid.box(index), out, settings.min_valid)


def _footprint(side: Side, grid: Grid) -> Geometry:
    return item_box(side.item).footprint(grid.spec.crs, npoints=32)


def _attempt(job: _Job) -> pystac.Item | str | Exception:
    """Make one tile, or say in a code why it is skipped, or return what went wrong."""
    try:
        return _make(job)
    except (SourceError, GridError) as error:
        return error


def _make(job: _Job) -> pystac.Item | str:
    folder, digest = job.out / job.id, job.digest()
    record = folder / "item.json"
    if record.exists():
        known = json.loads(record.read_text(encoding="utf-8"))
        if known.get("rsgeo:digest") == digest:
            return _item(job, known) if known["rsgeo:valid_share"] >= job.min_valid else "too little valid data"
    source = job.source.read(job.box)
    both = ~np.isnan(source[0])
    target = job.target.read(job.box) if both.mean() >= job.min_valid else None
    if target is not None:
        both &= ~np.isnan(target[0])
    share = float(both.mean()) if target is not None else 0.0
    known = {"rsgeo:digest": digest, "rsgeo:valid_share": share}
    if target is not None and share >= job.min_valid:
        _store(folder / "source.tif", source, job.source, job.box)
        _store(folder / "target.tif", target, job.target, job.box)
        if job.field is not None:
            _store_confidence(folder / "confidence.tif", job.field, job.box)
    write_json(record, known)
    return _item(job, known) if share >= job.min_valid else "too little valid data"


def _store(path: Path, values: np.ndarray, side: Side, box: GeoBox) -> None:
    info = raster.inspect(side.path)
    write_image(path, values, box, side.sensor, info.dtype, info.nodata, side.offset, side.item.id)


def write_image(
    path: Path,
    values: np.ndarray,
    box: GeoBox,
    sensor: Sensor,
    dtype: str,
    nodata: float | None,
    offset: float,
    scene: str,
) -> None:
    """Write the image of a tile in the form of `analysis = raw · scale + offset`, with its mask.

    Args:
        path: The file.
        values: What `Side.read` returned, NaN where invalid.
        box: Where they lie.
        sensor: Sensor, reduced to these bands.
        dtype: Data type of the scene; whole numbers stay so, unless they have become dB.
        nodata: Nodata of the scene; the sensor's when None.
        offset: Of analysis = raw · scale + offset.
        scene: Id of the scene, for a tag.
    """
    valid = ~np.isnan(values[0])
    whole = np.dtype(dtype).kind in "ui" and not (sensor.modality == "sar" and sensor.physical)
    if not whole:
        stored, nodata = values, math.nan
    else:
        limits = np.iinfo(dtype)
        nodata = nodata if nodata is not None else sensor.nodata
        kept = np.clip(np.rint(np.where(valid, values, 0)), limits.min, limits.max)
        if nodata is not None:
            kept = np.where(valid & (kept == nodata), nodata + (1 if nodata < limits.max else -1), kept)
        stored = np.where(valid, kept, 0 if nodata is None else nodata).astype(dtype)
    raster.write(
        path,
        stored,
        box,
        valid=valid,
        nodata=nodata,
        names=sensor.band_names,
        unit=sensor.analysis_unit,
        scale=sensor.scale,
        offset=offset,
        tags={"RSGEO_SENSOR": sensor.name, "RSGEO_SCENE": scene},
        cog=False,
    )


def _store_confidence(path: Path, displacement: Displacement, box: GeoBox) -> None:
    """Write how far a field is trusted at every pixel, in steps of 1/255; 0 where nothing is known."""
    row, col = np.indices(box.shape) + 0.5
    col, row = pixels_in(displacement.geobox, box, col, row)
    known = np.isfinite(col)
    confidence = np.zeros(box.shape)
    confidence[known] = displacement.quality(col[known] - 0.5, row[known] - 0.5)[1]
    stored = np.rint(255 * confidence.clip(0, 1)).astype(np.uint8)
    raster.write(path, stored, box, names=("confidence",), unit="1", scale=1 / 255, cog=False)


def _item(job: _Job, known: Mapping[str, Any]) -> pystac.Item:
    folder = job.out / job.id
    files = ("source", "target", *(("confidence",) if job.field is not None else ()))
    return make_item(
        job.id,
        job.box,
        when=_when(job),
        properties={
            "rsgeo:pair": job.pair.id,
            "rsgeo:source_item": job.source.item.id,
            "rsgeo:target_item": job.target.item.id,
            "rsgeo:source_sensor": job.source.item.properties["rsgeo:sensor"],
            "rsgeo:target_sensor": job.target.item.properties["rsgeo:sensor"],
            "rsgeo:index": list(job.index),
            **_trust(job),
            **known,
        },
        assets={name: (folder / f"{name}.tif").resolve() for name in files},
    )


def _trust(job: _Job) -> dict[str, float | None]:
    """What co-registration knows about this very tile; a field knows it place by place, stiffer models do not."""
    if job.field is None:
        pair = job.pair.properties
        return {name: pair.get(name) for name in ("rsgeo:residual_px", "rsgeo:confidence")}
    sigma_px, confidence = job.field.mean_quality(job.box)
    return {
        "rsgeo:residual_px": round(sigma_px, 3) if math.isfinite(sigma_px) else None,
        "rsgeo:confidence": round(confidence, 3),
    }


def _when(job: _Job) -> datetime:
    when = job.source.item.datetime or job.pair.datetime
    if when is None:
        raise SourceError(f"Scene {job.source.item.id} has no datetime; give `datetime` in the catalogue.")
    return when
