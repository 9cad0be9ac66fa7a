"""The study's own parts: pairs are displaced as stated, and only what exceeds the spread is called best."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from crooked.data import MARGIN_PX, _bent, _cut
from crooked.tables import summary

SIDE = 16


def test_content_appears_where_the_displacement_says() -> None:
    image = torch.zeros(1, 1, SIDE + 2 * MARGIN_PX, SIDE + 2 * MARGIN_PX)
    image[..., MARGIN_PX + 5, MARGIN_PX + 6] = 1  # row 5, column 6 of the inner patch
    moved = _cut(image, torch.tensor([[3.0, -2.0]]), SIDE)
    assert moved[0, 0].nonzero().tolist() == [[5 - 2, 6 + 3]]


def test_a_smooth_field_moves_content_the_same_way_and_starts_at_the_tiles_own_place() -> None:
    columns = torch.arange(40.0).expand(1, 1, 40, 40)
    shift, origin = torch.tensor([[1.5, 0.0]]), torch.tensor([[32, 32]])
    bent = _bent(columns, shift, origin, nearest=False)
    top = 2 * 1.5  # the wave's crest lies at 32 px on both axes
    assert float(bent[0, 0, 0, 20]) == pytest.approx(20 - top * math.sin(2 * math.pi * 52 / 128), abs=1e-3)
    assert torch.equal(_bent(columns, 0 * shift, origin, nearest=True), columns)


def _row(system: str, seed: int, correlation: float) -> dict[str, Any]:
    scores = dict.fromkeys(("ssim", "psnr_db", "spectrum_db", "fd", "ks"), 1.0)
    size = {"side_px": 64, "steps": 1}
    cell = {"system": system, "level_px": 2.0, "smooth": False, "seed": seed, "data": "sample", "size": size}
    return cell | scores | {"correlation": correlation, "drift_px": [0.1, -0.2], "seconds": 1}


@pytest.mark.parametrize(("gap", "marked"), [(0.3, True), (0.01, False)])
def test_only_a_difference_beyond_the_spread_is_marked(gap: float, marked: bool) -> None:
    rows = [_row("one", seed, 0.5 + 0.02 * seed) for seed in range(3)]
    rows += [_row("two", seed, 0.5 + gap + 0.02 * seed) for seed in range(3)]
    line = next(line for line in summary(rows).splitlines() if line.startswith("| two"))
    assert (f"{0.52 + gap:.3f} ± 0.020*" in line) == marked
