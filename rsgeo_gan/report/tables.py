"""Rows of the page's tables: scores, verdicts, scenes, pairs and what was left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pystac

from rsgeo_gan.manifest import Dropped, Manifest
from rsgeo_gan.report.displacements import told
from rsgeo_gan.report.measures import MEASURES
from rsgeo_gan.report.scoring import GENERATED

__all__ = ["all_dropped", "pair_row", "scene_row", "score_rows", "split_counts", "verdicts"]

_GATES = ("correlation_multilook", "ssim_multilook", "spectrum_db", "amplitude_ks")


def score_rows(entry: dict[str, Any]) -> list[dict[str, str]]:
    """Return the rows of a score table, one a measure; the best image of a row is marked."""
    rows = []
    kinds = list(entry["scores"])
    real = entry["scores"].get(GENERATED, {}).get("enl_real")
    for measure in MEASURES:
        values = {kind: entry["scores"][kind].get(measure.key) for kind in kinds}
        known = {kind: value for kind, value in values.items() if value is not None}
        if not known:
            continue
        row = {"measure": measure.label, "meaning": measure.meaning, "better": measure.better, "best": ""}
        if measure.better == "real":
            row["better"] = f"closer to real ({real:.1f})" if real is not None else "closer to real"
            if real is not None:
                row["best"] = min(known, key=lambda kind: abs(_log(known[kind]) - _log(real)))
        elif len(known) > 1:
            row["best"] = (max if measure.better == "higher" else min)(known, key=lambda kind: known[kind])
        for kind in kinds:
            row[kind] = f"{values[kind]:.{measure.digits}f}" if values[kind] is not None else "–"
        rows.append(row)
    return rows


def _log(value: float) -> float:
    """Logarithm that accepts 0."""
    return math.log(max(value, 1e-9))


def verdicts(directions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say in words whether generated images beat each baseline on the four measures that count."""
    found = []
    better = {m.key: (m.label, m.better) for m in MEASURES}
    for entry in directions:
        made = entry["scores"].get(GENERATED, {})
        for kind, values in entry["scores"].items():
            if kind == GENERATED:
                continue
            won: list[str] = []
            lost: list[str] = []
            for key in _GATES:
                mine, theirs = made.get(key), values.get(key)
                if mine is None or theirs is None:
                    continue
                label, way = better[key]
                (won if (mine > theirs if way == "higher" else mine < theirs) else lost).append(label)
            found.append({"direction": entry["title"], "baseline": kind, "won": won, "lost": lost})
    return found


def scene_row(item: pystac.Item) -> dict[str, str]:
    """Describe a scene."""
    p = item.properties
    cloud = p.get("eo:cloud_cover")
    orbit = " ".join(str(p[k]) for k in ("rsgeo:orbit_state", "rsgeo:relative_orbit") if p.get(k) is not None)
    shape = p.get("proj:shape") or ["?", "?"]
    return {
        "id": item.id,
        "side": str(p.get("rsgeo:side", "")),
        "sensor": str(p.get("rsgeo:sensor", "")),
        "bands": ", ".join(p.get("rsgeo:bands") or []),
        "date": f"{item.datetime:%Y-%m-%d %H:%M}" if item.datetime else "",
        "grid": f"{shape[1]} × {shape[0]} px, {p.get('proj:code') or 'own CRS'}",
        "more": "; ".join(
            text
            for text in (
                f"cloud {cloud:.1f} %" if isinstance(cloud, int | float) else "",
                f"orbit {orbit}" if orbit else "",
                f"offset {p['rsgeo:offset_dn']:g} DN ({p.get('rsgeo:offset_reason', '')})"
                if p.get("rsgeo:offset_dn")
                else "",
            )
            if text
        ),
    }


def pair_row(item: pystac.Item) -> dict[str, str]:
    """Describe a pair and its displacement."""
    p = item.properties
    entry = told(item)
    residual = p.get("rsgeo:residual_px")
    row = {
        "id": item.id,
        "gap": f"{float(p.get('rsgeo:gap_days') or 0):.1f}",
        "shift": "left alone",
        "metres": "–",
        "model": "–",
        "sigma": "–",
        "residual": f"{residual:.2f}" if residual is not None else "–",
        "confidence": "–",
        "points": "–",
        "reason": entry.reason or ("measured" if entry.reliable else "not reliable"),
    }
    found = entry.displacement
    if found is None:
        return row
    row |= {"model": found.model, "confidence": f"{found.confidence:.2f}", "points": str(found.n_tie_points)}
    if entry.reliable:
        dx_m, dy_m = entry.dx_px * entry.metres[0], entry.dy_px * entry.metres[1]
        row |= {
            "shift": f"{entry.dx_px:+.2f}, {entry.dy_px:+.2f}",
            "metres": f"{dx_m:+.1f}, {dy_m:+.1f}",
            "sigma": f"{found.sigma_px:.2f}",
        }
    return row


def split_counts(tiles: Manifest) -> list[tuple[str, int]]:
    """Count tiles by split, in the order training, validation, test."""
    found = [str(tile.properties.get("rsgeo:split", "")) for tile in tiles]
    return [(split, found.count(split)) for split in ("train", "val", "test") if split in found]


def all_dropped(manifests: Iterable[Manifest]) -> list[Dropped]:
    """Return what any stage left out."""
    return [entry for manifest in manifests for entry in manifest.dropped]
