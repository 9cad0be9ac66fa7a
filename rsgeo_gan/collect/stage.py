"""The stage: images are cut, labelled, written and split; what is finished is not done again.

Every tile is a folder with `image.tif` and a record of what it was made from, written last. Tiles keep the pixels of
their image: nothing is resampled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from rasterio.windows import Window

from rsgeo_gan.catalog import Catalog
from rsgeo_gan.catalog.collecting import CollectSpec, CoverLabels, FolderImages, SampleImages, SceneImages, TileImages
from rsgeo_gan.collect.covers import SAMPLE_LEGEND, Covers
from rsgeo_gan.collect.folders import in_folder
from rsgeo_gan.collect.pictures import Broken, Picture
from rsgeo_gan.collect.splitting import hold_out
from rsgeo_gan.collect.stored import in_tiles, of_scenes
from rsgeo_gan.errors import GridError, SourceError
from rsgeo_gan.ingest import ingest
from rsgeo_gan.labelled import LABEL
from rsgeo_gan.manifest import Dropped, Manifest, check_share, make_item, safe_name, write_json
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.tiling import write_image

__all__ = ["collect", "found_images"]

log = logging.getLogger(__name__)

FORMAT = 2
"""Part of every tile's key: a change of what tiles hold makes them anew."""

STAGE = "collect"
_CHOSEN = frozenset({"no class", "no split"})
"""Reasons for leaving an image out that are no failures."""


