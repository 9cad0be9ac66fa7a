"""Memory of matching: by the cells and not by their square, and that of one table of all scores for comparison."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from bench_matching import all_scores, peak_bytes, sides

from rsgeo_gan.models import match


def test_the_counter_sees_what_is_alive_at_once() -> None:
    def work() -> torch.Tensor:
        for _ in range(3):
            kept = torch.zeros(1000).add(1)
        return kept

    assert 8000 <= peak_bytes(work) <= 12000


def test_memory_within_a_window_grows_with_the_cells_and_one_tables_with_their_square() -> None:
    small, large = sides(24, 8), sides(48, 8)
    for window in (2, 6):
        ratio = peak_bytes(partial(match, *large, window=window)) / peak_bytes(partial(match, *small, window=window))
        assert 3.5 < ratio < 5
    assert peak_bytes(partial(all_scores, *large)) / peak_bytes(partial(all_scores, *small)) > 10


def test_a_wider_window_needs_no_more_memory() -> None:
    given = sides(32, 8)
    narrow, wide = (peak_bytes(partial(match, *given, window=window)) for window in (2, 8))
    assert wide < 1.1 * narrow
