from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, iv

from rsgeo_gan.losses import (
    EntropyLimit,
    entropy,
    feature_scale,
    halved_uniformity,
    halves,
    masked_features,
    potential,
    uniformity,
)

few = settings(max_examples=25, deadline=None)


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _limit(dims: int) -> float:
    """Uniformity of evenly spread points on the sphere in so many dimensions."""
    half = dims / 2
    return -4 + gammaln(half) + (half - 1) * math.log(2) + (1 - half) * math.log(4) + math.log(iv(half - 1, 4))


def _simplex(count: int) -> torch.Tensor:
    """Points as far from each other as they can be."""
    return torch.eye(count, dtype=torch.float64) - 1 / count


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_features_are_the_maximum_of_uniformity_and_have_no_gradient(dtype: torch.dtype) -> None:
    same = _noise(1, 50).expand(5, 50).to(dtype).clone().requires_grad_()
    value = uniformity(same)
    value.backward()
    assert abs(value) < 1e-6
    assert same.grad is not None
    assert same.grad.abs().max() < 1e-6


def test_two_nearly_equal_features_are_below_the_maximum_and_pushed_apart() -> None:
    """1e-4 apart: the square of it is lost beside 1 in float32."""
    x = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-4, 0.0]]).requires_grad_()
    value = uniformity(x)
    value.backward()
    assert value.item() == pytest.approx(-2e-8, rel=1e-3)
    assert x.grad is not None
    assert x.grad[0, 1].item() == pytest.approx(4e-4, rel=1e-3)
    assert x.grad[1, 1].item() == pytest.approx(-4e-4, rel=1e-3)


@few
@given(st.integers(0, 2**31 - 1), st.integers(2, 9), st.integers(2, 40), st.floats(1e-2, 1e3))
def test_uniformity_ignores_scale_order_and_rotation(seed: int, count: int, dims: int, scale: float) -> None:
    x = _noise(count, dims, seed=seed).double()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    turn = torch.linalg.qr(_noise(dims, dims, seed=seed + 1).double()).Q
    value = uniformity(x)
    assert -4 * count / (count - 1) - 1e-9 <= value < 0
    for other in (scale * x, x[order], x @ turn):
        torch.testing.assert_close(uniformity(other), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("dims", "expected"), [(2, -1.5750), (3, -2.0798), (8, -3.0825), (32, -3.7518), (128, -3.9375)]
)
def test_evenly_spread_points_have_the_closed_form_of_the_sphere(dims: int, expected: float) -> None:
    assert _limit(dims) == pytest.approx(expected, abs=1e-4)
    assert uniformity(_noise(2000, dims)).item() == pytest.approx(expected, abs=0.01)


def test_potential_on_the_circle_is_a_bessel_function_and_on_large_spheres_nears_its_limit() -> None:
    angles = torch.arange(400, dtype=torch.float64) * (2 * math.pi / 400)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    # Pairs of one point with itself are left out of the mean.
    mean = (400 * 399 * potential(circle) + 400) / 400**2
    assert mean.item() == pytest.approx(math.exp(-4) * iv(0, 4), abs=1e-8)
    assert _limit(400) == pytest.approx(-4 + 8 / 400, abs=1e-3)


@pytest.mark.parametrize(("count", "bound"), [(2, -8.0), (4, -5.333), (8, -4.571), (16, -4.267), (32, -4.129)])
def test_the_least_value_is_that_of_a_simplex_and_depends_on_the_batch(count: int, bound: float) -> None:
    points = _simplex(count)
    assert uniformity(points).item() == pytest.approx(-4 * count / (count - 1), abs=1e-6)
    assert uniformity(points).item() == pytest.approx(bound, abs=1e-3)
    moved = points + 0.1 * _noise(count, count).double()
    assert uniformity(moved) > uniformity(points)


def test_merged_clusters_raise_uniformity_by_their_share_of_pairs() -> None:
    values = []
    for clusters in (8, 4, 2):
        x = torch.eye(16)[:clusters].repeat_interleave(16 // clusters, dim=0)
        within = (16 / clusters - 1) / 15
        values.append(uniformity(x).item())
        assert values[-1] == pytest.approx(math.log(within + (1 - within) * math.exp(-4)), abs=1e-6)
    assert values == sorted(values)


def test_a_common_mean_of_activations_keeps_random_features_from_the_limit() -> None:
    x = _noise(256, 4096)
    assert uniformity(x).item() == pytest.approx(-4, abs=0.01)
    assert uniformity(x.relu()).item() == pytest.approx(-2.73, abs=0.02)
    assert uniformity(torch.nn.functional.leaky_relu(x, 0.2)).item() == pytest.approx(-3.22, abs=0.02)


def test_gradient_of_uniformity_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(uniformity, (_noise(4, 5).double().requires_grad_(),))
    with torch.autocast("cpu", torch.bfloat16):
        value = uniformity(_noise(4, 5))
    assert value.dtype == torch.float32
    assert value == uniformity(_noise(4, 5))


def test_entropy_of_normal_entries_is_the_gaussian_one() -> None:
    x = _noise(1, 524_288)
    assert entropy(x).item() == pytest.approx(1.4189, abs=0.005)
    assert entropy(3 * x).item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e * 9), abs=0.005)


@few
@given(st.integers(0, 2**31 - 1), st.floats(-3, 3), st.sampled_from(["gaussian", "reference"]))
def test_twice_the_features_have_log_2_more_entropy(seed: int, offset: float, mode: str) -> None:
    x = _noise(3, 64, seed=seed) + offset
    assert (entropy(2 * x, mode) - entropy(x, mode)).item() == pytest.approx(math.log(2), abs=1e-5)  # type: ignore[arg-type]


