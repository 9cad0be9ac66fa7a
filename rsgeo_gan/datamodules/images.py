"""Tiles of single images to batches, with what is known of each: class, time, other conditions."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Literal

from rsgeo_gan.conditions import Conditions
from rsgeo_gan.datamodules.base import PatchDataModule, log
from rsgeo_gan.datasets import (
    ClassPositions,
    ImageTileDataset,
    ImageTileSet,
    MixedDataset,
    MixedPatchSampler,
    Positions,
    Survey,
    SyntheticDataset,
)
from rsgeo_gan.datasets.tiles import TileSet
from rsgeo_gan.errors import SourceError
from rsgeo_gan.grid import crs_of
from rsgeo_gan.labelled import conditions_of, of_classes
from rsgeo_gan.manifest import item_box
from rsgeo_gan.sensors import Scaler

__all__ = ["TileDataModule"]

_GSD_TOLERANCE = 0.05


class TileDataModule(PatchDataModule):
    """Patches of single images for training, validation and test, and whole tiles for prediction.

    It serves collected chips and one side of coregistered pairs alike. Patches lie inside tiles; the statistics are
    those of the training split.

    Args:
        tiles: Folder of the tiles, or their manifest.
        side: Asset that holds the image: "image" for collected chips, "source" or "target" for tiles of pairs.
        patch_size: Side of a patch, pixels.
        batch_size: Patches in a batch, of each process; whole tiles likewise in prediction, if they are of one size.
        conditions: What a generator is asked for: names (label, day, or a property of the items) or whole descriptions
            as `Conditions.to_dict` gives them.
        balanced: Draw every class equally often; needs the condition label.
        classes: Only tiles of these classes, in every split; all when None.
        per_class: Most training tiles of each class, or of all where tiles have no class; all when None. Those of a
            smaller number are among those of a larger one, and the statistics stay those of the whole training split,
            so that runs on ever fewer tiles can be compared.
        min_valid: Share of a patch that must be valid.
        mix_tiles: Tiles whose patches are mixed, and which a reader should be able to hold.
        mix: Synthetic images among the training patches: `{"products": folder, "share": 0.3}`, the share being that of
            an epoch. Statistics, validation and test stay those of the real tiles.
        shared: What data modules of patches have in common, see `PatchDataModule`: length, num_workers, seed,
            val_length, flips, statistics and cache_mb.

    Attributes:
        facts: Scaler, pixel size, conditions and digest of the tiles as plain types, after `setup`.
        conditions: The conditions, after `setup`.
    """

    inside = True

    def __init__(
        self,
        tiles: str = "tiles",
        side: Literal["image", "source", "target"] = "image",
        patch_size: int = 64,
        batch_size: int = 16,
        conditions: list[str | dict[str, Any]] | None = None,
        balanced: bool = False,
        classes: list[str] | None = None,
        per_class: int | None = None,
        min_valid: float = 0.95,
        mix_tiles: int = 64,
        mix: dict[str, Any] | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(
            ImageTileDataset,
            tiles=tiles,
            patch_size=patch_size,
            batch_size=batch_size,
            min_valid=min_valid,
            mix_tiles=mix_tiles,
            **shared,
        )
        self.side = side
        self.wanted = list(conditions or ())
        self.balanced = balanced
        if mix is not None and (set(mix) != {"products", "share"} or not 0 <= float(mix["share"]) <= 1):
            raise ValueError(
                f"TileDataModule: expected mix with a folder of products and a share from 0 to 1, got {mix}"
            )
        if per_class is not None and per_class < 1:
            raise ValueError(f"TileDataModule: expected per_class of at least 1, got {per_class}")
        self.mix = mix
        self.classes = classes
        self.per_class = per_class
        self.conditions = Conditions()

    def _tile_set(self, split: str | None = None) -> ImageTileSet:
        return ImageTileSet(self.tiles, split, self.side)

    def _dataset(self, split: str | None) -> ImageTileDataset:
        scaler = self._scalers[self.side]
        ids = self._ids(split)
        return ImageTileDataset(self.tiles, split, self.side, scaler, self.conditions, ids=ids, cache_mb=self.cache_mb)

    def _whole(self) -> ImageTileDataset:
        return self._dataset(None)

    def _ids(self, split: str | None) -> list[str] | None:
        """Tiles of the wanted classes, in training at most so many of each; None for all."""
        if self.classes is None and (self.per_class is None or split != "train"):
            return None
        items = of_classes(self._tile_set().manifest.items, self.classes)
        if self.per_class is None or split != "train":
            return [item.id for item in items]
        members: dict[str, list[str]] = defaultdict(list)
        for item in items:
            if item.properties.get("rsgeo:split", "train") == "train":
                members[str(item.properties.get("rsgeo:label", ""))].append(item.id)
        return [name for names in members.values() for name in sorted(names, key=self._shuffled)[: self.per_class]]

    def _shuffled(self, name: str) -> str:
        return hashlib.sha256(f"{self.seed}:{name}".encode()).hexdigest()

    def _named(self, scalers: Mapping[Any, Scaler]) -> Mapping[str, Scaler]:
        return {"image": scalers[self.side]}

    def _facts(self, every: TileSet, found: Survey) -> dict[str, Any]:
        assert isinstance(every, ImageTileSet)
        self._sizes(every)
        _one_pixel_size(every)
        self.conditions = conditions_of(every.manifest, self.wanted, self.classes)
        if self.balanced and self.conditions.classes is None:
            raise SourceError(
                f"{self.tiles}: balanced patches need classes, but the conditions are "
                f"{', '.join(self.conditions.names) or 'none'}. Add label to `conditions`, or set balanced: false."
            )
        return {
            "gsd": every.res,
            "patch_px": self.side_px,
            "side": self.side,
            "conditions": self.conditions.to_dict(),
            "tiles": found.digest,
            "train_tiles": len(self._ids("train") or every.of("train")),
            "source_sensor": every.sensors[self.side],
        }

    def _sizes(self, every: ImageTileSet) -> None:
        """Refuse tiles that no patch fits into: they would be missing from training without a word."""
        small = [tile for tile in every.everything if min(tile.width, tile.height) < self.side_px]
        if small:
            raise SourceError(
                f"{self.tiles}: {len(small)} of {len(every.everything)} tiles are smaller than a patch of "
                f"{self.side_px} x {self.side_px} px, the first is {small[0].id} with {small[0].width} x "
                f"{small[0].height}. Lower patch_size, or collect tiles of one size."
            )

    def _drawn(self, dataset: Any) -> Positions:
        positions = self._positions(dataset)
        classes = self.conditions.classes
        if classes is not None:
            counts = Counter(dataset.labels)
            absent = [name for number, name in enumerate(classes.classes) if not counts[number]]
            if absent:
                log.warning("%s: no training tile of the classes %s", self.tiles, ", ".join(absent))
        return ClassPositions(positions, dataset.labels) if self.balanced else positions

    def _training(self, dataset: Any, length: int, rank: int, world: int) -> tuple[Any, Any]:
        if self.mix is None:
            return super()._training(dataset, length, rank, world)
        synthetic = SyntheticDataset(
            self.mix["products"],
            self._scalers[self.side],
            self.conditions,
            cache_mb=self.cache_mb,
            classes=self.classes,
        )
        share = float(self.mix["share"])
        self.facts["mix"] = {"share": share, "images": len(synthetic), "digest": synthetic.tile_set.digest()}
        sampler = MixedPatchSampler(
            self._drawn(dataset),
            length,
            synthetic,
            share,
            len(dataset),
            self.side_px,
            self.seed,
            self.mix_tiles,
            rank,
            world,
        )
        return MixedDataset(dataset, synthetic), sampler


def _one_pixel_size(every: ImageTileSet) -> None:
    """Warn of tiles whose pixels are larger or smaller than those of others: a network sees all as of one size."""
    first: tuple[float, str] | None = None
    seen: set[tuple[Any, ...]] = set()
    for item in every.manifest:
        found = item.properties
        key = (found.get("proj:code") or found.get("proj:wkt2"), *(found["proj:transform"][k] for k in (0, 1, 3, 4)))
        if key in seen:
            continue
        seen.add(key)
        box = item_box(item)
        if crs_of(box).geographic:
            continue
        side = math.sqrt(abs(box.affine.determinant))
        first = first or (side, item.id)
        if abs(side / first[0] - 1) > _GSD_TOLERANCE:
            log.warning(
                "%s: tile %s has pixels of %g, tile %s of %g; a network sees them as of one size. Collect each pixel "
                "size in its own folder",
                every.path,
                item.id,
                side,
                first[1],
                first[0],
            )
            return
