"""Datasets: tiles on disk as torchgeo samples of source and target."""

from __future__ import annotations

from rsgeo_gan.datasets.pairs import PairDataset, Patch, TileDataset
from rsgeo_gan.datasets.sampling import BlockPatchSampler, GridPatchSampler, Positions
from rsgeo_gan.datasets.statistics import Survey, survey
from rsgeo_gan.datasets.tiles import Tile, TileReader, TileSet

__all__ = [
    "BlockPatchSampler",
    "GridPatchSampler",
    "PairDataset",
    "Patch",
    "Positions",
    "Survey",
    "Tile",
    "TileDataset",
    "TileReader",
    "TileSet",
    "survey",
]
