"""Labelled chips, ever fewer of them to learn from, and chips of other places to be judged on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsgeo_gan.catalog.collecting import CollectSpec
from rsgeo_gan.collect import collect
from rsgeo_gan.datamodules import TileDataModule
from rsgeo_gan.datasets import ImageTileDataset
from rsgeo_gan.manifest import Manifest
from rsgeo_gan.sensors import Scaler

FEWEST = 8
"""Training chips below which a class is left out of the study."""
_S2 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"]


@dataclass(frozen=True)
class Chips:
    """Images of the model domain, shape (N, C, H, W), their classes (N,), and the codes of those, shape (N, K)."""

    images: Tensor
    labels: Tensor
    codes: Tensor

    def __len__(self) -> int:
        return len(self.images)

    @property
    def evenly(self) -> Tensor:
        """Weights of a draw in which all classes are equally frequent, shape (N,)."""
        return 1 / torch.bincount(self.labels).clamp_min(1)[self.labels].float()


@dataclass(frozen=True)
class Split:
    """Chips to learn, chips of other places with the same classes, and what a task is told of its data."""

    train: Chips
    test: Chips
    facts: dict[str, Any]


@dataclass(frozen=True)
class Data:
    """A collection and what is fixed of it.

    Attributes:
        tiles: Its manifest.
        classes: Classes studied, the most frequent in training first.
        side_px: Side of a chip.
    """

    tiles: Path
    classes: tuple[str, ...]
    side_px: int

    def split(self, classes: int = 0, per_class: int = 0, seed: int = 0) -> Split:
        """Read the chips of the first so many classes, in training at most so many of each, chosen by the seed.

        Args:
            classes: 0 for all.
            per_class: 0 for all.
            seed: Those of a smaller number are among those of a larger one with the same seed.
        """
        wanted = list(self.classes[: classes or None])
        module = TileDataModule(
            str(self.tiles),
            patch_size=self.side_px,
            conditions=["label"],
            classes=wanted,
            per_class=per_class or None,
            seed=seed,
        )
        module.setup("fit")
        train: Any = module.train_dataset
        ids = [item.id for item in Manifest.read(self.tiles) if item.properties.get("rsgeo:label") in wanted]
        scaler = Scaler.from_dict(module.facts["image"])
        test = ImageTileDataset(self.tiles, "test", "image", scaler, module.conditions, ids=ids)
        return Split(_read(train), _read(test), dict(module.facts))


def sample(work: Path, side_px: int, scene_px: int = 1024) -> Data:
    """Chips of the invented landscape on two dates, labelled by its land cover."""
    spec = {
        "images": {"kind": "sample", "side": "source", "size_px": scene_px, "n_dates": 2, "seed": 7},
        "labels": {"kind": "cover", "min_share": 0.5},
        "block_tiles": 2,
    }
    return collected(work / f"sample-{scene_px}-{side_px}", spec, side_px)


def terramesh(work: Path, folder: Path, side_px: int) -> Data:
    """Chips of real Sentinel-2 tiles, labelled by the land-cover layer beside them.

    The layer tells its classes by number and brings no legend, so the numbers are their names.
    """
    path = str(folder.resolve())
    spec = {
        "images": {
            "kind": "folder",
            "path": path,
            "glob": "*_S2L2A.tif",
            "sensor": "sentinel2-l2a",
            "file_bands": _S2,
            "bands": ["B02", "B03", "B04", "B08"],
        },
        "labels": {"kind": "cover", "path": path, "glob": "*_LULC.tif", "min_share": 0.5},
        "block_tiles": 1,
    }
    return collected(work / f"terramesh-{side_px}", spec, side_px)


def collected(out: Path, spec: dict[str, Any], side_px: int) -> Data:
    """Cut the chips where they are not there yet, and choose the classes that have enough on both sides."""
    path = out / f"{out.name}.json"
    if not path.is_file():
        wanted = spec | {"tile_px": side_px, "min_valid": 1.0, "val_share": 0.0, "test_share": 0.4}
        collect(CollectSpec.model_validate(wanted), out)
    counts: dict[str, dict[str, int]] = {}
    for item in Manifest.read(path):
        found = counts.setdefault(item.properties["rsgeo:label"], {"train": 0, "test": 0})
        found[item.properties["rsgeo:split"]] += 1
    enough = {name: found["train"] for name, found in counts.items() if min(found.values()) >= FEWEST}
    if len(enough) < 2:
        raise SystemExit(f"{path}: expected two classes with {FEWEST} chips in either split, got {counts}.")
    return Data(path, tuple(sorted(enough, key=lambda name: (-enough[name], name))), side_px)


def _read(tiles: ImageTileDataset) -> Chips:
    found = [tiles[index] for index in range(len(tiles))]
    images, labels, codes = (torch.stack([one[key] for one in found]) for key in ("image", "label", "condition"))
    return Chips(images, labels, codes)
