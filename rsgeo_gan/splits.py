"""Which tiles are trained on, and which are held out: by blocks of neighbours, or name by name.

A block or name keeps its split for good, whatever is added later.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, cast

from rsgeo_gan.catalog import Tiling

__all__ = ["RANKS", "Blocks", "Index", "Split", "share_out"]

Index = tuple[int, int]
Split = Literal["train", "val", "test"]
RANKS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}
"""Which split gives way to which where they meet: the lower to the higher."""

_HELD_OUT: tuple[Split, ...] = ("val", "test")


def share_out(names: Iterable[str], known: Mapping[str, Split], settings: Tiling) -> dict[str, Split]:
    """Give new names a split so that the wanted shares are kept as closely as whole names allow.

    Args:
        names: Names to be shared out; those that are known are left out.
        known: Names that have a split.
        settings: Shares and seed.

    Returns:
        The split of each new name. Fewer than three names are all trained on.
    """
    new = sorted(set(names) - set(known), key=lambda name: _shuffled(name, settings.seed))
    counts = Counter(known.values())
    total = len(known) + len(new)
    wanted = {"val": _wanted(settings.val_share, total), "test": _wanted(settings.test_share, total)}
    found: dict[str, Split] = {}
    for name in new:
        split: Split = "train"
        if counts["train"]:
            split = next((held for held in _HELD_OUT if counts[held] < wanted[held]), "train")
        counts[split] += 1
        found[name] = split
    return found


def _wanted(share: float, total: int) -> int:
    return 0 if share <= 0 or total < 3 else max(1, round(share * total))


def _shuffled(name: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()


class Blocks:
    """Which block of tiles belongs to which split, for good: a block keeps its split when scenes are added.

    Args:
        settings: Shares, size of a block, buffer and seed.
        known: What `to_dict` described earlier; empty at first.
        side_px: Side of a tile, pixels.
    """

    def __init__(self, settings: Tiling, known: Mapping[str, str], side_px: int) -> None:
        self.settings = settings
        self.size = settings.block_tiles
        self.buffer = settings.buffer_px
        self.side = side_px
        self.splits: dict[Index, Split] = {}
        for name, split in known.items():
            if name == "block_tiles":
                self.size = int(split)
            else:
                col, row = name.split(",")
                self.splits[int(col), int(row)] = cast(Split, split)

    def block(self, index: Index) -> Index:
        """Return the block of a tile."""
        return index[0] // self.size, index[1] // self.size

    def assign(self, indices: set[Index]) -> None:
        """Give new blocks a split so that the wanted shares are kept as closely as whole blocks allow."""
        if not self.splits:
            while self.size > 1 and len({self.block(index) for index in indices}) < 4:
                self.size -= 1
        names = {f"{col}:{row}": (col, row) for col, row in map(self.block, indices)}
        known = {f"{col}:{row}": split for (col, row), split in self.splits.items()}
        for name, split in share_out(names, known, self.settings).items():
            self.splits[names[name]] = split

    def split(self, index: Index) -> Split:
        """Return the split of a tile whose block has been assigned."""
        return self.splits[self.block(index)]

    def usable(self, index: Index) -> list[int]:
        """Column, row, width and height of the part that patches may touch.

        A training tile keeps `buffer_px` away from validation and test tiles, a validation tile from test tiles.
        """
        mine = RANKS[self.split(index)]

        def foreign(step: Index) -> bool:
            other = self.splits.get(self.block((index[0] + step[0], index[1] + step[1])))
            return other is not None and RANKS[other] > mine

        west, east, north, south = (foreign(step) for step in ((-1, 0), (1, 0), (0, 1), (0, -1)))
        for corner in ((-1, 1), (-1, -1), (1, 1), (1, -1)):
            touched = (west if corner[0] < 0 else east) or (north if corner[1] > 0 else south)
            if foreign(corner) and not touched:
                west, east = west or corner[0] < 0, east or corner[0] > 0
        left, right, top, bottom = (self.buffer * side for side in (west, east, north, south))
        width, height = max(0, self.side - left - right), max(0, self.side - top - bottom)
        return [left, top, width, height]

    def to_dict(self) -> dict[str, str]:
        """Describe blocks and their splits in plain JSON types."""
        described = {f"{col},{row}": str(split) for (col, row), split in sorted(self.splits.items())}
        return {"block_tiles": str(self.size), **described}