def collect(
    spec: CollectSpec,
    out: Path | str,
    *,
    classes: bool = True,
    workers: int | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Make a collection of tiles with one image each.

    Args:
        spec: What is collected.
        out: Folder of the tiles; the item collection in it has the folder's name.
        classes: Give the sample its land cover as labels, although none are asked for.
        workers: Threads; the number of processors when None.
        progress: Receives finished and all tiles.

    Returns:
        Tiles as STAC items with the asset `image`, and `rsgeo:split`, `rsgeo:sensor`, `rsgeo:georeferenced`,
        `rsgeo:dated`, and where they are known `rsgeo:label`, `rsgeo:label_share` and `rsgeo:day_of_year`.

    Raises:
        SourceError: If there are no images, they differ in their bands, too many cannot be read, none has a class
            although classes are asked for, or too few tiles are left to train on.
        ProductError: If the folder cannot be written.
    """
    out = Path(out)
    manifest = Manifest(out / f"{out.name}.json")
    before = Manifest.open(manifest.path)
    found, covers = found_images(spec, out, classes=classes)
    pictures = [picture for picture in found if isinstance(picture, Picture)]
    broken = [picture for picture in found if isinstance(picture, Broken)]
    dropped = [Dropped(entry.id, STAGE, entry.code, entry.reason) for entry in broken]
    for entry in broken:
        log.warning("image %s left out (%s): %s", entry.id, entry.code, entry.reason)
    labelled = spec.labels is not None or (classes and isinstance(spec.images, SampleImages))
    jobs: list[_Job] = []
    for picture in pictures:
        windows = list(picture.windows(spec.tile_px))
        whole = len(windows) == 1
        jobs += [_Job(picture, window, whole, out, spec, covers, labelled) for window in windows]
        if not windows:
            dropped.append(_too_small(picture, spec))
    progress(STAGE, 0, len(jobs))
    items: list[tuple[pystac.Item, Picture]] = []
    unreadable = sum(entry.code not in _CHOSEN for entry in broken)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for done, (job, outcome) in enumerate(zip(jobs, pool.map(_attempt, jobs), strict=True), start=1):
            if isinstance(outcome, pystac.Item):
                items.append((outcome, job.picture))
            else:
                unreadable += outcome.code == "unreadable"
                dropped.append(outcome)
            progress(STAGE, done, len(jobs))
    manifest.dropped = dropped
    if broken and not pictures:
        raise SourceError(f"None of {len(broken)} images can be used; the first, because: {broken[0].reason}")
    check_share(unreadable, len(jobs) + len(broken), spec.max_failed_share, STAGE, _saved(manifest))
    manifest.items, overlapping, manifest.extra = hold_out(items, before, spec)
    manifest.dropped += overlapping
    manifest.extra["rsgeo:classes"] = _classes(manifest.items, spec)
    manifest.save()
    _judge(manifest, spec, labelled=labelled)
    return manifest


def _saved(manifest: Manifest) -> Path:
    """Save what was dropped before anything fails, so that the reasons can be read."""
    return manifest.save() if manifest.dropped and not manifest.path.exists() else manifest.path


def found_images(spec: CollectSpec, out: Path, *, classes: bool = True) -> tuple[list[Picture | Broken], Covers | None]:
    """List the images, and what labels them by place; makes those of the sample."""
    images, labels = spec.images, spec.labels
    if isinstance(images, SampleImages):
        folder = out / "scenes"
        ingest(_sample(images), folder)
        if classes and not isinstance(labels, CoverLabels):
            labels = CoverLabels(kind="cover", legend=SAMPLE_LEGEND)
        if isinstance(labels, CoverLabels) and labels.path is None:
            truth = folder / "sample" / "truth" / "classes.tif"
            labels = labels.model_copy(update={"path": truth, "legend": labels.legend or SAMPLE_LEGEND})
        images = SceneImages(kind="scenes", path=folder / "scenes.json", side=images.side)
    covers = Covers.of(labels) if isinstance(labels, CoverLabels) else None
    if isinstance(images, FolderImages):
        return list(in_folder(images, labels, out / "scenes" / "views" / "image")), covers
    if isinstance(images, TileImages):
        return list(in_tiles(images, labelled=labels is None)), covers
    return list(of_scenes(images)), covers


def _sample(images: SampleImages) -> Catalog:
    both = {"kind": "sample", **images.model_dump(include={"size_px", "n_dates", "seed"})}
    optical = {"sensor": "sentinel2-l2a", "bands": ("B02", "B03", "B04", "B08")}
    radar = {"sensor": "sentinel1-rtc", "bands": ("VV", "VH")}
    return Catalog.model_validate({"name": "sample", "source": both | optical, "target": both | radar})


def _too_small(picture: Picture, spec: CollectSpec) -> Dropped:
    height, width = picture.box.shape
    reason = f"{picture.id} has {width} x {height} pixels; expected at least {spec.tile_px} x {spec.tile_px}."
    return Dropped(picture.id, STAGE, "too small", reason)


@dataclass(frozen=True)
class _Job:
    picture: Picture
    window: Window
    whole: bool
    out: Path
    spec: CollectSpec
    covers: Covers | None
    labelled: bool

    @property
    def id(self) -> str:
        if self.whole:
            return self.picture.id
        return f"{self.picture.id}_r{int(self.window.row_off):05d}_c{int(self.window.col_off):05d}"

    def digest(self) -> str:
        facts = [
            FORMAT,
            [int(value) for value in self.window.flatten()],
            self.spec.min_valid,
            self.picture.key(),
            None if self.covers is None else self.covers.digest,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _attempt(job: _Job) -> pystac.Item | Dropped:
    """Make one tile, or say why there is none."""
    try:
        safe_name(job.id)
        known = _make(job)
    except (SourceError, GridError) as error:
        log.warning("tile %s left out: %s", job.id, error)
        return Dropped(job.id, STAGE, "unreadable", str(error))
    share, label = known["rsgeo:valid_share"], known.get("rsgeo:label")
    if share < job.spec.min_valid:
        reason = f"{share:.1%} of the pixels are valid; expected {job.spec.min_valid:.1%}."
        return Dropped(job.id, STAGE, "too little valid data", reason)
    if job.covers is not None:
        least = job.covers.labels.min_share
        if label is None or known["rsgeo:label_share"] < least:
            what = f"{label} covers {known['rsgeo:label_share']:.0%}" if label else "no class is known here"
            return Dropped(job.id, STAGE, "no class", f"{what}; expected one class on at least {least:.0%}.")
    return _item(job, known)


def _make(job: _Job) -> dict[str, Any]:
    """Write the tile unless its record says that it is there; return the record."""
    folder, digest = job.out / job.id, job.digest()
    record, image = folder / "item.json", folder / "image.tif"
    if record.exists():
        known: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        kept = known["rsgeo:valid_share"] < job.spec.min_valid or image.exists()
        if known.get("rsgeo:digest") == digest and kept:
            return known
    picture, side = job.picture, job.picture.side
    values = picture.read(job.window)
    share = float((~np.isnan(values[0])).mean())
    known = {"rsgeo:digest": digest, "rsgeo:valid_share": share}
    if share >= job.spec.min_valid:
        box = picture.part(job.window)
        if job.covers is not None:
            label, covered = job.covers.of_box(box)
            known |= {"rsgeo:label": label, "rsgeo:label_share": round(covered, 4)}
        elif picture.label is not None:
            known["rsgeo:label"] = picture.label
        write_image(image, values, box, side.sensor, picture.dtype, picture.nodata, side.offset, picture.id)
    write_json(record, known)
    return known


def _item(job: _Job, known: dict[str, Any]) -> pystac.Item:
    picture = job.picture
    item, box = picture.side.item, picture.part(job.window)
    when = item.datetime
    assert when is not None
    properties: dict[str, Any] = {
        "rsgeo:image": picture.id,
        "rsgeo:sensor": item.properties["rsgeo:sensor"],
        "rsgeo:georeferenced": picture.placed,
        "rsgeo:dated": picture.dated,
        **known,
    }
    if picture.dated:
        properties["rsgeo:day_of_year"] = when.timetuple().tm_yday
    image = (job.out / job.id / "image.tif").resolve()
    return make_item(job.id, box, when=when, properties=properties, assets={"image": image})


def _classes(items: Sequence[pystac.Item], spec: CollectSpec) -> list[str]:
    """Classes that occur, in the order of the legend where there is one."""
    present = {str(item.properties["rsgeo:label"]) for item in items if "rsgeo:label" in item.properties}
    legend = spec.labels.legend if isinstance(spec.labels, CoverLabels) else {}
    named = dict.fromkeys(legend.values())
    return [name for name in named if name in present] + sorted(present - set(named))


def _judge(manifest: Manifest, spec: CollectSpec, *, labelled: bool) -> None:
    """Fail before a training would."""
    reasons = Counter(entry.code for entry in manifest.dropped)
    why = ", ".join(f"{count} {code}" for code, count in reasons.most_common()) or "nothing was left out"
    train = [item for item in manifest if item.properties["rsgeo:split"] == "train"]
    if len(train) < spec.min_tiles:
        raise SourceError(
            f"{manifest.path}: {len(train)} training tiles are too few, expected at least {spec.min_tiles} "
            f"({len(manifest)} tiles in all; left out: {why}). Add images, make tile_px smaller, or lower min_valid, "
            "the label's min_share or min_tiles; the reasons are in rsgeo:dropped."
        )
    if labelled:
        counts = Counter(item.properties[f"rsgeo:{LABEL}"] for item in train)
        absent = [name for name in manifest.extra["rsgeo:classes"] if not counts[name]]
        if absent:
            log.warning("%s: no training tile of the classes %s", manifest.path, ", ".join(absent))
        log.info("%s: training tiles by class: %s", manifest.path, dict(sorted(counts.items())))
