from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from rsgeo_gan.metrics import correlation, ssim


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    x = torch.rand(1, 2, 40, 33, generator=random)
    return x, 0.6 * x + 0.4 * torch.rand(1, 2, 40, 33, generator=random)


def test_ssim_agrees_with_scikit_image(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = (v[0].double().numpy() for v in pair)
    maps = [
        structural_similarity(
            x[c], y[c], data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )[1]
        for c in range(2)
    ]
    expected = np.mean([m[5:-5, 5:-5] for m in maps])
    assert ssim(*pair, 1.0).item() == pytest.approx(expected, abs=1e-5)


def test_ssim_of_two_constants_is_the_luminance_term() -> None:
    a, b = torch.full((1, 1, 16, 16), 0.2), torch.full((1, 1, 16, 16), 0.6)
    c1 = 0.01**2
    assert ssim(a, b, 1.0).item() == pytest.approx((2 * 0.12 + c1) / (0.04 + 0.36 + c1), abs=1e-6)


def test_ssim_of_large_values_with_a_small_spread_is_stable() -> None:
    x = 1e4 + torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    assert ssim(x, x, 1.0).item() == pytest.approx(1.0)


def test_windows_touching_invalid_pixels_are_left_out(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = pair
    mask = torch.ones(1, 1, 40, 33)
    mask[..., 20:] = 0
    spoiled = torch.where(mask > 0, y, torch.nan)
    torch.testing.assert_close(ssim(x, spoiled, 1.0, mask), ssim(x[..., :20], y[..., :20], 1.0))


def test_window_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match=r"odd window within the image \(8, 8\), got 11"):
        ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), 1.0)


def test_correlation_agrees_with_numpy_and_ignores_gain_and_offset(
    pair: tuple[torch.Tensor, torch.Tensor],
) -> None:
    x, y = pair
    expected = np.mean([np.corrcoef(x[0, c].ravel(), y[0, c].ravel())[0, 1] for c in range(2)])
    assert correlation(x, y).item() == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(correlation(3 * x + 2, y), correlation(x, y))
    torch.testing.assert_close(correlation(-x, y), -correlation(x, y))


def test_correlation_counts_valid_pixels_only(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = pair
    mask = torch.zeros(1, 1, 40, 33)
    mask[..., :20] = 1
    spoiled = torch.where(mask > 0, x, torch.nan)
    torch.testing.assert_close(correlation(spoiled, y, mask), correlation(x[..., :20], y[..., :20]))


def test_a_constant_correlates_with_nothing(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert correlation(torch.full_like(pair[0], 0.3), pair[1]).item() == pytest.approx(0.0, abs=1e-6)
