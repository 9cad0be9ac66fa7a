from __future__ import annotations

import math

import pytest
import torch

from rsgeo_gan.losses import total_variation
from rsgeo_gan.metrics import feature_cosine, low_pass_share, out_of_range


def wave(cycles: float, size: int = 32) -> torch.Tensor:
    column = torch.arange(size) * (2 * math.pi * cycles / size)
    return torch.cos(column).expand(1, 1, size, size).clone()


def test_only_low_frequencies_count_and_scale() -> None:
    base = wave(2)
    assert float(low_pass_share(0.3 * base, base)) == pytest.approx(0.3, rel=1e-5)
    assert float(low_pass_share(wave(10), base)) < 1e-4
    both = low_pass_share(0.3 * base + wave(10), base + wave(12))
    assert float(both) == pytest.approx(0.3, rel=1e-4)


def test_the_mean_is_a_low_frequency_and_nothing_added_is_a_share_of_zero() -> None:
    assert float(low_pass_share(torch.ones(1, 2, 16, 16), 4 * torch.ones(1, 2, 16, 16))) == pytest.approx(0.25)
    nothing = torch.zeros(1, 1, 16, 16)
    assert float(low_pass_share(nothing, wave(1, 16))) == 0.0
    assert float(low_pass_share(nothing, nothing)) == 0.0
    assert math.isinf(float(low_pass_share(wave(1, 16), nothing)))


def test_a_share_needs_images_of_one_shape_and_a_frequency_below_nyquist() -> None:
    with pytest.raises(ValueError, match="two images of one shape"):
        low_pass_share(wave(1), wave(1, 16))
    with pytest.raises(ValueError, match=r"0 < below <= 0\.5 cycles per pixel, got 0\.7"):
        low_pass_share(wave(1), wave(1), below=0.7)


def test_values_out_of_range_are_counted_where_they_are_valid() -> None:
    image = torch.tensor([0.0, 1.0, 1.5, -2.0]).view(1, 1, 2, 2)
    assert float(out_of_range(image)) == 0.5
    assert float(out_of_range(image, torch.tensor([1.0, 1.0, 1.0, 0.0]).view(1, 1, 2, 2))) == pytest.approx(1 / 3)
    assert float(out_of_range(image, torch.zeros(1, 1, 2, 2))) == 0.0


def test_identity_is_a_cosine_pair_by_pair() -> None:
    one = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    other = torch.tensor([[3.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert feature_cosine(one, other).tolist() == [1.0, 0.0, 0.0]
    with pytest.raises(ValueError, match="two sets of features"):
        feature_cosine(one, other[:2])


def test_squared_variation_is_the_slope_squared_and_blind_to_an_added_constant() -> None:
    slope = (0.1 * torch.arange(8.0)).expand(1, 2, 8, 8)
    assert float(total_variation(slope, squared=True)) == pytest.approx(0.01, rel=1e-5)
    assert float(total_variation(slope)) == pytest.approx(0.1, rel=1e-5)
    torch.testing.assert_close(total_variation(slope + 0.7, squared=True), total_variation(slope, squared=True))
    assert float(total_variation(torch.full((1, 1, 8, 8), 0.3), squared=True)) == 0.0
    mask = torch.ones(1, 1, 8, 8)
    mask[..., 3] = 0
    spoiled = torch.where(mask > 0, slope, torch.tensor(float("nan")))
    assert float(total_variation(spoiled, mask, squared=True)) == pytest.approx(0.01, rel=1e-5)
