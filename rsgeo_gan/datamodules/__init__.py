"""Data modules: tiles to batches of pairs, of single images, or of coarse and fine ones."""

from __future__ import annotations

from rsgeo_gan.datamodules.base import PatchDataModule, collate
from rsgeo_gan.datamodules.images import TileDataModule
from rsgeo_gan.datamodules.pairs import PairDataModule
from rsgeo_gan.datamodules.superres import SuperResolutionDataModule

__all__ = ["PairDataModule", "PatchDataModule", "SuperResolutionDataModule", "TileDataModule", "collate"]
