from __future__ import annotations

import pytest
import torch

from rsgeo_gan.losses import ShiftTolerantL1, best_shift, shift_tolerant_l1


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(1))


def test_content_moved_right_and_up_is_found_at_plus_dx_minus_dy(image: torch.Tensor) -> None:
    moved = torch.roll(image, (-2, 1), dims=(2, 3))
    shift, error = best_shift(image, moved, radius_px=3)
    assert shift.tolist() == [[1, -2], [1, -2]]
    assert error.tolist() == [0.0, 0.0]


def test_each_sample_has_its_own_shift(image: torch.Tensor) -> None:
    moved = torch.stack([torch.roll(image[0], 2, dims=1), torch.roll(image[1], -3, dims=2)])
    assert best_shift(image, moved)[0].tolist() == [[0, 2], [-3, 0]]


def test_invalid_pixels_do_not_mislead_the_search(image: torch.Tensor) -> None:
    moved = torch.roll(image, 1, dims=3)
    mask = torch.ones(2, 1, 20, 24)
    mask[..., 8:12, 8:12] = 0
    spoiled = torch.where(mask > 0, moved, torch.tensor(99.0))
    assert best_shift(image, spoiled, torch.cat([torch.ones_like(mask), mask], 1))[0].tolist() == [[1, 0]] * 2


def test_a_tiny_overlap_cannot_win() -> None:
    pred = torch.ones(1, 1, 9, 9)
    pred[..., 4, 7] = 0.0
    target = torch.zeros(1, 1, 9, 9)
    mask = torch.zeros(1, 2, 9, 9)
    mask[:, 0] = 1
    mask[:, 1, :, :3] = 1  # offset -1 compares least pixels
    _, error = best_shift(pred, target, mask, radius_px=1)
    assert error.item() > 0.9


def test_images_without_content_stay_in_place() -> None:
    flat = torch.full((2, 1, 12, 12), 0.5)
    assert best_shift(flat, flat)[0].tolist() == [[0, 0]] * 2
    assert best_shift(flat, flat, torch.zeros(2, 1, 12, 12))[0].tolist() == [[0, 0]] * 2


def test_loss_is_zero_for_an_exact_shift_and_not_beyond_the_radius(image: torch.Tensor) -> None:
    moved = torch.roll(image, 3, dims=3)
    assert shift_tolerant_l1(image, moved, radius_px=3) == 0
    assert shift_tolerant_l1(image, moved, radius_px=2) > 0.1


def test_loss_moves_the_prediction_towards_the_shifted_target(image: torch.Tensor) -> None:
    moved = torch.roll(image, (1, 1), dims=(2, 3))
    pred = (image * 0.5).requires_grad_()
    shift_tolerant_l1(pred, moved, radius_px=2).backward()
    inner = pred.grad[..., 2:-2, 2:-2]
    assert (inner < 0).all()
    assert pred.grad[..., :2, :].abs().sum() == 0


def test_whole_tile_shift_cannot_be_bought_pixel_by_pixel() -> None:
    """A column moved left and another moved right agree nowhere at once."""
    pred = torch.zeros(1, 1, 16, 16)
    pred[..., 5] = pred[..., 10] = 1
    target = torch.zeros(1, 1, 16, 16)
    target[..., 4] = target[..., 11] = 1
    assert shift_tolerant_l1(pred, target, radius_px=2) > 0


def test_radius_of_half_the_image_is_refused(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"below half of the image, got 10 for \(20, 24\)"):
        best_shift(image, image, radius_px=10)


def test_nothing_to_compare_costs_nothing(image: torch.Tensor) -> None:
    _, error = best_shift(image, image, torch.zeros(2, 1, 20, 24))
    assert error.isinf().all()
    assert shift_tolerant_l1(image, image + 1, torch.zeros(2, 1, 20, 24)) == 0


def test_module_compares_both_directions_and_counts_trust(image: torch.Tensor) -> None:
    other = torch.rand(2, 1, 20, 24, generator=torch.Generator().manual_seed(2))
    moved = torch.roll(image, 2, dims=2), torch.roll(other, -1, dims=3)
    loss = ShiftTolerantL1(radius_px=2)
    assert loss(image, other, moved[0], moved[1])["pair"] == 0
    whole = loss(image, other, moved[0] + 1, moved[1])["pair"]
    half = loss(image, other, moved[0] + 1, moved[1], weight=torch.tensor([0.5, 0.5]))["pair"]
    torch.testing.assert_close(half, whole / 2)
    pixels = loss(image, other, moved[0] + 1, moved[1], weight=torch.full((2, 1, 20, 24), 0.5))["pair"]
    torch.testing.assert_close(pixels, whole / 2)
