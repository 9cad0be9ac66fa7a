from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from rsgeo_gan.models.modulated import (
    ModulatedConv,
    ScaledConv,
    ScaledLinear,
    minibatch_deviation,
    noise_key,
    seeded_noise,
)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.mark.parametrize("demodulate", [True, False])
def test_modulation_is_a_convolution_with_weights_of_each_samples_own(demodulate: bool) -> None:
    conv = ModulatedConv(3, 5, 4, demodulate=demodulate)
    x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 4)
    for one, style, got in zip(x, conv.style(w), conv(x, w), strict=True):
        weight = conv.weight * style[None, :, None, None] / math.sqrt(3 * 9)
        if demodulate:
            weight = F.normalize(weight.flatten(1), dim=1).view_as(weight)
        around = F.pad(one[None], (1, 1, 1, 1), mode="replicate")
        torch.testing.assert_close(got, F.conv2d(around, weight)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size_px", [None, 32])
def test_demodulated_maps_have_unit_variance_whatever_the_style(size_px: int | None) -> None:
    conv = ModulatedConv(64, 64, 8, size_px=size_px)
    # White maps stay white without doubling; interpolation of white noise keeps (5/8)² of its variance.
    expected = 1.0 if size_px is None else (5 / 8) ** 2
    for scale in (0.1, 1.0, 30.0):
        variance = conv(torch.randn(4, 64, 32, 32), scale * torch.randn(4, 8))[..., 2:-2, 2:-2].var()
        assert float(variance) == pytest.approx(expected, rel=0.08)


def test_a_style_that_scales_all_channels_changes_nothing() -> None:
    conv = ModulatedConv(3, 5, 4)
    nn.init.zeros_(conv.style.weight)
    x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 4)
    before = conv(x, w)
    nn.init.constant_(conv.style.bias, 7.0)
    torch.testing.assert_close(conv(x, w), before)


def test_the_gain_multiplies() -> None:
    for demodulate in (True, False):
        conv = ModulatedConv(3, 5, 4, demodulate=demodulate)
        x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 4)
        torch.testing.assert_close(conv(x, w, gain=3.0), 3 * conv(x, w))


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_scaled_layers_keep_the_second_moment(rate: float) -> None:
    x = torch.randn(512, 256)
    assert float(ScaledLinear(256, 128, rate=rate)(x).var()) == pytest.approx(1, rel=0.05)
    assert float(ScaledLinear(256, 128, rate=rate, activation=True)(x).square().mean()) == pytest.approx(1.04, rel=0.05)
    maps = torch.randn(4, 64, 24, 24)
    assert float(ScaledConv(64, 64)(maps)[..., 1:-1, 1:-1].square().mean()) == pytest.approx(1.04, rel=0.05)


def test_the_rate_scales_how_far_a_step_moves_the_output() -> None:
    moved = {}
    for rate in (1.0, 0.01):
        torch.manual_seed(0)
        layer, x = ScaledLinear(8, 1, rate=rate), torch.ones(1, 8)
        before = layer(x).item()
        for parameter in layer.parameters():
            parameter.add_(0.5)
        moved[rate] = layer(x).item() - before
    assert moved[0.01] == pytest.approx(0.01 * moved[1.0], rel=1e-3)


def test_equal_samples_have_no_deviation() -> None:
    x = torch.randn(1, 3, 4, 4).expand(4, -1, -1, -1)
    out = minibatch_deviation(x)
    assert torch.equal(out[:, :3], x)
    torch.testing.assert_close(out[:, 3:], torch.full((4, 1, 4, 4), 1e-4))


@pytest.mark.parametrize(("count", "group", "groups"), [(8, 4, 2), (6, 4, 2), (4, 2, 2), (5, 4, 1), (1, 4, 1)])
def test_deviation_is_that_of_each_group(count: int, group: int, groups: int) -> None:
    # Samples of one group are `groups` places apart; each group is spread by another amount.
    spread = torch.arange(count) % groups + 1.0
    sign = torch.where(torch.arange(count) // groups % 2 == 0, 1.0, -1.0)
    got = minibatch_deviation((spread * sign)[:, None, None, None].expand(-1, 2, 3, 3), group)[:, 2, 0, 0]
    size = count // groups
    values = sign.view(size, groups)[:, 0]
    torch.testing.assert_close(got, (spread.square() * values.var(correction=0) + 1e-8).sqrt())


def test_seeded_noise_is_normal_and_white() -> None:
    noise = seeded_noise(noise_key(torch.randn(16, 8)), 0, 32)
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    for shift, dim in ((1, 2), (1, 3), (7, 3)):
        assert abs(float((noise * noise.roll(shift, dim)).mean())) < 4 / math.sqrt(noise.numel())


def test_seeded_noise_depends_on_latent_layer_and_pixel_alone() -> None:
    z = torch.randn(3, 8)
    z[1] = z[0] + torch.tensor([1e-6, *[0.0] * 7])
    z[2] = z[0].flip(0)
    noise = seeded_noise(noise_key(z), 0, 16)
    assert torch.equal(noise[1:2], seeded_noise(noise_key(z[1:2]), 0, 16))
    fields = torch.cat([noise, seeded_noise(noise_key(z), 1, 16)]).flatten(1)
    assert torch.corrcoef(fields).triu(1).abs().max() < 0.25
