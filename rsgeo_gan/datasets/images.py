"""Tiles with one image each, as torchgeo samples: chips of a collection, or one side of coregistered pairs.

Chips need no common lattice, CRS or georeference: every tile is a place of its own, and patches lie inside it. What
a patch still knows of its place is where its corner lies on the pixel lattice of its tile's CRS (`origin_px`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from rsgeo_gan.conditions import Conditions
from rsgeo_gan.datasets.imagesets import ImageTileSet
from rsgeo_gan.datasets.pairs import Patch
from rsgeo_gan.datasets.sampling import Positions
from rsgeo_gan.datasets.tiles import Pixels, Side, Tile, TileReader
from rsgeo_gan.errors import SourceError
from rsgeo_gan.labelled import values_of
from rsgeo_gan.provenance import noise_seed
from rsgeo_gan.sensors import Scaler

__all__ = ["ClassPositions", "ImageTileDataset", "brought"]

Sample = dict[str, Tensor]


class ImageTileDataset(NonGeoDataset):
    """Images of tiles and patches of them, in the model domain where a scaler is given.

    Item i is tile i, whole; a `Patch` cuts a part of it, of which only the tile's usable part counts. Invalid pixels
    are 0 and marked in `mask_valid`. Whole tiles carry a `seed`, which depends on nothing but the tile's id.

    Args:
        tiles: Folder of the tiles, or their manifest.
        split: "train", "val" or "test"; all tiles when None.
        side: Asset that holds the image, see `ImageTileSet`.
        scaler: Brings values to [-1, 1]; analysis units when None.
        conditions: Adds `condition`, and `label` where one of them is a class; none when None.
        transforms: Called on every sample.
        cache_mb: Memory for decoded tiles, MiB, per worker; 0 reads single windows.
        ids: Only these tiles; all of the split when None.

    Raises:
        SourceError: If there are no such tiles, sensors are mixed, bands and scaler differ, or a tile says nothing
            about a condition.
        CatalogError: If a tile's value is not one of the condition's own.
    """

    def __init__(
        self,
        tiles: Path | str = "tiles",
        split: str | None = None,
        side: Side = "image",
        scaler: Scaler | None = None,
        conditions: Conditions | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
        cache_mb: float = 256.0,
        ids: Collection[str] | None = None,
    ) -> None:
        self.tile_set = ImageTileSet(tiles, split, side)
        if ids is not None:
            self.tile_set.keep(ids)
        self.scaler = scaler
        self.conditions = conditions or Conditions()
        self.transforms = transforms
        self._reader = TileReader(self.tile_set, cache_mb)
        bands = self.tile_set.bands[side]
        if scaler is not None and len(scaler.bands) != len(bands):
            raise SourceError(
                f"{self.tile_set.path}: the tiles have {len(bands)} bands ({', '.join(bands)}), but the statistics "
                f"have {len(scaler.bands)} ({', '.join(scaler.bands)}). Compute the statistics from these tiles."
            )
        classes = self.conditions.classes
        self._codes: list[np.ndarray] = []
        self._labels: list[int] = []
        for tile in self.tile_set.tiles if self.conditions.parts else ():
            values = values_of(self.tile_set.item(tile), self.conditions.names)
            self._codes.append(self.conditions.encode(values))
            if classes is not None:
                self._labels.append(classes.index(values[classes.name]))

    def __len__(self) -> int:
        return len(self.tile_set)

    @property
    def labels(self) -> list[int]:
        """Integer label of each tile; empty without a class condition."""
        return list(self._labels)

    def __getitem__(self, index: int | Patch) -> Sample:
        """Cut one sample.

        Args:
            index: Number of a tile, or a patch that lies within one.

        Returns:
            `image` (C, H, W), `mask_valid` (1, H, W), `tile` (row in the manifest), `origin_px` (column and row of the
            corner, counted in pixels from the origin of the tile's CRS), `condition` and `label` where there are
            conditions, `seed` for whole tiles.

        Raises:
            IndexError: If there is no such tile.
            SourceError: If the file cannot be read or has other bands or another size than it should.
        """
        whole = not isinstance(index, Patch)
        number = index.tile if isinstance(index, Patch) else int(index)
        tile = self.tile_set.tiles[number]
        box = index[1:] if isinstance(index, Patch) else (0, 0, tile.width, tile.height)
        col, row, width, height = box
        image, valid = self._read(tile, (col, row, col + width, row + height), everywhere=whole)
        sample = {
            "image": torch.from_numpy(image),
            "mask_valid": torch.from_numpy(valid),
            "tile": torch.tensor(tile.row, dtype=torch.int64),
            "origin_px": torch.tensor((tile.col + col, tile.line + row), dtype=torch.int64),
        }
        if self._codes:
            sample["condition"] = torch.from_numpy(self._codes[number])
        if self._labels:
            sample["label"] = torch.tensor(self._labels[number], dtype=torch.int64)
        if whole:
            sample["seed"] = torch.tensor(noise_seed(tile.id), dtype=torch.int64)
        return self.transforms(sample) if self.transforms is not None else sample

    def _read(
        self, tile: Tile, window: tuple[int, int, int, int], *, everywhere: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        pixels = self._reader.read(tile, self.tile_set.side, window)
        valid = pixels.valid
        if not everywhere:
            left, top, right, bottom = (
                edge - zero for edge, zero in zip(tile.usable, (tile.col, tile.line) * 2, strict=True)
            )
            rows, cols = np.arange(window[1], window[3]), np.arange(window[0], window[2])
            valid = valid & ((rows >= top) & (rows < bottom))[:, None] & ((cols >= left) & (cols < right))
        return brought(pixels, valid, self.scaler), valid[None].astype(np.float32)


def brought(pixels: Pixels, valid: np.ndarray, scaler: Scaler | None) -> np.ndarray:
    """Bring stored values to the model domain, or to analysis units without a scaler: float32, 0 where invalid."""
    gain, bias = pixels.scale, pixels.offset
    if scaler is not None:
        gain, bias = gain * scaler.gain, bias * scaler.gain + scaler.bias
    image = np.multiply(pixels.raw, gain.astype(np.float32)[:, None, None], dtype=np.float32)
    image += bias.astype(np.float32)[:, None, None]
    if scaler is not None:
        np.clip(image, -1, 1, out=image)
    if not valid.all():
        np.copyto(image, 0, where=~valid)
    return image


class ClassPositions(Positions):
    """Places of patches, drawn so that every class is equally likely, whatever its share of the tiles.

    Args:
        positions: Acceptable places in tiles of one image each.
        labels: Integer label of each tile of the split.
    """

    def __init__(self, positions: Positions, labels: Sequence[int]) -> None:
        self.__dict__.update(positions.__dict__)
        counts = np.array([mosaic.total for mosaic in self._mosaics], np.int64)
        found = np.asarray(labels)
        # The mosaics of single tiles come in the order of the tiles.
        self._classes = [np.flatnonzero((found == label) & (counts > 0)) for label in np.unique(found)]
        self._classes = [members for members in self._classes if len(members)]
        self._class_ends = [np.cumsum(counts[members]) for members in self._classes]

    def draw(self, rng: np.random.Generator, count: int) -> list[Patch]:
        """Draw classes with equal probability, then a place of the class with equal probability."""
        kinds = rng.integers(len(self._classes), size=count)
        totals = np.array([ends[-1] for ends in self._class_ends])
        numbers = rng.integers(totals[kinds])
        starts = np.concatenate([[0], self._ends[:-1]])
        drawn = []
        for kind, number in zip(kinds, numbers, strict=True):
            members, ends = self._classes[kind], self._class_ends[kind]
            which = int(np.searchsorted(ends, number, side="right"))
            within = int(number) - (int(ends[which - 1]) if which else 0)
            drawn.append(self._patch(int(starts[members[which]]) + within))
        return drawn
