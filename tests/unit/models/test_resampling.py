from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import upfirdn
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan.models.resampling import BINOMIAL, LINEAR, Fir, double_by


def maps(size: int, channels: int = 2) -> Tensor:
    return torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [4, 7, 32])
def test_doubling_by_the_even_filter_is_linear_interpolation_between_cell_centres(size: int) -> None:
    expected = F.interpolate(maps(size), scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(Fir.doubling(size)(maps(size)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [4, 10, 32])
def test_halving_by_the_even_filter_is_antialiased_linear_interpolation(size: int) -> None:
    expected = F.interpolate(maps(size), scale_factor=0.5, mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(Fir.halving(size)(maps(size))[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


@pytest.mark.parametrize("taps", [BINOMIAL, LINEAR, (1.0, 4.0, 6.0, 4.0, 1.0)])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_zeros_past_the_edge_give_the_convolution_of_the_literature(
    taps: tuple[float, ...], up: int, down: int
) -> None:
    n = 9
    fir = Fir(n, taps, up=up, down=down, pad=(len(taps) - 1, len(taps) - 1), edge="zero")
    kernel = np.array(taps) / sum(taps) * up
    image = maps(n, 1)
    # The full convolution also has the outputs of the zeros inserted after the last sample: none is used here.
    columns = upfirdn(kernel, image[0, 0].double().numpy(), up, down, axis=1)
    expected = upfirdn(kernel, columns, up, down, axis=0)
    got = fir(image)[0, 0].numpy()
    np.testing.assert_allclose(got[: len(expected), : len(expected)], expected[: len(got), : len(got)], atol=1e-6)


def test_the_odd_filter_keeps_coarse_cells_on_even_fine_ones() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    torch.testing.assert_close(Fir.doubling(8, LINEAR)(ramp)[..., ::2], ramp.repeat_interleave(2, dim=2))
    torch.testing.assert_close(Fir.halving(8, LINEAR)(ramp)[0, 0, 0, 1:], torch.tensor([2.0, 4.0, 6.0]))


@pytest.mark.parametrize("taps", [BINOMIAL, LINEAR])
def test_the_highest_frequency_does_not_alias(taps: tuple[float, ...]) -> None:
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16)
    assert Fir.halving(16, taps)(stripes)[..., 1:-1].abs().max() < 1e-6
    assert Fir.halving(16, taps)(stripes.mT)[..., 1:-1, :].abs().max() < 1e-6


@pytest.mark.parametrize("size", [4, 9])
def test_doubling_and_convolving_at_once_is_one_after_the_other(size: int) -> None:
    image, weight = maps(size, 3), torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    fine = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    expected = F.conv2d(F.pad(fine, (1, 1, 1, 1), mode="replicate"), weight)
    got = double_by(weight.flip(2, 3), image, Fir.smoothing(size))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
