"""Invariants of the objectives over random sizes, shifts and masks."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgeo_gan.losses import best_shift, masked_l1, masked_mean, shift_tolerant_l1, total_variation
from rsgeo_gan.losses.alignment import strict_mask

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31 - 1)
sides = st.integers(9, 24)


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@few
@given(seeds, sides, sides, st.integers(-3, 3), st.integers(-3, 3))
def test_any_shift_within_the_radius_is_found(seed: int, h: int, w: int, dx: int, dy: int) -> None:
    image = _random(seed, 1, 2, h, w)
    moved = torch.roll(image, (dy, dx), dims=(2, 3))
    shift, error = best_shift(image, moved, radius_px=3)
    assert shift.tolist() == [[dx, dy]]
    assert error.item() == 0


@few
@given(seeds, sides, sides, st.integers(0, 3))
def test_a_larger_radius_never_costs_more_on_the_same_crop(seed: int, h: int, w: int, radius: int) -> None:
    a, b = _random(seed, 1, 1, h, w), _random(seed + 1, 1, 1, h, w)
    inner = slice(radius, h - radius), slice(radius, w - radius)
    assert shift_tolerant_l1(a, b, radius_px=radius) <= masked_l1(a[..., *inner], b[..., *inner]) + 1e-6


@few
@given(seeds, sides, sides)
def test_masked_mean_equals_the_mean_of_the_selection(seed: int, h: int, w: int) -> None:
    values, mask = _random(seed, 2, 3, h, w), (_random(seed + 1, 2, 1, h, w) > 0.5).float()
    selected = values.permute(0, 2, 3, 1)[mask[:, 0] > 0]
    torch.testing.assert_close(masked_mean(values, mask), selected.mean() if len(selected) else torch.tensor(0.0))


@few
@given(seeds, sides, sides, st.floats(-5, 5))
def test_total_variation_ignores_an_offset(seed: int, h: int, w: int, offset: float) -> None:
    image, mask = _random(seed, 1, 2, h, w), (_random(seed + 1, 1, 1, h, w) > 0.3).float()
    torch.testing.assert_close(
        total_variation(image + offset, mask), total_variation(image, mask), atol=1e-5, rtol=1e-4
    )


@few
@given(seeds, sides, sides, st.sampled_from([1, 2, 4]), st.integers(0, 4))
def test_a_strict_cell_has_only_valid_pixels_around_it(seed: int, h: int, w: int, stride: int, radius: int) -> None:
    mask = (_random(seed, 1, 1, h, w) > 0.05).float()
    small = strict_mask(mask, stride, radius)[0, 0]
    assert tuple(small.shape) == (-(-h // stride), -(-w // stride))
    for i in range(small.shape[0]):
        for j in range(small.shape[1]):
            r, c = stride * i, stride * j
            around = mask[0, 0, max(0, r - radius) : r + radius + 1, max(0, c - radius) : c + radius + 1]
            assert bool(small[i, j]) == bool(around.all())
