"""Images to tiles: folders, scenes, the sample or other tiles become one split collection."""

from __future__ import annotations

from rsgeo_gan.catalog.collecting import (
    CollectSpec,
    CoverLabels,
    FolderImages,
    FolderLabels,
    SampleImages,
    SceneImages,
    TileImages,
)
from rsgeo_gan.collect.stage import collect
from rsgeo_gan.collect.superres import collect_superres

__all__ = [
    "CollectSpec",
    "CoverLabels",
    "FolderImages",
    "FolderLabels",
    "SampleImages",
    "SceneImages",
    "TileImages",
    "collect",
    "collect_superres",
]
