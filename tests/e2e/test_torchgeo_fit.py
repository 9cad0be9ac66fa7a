"""Recipes are plain LightningCLI files: torchgeo's own command trains them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rsgeo_gan.models import UNetGenerator
from rsgeo_gan.sensors import Scaler
from rsgeo_gan.tasks import CycleTranslation
from tests.synth import ramp, speckled, write_tiles

pytestmark = pytest.mark.e2e

RECIPES = Path(__file__).resolve().parents[2] / "rsgeo_gan" / "recipes"


def torchgeo_fit(folder: Path, tiles: Path) -> subprocess.CompletedProcess[str]:
    networks = {
        "generator": {"in_channels": 3, "out_channels": 1, "width": 4, "depth": 2},
        "generator_back": {"in_channels": 1, "out_channels": 3, "width": 4, "depth": 2},
        "discriminator": {"in_channels": 1, "width": 4, "layers": 2},
        "discriminator_back": {"in_channels": 3, "width": 4, "layers": 2},
    }
    sizes = [
        f"--model.init_args.{name}.init_args.{key}={value}"
        for name, arguments in networks.items()
        for key, value in arguments.items()
    ]
    data = {"tiles": tiles, "patch_size": 32, "batch_size": 2, "length": 4, "val_length": 2}
    return subprocess.run(
        [
            Path(sys.executable).with_name("torchgeo"), "fit", "--config", RECIPES / "translation-small.yaml",
            "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1", "--trainer.enable_progress_bar=false",
            *sizes, *(f"--data.init_args.{key}={value}" for key, value in data.items()),
        ],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(
        tmp_path_factory.mktemp("tiles"),
        size=48,
        source=ramp(3),
        target=speckled(1),
        splits=["train", "train", "val"],
    )


@pytest.fixture(scope="module")
def run(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    done = torchgeo_fit(folder, tiles)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_checkpoint_holds_plain_types_and_the_facts_of_the_data(run: Path) -> None:
    content = torch.load(next(run.rglob("last.ckpt")), weights_only=True)
    stored = content["rsgeo_gan"]
    assert stored["task"] == "rsgeo_gan.tasks.translation.CycleTranslation"
    assert Scaler.from_dict(stored["facts"]["source"]).bands == ("B02", "B03", "B04")
    assert Scaler.from_dict(stored["facts"]["target"]).unit == "dB"
    assert stored["facts"]["gsd"] == 10.0
    assert content["hyper_parameters"]["generator"]["class_path"] == "rsgeo_gan.models.UNetGenerator"


# Lightning 2.6 calls a deprecated name of jsonargparse 4.
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_the_checkpoint_rebuilds_itself_without_running_code(run: Path) -> None:
    path = next(run.rglob("last.ckpt"))
    task = CycleTranslation.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    assert isinstance(task.generator, UNetGenerator)
    assert task.weights["cycle"] == 1.0
    averaged = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, averaged[key]) for key, value in task.state_dict().items())
    assert task.facts["radius_px"] == 3
    made = task.eval()(torch.zeros(1, 3, 40, 44))
    assert made.shape == (1, 1, 40, 44)


def test_terms_and_scores_are_logged_by_name(run: Path) -> None:
    logged = pd.read_csv(next(run.rglob("metrics.csv")))
    for name in (
        "train_d/adversarial",
        "train_g/adversarial",
        "train_g/cycle",
        "train_g/pair_pair",
        "train_g/pooled_pair",
        "val/ssim_multilook",
    ):
        assert logged[name].notna().any(), name
    assert logged["train_g/total"].notna().sum() == 4


def test_tensorboard_shows_input_made_real_and_cycle_each_epoch(run: Path) -> None:
    events = EventAccumulator(str(next(run.rglob("events.out.tfevents.*")).parent))
    events.Reload()
    tags = events.Tags()["images"]
    assert len(tags) == 2
    for tag in tags:
        pictures = events.Images(tag)
        assert len(pictures) == 2
        assert (pictures[0].width, pictures[0].height) == (4 * 32, 2 * 32)
