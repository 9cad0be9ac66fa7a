"""The stage: all scenes of both sides, one after the other, saved as it goes, resumable."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pystac

from rsgeo_gan import sample
from rsgeo_gan.catalog import Catalog, FolderSide, SampleSide, StacSide
from rsgeo_gan.errors import CatalogError, GridError, ProductError, RSGeoGANError, SourceError
from rsgeo_gan.ingest import assets, folder, stac
from rsgeo_gan.ingest.checks import Declined
from rsgeo_gan.ingest.fetch import Reader
from rsgeo_gan.ingest.scene import Role, Scene, build, digest
from rsgeo_gan.ingest.signing import Signer, unsigned
from rsgeo_gan.manifest import Manifest, check_share, safe_name
from rsgeo_gan.progress import Progress, silent, track
from rsgeo_gan.sample.scenes import OPTICAL_COLLECTION, RADAR_COLLECTION

__all__ = ["ingest"]

log = logging.getLogger(__name__)

STAGE = "ingest"
FILTERED = frozenset({"outside area", "outside time", "cloud"})
"""Reasons for leaving a scene out that are no failures."""

SAVE_EVERY_S = 2.0


@dataclass(frozen=True)
class _Job:
    """A scene to be made, or known not to be one."""

    id: str
    role: Role
    find: Callable[[], Scene]
    reader: Reader
    side: FolderSide | StacSide


def ingest(catalog: Catalog, out: Path, *, progress: Progress = silent) -> Manifest:
    """Find the scenes of both sides of a catalogue and make them readable.

    Finished scenes are skipped, so a run that was stopped goes on where it stood, and one with nothing new changes
    no file. A scene that cannot be used is left out with its reason; the stage fails when all do, when a side is
    left without scenes, or when more than `limits.max_failed_share` fail.

    Args:
        catalog: Where the scenes come from.
        out: Folder of this stage; `scenes.json` is written there.
        progress: Told how far it is.

    Returns:
        The scenes, saved.

    Raises:
        SourceError: If a source cannot be listed, or too much fails.
        ProductError: If the folder cannot be written.
    """
    out = Path(out)
    manifest = Manifest.open(out / "scenes.json")
    before = _state(manifest)
    manifest.extra["rsgeo:catalog"] = catalog.name
    if not manifest.path.exists():
        manifest.save()
    jobs = _named([job for role in ("source", "target") for job in _jobs(catalog, role, out)])
    wanted = {job.id for job in jobs}
    manifest.items = [item for item in manifest.items if item.id in wanted]
    manifest.dropped = [entry for entry in manifest.dropped if entry.id in wanted]
    saved = time.monotonic()
    for job in track(jobs, "scenes", progress):
        if _done(job, catalog, out, manifest) and time.monotonic() - saved > SAVE_EVERY_S:
            manifest.save()
            saved = time.monotonic()
    order = {job.id: position for position, job in enumerate(jobs)}
    manifest.items.sort(key=lambda item: order[item.id])
    manifest.dropped.sort(key=lambda entry: order[entry.id])
    if _state(manifest) != before:
        manifest.save()
    else:
        log.info("ingest: nothing new, %d scenes", len(manifest))
    _judge(catalog, manifest, jobs)
    return manifest


def _state(manifest: Manifest) -> tuple[object, ...]:
    """What a manifest holds, to tell whether anything changed."""
    return (
        [(item.id, item.properties["rsgeo:fingerprint"]) for item in manifest.items],
        list(manifest.dropped),
        dict(manifest.extra),
    )


def _jobs(catalog: Catalog, role: Role, out: Path) -> list[_Job]:
    """List what one side holds."""
    side = catalog.side(role)
    if isinstance(side, FolderSide):
        reader = Reader()
        return [
            _Job(found.id, role, lambda found=found: found.scene(side), reader, side)  # type: ignore[misc]
            for found in folder.scenes(side)
        ]
    if isinstance(side, SampleSide):
        side = _sample(side, out)
    signer = Signer(side)
    if side.sign != "none" and side.collection:
        signer.token(side.collection)
    found = stac.items(side, catalog.aoi, catalog.time)
    if not found:
        within = " within its area and time" if catalog.aoi or catalog.time else ""
        raise SourceError(
            f"{side.url}: expected items of collection {side.collection or '(any)'}{within}, got none; widen aoi, "
            "time, `query` or `ids` of the catalogue."
        )
    return [_stac_job(entry, role, side, signer) for entry in found]


def _stac_job(entry: pystac.Item | stac.Broken, role: Role, side: StacSide, signer: Signer) -> _Job:
    if isinstance(entry, stac.Broken):
        reason = entry.reason

        def broken() -> Scene:
            raise Declined("item", reason)

        return _Job(entry.id, role, broken, Reader(), side)
    reader = Reader(
        sign=lambda href: signer.sign(href, entry.collection_id),
        retries=side.retries,
        pause_s=side.retry_s,
        refresh=signer.forget,
    )
    return _Job(entry.id, role, lambda: assets.scene(entry, side), reader, side)


def _sample(side: SampleSide, out: Path) -> StacSide:
    """Make the embedded scenes, and describe them as a static catalogue."""
    made = sample.make(out / "sample", size_px=side.size_px, n_dates=side.n_dates, seed=side.seed)
    optical = side.instrument.modality == "optical"
    return StacSide(
        kind="stac",
        url=str(made),
        collection=OPTICAL_COLLECTION if optical else RADAR_COLLECTION,
        class_asset="SCL" if optical else None,
        **side.model_dump(include={"sensor", "bands", "offset_dn", "invalid_classes"}),
    )


def _named(jobs: list[_Job]) -> list[_Job]:
    """Give both sides' scenes different ids where they share one."""
    counts = Counter(job.id for job in jobs)
    seen: Counter[str] = Counter()
    named = []
    for job in jobs:
        if counts[job.id] > 1:
            name = f"{job.id}-{job.role}"
            seen[name] += 1
            suffix = f"-{seen[name]}" if seen[name] > 1 else ""
            named.append(_Job(name + suffix, job.role, job.find, job.reader, job.side))
        else:
            named.append(job)
    return named


