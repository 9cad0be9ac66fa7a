"""Compares products with the real target on held-out tiles, beside two baselines anyone should beat."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.errors import RSGeoGANError
from rsgeo_gan.manifest import Manifest, asset_path, item_box
from rsgeo_gan.report.measures import DATA_RANGE, MEASURES, Tally
from rsgeo_gan.sensors import POWER_FLOOR

__all__ = ["GENERATED", "Scored", "analysis", "headline", "held_out", "product_tiles", "resembled", "score", "units_of"]

log = logging.getLogger(__name__)

GENERATED, MEAN, UNTRAINED = "generated", "mean value", "untrained"
_TRAIN_TILES, _SCORED_TILES = 40, 60


@dataclass
class Scored:
    """Scores of one product, or of all products of one direction.

    Attributes:
        name: Product id, or direction.
        direction: "source_to_target" or "target_to_source".
        title: The direction as people write it.
        unit: Analysis unit.
        split: Which tiles were compared: "test", "val", or "" when none is held out.
        tallies: What was gathered, by kind of image: generated, mean value, untrained.
        note: Why there are no scores, or "".
    """

    name: str
    direction: str
    title: str
    unit: str = ""
    split: str = ""
    tallies: dict[str, Tally] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Describe it in plain JSON types."""
        made = self.tallies.get(GENERATED)
        return {
            "name": self.name,
            "direction": self.direction,
            "title": self.title,
            "unit": self.unit,
            "data_range": DATA_RANGE.get(self.unit),
            "split": self.split,
            "tiles": made.tiles if made else 0,
            "bands": list(made.bands) if made else [],
            "note": self.note,
            "scores": {kind: tally.summary() for kind, tally in self.tallies.items()},
        }


def resembled(direction: str) -> str:
    """Return which side of a tile a product of this direction should look like."""
    return "target" if direction == "source_to_target" else "source"


def units_of(info: raster.RasterInfo) -> str:
    """Return the analysis unit a raster of ours declares; rasters without one count as display values."""
    unit = info.units[0] if info.units else ""
    return unit if unit in DATA_RANGE else "display"


def analysis(path: Path | str, box: GeoBox) -> np.ndarray:
    """Read a raster of ours on a box, in analysis units.

    Args:
        path: Tile, product or baseline.
        box: Where pixels are wanted.

    Returns:
        float32, shape (C, H, W), NaN where invalid; dB are averaged in linear power when pixels must be
        resampled.

    Raises:
        SourceError: If the file cannot be read.
    """
    info = raster.inspect(path)
    if units_of(info) == "dB":
        power = raster.warp(path, box, prepare=lambda values: np.power(np.float32(10), values / np.float32(10)))
        return (10 * np.log10(np.maximum(power, POWER_FLOOR))).astype(np.float32)
    scale, offset = (np.asarray(part, np.float32)[:, None, None] for part in (info.scales, info.offsets))
    values: np.ndarray = raster.warp(path, box) * scale + offset
    return values


def held_out(tiles: Iterable[pystac.Item]) -> tuple[str, list[pystac.Item]]:
    """Return the tiles that scores may be computed on: test, else validation, and which of the two."""
    tiles = list(tiles)
    for split in ("test", "val"):
        found = [tile for tile in tiles if tile.properties.get("rsgeo:split") == split]
        if found:
            return split, found
    return "", []


def product_tiles(product: pystac.Item, tiles: Iterable[pystac.Item]) -> list[pystac.Item]:
    """Return the tiles cut from the scenes a product was made from."""
    read = "source" if resembled(product.properties["rsgeo:direction"]) == "target" else "target"
    scenes = set(product.properties.get("rsgeo:from", []))
    return [tile for tile in tiles if tile.properties.get(f"rsgeo:{read}_item") in scenes]


def score(
    products: Sequence[pystac.Item], tiles: Manifest, root: Path, radius_px: int, step: Callable[[], None]
) -> tuple[list[Scored], list[Scored]]:
    """Score every product and every direction.

    Args:
        products: Items of the products.
        tiles: All tiles; the training ones give the mean-value baseline.
        root: Output folder; `baseline/untrained/<tile id>.tif` below it is compared too when it is there.
        radius_px: Largest shift forgiven, pixels.
        step: Called after each product.

    Returns:
        Scores by product, in order, and pooled by direction; only products of the direction's newest
        checkpoint are pooled.
    """
    newest = newest_checkpoints(products)
    means: dict[str, np.ndarray | None] = {}
    single: list[Scored] = []
    pooled: dict[str, Scored] = {}
    for product in products:
        direction = product.properties["rsgeo:direction"]
        side = resembled(direction)
        if side not in means:
            means[side] = _training_mean([t for t in tiles if t.properties.get("rsgeo:split") == "train"], side)
        scored = _score_product(product, direction, tiles, root, radius_px, means[side])
        single.append(scored)
        if scored.tallies and product.properties.get("rsgeo:checkpoint") == newest[direction]:
            whole = pooled.setdefault(direction, Scored(direction, direction, scored.title, scored.unit, scored.split))
            for kind, tally in scored.tallies.items():
                mine = whole.tallies.setdefault(kind, Tally(tally.unit, tally.bands, radius_px))
                mine.extend(tally)
        step()
    return single, list(pooled.values())


