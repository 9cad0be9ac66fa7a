from __future__ import annotations

import pytest
import torch

from rsgeo_gan.losses import PairLoss
from rsgeo_gan.models import UNetGenerator, collecting


def _frozen(depth: int) -> UNetGenerator:
    """A float64 generator with frozen norms: differences then stem from geometry alone."""
    torch.manual_seed(0)
    generator = UNetGenerator(2, 1, width=4, depth=depth).double().eval()
    with collecting(generator):
        generator(torch.randn(4, 2, 48, 48, dtype=torch.float64))
    return generator.requires_grad_(False)


@pytest.mark.parametrize("size", [(64, 48), (37, 41), (8, 8), (3, 70), (1, 2)])
def test_any_size_keeps_its_shape(size: tuple[int, int]) -> None:
    y = UNetGenerator(3, 2, width=4, depth=4)(torch.rand(2, 3, *size))
    assert y.shape == (2, 2, *size)
    assert y.abs().max() <= 1


def test_wrong_band_count_and_too_little_depth_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 4, H, W\), got \(1, 3, 8, 8\)"):
        UNetGenerator(4, 1, width=4, depth=2)(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="depth of at least 2, got 1"):
        UNetGenerator(4, 1, depth=1)


def test_channels_double_up_to_eight_times_as_in_the_literature() -> None:
    generator = UNetGenerator(4, 2, width=64, depth=8)
    assert [down.conv.out_channels for down in generator.downs] == [64, 128, 256, 512, 512, 512, 512, 512]


