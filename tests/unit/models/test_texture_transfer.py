from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.models import RandomFeatures, SRResNet, TextureTransfer
from rsgeo_gan.models.sampling import coarsen

LOW = 14


def scenes(count: int, bands: int, side: int, seed: int = 0) -> Tensor:
    """Images with contrast at every frequency, less at higher ones, within about [-1, 1]."""
    draw = torch.Generator().manual_seed(seed)
    rows, cols = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)
    fall = torch.hypot(rows, cols).clamp_min(1 / side)
    noise = torch.randn(count, bands, side, side, generator=draw)
    made = torch.fft.irfft2(torch.fft.rfft2(noise) / fall, s=(side, side))
    return 0.35 * made / made.std(dim=(2, 3), keepdim=True)


def network(scale: int = 2, *, head: float = 0.1, common: Any = ((0, 0), (2, 1)), **more: Any) -> TextureTransfer:
    torch.manual_seed(0)
    content = SRResNet(3, 3, scale, width=6, blocks=1)
    features = RandomFeatures(len(common), 8)
    features.fit(scenes(2, len(common), 16 * scale, seed=9))
    made = TextureTransfer(content, features, **{"common": common, "window_px": 3, **more})
    for layer in (made.head, content.head):
        nn.init.normal_(layer.weight, 0.0, head)
    return made.eval()


def pair(scale: int = 2, count: int = 2, side: int = LOW) -> tuple[Tensor, Tensor, Tensor]:
    """Truth, its coarse image, and the truth in other units and fewer bands as a reference."""
    truth = scenes(count, 3, side * scale)
    return truth, coarsen(truth, scale), (1.5 * truth[:, [0, 2]] + 0.3)[:, None]


def calibrated(scale: int = 2, **more: Any) -> TextureTransfer:
    made = network(scale, **more)
    truth = scenes(4, 3, LOW * scale, seed=5)
    made.calibrate(coarsen(truth, scale), truth[:, [0, 2]].roll(1, 0)[:, None])
    return made


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_truth_as_a_reference_is_found_in_its_place_and_taken_over(scale: int) -> None:
    made = calibrated(scale)
    truth, low, reference = pair(scale)
    found = made.transfer(low, reference)
    assert found.image.shape == truth.shape
    assert (found.match == 0).float().mean() > 0.99
    assert float(found.similarity.min()) > 0.999
    assert float(found.gate.mean()) > 0.95
    wanted = made.textures(truth)
    assert list(found.maps) == [f"x{cells}" for cells in {2: (1, 2), 3: (1, 3), 4: (1, 2, 4)}[scale]]
    for level, values in found.maps.items():
        torch.testing.assert_close(values, wanted[level], atol=1e-3, rtol=1e-3)


def test_noise_and_other_places_leave_the_image_as_one_without_a_reference() -> None:
    made = calibrated()
    _, low, reference = pair()
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(3))
    for useless in (noise, reference.roll(1, 0)):
        found = made.transfer(low, useless)
        assert float(found.gate.mean()) < 0.05
        shut = F.max_pool2d(found.gate, 5, 1, 2) == 0
        assert shut.any()
        apart = (found.image - made.content(low)).abs() * shut.repeat_interleave(2, -1).repeat_interleave(2, -2)
        assert not apart.any()


def test_similarity_rises_with_what_a_reference_has_in_common_with_the_image() -> None:
    made = calibrated()
    _, low, reference = pair()
    other = (scenes(2, 2, 2 * LOW, seed=7) * 1.5 + 0.3)[:, None]
    rungs = [made.transfer(low, share * reference + (1 - share) * other) for share in (0.0, 0.4, 0.7, 0.9, 1.0)]
    means = [float(rung.similarity.mean()) for rung in rungs]
    opened = [float(rung.gate.mean()) for rung in rungs]
    assert means == sorted(means)
    assert opened == sorted(opened)
    assert opened[0] < 0.1
    assert opened[-1] > 0.95


def test_where_references_show_nothing_there_is_the_content_exactly() -> None:
    for made in (calibrated(), network(gate=False)):
        _, low, reference = pair()
        nothing = torch.zeros(2, 1, 2 * LOW, 2 * LOW)
        found = made.transfer(low, torch.full_like(reference, torch.nan), mask_reference=nothing)
        assert torch.equal(found.image, made.content(low))
        assert (found.gate == 0).all()
        assert (found.similarity == -1).all()
        assert (found.match[:, 0] == -1).all()


