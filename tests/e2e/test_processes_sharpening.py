"""Tasks of super-resolution, trained by two processes: one network, one set of statistics and scores."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests.together import EPOCHS
from tests.together_sharpening import PATCHES
from tests.toy import QUIET, ROOT
from tests.unit.test_superres_data import write_sharp

pytestmark = pytest.mark.e2e

Recorded = dict[str, Any]
STATISTICS = ("perceptual.backend.mean_s1", "generator.features.std_s2", "generator.floor")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Recorded]]:
    folder = tmp_path_factory.mktemp("sharpening")
    tiles = write_sharp(folder, references=dict.fromkeys(range(6), 1))
    done = subprocess.run(
        [sys.executable, "-m", "tests.together_sharpening", str(folder), str(tiles)],
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
        for name in ("decoupled", "references", "alone")
    }


@pytest.mark.parametrize("name", ["decoupled", "references"])
def test_both_processes_end_with_one_network_and_one_set_of_scores(runs: dict[str, list[Recorded]], name: str) -> None:
    first, second = runs[name]
    assert len(first["seen"]) == len(second["seen"]) == EPOCHS * PATCHES // 2
    assert not any(torch.equal(a, b) for a, b in zip(first["seen"], second["seen"], strict=True))
    assert first["weights"].keys() == second["weights"].keys()
    assert not [key for key, value in first["weights"].items() if not torch.equal(value, second["weights"][key])]
    assert all(torch.equal(gradient, second["gradients"][key]) for key, gradient in first["gradients"].items())
    scores = {key: value for key, value in first["metrics"].items() if key.startswith("val/")}
    assert {"val/psnr", "val/bicubic_psnr", "val/consistency"} <= scores.keys()
    assert {key: second["metrics"][key] for key in scores} == pytest.approx(scores)
    assert math.isfinite(scores["val/psnr"])
    assert len(first["judged"]) + len(second["judged"]) >= 2 * EPOCHS
    assert first["noise"] != second["noise"]


def test_what_is_measured_on_the_first_batch_is_that_of_the_first_process_from_then_on(
    runs: dict[str, list[Recorded]],
) -> None:
    first, second = runs["references"]
    for name in STATISTICS:
        assert name in first["weights"], name
    assert 0 < float(first["weights"]["generator.floor"]) <= 0.95
    assert int(first["weights"]["generator.calibrated_on"]) == 1
    for name, value in first["early"].items():
        assert torch.equal(value, second["early"][name]), name
    assert {"val/gate", "val/content_psnr"} <= first["metrics"].keys()


def test_the_content_is_frozen_in_every_process_after_its_epochs(runs: dict[str, list[Recorded]]) -> None:
    for one in runs["references"]:
        assert {key.split(".")[1] for key in one["gradients"] if key.startswith("generator.")} == {"content"}
    for one in runs["decoupled"]:
        assert {key.partition(".")[0] for key in one["gradients"]} == {"generator", "residual", "discriminator"}


def test_decoupled_learning_is_what_one_process_learns_from_the_double_batch(runs: dict[str, list[Recorded]]) -> None:
    (first, second), (one,) = runs["decoupled"], runs["alone"]
    for key, gradient in one["gradients"].items():
        torch.testing.assert_close(first["gradients"][key], gradient, rtol=1e-3, atol=1e-6)
    means = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert means == pytest.approx(one["losses"], rel=1e-3)
    for key in ("val/psnr", "val/l1", "val/consistency"):
        assert first["metrics"][key] == pytest.approx(one["metrics"][key], rel=0.02, abs=1e-3)
