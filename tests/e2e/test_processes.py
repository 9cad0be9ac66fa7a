"""Two processes that train together do what one does with batches twice as large."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.synth import speckled, write_tiles
from tests.together import EPOCHS, PATCHES
from tests.toy import QUIET, ROOT

pytestmark = pytest.mark.e2e

Recorded = dict[str, Any]


def train(folder: Path, tiles: Path, processes: int) -> list[Recorded]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.together", str(folder), str(tiles), str(processes)],
        cwd=ROOT,
        env={**os.environ, **QUIET, "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(processes)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorded, list[Recorded], Path]:
    folder = tmp_path_factory.mktemp("processes")
    tiles = write_tiles(folder, cells=(3, 2), size=48, target=speckled(2), splits=["train", "train", "val"])
    two = train(folder / "two", tiles, 2)
    (one,) = train(folder / "one", tiles, 1)
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