def test_an_offset_is_rewarded_by_the_reference_mode_only() -> None:
    x = _noise(2, 100_000).double()
    x = (x - x.mean(dim=1, keepdim=True)) / x.std(dim=1, keepdim=True)
    assert entropy(x + 3).item() == pytest.approx(entropy(x).item(), abs=1e-8)
    gained = entropy(x + 3, "reference") - entropy(x, "reference")
    assert gained.item() == pytest.approx(0.25 * math.log(10), abs=1e-4)
    assert gained.item() == pytest.approx(0.574, abs=0.01)


def test_both_modes_pull_alike_on_features_of_mean_zero() -> None:
    x = _noise(2, 64).double()
    x = (x - x.mean(dim=1, keepdim=True)).requires_grad_()
    pulls = [torch.autograd.grad(entropy(x, mode), x)[0] for mode in ("gaussian", "reference")]  # type: ignore[arg-type]
    flat = pulls[1] - pulls[1].mean(dim=1, keepdim=True)
    torch.testing.assert_close(pulls[0], flat, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", ["gaussian", "reference"])
def test_dead_features_stay_finite(mode: str) -> None:
    dead = torch.zeros(4, 8, requires_grad=True)
    total = entropy(dead, mode) + uniformity(dead)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(total, dead)
    assert total.isfinite()
    assert gradient.isfinite().all()


def test_batches_are_halved_as_published_and_small_ones_kept_whole() -> None:
    sizes = {count: [len(part) for part in halves(torch.zeros(count, 3))] for count in (1, 2, 3, 4, 8, 9)}
    assert sizes == {1: [], 2: [2], 3: [3], 4: [2, 2], 8: [4, 4], 9: [4, 4]}
    x = _noise(9, 5)
    expected = (uniformity(x[:4]) + uniformity(x[4:8])) / 2
    torch.testing.assert_close(halved_uniformity(x), expected)
    torch.testing.assert_close(halved_uniformity(x[:3]), uniformity(x[:3]))
    assert halved_uniformity(x[:1]) == 0


def test_masked_features_hold_what_the_valid_cells_hold() -> None:
    x = (_noise(2, 3, 8, 8) + 2).double()
    mask = torch.ones(2, 1, 16, 16)
    mask[:, :, :9] = 0  # five of eight rows of cells touch it
    seen = x[:, :, 5:].flatten(1)
    found = masked_features(torch.where(torch.arange(8).view(8, 1) < 5, torch.nan, x), mask)
    assert found.shape == (2, 3 * 64)
    torch.testing.assert_close(found.mean(dim=1), seen.mean(dim=1))
    torch.testing.assert_close(found.var(dim=1, correction=0), seen.var(dim=1, correction=0))
    torch.testing.assert_close(found.square().mean(dim=1), seen.square().mean(dim=1))
    torch.testing.assert_close(uniformity(found), uniformity(seen))
    assert entropy(found).item() == pytest.approx(entropy(seen).item(), abs=0.01)


def test_masked_features_pass_no_gradient_to_hidden_cells_and_are_plain_without_a_hole() -> None:
    x = _noise(2, 3, 4, 4).requires_grad_()
    assert torch.equal(masked_features(x), x.flatten(1))
    torch.testing.assert_close(masked_features(x, torch.ones(2, 1, 4, 4)), x.flatten(1))
    mask = torch.ones(2, 1, 4, 4)
    mask[0, :, 2, 1] = 0
    mask[1] = 0
    (gradient,) = torch.autograd.grad(masked_features(x, mask).square().sum(), x)
    assert (gradient[0, :, 2, 1] == 0).all()
    assert (gradient[0, :, 2, 2] != 0).all()
    assert (gradient[1] == 0).all()
    assert (masked_features(x, mask)[1] == 0).all()


def test_the_limit_follows_real_entropy_and_stops_the_gradient_above_it() -> None:
    limit = EntropyLimit(decay=0.5)
    high = torch.tensor(9.0, requires_grad=True)
    assert limit(high) == 9
    limit.update(torch.tensor(2.0))
    limit.update(torch.tensor(4.0))
    assert limit.limit == 3
    assert limit(high) == 3
    low = torch.tensor(1.0, requires_grad=True)
    gradients = torch.autograd.grad(limit(high) + limit(low), (high, low))
    assert gradients == (0, 1)
    assert "limit" in limit.state_dict()


def test_scale_tells_norm_and_deviation() -> None:
    norm, deviation = feature_scale(torch.tensor([[3.0, 4.0], [6.0, 8.0]]))
    assert norm == 7.5
    assert deviation.item() == pytest.approx((0.5**0.5 + 2**0.5) / 2)


def test_shapes_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uniformity: expected \(B, D\) with B >= 2, got \(1, 5\).*larger batches"):
        uniformity(torch.zeros(1, 5))
    with pytest.raises(ValueError, match=r"got \(2, 3, 4, 4\).*flatten feature maps"):
        uniformity(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"entropy: expected \(B, D\).*got \(2, 3, 4, 4\)"):
        entropy(torch.zeros(2, 3, 4, 4))
    with pytest.raises(ValueError, match="D >= 2"):
        entropy(torch.zeros(2, 1))
    with pytest.raises(ValueError, match='unknown mode \'max\'; expected "gaussian" or "reference"'):
        entropy(torch.zeros(2, 2), "max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"masked_features: expected maps \(B, C, h, w\), got \(2, 3\)"):
        masked_features(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"multiple of the features' size, got \(2, 1, 6, 6\) for features"):
        masked_features(torch.zeros(2, 3, 4, 4), torch.ones(2, 1, 6, 6))
    with pytest.raises(ValueError, match="0 <= decay < 1"):
        EntropyLimit(1.0)
