from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from rsgeo_gan.metrics import (
    RandomConv,
    band_mask,
    fit_levels,
    high_pass,
    level_cutoff,
    level_distances,
    power_share,
    spectral_leakage,
)


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _wave(kx: float, ky: float, size: int = 32) -> Tensor:
    grid = torch.arange(float(size))
    return torch.cos(2 * math.pi * (kx * grid + ky * grid[:, None]) / size)[None, None]


@pytest.mark.parametrize("window", [None, "hann"])
def test_equal_spectra_leak_nothing_and_disjoint_ones_everything(window: str | None) -> None:
    x = _noise(4, 2, 16, 24).double()
    assert spectral_leakage(x, 3 * x, window).item() == pytest.approx(0, abs=1e-12)  # type: ignore[arg-type]
    assert spectral_leakage(_wave(3, 2), _wave(10, -9), window).item() == pytest.approx(1, abs=1e-9)  # type: ignore[arg-type]


def test_leakage_of_mixed_waves_is_the_share_of_power_that_moved() -> None:
    """Powers 4 : 1 against 1 : 4, per band; only one of the two bands differs."""
    real = (2 * _wave(3, 0) + _wave(0, 5)).expand(1, 2, 32, 32)
    fake = torch.cat([real[:, :1], _wave(3, 0) + 2 * _wave(0, 5)], dim=1)
    assert spectral_leakage(real, fake).item() == pytest.approx(0.6 / 2, abs=1e-6)
    near = [
        spectral_leakage(real, fake, around=[f], radius=1 / 64).item() for f in ((3 / 32, 0), (0, -5 / 32), (0.3, 0.3))
    ]
    assert near == pytest.approx([0.15, 0.15, 0.0], abs=1e-6)


def test_a_window_keeps_a_wave_that_does_not_close_from_spreading() -> None:
    wave = _wave(3.5, 0, 64)
    plain, tapered = (power_share(wave, window)[0, 0, 12:32].sum() for window in (None, "hann"))  # type: ignore[arg-type]
    assert tapered < 0.01 * plain


def test_the_mean_can_be_left_out() -> None:
    real, fake = _wave(3, 2) + 5, _wave(3, 2) - 1
    assert spectral_leakage(real, fake) > 0.2
    for window in (None, "hann"):
        assert spectral_leakage(real, fake, window, mean=False).item() == pytest.approx(0, abs=1e-6)  # type: ignore[arg-type]
    assert power_share(real, mean=False)[0, 0, 0] == 0


def test_frequencies_beyond_the_edge_of_the_spectrum_come_back_on_the_other_side() -> None:
    nyquist = _wave(16, 16)
    for f in ((0.5, 0.5), (-0.5, 0.5), (0.49, -0.49)):
        found = spectral_leakage(nyquist, _wave(3, 3), around=[f])
        assert found.item() == pytest.approx(0.5, abs=1e-6)


def test_images_without_a_spectrum_are_refused() -> None:
    x = _noise(2, 1, 8, 8)
    with pytest.raises(ValueError, match="equal bands and sizes"):
        spectral_leakage(x, x[..., :6])
    with pytest.raises(ValueError, match="constant bands have no spectrum"):
        spectral_leakage(x, torch.ones_like(x), mean=False)
    with pytest.raises(ValueError, match="use wholly valid tiles"):
        power_share(x / 0)
    with pytest.raises(ValueError, match="at least one image"):
        power_share(x[:0])


@pytest.mark.parametrize("level", [1, 5, 8])
def test_the_high_pass_takes_a_gaussian_average_off(level: int) -> None:
    deviation = 1 / (1 - (level - 1) / 8)
    assert level_cutoff(level) == pytest.approx(1 / (2 * math.pi * deviation))
    x = _noise(1, 1, 96, 80).double()
    expected = x[0, 0].numpy() - gaussian_filter(x[0, 0].numpy(), deviation, truncate=8, mode="constant")
    margin = 40 if level == 8 else 24
    inner = (slice(margin, -margin), slice(margin, -margin)) if level < 8 else (slice(40, 56), slice(39, 41))
    found = high_pass(x, level)[0, 0]
    torch.testing.assert_close(found[inner], torch.from_numpy(expected)[inner], rtol=0, atol=1e-5)


def test_level_zero_is_the_image_and_a_constant_has_no_high_frequencies_up_to_its_edges() -> None:
    x = _noise(1, 2, 16, 16)
    assert torch.equal(high_pass(x, 0), x)
    assert level_cutoff(0) == 0
    mask = torch.ones(1, 1, 16, 16)
    mask[..., :5, 3:9] = 0
    for level in (1, 8):
        assert high_pass(torch.full_like(x, 7.0), level).abs().max() < 1e-5
        held = high_pass(torch.where(mask > 0, 7.0, torch.nan), level, mask)
        assert held.abs().max() < 1e-5
    with pytest.raises(ValueError, match="run from 0 to 8, got 9"):
        high_pass(x, 9)


def test_levels_take_off_more_the_finer_they_are() -> None:
    wave = _wave(4, 0, 64)
    powers = [high_pass(wave, level).square().mean().item() for level in range(1, 9)]
    assert powers == sorted(powers)
    assert powers[0] < 0.1 * wave.square().mean()
    assert powers[-1] > 0.9 * wave.square().mean()


def test_identical_sets_are_nowhere_apart_and_halves_leave_the_floor() -> None:
    tiles = _noise(80, 1, 32, 32) * 0.3
    backends = fit_levels(RandomConv(1, dims=3), tiles[:40], levels=3)
    same = level_distances(tiles, tiles, backends)
    assert max(map(abs, same.frechet)) < 1e-6
    assert same.cutoff == [level_cutoff(k) for k in range(4)]
    assert same.names[2] == "random-conv-v1-seed0-1band-3d-level2"
    floor = level_distances(tiles[:40], tiles[40:], backends)
    coarse = _wave(1, 1) * _noise(40, 1, 1, 1, seed=5) * 0.3
    moved = level_distances(tiles[:40], tiles[40:] + coarse, backends)
    assert moved.frechet[0] > 3 * floor.frechet[0]
    assert moved.frechet[1] < 2 * floor.frechet[1]
    assert moved.kernel[0] > 3 * abs(floor.kernel[0])


def test_a_backend_that_cannot_be_fitted_serves_every_level_and_one_that_can_needs_tiles() -> None:
    class Means:
        name, in_bands, digest = "means", 1, "0"

        def describe(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
            return images.flatten(1)[:, :4]

    backend = Means()
    assert fit_levels(backend, levels=2) == [backend] * 3
    with pytest.raises(ValueError, match="standardised on real tiles; give them"):
        fit_levels(RandomConv(1))


def test_a_band_is_a_disc_around_a_wave_and_one_around_its_mirror_image() -> None:
    found = band_mask((16, 32), [(4 / 32, -2 / 16)], radius=1.01 / 32)
    expected = torch.zeros(16, 32, dtype=torch.bool)
    expected[-2, 3:6] = expected[2, [-3, -4, -5]] = True
    assert torch.equal(found, expected)
