from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio
from torchmetrics.functional.image import error_relative_global_dimensionless_synthesis, spectral_angle_mapper

from rsgeo_gan.metrics import ergas, psnr, spectral_angle


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    x = 0.1 + torch.rand(2, 4, 24, 20, generator=random)
    return x, x + 0.1 * torch.rand(2, 4, 24, 20, generator=random)


def test_psnr_agrees_with_scikit_image_band_by_band(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = pair
    bands = [peak_signal_noise_ratio(y[0, c].numpy(), x[0, c].numpy(), data_range=2.0) for c in range(4)]
    assert psnr(x, y, 2.0)[0].item() == pytest.approx(sum(bands) / 4, abs=1e-4)


def test_spectral_angle_and_ergas_agree_with_torchmetrics(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = pair
    expected = spectral_angle_mapper(x, y, reduction="none").mean(dim=(1, 2)).rad2deg()
    torch.testing.assert_close(spectral_angle(x, y), expected, atol=1e-3, rtol=1e-4)
    theirs = error_relative_global_dimensionless_synthesis(x, y, ratio=4, reduction="none")
    torch.testing.assert_close(ergas(x, y, 4), theirs)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 10), st.floats(0, 90))
def test_an_angle_does_not_depend_on_brightness(gain: float, degrees: float) -> None:
    turned = torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]) * gain
    x, y = (v[None, :, None, None].expand(1, 2, 4, 4) for v in (torch.tensor([1.0, 0.0]), turned))
    assert spectral_angle(x, y).item() == pytest.approx(degrees, abs=1e-4)


def test_pixels_under_the_mask_do_not_count(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = pair
    mask = torch.ones(2, 1, 24, 20)
    mask[..., 12:] = 0
    spoiled = torch.where(mask > 0, y, torch.nan)
    a, b = x[..., :12], y[..., :12]
    torch.testing.assert_close(psnr(x, spoiled, 1.0, mask), psnr(a, b, 1.0))
    torch.testing.assert_close(spectral_angle(x, spoiled, mask), spectral_angle(a, b))
    torch.testing.assert_close(ergas(x, spoiled, 2, mask), ergas(a, b, 2))
    for score in (psnr(x, y, 1.0, 0 * mask), spectral_angle(x, y, 0 * mask), ergas(x, y, 2, 0 * mask)):
        assert score.isnan().all()


def test_a_dark_band_and_a_pixel_without_spectrum_are_left_out(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = pair
    dark = torch.cat([y, torch.zeros(2, 1, 24, 20)], dim=1)
    torch.testing.assert_close(ergas(torch.cat([x, torch.ones(2, 1, 24, 20)], dim=1), dark, 2), ergas(x, y, 2))
    x = torch.cat([x, x[:, :, :1]], dim=2)
    torch.testing.assert_close(spectral_angle(x, torch.cat([y, 0 * y[:, :, :1]], dim=2)), spectral_angle(*pair))


def test_what_has_no_answer_is_refused(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = pair
    with pytest.raises(ValueError, match="at least 2 bands"):
        spectral_angle(x[:, :1], y[:, :1])
    with pytest.raises(ValueError, match="scale >= 1"):
        ergas(x, y, 0)
    with pytest.raises(ValueError, match="data_range must be positive"):
        psnr(x, y, 0.0)
