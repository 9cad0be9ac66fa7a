"""The tiles of a manifest with one image each, and where they lie on the pixel lattice of their CRS."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import pystac
from odc.geo.geobox import GeoBox

from rsgeo_gan.datasets.tiles import Side, Tile, TileSet, by_pair, opened_tile
from rsgeo_gan.errors import SourceError
from rsgeo_gan.manifest import Manifest, asset_path, item_box

__all__ = ["ImageTileSet"]

_NEARLY_PX = 1e-3


class ImageTileSet(TileSet):
    """The tiles of a manifest, one image each.

    Args:
        path: Folder of the tiles, or the manifest itself.
        split: Keep only this split; all tiles when None.
        side: Asset that holds the image: "image" for collected chips, "source" or "target" for one side of pairs,
            "data" for products.

    Attributes:
        tiles: The tiles, in manifest order; each counts as a pair of its own.
        res: Pixel width of the first tile, CRS units.
        side: The asset read.

    Raises:
        SourceError: If the manifest is missing, holds no tile, lacks the asset, mixes sensors, or its first file is
            unreadable.
    """

    _digested: ClassVar[tuple[str, ...]] = (
        "rsgeo:usable",
        "rsgeo:split",
        "rsgeo:digest",
        "rsgeo:label",
        "rsgeo:inputs",
    )

    def __init__(self, path: Path | str, split: str | None = None, side: Side = "image") -> None:
        self.manifest = Manifest.read(path)
        self.path = self.manifest.path
        self.side = side
        self.sides = (side,)
        self.stem = "stats" if side == "image" else f"stats-{side}"
        items = self.manifest.items
        if not items:
            raise SourceError(
                f"{self.path} holds no tile; {len(self.manifest.dropped)} were dropped. "
                "See rsgeo:dropped there, then make the collection again with other settings."
            )
        lacking = [item.id for item in items if side not in item.assets]
        if lacking:
            raise SourceError(
                f"{self.path}: tile {lacking[0]} has no asset {side!r}, only {', '.join(items[0].assets)}; expected "
                "it in every tile. Choose `side`: image for collected chips, source or target for tiles of pairs."
            )
        self.sensors = {side: self._sensor(items)}
        first = opened_tile(asset_path(items[0], side), items[0].id)
        with first as file:
            self.bands = {side: tuple(name or f"band{k + 1}" for k, name in enumerate(file.descriptions))}
            self.units = {side: str((file.units or ("",))[0] or "")}
            zoom, rest = divmod(file.width, item_box(items[0]).shape.x)
        if rest or not zoom:
            raise SourceError(
                f"Tile {items[0].id} of {self.path} is {file.width} pixels wide, its record says "
                f"{item_box(items[0]).shape.x}; expected a whole multiple. Make the tiles again."
            )
        self.scale = 1
        self.res = abs(float(item_box(items[0]).resolution.x)) / zoom
        self.everything = [self._image(row, item, zoom) for row, item in enumerate(items)]
        self.tiles = [tile for tile in self.everything if split is None or tile.split == split]
        self.split = split
        self.pairs = by_pair(self.tiles)

    def of(self, split: str) -> Self:
        """Return the same tiles, reduced to one split."""
        return type(self)(self.path, split, self.side)

    def keep(self, ids: Collection[str]) -> None:
        """Reduce the tiles to those named."""
        wanted = set(ids)
        self.tiles = [tile for tile in self.tiles if tile.id in wanted]
        self.pairs = by_pair(self.tiles)

    def item(self, tile: Tile) -> pystac.Item:
        """Return the STAC item of a tile."""
        return self.manifest.items[tile.row]

    def _sensor(self, items: Sequence[pystac.Item]) -> str:
        key = "rsgeo:sensor" if self.side in ("image", "data") else f"rsgeo:{self.side}_sensor"
        names = [str(item.properties.get(key, "unknown")) for item in items]
        for item, name in zip(items, names, strict=True):
            if name != names[0]:
                raise SourceError(
                    f"Tile {item.id} of {self.path} has sensor {name}, expected {names[0]} as in tile {items[0].id}; "
                    "statistics of two sensors are not mixed. Collect each sensor in its own folder."
                )
        return names[0]

    def _image(self, row: int, item: pystac.Item, zoom: int) -> Tile:
        box, found = item_box(item), item.properties
        height, width = (int(size) * zoom for size in box.shape)
        left, top, wide, high = (
            int(value) * zoom for value in found.get("rsgeo:usable") or (0, 0, *reversed(box.shape))
        )
        col, line = _corner(box, zoom)
        return Tile(
            row=row,
            id=item.id,
            split=str(found.get("rsgeo:split", "train")),
            pair=item.id,
            paths={self.side: asset_path(item, self.side)},
            col=col,
            line=line,
            width=width,
            height=height,
            usable=(col + left, line + top, col + left + wide, line + top + high),
            residual_px=math.nan,
            confidence=1.0,
            when=item.datetime or datetime(1970, 1, 1, tzinfo=UTC),
        )


def _corner(box: GeoBox, zoom: int) -> tuple[int, int]:
    """Column and row of a tile's corner, counted in its own pixels from the origin of its CRS."""
    transform = box.affine
    turned = ~_linear(transform)
    col, row = turned * (transform.c, transform.f)
    # Corners that lie half a pixel off the lattice are rounded to one side, whatever their last bits are.
    return math.floor(col * zoom + 0.5 + _NEARLY_PX), math.floor(row * zoom + 0.5 + _NEARLY_PX)


def _linear(transform: Any) -> Any:
    """Return the linear part of an affine transform."""
    return type(transform)(transform.a, transform.b, 0.0, transform.d, transform.e, 0.0)
