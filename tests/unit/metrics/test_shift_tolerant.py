from __future__ import annotations

import math

import pytest
import torch

from rsgeo_gan.metrics import (
    ShiftTolerantPSNR,
    ShiftTolerantSSIM,
    shift_tolerant_psnr,
    shift_tolerant_ssim,
)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 32, 36, generator=torch.Generator().manual_seed(0))


def test_psnr_of_a_constant_error_is_its_closed_form(image: torch.Tensor) -> None:
    score = shift_tolerant_psnr(image, image + 0.1, 1.0, radius_px=0, remove_bias=False)
    assert score.value.tolist() == pytest.approx([20.0, 20.0], abs=1e-3)
    scaled = shift_tolerant_psnr(255 * image, 255 * image + 25.5, 255.0, radius_px=0, remove_bias=False)
    assert scaled.value.tolist() == pytest.approx([20.0, 20.0], abs=1e-3)


def test_bias_is_removed_band_by_band(image: torch.Tensor) -> None:
    offset = torch.tensor([0.1, -0.3, 0.0]).view(1, 3, 1, 1)
    assert (shift_tolerant_psnr(image, image + offset, 1.0).value > 100).all()


def test_shift_is_forgiven_and_reported(image: torch.Tensor) -> None:
    moved = torch.roll(image, (3, -2), dims=(2, 3))
    score = shift_tolerant_psnr(image, moved, 1.0, radius_px=3)
    assert score.shift.tolist() == [[-2, 3]] * 2
    assert (score.value > 100).all()
    assert (shift_tolerant_psnr(image, moved, 1.0, radius_px=2).value < 15).all()


def test_garbage_under_the_mask_changes_no_score(image: torch.Tensor) -> None:
    noisy = torch.roll(image, 1, dims=3) + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 1, 32, 36)
    mask[..., 20:24, 3:9] = 0
    spoiled = torch.where(mask > 0, noisy, torch.nan)
    for function in (shift_tolerant_psnr, shift_tolerant_ssim):
        clean = function(image, noisy, 1.0, 2, mask)
        dirty = function(torch.where(mask > 0, image, torch.nan), spoiled, 1.0, 2, mask)
        assert clean.shift.tolist() == dirty.shift.tolist() == [[1, 0]] * 2
        torch.testing.assert_close(clean.value, dirty.value)


def test_ssim_is_one_at_the_right_shift(image: torch.Tensor) -> None:
    score = shift_tolerant_ssim(image, torch.roll(image, (2, 1), dims=(2, 3)), 1.0)
    assert score.value.tolist() == pytest.approx([1.0, 1.0])
    assert score.shift.tolist() == [[1, 2]] * 2


def test_ssim_can_ignore_a_bias(image: torch.Tensor) -> None:
    biased = image + 0.5
    assert (shift_tolerant_ssim(image, biased, 1.0, 1).value < 0.95).all()
    assert (shift_tolerant_ssim(image, biased, 1.0, 1, remove_bias=True).value > 0.9999).all()


@pytest.mark.parametrize("data_range", [0.0, -1.0, math.nan])
def test_a_data_range_that_is_not_positive_is_refused(image: torch.Tensor, data_range: float) -> None:
    with pytest.raises(ValueError, match="data_range must be positive and in the units of the images"):
        shift_tolerant_psnr(image, image, data_range)
    with pytest.raises(ValueError, match="data_range must be positive"):
        ShiftTolerantSSIM(data_range)


def test_unequal_images_and_masks_are_refused(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"one shape \(B, C, H, W\)"):
        shift_tolerant_psnr(image, image[..., 1:], 1.0)
    with pytest.raises(ValueError, match=r"expected a mask .*\(32, 36\), got \(2, 1, 8, 8\)"):
        shift_tolerant_psnr(image, image, 1.0, mask=torch.ones(2, 1, 8, 8))


def test_metric_averages_over_samples_of_all_batches(image: torch.Tensor) -> None:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    other = image + noise * torch.tensor([0.02, 0.2]).view(2, 1, 1, 1)
    metric = ShiftTolerantPSNR(1.0, 1)
    for i in range(2):
        metric.update(image[i : i + 1], other[i : i + 1])
    torch.testing.assert_close(metric.compute(), shift_tolerant_psnr(image, other, 1.0, 1).value.mean())


def test_metric_leaves_out_what_cannot_be_compared(image: torch.Tensor) -> None:
    mask = torch.ones(2, 1, 32, 36)
    mask[1] = 0
    for metric in (ShiftTolerantPSNR(1.0, 1), ShiftTolerantSSIM(1.0, 1)):
        metric.update(image, torch.roll(image, 1, dims=2) + 0.01 * image, mask)
        value = metric.compute()
        assert torch.isfinite(value)
        assert metric.mean_shift_px.tolist() == [0.0, 1.0]
        metric.reset()
        metric.update(image, image, torch.zeros_like(mask))
        assert torch.isnan(metric.compute())
