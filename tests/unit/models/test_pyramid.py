from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rsgeo_gan.models import PyramidDiscriminator, PyramidGenerator, collecting


def generator(source: int = 3, target: int = 2, **more: float) -> PyramidGenerator:
    """A pyramid whose weights are large enough for every path to matter."""
    torch.manual_seed(0)
    made = PyramidGenerator(source, target, **{"width": 4, "scales": 3, **more}).eval()
    for weight in made.parameters():
        if weight.ndim == 4:
            nn.init.normal_(weight, 0, 0.3)
    return made


def image(height: int, width: int, bands: int = 3) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(1, bands, height, width) * 2 - 1


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (33, 64)])
@pytest.mark.parametrize("factor", [0.5, 0.75])
def test_any_size_and_any_bands_come_back_in_their_size(size: tuple[int, int], factor: float) -> None:
    made = generator(5, 1, factor=factor)(image(*size, bands=5))
    assert made.shape == (1, 1, *size)
    assert made.dtype == torch.float32
    assert made.abs().max() <= 1


@pytest.mark.parametrize(("factor", "tolerance"), [(0.5, 2e-6), (0.75, 2e-4)])
def test_a_window_with_its_halo_is_the_same_part_of_the_whole(factor: float, tolerance: float) -> None:
    made, scene = generator(factor=factor), image(333, 288)
    with collecting(made):
        made(image(64, 64))
    stride = made.stride
    halo = -(-made.receptive_radius_px // stride) * stride
    with torch.no_grad():
        whole = made(scene)
        inside = made(scene[..., 96 : 96 + 2 * halo + 48, 48 : 48 + 2 * halo + 48])[..., halo : halo + 48, halo:]
        corner = made(scene[..., 192:, 144:])[..., halo:, halo:]
    tight = {"atol": tolerance, "rtol": 0}
    torch.testing.assert_close(inside[..., :48], whole[..., 96 + halo : 144 + halo, 48 + halo : 96 + halo], **tight)
    torch.testing.assert_close(corner, whole[..., 192 + halo :, 144 + halo :], **tight)


@pytest.mark.parametrize("factor", [0.5, 0.75])
def test_an_output_pixel_sees_as_far_as_stated(factor: float) -> None:
    made, given = generator(factor=factor), image(160, 160).requires_grad_()
    with collecting(made):
        made(image(64, 64))
    reached = []
    for at in (80, 81, 83):
        (gradient,) = torch.autograd.grad(made(given)[0, 0, at, at], given)
        reached.append(int((gradient.abs().sum((0, 1)).nonzero() - at).abs().max()))
    assert 0.9 * made.receptive_radius_px - 2 <= max(reached) <= made.receptive_radius_px


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_what_lies_under_nodata_changes_no_valid_pixel(frozen: bool, training: bool) -> None:
    made, given, mask = generator(), image(40, 48), torch.ones(1, 1, 40, 48)
    mask[..., 8:20, 10:31] = 0
    mask[..., 33:, :] = 0
    if frozen:
        with collecting(made):
            made(image(64, 64))
    made.train(training)
    clean, spoilt = (made(torch.where(mask > 0, given, garbage), mask) * mask for garbage in (0.0, torch.nan))
    assert torch.equal(clean, spoilt)


def test_a_constant_image_keeps_its_value_beside_nodata_at_every_scale() -> None:
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 5:14, 3:22] = 0
    for level in generator().pyramid(torch.full((1, 3, 32, 32), 0.7), mask):
        assert level.mask is not None
        held = level.image[level.mask.expand_as(level.image) > 0]
        torch.testing.assert_close(held, torch.full_like(held, 0.7))


def test_a_coarse_scale_holds_no_frequency_it_cannot_show() -> None:
    stripes = torch.tensor([1.0, -1.0]).repeat(32).expand(1, 3, 64, 64)
    coarse = generator(scales=2).pyramid(stripes)[0].image
    assert coarse[..., 4:-4].abs().max() < 1e-6


def test_scales_that_are_not_active_pass_the_coarser_result_on() -> None:
    made, given = generator(), image(32, 32)
    made.activate(1)
    by_scale = made.refine(made.pyramid(given))
    for finer in by_scale[1:]:
        enlarged = nn.functional.interpolate(by_scale[0], finer.shape[-2:], mode="bilinear")
        assert (finer - enlarged).abs().mean() < 0.1 * finer.std()
    made.activate(3)
    assert not torch.allclose(made(given), by_scale[-1], atol=0.1)


def test_frozen_scales_get_no_gradient() -> None:
    made = generator()
    made.refine(made.pyramid(image(32, 32)), frozen=2)[-1].sum().backward()
    learns = {name for name, weight in made.named_parameters() if weight.grad is not None}
    assert learns == {name for name, _ in made.named_parameters() if name.startswith(("current.2.", "blend.1."))}


def test_moments_in_training_are_those_of_the_batch() -> None:
    made = generator(scales=1).train()
    dark, bright = image(16, 16) * 0.3 - 0.6, image(16, 16) * 0.3 + 0.6
    apart = [made(x) for x in (dark, bright)]
    together = made(torch.cat([dark, bright])).split(1)
    torch.testing.assert_close(*apart, atol=1e-4, rtol=0)
    assert (together[0] - together[1]).abs().mean() > 0.1


def test_numbers_out_of_range_and_wrong_bands_are_refused() -> None:
    with pytest.raises(ValueError, match="a factor of 1/4, 1/3, 1/2, 2/3 or 3/4"):
        PyramidGenerator(1, 1, factor=1.5)
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\), got \(1, 4, 8, 8\)"):
        generator()(image(8, 8, bands=4))
    with pytest.raises(ValueError, match=r"expected \(B, 2, H, W\), got \(1, 3, 8, 8\)"):
        PyramidDiscriminator(2)(image(8, 8))


def test_each_scale_has_its_own_critic_and_logits_of_its_size() -> None:
    torch.manual_seed(0)
    critic = PyramidDiscriminator(3, width=4, scales=2)
    given = image(12, 20)
    coarse, fine = critic(given, scale=0), critic(given, scale=1)
    assert coarse.shape == fine.shape == (1, 1, 12, 20)
    assert not torch.allclose(coarse, fine)
    mask = torch.ones(1, 1, 12, 20)
    mask[..., :5] = 0
    assert torch.equal(critic(given, mask), critic(torch.where(mask > 0, given, torch.nan), mask))
