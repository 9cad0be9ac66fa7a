"""Where patches are cut: every acceptable place with equal probability, in an order that reads tiles once.

The places of an epoch are drawn independently and uniformly; only their *order* serves the disk. Tiles are
visited neighbourhood by neighbourhood and the patches of a neighbourhood are mixed, so a reader that keeps
a neighbourhood in memory decodes each tile about once an epoch. What is drawn depends on the seed and the
epoch alone, so a resumed run sees the patches an uninterrupted one would have seen.

Processes that train together share the patches of one epoch: each has a run of neighbourhoods of its own, and all
have equally many patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
from torch.utils.data.distributed import DistributedSampler

from rsgeo_gan.datasets.pairs import Patch
from rsgeo_gan.datasets.tiles import TileSet

__all__ = ["BlockPatchSampler", "GridPatchSampler", "Positions"]


class _Mosaic:
    """Acceptable origins of one pair: cells of the lattice, by how the origin lies in its cell."""

    def __init__(
        self,
        pair: str,
        boxes: np.ndarray,
        missing: list[np.ndarray],
        cell: int,
        patch: int,
        limit: float,
        *,
        inside: bool,
    ) -> None:
        self.pair = pair
        self.left, self.top = int(boxes[:, 0].min()), int(boxes[:, 1].min())
        cols = (int(boxes[:, 2].max()) - self.left) // cell
        rows = (int(boxes[:, 3].max()) - self.top) // cell
        reach = -(-(patch + cell - 1) // cell)
        counts = np.full((rows + reach, cols + reach), patch**2 + 1 if inside else cell * cell, np.int64)
        for box, found in zip(boxes, missing, strict=True):
            row, col = (int(box[1]) - self.top) // cell, (int(box[0]) - self.left) // cell
            counts[row : row + found.shape[0], col : col + found.shape[1]] = found
        table = np.zeros((counts.shape[0] + 1, counts.shape[1] + 1), np.int64)
        table[1:, 1:] = counts.cumsum(0).cumsum(1)
        self.places: list[np.ndarray] = []
        for high in (False, True):
            for wide in (False, True):
                tall = reach if high else -(-patch // cell)
                long = reach if wide else -(-patch // cell)
                touched = (
                    table[tall : tall + rows, long : long + cols]
                    - table[:rows, long : long + cols]
                    - table[tall : tall + rows, :cols]
                    + table[:rows, :cols]
                )
                self.places.append(np.argwhere(touched <= limit))
        free = cell - 1
        self.weights = [1, free, free, free * free]
        self.cell = cell

    @property
    def total(self) -> int:
        """How many origins are acceptable."""
        return sum(len(place) * weight for place, weight in zip(self.places, self.weights, strict=True))

    def origin(self, number: int) -> tuple[int, int]:
        """Return column and row on the lattice of the origin of that number, 0 to total - 1."""
        free = self.cell - 1
        for kind, (place, weight) in enumerate(zip(self.places, self.weights, strict=True)):
            if number < len(place) * weight:
                (row, col), inside = place[number // weight], number % weight
                high, wide = kind >= 2, kind % 2 == 1
                down = 1 + (inside // free if wide else inside) if high else 0
                right = 1 + (inside % free) if wide else 0
                return self.left + int(col) * self.cell + right, self.top + int(row) * self.cell + down
            number -= len(place) * weight
        raise IndexError(number)


class Positions:
    """All places where a patch holds enough valid pixels.

    A cell that a patch merely touches counts whole, so a patch never has fewer valid pixels than asked for.

    Args:
        tiles: Tiles of one split.
        missing: Missing pixels per cell, by row in the manifest (`Survey.missing`).
        cell_px: Side of a cell, pixels.
        patch_px: Side of a patch, pixels.
        min_valid: Share of a patch that must be valid on both sides, 0 to 1.
        inside: Whether a patch must lie wholly within the tiles, instead of reaching out as far as `min_valid` allows.
    """

    def __init__(
        self,
        tiles: TileSet,
        missing: Mapping[int, np.ndarray],
        cell_px: int,
        patch_px: int,
        min_valid: float,
        *,
        inside: bool = False,
    ) -> None:
        self._tiles = tiles
        self.patch_px = patch_px
        limit = (1 - min_valid) * patch_px**2 + 1e-6
        self._mosaics = [
            _Mosaic(
                pair, boxes, [missing[tiles.tiles[k].row] for k in members], cell_px, patch_px, limit, inside=inside
            )
            for pair, (members, boxes) in tiles.pairs.items()
        ]
        self._ends = np.cumsum([mosaic.total for mosaic in self._mosaics]) if self._mosaics else np.zeros(1, int)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def draw(self, rng: np.random.Generator, count: int) -> list[Patch]:
        """Draw patches independently and uniformly over all acceptable places."""
        return [self._patch(int(number)) for number in rng.integers(len(self), size=count)]

    def grid(self) -> list[Patch]:
        """Return patches that do not overlap, line by line; the same at every call."""
        chosen: list[Patch] = []
        for mosaic in self._mosaics:
            places = mosaic.places[0]
            reach = -(-self.patch_px // mosaic.cell)
            taken = np.zeros(places.max(axis=0) + reach if len(places) else (0, 0), bool)
            for row, col in places:
                # Lines come from above and from the left: what is free at both upper corners is free below.
                if taken[row, col : col + reach].any():
                    continue
                taken[row : row + reach, col : col + reach] = True
                chosen.append(
                    self._home(mosaic.pair, mosaic.left + int(col) * mosaic.cell, mosaic.top + int(row) * mosaic.cell)
                )
        return chosen

    def _patch(self, number: int) -> Patch:
        which = int(np.searchsorted(self._ends, number, side="right"))
        mosaic = self._mosaics[which]
        before = int(self._ends[which - 1]) if which else 0
        return self._home(mosaic.pair, *mosaic.origin(number - before))

    def _home(self, pair: str, col: int, row: int) -> Patch:
        """The home tile of a patch is the one that it covers most."""
        members, boxes = self._tiles.pairs[pair]
        size = self.patch_px
        wide = np.minimum(boxes[:, 2], col + size) - np.maximum(boxes[:, 0], col)
        high = np.minimum(boxes[:, 3], row + size) - np.maximum(boxes[:, 1], row)
        best = members[int((np.maximum(wide, 0) * np.maximum(high, 0)).argmax())]
        tile = self._tiles.tiles[best]
        return Patch(best, col - tile.col, row - tile.line, size, size)


class _Shared(DistributedSampler[Patch]):
    """A sampler that knows which process it serves. Lightning leaves a `DistributedSampler` as it is."""

    def __init__(self, count: int, rank: int, world: int) -> None:
        super().__init__(cast(Any, range(count)), num_replicas=world, rank=rank, shuffle=False)


class BlockPatchSampler(_Shared):
    """Random patches of an epoch, uniform over all acceptable places, ordered by neighbourhoods.

    Args:
        positions: Acceptable places.
        length: Patches an epoch, of all processes together; those that do not divide evenly are left out.
        seed: Together with the epoch, decides what is drawn.
        mix_tiles: Tiles whose patches are mixed; a reader should hold so many in memory.
        rank: Which process this is.
        world: How many processes share an epoch.
    """

    def __init__(
        self,
        positions: Positions,
        length: int,
        seed: int = 0,
        mix_tiles: int = 16,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(length, rank, world)
        self._positions = positions
        self._length = length
        self._seed = seed
        self._mix = mix_tiles
        self._epoch = 0
        self._start = 0

    def __len__(self) -> int:
        return self._length // self.num_replicas

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each."""
        if epoch != self._epoch:
            self._epoch, self._start = epoch, 0

    def resume(self, epoch: int, start: int) -> None:
        """Choose the epoch and leave out its first patches here, for a run that was stopped within it."""
        self._epoch, self._start = epoch, start

    def order(self, epoch: int) -> list[Patch]:
        """Return the patches of an epoch, of all processes, in order."""
        rng = np.random.default_rng([self._seed, epoch])
        drawn = self._positions.draw(rng, self._length)
        homes = sorted({patch.tile for patch in drawn})
        visit = {homes[k]: turn for turn, k in enumerate(rng.permutation(len(homes)))}
        group = np.array([visit[patch.tile] // self._mix for patch in drawn])
        # The draws are independent, so within a neighbourhood their own order is already mixed.
        return [drawn[k] for k in np.argsort(group, kind="stable")]

    def __iter__(self) -> Iterator[Patch]:
        first = self.rank * len(self)
        yield from self.order(self._epoch)[first : first + len(self)][self._start :]


class GridPatchSampler(_Shared):
    """Patches that do not overlap, always the same; every one is seen by one process.

    Args:
        positions: Acceptable places.
        length: Keep at most so many, evenly spread; all when None.
        rank: Which process this is.
        world: How many processes share the patches. A process for which none is left gets the first one, since all
            must take part when scores are averaged.
    """

    def __init__(self, positions: Positions, length: int | None = None, rank: int = 0, world: int = 1) -> None:
        patches = positions.grid()
        if length is not None and length < len(patches):
            patches = [patches[k] for k in np.linspace(0, len(patches) - 1, length).round().astype(int)]
        super().__init__(len(patches), rank, world)
        self._patches = patches[rank::world] or patches[:1]

    def __len__(self) -> int:
        return len(self._patches)

    def __iter__(self) -> Iterator[Patch]:
        return iter(self._patches)
