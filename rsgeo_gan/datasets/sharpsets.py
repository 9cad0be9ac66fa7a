"""The tiles of a collection for super-resolution: which there are, with what beside them, on which grid.

Tiles are counted in pixels of the coarse grid; `scale` pixels of the fine one lie along each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

import pystac
from odc.geo.geobox import GeoBox

from rsgeo_gan.datasets.tiles import Layer, Side, Tile, TileSet, by_pair, opened_tile
from rsgeo_gan.errors import SourceError
from rsgeo_gan.manifest import Manifest, asset_path, item_box

__all__ = ["REFERENCES", "SuperResolutionTileSet"]

REFERENCES: tuple[Layer, ...] = ("reference", "reference-2", "reference-3", "reference-4")
"""Assets of a tile that hold references, in order."""

_NEARLY_PX = 1e-3


class SuperResolutionTileSet(TileSet):
    """The tiles of a manifest for super-resolution.

    Args:
        path: Folder of the tiles, or the manifest itself.
        split: Keep only this split; all tiles when None.
        scale: Fine pixels per coarse pixel.
        references: Most references of a tile that are read.
        real: Read the coarse image of each tile, instead of making one; None for where every tile has one.

    Attributes:
        tiles: The tiles in manifest order, coarse pixels; each counts as a pair of its own.
        res: Coarse pixel width of the first tile, CRS units.
        real: Whether coarse images are read.
        specs: Sensors by side, as names or inline facts.
        references: Most references read that any tile has.

    Raises:
        SourceError: If the manifest is missing, holds no tile, lacks an image, mixes sensors, its first file is
            unreadable, or the scale does not fit.
    """

    _digested: ClassVar[tuple[str, ...]] = ("rsgeo:usable", "rsgeo:split", "rsgeo:digest", "rsgeo:beside")

    def __init__(
        self,
        path: Path | str,
        split: str | None = None,
        scale: int = 4,
        references: int = 0,
        real: bool | None = None,
    ) -> None:
        if scale < 2 or not 0 <= references <= len(REFERENCES):
            raise ValueError(
                f"SuperResolutionTileSet: expected a scale of at least 2 and 0 to {len(REFERENCES)} references, got "
                f"{scale} and {references}"
            )
        self.manifest = Manifest.read(path)
        self.path = self.manifest.path
        self._asked = references, real
        items = self.manifest.items
        self._check(items, "image")
        if real:
            self._check(items, "low")
        self.real = all("low" in item.assets for item in items) if real is None else real
        present = [name for name in REFERENCES[:references] if any(name in item.assets for item in items)]
        self.references = len(present)
        self.sides = ("image", *(("low",) if self.real else ()), *(("reference",) if present else ()))
        self.scale = scale
        self.stem = f"stats-x{scale}{'-low' if self.real else ''}{f'-r{references}' if references else ''}"
        self.specs = {side: self._sensor(items, side) for side in self.sides}
        self.sensors = {side: _named(spec) for side, spec in self.specs.items()}
        self.bands, self.units = {}, {}
        for side in self.sides:
            item = next(item for item in items if side in item.assets or side == "reference")
            if side == "reference":
                item = next(item for item in items if any(name in item.assets for name in present))
            asset = next(name for name in (present if side == "reference" else [side]) if name in item.assets)
            with opened_tile(asset_path(item, asset), item.id) as file:
                self.bands[side] = tuple(name or f"band{k + 1}" for k, name in enumerate(file.descriptions))
                self.units[side] = str((file.units or ("",))[0] or "")
        self.res = abs(float(item_box(items[0]).resolution.x)) * scale
        self.everything = [self._place(row, item) for row, item in enumerate(items)]
        self.tiles = [tile for tile in self.everything if split is None or tile.split == split]
        self.split = split
        self.pairs = by_pair(self.tiles)

    def of(self, split: str) -> Self:
        """Return the same tiles, reduced to one split."""
        return type(self)(self.path, split, self.scale, *self._asked)

    def item(self, tile: Tile) -> pystac.Item:
        """Return the STAC item of a tile."""
        return self.manifest.items[tile.row]

    def scale_of(self, layer: Layer) -> int:
        """Return how many pixels of a layer there are along one of the coarse grid."""
        return 1 if layer == "low" else self.scale

    def bands_of(self, layer: Layer) -> tuple[str, ...]:
        """Return the band names that every file of a layer has; all references have the same."""
        return self.bands["reference"] if layer in REFERENCES else super().bands_of(layer)

    def layers(self, tile: Tile) -> Iterator[tuple[Side, Layer, bool]]:
        """Yield what a survey reads of a tile; references may be missing."""
        yield "image", "image", True
        if self.real:
            yield "low", "low", True
        for name in REFERENCES[: self.references]:
            if name in tile.paths:
                yield "reference", name, False

    def _check(self, items: Sequence[pystac.Item], asset: str) -> None:
        if not items:
            raise SourceError(
                f"{self.path} holds no tile; {len(self.manifest.dropped)} were dropped. "
                "See rsgeo:dropped there, then make the collection again with other settings."
            )
        lacking = [item for item in items if asset not in item.assets]
        if lacking:
            raise SourceError(
                f"{self.path}: tile {lacking[0].id} has no asset {asset!r}, only {', '.join(lacking[0].assets)}; "
                "expected it in every tile. Collect the tiles with a catalogue of `kind: superres`, or, where the "
                "coarse image is missing, give `degradation` so that it is made from the fine one."
            )

    def _sensor(self, items: Sequence[pystac.Item], side: Side) -> Any:
        key = "rsgeo:sensor" if side == "image" else f"rsgeo:{side}_sensor"
        told = [(item.id, item.properties[key]) for item in items if key in item.properties]
        for item_id, spec in told:
            if _named(spec) != _named(told[0][1]):
                raise SourceError(
                    f"Tile {item_id} of {self.path} has {side} sensor {_named(spec)}, expected {_named(told[0][1])} as "
                    f"in tile {told[0][0]}; statistics of two sensors are not mixed. Collect each sensor in its own "
                    "folder."
                )
        return told[0][1] if told else "unknown"

    def _place(self, row: int, item: pystac.Item) -> Tile:
        box, found, scale = item_box(item), item.properties, self.scale
        if box.shape.x % scale or box.shape.y % scale:
            raise SourceError(
                f"Tile {item.id} of {self.path} has {box.shape.x} x {box.shape.y} pixels, no whole multiples of the "
                f"scale {scale}. Choose another scale, or collect tiles of such a size (tile_px)."
            )
        height, width = (int(size) // scale for size in box.shape)
        left, top, wide, high = found.get("rsgeo:usable") or (0, 0, width * scale, height * scale)
        col, line = _corner(box, scale)
        names: list[Layer] = ["image", *(("low",) if self.real else ()), *REFERENCES[: self.references]]
        return Tile(
            row=row,
            id=item.id,
            split=str(found.get("rsgeo:split", "train")),
            pair=item.id,
            paths={name: asset_path(item, name) for name in names if name in item.assets},
            col=col,
            line=line,
            width=width,
            height=height,
            usable=(
                col - int(-left // scale),
                line - int(-top // scale),
                col + int((left + wide) // scale),
                line + int((top + high) // scale),
            ),
            residual_px=math.nan,
            confidence=1.0,
            when=item.datetime or datetime(1970, 1, 1, tzinfo=UTC),
        )


def _named(spec: Any) -> str:
    return str(spec.get("name", "custom")) if isinstance(spec, Mapping) else str(spec)


def _corner(box: GeoBox, scale: int) -> tuple[int, int]:
    """Column and row of a tile's corner, counted in coarse pixels from the origin of its CRS."""
    a, b, left, d, e, top = box.affine[:6]
    col, row = ~type(box.affine)(a, b, 0.0, d, e, 0.0) * (left, top)
    return math.floor(col / scale + 0.5 + _NEARLY_PX), math.floor(row / scale + 0.5 + _NEARLY_PX)
