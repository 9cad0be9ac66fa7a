"""Trust in the alignment on its way from the tiles to the pair loss."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rsgeo_gan import raster
from rsgeo_gan.datamodules import PairDataModule
from rsgeo_gan.losses import PairLoss
from rsgeo_gan.manifest import Manifest, item_box
from rsgeo_gan.models import PatchDiscriminator, ResNetGenerator
from rsgeo_gan.tasks import CycleTranslation
from tests.synth import write_tiles

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def trusted(folder: Path, trust: np.ndarray) -> dict[str, Any]:
    """Write one tile whose trust varies, and read it as training does."""
    tiles = Manifest.read(write_tiles(folder, cells=(1, 1), size=64))
    (item,) = tiles.items
    path = folder / "tiles" / item.id / "confidence.tif"
    raster.write(path, trust, item_box(item), names=("confidence",), unit="1", scale=1 / 255, cog=False)
    item.assets["confidence"] = copy.copy(item.assets["source"])
    item.assets["confidence"].href = str(path)
    item.properties["rsgeo:confidence"] = float(trust.mean() / 255)
    tiles.save()
    data = PairDataModule(str(tiles.path.parent), patch_size=64, batch_size=1, length=1)
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def test_the_pair_loss_counts_each_place_by_its_own_trust(tmp_path: Path) -> None:
    west = np.zeros((64, 64), np.uint8)
    west[:, :32] = 255
    torch.manual_seed(0)
    task = CycleTranslation(
        ResNetGenerator(2, 2, width=4, blocks=1),
        ResNetGenerator(2, 2, width=4, blocks=1),
        PatchDiscriminator(2, width=4, layers=2),
        PatchDiscriminator(2, width=4, layers=2),
        correspondence=PairLoss(),
    )
    found = {}
    for name, trust in {"west": west, "east": 255 - west, "all": np.full_like(west, 255)}.items():
        batch = task.prepare(trusted(tmp_path / name, trust))
        found[name] = float(task.generator_terms(batch)["pair"].detach())
    assert found["west"] + found["east"] == pytest.approx(found["all"], rel=1e-5)
    assert abs(found["west"] - found["east"]) > 0.02 * found["all"]  # the mean of the tile would make them equal