@pytest.mark.parametrize("window", [3, None])
def test_what_lies_under_empty_masks_reaches_nothing(window: int | None) -> None:
    made = network(window_px=window)
    _, low, reference = pair()
    mask, mask_reference = torch.ones(2, 1, LOW, LOW), torch.ones(2, 1, 2 * LOW, 2 * LOW)
    mask[0, :, 3:6, 4:6] = 0
    mask_reference[1, :, 9:14, 20:] = 0
    answers = []
    for garbage in (0.0, 1e3, torch.nan):
        given = torch.where(mask > 0, low, garbage), torch.where(mask_reference[:, :, None] > 0, reference, garbage)
        answers.append(made.transfer(*given, mask, mask_reference))
    for other in answers[1:]:
        for name in ("image", "similarity", "gate", "match"):
            assert torch.equal(getattr(answers[0], name), getattr(other, name)), name
    first = answers[0]
    assert (first.gate[mask == 0] == 0).all()
    hole = F.max_pool2d(1 - mask_reference[1:], 2)
    number, dy, dx = first.match[1]
    rows, cols = torch.meshgrid(torch.arange(LOW), torch.arange(LOW), indexing="ij")
    at = (rows + dy).clamp(0, LOW - 1), (cols + dx).clamp(0, LOW - 1)
    inner = number >= 0
    inner[[0, -1]], inner[:, [0, -1]] = False, False
    assert not (hole[0, 0][at] * inner).any()


def test_the_gate_opens_with_similarity_and_the_released_one_shuts() -> None:
    like = torch.linspace(-0.99, 1, 200).view(1, 1, 10, 20)
    made = network(floor=0.4)
    opened = made.gate_of(like).flatten()
    assert (opened.diff() >= 0).all()
    rising = like.flatten() > 0.4
    assert (opened[rising].diff() > 0).all()
    assert (opened[~rising] == 0).all()
    assert float(opened[-1]) == pytest.approx(1.0)
    released = network(legacy_sign=True).gate_of(like).flatten()
    assert (released.diff() <= 0).all()
    torch.testing.assert_close(released[-1], torch.sigmoid(torch.tensor(-19.35)))


def test_the_floor_is_what_unrelated_references_reach_and_is_kept() -> None:
    made = network()
    assert not made.calibrated
    truth = scenes(4, 3, 2 * LOW, seed=5)
    low, unrelated = coarsen(truth, 2), truth[:, [0, 2]].roll(1, 0)[:, None]
    made.calibrate(low, unrelated)
    assert made.calibrated
    found = made.transfer(low, unrelated)
    inner = found.similarity[..., 1:-1, 1:-1]
    assert float(made.floor) == pytest.approx(float(inner.flatten().quantile(0.95)), abs=1e-6)
    again = network()
    again.load_state_dict(made.state_dict())
    assert again.calibrated
    assert float(again.floor) == float(made.floor)
    given = network(floor=0.25)
    given.calibrate(low, unrelated)
    assert float(given.floor) == 0.25


def test_several_references_are_searched_together_in_any_order() -> None:
    made = calibrated()
    _, low, reference = pair()
    three = torch.cat([scenes(2, 2, 2 * LOW, seed=3)[:, None], reference, torch.zeros_like(reference)], dim=1)
    masks = torch.ones(2, 3, 2 * LOW, 2 * LOW)
    masks[:, 2] = 0
    found = made.transfer(low, three, mask_reference=masks)
    assert (found.match[:, 0] == 1).float().mean() > 0.99
    order = [1, 2, 0]
    turned = made.transfer(low, three[:, order], mask_reference=masks[:, order])
    torch.testing.assert_close(turned.image, found.image)
    alone = made.transfer(low, reference)
    assert (found.similarity >= alone.similarity - 2e-6).all()


def test_a_reference_that_lies_askew_is_found_within_the_window_only() -> None:
    truth = scenes(1, 3, 2 * (LOW + 8))
    low = coarsen(truth, 2)[..., 4:-4, 4:-4]
    askew = truth[:, [0, 2], 8 - 4 : 8 - 4 + 2 * LOW, 8 + 8 : 8 + 8 + 2 * LOW][:, None]
    inner = (slice(None), slice(None), slice(4, -4), slice(8, -2))
    same = torch.tensor([1.0, 0.0]).expand(1, 1, 2, 2)
    wide = network(window_px=5).transfer(low, askew, radiometry=same)
    assert (wide.match[inner][:, 1] == 2).all()
    assert (wide.match[inner][:, 2] == -4).all()
    assert float(wide.similarity[inner].min()) > 0.9
    everywhere = network(window_px=None).transfer(low, askew, radiometry=same)
    assert torch.equal(everywhere.match[inner], wide.match[inner])
    narrow = network(window_px=2).transfer(low, askew, radiometry=same)
    assert float(narrow.similarity[inner].mean()) < 0.8


