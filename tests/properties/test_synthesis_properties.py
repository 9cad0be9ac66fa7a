"""What holds for any filter, size, style and batch of the networks of image synthesis."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgeo_gan.models.modulated import ModulatedConv, minibatch_deviation
from rsgeo_gan.models.resampling import Fir
from rsgeo_gan.models.synthesis import channels_at, ladder

examples = settings(max_examples=30, deadline=None, derandomize=True)
sizes = st.integers(2, 20)
# Alternate entries of equal weight, as a doubling asks for: binomial filters.
filters = st.sampled_from([(1.0, 1.0), (1.0, 2.0, 1.0), (1.0, 3.0, 3.0, 1.0), (1.0, 4.0, 6.0, 4.0, 1.0)])


@examples
@given(size=sizes, taps=filters, level=st.floats(-1e3, 1e3))
def test_a_constant_stays_constant_at_twice_and_half_the_resolution(
    size: int, taps: tuple[float, ...], level: float
) -> None:
    tolerance = {"atol": 1e-5 * abs(level) + 1e-9, "rtol": 0}
    flat = torch.full((1, 1, 2 * size, 2 * size), level)
    torch.testing.assert_close(Fir.doubling(2 * size, taps)(flat), flat.repeat(1, 1, 2, 2), **tolerance)
    torch.testing.assert_close(Fir.halving(2 * size, taps)(flat), flat[..., :size, :size], **tolerance)


@examples
@given(size=sizes, taps=filters, seed=st.integers(0, 2**32 - 1))
def test_resampling_stays_within_the_range_of_its_input_and_knows_no_axis(
    size: int, taps: tuple[float, ...], seed: int
) -> None:
    x = torch.rand(1, 2, 2 * size, 2 * size, generator=torch.Generator().manual_seed(seed))
    for fir in (Fir.doubling(2 * size, taps), Fir.halving(2 * size, taps)):
        y = fir(x)
        assert x.min() - 1e-6 <= y.min() <= y.max() <= x.max() + 1e-6
        torch.testing.assert_close(fir(x.mT), y.mT)


@examples
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**32 - 1))
def test_demodulation_forgets_the_scale_of_input_channels(scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    conv = ModulatedConv(4, 3, 5)
    x, style = torch.randn(2, 4, 6, 6), torch.randn(2, 5)
    before = conv(x, style)
    with torch.no_grad():
        conv.style.weight *= scale
        conv.style.bias *= scale
    torch.testing.assert_close(conv(x, style), before, atol=1e-3, rtol=1e-2)


@examples
@given(count=st.integers(1, 12), group=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_deviation_scales_with_the_batch_and_ignores_a_common_offset(count: int, group: int, seed: int) -> None:
    x = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    plain = minibatch_deviation(x, group)[:, 3]
    torch.testing.assert_close(minibatch_deviation(3 * x + 7, group)[:, 3], 3 * plain, atol=1e-3, rtol=1e-3)
    assert (plain >= 1e-4 * (1 - 1e-3)).all()


@examples
@given(base=st.integers(4, 7), doublings=st.integers(1, 5), width=st.integers(1, 64), most=st.integers(1, 512))
def test_resolutions_double_and_widths_halve(base: int, doublings: int, width: int, most: int) -> None:
    size = base * 2**doublings
    steps = ladder(size)
    assert steps == tuple(base * 2**n for n in range(doublings + 1))
    channels = channels_at(size, width, most)
    assert tuple(channels) == steps
    assert channels[size] == min(width, most)
    assert all(channels[a] in (2 * channels[b], most) for a, b in pairwise(steps))
