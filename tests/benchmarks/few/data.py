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

    def module(self, classes: int, per_class: int | None, seed: int = 0, **others: Any) -> TileDataModule:
        """Serve chips of the first so many classes (0: all), in training at most so many of each, by the seed."""
        wanted = list(self.classes[: classes or None])
        return TileDataModule(
            str(self.tiles),
            patch_size=self.side_px,
            conditions=["label"],
            balanced=True,
            classes=wanted,
            per_class=per_class or None,
            seed=seed,
            **others,
        )

    def chips(self, classes: int = 0, per_class: int | None = None, seed: int = 0) -> dict[str, Chips]:
        """Read the training chips of such a module, and the held-out chips of its classes."""
        module = self.module(classes, per_class, seed)
        module.setup("fit")
        train: Any = module.train_dataset
        scaler = Scaler.from_dict(module.facts["image"])
        ids = [
            item.id
            for item in Manifest.read(self.tiles)
            if item.properties.get("rsgeo:label") in self.classes[: classes or None]
        ]
        test = ImageTileDataset(self.tiles, "test", "image", scaler, module.conditions, ids=ids)
        return {"train": _read(train), "test": _read(test)}


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
        wanted = spec | {"tile_px": side_px, "val_share": 0.0, "test_share": 0.4}
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
    whole = [one for one in found if bool(one["mask_valid"].all())]
    images, labels, codes = (torch.stack([one[key] for one in whole]) for key in ("image", "label", "condition"))
    return Chips(images, labels, codes)
