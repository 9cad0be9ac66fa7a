"""Knows where every tile lies and reads pixels of both sides from handles that stay open.

A tile set is read from the manifest once: integer positions on one common lattice replace every later
look-up of coordinates, so that the training loop needs no merge, no virtual raster and no data frame.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import pystac
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window

from rsgeo_gan.errors import GridError, SourceError
from rsgeo_gan.manifest import Manifest, asset_path, item_box

__all__ = ["SIDES", "Pixels", "Side", "Tile", "TileReader", "TileSet", "by_pair", "opened_tile"]

Side = Literal["source", "target", "image", "data", "low", "reference"]
Layer = Literal[
    "source", "target", "image", "data", "confidence", "low", "reference", "reference-2", "reference-3", "reference-4"
]
SIDES: tuple[Side, Side] = ("source", "target")
_LAYERS: tuple[Layer, ...] = (*SIDES, "confidence")

_OPEN_FILES = 128
_LATTICE_TOLERANCE_PX = 1e-3


@dataclass(frozen=True)
class Tile:
    """One cell of the grid and its rasters.

    Attributes:
        row: Row in the manifest.
        id: Item id.
        split: "train", "val" or "test".
        pair: Item id of the pair; only tiles of one pair are ever joined in a patch.
        paths: Files by side, and that of "confidence" where the trust varies within the tile.
        col: Column of the left edge on the tile set's lattice, in pixels.
        line: Row of the upper edge on the lattice, in pixels, southward.
        width: Columns.
        height: Rows.
        usable: Left, top, right, bottom of the part that patches may touch, on the lattice.
        residual_px: Misalignment left after coregistration, pixels; NaN where it could not be measured.
        confidence: Trust in the coregistration, 0 to 1, on average.
        when: Time of acquisition.
    """

    row: int
    id: str
    split: str
    pair: str
    paths: dict[Layer, str]
    col: int
    line: int
    width: int
    height: int
    usable: tuple[int, int, int, int]
    residual_px: float
    confidence: float
    when: datetime


@dataclass(frozen=True)
class Pixels:
    """What a file says about its values: `analysis = raw * scale + offset`, one pair a band.

    Attributes:
        raw: Values as stored, shape (C, H, W).
        valid: True where every band holds a value, shape (H, W).
        scale: Per band, float64, shape (C,).
        offset: Per band, float64, shape (C,).
    """

    raw: np.ndarray
    valid: np.ndarray
    scale: np.ndarray
    offset: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return int(self.raw.nbytes + self.valid.nbytes)


class TileSet:
    """The tiles of a manifest on one lattice.

    Args:
        path: Folder of the tiles, or the manifest itself.
        split: Keep only this split; all tiles when None.

    Attributes:
        tiles: The tiles, in manifest order.
        crs: CRS of all tiles, as text.
        res: Pixel size, CRS units.
        scale: Target pixels per source pixel along one axis.
        bands: Band names by side.
        units: Unit tag of the values by side, empty where the files have none.
        sensors: Sensor names by side.
        sides: The sides that there are.
        stem: File name, without ending, of what a survey keeps beside the manifest.

    Raises:
        SourceError: If the manifest is missing, holds no tile, mixes sensors, or a first file is unreadable.
        GridError: If the tiles do not lie on one lattice.
    """

    sides: tuple[Side, ...] = SIDES
    stem: str = "stats"
    _digested: ClassVar[tuple[str, ...]] = (
        "rsgeo:source_item",
        "rsgeo:target_item",
        "rsgeo:usable",
        "rsgeo:split",
        "rsgeo:digest",
    )

    def __init__(self, path: Path | str, split: str | None = None) -> None:
        self.manifest = Manifest.read(path)
        self.path = self.manifest.path
        items = [(row, item) for row, item in enumerate(self.manifest.items)]
        if not items:
            raise SourceError(
                f"{self.path} holds no tile; {len(self.manifest.dropped)} were dropped. "
                "See rsgeo:dropped there, then run the tile stage again with other settings."
            )
        self.sensors = _one_sensor(self.path, [item for _, item in items])
        first = item_box(items[0][1])
        self.crs = str(first.crs)
        self.res = float(first.resolution.x)
        self._anchor = (float(first.affine.c), float(first.affine.f))
        self._zero = (round(self._anchor[0] / self.res), round(-self._anchor[1] / self.res))
        self.everything = [self._tile(row, item) for row, item in items]
        self.tiles = [tile for tile in self.everything if split is None or tile.split == split]
        self.split = split
        self.bands, self.units, self.scale = self._describe(self.everything[0])
        self.pairs = by_pair(self.tiles)

    def __len__(self) -> int:
        return len(self.tiles)

    def of(self, split: str) -> Self:
        """Return the same tiles, reduced to one split."""
        return type(self)(self.path, split)

    def _tile(self, row: int, item: pystac.Item) -> Tile:
        box = item_box(item)
        col, line = self._position(box, item.id)
        height, width = box.shape
        found = item.properties
        left, top, wide, high = found.get("rsgeo:usable") or (0, 0, width, height)
        return Tile(
            row=row,
            id=item.id,
            split=str(found.get("rsgeo:split", "train")),
            pair=str(found.get("rsgeo:pair", item.id)),
            paths={name: asset_path(item, name) for name in _LAYERS if name in SIDES or name in item.assets},
            col=col,
            line=line,
            width=width,
            height=height,
            usable=(col + left, line + top, col + left + wide, line + top + high),
            residual_px=float(_default(found.get("rsgeo:residual_px"), math.nan)),
            confidence=float(_default(found.get("rsgeo:confidence"), 1.0)),
            when=item.datetime or datetime(1970, 1, 1, tzinfo=UTC),
        )

    def _position(self, box: GeoBox, item_id: str) -> tuple[int, int]:
        transform = box.affine
        if str(box.crs) != self.crs:
            raise GridError(
                f"Tile {item_id} of {self.path} is in {box.crs}, expected {self.crs} as in the first tile; "
                "tile every pair on the one declared grid."
            )
        x = (transform.c - self._anchor[0]) / self.res
        y = (self._anchor[1] - transform.f) / self.res
        square = abs(transform.a - self.res) + abs(transform.e + self.res) < 1e-9 * abs(self.res)
        if (
            not square
            or transform.b
            or transform.d
            or max(abs(x - round(x)), abs(y - round(y))) > _LATTICE_TOLERANCE_PX
        ):
            raise GridError(
                f"Tile {item_id} of {self.path} has transform {tuple(transform)[:6]}, which is not on the lattice of "
                f"the first tile (pixel size {self.res}); tile every pair on the one declared grid."
            )
        return self._zero[0] + round(x), self._zero[1] + round(y)

    def _describe(self, tile: Tile) -> tuple[dict[Side, tuple[str, ...]], dict[Side, str], int]:
        bands: dict[Side, tuple[str, ...]] = {}
        units: dict[Side, str] = {}
        widths = {}
        for side in SIDES:
            with opened_tile(tile.paths[side], tile.id) as file:
                bands[side] = tuple(name or f"band{k + 1}" for k, name in enumerate(file.descriptions))
                units[side] = str((file.units or ("",))[0] or "")
                widths[side] = file.width
        scale, rest = divmod(widths["target"], widths["source"])
        if rest or widths["source"] != tile.width:
            raise GridError(
                f"Tile {tile.id} of {self.path}: source is {widths['source']} and target {widths['target']} pixels "
                f"wide in a cell of {tile.width}; expected the source to fill the cell and a whole multiple for the "
                "target. Run the tile stage again."
            )
        return bands, units, scale

    def scale_of(self, layer: Layer) -> int:
        """Return how many pixels of a layer there are along one of the tile."""
        return self.scale if layer == "target" else 1

    def bands_of(self, layer: Layer) -> tuple[str, ...]:
        """Return the band names that every file of a layer has."""
        return ("confidence",) if layer == "confidence" else self.bands[cast(Side, layer)]

    def layers(self, tile: Tile) -> Iterator[tuple[Side, Layer, bool]]:
        """Yield what a survey reads of a tile: whose statistics, from which layer, and whether a patch needs it."""
        for side in self.sides:
            yield side, side, True

    def position_of(self, x: float, y: float) -> tuple[float, float]:
        """Return column and row on the lattice, in pixels, of a place in CRS units."""
        return (
            self._zero[0] + (x - self._anchor[0]) / self.res,
            self._zero[1] + (self._anchor[1] - y) / self.res,
        )

    def bounds_of(self, box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
        """Return xmin, ymin, xmax, ymax in CRS units of left, top, right, bottom on the lattice."""
        left, top, right, bottom = box
        x = [self._anchor[0] + (value - self._zero[0]) * self.res for value in (left, right)]
        y = [self._anchor[1] - (value - self._zero[1]) * self.res for value in (bottom, top)]
        return x[0], y[0], x[1], y[1]

    def neighbours(self, pair: str, box: tuple[int, int, int, int]) -> Iterator[Tile]:
        """Yield the tiles of a pair, in this split, that a box on the lattice touches."""
        positions, boxes = self.pairs[pair]
        hit = (boxes[:, 0] < box[2]) & (boxes[:, 2] > box[0]) & (boxes[:, 1] < box[3]) & (boxes[:, 3] > box[1])
        for position in np.flatnonzero(hit):
            yield self.tiles[positions[position]]

    def digest(self) -> str:
        """Return a SHA-256 of which tiles these are: ids, splits, usable parts and the scenes behind them."""
        facts = []
        for tile in self.tiles:
            found = self.manifest.items[tile.row].properties
            facts.append([tile.id, *[found.get(key) for key in self._digested]])
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def fingerprint(self) -> str:
        """Return a SHA-256 that also changes when a file is rewritten: digest, sizes and times."""
        found = [self.digest()]
        for tile in self.tiles:
            for _, layer, _ in self.layers(tile):
                try:
                    status = Path(tile.paths[layer]).stat()
                except OSError:
                    continue
                found.append(f"{tile.id} {layer} {status.st_size} {status.st_mtime_ns}")
        return hashlib.sha256("\n".join(found).encode()).hexdigest()


def _default(value: Any, other: float) -> float:
    return other if value is None else float(value)


def _one_sensor(path: Path, items: Sequence[pystac.Item]) -> dict[Side, str]:
    sensors: dict[Side, str] = {}
    for side in SIDES:
        names = [str(item.properties.get(f"rsgeo:{side}_sensor", "unknown")) for item in items]
        for item, name in zip(items, names, strict=True):
            if name != names[0]:
                raise SourceError(
                    f"Tile {item.id} of {path} has {side} sensor {name}, expected {names[0]} as in tile "
                    f"{items[0].id}; statistics of two sensors are not mixed. Tile each sensor pair in its own folder."
                )
        sensors[side] = names[0]
    return sensors


def by_pair(tiles: Sequence[Tile]) -> dict[str, tuple[list[int], np.ndarray]]:
    """Return, by pair, the positions of its tiles and their boxes on the lattice, shape (N, 4)."""
    members: dict[str, list[int]] = {}
    for position, tile in enumerate(tiles):
        members.setdefault(tile.pair, []).append(position)
    return {
        pair: (
            positions,
            np.array(
                [(t.col, t.line, t.col + t.width, t.line + t.height) for t in (tiles[k] for k in positions)],
                dtype=np.int64,
            ),
        )
        for pair, positions in members.items()
    }


def opened_tile(path: str, tile_id: str) -> Any:
    """Open the raster of a tile.

    Raises:
        SourceError: If it is missing or no raster.
    """
    try:
        return rasterio.open(path)
    except RasterioError as error:
        raise SourceError(
            f"Tile {tile_id} cannot be opened from {path}: {error}. Delete the file and run the tile stage again."
        ) from error


class TileReader:
    """Reads windows of tiles; files stay open and decoded tiles are kept, per process and thread.

    Args:
        tiles: The tiles.
        cache_mb: Memory for decoded tiles, MiB. With 0 every call reads just its window from the file.
    """

    def __init__(self, tiles: TileSet, cache_mb: float = 256.0) -> None:
        self._tiles = tiles
        self._limit = int(cache_mb * 2**20)
        self._state = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_state"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._state = threading.local()

    def read(self, tile: Tile, side: Layer, window: tuple[int, int, int, int]) -> Pixels:
        """Read a window that lies within the tile.

        Args:
            tile: Which tile.
            side: Which side, or the trust in the coregistration, which lies on the source's pixels.
            window: Left, top, right, bottom in the side's own pixels, counted from the tile's corner.

        Returns:
            The pixels as stored; views into the cache, not to be written to.

        Raises:
            SourceError: If the file cannot be read or its bands are not those of the first tile.
        """
        left, top, right, bottom = window
        state = self._own()
        if not self._limit:
            return self._decode(tile, side, Window(left, top, right - left, bottom - top))
        key = (tile.row, side)
        found = state.cache.get(key)
        if found is None:
            found = self._decode(tile, side, None)
            state.cache[key] = found
            state.held += found.nbytes
            while state.held > self._limit and len(state.cache) > 1:
                state.held -= state.cache.popitem(last=False)[1].nbytes
        else:
            state.cache.move_to_end(key)
        return Pixels(
            found.raw[:, top:bottom, left:right], found.valid[top:bottom, left:right], found.scale, found.offset
        )

    def _own(self) -> threading.local:
        """A forked child must not use the file descriptors of its parent, so state is per process."""
        if getattr(self._state, "pid", None) != os.getpid():
            self._state = threading.local()
            self._state.pid = os.getpid()
            self._state.files = OrderedDict()
            self._state.cache = OrderedDict()
            self._state.held = 0
        return self._state

    def _handle(self, tile: Tile, side: Layer) -> Any:
        files = self._own().files
        path = tile.paths[side]
        if path in files:
            files.move_to_end(path)
            return files[path]
        file = opened_tile(path, tile.id)
        expected = self._tiles.bands_of(side)
        names = tuple(name or f"band{k + 1}" for k, name in enumerate(file.descriptions))
        if names != expected:
            file.close()
            raise SourceError(
                f"Tile {tile.id}, {side} file {path} has the bands {', '.join(names)}; expected "
                f"{', '.join(expected)} as in the first tile. Run the tile stage again with one list of bands."
            )
        scale = self._tiles.scale_of(side)
        if (file.width, file.height) != (tile.width * scale, tile.height * scale):
            size = (file.width, file.height)
            file.close()
            raise SourceError(
                f"Tile {tile.id}, {side} file {path} is {size[0]} x {size[1]} pixels; expected "
                f"{tile.width * scale} x {tile.height * scale}. Delete it and run the tile stage again."
            )
        files[path] = file
        while len(files) > _OPEN_FILES:
            files.popitem(last=False)[1].close()
        return file

    def _decode(self, tile: Tile, side: Layer, window: Window | None) -> Pixels:
        file = self._handle(tile, side)
        try:
            raw = file.read(window=window)
            shared = all(MaskFlags.per_dataset in flags for flags in file.mask_flag_enums)
            masks = file.read_masks(1, window=window)[None] if shared else file.read_masks(window=window)
        except RasterioError as error:
            raise SourceError(
                f"Tile {tile.id}, {side} file {tile.paths[side]} cannot be read ({error}); it is damaged. "
                "Delete it and run the tile stage again."
            ) from error
        valid = (masks != 0).all(axis=0)
        if np.issubdtype(raw.dtype, np.floating):
            valid &= np.isfinite(raw).all(axis=0)
        return Pixels(raw, valid, np.asarray(file.scales, np.float64), np.asarray(file.offsets, np.float64))