def test_radiometry_is_that_of_the_image_where_both_are_valid() -> None:
    made = network()
    _, low, reference = pair()
    mask, mask_reference = torch.ones(2, 1, LOW, LOW), torch.ones(2, 1, 2 * LOW, 2 * LOW)
    mask[0, :, :5] = 0
    mask_reference[0, :, :, 20:] = 0
    low = torch.where(mask > 0, low, 50.0)
    reference = torch.where(mask_reference[:, :, None] > 0, reference, -70.0)
    found = made.radiometry(low, reference, mask, mask_reference)
    torch.testing.assert_close(found[..., 0], torch.full((2, 1, 2), 1 / 1.5))
    torch.testing.assert_close(found[..., 1], torch.full((2, 1, 2), -0.2))
    one = made.transfer(low, reference, mask, mask_reference)
    other = made.transfer(low, reference, mask, mask_reference, radiometry=found)
    assert torch.equal(one.image, other.image)
    unseen = made.radiometry(low, reference, mask, torch.zeros_like(mask_reference))
    assert torch.equal(unseen, torch.tensor([1.0, 0.0]).expand(2, 1, 2, 2))


@pytest.mark.parametrize(("scale", "form", "mtf"), [(2, None, None), (4, "local", 0.2), (3, "mtf", None)])
def test_windows_of_a_scene_are_what_the_whole_scene_gives(scale: int, form: Any, mtf: float | None) -> None:
    made = network(scale, form=form, mtf=mtf, window_px=1, floor=0.0)
    radius = made.receptive_radius_px
    assert radius is not None
    side = 2 * radius + 10
    truth = scenes(1, 3, side * scale, seed=2)
    low = coarsen(truth, scale)
    reference = truth[:, [0, 2]][:, None] + 0.2 * scenes(1, 2, side * scale, seed=4)[:, None]
    fixed = made.radiometry(low, reference)
    whole = made.transfer(low, reference, radiometry=fixed)
    assert float(whole.gate.mean()) > 0.1
    # A core of 4 pixels with its halo, off the edges.
    cut = slice(3, 3 + 2 * radius + 4)
    fine = slice(cut.start * scale, cut.stop * scale)
    window = made.transfer(low[..., cut, cut], reference[..., fine, fine], radiometry=fixed)
    core = slice(radius, radius + 4)
    shifted = slice(core.start + 3, core.stop + 3)
    torch.testing.assert_close(window.similarity[..., core, core], whole.similarity[..., shifted, shifted])
    inner, outer = (slice(part.start * scale, part.stop * scale) for part in (core, shifted))
    torch.testing.assert_close(window.image[..., inner, inner], whole.image[..., outer, outer], atol=1e-5, rtol=1e-5)


def test_noise_is_not_blown_up_until_its_average_has_the_contrast_of_the_image() -> None:
    made = network(4)
    _, low, reference = pair(4)
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(3))
    gain = made.radiometry(low, noise)[..., 0]
    wanted = low[:, [0, 2]].std(dim=(2, 3), correction=0)[:, None]
    fine = noise.std(dim=(3, 4), correction=0)
    torch.testing.assert_close(gain * fine, 3 * wanted, atol=1e-4, rtol=1e-4)
    usual = made.radiometry(low, reference)[..., 0]
    torch.testing.assert_close(usual, torch.full((2, 1, 2), 1 / 1.5))


@pytest.mark.parametrize("form", [None, "mtf"])
def test_without_a_reference_it_is_the_content_under_the_constraint(form: Any) -> None:
    made = network(form=form, mtf=0.2)
    _, low, reference = pair()
    mask = torch.ones(2, 1, LOW, LOW)
    mask[0, :, 3:6, 4:6] = 0
    nothing = torch.zeros(2, 1, 2 * LOW, 2 * LOW)
    assert torch.equal(made(low, reference, mask, nothing), made.alone(low, mask))
    assert torch.equal(made.alone(low, mask), made.content(low, mask)) == (form is None)


@pytest.mark.parametrize("scale", [3, 4])
def test_textures_count_by_the_gate_where_they_saw_valid_pixels_only(scale: int) -> None:
    made, side = network(scale), 14 * scale
    mask = torch.ones(1, 1, side, side)
    mask[..., : 2 * scale] = 0
    image = scenes(1, 3, side)
    trust = made.trusted(torch.full((1, 1, 14, 14), 0.6), mask)
    one, other = (made.textures(torch.where(mask > 0, image, value), None) for value in (0.0, 50.0))
    assert trust.keys() == one.keys()
    for level, weight in trust.items():
        seen = (weight > 0).expand_as(one[level])
        assert weight.shape == one[level][:, :1].shape
        assert 0.3 < float(seen.float().mean()) < 1
        torch.testing.assert_close(weight[weight > 0], torch.full_like(weight[weight > 0], 0.6))
        assert torch.equal(one[level][seen], other[level][seen])


