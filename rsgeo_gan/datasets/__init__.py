"""Datasets: tiles on disk as torchgeo samples, of source and target or of single images."""

from __future__ import annotations

from rsgeo_gan.datasets.eurosat import eurosat
from rsgeo_gan.datasets.images import ClassPositions, ImageTileDataset
from rsgeo_gan.datasets.imagesets import ImageTileSet
from rsgeo_gan.datasets.pairs import PairDataset, Patch, TileDataset
from rsgeo_gan.datasets.sampling import BlockPatchSampler, GridPatchSampler, Positions
from rsgeo_gan.datasets.sharpsets import SuperResolutionTileSet
from rsgeo_gan.datasets.statistics import Survey, survey
from rsgeo_gan.datasets.superres import Degradation, SuperResolutionDataset
from rsgeo_gan.datasets.synthetic import MixedDataset, MixedPatchSampler, SyntheticDataset
from rsgeo_gan.datasets.tiles import Tile, TileReader, TileSet

__all__ = [
    "BlockPatchSampler",
    "ClassPositions",
    "Degradation",
    "GridPatchSampler",
    "ImageTileDataset",
    "ImageTileSet",
    "MixedDataset",
    "MixedPatchSampler",
    "PairDataset",
    "Patch",
    "Positions",
    "SuperResolutionDataset",
    "SuperResolutionTileSet",
    "Survey",
    "SyntheticDataset",
    "Tile",
    "TileDataset",
    "TileReader",
    "TileSet",
    "eurosat",
    "survey",
]
