"""The co-registration benchmark judges rightly: truth scores nothing, its mirror image does not, x is x."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from coreg import tables
from coreg.cases import CASES, Case, Tile, Warp, another_look, damage, draw_warp, generator, moved
from coreg.judge import Problem, Row, Settings, Store, judged, problem, run, strangers
from coreg.pairs import Pair, Side, find
from coreg.rivals import Answer, Unavailable, affine, constant, rivals

HEIGHT, WIDTH = 150, 190


def scene(seed: int = 0, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    smooth = ndimage.gaussian_filter(noise, 2.0)
    return (1000 + 300 * smooth / smooth.std()).astype(np.float32)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    for name, seed in (("ref", 0), ("mov", 1)):
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=1, dtype="float32"
        ) as file:
            file.write(scene(seed), 1)
    sides = [Side(tmp_path / f"{name}.tif", (1,), "dn") for name in ("ref", "mov")]
    return Pair("made-up", "exact other band", "test", sides[0], sides[1])


def made(pair: Pair, case: Case) -> Problem:
    image = Tile(scene(), "dn", "optical")
    return problem(pair, (image, image), case, 0)


def oracle(found: Problem, sign: float = 1.0) -> Answer:
    truth = sign * found.truth(np.zeros_like(found.points))
    return Answer(True, lambda xy: truth, 0.0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_truth_has_no_error_and_its_mirror_image_has(pair: Pair, case: Case) -> None:
    found = made(pair, case)
    error, before, _ = judged(oracle(found), found)
    assert error == pytest.approx(0.0, abs=1e-9)
    wrong, _, _ = judged(oracle(found, -1.0), found)
    assert wrong == pytest.approx(2 * before)
    assert (before > 0.05) == (case.name != "untouched")


def test_content_goes_right_for_positive_x_and_down_for_positive_y() -> None:
    image = np.zeros((60, 80), np.float32)
    image[30, 20] = 1.0
    warp = Warp(np.array([5.0, -3.0]), np.zeros((2, 2)), np.zeros(2))
    out = moved(Tile(image, "dn", "optical"), warp, (0, 0), image.shape).values
    assert np.unravel_index(np.nanargmax(out), out.shape) == (27, 25)


def test_content_lies_where_the_warp_says_it_does() -> None:
    case = Case("wild", (3.0, 6.0), turn_deg=1.0, scale=0.01, field_px=2.0)
    warp = draw_warp(case, (HEIGHT, WIDTH), generator("wild"))
    ramps = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))
    at_x, at_y = (moved(Tile(ramp, "dn", "optical"), warp, (0, 0), ramp.shape).values for ramp in ramps)
    row, column = np.mgrid[20 : HEIGHT - 20 : 7, 20 : WIDTH - 20 : 7].reshape(2, -1)
    came_from = np.stack([at_x[row, column], at_y[row, column]], axis=1).astype(float)
    assert np.abs(came_from + warp(came_from) - np.stack([column, row], axis=1)).max() < 0.01


def test_smooth_field_has_the_length_asked_for() -> None:
    warp = draw_warp(Case("field", field_px=2.0), (512, 512), generator("field"))
    xy = np.random.default_rng(0).uniform(0, 511, (4000, 2))
    assert np.sqrt((warp(xy) ** 2).sum(axis=1).mean()) == pytest.approx(2.0, abs=0.15)


def test_shift_is_within_the_range_of_its_case() -> None:
    lengths = [np.linalg.norm(draw_warp(CASES[3], (64, 64), generator(n)).shift) for n in range(40)]
    assert 5 <= min(lengths) < 7 < 10 < max(lengths) <= 12


def test_holes_take_the_share_asked_for_and_speckle_keeps_the_mean() -> None:
    tile = Tile(np.full((200, 200), 0.1, np.float32), "linear", "sar")
    here, there = damage(tile, tile, Case("holes", holes=0.3, looks=1.0), generator("damage"))
    assert 0.3 <= np.isnan(there.values).mean() < 0.36
    assert 0.1 <= np.isnan(here.values).mean() < 0.15
    assert np.nanmean(there.values) == pytest.approx(0.1, rel=0.03)
    assert np.nanstd(there.values) == pytest.approx(0.1, rel=0.05)


def test_decibel_is_moved_as_power() -> None:
    values = np.full((40, 40), -20.0, np.float32)
    values[:, 20:] = -10.0
    half = Warp(np.array([0.5, 0.0]), np.zeros((2, 2)), np.zeros(2))
    edge = moved(Tile(values, "dB", "sar"), half, (0, 0), values.shape).values[20, 20]
    assert edge == pytest.approx(10 * np.log10(0.055), abs=0.05)


def test_another_look_changes_values_but_not_places() -> None:
    tile = Tile(scene(), "dn", "optical")
    other = another_look(tile, generator("look")).values
    assert np.abs(other - tile.values).max() > 10
    assert np.corrcoef(other.ravel(), tile.values.ravel())[0, 1] > 0.98


def test_manual_points_are_added_to_the_case(tmp_path: Path, pair: Pair) -> None:
    rng = np.random.default_rng(3)
    here = rng.uniform(0, 140, (60, 2))
    there = here + np.array([4.0, -2.0]) + rng.normal(0, 0.3, here.shape)
    there[:5] += 30.0
    points = tmp_path / "points.csv"
    lines = [",".join(f"{v:.4f}" for v in row) for row in np.hstack([here, there])]
    points.write_text("\n".join(["ref_x,ref_y,mov_x,mov_y", *lines]))
    found = made(replace(pair, block="tie points", points=points), CASES[0])
    assert np.abs(found.truth(np.zeros_like(found.points)) - (4.0, -2.0)).max() < 0.3


def test_consistency_forgives_a_bias_but_not_indifference(pair: Pair) -> None:
    pair = replace(pair, block="consistency")
    settings = Settings(draws=1, cases=("5 to 12 px",))
    image = Tile(scene(), "dn", "optical")
    bias = np.array([1.5, -0.5])
    truths = iter([problem(pair, (image, image), case, 0) for case in (CASES[0], CASES[3])])

    def biased(reference: Tile, moving: Tile, reach_px: float) -> Answer:
        made = next(truths)
        nodes, values = made.points, bias + made.truth(np.broadcast_to(bias, made.points.shape)) - bias
        return Answer(True, lambda xy: values[((xy[:, None] - nodes[None]) ** 2).sum(-1).argmin(1)], 0.0)

    store = Store(None)
    run([pair], {"biased": biased, "no change": lambda *_: constant(0.0, 0.0, 0.0)}, settings, store)
    error = {row.method: row.error_px for row in store.rows if row.case == "5 to 12 px"}
    assert error["biased"] is not None
    assert error["biased"] < 0.02
    assert error["no change"] is not None
    assert error["no change"] > 4.9


def test_a_declined_untouched_pair_fails_in_every_case(pair: Pair) -> None:
    answers = iter([Answer(False, None, 0.0, note="two peaks"), constant(1.0, 1.0, 0.0)])
    store = Store(None)
    settings = Settings(draws=1, cases=("sub-pixel",))
    run([replace(pair, block="consistency")], {"shy": lambda *_: next(answers)}, settings, store)
    assert [row.ok for row in store.rows] == [False, False]
    assert store.rows[1].note == "untouched pair declined"


def test_a_rerun_asks_only_for_what_is_missing(tmp_path: Path, pair: Pair) -> None:
    asked = []

    def count(reference: Tile, moving: Tile, reach_px: float) -> Answer:
        asked.append(1)
        return constant(0.0, 0.0, 0.0)

    path = tmp_path / "rows.jsonl"
    for draws in (1, 1, 2):
        run([pair], {"count": count}, Settings(draws=draws, cases=("sub-pixel",)), Store(path))
    assert len(asked) == 3
    assert {json.loads(line)["draw"] for line in path.read_text().splitlines()} == {0, 1}


def test_a_method_that_fails_is_declined_and_one_that_is_missing_skipped(pair: Pair) -> None:
    def broken(*_: object) -> Answer:
        raise ValueError("no")

    def missing(*_: object) -> Answer:
        raise Unavailable("not here")

    said: list[str] = []
    store = Store(None)
    run([pair], {"broken": broken, "missing": missing}, Settings(draws=1), store, say=said.append)
    assert {row.method for row in store.rows} == {"broken"}
    assert not any(row.ok for row in store.rows)
    assert "skipped missing: not here" in said


def test_every_place_is_in_one_half_only(shared_data: Path) -> None:
    halves: dict[str, set[str]] = {}
    pairs = find(shared_data)
    for pair in pairs:
        halves.setdefault(pair.place or pair.name, set()).add(pair.part)
    assert all(len(parts) == 1 for parts in halves.values())
    assert len({(pair.block, pair.name) for pair in pairs}) == len(pairs)
    assert {pair.part for pair in pairs} == {"tune", "report"}


def test_unrelated_combinations_share_no_place(tmp_path: Path, pair: Pair) -> None:
    pairs = [replace(pair, name=f"p{n}", block="consistency") for n in range(5)]
    found = list(strangers(pairs, Settings(strangers=40)))
    assert len({name for name, _, _ in found}) == 40
    for name, kind, make in found:
        first, second = name.split("#")[0].split("|")
        assert first != second
        reference, moving = make()
        assert reference.values.shape == moving.values.shape
        assert ("place" in kind) == second.startswith("p")


def test_another_tool_has_the_same_sign(pair: Pair) -> None:
    found = made(pair, CASES[2])
    error, before, _ = judged(rivals()["phase, gradient"](found.reference, found.moving, 12.0), found)
    assert error is not None
    assert error < 0.2 < before


def test_an_affine_answer_is_a_displacement() -> None:
    answer = affine([[1.01, 0.0, 3.0], [0.0, 1.0, -2.0]], 0.0)
    assert answer.at is not None
    assert answer.at(np.array([[100.0, 50.0]])) == pytest.approx(np.array([[4.0, -2.0]]))


def test_shares_are_of_all_cases_and_gross_errors_of_the_accepted() -> None:
    common = {"block": "sample", "group": "g", "part": "report", "case": "sub-pixel", "before_px": 1.0, "moved_px": 1.0,
              "sigma_px": 0.5, "confidence": 0.9, "seconds": 0.1, "megapixels": 0.25}  # fmt: skip
    errors = (0.2, 0.8, 4.0, None)
    rows = [
        Row(method="m", pair=str(n), draw=0, ok=error is not None, error_px=error, **common)  # type: ignore[arg-type]
        for n, error in enumerate(errors)
    ]
    cells = tables.summary(rows).splitlines()[-1].split(" | ")
    assert cells[2:9] == ["4", "25", "33", "50", "25", "0.80", "3.36"]
    assert "| m | sample | 3 | 67 |" in tables.calibration(rows)
    assert tables.reliability(rows).splitlines()[-1].endswith("| 3 | 0.90 | 0.67 |")
