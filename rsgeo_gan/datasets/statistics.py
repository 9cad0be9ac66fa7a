"""One pass over the tiles: value statistics of the training split and a coarse map of missing pixels.

The result is kept beside the manifest (`stats.json`, `stats.npz`; named after the side where only one side of
pairs is read) and used again while the tiles stay the
same. Statistics come from valid, usable pixels of the training split only, in analysis units.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsgeo_gan.datasets.tiles import Side, Tile, TileReader, TileSet
from rsgeo_gan.errors import ProductError, SourceError
from rsgeo_gan.manifest import write_json
from rsgeo_gan.sensors import SENSORS, Scaler

__all__ = ["Survey", "survey"]

log = logging.getLogger(__name__)

_CELL_PX = 8
_SAMPLES = 2_000_000
"""Values a band that the percentiles are taken from; the mean and deviation use every pixel."""
_FORMAT = 1


@dataclass(frozen=True)
class Survey:
    """What one pass over the tiles found.

    Attributes:
        scalers: Fitted scaler by side.
        cell_px: Side of a cell of `missing`, source pixels.
        missing: Unusable or invalid pixels (of the source, where there are two sides) per cell, by row in the
            manifest; either side counts.
        digest: Digest of the training tiles.
    """

    scalers: dict[Side, Scaler]
    cell_px: int
    missing: dict[int, np.ndarray]
    digest: str


def survey(
    tiles: TileSet,
    *,
    percentiles: tuple[float, float] = (0.1, 99.9),
    margin: float = 0.02,
) -> Survey:
    """Read every tile once, or take over what an earlier pass left on disk.

    Args:
        tiles: All tiles, of every split.
        percentiles: Which values of the training split become the ends of the range, percent.
        margin: Widening of that range on both ends, as a share of it.

    Returns:
        The survey. Display values keep 0 to 255 as their range, unless they exceed it.

    Raises:
        SourceError: If no training tile has a valid pixel, or a band is constant.
    """
    train = tiles.of("train")
    key = {
        "format": _FORMAT,
        "tiles": tiles.fingerprint(),
        "percentiles": list(percentiles),
        "margin": margin,
    }
    found = _recall(key, tiles)
    if found is not None:
        return found
    cell = math.gcd(_CELL_PX, *(size for tile in tiles.everything for size in (tile.width, tile.height)))
    reader = TileReader(tiles, cache_mb=0)
    gathering = {side: _Gathering(len(tiles.bands[side])) for side in tiles.sides}
    share = max(1, len(train.tiles))
    missing: dict[int, np.ndarray] = {}
    for tile in tiles.everything:
        valid = _read(tiles, reader, tile, gathering if tile.split == "train" else None, _SAMPLES // share)
        missing[tile.row] = _count(~valid, cell)
    scalers = {side: _fit(gathering[side], side, tiles, percentiles, margin) for side in tiles.sides}
    result = Survey(scalers, cell, missing, train.digest())
    _keep(key, tiles, result)
    return result


class _Gathering:
    """Moments of all values and a thinned copy of them, per band."""

    def __init__(self, bands: int) -> None:
        self.count = 0
        self.total = np.zeros(bands)
        self.square = np.zeros(bands)
        self.samples: list[np.ndarray] = []

    def add(self, values: np.ndarray, keep: int) -> None:
        """Take in valid values, shape (C, N), and keep about so many of them."""
        self.count += values.shape[1]
        exact = values.astype(np.float64)
        self.total += exact.sum(axis=1)
        self.square += (exact**2).sum(axis=1)
        step = max(1, values.shape[1] // max(keep, 1))
        self.samples.append(np.ascontiguousarray(values[:, ::step], dtype=np.float32))


def _read(
    tiles: TileSet, reader: TileReader, tile: Tile, gathering: dict[Side, _Gathering] | None, keep: int
) -> np.ndarray:
    usable = np.zeros((tile.height, tile.width), bool)
    left, top, right, bottom = tile.usable
    usable[top - tile.line : bottom - tile.line, left - tile.col : right - tile.col] = True
    both = usable.copy()
    for side, layer, needed in tiles.layers(tile):
        scale = tiles.scale_of(layer)
        pixels = reader.read(tile, layer, (0, 0, tile.width * scale, tile.height * scale))
        valid = pixels.valid
        if gathering is not None:
            wanted = valid & np.repeat(np.repeat(usable, scale, 0), scale, 1)
            if wanted.any():
                values = pixels.raw[:, wanted] * pixels.scale[:, None] + pixels.offset[:, None]
                gathering[side].add(values, keep)
        if needed:
            both &= valid.reshape(tile.height, scale, tile.width, scale).all(axis=(1, 3))
    return both


def _count(marks: np.ndarray, cell: int) -> np.ndarray:
    rows, cols = marks.shape[0] // cell, marks.shape[1] // cell
    return marks.reshape(rows, cell, cols, cell).sum(axis=(1, 3)).astype(np.uint8)


def _fit(gathered: _Gathering, side: Side, tiles: TileSet, percentiles: tuple[float, float], margin: float) -> Scaler:
    bands, sensor = tiles.bands[side], tiles.sensors[side]
    if not gathered.count:
        raise SourceError(
            f"The training tiles of {tiles.path} have no valid pixel on the {side} side; expected values to fit the "
            "statistics on. Check nodata and the clouds of the scenes, or lower tiling.min_valid less far."
        )
    unit = _unit(tiles, side)
    samples = np.concatenate(gathered.samples, axis=1)
    if unit == "display" and samples.max() <= 255:
        low, high = np.zeros(len(bands)), np.full(len(bands), 255.0)
    else:
        low, high = np.percentile(samples, percentiles, axis=1).astype(np.float64)
        spread = (high - low) * margin
        low, high = low - spread, high + spread
    for band, bottom, top in zip(bands, low, high, strict=True):
        if not top > bottom:
            raise SourceError(
                f"Band {band} on the {side} side of {tiles.path} is constant ({bottom:g}) over the training tiles; "
                "expected a range of values. Leave the band out in the catalogue."
            )
    mean = gathered.total / gathered.count
    spread = np.sqrt(np.maximum(gathered.square / gathered.count - mean**2, 0))
    return Scaler(
        sensor=sensor,
        unit=unit,
        bands=bands,
        low=tuple(float(value) for value in low),
        high=tuple(float(value) for value in high),
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in spread),
        count=gathered.count,
    )


def _unit(tiles: TileSet, side: Side) -> str:
    """Unit tag of the first file, else what the sensor says."""
    unit = tiles.units[side]
    if unit:
        return "reflectance" if unit in ("1", "reflectance") else unit
    sensor = SENSORS.get(tiles.sensors[side])
    return sensor.analysis_unit if sensor is not None else "reflectance"


def _keep(key: dict[str, Any], tiles: TileSet, result: Survey) -> None:
    folder, stem = tiles.path.parent, tiles.stem
    arrays: dict[str, Any] = {str(row): counts for row, counts in result.missing.items()}
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{stem}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **arrays)
        Path(name).replace(folder / f"{stem}.npz")
        write_json(
            folder / f"{stem}.json",
            {
                "key": key,
                "digest": result.digest,
                "cell_px": result.cell_px,
                **{side: result.scalers[side].to_dict() for side in tiles.sides},
            },
        )
    except (OSError, ProductError) as error:
        log.warning("statistics of %s are not kept for the next run: %s", folder, error)


def _recall(key: dict[str, Any], tiles: TileSet) -> Survey | None:
    folder, stem = tiles.path.parent, tiles.stem
    try:
        stored = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
        if stored["key"] != key:
            return None
        with np.load(folder / f"{stem}.npz") as arrays:
            missing = {tile.row: arrays[str(tile.row)] for tile in tiles.everything}
        scalers = {side: Scaler.from_dict(stored[side]) for side in tiles.sides}
        return Survey(scalers, int(stored["cell_px"]), missing, str(stored["digest"]))
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile):
        return None
