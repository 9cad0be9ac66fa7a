"""Tasks that make images, trained by two processes: one network, one set of scores, noise of their own."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.synth import ramp, write_tiles
from tests.together import EPOCHS
from tests.together_making import PATCHES
from tests.toy import QUIET, ROOT

pytestmark = pytest.mark.e2e

Recorded = dict[str, Any]
STATES = ("path_mean", "entropy_limit.limit", "augmentation.p", "generator.mean_style")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Recorded]]:
    folder = tmp_path_factory.mktemp("making")
    tiles = write_tiles(folder, cells=(4, 3), size=48, source=ramp(2), splits=["train", "val"])
    done = subprocess.run(
        [sys.executable, "-m", "tests.together_making", str(folder), str(tiles)],
        cwd=ROOT,
        env={**os.environ, **QUIET, "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {
        name: [torch.load(path) for path in sorted((folder / name).glob("rank*.pt"))]
        for name in ("synthesis", "decoupled", "alone")
    }


@pytest.mark.parametrize("name", ["synthesis", "decoupled"])
def test_both_processes_end_with_one_network_and_one_set_of_scores(runs: dict[str, list[Recorded]], name: str) -> None:
    first, second = runs[name]
    assert len(first["seen"]) == len(second["seen"]) == EPOCHS * PATCHES // 2
    assert first["weights"].keys() == second["weights"].keys()
    differing = [key for key, value in first["weights"].items() if not torch.equal(value, second["weights"][key])]
    # Each process follows its own batch until the next step, which begins with what the first one has.
    assert set(differing) <= set(STATES)
    assert all(torch.equal(gradient, second["gradients"][key]) for key, gradient in first["gradients"].items())
    scores = {key: value for key, value in first["metrics"].items() if key.startswith("val/")}
    assert len(scores) >= 6
    assert {key: second["metrics"][key] for key in scores} == pytest.approx(scores, nan_ok=True)
    assert EPOCHS * scores["val/images"] == len(first["judged"]) + len(second["judged"]) >= 8
    assert math.isfinite(scores["val/fd"])
    assert first["noise"] != second["noise"]


def test_states_of_synthesis_follow_both_processes(runs: dict[str, list[Recorded]]) -> None:
    first, second = runs["synthesis"]
    assert first["weights"]["augmentation.p"] == second["weights"]["augmentation.p"]
    # A step of eight images, those of both processes, over a hundred, up or down for each of two batches.
    steps = (float(first["weights"]["augmentation.p"]) - 0.4) / (PATCHES / 100)
    assert abs(steps) == pytest.approx(EPOCHS, abs=1e-4)
    assert all(torch.isfinite(first["weights"][key]).all() for key in STATES)


def test_a_decoupled_auto_encoder_learns_what_one_process_learns_from_the_double_batch(
    runs: dict[str, list[Recorded]],
) -> None:
    (first, second), (one,) = runs["decoupled"], runs["alone"]
    assert {key.partition(".")[0] for key in one["gradients"]} >= {"encoder", "generator", "residual", "discriminator"}
    for key, gradient in one["gradients"].items():
        if not key.startswith("discriminator_z."):
            torch.testing.assert_close(first["gradients"][key], gradient, rtol=1e-3, atol=1e-6)
    means = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert means == pytest.approx(one["losses"], rel=1e-3)
    for key in ("val/l1", "val/ssim", "val/identity", "val/fd"):
        assert first["metrics"][key] == pytest.approx(one["metrics"][key], rel=0.02, abs=1e-3)
