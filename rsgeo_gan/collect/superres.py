"""The stage for super-resolution: tiles of fine images, with references and real coarse images beside them.

Every tile is a folder with `image.tif`, as `collect` makes it, and `reference.tif`, `reference-2.tif` ... on its grid
and `low.tif` on the coarser grid of the same corner. A record, written last, says what each was made from; what is
finished is not done again.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan.catalog.collecting import FolderImages, SampleImages
from rsgeo_gan.catalog.superres import SamplePan, SuperresCollect
from rsgeo_gan.collect.beside import Neighbour, Neighbours, digest
from rsgeo_gan.collect.pictures import Picture
from rsgeo_gan.collect.stage import collect, found_images
from rsgeo_gan.coregister.remembered import Remembered
from rsgeo_gan.errors import GridError, SourceError
from rsgeo_gan.manifest import Manifest, check_share, item_box, write_json
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.sample import PAN_SENSOR, make_pan
from rsgeo_gan.tiling import write_image

__all__ = ["collect_superres"]

log = logging.getLogger(__name__)

FORMAT = 1
"""Part of every record: a change of what files hold makes them anew."""

STAGE = "beside"
_TRIED = 4


def collect_superres(
    spec: SuperresCollect, out: Path | str, *, workers: int | None = None, progress: Progress = silent
) -> Manifest:
    """Make a collection of tiles for super-resolution.

    Args:
        spec: What is collected.
        out: Folder of the tiles; the item collection in it has the folder's name.
        workers: Threads; the number of processors when None.
        progress: Receives finished and all tiles.

    Returns:
        Tiles as `collect` makes them; further assets `reference`, `reference-2` ... and `low` where there are any, with
        what is known of the place of each in `rsgeo:beside_images`, and `rsgeo:reference_sensor` and
        `rsgeo:low_sensor`.

    Raises:
        SourceError: As `collect`; if references or coarse images cannot be used at all, differ in their bands, or lie
            beside no tile.
        ProductError: If the folder cannot be written.
    """
    out = Path(out)
    spec = _with_pan(spec, out)
    manifest = collect(spec, out, classes=False, workers=workers, progress=progress)
    manifest.extra["rsgeo:scale"] = spec.scale
    if spec.references:
        manifest.extra["rsgeo:reference_mtf"] = [source.mtf for source in spec.references]
    if spec.common:
        manifest.extra["rsgeo:common"] = [list(pair) for pair in spec.common]
    if spec.references or spec.low is not None:
        pictures = {p.id: p for p in found_images(spec, out, classes=False)[0] if isinstance(p, Picture)}
        _put_beside(manifest, pictures, spec, out, workers, progress)
    manifest.save()
    return manifest


def _with_pan(spec: SuperresCollect, out: Path) -> SuperresCollect:
    """Make the sample's panchromatic image where it is wanted, which then is a folder like any other."""
    images = spec.images
    if not isinstance(images, SampleImages):
        return spec
    sources = []
    for source in spec.references:
        if isinstance(source.images, SamplePan):
            made = make_pan(out / "scenes" / "pan", size_px=images.size_px, seed=images.seed, days=source.images.days)
            folder = FolderImages(kind="folder", path=made.parent, glob=made.name, sensor=PAN_SENSOR)
            sources.append(source.model_copy(update={"images": folder}))
        else:
            sources.append(source)
    return spec.model_copy(update={"references": tuple(sources)})


def _put_beside(
    manifest: Manifest,
    pictures: Mapping[str, Picture],
    spec: SuperresCollect,
    out: Path,
    workers: int | None,
    progress: Progress,
) -> None:
    wanted = _wanted(spec, list(pictures.values()), out)
    jobs = [_Job(item, pictures[item.properties["rsgeo:image"]], out / item.id, spec, wanted) for item in manifest]
    progress(STAGE, 0, len(jobs))
    failed = 0
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for done, (job, reason) in enumerate(zip(jobs, pool.map(_attempt, jobs), strict=True), start=1):
            if reason:
                failed += 1
                manifest.drop(job.item.id, STAGE, "unreadable" if reason.startswith("!") else "no coarse image", reason)
            progress(STAGE, done, len(jobs))
    check_share(failed, len(jobs), spec.max_failed_share, STAGE, manifest.save())
    _judge(manifest, spec)


@dataclass(frozen=True)
class _Wanted:
    """Neighbours of one source, the assets that they become, and what is asked of them."""

    neighbours: Neighbours
    names: tuple[str, ...]
    min_valid: float
    scale: int = 1
    mtf: float | None = None


def _wanted(spec: SuperresCollect, pictures: Sequence[Picture], out: Path) -> list[_Wanted]:
    found: list[_Wanted] = []
    remembered, views = Remembered(out / "registered.json"), out / "scenes" / "views"
    names = ["reference", *(f"reference-{k}" for k in range(2, 1 + sum(s.count for s in spec.references)))]
    for source in spec.references:
        neighbours = Neighbours(source, pictures, spec.common, views=views / names[0], remembered=remembered)
        found.append(_Wanted(neighbours, tuple(names[: source.count]), source.min_valid, mtf=source.mtf))
        names = names[source.count :]
        first, this = found[0].neighbours.pictures[0], neighbours.pictures[0]
        if this.side.sensor.band_names != first.side.sensor.band_names or this.dtype != first.dtype:
            raise SourceError(
                f"{this.side.path} has the bands {', '.join(this.side.sensor.band_names)} ({this.dtype}); expected "
                f"{', '.join(first.side.sensor.band_names)} ({first.dtype}) as in the first source of references. "
                "Choose the same `bands` of all."
            )
    if spec.low is not None:
        neighbours = Neighbours(spec.low, pictures, views=views / "low", remembered=remembered)
        found.append(_Wanted(neighbours, ("low",), spec.min_valid, spec.scale))
    return found


