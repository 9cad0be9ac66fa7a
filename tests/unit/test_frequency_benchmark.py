"""The study's own parts: data hold what is stated, systems differ as stated, and only what is resolved is marked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from bands.data import Data, optical, toy
from bands.systems import SYSTEMS, Size, train
from bands.tables import interval, summary

from rsgeo_gan.metrics import planted_waves, wave_parts

TINY = Size(side_px=16, steps=2, batch=4, width=4, branch=4, penalty_every=1)


def test_the_toy_holds_its_waves_within_the_domain_and_nothing_else() -> None:
    data = toy(32)
    assert data.waves == ((0, 0), (1, 1), (10, 10))
    assert data.train.abs().max() <= 1
    for wave, expected in (((1, 1), 0.5 / 3), ((10, 10), 0.5 / 3), ((5, 2), 0.0)):
        assert wave_parts(data.test, wave)[0].mean().item() == pytest.approx(expected, abs=0.01)


def test_chips_are_cut_on_whole_periods_and_those_for_judging_elsewhere(tmp_path: Path) -> None:
    columns = np.broadcast_to((np.arange(1, 513) // 2).clip(max=255), (3, 512, 512)).astype("uint8")
    profile = {"driver": "GTiff", "width": 512, "height": 512, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        tmp_path / "a_s2rgb.tif", "w", **profile, crs="EPSG:32633", transform=from_origin(0, 0, 10, 10)
    ) as f:
        f.write(columns)
    data = optical(tmp_path, 32)
    assert data is not None
    assert data.gsd_m == 10
    assert data.train.shape == (16 * 12, 3, 32, 32)
    left = torch.round((data.train[:, 0, 0, 0] + 1) * 127.5)
    assert (left % 16 == 0).all()
    assert left.max() < 192 <= torch.round((data.test + 1) * 127.5).min()
    assert optical(tmp_path / "absent", 32) is None


def test_a_training_is_repeatable_and_its_images_have_the_datas_own_spectrum() -> None:
    data = Data(planted_waves(20, 16, ((1, 1),), 0), planted_waves(20, 16, ((1, 1),), 1))
    first, again = (train("low branches", data, 0, TINY)[0](5) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (5, 1, 16, 16)
    # A generator that has learned nothing is smooth, and what is taken back from the shifted side is not.
    rough = {
        name: (image.diff(dim=3).square().mean() / image.square().mean()).item()
        for name in SYSTEMS
        if not SYSTEMS[name].branches
        for image in [train(name, data, 0, TINY)[0](50)]
    }
    assert rough["shifted on plain"] > 2 * rough["plain on plain"]
    assert rough["plain on shifted"] > 2 * rough["shifted on shifted"]


def _row(system: str, seed: int, leakage: float) -> dict[str, Any]:
    scores = {"leakage": leakage, "leakage_low": 0.1, "leakage_high": 0.1, "share_high": 1.0, "spectrum_db": 1.0}
    scores |= {"level_fd": [1.0] * 9, "level_kd": [0.0] * 9, "waves": {}}  # type: ignore[dict-item]
    cell = {"system": system, "seed": seed, "data": "toy", "size": {"side_px": 32, "steps": 1}, "seconds": 1}
    return cell | scores | {"floor": scores}


@pytest.mark.parametrize(("gap", "marked"), [(0.1, True), (0.01, False)])
def test_only_differences_beyond_their_interval_are_marked(gap: float, marked: bool) -> None:
    noise = [0.02, -0.01, 0.0]
    rows = [_row("control", seed, 0.5) for seed in range(3)]
    rows += [_row("low branches", seed, 0.5 - gap + noise[seed]) for seed in range(3)]
    line = next(line for line in summary(rows).splitlines() if line.startswith("- low branches"))
    assert ("**leakage -" in line) == marked
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
