"""Two processes that train together do what one does with batches twice as large."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from rsgeo_gan.datamodules import PairDataModule
from rsgeo_gan.losses import PooledL1
from rsgeo_gan.models import PatchDiscriminator, ResNetGenerator
from rsgeo_gan.tasks import CycleTranslation
from rsgeo_gan.training.callbacks import ProgressFile
from tests.synth import speckled, write_tiles

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    # One thread computes here; the others wait.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

EPOCHS = 2
PATCHES = 4
Recorded = dict[str, Any]


class Record(Callback):
    """Keep what this process sees and computes, in a file of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[torch.Tensor] = []
        self.judged: list[torch.Tensor] = []
        self.losses: list[float] = []
        self.gradients: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen += list(batch["image_target"].clone())

    def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, *_: Any) -> None:
        self.judged += list(batch["image_target"].clone())

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["train_g/total"]))
        if not self.gradients:
            self.gradients = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        noise = float(torch.rand(()))
        kept = {key: getattr(self, key) for key in ("seen", "judged", "losses", "gradients")}
        torch.save({**kept, "metrics": metrics, "noise": noise}, self.folder / f"rank{trainer.global_rank}.pt")


def run(folder: Path, tiles: Path, strategy: str, processes: int, batch_size: int) -> list[Recorded]:
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
    folder.mkdir()
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=processes,
        strategy=strategy,
        callbacks=[
            ModelCheckpoint(dirpath=folder, monitor=task.monitor, mode="max", save_last=True),
            ProgressFile(str(folder / "progress.json")),
            Record(folder),
        ],
        logger=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = PairDataModule(str(tiles), patch_size=32, batch_size=batch_size, length=PATCHES, seed=3, val_length=3)
    trainer.fit(task, data)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(processes)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorded, list[Recorded], Path]:
    folder = tmp_path_factory.mktemp("processes")
    tiles = write_tiles(folder, cells=(3, 2), size=48, target=speckled(2), splits=["train", "train", "val"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        two = run(folder / "two", tiles, "ddp_fork_find_unused_parameters_true", 2, PATCHES // 2)
    (one,) = run(folder / "one", tiles, "auto", 1, PATCHES)
    return one, two, folder


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    """Compare as sets."""
    return sorted(x.numpy().tobytes() for x in a) == sorted(x.numpy().tobytes() for x in b)


def test_both_processes_together_see_each_patch_once(runs: tuple[Recorded, list[Recorded], Path]) -> None:
    one, (first, second), _ = runs
    assert len(first["seen"]) == len(second["seen"]) == EPOCHS * PATCHES // 2
    assert same(first["seen"] + second["seen"], one["seen"])
    assert same(first["judged"] + second["judged"], one["judged"])


def test_gradients_are_one_on_both_and_those_of_the_double_batch(runs: tuple[Recorded, list[Recorded], Path]) -> None:
    one, (first, second), _ = runs
    assert set(one["gradients"]) == set(first["gradients"])
    for name, gradient in first["gradients"].items():
        assert torch.equal(gradient, second["gradients"][name])
        torch.testing.assert_close(gradient, one["gradients"][name], rtol=1e-3, atol=1e-6)


def test_losses_and_scores_are_those_of_the_double_batch(runs: tuple[Recorded, list[Recorded], Path]) -> None:
    one, (first, second), _ = runs
    means = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert means == pytest.approx(one["losses"], rel=1e-4)
    scores = [name for name in one["metrics"] if name.startswith("val/") and "spectrum" not in name]
    assert len(scores) >= 4
    for name in scores:
        assert first["metrics"][name] == second["metrics"][name] == pytest.approx(one["metrics"][name], abs=5e-4)


def test_processes_draw_numbers_of_their_own_and_one_of_them_writes(
    runs: tuple[Recorded, list[Recorded], Path],
) -> None:
    _, (first, second), folder = runs
    assert first["noise"] != second["noise"]
    saved = torch.load(folder / "two" / "last.ckpt", weights_only=False)
    assert [state["batches_seen"] for state in saved["rsgeo_gan_ranks"]] == [EPOCHS, EPOCHS]
    assert saved["rsgeo_gan"]["facts"]["patch_px"] == 32
    assert (folder / "two" / "progress.json").is_file()
