"""Tiles of pairs to batches of source and target."""

from __future__ import annotations

from typing import Any

from rsgeo_gan.datamodules.base import PatchDataModule
from rsgeo_gan.datasets import PairDataset, Survey, TileDataset, TileSet

__all__ = ["PairDataModule"]


class PairDataModule(PatchDataModule):
    """Patches of coregistered pairs for training, validation and test, and whole tiles for prediction.

    Statistics are computed once from valid pixels of the training split and kept beside the tiles; of several
    processes only the first does so. The patches of an epoch depend on the seed and the epoch alone, and are shared
    by the processes that train together.

    Args:
        tiles: Folder of the tiles, or their manifest.
        patch_size: Side of a patch, source pixels.
        batch_size: Patches in a batch, of each process.
        min_valid: Share of a patch that must be valid on both sides.
        radius_px: Misalignment that losses and scores forgive, pixels; passed on with the facts.
        halo_px: Margin of the whole tiles in prediction, source pixels.
        mix_tiles: Tiles whose patches are mixed, and which a reader should be able to hold.
        shared: What data modules of patches have in common, see `PatchDataModule`: length, num_workers, seed,
            val_length, flips, statistics and cache_mb.

    Attributes:
        facts: Scalers, pixel size, scale and digest of the tiles as plain types, after `setup`.
    """

    asked = "valid on both sides"

    def __init__(
        self,
        tiles: str = "tiles",
        patch_size: int = 256,
        batch_size: int = 1,
        min_valid: float = 0.9,
        radius_px: int = 3,
        halo_px: int = 0,
        mix_tiles: int = 16,
        **shared: Any,
    ) -> None:
        super().__init__(
            PairDataset,
            tiles=tiles,
            patch_size=patch_size,
            batch_size=batch_size,
            min_valid=min_valid,
            mix_tiles=mix_tiles,
            **shared,
        )
        self.radius_px = radius_px
        self.halo_px = halo_px

    def _tile_set(self, split: str | None = None) -> TileSet:
        return TileSet(self.tiles, split)

    def _dataset(self, split: str) -> PairDataset:
        return PairDataset(self.tiles, split, self._scalers["source"], self._scalers["target"], cache_mb=self.cache_mb)

    def _whole(self) -> TileDataset:
        scalers = self._scalers
        return TileDataset(self.tiles, None, self.halo_px, scalers["source"], scalers["target"], self.cache_mb)

    def _facts(self, every: TileSet, found: Survey) -> dict[str, Any]:
        return {
            "gsd": every.res,
            "scale": every.scale,
            "patch_px": self.side_px,
            "radius_px": self.radius_px,
            "tiles": found.digest,
            "source_sensor": every.sensors["source"],
            "target_sensor": every.sensors["target"],
        }
