from __future__ import annotations

import pytest
import torch
from scipy import stats

from rsgeo_gan.metrics import amplitude_distance, enl, enl_map, multilook, multilook_score


def _speckle(looks: int, *shape: int, seed: int = 0) -> torch.Tensor:
    """Unit-mean intensity: mean of `looks` squared circular Gaussians."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2 * looks, *shape, generator=random).square().sum(dim=0) / (2 * looks)


@pytest.mark.parametrize("looks", [1, 4, 16])
def test_enl_counts_the_looks_whatever_the_brightness(looks: int) -> None:
    area = 0.03 * _speckle(looks, 2, 1, 128, 128)
    assert enl(area).flatten().tolist() == pytest.approx([looks, looks], rel=0.06)
    torch.testing.assert_close(enl(area * 50), enl(area), rtol=1e-3, atol=0)


def test_enl_of_a_constant_is_infinite() -> None:
    assert enl(torch.full((1, 1, 64, 64), 0.1)).item() == float("inf")


def test_enl_counts_valid_pixels_only() -> None:
    x = _speckle(2, 1, 1, 64, 64)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :40] = 1
    torch.testing.assert_close(enl(torch.where(mask > 0, x, torch.nan), mask), enl(x[..., :40]))


@pytest.mark.parametrize("function", [enl, lambda x: multilook(x, 4), enl_map])
def test_decibel_is_refused(function: object) -> None:
    with pytest.raises(ValueError, match=r"expected linear intensity .* which look like dB; convert with 10 \*\*"):
        function(10 * torch.log10(_speckle(1, 1, 1, 32, 32)))  # type: ignore[operator]


def test_unmasked_nan_is_refused() -> None:
    x = _speckle(1, 1, 1, 16, 16)
    x[..., 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite; pass the validity mask"):
        enl(x)


def test_multilook_multiplies_the_looks() -> None:
    means, valid = multilook(_speckle(1, 1, 1, 256, 256), 4)
    assert means.shape == valid.shape == (1, 1, 64, 64)
    assert enl(means).item() == pytest.approx(16, rel=0.08)


def test_multilook_averages_power_of_valid_pixels() -> None:
    x = torch.tensor([[1.0, 3.0], [torch.nan, torch.nan]]).repeat(1, 2)[None, None]
    mask = torch.tensor([[[[1.0, 1, 1, 0], [0, 0, 0, 0]]]])
    means, valid = multilook(x, 2, mask)
    assert means.tolist() == [[[[2.0, 0.0]]]]  # the second block is valid by a quarter only
    assert valid.tolist() == [[[[1.0, 0.0]]]]


def test_multilook_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 1 <= looks <= 8 .*, got 9"):
        multilook(torch.ones(1, 1, 8, 8), 9)


def test_score_sees_the_scene_through_different_speckle() -> None:
    scene = torch.ones(1, 1, 210, 210)
    scene[..., 60:140, 30:120] = 12.0
    a, b = scene * _speckle(1, 1, 1, 210, 210, seed=1), scene * _speckle(1, 1, 1, 210, 210, seed=2)
    score = multilook_score(a, b, data_range=25.0)
    mean_only = multilook_score(torch.full_like(a, float(b.mean())), b, data_range=25.0)
    assert score.correlation.item() > 0.95
    assert score.ssim.item() > mean_only.ssim.item() + 0.1
    assert mean_only.correlation.item() == pytest.approx(0.0, abs=1e-4)
    raw = multilook_score(a, b, data_range=25.0, looks=1)
    assert raw.correlation < score.correlation


def test_score_ignores_what_is_masked() -> None:
    a, b = _speckle(1, 1, 2, 70, 70, seed=1), _speckle(1, 1, 2, 70, 70, seed=2)
    mask = torch.ones(1, 1, 70, 70)
    mask[..., 35:, :21] = 0
    spoiled = torch.where(mask > 0, a, torch.nan)
    for clean, dirty in zip(
        multilook_score(a, b, 25.0, 3, mask), multilook_score(spoiled, b, 25.0, 3, mask), strict=True
    ):
        torch.testing.assert_close(clean, dirty)


def test_amplitude_distances_agree_with_scipy() -> None:
    a = torch.randn(700, generator=torch.Generator().manual_seed(0)) - 12
    b = 2 * torch.randn(500, generator=torch.Generator().manual_seed(1)) - 11
    found = amplitude_distance(a, b)
    assert found.ks.item() == pytest.approx(stats.ks_2samp(a.numpy(), b.numpy()).statistic, abs=1e-6)
    assert found.wasserstein.item() == pytest.approx(stats.wasserstein_distance(a.numpy(), b.numpy()), abs=1e-5)


def test_a_shift_of_all_values_is_its_wasserstein_distance() -> None:
    a = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    found = amplitude_distance(a, a + 3.0)
    assert found.wasserstein.item() == pytest.approx(3.0, abs=1e-4)
    assert amplitude_distance(a, a.flip(0)) == (0.0, 0.0)


def test_distributions_leave_out_masked_and_nan_values() -> None:
    a = torch.tensor([[[[1.0, 2.0, torch.nan, 99.0]]]])
    mask = torch.tensor([[[[1.0, 1.0, 1.0, 0.0]]]])
    assert amplitude_distance(a, torch.tensor([2.0, 1.0]), mask) == (0.0, 0.0)
    with pytest.raises(ValueError, match="expected valid values on both sides, got 0 and 2"):
        amplitude_distance(a, torch.ones(2), torch.zeros_like(mask))


def test_enl_map_finds_the_homogeneous_half() -> None:
    x = torch.cat([_speckle(9, 1, 1, 70, 70), _speckle(1, 1, 1, 70, 70)], dim=3)
    looks = enl_map(x, 14)
    assert looks.shape == (1, 1, 5, 10)
    assert looks[..., :5].median().item() == pytest.approx(9, rel=0.2)
    assert looks[..., 5:].median().item() == pytest.approx(1, rel=0.25)
