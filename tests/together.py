"""A small training that one or two processes do, and what each of them saw; run in a process of its own.

    python -m tests.together FOLDER TILES PROCESSES

Two processes are forked from this one: the process that runs the tests has threads, which do not survive a fork.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from rsgeo_gan.datamodules import PairDataModule
from rsgeo_gan.losses import PooledL1
from rsgeo_gan.models import PatchDiscriminator, ResNetGenerator
from rsgeo_gan.tasks import CycleTranslation
from rsgeo_gan.training.callbacks import ProgressFile

EPOCHS = 2
PATCHES = 4


class Record(Callback):
    """Keep what this process sees and computes, in a file of its own."""

    def __init__(self, folder: Path, key: str = "image_target") -> None:
        self.folder = folder
        self.key = key
        self.seen: list[torch.Tensor] = []
        self.judged: list[torch.Tensor] = []
        self.losses: list[float] = []
        self.gradients: dict[str, torch.Tensor] = {}
        self.early: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen += list(batch[self.key].clone())

    def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        self.judged += list(batch[self.key].clone())

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train_g/total"]))
        if not self.gradients:
            self.gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}
            self.early = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        noise = float(torch.rand(()))
        kept = {key: getattr(self, key) for key in ("seen", "judged", "losses", "gradients", "early")}
        kept |= {"metrics": metrics, "noise": noise, "weights": pl_module.state_dict()}
        torch.save(kept, self.folder / f"rank{trainer.global_rank}.pt")


def fit(folder: Path, task: Any, data: Any, processes: int, key: str = "image_target") -> None:
    """Train; every process leaves `rankN.pt`."""
    folder.mkdir()
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork_find_unused_parameters_true" if processes > 1 else "auto",
        callbacks=[
            ModelCheckpoint(dirpath=folder, monitor=task.monitor, mode=task.mode, save_last=True),
            ProgressFile(str(folder / "progress.json")),
            Record(folder, key),
        ],
        logger=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, data)


def run(folder: Path, tiles: Path, processes: int) -> None:
    """Train with `PATCHES` patches a step; every process leaves `rankN.pt`."""
    seed_everything(1)
    task = CycleTranslation(
        ResNetGenerator(2, 2, width=4, blocks=1),
        ResNetGenerator(2, 2, width=4, blocks=1),
        PatchDiscriminator(2, width=4, layers=2),
        PatchDiscriminator(2, width=4, layers=2),
        correspondence=PooledL1(),
        pool_size=0,
        ramp_share=0.0,
    )
    data = PairDataModule(
        str(tiles), patch_size=32, batch_size=PATCHES // processes, length=PATCHES, seed=3, val_length=3
    )
    fit(folder, task, data, processes)


def quieten() -> None:
    """Make warnings errors, but for those that are known."""
    warnings.filterwarnings("error")
    for known in (
        ".*does not have many workers",
        ".*LeafSpec.*is deprecated",
        "Using ModelCheckpoint with manual optimization",
        "Use `@` matmul",
        # One thread computes here; the others wait.
        "This process .* is multi-threaded",
    ):
        warnings.filterwarnings("ignore", message=known)


if __name__ == "__main__":
    quieten()
    run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
