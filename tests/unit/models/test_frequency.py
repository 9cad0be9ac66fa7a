from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rsgeo_gan.metrics import high_frequency_ratio
from rsgeo_gan.models import (
    FrequencyShifted,
    StyleGenerator,
    SynthesisGenerator,
    from_ground,
    shift_frequency,
    swap_spectrum,
)

few = settings(max_examples=25, deadline=None)
sizes = st.sampled_from([8, 16, 24])


def _noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _field(origin_px: Tensor, bands: int, size: int, step: int) -> Tensor:
    """Smooth latent field over a raster, cut at each origin: cell i lies on pixel step * i."""
    place = [origin_px[:, k, None].double() + step * torch.arange(size // step) for k in (0, 1)]
    waves = [torch.cos(0.05 * (b + 1) * place[0][:, None] + 0.03 * b * place[1][:, :, None]) for b in range(bands)]
    return torch.stack(waves, dim=1)


class _Plane(SynthesisGenerator):
    """Image 0, or what the test says, and a field of the raster as its only features."""

    def __init__(self, bands: int = 2, size_px: int = 32, level: float = 0.0) -> None:
        super().__init__(bands, size_px, 3, 0)
        self.tap_channels = {f"b{size_px // 4}": 3}
        self.level = nn.Parameter(torch.tensor(level))

    def forward_features(
        self, z: Tensor, condition: Tensor | None = None, taps: Sequence[str] = (), origin_px: Tensor | None = None
    ) -> dict[str, Tensor]:
        self._check(z, condition, taps)
        at = torch.zeros(len(z), 2, dtype=torch.int64) if origin_px is None else origin_px
        field = _field(at, 3, self.size_px, 4).to(z.dtype) * z[:, :, None, None]
        image = self.level.expand(len(z), self.out_channels, self.size_px, self.size_px)
        return {tap: field for tap in taps} | {"_image": image}

    def forward_head(self, features: Mapping[str, Tensor]) -> Tensor:
        return features["_image"]


def _grown(network: FrequencyShifted, seed: int = 0) -> FrequencyShifted:
    """Give the heads, which begin at zero, something to say."""
    with torch.no_grad():
        network.heads.weight.copy_(0.02 * _noise(*network.heads.weight.shape, seed=seed))
    return network


def _constant(network: FrequencyShifted, values: Sequence[float]) -> FrequencyShifted:
    """Let every head say one constant per part: real and imaginary of each band."""
    with torch.no_grad():
        assert network.heads.bias is not None
        network.heads.bias.copy_(torch.tensor(values))
    return network


@few
@given(sizes, sizes, st.integers(0, 2**31 - 1))
def test_the_swap_rolls_the_spectrum_by_half_and_undoes_itself(h: int, w: int, seed: int) -> None:
    x = _noise(2, 3, h, w, seed=seed)
    swapped = swap_spectrum(x)
    assert torch.equal(swap_spectrum(swapped), x)
    rolled = torch.roll(torch.fft.fft2(x), (h // 2, w // 2), dims=(2, 3))
    torch.testing.assert_close(torch.fft.fft2(swapped), rolled, rtol=0, atol=1e-10)


@few
@given(sizes, sizes, st.integers(-4, 4), st.integers(-4, 4), st.integers(0, 2**31 - 1))
def test_a_shift_by_whole_bins_rolls_the_spectrum(h: int, w: int, kx: int, ky: int, seed: int) -> None:
    a, b = _noise(2, 1, 2, h, w, seed=seed)
    real, imaginary = shift_frequency(a, b, (kx / w, ky / h))
    spectrum = torch.fft.fft2(torch.complex(a, b))
    rolled = torch.roll(spectrum, (ky, kx), dims=(2, 3))
    torch.testing.assert_close(torch.fft.fft2(torch.complex(real, imaginary)), rolled, rtol=0, atol=1e-10)
    # The real part alone holds the moved band and its mirror image, half each.
    mirror = torch.roll(rolled.flip(2, 3), (1, 1), dims=(2, 3)).conj()
    torch.testing.assert_close(torch.fft.fft2(real), (rolled + mirror) / 2, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("frequency", "bin_"), [((0.25, 0.0), (0, 8)), ((0.0, 0.25), (8, 0)), ((-0.25, 0.125), (4, 24))]
)
def test_the_first_frequency_runs_along_columns(frequency: tuple[float, float], bin_: tuple[int, int]) -> None:
    ones = torch.ones(1, 1, 32, 32, dtype=torch.float64)
    real, imaginary = shift_frequency(ones, torch.zeros_like(ones), frequency)
    power = torch.fft.fft2(torch.complex(real, imaginary))[0, 0].abs()
    assert tuple(int(i) for i in torch.unravel_index(power.argmax(), power.shape)) == bin_
    assert power.sum().item() == pytest.approx(32 * 32)


@few
@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.integers(0, 10**7), st.integers(0, 10**7), st.integers(-6, 6))
def test_overlapping_tiles_carry_one_wave(fx: float, fy: float, column: int, row: int, step: int) -> None:
    ones = torch.ones(2, 1, 12, 12)
    origins = torch.tensor([[column, row], [column + 6, row + step]])
    parts = shift_frequency(ones, 0.5 * ones, (fx, fy), origins)
    for part in (*parts, swap_spectrum(ones, origins)):
        first, second = (
            part[0, :, max(0, step) : 12 + min(0, step), 6:],
            part[1, :, max(0, -step) : 12 - max(0, step), :6],
        )
        torch.testing.assert_close(first, second, rtol=0, atol=2e-6)


def test_origins_at_whole_periods_change_nothing_and_others_do() -> None:
    ones = torch.ones(1, 1, 16, 16)
    plain = shift_frequency(ones, ones, (1 / 16, -1 / 16))[0]
    for origin, same in (([160, 32], True), ([8, 0], False), ([0, 1], False)):
        moved = shift_frequency(ones, ones, (1 / 16, -1 / 16), torch.tensor([origin]))[0]
        assert torch.allclose(plain, moved, atol=1e-6) == same


def test_masks_hide_after_the_shift() -> None:
    x, mask = _noise(1, 2, 4, 4), torch.ones(1, 1, 4, 4)
    mask[..., 2, 1] = 0
    holed = x.clone()
    holed[..., 2, 1] = torch.nan
    for found, clean in (
        (swap_spectrum(holed, mask=mask), swap_spectrum(x)),
        *zip(shift_frequency(holed, holed, (0.1, 0.2), mask=mask), shift_frequency(x, x, (0.1, 0.2)), strict=True),
    ):
        torch.testing.assert_close(found, clean * mask, rtol=0, atol=0)


def test_without_anything_in_the_branches_the_image_is_the_base_alone() -> None:
    torch.manual_seed(0)
    base = StyleGenerator(3, 16, width=4, latent_dim=8, noise=False, mixing=0)
    network, z = FrequencyShifted(base, width=4), torch.randn(3, 8)
    assert torch.equal(network(z), base(z))
    image = 3 * network.base(z)
    assert image.abs().max() > 1
    (pull,) = torch.autograd.grad(network(z).sum(), base.blocks[-1].bias)
    (alone,) = torch.autograd.grad(base(z).sum(), base.blocks[-1].bias)
    torch.testing.assert_close(pull, alone)


def test_the_control_adds_the_real_parts_where_they_are_and_moves_no_imaginary_part() -> None:
    network = _constant(
        FrequencyShifted(_Plane(level=0.5), [[0.25, 0], [0, 0.25]], width=4, shift=False, activation="tanh"),
        [0.1, 0.2, 3.0, 3.0, 0.3, 0.4, 3.0, 3.0],
    )
    image = network(torch.ones(1, 3))
    expected = 0.5 + torch.tensor([[0.1, 0.2], [0.3, 0.4]]).tanh().sum(dim=0)
    torch.testing.assert_close(image, expected.view(1, 2, 1, 1).expand_as(image))
    image.square().sum().backward()
    gradient = network.heads.bias.grad.view(2, 2, 2)  # type: ignore[union-attr]
    assert (gradient[:, 0] != 0).all()
    assert (gradient[:, 1] == 0).all()
    twin = FrequencyShifted(_Plane(), [[0.25, 0], [0, 0.25]], width=4)
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in network.parameters())


def test_a_constant_branch_is_a_single_pair_of_lines() -> None:
    network = _constant(FrequencyShifted(_Plane(bands=1), [[3 / 32, -5 / 32]], width=4).double(), [0.3, 0.4])
    power = torch.fft.fft2(network(_noise(1, 3)))[0, 0].abs() / 32**2
    lines = torch.zeros(32, 32, dtype=torch.float64)
    lines[-5, 3] = lines[5, -3] = math.hypot(0.3, 0.4) / 2
    torch.testing.assert_close(power, lines, rtol=0, atol=1e-8)


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_tiles_of_one_raster_agree_where_they_overlap(upsample: str) -> None:
    waves = [[0.11, 0.03], [-0.21, 0.4]]
    network = _grown(FrequencyShifted(_Plane(), waves, width=4, upsample=upsample).double())  # type: ignore[arg-type]
    z = _noise(1, 3).expand(2, -1)
    left, right = network(z, origin_px=torch.tensor([[1000, 36], [1012, 40]]))
    # Edges of tiles see less of the field than the middle does.
    left, right = left[:, 4 + 8 : -8, 12 + 8 : -8], right[:, 8 : -4 - 8, 8 : -12 - 8]
    assert left.std() > 0.01
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
    unlike = network(z, origin_px=torch.tensor([[1000, 36], [1001, 36]]))
    assert (unlike[0] - unlike[1]).abs().max() > 0.01


def test_nearest_resampling_leaves_combs_that_bilinear_resampling_lowers() -> None:
    found = {}
    for upsample in ("nearest", "bilinear"):
        network = _grown(FrequencyShifted(_Plane(bands=1), [[0.0, 0.0]], width=4, upsample=upsample))  # type: ignore[arg-type]
        found[upsample] = high_frequency_ratio(network(torch.ones(1, 3))).item()
    assert found["bilinear"] < 0.2 * found["nearest"]


def test_linear_branches_stay_in_the_domain_unless_the_base_leaves_it() -> None:
    inside, outside = (
        _constant(FrequencyShifted(_Plane(bands=1, level=level), [[0.25, 0]], width=4), [3.0, 0.0])
        for level in (0.5, 1.5)
    )
    z = torch.ones(1, 3)
    assert inside(z).aminmax() == (-1, 1)
    assert outside(z).max() == 1.5
    assert outside(z).min() == -1


def test_the_wrapped_network_offers_what_the_base_offers() -> None:
    torch.manual_seed(0)
    base = StyleGenerator(2, 16, width=4, latent_dim=8, condition_dim=3)
    network = _grown(FrequencyShifted(base, width=4, norm="batch").eval())
    z, condition = network.draw(2), torch.ones(2, 3)
    assert (network.latent_dim, network.condition_dim, network.out_channels, network.size_px) == (8, 3, 2, 16)
    assert network.taps == base.taps == ("b4", "b8", "b16")
    features = network.forward_features(z, condition, ("b8",))
    assert features["b8"].shape == (2, network.tap_channels["b8"], 8, 8)
    assert "b4" not in features
    assert torch.equal(network.forward_head(features), network(z, condition))
    styled = network.forward_features(z, condition, styles=network.style(z, condition))
    assert torch.equal(network.forward_head(styled), network(z, condition))
    whole = network(z, condition)
    network.truncate(0.0)
    assert not torch.equal(network(z, condition), whole)
    assert torch.equal(copy.deepcopy(network)(z, condition), network(z, condition))
    assert not hasattr(network, "unknown")
    with pytest.raises(ValueError, match=r"unknown taps \['b32'\]; choose from \('b4', 'b8', 'b16'\)"):
        network.forward_features(z, condition, ("b32",))


def test_branches_are_computed_in_full_precision_under_autocast() -> None:
    network = _grown(FrequencyShifted(_Plane(), width=4))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(torch.ones(1, 3))
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, network(torch.ones(1, 3)), rtol=0, atol=0.02)


def test_frequencies_on_the_ground_become_cycles_per_pixel() -> None:
    assert from_ground(160, 10) == (1 / 16, 0)
    assert from_ground(160, 10, 90) == (0, 1 / 16)
    fx, fy = from_ground(100, 10, 135)
    assert math.hypot(fx, fy) == pytest.approx(0.1)
    assert fx == pytest.approx(-fy)
    network = FrequencyShifted(_Plane(), frequencies_per_m=[[1 / 160, 0], [0, -1 / 80]], gsd_m=10, width=4)
    assert network.frequencies == ((1 / 16, 0), (0, -1 / 8))
    assert FrequencyShifted(_Plane(), width=4).frequencies == (
        (1 / 16, 0),
        (0, 1 / 16),
        (1 / 16, 1 / 16),
        (-1 / 16, 1 / 16),
    )


def test_frequencies_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wave of 15 m needs pixels of at most 7.5 m, got a GSD of 10 m"):
        from_ground(15, 10)
    with pytest.raises(ValueError, match="expected lengths above 0"):
        from_ground(0, 10)
    ones = torch.ones(1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"within \[-0.5, 0.5\] cycles per pixel, got \[0.6, 0\].*radians"):
        shift_frequency(ones, ones, (0.6, 0))
    with pytest.raises(ValueError, match=r"a real and an imaginary part .* got \(1, 1, 4, 4\) and \(1, 4, 4\)"):
        shift_frequency(ones, ones[0], (0.5, 0))
    with pytest.raises(ValueError, match=r"integers \(column, row\) of shape \(1, 2\), got torch.float32 of \(1, 2\)"):
        swap_spectrum(ones, torch.zeros(1, 2))
    for twice in ([[0.1, 0.2], [-0.1, -0.2]], [[0.5, 0.25], [-0.5, 0.25]]):
        with pytest.raises(ValueError, match="are one band of a real image"):
            FrequencyShifted(_Plane(), twice)
    with pytest.raises(ValueError, match="at least one frequency"):
        FrequencyShifted(_Plane(), [])
    with pytest.raises(ValueError, match="either frequencies in cycles per pixel, or frequencies_per_m together with"):
        FrequencyShifted(_Plane(), frequencies_per_m=[[0.001, 0]])
    with pytest.raises(ValueError, match="gsd_m belongs to frequencies_per_m"):
        FrequencyShifted(_Plane(), gsd_m=10)
    with pytest.raises(ValueError, match=r"no tap 'b16'; choose from \('b8',\)"):
        FrequencyShifted(_Plane(), tap="b16")
    with pytest.raises(ValueError, match="give all frequencies to one network"):
        FrequencyShifted(FrequencyShifted(_Plane()))
