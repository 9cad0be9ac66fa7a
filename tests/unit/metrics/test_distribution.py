from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from rsgeo_gan.metrics import FrechetDistance, KernelDistance, RandomConv, frechet_distance, kernel_distance


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _tiles(count: int, seed: int, bands: int = 2) -> torch.Tensor:
    """Tiles of unlike brightness and texture."""
    level = 0.3 * _noise(count, bands, 1, 1, seed=seed)
    return (level + 0.2 * _noise(count, bands, 32, 32, seed=seed + 1)).clamp(-1, 1)


@pytest.fixture(scope="module")
def backend() -> RandomConv:
    return RandomConv(2, dims=4).fit(_tiles(40, 100).split(20))


@pytest.mark.parametrize("count", [10, 200])
def test_equal_sets_are_nowhere_apart_and_a_moved_set_by_the_square_of_the_move(count: int) -> None:
    real, move = _noise(count, 32), _noise(32, seed=1)
    assert abs(frechet_distance(real, real)) < 1e-3
    assert frechet_distance(real, real + move).item() == pytest.approx(move.square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("count", [3, 50])
def test_a_scaled_set_is_apart_by_its_change_of_deviation(count: int) -> None:
    real = _noise(count, 8)
    real = real - real.mean(dim=0)
    expected = real.var(dim=0).sum().item() * (3 - 1) ** 2
    assert frechet_distance(real, 3 * real).item() == pytest.approx(expected, rel=1e-5)


def test_deviations_along_unlike_axes_are_the_textbook_value() -> None:
    """Diagonal covariances: the distance is the sum of (s₁ - s₂)²."""
    real, fake = (torch.tensor([[a, b], [-a, b], [a, -b], [-a, -b]]) for a, b in ((1.0, 2.0), (3.0, 1.0)))
    assert frechet_distance(real, fake).item() == pytest.approx(4 / 3 * (2**2 + 1**2), rel=1e-6)


def test_few_images_bias_the_frechet_but_not_the_kernel_distance() -> None:
    draws = _noise(60, 2, 20, 8)
    frechet = torch.stack([frechet_distance(a, b) for a, b in draws]).mean().item()
    kernel = torch.stack([kernel_distance(a, b) for a, b in draws])
    assert frechet == pytest.approx(8 * 13 / (2 * 20), rel=0.15)
    assert abs(kernel.mean()) < 3 * kernel.std() / math.sqrt(len(draws))


def test_kernel_distance_of_two_by_two_numbers_is_the_one_by_hand() -> None:
    real, fake = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    # Kernel (x y + 1)³: within real 1, within fake 7³, across 1, 1, 3³, 4³.
    assert kernel_distance(real, fake).item() == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)


def test_images_without_features_are_left_out_and_too_few_are_refused() -> None:
    real = _noise(6, 3)
    holed = torch.cat([real, torch.full((1, 3), torch.nan)])
    assert frechet_distance(holed, real + 1) == frechet_distance(real, real + 1)
    with pytest.raises(ValueError, match="at least 2 images with features on both sides, got 6 real and 1 fake"):
        kernel_distance(real, holed[-2:])
    with pytest.raises(ValueError, match="equal D"):
        frechet_distance(real, real[:, :2])


def test_backends_are_repeatable_and_named_by_what_they_are(backend: RandomConv) -> None:
    twin = RandomConv(2, dims=4).fit(_tiles(40, 100).split(20))
    assert backend.name == "random-conv-v1-seed0-2band-4d"
    assert twin.digest == backend.digest
    assert RandomConv(2, dims=4, seed=1).digest != RandomConv(2, dims=4).digest
    x = _tiles(3, 7)
    torch.testing.assert_close(twin.describe(x), backend.describe(x), rtol=0, atol=0)


def test_features_are_standardised_on_real_tiles_and_have_their_strides(backend: RandomConv) -> None:
    tiles = _tiles(40, 100)
    maps = backend(tiles)
    assert {name: tuple(x.shape[1:]) for name, x in maps.items()} == {
        "s1": (16, 32, 32),
        "s2": (32, 16, 16),
        "s4": (64, 8, 8),
        "s8": (64, 4, 4),
    }
    for x in maps.values():
        assert x.mean(dim=(0, 2, 3)).abs().max() < 1e-3
        deviation = x.std(dim=(0, 2, 3))
        fires = deviation > 0
        assert fires.float().mean() > 0.5
        torch.testing.assert_close(deviation[fires], torch.ones(int(fires.sum())), rtol=0.02, atol=0)
    described = backend.describe(tiles)
    assert described.mean(dim=0).abs().max() < 0.2
    assert (described.std(dim=0) > 0.7).all()
    assert (described.std(dim=0) < 1).all()


def test_gradients_reach_the_image_and_no_weight(backend: RandomConv) -> None:
    x = _tiles(1, 7).requires_grad_()
    backend.describe(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in backend.parameters())


def test_what_lies_under_nodata_changes_nothing(backend: RandomConv) -> None:
    x, mask = _tiles(2, 7), torch.ones(2, 1, 32, 32)
    x = F.interpolate(x, size=(96, 96), mode="bilinear")
    mask = F.interpolate(mask, size=(96, 96))
    mask[0, :, 10:14, :9] = 0
    garbage = torch.where(mask > 0, x, torch.nan)
    torch.testing.assert_close(backend.describe(garbage, mask), backend.describe(x, mask), rtol=0, atol=0)
    assert torch.isnan(backend.describe(x, torch.zeros_like(mask))).all()


def test_wrong_bands_small_tiles_and_a_missing_fit_are_refused(backend: RandomConv) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 2, H, W\).*make a backend for the bands"):
        backend.describe(_tiles(2, 0, bands=3))
    with pytest.raises(ValueError, match="H, W >= 16"):
        backend.describe(_tiles(2, 0)[..., :12])
    with pytest.raises(ValueError, match="call fit with real tiles first"):
        RandomConv(2).describe(_tiles(2, 0))
    with pytest.raises(ValueError, match="expected more than 4 tiles"):
        RandomConv(2, dims=4).fit([_tiles(4, 0)])


def test_a_blurred_set_is_farther_from_real_tiles_than_other_real_tiles(backend: RandomConv) -> None:
    real, twin = _tiles(40, 0), _tiles(40, 10)
    blurred = F.avg_pool2d(twin, 3, 1, 1)
    for kind in (FrechetDistance, KernelDistance):
        values = []
        for fake in (twin, blurred):
            metric = kind(backend)
            for half in real.split(20):
                metric.update(half, real=True)
            metric.update(fake, real=False)
            values.append(metric.compute().item())
        assert values[1] > 3 * abs(values[0])
    assert FrechetDistance(backend).name == "FD-random-conv-v1-seed0-2band-4d"


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_a_metric_without_images_is_not_a_number(backend: RandomConv) -> None:
    assert math.isnan(FrechetDistance(backend).compute())
