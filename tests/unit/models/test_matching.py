from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from rsgeo_gan.models import match, swap


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def brute(
    query: Tensor, keys: Tensor, valid: Tensor, window: int | None
) -> tuple[dict[tuple[int, int], tuple[int, int, int]], dict[tuple[int, int], float]]:
    """Compare every patch of one image with every one of its references, in words of the definition."""
    _, _, height, width = query.shape
    places, best = {}, {}
    for y in range(height - 2):
        for x in range(width - 2):
            mine = query[0, :, y : y + 3, x : x + 3].flatten()
            found = (-1, 0, 0)
            top = -1.0
            for number in range(keys.shape[1]):
                for v in range(height - 2):
                    for u in range(width - 2):
                        far = max(abs(v - y), abs(u - x))
                        if not valid[0, number, v : v + 3, u : u + 3].all() or (window is not None and far > window):
                            continue
                        other = keys[0, number, :, v : v + 3, u : u + 3].flatten()
                        like = float(F.cosine_similarity(mine, other, dim=0))
                        if found[0] < 0 or like > top:
                            top, found = like, (number, v - y, u - x)
            places[y, x], best[y, x] = found, top
    return places, best


@pytest.mark.parametrize("window", [0, 2, None])
def test_it_is_what_a_search_of_all_pairs_finds(window: int | None) -> None:
    query, keys = drawn(1, 4, 7, 8), drawn(1, 2, 4, 7, 8, seed=1)
    valid = torch.ones(1, 2, 7, 8)
    valid[0, 0, 3:5, 2:4] = 0
    places, best = brute(query, keys, valid, window)
    found = match(query, keys, valid, window=window)
    for (y, x), place in places.items():
        assert tuple(found.place[0, :, y, x].tolist()) == place
        assert float(found.similarity[0, 0, y, x]) == pytest.approx(best[y, x], abs=1e-5)


@pytest.mark.parametrize("budget", [70, 1000])
def test_the_size_of_chunks_changes_nothing(budget: int) -> None:
    query, keys = drawn(2, 3, 6, 7), drawn(2, 2, 3, 6, 7, seed=1)
    whole, cut = match(query, keys, window=None), match(query, keys, window=None, budget=budget)
    assert torch.equal(whole.place, cut.place)
    torch.testing.assert_close(whole.similarity, cut.similarity)


def test_a_window_over_everything_is_a_global_search() -> None:
    query, keys = drawn(2, 3, 6, 7), drawn(2, 2, 3, 6, 7, seed=1)
    whole, near = match(query, keys, window=None), match(query, keys, window=9)
    assert torch.equal(whole.place, near.place)
    torch.testing.assert_close(whole.similarity, near.similarity)


@settings(max_examples=15, deadline=None)
@given(a=st.floats(0.01, 100), b=st.floats(0.01, 100), window=st.sampled_from([1, 3, None]))
def test_brightness_of_features_does_not_matter(a: float, b: float, window: int | None) -> None:
    query, keys = drawn(1, 3, 6, 6), drawn(1, 1, 3, 6, 6, seed=1)
    one, other = match(query, keys, window=window), match(a * query, b * keys, window=window)
    assert torch.equal(one.place, other.place)
    torch.testing.assert_close(one.similarity, other.similarity, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [2, None])
def test_the_order_of_references_does_not_matter_and_another_never_lowers_similarity(window: int | None) -> None:
    query, keys = drawn(1, 3, 8, 8), drawn(1, 3, 3, 8, 8, seed=1)
    order = [2, 0, 1]
    one, other = match(query, keys, window=window), match(query, keys[:, order], window=window)
    torch.testing.assert_close(one.similarity, other.similarity)
    values = drawn(1, 3, 5, 16, 16, seed=2)
    torch.testing.assert_close(swap(values, one.place, 2), swap(values[:, order], other.place, 2))
    fewer = match(query, keys[:, :2], window=window)
    assert (one.similarity >= fewer.similarity - 2e-6).all()
    assert (one.similarity > fewer.similarity + 1e-3).any()


