"""The co-registration stage: pair the scenes, measure every pair, keep the result resumable on disk."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pystac

from rsgeo_gan.catalog import Pairing
from rsgeo_gan.coregister.features import METHODS
from rsgeo_gan.coregister.files import write_displacement, write_tie_points
from rsgeo_gan.coregister.pairing import STAGE, Candidate, Scene, choose_pairs
from rsgeo_gan.coregister.registration import survey
from rsgeo_gan.coregister.views import View, default_bands
from rsgeo_gan.errors import CoregistrationError, GridError, SourceError
from rsgeo_gan.manifest import Manifest, asset_path, check_share, make_item, safe_name
from rsgeo_gan.progress import Progress, silent, track

__all__ = ["coregister"]

_log = logging.getLogger(__name__)

_FORMAT = 2


def coregister(
    scenes: Manifest,
    pairing: Pairing,
    out: Path,
    *,
    max_failed_share: float = 0.5,
    progress: Progress = silent,
) -> Manifest:
    """Pair source and target scenes and measure where their contents lie relative to each other.

    The optical scene is the reference, on whichever side it stands; of two scenes of one kind it is the
    source. A pair whose displacement cannot be known stays in the result with `rsgeo:reliable` false; one
    that cannot be read or does not overlap is dropped. `pairs.json` is saved after every pair, and pairs
    that were finished from the same files with the same settings are not measured again.

    Args:
        scenes: Scene items with `rsgeo:side` and `rsgeo:sensor`.
        pairing: Which scenes form a pair, and how displacement is measured.
        out: Folder for `pairs.json` and one folder per pair.
        max_failed_share: Largest share of pairs that may fail.
        progress: Told about every pair.

    Returns:
        The pairs.

    Raises:
        CoregistrationError: If no pair can be formed, or the method is not known.
        SourceError: If too many pairs fail.
        ProductError: If `out` cannot be written.
    """
    if pairing.method not in METHODS:
        raise CoregistrationError(
            f"pairing.method: there is no method {pairing.method!r}; expected one of {', '.join(METHODS)}. "
            "Correct the catalogue."
        )
    chosen, dropped = choose_pairs(list(scenes), pairing)
    path = Path(out) / "pairs.json"
    before = Manifest.open(path)
    pairs = Manifest(path, dropped=dropped)
    if not chosen:
        pairs.save()
        raise CoregistrationError(_no_pairs(scenes, pairs))
    failed = 0
    for candidate in track(chosen, "co-registering", progress):
        pair_id = _pair_id(candidate)
        try:
            fingerprint = _fingerprint(candidate, pairing)
            known = before.get(pair_id) if pair_id in before else None
            if known is not None and _still_good(known, fingerprint):
                pairs.add(known)
                continue
            pairs.add(_measure(candidate, pair_id, pairing, Path(out) / pair_id, fingerprint))
        except (SourceError, GridError) as error:
            failed += 1
            pairs.drop(pair_id, STAGE, "unreadable", str(error))
        except CoregistrationError as error:
            failed += 1
            pairs.drop(pair_id, STAGE, "no overlap", str(error))
        pairs.save()
    pairs.save()
    check_share(failed, len(chosen), max_failed_share, STAGE, path)
    return pairs


def _measure(candidate: Candidate, pair_id: str, pairing: Pairing, folder: Path, fingerprint: str) -> pystac.Item:
    """Measure one pair and write its displacement and tie points."""
    source, target = candidate.source, candidate.target
    flipped = source.is_sar and not target.is_sar
    reference, moving = (target, source) if flipped else (source, target)
    found = survey(_view(reference), _view(moving), max_shift_px=pairing.max_shift_px, method=pairing.method)
    displacement = found.displacement
    if found.overlap is None:
        raise CoregistrationError(
            f"Pair {pair_id}: the rasters of {source.item.id} and {target.item.id} do not overlap although their "
            "footprints do; check the georeference of both."
        )
    if not displacement.reliable:
        _log.warning("pair %s: geometry left alone, %s", pair_id, displacement.reason)
    assets: dict[str, Path | str] = {
        "source": asset_path(source.item, "data"),
        "target": asset_path(target.item, "data"),
        "displacement": write_displacement(folder / "displacement.tif", displacement),
    }
    if len(found.points):
        assets["tie_points"] = write_tie_points(folder / "tie_points.gpkg", found)
    residual = found.residual_px if displacement.reliable else float("inf")
    assert source.time is not None
    return make_item(
        pair_id,
        found.overlap,
        when=source.time,
        properties={
            "rsgeo:source_item": source.item.id,
            "rsgeo:target_item": target.item.id,
            "rsgeo:gap_days": round(candidate.gap_days, 4),
            "rsgeo:overlap_share": round(candidate.overlap_share, 4),
            "rsgeo:reference": "target" if flipped else "source",
            "rsgeo:displacement": displacement.to_dict(),
            "rsgeo:reliable": displacement.reliable,
            "rsgeo:residual_px": round(residual, 4) if np.isfinite(residual) else None,
            "rsgeo:confidence": round(displacement.confidence, 4),
            "rsgeo:reason": displacement.reason,
            "rsgeo:method": pairing.method,
            "rsgeo:fingerprint": fingerprint,
        },
        assets=assets,
        titles={
            "displacement": "dx, dy (reference pixels), confidence and expected error",
            "tie_points": "Tie points, arrows from the reference to where the content lies",
        },
    )


def _view(scene: Scene) -> View:
    """How a scene item is read for matching."""
    properties = scene.item.properties
    names = properties.get("rsgeo:bands") or list(scene.sensor.band_names)
    indexes = properties.get("rsgeo:band_indexes") or list(range(1, len(names) + 1))
    hidden = properties.get("rsgeo:invalid_classes")
    classes = (asset_path(scene.item, "scl"), tuple(hidden)) if hidden and "scl" in scene.item.assets else None
    bands = default_bands(scene.sensor, names, [int(i) for i in indexes])
    return View(asset_path(scene.item, "data"), scene.sensor, bands, classes)


def _pair_id(candidate: Candidate) -> str:
    name = f"{candidate.source.item.id}__{candidate.target.item.id}"
    if len(name) > 120:
        name = f"{name[:100]}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return safe_name(name)


def _fingerprint(candidate: Candidate, pairing: Pairing) -> str:
    """Digest of everything a measurement depends on."""
    facts: list[Any] = [_FORMAT, pairing.method, pairing.max_shift_px]
    for scene in (candidate.source, candidate.target):
        look = _view(scene)
        sensor = scene.item.properties["rsgeo:sensor"]
        facts += [sensor, _state(look.path), look.bands]
        facts.append(None if look.classes is None else [_state(look.classes[0]), look.classes[1]])
    return hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode()).hexdigest()


def _state(path: Path | str) -> list[Any]:
    """Path, size and time of a file; the address alone of a remote one, without its signature."""
    file = Path(path)
    if "://" not in str(path) and file.exists():
        status = file.stat()
        return [str(path), status.st_size, status.st_mtime_ns]
    return [str(path).split("?")[0]]


def _still_good(item: pystac.Item, fingerprint: str) -> bool:
    own = [a.href for key, a in item.assets.items() if key in ("displacement", "tie_points")]
    return item.properties.get("rsgeo:fingerprint") == fingerprint and all(Path(href).exists() for href in own)


def _no_pairs(scenes: Manifest, pairs: Manifest) -> str:
    sides = [item.properties.get("rsgeo:side") for item in scenes]
    first = f" First reason: {pairs.dropped[0].reason}" if pairs.dropped else ""
    return (
        f"No pair can be formed from {scenes.path}: {sides.count('source')} source and {sides.count('target')} target "
        f"scenes, {len(pairs.dropped)} left out (reasons in {pairs.path}).{first} Widen max_gap_days, "
        "min_overlap_share or max_cloud_pct, or add scenes."
    )