@pytest.mark.parametrize("depth", [2, 3])
def test_receptive_radius_is_exact(depth: int) -> None:
    """Large spoils of either sign are needed to see the last pixel: ReLUs may hide single paths."""
    generator = _frozen(depth)
    radius, stride = generator.receptive_radius_px, generator.stride
    size = 2 * stride * (radius // stride + 2)
    x = torch.randn(2, 2, stride, size, dtype=torch.float64)
    reach = 0
    for column in range(size // 2 - stride, size // 2 + stride):
        spoiled = x.clone()
        spoiled[..., column] += 50.0
        moved = (generator(spoiled) != generator(x)).any(dim=(0, 1, 2)).nonzero().flatten()
        reach = max(reach, int((moved - column).abs().max()))
    assert reach == radius


@pytest.mark.parametrize("masked", [False, True])
def test_windows_with_halo_equal_the_whole_scene(masked: bool) -> None:
    generator = _frozen(3)
    h, w, tile = 70, 93, 32  # not multiples of the stride
    halo = -(-generator.receptive_radius_px // generator.stride) * generator.stride
    scene = torch.randn(1, 2, h, w, dtype=torch.float64)
    mask = (torch.rand(1, 1, h, w) > 0.2).double() if masked else None
    whole = generator(scene, mask)
    tiled = torch.full_like(whole, torch.nan)
    for r in range(0, h, tile):
        for c in range(0, w, tile):
            r0, c0 = max(0, r - halo), max(0, c - halo)
            window = (..., slice(r0, r + tile + halo), slice(c0, c + tile + halo))
            y = generator(scene[window], None if mask is None else mask[window])
            tiled[..., r : r + tile, c : c + tile] = y[..., r - r0 : r - r0 + tile, c - c0 : c - c0 + tile]
    torch.testing.assert_close(tiled, whole, atol=1e-6, rtol=0)


def test_what_lies_under_the_mask_changes_nothing() -> None:
    torch.manual_seed(0)
    generator = UNetGenerator(2, 1, width=4, depth=3).eval()
    x = torch.rand(2, 2, 30, 34)
    mask = torch.ones(2, 1, 30, 34)
    mask[..., 5:17, 8:29] = 0
    spoiled = torch.where(mask > 0, x, torch.tensor(torch.nan))
    assert torch.equal(generator(x, mask), generator(spoiled, mask))


def test_a_tile_of_pure_nodata_gives_finite_values() -> None:
    made = UNetGenerator(2, 1, width=4, depth=3)(torch.full((1, 2, 16, 16), torch.nan), torch.zeros(1, 1, 16, 16))
    assert made.isfinite().all()


def test_dropout_is_noise_to_learn_and_off_to_evaluate() -> None:
    torch.manual_seed(0)
    generator, x = UNetGenerator(2, 1, width=4, depth=4), torch.rand(1, 2, 32, 32)
    assert not torch.equal(generator(x), generator(x))
    generator.eval()
    assert torch.equal(generator(x), generator(x))


def test_a_flat_image_comes_out_without_a_checkerboard() -> None:
    generator = _frozen(4)
    y = generator(torch.full((1, 2, 96, 96), 0.3, dtype=torch.float64))
    assert float(y.amax() - y.amin()) < 1e-9


def _full(depth: int = 3) -> UNetGenerator:
    torch.manual_seed(0)
    return UNetGenerator(2, 1, width=4, depth=depth, noise_channels=2, direct_channels=3).eval()


def test_the_direct_path_tells_how_bright_a_patch_is() -> None:
    """Normalisation takes the mean of a patch away; a constant more must still show."""
    torch.manual_seed(0)
    x = torch.rand(1, 2, 32, 32) * 0.2
    with torch.no_grad():
        generator = _full()
        for layer in (generator.direct.first, generator.direct.second):
            layer.weight.abs_()
        moved = (generator(x + 0.5) - generator(x)).abs().mean()
        generator.direct.merge.weight[:, 4:] = 0
        without = (generator(x + 0.5) - generator(x)).abs().mean()
    assert moved > 2 * without


def test_garbage_under_the_mask_does_not_reach_the_direct_path() -> None:
    generator, x = _full(), torch.rand(1, 2, 24, 24)
    mask = torch.ones(1, 1, 24, 24)
    mask[..., 5:17, 8:20] = 0
    assert torch.equal(generator(x, mask), generator(torch.where(mask > 0, x, torch.tensor(torch.nan)), mask))


def test_speckle_is_drawn_only_from_noise_that_is_given() -> None:
    generator, x = _full(), torch.rand(1, 2, 20, 28)
    still = generator(x)
    drawn = [generator(x, noise=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(still, generator(x))
    torch.testing.assert_close(drawn[0], generator.speckled(still, torch.Generator().manual_seed(1)))
    with pytest.raises(ValueError, match=r"UNetGenerator: expected noise \(1, 2, 20, 28\)"):
        generator(x, noise=torch.zeros(1, 1, 20, 28))


def test_the_encoder_is_the_generators_own_first_two_downs() -> None:
    generator, x = _full(), torch.rand(2, 2, 32, 32)
    features = generator.encoder(x, ("down1", "down2"))
    first = generator.downs[0](x, None)
    torch.testing.assert_close(features["down1"], first)
    torch.testing.assert_close(features["down2"], generator.downs[1](first, None))
    assert {id(p) for p in generator.encoder.parameters()} < {id(p) for p in generator.parameters()}
    with pytest.raises(ValueError, match="taps out of"):
        generator.encoder(x, ("down3",))


@pytest.mark.parametrize("antialias", [False, True])
def test_a_tap_depends_on_as_many_pixels_as_it_says(antialias: bool) -> None:
    generator = _frozen(3)
    encoder = generator.encoder
    x = torch.randn(1, 2, 4, 64, dtype=torch.float64)
    for tap in encoder.stages:
        radius, stride = encoder.tap_radius_px(tap, antialias=antialias), encoder.tap_stride(tap)
        cell = 32 // stride
        reach = set()
        for column in range(64):
            spoiled = x.clone()
            spoiled[..., column] += 50.0
            if not torch.equal(
                encoder(spoiled, (tap,), antialias=antialias)[tap][..., cell],
                encoder(x, (tap,), antialias=antialias)[tap][..., cell],
            ):
                reach.add(column - 32)
        assert max(map(abs, reach)) == radius


def test_the_pair_loss_compares_features_of_a_unet() -> None:
    torch.manual_seed(0)
    forth = UNetGenerator(2, 1, width=4, depth=3)
    back = UNetGenerator(1, 2, width=4, depth=3)
    loss = PairLoss()
    loss.attach(forth, back)
    source, target = torch.rand(2, 2, 32, 32), torch.rand(2, 1, 32, 32)
    terms = loss(source, target, back(target), forth(source))
    terms["pair"].backward()
    assert all(p.grad is not None for p in back.head.parameters())
    assert float(loss(source, target, source, target)["pair"]) == 0
