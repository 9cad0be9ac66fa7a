from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rsgeo_gan.losses import speckle_distance


def noisy(deviation: float, seed: int, level: float = 0.0) -> Tensor:
    return level + deviation * torch.randn(4, 1, 96, 96, generator=torch.Generator().manual_seed(seed))


def test_the_distance_is_the_log_of_the_ratio_of_deviations() -> None:
    found = float(speckle_distance(noisy(0.3, 0), noisy(0.2, 1)))
    assert found == pytest.approx(math.log(1.5), abs=0.06)


def test_equal_images_are_at_no_distance_and_alignment_and_level_do_not_matter() -> None:
    real = noisy(0.2, 0)
    assert float(speckle_distance(real, real)) == 0
    assert float(speckle_distance(noisy(0.2, 1, level=0.7), real)) < 0.08
    assert float(speckle_distance(real.roll((3, 14), dims=(2, 3)), real)) < 0.08


def test_skewness_tells_speckle_from_symmetric_noise() -> None:
    """Log-gamma noise of four looks against normal noise of the same deviation: their skewness differs by 0.55."""
    torch.manual_seed(0)
    gamma = torch.distributions.Gamma(4.0, 4.0)
    real, other = ((gamma.sample((4, 1, 96, 96)) + 1e-6).log() for _ in range(2))
    normal = torch.randn(4, 1, 96, 96) * real.std()
    assert float(speckle_distance(other, real)) < 0.08
    # Within windows, and in those that happen to vary less, some of it is lost.
    assert 0.25 < float(speckle_distance(normal, real)) < 0.55


def test_edges_and_texture_in_the_more_varied_half_do_not_count() -> None:
    real, fake = noisy(0.2, 0), noisy(0.2, 1)
    fake[..., :20] += torch.randn(4, 1, 96, 20, generator=torch.Generator().manual_seed(2))
    assert float(speckle_distance(fake, real)) < 0.3


def test_too_strong_noise_is_pushed_down_and_too_weak_noise_up() -> None:
    for strength, sign in ((0.4, 1), (0.1, -1)):
        gain = torch.tensor(strength, requires_grad=True)
        speckle_distance(gain * noisy(1.0, 0), noisy(0.2, 1)).backward()
        assert gain.grad is not None
        assert float(gain.grad) * sign > 0


def test_what_is_invalid_on_either_side_changes_nothing() -> None:
    real, fake = noisy(0.2, 0), noisy(0.3, 1)
    mask = torch.ones(4, 1, 96, 96)
    mask[..., 10:30, 40:] = 0
    spoiled = [torch.where(mask > 0, image, torch.tensor(torch.nan)) for image in (fake, real)]
    clean = [torch.where(mask > 0, image, torch.tensor(9.0)) for image in (fake, real)]
    assert torch.equal(speckle_distance(*spoiled, mask, mask), speckle_distance(*clean, mask, mask))
    assert float(speckle_distance(fake, real, torch.zeros_like(mask), mask)) == 0


def test_a_constant_image_gives_a_finite_gradient() -> None:
    flat = torch.zeros(1, 2, 32, 32, requires_grad=True)
    speckle_distance(flat, torch.randn(1, 2, 32, 32)).backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()
