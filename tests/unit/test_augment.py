from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rsgeo_gan.augment import AdaptiveAugmentation, augment

NOTHING: dict[str, Any] = {"turns": False, "shift": 0, "brightness": 0, "contrast": 0, "cutout": 0}


def only(**more: Any) -> dict[str, Any]:
    return {**NOTHING, **more}


def images(batch: int = 4, bands: int = 5, side: int = 8) -> Tensor:
    return torch.rand(batch, bands, side, side, generator=torch.Generator().manual_seed(1)) - 0.5


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def test_with_probability_zero_nothing_changes() -> None:
    image, mask = images(), (images(bands=1) > 0).float()
    image = image * mask
    moved, moved_mask = augment(image, mask, 0.0)
    torch.testing.assert_close(moved, image, rtol=0, atol=0)
    torch.testing.assert_close(moved_mask, mask, rtol=0, atol=0)


def test_turns_are_the_eight_of_the_square_and_equally_likely() -> None:
    image = torch.arange(9.0).reshape(1, 1, 3, 3).expand(4000, 1, 3, 3)
    moved, _ = augment(image, None, 1.0, **only(turns=True))
    square = image[0, 0]
    group = [torch.rot90(form, k) for form in (square, square.flip(1)) for k in range(4)]
    counts = [int((moved[:, 0] == form).all(dim=(1, 2)).sum()) for form in group]
    assert sum(counts) == 4000
    assert min(counts) > 400
    oblong = image[..., :2].contiguous()
    turned, _ = augment(oblong, None, 1.0, **only(turns=True))
    halves = [oblong[0, 0].flip(dims) for dims in ((), (0,), (1,), (0, 1))]
    assert sum(int((turned[:, 0] == form).all(dim=(1, 2)).sum()) for form in halves) == 4000


def test_a_shift_moves_by_whole_pixels_and_reflects_at_the_border() -> None:
    row = torch.arange(8.0).expand(500, 1, 8, 8)
    moved, _ = augment(row, None, 1.0, **only(shift=0.25))
    reflected = {
        step: torch.tensor([abs(7 - abs(7 - abs(k - step))) for k in range(8)], dtype=torch.float32)
        for step in range(-2, 3)
    }
    lines = moved[:, 0, 0]
    found = {step: int((lines == line).all(dim=1).sum()) for step, line in reflected.items()}
    assert sum(found.values()) == 500
    assert min(found.values()) > 50


def test_masks_move_with_their_images_and_invalid_pixels_stay_zero() -> None:
    mask = (images(64, 1, 16) > -0.2).float()
    image = mask * (1 + torch.arange(256.0).reshape(16, 16) / 256)
    moved, moved_mask = augment(image.expand(-1, 3, -1, -1), mask, 0.8)
    assert moved_mask is not None
    assert (moved * (1 - moved_mask) == 0).all()
    geometry, follows = augment(image, mask, 0.8, **only(turns=True, shift=0.2))
    assert follows is not None
    assert ((geometry > 0) == (follows > 0)).all()


def test_bands_get_brightness_and_contrast_of_their_own() -> None:
    image = images(2000, 2, 2)
    moved, _ = augment(image, None, 1.0, **only(brightness=0.3))
    added = (moved - image).mean(dim=(2, 3))
    torch.testing.assert_close(moved - image, added[..., None, None].expand_as(image), rtol=0, atol=1e-5)
    assert float(added.std()) == pytest.approx(0.3, rel=0.05)
    assert abs(float(torch.corrcoef(added.T)[0, 1])) < 0.1
    moved, _ = augment(image, None, 1.0, **only(contrast=0.5))
    factor = torch.log2((moved / image).mean(dim=(2, 3)))
    assert float(factor.std()) == pytest.approx(0.5, rel=0.05)


def test_a_square_is_cut_out_of_image_and_mask() -> None:
    ones = torch.ones(2000, 3, 16, 16)
    moved, mask = augment(ones, ones[:, :1], 1.0, **only(cutout=0.5))
    assert mask is not None
    assert (moved == mask).all()
    lost = 1 - mask.mean(dim=(1, 2, 3))
    assert float(lost.max()) == pytest.approx(0.25)
    # A centre on the border loses half a side: on average 7/8 of each side lie inside.
    assert float(lost.mean()) == pytest.approx((0.5 * 7 / 8) ** 2, rel=0.05)


def test_each_image_is_changed_on_its_own_with_the_probability_asked_for() -> None:
    ones = torch.ones(4000, 1, 1, 1)
    moved, _ = augment(ones, None, torch.tensor(0.3), **only(brightness=1.0))
    assert float((moved != ones).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_gradients_pass_also_for_a_penalty_on_gradients() -> None:
    image = images(3, 2, 6).double().requires_grad_()

    def same(x: Tensor) -> Tensor:
        torch.manual_seed(5)
        return augment(x, None, 0.8)[0]

    assert torch.autograd.gradcheck(same, (image,))
    (slope,) = torch.autograd.grad(same(image).pow(3).sum(), image, create_graph=True)
    slope.pow(2).sum().backward()
    assert image.grad is not None
    assert float(image.grad.abs().sum()) > 0


def test_p_follows_the_signs_of_the_logits_and_stops_at_its_limits() -> None:
    aug = AdaptiveAugmentation(speed_images=100, interval=2)
    sure, unsure = torch.ones(8, 1), torch.tensor([1.0, -1.0]).repeat(4)[:, None]
    aug.observe(sure)
    assert float(aug.p) == 0
    aug.observe(sure)
    assert float(aug.p) == pytest.approx(16 / 100)
    for _ in range(20):
        aug.observe(sure)
    assert float(aug.p) == pytest.approx(0.8)
    for _ in range(2):
        aug.observe(unsure)
    assert float(aug.p) == pytest.approx(0.8 - 0.16)
    for _ in range(20):
        aug.observe(torch.full((8, 1), float("nan")))
    assert float(aug.p) == 0


def test_an_image_with_many_logits_counts_once() -> None:
    aug = AdaptiveAugmentation(speed_images=100, interval=1)
    aug.observe(torch.ones(4, 1, 5, 5))
    assert float(aug.p) == pytest.approx(0.04)


def test_the_state_goes_on_where_it_stopped() -> None:
    first = AdaptiveAugmentation(speed_images=100, interval=3)
    for _ in range(5):
        first.observe(torch.ones(4, 1))
    again = AdaptiveAugmentation(speed_images=100, interval=3)
    again.load_state_dict(first.state_dict())
    for aug in (first, again):
        aug.observe(torch.ones(4, 1))
    assert float(again.p) == float(first.p) == pytest.approx(0.24)


def test_wrong_settings_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"limit <= 0.8, got p 0.0 and limit 0.9"):
        AdaptiveAugmentation(limit=0.9)
    with pytest.raises(ValueError, match="-1 < target < 1"):
        AdaptiveAugmentation(target=1)
    with pytest.raises(ValueError, match="0 <= shift < 1"):
        AdaptiveAugmentation(shift=1)
    with pytest.raises(ValueError, match=r"mask \(B, 1, H, W\), got \(4, 5, 8, 8\) and \(4, 8, 8\)"):
        augment(images(), torch.ones(4, 8, 8), 0.5)
