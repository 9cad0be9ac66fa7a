"""Every packaged recipe, narrowed, fitted to other band counts than it was written for, and trained for a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torchgeo.datamodules import BaseDataModule
from torchgeo.tasks import BaseTask

from rsgeo_gan.training.recipes import fit_networks, read_recipe, recipe_names
from tests.synth import ramp, speckled, write_tiles
from tests.unit.test_superres_data import write_sharp

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    # Lightning 2.6 calls a deprecated name of jsonargparse 4.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
]

NARROW = {"width": 4, "max_width": 16, "blocks": 1, "depth": 3, "layers": 2, "scales": 2, "latent_dim": 8}
DATA = {"patch_size": 64, "batch_size": 2, "length": 2, "val_length": 2, "num_workers": 0}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    return write_tiles(folder, size=64, source=ramp(3), target=speckled(1), splits=["train", "val"])


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sharp(tmp_path_factory.mktemp("sharp"), references=dict.fromkeys(range(6), 1))


def narrow(networks: dict[str, Any]) -> None:
    """Make every network small, those that others are built around too."""
    for part in networks.values():
        if isinstance(part, dict) and str(part.get("class_path", "")).startswith("rsgeo_gan.models."):
            part["init_args"] |= {key: value for key, value in NARROW.items() if key in part["init_args"]}
            narrow(part["init_args"])


def built(name: str, tiles: Path) -> tuple[BaseTask, LightningDataModule]:
    """Build task and data of a recipe as LightningCLI does."""
    recipe = read_recipe(name)
    recipe["data"]["init_args"] |= {**DATA, "tiles": str(tiles)}
    if "side" in recipe["data"]["init_args"]:
        recipe["data"]["init_args"]["side"] = "source"
    values: dict[str, Any] = {}
    if name.startswith("superres"):
        recipe["data"]["init_args"]["patch_size"] = 8
        values = {"common": [[1, 0]]}
    asked = recipe["data"]["init_args"].get("conditions") or []
    assert set(asked) <= {"day"}  # sine and cosine
    counts = {"source": 3, "target": 1, "image": 3, "condition": 2 * len(asked), "patch": DATA["patch_size"]}
    if values:
        counts |= {"target": 3, "reference": 2, "common": 1, "scale": 4}
    recipe = fit_networks(recipe, counts, values)
    narrow(recipe["model"]["init_args"])
    parser = LightningArgumentParser()
    parser.add_subclass_arguments(BaseTask, "model")
    parser.add_subclass_arguments(BaseDataModule, "data")
    made: Any = parser.instantiate_classes(parser.parse_object({key: recipe[key] for key in ("model", "data")}))
    return made.model, made.data


@pytest.mark.parametrize("name", recipe_names())
def test_a_packaged_recipe_trains_on_three_bands_and_one(name: str, tiles: Path, sharp: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task, data = built(name, sharp if name.startswith("superres") else tiles)
    before = [p.detach().clone() for p in task.generator.parameters()]  # type: ignore[union-attr]
    trainer = Trainer(
        accelerator="cpu", fast_dev_run=1, logger=False, default_root_dir=tmp_path, enable_model_summary=False
    )
    trainer.fit(task, data)
    monitored = [part["init_args"].get("monitor") for part in read_recipe(name)["trainer"]["callbacks"]]
    for score in {task.monitor, *monitored} - {None}:
        assert torch.isfinite(trainer.callback_metrics[score]), score
    assert any(not torch.equal(a, b) for a, b in zip(before, task.generator.parameters(), strict=True))  # type: ignore[union-attr]
