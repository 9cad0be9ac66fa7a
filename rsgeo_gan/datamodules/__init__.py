"""Data modules: tiles to batches of pairs or of single images."""

from __future__ import annotations

from rsgeo_gan.datamodules.base import PatchDataModule, collate
from rsgeo_gan.datamodules.images import TileDataModule
from rsgeo_gan.datamodules.pairs import PairDataModule

__all__ = ["PairDataModule", "PatchDataModule", "TileDataModule", "collate"]
