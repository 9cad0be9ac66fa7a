from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from rsgeo_gan.metrics import planted_waves, wasserstein, wave_parts, wave_score

few = settings(max_examples=25, deadline=None)


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@few
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**31 - 1))
def test_distance_of_samples_is_that_of_an_independent_library(n: int, m: int, seed: int) -> None:
    a, b = _noise(n, seed=seed).double(), 1 + _noise(m, seed=seed + 1).double()
    assert wasserstein(a, b).item() == pytest.approx(wasserstein_distance(a.numpy(), b.numpy()), abs=1e-12)


@few
@given(st.integers(1, 20), st.integers(0, 2**31 - 1), st.floats(-10, 10))
def test_distance_around_a_circle_does_not_know_where_it_begins(n: int, seed: int, turn: float) -> None:
    a, b = (3 * _noise(n, seed=seed + k).double() for k in (0, 1))
    found = wasserstein(a, b, period=2 * math.pi)
    assert found.item() == pytest.approx(wasserstein(a + turn, b + turn, period=2 * math.pi).item(), abs=1e-9)
    assert 0 <= found <= math.pi
    # The cheapest of all cuts of the circle.
    cuts = [
        wasserstein((a - c).remainder(2 * math.pi), (b - c).remainder(2 * math.pi)).item() for c in torch.cat([a, b])
    ]
    assert found <= min(cuts) + 1e-9


def test_distance_around_a_circle_takes_the_short_way() -> None:
    a, b = torch.tensor([3.0, 3.1]), torch.tensor([-3.0, -3.1])
    assert wasserstein(a, b, period=2 * math.pi).item() == pytest.approx(2 * math.pi - 6.1, abs=1e-6)
    assert wasserstein(a, b).item() == pytest.approx(6.1, abs=1e-6)


@pytest.mark.parametrize("wave", [(3, 3), (10, -4), (0, 7)])
def test_planted_waves_are_found_again_with_their_distributions(wave: tuple[int, int]) -> None:
    images = planted_waves(400, 32, ((0, 0), wave), seed=1)
    assert images.shape == (400, 1, 32, 32)
    amplitude, phase = wave_parts(images, wave)
    assert amplitude.mean().item() == pytest.approx(0.5, abs=0.02)
    assert amplitude.std().item() == pytest.approx(0.1, abs=0.01)
    assert phase.mean().item() == pytest.approx(0, abs=0.1)
    assert phase.std().item() == pytest.approx(0.2 * math.pi, abs=0.06)
    assert wave_parts(images, (5, 6))[0].max() < 1e-6
    assert torch.equal(images, planted_waves(400, 32, ((0, 0), wave), seed=1))
    mean, sign = wave_parts(images, (0, 0))
    torch.testing.assert_close((mean * sign.cos()).float(), images.mean(dim=(2, 3)), rtol=0, atol=1e-5)


def test_axes_are_columns_then_rows() -> None:
    image = planted_waves(1, 16, ((2, 0),))[0, 0]
    assert image.std(dim=0).max() < 1e-6
    assert image.std(dim=1).min() > 0.1


def test_scores_tell_amplitude_from_phase() -> None:
    real, twin = planted_waves(300, 16, ((3, 1),), seed=0), planted_waves(300, 16, ((3, 1),), seed=1)
    floor, weaker = wave_score(real, twin, (3, 1)), wave_score(real, 0.5 * real, (3, 1))
    moved = wave_score(real, torch.roll(real, 1, dims=2), (3, 1))
    assert wave_score(real, real, (3, 1)) == (0, 0, 0, 0)
    assert floor.amplitude < 0.03
    assert floor.phase < 0.15
    assert weaker.amplitude == pytest.approx(0.5 * wave_parts(real, (3, 1))[0].mean().item(), abs=1e-6)
    assert weaker.amplitude_variation > 0.9
    assert weaker.phase < 1e-6
    # One of sixteen rows at one period.
    assert moved.phase == pytest.approx(2 * math.pi / 16, abs=0.03)
    assert moved.phase_variation > 0.2
    assert moved.amplitude < 1e-6


def test_waves_beyond_nyquist_are_refused() -> None:
    with pytest.raises(ValueError, match="bins of at most 8 for 16 pixels"):
        planted_waves(1, 16, ((9, 0),))
