from __future__ import annotations

import pytest
import torch
from torch import nn

from rsgeo_gan.losses import interpolated_penalty, path_length, r1, r2
from rsgeo_gan.models import PatchDiscriminator


@pytest.mark.parametrize("penalty", [r1, r2])
def test_penalty_of_a_linear_critic_is_its_squared_weights(penalty: object) -> None:
    weights = torch.tensor([2.0, 3.0])
    critic = lambda x: (x * weights).sum(dim=(1, 2, 3))[:, None, None, None]  # noqa: E731
    assert penalty(torch.rand(4, 1, 1, 2), critic, 10.0) == 0.5 * 10.0 * 13.0  # type: ignore[operator]


def test_penalty_trains_the_critic_and_leaves_the_images_alone() -> None:
    torch.manual_seed(0)
    critic = PatchDiscriminator(1, width=4, layers=2)
    images = torch.rand(2, 1, 16, 16, requires_grad=True)
    r1(images, critic).backward()
    assert images.grad is None
    assert all(p.grad is not None for n, p in critic.named_parameters() if n.endswith("weight"))


def test_penalty_is_computed_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    critic = nn.Conv2d(1, 1, 3)
    images = torch.rand(2, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = r1(images.bfloat16(), critic)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, r1(images.bfloat16().float(), critic))


def test_penalty_does_not_see_what_the_mask_hides() -> None:
    torch.manual_seed(0)
    critic = PatchDiscriminator(1, width=4, layers=2)
    images = torch.rand(1, 1, 24, 24)
    mask = torch.ones(1, 1, 24, 24)
    mask[..., :8] = 0
    values = [r1(v, lambda x: critic(x, mask)) for v in (images, torch.where(mask > 0, images, -1.0))]
    assert values[0] > 0
    assert torch.equal(*values)


@pytest.mark.parametrize("size", [4, 9])
def test_interpolated_penalty_of_a_linear_critic_is_the_distance_of_its_slope_from_one(size: int) -> None:
    weights = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    real, fake = torch.rand(2, 2, 2, size, size)
    assert interpolated_penalty(real, fake, lambda x: (x * weights).sum(1, keepdim=True)).item() == pytest.approx(16.0)


def test_interpolated_penalty_counts_valid_pixels_only() -> None:
    real, fake, mask = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4), torch.ones(2, 1, 4, 4)
    mask[0, :, :2] = 0
    mask[1] = 0
    assert interpolated_penalty(real, fake, lambda x: 3 * x * mask, mask).item() == pytest.approx(4.0)


def test_interpolated_penalty_looks_between_real_and_fake() -> None:
    seen: list[torch.Tensor] = []

    def critic(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.detach())
        return x.square()

    torch.manual_seed(0)
    interpolated_penalty(torch.ones(3, 1, 2, 2), torch.zeros(3, 1, 2, 2), critic)
    shares = seen[0][:, 0, 0, 0]
    assert (seen[0] == shares.view(3, 1, 1, 1)).all()
    assert len(shares.unique()) == 3
    assert shares.min() > 0
    assert shares.max() < 1


@pytest.mark.parametrize("layers", [None, 3])
def test_path_length_of_a_linear_generator_is_its_scale(layers: int | None) -> None:
    """An image of one pixel per style times 5: the length is 5 |y| for noise of unit variance over the pixels."""
    shape = (2000, 16) if layers is None else (2000, layers, 16)
    styles = torch.zeros(shape)
    render = lambda w: 5 * (w if layers is None else w.sum(dim=1)).view(-1, 1, 4, 4)  # noqa: E731
    torch.manual_seed(0)
    penalty, mean = path_length(styles, render, torch.tensor(0.0), decay=1.0)
    # |y| of 16 normal numbers over 4: its mean square is 1.
    assert mean.item() ** 2 + penalty.item() == pytest.approx(25, rel=0.02)
    assert penalty / 25 < 0.05


def test_path_length_trains_the_generator_and_what_made_the_styles_but_moves_its_mean_slowly() -> None:
    torch.manual_seed(0)
    mapping, synthesis = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Unflatten(1, (3, 2, 2)))
    penalty, mean = path_length(mapping(torch.randn(6, 4)), synthesis, torch.tensor(2.0))
    penalty.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (mapping.weight, synthesis[0].weight))
    assert not mean.requires_grad
    assert 0.98 < mean / 2 < 1.02
    assert mean != 2


def test_path_length_is_computed_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    synthesis = nn.Sequential(nn.Linear(4, 12), nn.Unflatten(1, (3, 2, 2)))
    styles, found = torch.randn(6, 4), []
    for enabled in (True, False):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(path_length(styles, synthesis, torch.tensor(0.0)))
    assert found[0][0].dtype == torch.float32
    assert found[0] == found[1]
    with pytest.raises(ValueError, match=r"expected styles \(B, K\) or \(B, L, K\), got \(4,\)"):
        path_length(torch.zeros(4), synthesis, torch.tensor(0.0))