@dataclass(frozen=True)
class _Job:
    item: pystac.Item
    picture: Picture
    folder: Path
    spec: SuperresCollect
    wanted: Sequence[_Wanted]


def _attempt(job: _Job) -> str:
    """Put beside a tile what there is; return why it cannot be used, or nothing."""
    try:
        known = _make(job)
    except (SourceError, GridError) as error:
        log.warning("tile %s left out: %s", job.item.id, error)
        return f"! {error}"
    properties = job.item.properties
    for name, entry in known["images"].items():
        if name != "low" and "scene" not in entry:
            continue
        if "scene" not in entry:
            return str(entry["reason"])
        job.item.add_asset(name, pystac.Asset(href=str((job.folder / f"{name}.tif").resolve()), roles=["data"]))
    for wanted in job.wanted:
        kind = "low" if wanted.names == ("low",) else "reference"
        properties[f"rsgeo:{kind}_sensor"] = wanted.neighbours.pictures[0].side.item.properties["rsgeo:sensor"]
    properties["rsgeo:beside_images"] = known["images"]
    properties["rsgeo:beside"] = known["digest"]
    return ""


def _make(job: _Job) -> dict[str, Any]:
    """Write what lies beside a tile unless its record says that it is there; return the record."""
    box, record = item_box(job.item), job.folder / "beside.json"
    chosen = [(wanted, list(_candidates(wanted, job.picture, box))) for wanted in job.wanted]
    key = digest(
        [
            FORMAT,
            job.item.properties.get("rsgeo:digest"),
            [[w.names, w.min_valid, w.scale, w.mtf, [n.key() for n in near]] for w, near in chosen],
        ]
    )
    if record.exists():
        known: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        files = [job.folder / f"{name}.tif" for name, entry in known["images"].items() if "scene" in entry]
        if known["digest"] == key and all(file.is_file() for file in files):
            return known
    images: dict[str, Any] = {}
    for wanted, near in chosen:
        images |= _written(job, wanted, near, box)
    write_json(record, {"digest": key, "images": images})
    return {"digest": key, "images": images}


def _candidates(wanted: _Wanted, picture: Picture, box: GeoBox) -> list[Neighbour]:
    found: list[Neighbour] = []
    for neighbour in wanted.neighbours.of(picture, box):
        found.append(neighbour)
        if len(found) == _TRIED * len(wanted.names):
            break
    return found


def _written(job: _Job, wanted: _Wanted, near: Sequence[Neighbour], box: GeoBox) -> dict[str, Any]:
    """Write the first neighbours that show enough of the tile; say of each name what it is, or why there is none."""
    height, width = box.shape
    scale = wanted.scale
    grid = GeoBox((height // scale, width // scale), box.affine * Affine.scale(scale), box.crs) if scale > 1 else box
    images: dict[str, Any] = {}
    names = list(wanted.names)
    most = 0.0
    for neighbour in near:
        if not names:
            break
        values = neighbour.read(grid, wanted.mtf)
        share = float((~np.isnan(values[0])).mean())
        most = max(most, share)
        if share < wanted.min_valid:
            continue
        name, picture = names.pop(0), neighbour.picture
        path = job.folder / f"{name}.tif"
        side = neighbour.side
        write_image(path, values, grid, side.sensor, picture.dtype, picture.nodata, side.offset, picture.id)
        images[name] = {**neighbour.told(), "valid_share": round(share, 4)}
    for name in names:
        (job.folder / f"{name}.tif").unlink(missing_ok=True)
        why = (
            f"{most:.0%} of the tile is shown, expected {wanted.min_valid:.0%}" if near else "nothing overlaps the tile"
        )
        images[name] = {"reason": why}
    return images


def _judge(manifest: Manifest, spec: SuperresCollect) -> None:
    """Fail before a training would, and say how many references there are."""
    counts: Counter[str] = Counter()
    for item in manifest:
        for name, entry in item.properties["rsgeo:beside_images"].items():
            if "scene" in entry:
                counts[name] += 1
                counts[f"{name} left where it was"] += entry["place"] == "measured" and not entry["applied"]
    log.info("%s: beside %d tiles: %s", manifest.path, len(manifest), dict(sorted(counts.items())))
    train = [item for item in manifest if item.properties["rsgeo:split"] == "train"]
    if len(train) < spec.min_tiles:
        raise SourceError(
            f"{manifest.path}: {len(train)} training tiles have a coarse image, expected at least {spec.min_tiles}. "
            "Correct `low`, or lower min_valid; the reasons are in rsgeo:dropped."
        )
    if spec.references and not any(name.startswith("reference") for name in counts):
        reasons = {entry["reason"] for item in manifest for entry in item.properties["rsgeo:beside_images"].values()}
        raise SourceError(
            f"{manifest.path}: no tile has a reference ({'; '.join(sorted(map(str, reasons)))}). Correct "
            "`references`, lower their min_valid, or leave them out."
        )
