from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rsgeo_gan.losses import gram, texture_loss


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_gram_matrix_is_the_mean_product_of_channels() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])
    assert gram(features).tolist() == [[[2.5, 0.5], [0.5, 5.0]]]
    # Four times the first place, nothing of the second, over both.
    assert gram(features, torch.tensor([[[[2.0, 0.0]]]])).tolist() == [[[2.0, 6.0], [6.0, 18.0]]]


def test_a_gram_matrix_is_not_rounded_under_mixed_precision() -> None:
    features, weight = drawn(2, 3, 8, 8), drawn(2, 1, 8, 8, seed=1).abs()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gram(features.bfloat16())
        found = gram(features), gram(features, weight)
    assert rounded.dtype == torch.float32
    assert torch.equal(found[0], gram(features))
    assert torch.equal(found[1], gram(features, weight))


@pytest.mark.parametrize("asymmetric", [False, True])
def test_equal_textures_cost_nothing_wherever_they_lie(asymmetric: bool) -> None:
    maps = {"x1": drawn(2, 3, 4, 5), "x2": drawn(2, 6, 8, 10, seed=1)}
    assert float(texture_loss(maps, maps, asymmetric=asymmetric)) < 1e-8
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    moved = maps | {"x1": maps["x1"].flatten(2)[..., order].view(2, 3, 4, 5)}
    other = {"x1": drawn(2, 3, 4, 5, seed=3), "x2": drawn(2, 6, 8, 10, seed=4)}
    assert float(texture_loss(moved, maps, asymmetric=asymmetric)) < 1e-8
    torch.testing.assert_close(
        texture_loss(moved, other, asymmetric=asymmetric), texture_loss(maps, other, asymmetric=asymmetric)
    )
    assert float(texture_loss(maps, other, asymmetric=asymmetric)) > 1e-5


def test_without_trust_there_is_neither_loss_nor_gradient() -> None:
    made = drawn(2, 3, 4, 4).requires_grad_()
    loss = texture_loss({"x1": made}, {"x1": drawn(2, 3, 4, 4, seed=1)}, torch.zeros(2, 1, 4, 4))
    loss.backward()
    assert float(loss.detach()) == 0
    assert made.grad is not None
    assert not made.grad.any()


def test_only_trusted_places_count_on_both_sides() -> None:
    made, wanted, trust = drawn(1, 3, 4, 4), drawn(1, 3, 4, 4, seed=1), torch.zeros(1, 1, 4, 4)
    trust[..., :2] = 1
    # Half the places are left on both sides, of Gram matrices that are means over all.
    left = [gram(image[..., :2]) / 2 for image in (made, wanted)]
    expected = (left[0] - left[1]).square().mean() / 4 / gram(wanted).square().mean()
    torch.testing.assert_close(texture_loss({"x1": made}, {"x1": wanted}, trust), expected)
    torch.testing.assert_close(texture_loss({"x1": made}, {"x1": wanted}, {"x1": trust}), expected)
    # A map of trust on the coarse grid serves finer levels too.
    large = {"x2": made.repeat_interleave(2, -1).repeat_interleave(2, -2)}, {"x2": drawn(1, 3, 8, 8, seed=2)}
    half = texture_loss(*large, torch.full((1, 1, 4, 4), 0.5))
    torch.testing.assert_close(half, texture_loss(*large) / 16)


def test_the_symmetric_form_is_a_quarter_of_the_squared_difference_over_that_of_the_wanted() -> None:
    one = {"a": torch.full((1, 1, 2, 2), 2.0), "b": torch.full((1, 1, 1, 1), 3.0)}
    other = {"a": torch.full((1, 1, 2, 2), 1.0), "b": torch.full((1, 1, 1, 1), 2.0)}
    assert float(texture_loss(one, other)) == pytest.approx(((4 - 1) ** 2 + (9 - 4) ** 2 / 4**2) / 4 / 2)


def test_no_image_of_a_batch_outweighs_the_others_by_its_contrast() -> None:
    made, wanted = drawn(1, 3, 8, 8), drawn(1, 3, 8, 8, seed=1)
    loud = {"a": torch.cat([made, 10 * made])}, {"a": torch.cat([wanted, 10 * wanted])}
    torch.testing.assert_close(texture_loss(*loud), texture_loss({"a": made}, {"a": wanted}))


def test_the_printed_form_weighs_one_side_and_sums() -> None:
    made, wanted = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), 1.0)
    trust = torch.full((1, 1, 2, 2), 0.5)
    # Gram matrices of sums, 4 (2/2)² and 4, and V = 4.
    assert float(texture_loss({"a": made}, {"a": wanted}, trust, asymmetric=True)) == pytest.approx(0.0, abs=1e-12)
    assert float(texture_loss({"a": made}, {"a": wanted}, asymmetric=True)) == pytest.approx((16 - 4) / (4 * 16))


def test_no_gradient_reaches_what_was_transferred() -> None:
    made, wanted = drawn(1, 2, 3, 3).requires_grad_(), drawn(1, 2, 3, 3, seed=1).requires_grad_()
    texture_loss({"a": made}, {"a": wanted}).backward()
    assert made.grad is not None
    assert wanted.grad is None


def test_levels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="same levels"):
        texture_loss({"a": drawn(1, 1, 2, 2)}, {"b": drawn(1, 1, 2, 2)})
    with pytest.raises(ValueError, match="equal shapes at a"):
        texture_loss({"a": drawn(1, 1, 2, 2)}, {"a": drawn(1, 1, 2, 3)})