def test_searches_of_everything_and_constraints_of_everything_have_no_radius() -> None:
    assert network(window_px=None).receptive_radius_px is None
    assert network(form="fourier").receptive_radius_px is None


def test_content_and_features_stay_as_they_are_and_the_rest_learns() -> None:
    made = network().train()
    _, low, reference = pair()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    made(low, reference).square().mean().backward()
    optimizer.step()
    for name, value in made.state_dict().items():
        still = name.startswith(("content.", "features.", "floor", "calibrated"))
        assert torch.equal(value, before[name]) == still, name
    trained = network(frozen_content=False).train()
    trained(low, reference).square().mean().backward()
    assert all(p.grad is not None for p in trained.content.parameters())


def test_a_frozen_content_keeps_its_statistics_and_gives_what_it_gives_in_products() -> None:
    torch.manual_seed(0)
    content = SRResNet(3, 3, 2, width=6, blocks=1, norm="batch")
    made = TextureTransfer(content, RandomFeatures(2, 8), common=[[0, 0], [2, 1]], window_px=2).train()
    _, low, reference = pair()
    before = {name: value.clone() for name, value in content.state_dict().items()}
    learning = made(low, reference)
    assert all(torch.equal(value, before[name]) for name, value in content.state_dict().items())
    assert torch.equal(learning, made.eval()(low, reference))
    assert TextureTransfer(content, RandomFeatures(3, 8), frozen_content=False).train().content.training


def test_similarity_and_floor_are_not_rounded_under_mixed_precision() -> None:
    made, again = network(window_px=None), network(window_px=None)
    truth, low, reference = pair()
    made.calibrate(low, reference.roll(1, 0))
    exact = made.transfer(low, reference)
    with torch.autocast("cpu", torch.bfloat16):
        again.calibrate(low, reference.roll(1, 0))
        found = again.transfer(low, reference)
    assert float(again.floor) == float(made.floor)
    assert torch.equal(found.similarity, exact.similarity)
    assert torch.equal(found.match, exact.match)
    assert found.image.dtype == torch.float32
    assert torch.isfinite(found.image).all()
    assert found.image.shape == truth.shape


def test_the_constraint_holds_whatever_the_references_say() -> None:
    made = network(form="local", gate=False)
    _, low, reference = pair()
    image = made(low, torch.randn(reference.shape, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(coarsen(image, 2), low, atol=1e-5, rtol=0)


def test_it_begins_with_the_content() -> None:
    made = TextureTransfer(SRResNet(3, 3, 2, width=6, blocks=1), RandomFeatures(2, 4), common=[[0, 0], [2, 1]])
    _, low, reference = pair()
    assert torch.equal(made(low, reference), made.content(low))
    assert torch.equal(made(low, reference), made.enlarged(low))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"common": [[0, 0]]}, "1 pairs of common bands"),
        ({"common": [[0, 0], [3, 1]]}, "below 3"),
        ({"window_px": -1}, "window_px >= 0"),
        ({"floor": 1.0}, "floor < 1"),
    ],
)
def test_what_does_not_fit_is_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TextureTransfer(SRResNet(3, 3, 2, width=4, blocks=1), RandomFeatures(2, 4), **more)


def test_references_off_the_grid_or_with_too_few_bands_are_refused() -> None:
    made = network()
    _, low, reference = pair()
    for wrong in (reference[..., 1:], reference[:, :, :1], reference[:, 0]):
        with pytest.raises(ValueError, match="warp them onto the finer grid"):
            made(low, wrong)
    with pytest.raises(ValueError, match="3 x 3 pixels"):
        made(low[..., :2, :], reference[..., :4, :])


def test_smooth_places_are_not_alike_because_they_are_smooth() -> None:
    made = network()
    draw = torch.Generator().manual_seed(3)
    sea = torch.full((1, 3, 2 * LOW, 2 * LOW), -0.6) + 0.02 * torch.randn(1, 3, 2 * LOW, 2 * LOW, generator=draw)
    other = torch.full((1, 1, 2, 2 * LOW, 2 * LOW), 0.4) + 0.02 * torch.randn(1, 1, 2, 2 * LOW, 2 * LOW, generator=draw)
    same = torch.tensor([1.0, 0.0]).expand(1, 1, 2, 2)
    assert float(made.transfer(coarsen(sea, 2), other, radiometry=same).similarity.mean()) < 0.8
    constant = torch.full_like(other, 0.4), torch.full((1, 3, LOW, LOW), -0.6)
    assert float(made.transfer(constant[1], constant[0]).similarity.abs().max()) < 0.05
