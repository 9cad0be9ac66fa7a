"""The study's own parts: few chips are as few as stated, scores see what they should, only the resolved is claimed."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from few.classifier import balanced_accuracy, fitted
from few.data import Chips, Data, collected
from few.judge import Judge, cosines, plane
from few.systems import ARCHITECTURES, Cell, Size, train
from few.tables import UNRESOLVED, difference, summary

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
]

SIDE = 16
TINY = Size(width=4, max_width=8, latent=4, side_px=SIDE, batch=4, steps=10)
COUNTS = {"dark": 30, "bright": 26, "rare": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Noise of another brightness in each class; one class is too rare to be studied."""
    root = tmp_path_factory.mktemp("few")
    draw = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    for level, (name, count) in enumerate(COUNTS.items()):
        (root / "rasters" / name).mkdir(parents=True)
        for k in range(count):
            corner = from_origin(500_000 + 160 * k, 5_000_000 + 1600 * level, 10, 10)
            with rasterio.open(root / "rasters" / name / f"{name}{k}.tif", "w", **profile, transform=corner) as file:
                file.write(draw.integers(1, 60, (3, SIDE, SIDE), np.uint8) + np.uint8(80 * level))
    images = {
        "kind": "folder",
        "path": str(root / "rasters"),
        "sensor": "sentinel2-display",
        "file_bands": ["red", "green", "blue"],
    }
    return collected(root / "chips", {"images": images, "labels": {"kind": "folder"}, "block_tiles": 1}, SIDE)


def test_few_chips_are_among_the_many_and_held_out_chips_stay_the_same(data: Data) -> None:
    assert data.classes == ("dark", "bright")
    many, few = data.split(0, 8), data.split(0, 3)
    assert torch.bincount(few.train.labels).tolist() == [3, 3]
    assert torch.bincount(many.train.labels).tolist() == [8, 8]
    assert all((many.train.images == one).flatten(1).all(dim=1).any() for one in few.train.images)
    assert torch.equal(few.test.images, many.test.images)
    assert set(few.test.labels.tolist()) == {0, 1}
    assert not torch.equal(data.split(0, 3, seed=1).train.images, few.train.images)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_training_is_scored_in_every_respect(data: Data, architecture: str) -> None:
    judge = Judge(data, dims=4, steps=2)
    rows = []
    for setting in ("off", "both"):
        cell = Cell(architecture, setting, 0, 6, 0)
        task, _ = train(cell, judge.split(cell), TINY)
        assert task.batches_seen == TINY.steps
        scores, shown = judge(task, cell)
        assert scores["train_chips"] == 12
        assert shown["made"].shape == shown["real"].shape
        assert shown["sphere"].norm(dim=1).max() <= 2
        assert all(math.isfinite(value) for value in scores.values() if isinstance(value, float))
        assert scores["fd_interval"][0] <= scores["fd"] <= scores["fd_interval"][1]
        rows.append({"data": "toy", "architecture": architecture, "setting": setting, "seed": 0} | scores)
        rows[-1] |= {"classes": 0, "per_class": 6}
    assert rows[0]["accuracy_real"] == rows[1]["accuracy_real"]
    assert rows[0]["potential_g"] != rows[1]["potential_g"]
    assert "(one pair)" in summary(rows)


def test_directions_on_a_circle_keep_their_radius_whatever_their_length() -> None:
    angles = torch.arange(12) * 2 * math.pi / 12
    circle = torch.zeros(12, 7)
    circle[:, 2], circle[:, 5] = angles.cos(), angles.sin()
    assert torch.allclose(plane(circle * torch.arange(1, 13)[:, None]).norm(dim=1), torch.ones(12), atol=1e-5)
    assert plane(torch.ones(5, 7)).abs().max() < 1e-5
    # Equal steps round a circle: the cosines of one direction to all the others sum to -1.
    assert cosines(circle).sum() == pytest.approx(-6, abs=1e-4)
    assert cosines(circle).min() == pytest.approx(-1, abs=1e-5)


def test_accuracy_counts_classes_alike_and_a_classifier_learns_brightness() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10)
    images = 0.1 * torch.randn(40, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + labels[:, None, None, None]
    always = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 2))
    torch.nn.init.zeros_(always[1].weight)
    always[1].bias.data = torch.tensor([1.0, 0.0])
    every = Chips(images, labels, labels[:, None])
    assert balanced_accuracy(always, every) == 0.5
    halves = [Chips(images[k::2], labels[k::2], labels[k::2, None]) for k in (0, 1)]
    assert balanced_accuracy(fitted(halves, 2, 0, 60), every) == 1.0


def _row(setting: str, seed: int, fd: float) -> dict[str, Any]:
    cell = {"data": "toy", "architecture": "style", "classes": 0, "per_class": 8, "setting": setting, "seed": seed}
    names = ("kd", "precision", "recall", "potential_g", "potential_d", "entropy_g", "entropy_d")
    scores = dict.fromkeys((*names, "accuracy_real", "accuracy_both", "accuracy_made"), 0.5 + 0.1 * seed)
    real = {name: [0.0, 1.0] for name in ("fd_interval", "fd_real_interval", "kd_real_interval")}
    counts = {"train_chips": 16, "test_chips": 20, "group": 8, "fd_name": "FD", "kd_name": "KD"}
    return cell | scores | real | counts | {"fd": fd, "fd_real": 0.1, "kd_real": 0.0}


@pytest.mark.parametrize(("gains", "resolved"), [((-1.0, -2.0, -3.0), False), ((-1.9, -2.0, -2.1), True)])
def test_a_difference_is_claimed_only_where_its_interval_leaves_zero_out(gains: Any, resolved: bool) -> None:
    found = difference(gains)
    assert found is not None
    # Student's t for two degrees of freedom is 4.303.
    assert found.high == pytest.approx(-2 + 4.303 * found.std / 3**0.5, abs=1e-3)
    rows = [_row("off", seed, 5.0 + seed) for seed in range(3)]
    rows += [_row("both", seed, 5.0 + seed + gain) for seed, gain in enumerate(gains)]
    line = next(line for line in summary(rows).splitlines() if line.startswith("| both - off"))
    assert (UNRESOLVED not in line.split("|")[2]) == resolved
