from __future__ import annotations

import pytest
import torch

from rsgeo_gan.metrics import enl
from rsgeo_gan.models import ResNetEncoder, ResNetGenerator, UpBlock, collecting


def _frozen(**settings: object) -> ResNetGenerator:
    """A float64 generator with frozen norms: differences then stem from geometry alone."""
    torch.manual_seed(0)
    generator = ResNetGenerator(2, 1, width=4, **settings).double()  # type: ignore[arg-type]
    with collecting(generator):
        generator(torch.randn(4, 2, 48, 48, dtype=torch.float64))
    return generator.requires_grad_(False)


@pytest.mark.parametrize("size", [(64, 48), (37, 41), (13, 64), (4, 4), (3, 5), (1, 2)])
def test_any_size_keeps_its_shape(size: tuple[int, int]) -> None:
    generator = ResNetGenerator(3, 2, width=4, blocks=1)
    y = generator(torch.rand(2, 3, *size))
    assert y.shape == (2, 2, *size)
    assert y.abs().max() <= 1


def test_wrong_band_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 4, H, W\), got \(1, 3, 8, 8\)"):
        ResNetGenerator(4, 1, width=4, blocks=0)(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    "settings",
    [{"blocks": 0}, {"blocks": 1}, {"blocks": 2, "antialias": False}],
    ids=["no blocks", "one block", "two blocks, plain strides"],
)
def test_receptive_radius_is_exact(settings: dict[str, object]) -> None:
    """A wave of sign flips is needed to see the last pixel: ReLUs may hide single paths."""
    generator = _frozen(**settings)
    radius = generator.receptive_radius_px
    size = 4 * (radius // 2 + 4)
    x = torch.randn(1, 2, 8, size, dtype=torch.float64)
    reach = 0
    for column in range(size // 2 - 4, size // 2 + 4):
        spoiled = x.clone()
        spoiled[..., column] += 50.0
        moved = (generator(spoiled) != generator(x)).any(dim=(0, 1, 2)).nonzero().flatten()
        reach = max(reach, int((moved - column).abs().max()))
    assert reach == radius


def test_default_halo_covers_the_literature_value() -> None:
    assert 84 <= ResNetGenerator(4, 2, width=4).receptive_radius_px <= 96


@pytest.mark.parametrize("settings", [{}, {"antialias": False}, {"direct_channels": 4}], ids=str)
def test_windows_with_halo_equal_the_whole_scene(settings: dict[str, object]) -> None:
    generator = _frozen(blocks=1, **settings)
    h, w, tile = 70, 93, 32  # not multiples of the stride
    halo = -(-generator.receptive_radius_px // 4) * 4
    scene = torch.randn(1, 2, h, w, dtype=torch.float64)
    whole = generator(scene)
    tiled = torch.full_like(whole, torch.nan)
    for r in range(0, h, tile):
        for c in range(0, w, tile):
            r0, c0 = max(0, r - halo), max(0, c - halo)
            y = generator(scene[..., r0 : r + tile + halo, c0 : c + tile + halo])
            tiled[..., r : r + tile, c : c + tile] = y[..., r - r0 : r - r0 + tile, c - c0 : c - c0 + tile]
    torch.testing.assert_close(tiled, whole, atol=1e-6, rtol=0)


def test_masked_windows_equal_the_masked_scene() -> None:
    generator = _frozen(blocks=1)
    halo = -(-generator.receptive_radius_px // 4) * 4
    scene = torch.randn(1, 2, 64, 120, dtype=torch.float64)
    mask = (torch.rand(1, 1, 64, 120) > 0.2).double()
    whole = generator(scene, mask)
    left = generator(scene[..., : 60 + halo], mask[..., : 60 + halo])
    torch.testing.assert_close(left[..., :60], whole[..., :60], atol=1e-6, rtol=0)


def test_what_lies_under_the_mask_changes_nothing() -> None:
    torch.manual_seed(0)
    generator = ResNetGenerator(2, 1, width=4, blocks=2)
    x = torch.rand(2, 2, 30, 34)
    mask = torch.ones(2, 1, 30, 34)
    mask[..., 5:17, 8:29] = 0
    spoiled = torch.where(mask > 0, x, torch.tensor(torch.nan))
    assert torch.equal(generator(x, mask), generator(spoiled, mask))


def test_head_of_features_is_forward() -> None:
    generator = ResNetGenerator(2, 1, width=4, blocks=1)
    x = torch.rand(1, 2, 18, 22)
    features = generator.forward_features(x, ("stem", "down1"))
    assert {name: tuple(value.shape[1:]) for name, value in features.items()} == {
        "stem": (4, 20, 24),
        "down1": (8, 10, 12),
        "blocks": (16, 5, 6),
    }
    assert torch.equal(generator.forward_head(features["blocks"], (18, 22)), generator(x))


def test_encode_returns_the_third_stage_by_default() -> None:
    generator = ResNetGenerator(2, 1, width=4, blocks=1)
    x = torch.rand(1, 2, 18, 22)
    assert generator.encode(x).shape == (1, 16, 5, 6)
    assert torch.equal(generator.encode(x, 2), generator.encoder(x, ("down1",))["down1"])


def test_plain_encoder_sees_thirteen_pixels() -> None:
    encoder = ResNetEncoder(1, 4, antialias=False)
    assert 2 * encoder.tap_radius_px("down2") + 1 == 13


def test_antialias_override_equals_the_setting_with_the_same_weights() -> None:
    torch.manual_seed(0)
    plain = ResNetEncoder(2, 4, antialias=False)
    smooth = ResNetEncoder(2, 4, antialias=True)
    smooth.load_state_dict(plain.state_dict())
    x = torch.rand(1, 2, 16, 16)
    assert torch.equal(plain(x, antialias=True)["down2"], smooth(x)["down2"])
    assert not torch.allclose(plain(x)["down2"], smooth(x)["down2"])


def test_unknown_tap_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown taps \['deep'\]"):
        ResNetEncoder(1, 4)(torch.rand(1, 1, 8, 8), ("deep",))


def test_up_block_leaves_no_checkerboard_on_a_constant() -> None:
    torch.manual_seed(0)
    block = UpBlock(3, 5)
    y = block.blur(block.conv(torch.full((1, 3, 8, 8), 0.7)))
    inner = y[..., 3:-3, 3:-3]
    assert inner.numel() > 0
    assert (inner.amax(dim=(2, 3)) - inner.amin(dim=(2, 3))).max() < 1e-6


def test_up_block_is_interpolation_then_convolution() -> None:
    torch.manual_seed(0)
    block = UpBlock(3, 5)
    block.norm = torch.nn.Identity()  # type: ignore[assignment]
    block.norm.forward = lambda x, mask: x  # type: ignore[method-assign]
    x = torch.rand(1, 3, 8, 8)
    fine = torch.nn.functional.interpolate(x, size=15, mode="bilinear", align_corners=True)
    kernel = block.conv.weight.transpose(0, 1).flip(2, 3)
    expected = torch.relu(torch.nn.functional.conv2d(fine, kernel))  # pixels 1..13
    torch.testing.assert_close(block(x)[..., 1:14, 1:14], expected, atol=1e-6, rtol=1e-5)


def test_noise_is_off_by_default_and_drawn_from_a_generator() -> None:
    torch.manual_seed(0)
    generator = ResNetGenerator(1, 1, width=4, blocks=0, noise_channels=2)
    x = torch.rand(1, 1, 18, 18)
    drawn = [generator(x, noise=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(generator(x), generator(x, noise=torch.zeros(1, 2, 18, 18)))
    with pytest.raises(ValueError, match=r"expected noise \(1, 2, 18, 18\), got \(1, 1, 18, 18\)"):
        generator(x, noise=torch.zeros(1, 1, 18, 18))


def test_weights_start_from_a_narrow_normal() -> None:
    torch.manual_seed(0)
    generator = ResNetGenerator(3, 2, 32, 2)
    weights = torch.cat([p.detach().flatten() for n, p in generator.named_parameters() if "weight" in n])
    assert abs(float(weights.std()) - 0.02) < 5e-4


def test_bfloat16_autocast_stays_close_and_returns_float32() -> None:
    torch.manual_seed(0)
    generator = ResNetGenerator(2, 1, width=8, blocks=1)
    x = torch.rand(1, 2, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        y = generator(x)
    assert y.dtype == torch.float32
    assert (y - generator(x)).abs().mean() < 0.02


def test_speckle_is_added_to_the_finished_image_and_alike_everywhere() -> None:
    torch.manual_seed(0)
    generator = ResNetGenerator(1, 2, width=4, blocks=1, noise_channels=2).eval()
    noise = torch.randn(1, 2, 40, 44)
    one, other = torch.rand(1, 1, 40, 44) * 0.2, torch.rand(1, 1, 40, 44) * 0.2 - 0.2
    added = [generator(image, noise=noise) - generator(image) for image in (one, other)]
    torch.testing.assert_close(added[0], added[1], atol=1e-6, rtol=0)
    assert added[0].std() > 0.01


def test_skewed_noise_has_spread_and_looks_of_speckle_where_symmetric_noise_has_too_few_looks() -> None:
    """Four looks: deviation 2.314 dB, skewness -0.53; an intensity symmetric in dB has ENL 3.05 then."""
    torch.manual_seed(0)
    per_db = 1 / 12.5
    generator = ResNetGenerator(1, 1, width=4, blocks=0, noise_channels=1)
    clean, noise = torch.zeros(1, 1, 256, 256), torch.randn(1, 1, 256, 256)
    found = []
    for skew in (0.0, -0.038):
        sigma_db = ((-1 + (1 + 8 * skew**2 * 2.314**2) ** 0.5) / (4 * skew**2)) ** 0.5 if skew else 2.314
        with torch.no_grad():
            generator.noise.weight.zero_()
            generator.noise.weight[0, 0, 1, 1] = sigma_db * per_db
            generator.noise_skew.fill_(skew / per_db / 10)  # a step of the skew is worth ten
            db = generator.speckled(clean, noise) / per_db
        assert db.mean().abs() < 0.05
        assert db.std().item() == pytest.approx(2.314, rel=0.02)
        found.append(enl(10 ** (db / 10)).item())
    assert found[0] == pytest.approx(3.05, rel=0.03)
    assert found[1] == pytest.approx(4.0, rel=0.05)


def test_weights_from_before_the_skew_load_and_draw_symmetric_noise() -> None:
    made = ResNetGenerator(1, 2, width=4, blocks=0, noise_channels=2)
    state = {name: value for name, value in made.state_dict().items() if name != "noise_skew"}
    with torch.no_grad():
        made.noise_skew.fill_(0.5)
    made.load_state_dict(state)
    assert not made.noise_skew.any()


@pytest.mark.parametrize(("direct", "differs"), [(0, False), (8, True)])
def test_only_the_direct_path_knows_how_bright_a_flat_patch_is(direct: int, differs: bool) -> None:
    torch.manual_seed(0)
    generator = ResNetGenerator(2, 1, width=4, blocks=1, direct_channels=direct).double()
    dark, bright = (generator(torch.full((1, 2, 16, 16), value, dtype=torch.float64)) for value in (-0.8, 0.8))
    assert ((dark - bright).abs().max() > 1e-3) == differs


def test_the_direct_path_sees_nothing_under_nodata_and_keeps_any_size() -> None:
    generator = ResNetGenerator(2, 1, width=4, blocks=1, direct_channels=8)
    mask = torch.ones(1, 1, 18, 21)
    mask[..., :7] = 0
    image = torch.randn(1, 2, 18, 21)
    spoiled = torch.where(mask > 0, image, torch.full_like(image, torch.nan))
    assert torch.equal(generator(image, mask)[..., 7:], generator(spoiled, mask)[..., 7:])
    with pytest.raises(ValueError, match="with their `image`"):
        generator.forward_head(torch.zeros(1, 16, 5, 6))
