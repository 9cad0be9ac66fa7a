"""A run that was stopped and resumed ends where an uninterrupted run ends, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from rsgeo_gan.datamodules import PairDataModule
from rsgeo_gan.losses import PairLoss, RegistrationHead
from rsgeo_gan.models import PatchDiscriminator, ResNetGenerator
from rsgeo_gan.tasks import CycleTranslation
from tests.synth import speckled, write_tiles

pytestmark = [
    pytest.mark.e2e,
    # Lightning 2.6 with torch 2.10 and later.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    # Few workers and short epochs are wanted here.
    # A resumed run writes where the stopped one did.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # It is the state after the step that is saved, on purpose.
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]

EPOCHS = 3


class Killed(Exception):
    """What ends a run in the middle."""


class Kill(Callback):
    """End the run at a batch of an epoch, as a power cut would, or after it, with a checkpoint of that moment."""

    def __init__(self, epoch: int, batch: int, save: Path | None = None) -> None:
        self.at = (epoch, batch)
        self.save = save

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at and self.save is None:
            raise Killed

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at and self.save is not None:
            trainer.save_checkpoint(self.save)
            raise Killed


def run(
    folder: Path,
    tiles: Path,
    *,
    kill: Kill | None = None,
    resume: Path | None = None,
    seed: int = 1,
    workers: int = 0,
    **more: Any,
) -> None:
    seed_everything(seed)

    def generator() -> ResNetGenerator:
        return ResNetGenerator(2, 2, width=4, blocks=1, noise_channels=1)

    task = CycleTranslation(
        generator(),
        generator(),
        PatchDiscriminator(2, width=4, layers=2),
        PatchDiscriminator(2, width=4, layers=2),
        **{"correspondence": PairLoss(), "pool_size": 3, "warmup_epochs": 2, **more},
    )
    savers = [
        ModelCheckpoint(
            dirpath=folder / "checkpoints",
            monitor=task.monitor,
            mode="max",
            save_last=True,
            save_on_train_epoch_end=True,
        ),
        ModelCheckpoint(
            dirpath=folder / "within", filename="last", every_n_train_steps=2, enable_version_counter=False
        ),
    ]
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        deterministic=True,
        callbacks=[EMAWeightAveraging(use_buffers=False, decay=0.9), *savers, *([kill] if kill else [])],
        logger=CSVLogger(folder, name=""),
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = PairDataModule(
        str(tiles), patch_size=32, batch_size=2, length=8, seed=3, val_length=2, flips=True, num_workers=workers
    )
    if kill:
        with pytest.raises(Killed):
            trainer.fit(task, data)
    else:
        trainer.fit(task, data, ckpt_path=resume, weights_only=False if resume else None)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    return write_tiles(folder, cells=(3, 2), size=48, target=speckled(2), splits=["train", "train", "val"])


@pytest.fixture(scope="module")
def whole(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, tiles)
    return folder


def saved(folder: Path) -> dict[str, Any]:
    """Read the checkpoint after the last step; that of epochs is left behind where a score did not improve."""
    content: dict[str, Any] = torch.load(folder / "within" / "last.ckpt", weights_only=False)
    assert content["rsgeo_gan_state"]["batches_seen"] == EPOCHS * 4
    return content


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Name every place where two nested structures are not equal to the last bit."""
    if isinstance(a, torch.Tensor):
        return [] if torch.equal(a, b) else [where]
    if isinstance(a, dict):
        missing = [f"{where}.{key}" for key in a.keys() ^ b.keys()]
        return missing + [
            found for key in a.keys() & b.keys() for found in differences(a[key], b[key], f"{where}.{key}")
        ]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{where} has {len(a)} and {len(b)} entries"]
        return [
            found for k, (x, y) in enumerate(zip(a, b, strict=True)) for found in differences(x, y, f"{where}[{k}]")
        ]
    return [] if a == b or (a != a and b != b) else [f"{where}: {a} != {b}"]


IDLE = "random.python"
"""Threads of libraries draw from Python's own generator when they like; training does not, or weights would differ."""
STATE = (
    "state_dict",
    "current_model_state",
    "averaging_state",
    "optimizer_states",
    "lr_schedulers",
    "rsgeo_gan",
    "rsgeo_gan_state",
    "global_step",
    "epoch",
)


def same_end(expected: Path, resumed: Path) -> list[str]:
    one, other = saved(expected), saved(resumed)
    return [found for key in STATE for found in differences(one[key], other[key], key) if IDLE not in found]


def test_stop_between_epochs_and_resume_equals_an_uninterrupted_run(tiles: Path, whole: Path, tmp_path: Path) -> None:
    run(tmp_path, tiles, kill=Kill(1, 0))
    run(tmp_path, tiles, resume=tmp_path / "checkpoints" / "last.ckpt", seed=99)
    assert same_end(whole, tmp_path) == []
    logged = [
        pd.concat([pd.read_csv(path) for path in sorted(folder.glob("version_*/metrics.csv"))])
        .sort_index(axis=1)
        .reset_index(drop=True)
        for folder in (whole, tmp_path)
    ]
    pd.testing.assert_frame_equal(*logged, check_exact=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_stop_within_an_epoch_and_resume_equals_an_uninterrupted_run(
    workers: int, tiles: Path, whole: Path, tmp_path: Path
) -> None:
    run(tmp_path, tiles, kill=Kill(1, 3), workers=workers)
    run(tmp_path, tiles, resume=tmp_path / "within" / "last.ckpt", seed=99, workers=workers)
    assert any(name.startswith("correspondence.") for name in saved(whole)["state_dict"])
    assert same_end(whole, tmp_path) == []


def test_gradients_of_an_open_window_and_the_mean_of_the_registration_head_go_on(tiles: Path, tmp_path: Path) -> None:
    def settings() -> dict[str, Any]:
        return {"correspondence": RegistrationHead(), "accumulate": 3}

    stopped = tmp_path / "open.ckpt"
    run(tmp_path / "whole", tiles, **settings())
    run(tmp_path / "parts", tiles, kill=Kill(1, 1, stopped), **settings())
    state = torch.load(stopped, weights_only=False)
    assert state["rsgeo_gan_state"]["gradients"]
    assert state["state_dict"]["correspondence.mean_px"].any()
    run(tmp_path / "parts", tiles, resume=stopped, seed=99, **settings())
    assert same_end(tmp_path / "whole", tmp_path / "parts") == []