@pytest.mark.parametrize("window", [2, None])
def test_what_may_not_be_used_never_is_and_what_is_not_wanted_gets_nothing(window: int | None) -> None:
    query = drawn(1, 3, 8, 9)
    keys = torch.stack([query, drawn(1, 3, 8, 9, seed=1)], dim=1)
    valid = torch.ones(1, 2, 8, 9)
    valid[0, 0, 2:5] = 0
    seen = torch.ones(1, 1, 8, 9)
    seen[..., 0] = 0
    found = match(query, keys, valid, seen, window)
    number, dy, dx = found.place[0]
    rows, cols = torch.meshgrid(torch.arange(6), torch.arange(7), indexing="ij")
    assert (number[:, 0] == -1).all()
    assert (found.similarity[..., 0] == -1).all()
    patches = -F.max_pool2d(-valid, 3, 1)[0]
    chosen = patches[number.clamp_min(0), rows + dy, cols + dx]
    assert (chosen[:, 1:] == 1).all()
    assert (number[:, 1:] >= 0).all()
    nothing = match(query, keys, torch.zeros_like(valid), None, window)
    assert (nothing.place[:, 0] == -1).all()
    assert (nothing.similarity == -1).all()


@pytest.mark.parametrize("window", [2, None])
def test_patches_without_any_feature_are_like_nothing(window: int | None) -> None:
    query, keys = drawn(1, 3, 6, 6), torch.zeros(1, 1, 3, 6, 6)
    for pair in ((query, keys), (keys[:, 0], query[:, None])):
        found = match(*pair, window=window)
        assert (found.similarity == 0).all()
    same = match(query, query[:, None], window=window)
    assert (same.similarity <= 1).all()


def test_of_equals_the_nearest_is_taken() -> None:
    found = match(torch.ones(1, 2, 9, 9), torch.ones(1, 2, 2, 9, 9), window=3)
    assert (found.place == 0).all()
    torch.testing.assert_close(found.similarity, torch.ones(1, 1, 7, 7))


def test_a_moved_reference_is_found_where_it_went() -> None:
    scene = drawn(1, 4, 16, 16)
    found = match(scene[..., 3:13, 3:13], scene[..., 1:11, 4:14][:, None], window=4)
    inner = found.place[0, :, 2:-2, 2:-2]
    assert inner[0].eq(0).all()
    assert inner[1].eq(2).all()
    assert inner[2].eq(-1).all()


@pytest.mark.parametrize("cells", [1, 2, 3])
def test_overlapping_patches_are_averaged(cells: int) -> None:
    height, width = 6, 5
    values = drawn(1, 2, 3, height * cells, width * cells)
    place = match(drawn(1, 4, height, width, seed=1), drawn(1, 2, 4, height, width, seed=2), window=2).place
    total = torch.zeros(3, height * cells, width * cells)
    count = torch.zeros(height * cells, width * cells)
    side = 3 * cells
    for y in range(height - 2):
        for x in range(width - 2):
            number, dy, dx = place[0, :, y, x].tolist()
            v, u = (y + dy) * cells, (x + dx) * cells
            total[:, y * cells : y * cells + side, x * cells : x * cells + side] += values[
                0, number, :, v : v + side, u : u + side
            ]
            count[y * cells : y * cells + side, x * cells : x * cells + side] += 1
    torch.testing.assert_close(swap(values, place, cells)[0], total / count)


def test_a_place_matched_with_itself_keeps_its_values_and_one_without_a_match_has_none() -> None:
    values, place = drawn(1, 1, 2, 12, 12), torch.zeros(1, 3, 4, 4, dtype=torch.int64)
    torch.testing.assert_close(swap(values, place, 2), values[:, 0])
    place[:, 0] = -1
    assert not swap(values, place, 2).any()
    place[0, 0, 0, 0] = 0
    made = swap(values, place, 2)
    torch.testing.assert_close(made[..., :6, :6], values[:, 0, :, :6, :6])
    assert not made[..., 6:, :].any()


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for part in made if isinstance(made, tuple) else (made,):
            if isinstance(part, Tensor):
                self.numbers = max(self.numbers, part.untyped_storage().nbytes() // 4)
        return made


def largest(side: int, window: int | None, budget: int = 2**24) -> int:
    query, keys = drawn(1, 2, side, side), drawn(1, 1, 2, side, side, seed=1)
    with Largest() as seen:
        match(query, keys, window=window, budget=budget)
    return seen.numbers


def test_memory_grows_with_the_image_not_with_its_square_nor_with_the_window() -> None:
    small, large = largest(16, 1), largest(32, 1)
    assert large <= 5 * small
    assert largest(32, 3) == large
    # All pairs of patches at once would be 900 x 900 scores; a budget bounds what a global search holds.
    assert largest(32, None) >= 900**2
    assert largest(32, None, budget=900 * 60) <= 900 * 60


def test_images_and_references_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="same grid"):
        match(drawn(1, 3, 6, 6), drawn(1, 1, 3, 6, 7))
    with pytest.raises(ValueError, match="3 x 3 cells"):
        match(drawn(1, 3, 2, 6), drawn(1, 1, 3, 2, 6))