def newest_checkpoints(products: Iterable[pystac.Item]) -> dict[str, str | None]:
    """Return the checkpoint of the product made last, by direction."""
    ordered = sorted(products, key=lambda item: str(item.properties.get("created", "")))
    return {item.properties["rsgeo:direction"]: item.properties.get("rsgeo:checkpoint") for item in ordered}


def _score_product(
    product: pystac.Item,
    direction: str,
    tiles: Manifest,
    root: Path,
    radius_px: int,
    mean: np.ndarray | None,
) -> Scored:
    side = resembled(direction)
    scored = Scored(product.id, direction, title(direction, tiles))
    mine = product_tiles(product, tiles)
    scored.split, chosen = held_out(mine)
    if not chosen:
        scored.note = (
            "no tile of this scene is held out of training, so nothing honest can be said"
            if mine
            else "no tile belongs to this scene: there is no real image to compare with"
        )
        return scored
    path = asset_path(product, "data")
    # Every n-th tile when there are many.
    for tile in chosen[:: max(1, -(-len(chosen) // _SCORED_TILES))]:
        try:
            box, window = _usable(tile)
            real = analysis(asset_path(tile, side), item_box(tile))[(slice(None), *window)]
            info = raster.inspect(asset_path(tile, side))
            made = analysis(path, box)
        except RSGeoGANError as error:
            log.warning("report: tile %s is not scored: %s", tile.id, error)
            continue
        if made.shape != real.shape:
            scored.note = f"the product has {made.shape[0]} bands, its tiles have {real.shape[0]}"
            return scored
        scored.unit = units_of(info)
        bands = tuple(name or f"band {i}" for i, name in enumerate(info.names, start=1))
        images = {GENERATED: made}
        untrained = root / "baseline" / "untrained" / f"{tile.id}.tif"
        if untrained.is_file() and raster.inspect(untrained).names == info.names:
            images[UNTRAINED] = analysis(untrained, box)
        if mean is not None and len(mean) == len(real):
            images[MEAN] = np.where(np.isfinite(made), mean[:, None, None], np.nan).astype(np.float32)
        for kind, image in images.items():
            scored.tallies.setdefault(kind, Tally(scored.unit, bands, radius_px)).add(image, real)
    if not any(tally.tiles for tally in scored.tallies.values()):
        scored.tallies = {}
        scored.note = "the product and its held-out tiles share no valid pixel"
    return scored


def _usable(tile: pystac.Item) -> tuple[GeoBox, tuple[slice, slice]]:
    """The part of a tile that no training patch has touched."""
    box = item_box(tile)
    column, row, width, height = tile.properties.get("rsgeo:usable") or (0, 0, box.shape.x, box.shape.y)
    window = (slice(row, row + height), slice(column, column + width))
    return box[window], window


def _training_mean(tiles: Sequence[pystac.Item], side: str) -> np.ndarray | None:
    """Mean of each band over training tiles, averaged in linear power, in analysis units; None without tiles."""
    total: np.ndarray | None = None
    count = 0
    unit = ""
    for tile in tiles[:: max(1, -(-len(tiles) // _TRAIN_TILES))]:
        try:
            path = asset_path(tile, side)
            unit = units_of(raster.inspect(path))
            values = analysis(path, item_box(tile)).astype(np.float64)
        except RSGeoGANError as error:
            log.warning("report: tile %s is left out of the mean: %s", tile.id, error)
            continue
        values = values[:, np.isfinite(values).all(axis=0)]
        values = 10 ** (values / 10) if unit == "dB" else values
        total = values.sum(axis=1) if total is None else total + values.sum(axis=1)
        count += values.shape[1]
    if total is None or not count:
        return None
    mean: np.ndarray = 10 * np.log10(total / count) if unit == "dB" else total / count
    return mean


def headline(scores: Mapping[str, Any] | Path) -> list[dict[str, str]]:
    """Make the rows of the final table: one per direction and kind of image.

    Args:
        scores: Content of `scores.json`, or the output folder whose `report/scores.json` is read.

    Returns:
        Rows with the same columns in the same order, values as text; empty when nothing was scored.
    """
    if isinstance(scores, Path):
        try:
            known: Mapping[str, Any] = json.loads((scores / "report" / "scores.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
    else:
        known = scores
    rows = []
    keys = ("correlation_multilook", "ssim_multilook", "spectrum_db", "amplitude_ks", "psnr_tolerant", "psnr")
    shown = [measure for key in keys for measure in MEASURES if measure.key == key]
    for entry in known.get("directions", []):
        for kind in (GENERATED, UNTRAINED, MEAN):
            if kind not in entry["scores"]:
                continue
            values = entry["scores"][kind]
            row = {"raster": f"{entry['title']}: {kind}", "tiles": f"{entry['tiles']} {entry['split']}"}
            for measure in shown:
                value = values.get(measure.key)
                row[measure.label] = "–" if value is None else f"{value:.{measure.digits}f}"
            rows.append(row)
    return rows


def title(direction: str, tiles: Iterable[pystac.Item] = ()) -> str:
    """Return a direction as people write it, with the sensors' names where the tiles tell them."""
    sides = ("source", "target") if direction == "source_to_target" else ("target", "source")
    for tile in tiles:
        names = [tile.properties.get(f"rsgeo:{side}_sensor") for side in sides]
        if all(isinstance(name, str) and name for name in names):
            return " → ".join(map(str, names))
    return " → ".join(sides)
