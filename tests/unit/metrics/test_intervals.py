from __future__ import annotations

import pytest
import torch

from rsgeo_gan.metrics import frechet_distance, halved, kernel_distance, per_class


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _gap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (b.mean(dim=0) - a.mean(dim=0)).sum()


def test_the_interval_is_that_of_a_difference_of_means() -> None:
    """Standard error of the difference of two means of 100 numbers of variance 1: √(2 / 100)."""
    found = halved(_gap, _noise(100, 1), 2 + _noise(100, 1, seed=1), draws=400)
    exact = _gap(_noise(100, 1), 2 + _noise(100, 1, seed=1))
    assert found.images == 50
    assert found.value == pytest.approx(float(exact), abs=0.03)
    assert found.std == pytest.approx((2 / 100) ** 0.5, rel=0.15)
    assert (found.high - found.low) / found.std == pytest.approx(2 * 1.96, rel=1e-3)


def test_two_halves_of_the_real_set_are_apart_by_the_bias_of_their_number_only() -> None:
    real = _noise(80, 6)
    assert halved(frechet_distance, real).value == pytest.approx(6 * 11 / (2 * 40), rel=0.35)
    kernel = halved(kernel_distance, real)
    assert kernel.low < 0 < kernel.high
    assert halved(kernel_distance, real, real + 1).low > kernel.high


def test_draws_repeat_with_their_seed_and_leave_out_images_without_features() -> None:
    real, fake = _noise(20, 2), _noise(12, 2, seed=1)
    first = halved(_gap, real, fake, seed=3)
    assert first == halved(_gap, torch.cat([real, torch.full((1, 2), torch.nan)]), fake, seed=3)
    assert first != halved(_gap, real, fake, seed=4)
    assert first.images == 6
    with pytest.raises(ValueError, match="at least 4 images with features in each set and 2 draws, got 3 and 20"):
        halved(_gap, real, fake[:3])


def test_classes_are_scored_by_themselves() -> None:
    real, fake = _noise(6, 2), torch.cat([_noise(6, 2)[:3] + 5, _noise(6, 2)[3:]])
    labels = torch.tensor([4, 4, 4, 9, 9, 9])
    found = per_class(frechet_distance, real, labels, fake, labels)
    assert list(found) == [4, 9]
    assert float(found[4]) == pytest.approx(2 * 25)
    assert float(found[9]) == pytest.approx(0, abs=1e-6)
    swapped = per_class(_gap, real, labels, fake.flip(0), labels.flip(0))
    assert swapped == {4: pytest.approx(_gap(real[:3], fake[:3])), 9: pytest.approx(0, abs=1e-6)}


def test_classes_without_counterpart_are_left_out_and_none_at_all_is_refused() -> None:
    x = _noise(5, 2)
    labels, others = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 0, 2, 2])
    assert list(per_class(_gap, x, labels, x, others)) == [0]
    with pytest.raises(ValueError, match="at least 2 real and fake images, got real labels"):
        per_class(_gap, x, labels, x, labels + 7)
    with pytest.raises(ValueError, match="one label per fake image, got labels"):
        per_class(_gap, x, labels, x, labels[:3])
