from __future__ import annotations

import math

import pytest
import torch

from rsgeo_gan.metrics import (
    high_frequency_ratio,
    log_spectral_distance,
    radial_frequencies,
    radial_psd,
)


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(64, 64), (63, 63), (48, 80)])
def test_white_noise_is_flat_at_its_variance(size: tuple[int, int]) -> None:
    psd = radial_psd(3.0 * _noise(64, 1, *size)).mean(dim=0)[0]
    assert psd.shape == (min(size) // 2,)
    assert (psd[2:] / 9.0 - 1).abs().max() < 0.15
    assert psd.mean().item() == pytest.approx(9.0, rel=0.03)


@pytest.mark.parametrize(("fx", "fy"), [(12, 0), (0, 20), (9, 12)])
def test_a_wave_peaks_at_its_frequency(fx: int, fy: int) -> None:
    grid = torch.arange(64.0)
    wave = torch.cos(2 * math.pi * (fx * grid + fy * grid[:, None]) / 64)
    psd = radial_psd(wave[None, None])[0, 0]
    peak = radial_frequencies(64)[psd.argmax()].item()
    assert peak == pytest.approx(math.hypot(fx, fy) / 64, abs=1e-6)


def test_an_offset_changes_nothing() -> None:
    x = _noise(1, 2, 32, 32)
    torch.testing.assert_close(radial_psd(x + 100.0), radial_psd(x), rtol=1e-3, atol=1e-4)


def test_distance_of_a_gain_is_the_gain_in_db() -> None:
    x = _noise(4, 2, 32, 32)
    assert log_spectral_distance(x, x) == 0
    assert log_spectral_distance(2 * x, x).item() == pytest.approx(20 * math.log10(2), abs=1e-4)


def test_blur_is_far_from_the_truth_and_has_less_high_frequency() -> None:
    x, twin = _noise(4, 1, 64, 64), _noise(4, 1, 64, 64, seed=1)
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert log_spectral_distance(blurred, twin) > 5 * log_spectral_distance(x, twin)
    assert (high_frequency_ratio(blurred) < 0.5 * high_frequency_ratio(x)).all()


def test_high_frequency_share_of_white_noise_is_known() -> None:
    """Energy grows with the ring: 1 - (1/4)² / (1/2)² = 3/4, plus half a ring."""
    ratio = high_frequency_ratio(_noise(32, 1, 64, 64)).mean().item()
    assert ratio == pytest.approx(0.76, abs=0.02)
    assert high_frequency_ratio(torch.full((1, 1, 16, 16), 5.0)).item() == pytest.approx(0.0, abs=1e-3)


def test_tiles_with_holes_are_refused() -> None:
    x = _noise(1, 1, 16, 16)
    x[..., 3, 3] = torch.nan
    with pytest.raises(ValueError, match="not finite; use wholly valid tiles"):
        radial_psd(x)


def test_unequal_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equal bands and sizes"):
        log_spectral_distance(_noise(1, 1, 16, 16), _noise(1, 1, 32, 32))
