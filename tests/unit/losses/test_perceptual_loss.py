from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rsgeo_gan.losses import Perceptual, spectral_angle_loss
from rsgeo_gan.models import RandomFeatures


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fitted(bands: int = 2) -> RandomFeatures:
    made = RandomFeatures(bands, 4)
    made.fit(drawn(4, bands, 32, 32, seed=9))
    return made


def test_it_is_the_mean_squared_difference_of_features() -> None:
    backend, one, other = fitted(), drawn(2, 2, 32, 32), drawn(2, 2, 32, 32, seed=1)
    assert float(Perceptual(backend)(one, one)) == 0
    parts = [(backend(one)[tap] - backend(other)[tap]).square().mean() for tap in ("s2", "deep")]
    torch.testing.assert_close(Perceptual(backend)(one, other), parts[1])
    torch.testing.assert_close(Perceptual(backend, ["s2", "deep"])(one, other), (parts[0] + parts[1]) / 2)


def test_gradients_reach_the_made_image_only() -> None:
    backend, one, other = fitted(), drawn(1, 2, 32, 32).requires_grad_(), drawn(1, 2, 32, 32, seed=1).requires_grad_()
    Perceptual(backend)(one, other).backward()
    assert one.grad is not None
    assert one.grad.any()
    assert other.grad is None
    assert all(p.grad is None for p in backend.parameters())


@pytest.mark.parametrize("garbage", [0.0, 1e4, math.nan])
def test_cells_that_saw_an_invalid_pixel_do_not_count(garbage: float) -> None:
    backend, one, other = fitted(), drawn(1, 2, 32, 32), drawn(1, 2, 32, 32, seed=1)
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 24:] = 0
    made = Perceptual(backend, ["s1"])(
        torch.where(mask > 0, one, garbage), torch.where(mask > 0, other, -garbage), mask
    )
    # A cell of the finest tap looks one pixel around itself.
    apart = (backend(one, ["s1"])["s1"] - backend(other, ["s1"])["s1"])[..., :23]
    torch.testing.assert_close(made, apart.square().mean())


def test_it_falls_as_an_image_comes_closer() -> None:
    loss, one, other = Perceptual(fitted()), drawn(1, 2, 32, 32), drawn(1, 2, 32, 32, seed=1)
    found = [float(loss(other + share * one, other)) for share in (0.3, 0.1, 0.03, 0.0)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == 0


def test_features_without_taps_are_refused() -> None:
    with pytest.raises(ValueError, match="use a feature network"):
        Perceptual(nn.Conv2d(2, 2, 1))
    with pytest.raises(ValueError, match="relu"):
        Perceptual(fitted(), ["relu"])


def test_spectral_angles_are_those_of_vectors() -> None:
    one = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    for degrees in (0.0, 1e-3, 30.0, 90.0, 180.0):
        angle = math.radians(degrees)
        other = 3 * torch.tensor([math.cos(angle), math.sin(angle)]).view(1, 2, 1, 1)
        assert float(spectral_angle_loss(one, other)) == pytest.approx(angle, abs=3e-6)
    image, other = drawn(2, 4, 5, 5).abs(), drawn(2, 4, 5, 5, seed=1).abs()
    expected = torch.acos(torch.cosine_similarity(image, other, dim=1)).mean()
    torch.testing.assert_close(spectral_angle_loss(image, other), expected)
    torch.testing.assert_close(spectral_angle_loss(0.2 * image, 7 * other), expected)


def test_gradients_of_equal_spectra_are_finite_and_masks_hold() -> None:
    image = drawn(1, 3, 4, 4).abs().requires_grad_()
    spectral_angle_loss(image, image.detach()).backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    mask = torch.ones(1, 1, 4, 4)
    mask[..., 2:] = 0
    other = drawn(1, 3, 4, 4, seed=1).abs()
    masked = spectral_angle_loss(torch.where(mask > 0, image, torch.nan), torch.where(mask > 0, other, torch.nan), mask)
    torch.testing.assert_close(masked, spectral_angle_loss(image[..., :2], other[..., :2]))
    masked.backward()
    assert torch.isfinite(image.grad).all()


def test_spectra_that_are_nearly_nothing_pull_no_harder_than_dark_ones() -> None:
    other = drawn(1, 3, 8, 8, seed=1).abs()
    steepest = []
    for length in (1e-2, 1e-5, 0.0):
        image = drawn(1, 3, 8, 8).abs()
        image[..., 0, 0] *= length
        image.requires_grad_()
        spectral_angle_loss(image, other).backward()
        assert image.grad is not None
        steepest.append(float(image.grad[..., 0, 0].norm()))
    assert steepest[1] < 3 * steepest[0]
    assert steepest[2] < 3 * steepest[0]


def test_images_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        spectral_angle_loss(drawn(1, 3, 4, 4), drawn(1, 2, 4, 4))
