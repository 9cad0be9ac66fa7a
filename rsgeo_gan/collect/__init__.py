"""Images to tiles for synthesis: folders, scenes, the sample or other tiles become one labelled, split collection."""

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

__all__ = [
    "CollectSpec",
    "CoverLabels",
    "FolderImages",
    "FolderLabels",
    "SampleImages",
    "SceneImages",
    "TileImages",
    "collect",
]
