"""Recipes of super-resolution through torchgeo's own command, and trainings that are stopped within an epoch."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torchgeo.main import main

from rsgeo_gan.models import TextureTransfer, constrain
from rsgeo_gan.sensors import Scaler
from rsgeo_gan.tasks import AdversarialTask, ReferenceSuperResolution, SuperResolution
from tests.e2e.test_resume import IDLE, STATE, Kill, Killed, differences
from tests.together_sharpening import PATCHES, data, references
from tests.unit.test_superres_data import write_sharp

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:.*is an instance of `nn.Module`"),
    # Lightning 2.6 calls a deprecated name of jsonargparse 4.
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]

RECIPES = Path(__file__).resolve().parents[2] / "rsgeo_gan" / "recipes"
NETWORK = {"in_channels": 3, "out_channels": 3, "scale": 2, "width": 4, "blocks": 1}
DATA = {"scale": 2, "patch_size": 8, "batch_size": 4, "length": 4, "val_length": 2}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sharp(tmp_path_factory.mktemp("sharp"), references=dict.fromkeys(range(6), 1))


def fitted(recipe: str, folder: Path, tiles: Path, networks: dict[str, dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Train a recipe with `torchgeo fit`; return its last checkpoint, read without running code."""
    folder.mkdir(exist_ok=True)
    settings = {f"model.{name}.init_args.{key}": v for name, given in networks.items() for key, v in given.items()}
    settings |= {f"data.{key}": value for key, value in DATA.items()}
    settings |= {key.replace("__", "."): value for key, value in more.items()}
    settings |= {"data.tiles": tiles, "trainer.enable_progress_bar": "false", "trainer.log_every_n_steps": 1}
    asked = [f"--{key}={value}" for key, value in settings.items()]
    command = ["torchgeo", "fit", "--config", str(RECIPES / f"{recipe}.yaml"), *asked]
    here = Path.cwd()
    with mock.patch.dict(os.environ), mock.patch.object(sys, "argv", command):
        os.chdir(folder)
        try:
            main()
        finally:
            os.chdir(here)
    path = next(folder.rglob("last.ckpt"))
    return torch.load(path, weights_only=True) | {"path": path}


def logged(folder: Path) -> set[str]:
    table = pd.read_csv(next(folder.rglob("metrics.csv")))
    return {name for name in table if table[name].notna().any()}


def test_a_recipe_with_a_discriminator_trains_and_its_checkpoint_says_what_it_is(tiles: Path, tmp_path: Path) -> None:
    content = fitted(
        "superres-decoupled-small",
        tmp_path,
        tiles,
        {
            "generator.init_args.network": NETWORK,
            "residual": NETWORK,
            "discriminator": {"in_channels": 3, "width": 4},
            "perceptual.init_args.backend": {"in_channels": 3, "width": 4},
        },
        model__plain_epochs=1,
        trainer__max_epochs=2,
    )
    stored, facts = content["rsgeo_gan"], content["rsgeo_gan"]["facts"]
    assert stored["task"] == "rsgeo_gan.tasks.superres.SuperResolution"
    assert stored["residuals"] == {"generator": "residual"}
    assert Scaler.from_dict(facts["target"]).bands == ("B04", "B03", "B02")
    assert (facts["scale"], facts["gsd"], facts["degradation"]) == (2, 20.0, {"mtf": 0.2, "noise": 0.0})
    assert content["hyper_parameters"]["generator"]["class_path"] == "rsgeo_gan.models.Constrained"
    task = SuperResolution.load_from_checkpoint(content["path"], map_location="cpu", weights_only=True).eval()
    assert all(torch.equal(value, content["state_dict"][name]) for name, value in task.state_dict().items())
    assert task(torch.zeros(1, 3, 8, 8)).shape == (1, 3, 16, 16)
    terms = {"train_d/discrimination", "train_g/pixel", "train_g/perceptual", "train_g/adversarial"}
    assert terms | {"val/psnr", "val/low_pass_share"} <= logged(tmp_path)


def test_a_recipe_with_references_trains_and_keeps_what_it_measured(tiles: Path, tmp_path: Path) -> None:
    content = fitted(
        "superres-reference-small",
        tmp_path,
        tiles,
        {
            "generator.init_args.content": NETWORK,
            "generator.init_args.features": {"in_channels": 1, "width": 4},
            "generator": {"common": "[[1, 0]]", "window_px": 2},
        },
        model__content_epochs=1,
        trainer__max_epochs=2,
        trainer__check_val_every_n_epoch=1,
    )
    facts, weights = content["rsgeo_gan"]["facts"], content["state_dict"]
    assert (facts["references"], facts["common"], facts["reference_bands"]) == (1, [[1, 0]], ["B03", "B08"])
    assert int(weights["generator.features.fits"]) == int(weights["generator.calibrated_on"]) == 1
    assert 0 < float(weights["generator.floor"]) <= 0.95
    task = ReferenceSuperResolution.load_from_checkpoint(content["path"], map_location="cpu", weights_only=True).eval()
    network: Any = task.generator
    assert isinstance(network, TextureTransfer)
    assert network.calibrated
    assert network.features.fitted
    assert all(torch.equal(value, weights[name]) for name, value in task.state_dict().items())
    low = torch.zeros(1, 3, 8, 8)
    alone = constrain(network.content(low), low, 2, network.form, mtf=network.mtf)
    assert torch.equal(task(low), alone)
    assert {"train_g/reconstruction", "train_g/texture", "val/gate", "val/content_psnr"} <= logged(tmp_path)


def resumed(
    task: AdversarialTask, tiles: Path, folder: Path, kill: Kill | None = None, path: Path | None = None
) -> Path:
    """Train for three epochs of two batches, keeping the state after each batch, or go on from such a state."""
    given = data(tiles, 2, references=1)
    saver = ModelCheckpoint(dirpath=folder, filename="last", every_n_train_steps=2, enable_version_counter=False)
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[EMAWeightAveraging(use_buffers=False, decay=0.9), saver, *([kill] if kill else [])],
        logger=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if kill:
        with pytest.raises(Killed):
            trainer.fit(task, given)
    else:
        trainer.fit(task, given, ckpt_path=path, weights_only=False if path else None)
    return folder / "last.ckpt"


def test_a_training_stopped_within_an_epoch_goes_on_bit_for_bit(tiles: Path, tmp_path: Path) -> None:
    whole = resumed(references(), tiles, tmp_path / "whole")
    stopped = resumed(references(), tiles, tmp_path / "parts", kill=Kill(1, 1))
    task = references()
    seed_everything(99)
    again = resumed(task, tiles, tmp_path / "parts", path=stopped)
    one, other = (torch.load(path, weights_only=False) for path in (whole, again))
    assert one["rsgeo_gan_state"]["batches_seen"] == 3 * PATCHES // 4
    assert [found for key in STATE for found in differences(one[key], other[key], key) if IDLE not in found] == []
    network: Any = task.generator
    assert not any(parameter.requires_grad for parameter in network.content.parameters())
