"""A recipe of image synthesis through torchgeo's own command: what it stores is enough to generate again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rsgeo_gan.models import FrequencyShifted
from rsgeo_gan.sensors import Scaler
from rsgeo_gan.tasks import ImageSynthesis
from tests.synth import ramp, write_tiles

pytestmark = pytest.mark.e2e

RECIPE = Path(__file__).resolve().parents[2] / "rsgeo_gan" / "recipes" / "synthesis-fsg-small.yaml"
SETTINGS = {
    "model.generator.init_args.width": 4,
    "model.generator.init_args.base.init_args.out_channels": 3,
    "model.generator.init_args.base.init_args.size_px": 32,
    "model.generator.init_args.base.init_args.width": 4,
    "model.generator.init_args.base.init_args.max_width": 8,
    "model.discriminator.init_args.in_channels": 3,
    "model.discriminator.init_args.size_px": 32,
    "model.discriminator.init_args.width": 4,
    "model.discriminator.init_args.max_width": 8,
    "model.weights.uniformity_d": 0.2,
    "model.spectrum": "{data: true}",
    "data.side": "source",
    "data.patch_size": 32,
    "data.batch_size": 4,
    "data.length": 8,
    "data.val_length": 6,
    "trainer.max_epochs": 2,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.log_every_n_steps": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tiles = write_tiles(folder, cells=(3, 2), size=32, source=ramp(3), splits=["train", "train", "val"])
    done = subprocess.run(
        [
            Path(sys.executable).with_name("torchgeo"),
            "fit",
            "--config",
            RECIPE,
            f"--data.tiles={tiles}",
            "--trainer.enable_progress_bar=false",
            *(f"--{name}={value}" for name, value in SETTINGS.items()),
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


# Lightning 2.6 calls a deprecated name of jsonargparse 4.
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
def test_a_checkpoint_rebuilds_a_nested_generator_without_running_code(run: Path) -> None:
    path = next(run.rglob("*.ckpt"))
    content = torch.load(path, weights_only=True)
    facts = content["rsgeo_gan"]["facts"]
    assert content["rsgeo_gan"]["task"] == "rsgeo_gan.tasks.synthesis.ImageSynthesis"
    assert Scaler.from_dict(facts["image"]).bands == ("B02", "B03", "B04")
    assert facts["patch_px"] == 32
    stored = content["hyper_parameters"]["generator"]
    assert stored["init_args"]["base"]["class_path"] == "rsgeo_gan.models.DCGANGenerator"
    task = ImageSynthesis.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()
    assert isinstance(task.generator, FrequencyShifted)
    assert task.swaps == {"generator": False, "data": True}
    assert task.judge.name == content["rsgeo_gan"]["features"]
    assert all(torch.equal(value, content["state_dict"][name]) for name, value in task.state_dict().items())
    made = task(task.generator.draw(2), None, torch.tensor([[0, 0], [3, 5]]))
    assert made.shape == (2, 3, 32, 32)


def test_terms_scores_and_pictures_are_logged(run: Path) -> None:
    logged = pd.read_csv(next(run.rglob("metrics.csv")))
    for name in (
        "train_d/adversarial",
        "train_d/r1",
        "train_g/adversarial",
        "train_g/uniformity_d",
        "features/potential_g",
        "augmentation/p",
        "val/fd",
        "val/kd",
        "val/spectrum_db",
    ):
        assert logged[name].notna().any(), name
    events = EventAccumulator(str(next(run.rglob("events.out.tfevents.*")).parent))
    events.Reload()
    (tag,) = events.Tags()["images"]
    picture = events.Images(tag)[0]
    assert (picture.width, picture.height) == (2 * 4 * 32, 32)