def _done(job: _Job, catalog: Catalog, out: Path, manifest: Manifest) -> bool:
    """Make one scene; returns whether the manifest changed."""
    bbox = catalog.aoi.bbox if catalog.aoi else None
    known = [entry for entry in manifest.dropped if entry.id == job.id]
    try:
        name = _name(job.id)
        scene = job.find()
        _filter(scene, catalog)
        fingerprint = digest(scene, job.side, bbox)
        if name in manifest and _is_whole(manifest.get(name), fingerprint):
            return False
        item = build(
            scene,
            job.side,
            job.role,
            item_id=name,
            fingerprint=fingerprint,
            bbox=bbox,
            folder=out / name,
            reader=job.reader,
            crs=job.side.crs if isinstance(job.side, FolderSide) else None,
        )
    except (ProductError, CatalogError):
        raise
    except Exception as error:  # whatever a damaged scene provokes in a library must not stop the others
        code = _code(error)
        reason = unsigned(str(error) if isinstance(error, RSGeoGANError) else _unforeseen(job, error))
        log.debug("ingest: %s", job.id, exc_info=error)
        manifest.drop(job.id, STAGE, code, reason)
        if code not in FILTERED:
            log.warning("ingest: %s left out (%s): %s", job.id, code, reason)
        return [entry for entry in manifest.dropped if entry.id == job.id] != known
    manifest.add(item)
    log.info("ingest: %s (%s)", item.id, job.role)
    return True


def _name(job_id: str) -> str:
    try:
        return safe_name(job_id)
    except SourceError as error:
        raise Declined("id", str(error)) from error


def _code(error: Exception) -> str:
    if isinstance(error, Declined):
        return error.code
    if isinstance(error, GridError):
        return "georeference"
    return "unreadable" if isinstance(error, SourceError) else "unforeseen"


def _unforeseen(job: _Job, error: Exception) -> str:
    text = (str(error).strip().splitlines() or ["no text"])[0][:200]
    return f"Scene {job.id} cannot be used ({type(error).__name__}: {text}). Look at its files, or drop the scene."


def _filter(scene: Scene, catalog: Catalog) -> None:
    """Leave out what the catalogue does not ask for."""
    if catalog.time is not None:
        first, last = catalog.time.bounds
        if not first <= scene.when <= last:
            raise Declined(
                "outside time", f"Scene {scene.id} of {scene.when:%Y-%m-%d} lies outside {catalog.time.interval}."
            )
    cloud = scene.properties.get("eo:cloud_cover")
    if isinstance(cloud, int | float) and cloud > catalog.pairing.max_cloud_pct:
        raise Declined(
            "cloud",
            f"Scene {scene.id} is {cloud:.0f} % cloudy, more than pairing.max_cloud_pct of "
            f"{catalog.pairing.max_cloud_pct:g} %.",
        )


def _is_whole(item: pystac.Item, fingerprint: str) -> bool:
    """Whether an item is up to date and its local files are there."""
    local = [asset.href for asset in item.assets.values() if "://" not in asset.href]
    return item.properties.get("rsgeo:fingerprint") == fingerprint and all(Path(href).exists() for href in local)


def _judge(catalog: Catalog, manifest: Manifest, jobs: list[_Job]) -> None:
    """Fail when too much failed, or a side is empty."""
    failed = [entry for entry in manifest.dropped if entry.code not in FILTERED]
    tried = len(jobs) - (len(manifest.dropped) - len(failed))
    if len(failed) == 1 == tried:
        raise SourceError(failed[0].reason)
    check_share(len(failed), tried, catalog.limits.max_failed_share, STAGE, manifest.path)
    for role in ("source", "target"):
        if not any(item.properties["rsgeo:side"] == role for item in manifest):
            ids = {job.id for job in jobs if job.role == role}
            why = [entry.reason for entry in manifest.dropped if entry.id in ids]
            first = f" The first of {len(why)} was left out because: {why[0]}" if why else ""
            raise SourceError(
                f"ingest: expected at least one {role} scene for {catalog.name}, got none; see rsgeo:dropped in "
                f"{manifest.path}.{first}"
            )
