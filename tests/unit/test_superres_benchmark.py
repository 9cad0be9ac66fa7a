"""The study's own parts: patches agree on both grids, references are what their names say, tables count seeds."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from sharp.data import Part, Scene, _fit, tiles
from sharp.judge import Judge
from sharp.systems import Patches, Scaled, enlarged, scaled
from sharp.tables import summary

from rsgeo_gan.degrade import degrade
from rsgeo_gan.models import Bicubic

SCALE = 2


def _part(seed: int) -> Part:
    random = torch.Generator().manual_seed(seed)
    truth = 0.1 + 0.2 * torch.rand(1, 2, 96, 192, generator=random)
    mask = torch.ones(1, 1, 96, 192)
    low, seen = degrade(truth, mask, SCALE)
    return Part(low, seen, truth, mask, truth[:, 1:] + 0.05, mask)


@pytest.fixture(scope="module")
def scene() -> Scaled:
    return scaled(Scene("noise", _part(0), _part(1), SCALE, [[1, 0]], (0,), "reflectance"))


def test_the_way_back_from_the_model_domain_is_exact(scene: Scaled) -> None:
    torch.testing.assert_close(scene.physical(scene.test.truth), scene.scene.test.truth)


def test_patches_of_both_grids_and_of_the_reference_show_one_place() -> None:
    columns = torch.arange(32.0).expand(1, 1, 32, 32) + 100 * torch.arange(32.0)[:, None]
    coarse = torch.nn.functional.avg_pool2d(columns, 2)
    ones = torch.ones(1, 1, 32, 32)
    part = Part(coarse, ones[..., ::2, ::2], columns, ones, columns + 7, ones)
    for batch in Patches(part, 2, 6, 3, 2, seed=0):
        fine = torch.nn.functional.avg_pool2d(batch["image_target"], 2)
        torch.testing.assert_close(fine, batch["image"])
        torch.testing.assert_close(batch["image_reference"], batch["image_target"] + 7)


def test_references_are_what_their_names_say(scene: Scaled) -> None:
    judge = Judge(scene)
    given = {kind: judge.given(kind) for kind in ("truth", "other", "shifted", "none")}
    assert all(v is not None for v in given.values())
    assert torch.equal(given["truth"][0][:, 0], scene.test.truth[:, 1])  # type: ignore[index]
    assert torch.equal(given["shifted"][0][..., 4:, 4:], given["other"][0][..., :-4, :-4])  # type: ignore[index]
    assert not given["none"][1].any()  # type: ignore[index]
    blurred, _ = enlarged(scene.test, scene.scene)
    torch.testing.assert_close(blurred[:, 0], Bicubic(2, scale=2)(scene.test.low)[:, 1], atol=0.2, rtol=0)


def test_the_truth_scores_best_and_tiles_with_holes_are_left_out(scene: Scaled) -> None:
    judge = Judge(scene)
    best, plain = judge.scores(scene.test.truth, {}), judge.scores(Bicubic(2, scale=2)(scene.test.low), {})
    assert best["fdist"] < 1e-6 < plain["fdist"]
    assert best["psnr_db"] > 60 > plain["psnr_db"]
    holed = scene.test.mask.clone()
    holed[..., 5, 100:110] = 0
    assert tiles(replace(scene.test, mask=holed)) == [(0, 0)]


def test_radiometry_of_two_sensors_is_matched_band_by_band() -> None:
    image = torch.rand(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    gain, offset = _fit(image, 3 * image - 1, torch.ones(1, 1, 8, 8))
    torch.testing.assert_close(gain.flatten(), torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(offset.flatten(), torch.tensor([-1.0, -1.0]))


def test_tables_show_the_spread_over_seeds(scene: Scaled) -> None:
    scores = Judge(scene).scores(scene.test.truth, {"similarity": 1.0, "gate": 0.5})
    rows = [
        {"scene": "boadella", "rung": "SRNTT-l2", "tiles": 2, "range": 0.2, "notes": {}, "seconds": 1.0}
        | {"scores": {kind: scores | {"psnr_db": psnr + extra} for kind, extra in (("other", 0.0), ("none", -2.0))}}
        for psnr in (30.0, 32.0)
    ]
    text = summary(rows)
    assert "| SRNTT-l2 | 31.00 ± 1.41 |" in text
    assert "| none | 29.00 ± 1.41 /" in text
