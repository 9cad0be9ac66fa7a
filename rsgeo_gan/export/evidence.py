"""Gathers what is known about a training for card and catalogue item: from the checkpoint, its tiles, its report."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from shapely.geometry import shape
from shapely.ops import unary_union

from rsgeo_gan.datasets import TileSet
from rsgeo_gan.errors import RSGeoGANError
from rsgeo_gan.inference.checkpoints import Stored, read_checkpoint
from rsgeo_gan.manifest import Manifest
from rsgeo_gan.report.scoring import newest_checkpoints

__all__ = ["Evidence", "Score", "gather", "own_tiles"]

_SHOWN = ("correlation_multilook", "ssim_multilook", "spectrum_db", "amplitude_ks")
"""Measures of a report that a card shows."""


_SCENES = ("rsgeo:source_item", "rsgeo:target_item")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Score:
    """One measure of one direction, and that of the best constant guess.

    Attributes:
        direction: What was translated, in words.
        label: Name of the measure, with its unit.
        better: "higher", "lower" or "real".
        generated: Value of the model.
        mean: Value of a raster of mean values; None where it has none.
    """

    direction: str
    label: str
    better: str
    generated: float
    mean: float | None


@dataclass(frozen=True)
class Evidence:
    """What is known about a training.

    Attributes:
        epochs: Finished epochs; None when the checkpoint does not tell.
        validation: Name and value of the monitored validation metric, where there is one.
        splits: Number of tiles by split; empty when the tiles are not at hand.
        pairs: Number of scene pairs behind the tiles.
        scenes: Ids of the pairs' scenes.
        geometry: Footprint of all tiles, GeoJSON in degrees; None when unknown.
        period: First and last acquisition.
        scores: What the run's report measured on held-out tiles.
        scored_on: Split and number of the tiles behind `scores`.
        hyper_parameters: Everything the task was built with.
        facts: Facts of the data as the checkpoint holds them.
    """

    epochs: int | None = None
    validation: tuple[str, float] | None = None
    splits: Mapping[str, int] = field(default_factory=dict)
    pairs: int = 0
    scenes: tuple[str, ...] = ()
    geometry: Mapping[str, Any] | None = None
    period: tuple[datetime, datetime] | None = None
    scores: tuple[Score, ...] = ()
    scored_on: str = ""
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def own_tiles(checkpoint: Path) -> Path | None:
    """Return the tiles of the run that published a checkpoint (`<run>/models/*.ckpt`), if they can be read there."""
    tiles = checkpoint.absolute().parent.parent / "tiles" / "tiles.json"
    if checkpoint.absolute().parent.name != "models" or not tiles.is_file():
        return None
    try:
        TileSet(tiles)
    except RSGeoGANError as error:
        _log.warning("%s: tiles left out: %s", tiles, error)
        return None
    return tiles


def gather(stored: Stored, tiles: Path | None) -> Evidence:
    """Gather what checkpoint, tiles and report tell.

    Args:
        stored: The checkpoint.
        tiles: Manifest of the tiles it was trained on, where they are at hand.

    Raises:
        SourceError: If the tiles cannot be read.
    """
    content = read_checkpoint(stored.path)
    known: dict[str, Any] = {
        "hyper_parameters": content["hyper_parameters"],
        "facts": content["rsgeo_gan"]["facts"],
        "validation": _monitored(content),
    }
    if isinstance(content.get("epoch"), int):
        known["epochs"] = content["epoch"] + 1
    if tiles is not None and known["facts"].get("tiles") not in (None, TileSet(tiles, "train").digest()):
        _log.warning("%s: not the tiles that the checkpoint was trained on; the card tells nothing about them", tiles)
        tiles = None
    if tiles is not None:
        found = TileSet(tiles)
        pairs = sorted({tile.pair for tile in found.tiles})
        whole = unary_union([shape(item.geometry) for item in found.manifest]).envelope
        known |= {
            "splits": dict(Counter(tile.split for tile in found.tiles)),
            "pairs": len(pairs),
            "scenes": tuple(sorted({str(item.properties[key]) for item in found.manifest for key in _SCENES})),
            "geometry": whole.__geo_interface__,
            "period": (min(tile.when for tile in found.tiles), max(tile.when for tile in found.tiles)),
        }
        known["scores"], known["scored_on"] = _scores(found.path.parent.parent, stored.digest)
    return Evidence(**known)


def _monitored(content: Mapping[str, Any]) -> tuple[str, float] | None:
    """Return the metric that chose the checkpoint, from the state of Lightning's ModelCheckpoint."""
    for state in (content.get("callbacks") or {}).values():
        if isinstance(state, Mapping) and state.get("monitor") and state.get("current_score") is not None:
            return str(state["monitor"]), float(state["current_score"])
    return None


def _scores(run: Path, digest: str) -> tuple[tuple[Score, ...], str]:
    """Read the run's report, if it scored products of this very checkpoint."""
    try:
        products = Manifest.read(run / "products" / "products.json")
        # The report pools the products of the newest checkpoint of a direction only.
        mine = {direction for direction, checkpoint in newest_checkpoints(products).items() if checkpoint == digest}
        report = json.loads((run / "report" / "scores.json").read_text(encoding="utf-8"))
        rows, on = [], ""
        for entry in report["directions"]:
            if entry["direction"] not in mine:
                continue
            on = f"{entry['tiles']} {entry['split']} tiles"
            for key in _SHOWN:
                value, mean = (entry["scores"].get(kind, {}).get(key) for kind in ("generated", "mean value"))
                if value is not None:
                    measure = report["measures"][key]
                    rows.append(Score(entry["title"], measure["label"], measure["better"], value, mean))
        return tuple(rows), on
    except (OSError, KeyError, TypeError, ValueError, RSGeoGANError):
        return (), ""
