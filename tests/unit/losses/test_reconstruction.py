from __future__ import annotations

import pytest
import torch

from rsgeo_gan.losses import masked_l1, masked_mean, total_variation


def test_masked_mean_counts_valid_elements_of_all_bands() -> None:
    values = torch.tensor([[[[1.0, 9.0]], [[3.0, 9.0]]]])  # (1, 2, 1, 2)
    mask = torch.tensor([[[[1.0, 0.0]]]])
    assert masked_mean(values, mask) == 2.0


def test_masked_mean_of_nothing_is_zero() -> None:
    assert masked_mean(torch.rand(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)) == 0.0


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1, 1), (1, 1, 4, 4)])
def test_half_trust_halves_the_loss_of_a_lone_sample(shape: tuple[int, ...]) -> None:
    assert masked_mean(torch.ones(1, 2, 4, 4), None, torch.full(shape, 0.5)) == 0.5


def test_values_under_the_mask_leave_neither_loss_nor_gradient() -> None:
    pred = torch.tensor([[[[0.0, torch.nan]]]], requires_grad=True)
    loss = masked_l1(pred, torch.ones(1, 1, 1, 2), torch.tensor([[[[1.0, 0.0]]]]))
    loss.backward()
    assert loss.item() == 1.0
    assert pred.grad.tolist() == [[[[-1.0, 0.0]]]]


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected equal shapes, got \(1, 1, 2, 2\) and \(1, 2, 2, 2\)"):
        masked_l1(torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2))


def test_total_variation_of_a_ramp_is_its_slopes() -> None:
    ramp = torch.arange(5.0) * 2 + torch.arange(4.0)[:, None] * 3
    assert total_variation(ramp[None, None]) == 5.0


def test_total_variation_skips_differences_with_invalid_pixels() -> None:
    image = torch.zeros(1, 1, 3, 4)
    image[..., 2:] = torch.nan
    mask = torch.ones(1, 1, 3, 4)
    mask[..., 2:] = 0
    assert total_variation(image, mask) == 0.0
