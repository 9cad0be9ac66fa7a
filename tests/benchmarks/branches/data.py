"""Chips to learn and chips of other places to be judged on, with their conditions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsgeo_gan.catalog.collecting import CollectSpec
from rsgeo_gan.collect import collect
from rsgeo_gan.conditions import Conditions
from rsgeo_gan.datamodules import TileDataModule
from rsgeo_gan.datasets import ImageTileDataset
from rsgeo_gan.sensors import Scaler


@dataclass(frozen=True)
class Data:
    """Images of the model domain, shape (N, C, H, W), and the codes of their conditions, shape (N, K).

    Attributes:
        train: To learn.
        test: Of places held out.
        train_conditions: Codes of `train`.
        test_conditions: Codes of `test`.
        facts: What a task is told of its tiles.
    """

    train: Tensor
    test: Tensor
    train_conditions: Tensor
    test_conditions: Tensor
    facts: dict[str, Any]

    @property
    def conditions(self) -> Conditions:
        """What the codes mean."""
        return Conditions.from_dict(self.facts["conditions"])


def sample(work: Path, side_px: int, scene_px: int = 1024) -> Data:
    """Chips of the invented landscape on four dates, conditioned on land cover and day."""
    spec = {
        "images": {"kind": "sample", "side": "source", "size_px": scene_px, "n_dates": 4, "seed": 7},
        "labels": {"kind": "cover", "min_share": 0.6},
        "tile_px": side_px,
    }
    return _collected(work / f"sample-{scene_px}-{side_px}", spec, ["label", "day"])


def real(work: Path, folder: Path, side_px: int) -> Data:
    """Chips of real 8-bit optical scenes, without conditions: their dates and covers are not told."""
    spec = {
        "images": {
            "kind": "folder",
            "path": str(folder.resolve()),
            "glob": "*_s2rgb.tif",
            "sensor": "sentinel2-display",
            "file_bands": ["red", "green", "blue"],
        },
        "tile_px": side_px,
    }
    return _collected(work / f"real-{side_px}", spec, [])


def _collected(out: Path, spec: dict[str, Any], conditions: list[str]) -> Data:
    path = out / f"{out.name}.json"
    if not path.is_file():
        spec |= {"val_share": 0.0, "test_share": 0.25}
        collect(CollectSpec.model_validate(spec), out)
    module = TileDataModule(str(path), patch_size=int(spec["tile_px"]), conditions=conditions)  # type: ignore[arg-type]
    module.setup("fit")
    images: dict[str, list[Tensor]] = {}
    codes: dict[str, list[Tensor]] = {}
    for split in ("train", "test"):
        tiles = ImageTileDataset(path, split, "image", Scaler.from_dict(module.facts["image"]), module.conditions)
        found = [tiles[index] for index in range(len(tiles))]
        whole = [one for one in found if bool(one["mask_valid"].all())]
        images[split] = [one["image"] for one in whole]
        codes[split] = [one.get("condition", torch.zeros(0)) for one in whole]
    return Data(
        torch.stack(images["train"]),
        torch.stack(images["test"]),
        torch.stack(codes["train"]),
        torch.stack(codes["test"]),
        dict(module.facts),
    )
