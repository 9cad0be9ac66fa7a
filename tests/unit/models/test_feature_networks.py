from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.vgg import cfgs, make_layers

from rsgeo_gan.models import RandomFeatures, VGGFeatures


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 0.3


@pytest.mark.parametrize("orthogonal", [True, False])
def test_a_seed_names_a_backend_whatever_was_drawn_before(orthogonal: bool) -> None:
    one = RandomFeatures(3, 4, 7, orthogonal)
    torch.manual_seed(99)
    torch.rand(5)
    same, other = RandomFeatures(3, 4, 7, orthogonal), RandomFeatures(3, 4, 8, orthogonal)
    x = images(2, 3, 16, 16)
    assert one.digest == same.digest != other.digest
    for tap, found in one(x).items():
        assert torch.equal(found, same(x)[tap])
        assert torch.equal(found, one(x)[tap])


def test_orthogonal_filters_are() -> None:
    weight = RandomFeatures(2, 8).convs[3].weight.flatten(1)
    torch.testing.assert_close(weight @ weight.T, (2 * torch.eye(len(weight))), atol=1e-5, rtol=0)


@pytest.mark.parametrize("bands", [1, 3, 10])
def test_taps_have_the_strides_and_channels_they_name(bands: int) -> None:
    backend = RandomFeatures(bands, 4)
    found = backend(images(2, bands, 24, 16))
    assert {tap: tuple(x.shape[1:]) for tap, x in found.items()} == {
        "s1": (4, 24, 16),
        "s2": (8, 12, 8),
        "s4": (16, 6, 4),
        "deep": (32, 3, 2),
    }
    assert list(backend(images(1, bands, 8, 8), ("s2",))) == ["s2"]


def test_gradients_reach_the_image_and_never_the_weights() -> None:
    backend, x = RandomFeatures(2, 4).train(), images(1, 2, 16, 16).requires_grad_()
    backend(x)["deep"].square().sum().backward()
    assert x.grad is not None
    assert x.grad.any()
    assert not backend.training
    assert not any(parameter.requires_grad for parameter in backend.parameters())


def test_fitted_features_are_standardised_over_valid_cells() -> None:
    backend, x = RandomFeatures(2, 4), images(6, 2, 32, 32)
    before, mask = backend.digest, torch.ones(6, 1, 32, 32)
    mask[:, :, :8] = 0
    assert not backend.fitted
    backend.fit(torch.where(mask > 0, x, torch.nan), mask)
    assert backend.fitted
    assert backend.digest != before
    for tap, found in backend(torch.where(mask > 0, x, 0.0)).items():
        inner = found[:, :, 8 // backend.taps[tap].stride :].transpose(0, 1).flatten(1)
        varying = inner.std(dim=1) > 1e-3
        assert varying.sum() > len(varying) / 2
        torch.testing.assert_close(inner.mean(dim=1), torch.zeros(len(inner)), atol=1e-4, rtol=0)
        torch.testing.assert_close(inner[varying].std(dim=1, correction=0), torch.ones(int(varying.sum())))


def test_statistics_of_several_batches_are_those_of_one_and_travel_with_the_state() -> None:
    one, several, loaded = RandomFeatures(2, 4), RandomFeatures(2, 4), RandomFeatures(2, 4, seed=1)
    x = images(4, 2, 16, 16)
    one.fit(x)
    several.fit(x.split(1))
    torch.testing.assert_close(one(x)["s4"], several(x)["s4"], atol=1e-4, rtol=1e-4)
    loaded.load_state_dict(one.state_dict())
    assert loaded.digest == one.digest
    assert loaded.fitted


def test_images_without_contrast_leave_features_finite() -> None:
    backend = RandomFeatures(1, 4)
    backend.fit(torch.zeros(2, 1, 16, 16))
    assert all(bool(x.isfinite().all()) for x in backend(images(1, 1, 16, 16)).values())


@pytest.mark.parametrize("tap", ["s1", "s2", "s4", "deep"])
def test_cells_that_are_seen_depend_on_valid_pixels_only(tap: str) -> None:
    backend, x = RandomFeatures(1, 4), images(1, 1, 64, 64)
    mask = torch.ones(1, 1, 64, 64)
    mask[..., 40:, :11] = 0
    seen = backend.seen(mask, tap)
    found, spoiled = (backend(torch.where(mask > 0, x, other), (tap,))[tap] for other in (0.0, 50.0))
    moved = (found != spoiled).any(dim=1, keepdim=True)
    assert moved.any()
    assert 0 < float(seen.mean()) < 1
    assert not (moved & (seen > 0)).any()


def test_vgg_of_a_local_file_computes_what_torchvision_does(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = make_layers(cfgs["E"][:17]).requires_grad_(False)
    torch.save({f"features.{name}": value for name, value in theirs.state_dict().items()}, tmp_path / "vgg19.pth")
    backend, x = VGGFeatures(tmp_path / "vgg19.pth", bands=(3, 2, 1), in_channels=4), images(1, 4, 48, 48)
    rgb = (x[:, [3, 2, 1]] + 1) / 2 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    rgb = rgb / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    found = backend(x)
    for tap, layer in (("s1", 1), ("s2", 6), ("s4", 11)):
        # Edges differ: reflected here, zero there.
        n = -(-backend.taps[tap].radius_px // backend.taps[tap].stride)
        torch.testing.assert_close(found[tap][..., n:-n, n:-n], theirs[: layer + 1](rgb)[..., n:-n, n:-n])
    assert found["deep"].shape == theirs(rgb).shape


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"RandomFeatures: expected \(B, 2, H, W\), got \(1, 3, 8, 8\)"):
        RandomFeatures(2, 4)(images(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"unknown taps \['s8'\]; choose from \['s1', 's2', 's4', 'deep'\]"):
        RandomFeatures(2, 4)(images(1, 2, 8, 8), ("s8",))
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other.pth has no features.0.weight of VGG19"):
        VGGFeatures(tmp_path / "other.pth")


def test_images_without_a_valid_pixel_standardise_nothing() -> None:
    backend, x = RandomFeatures(2, 4), images(2, 2, 16, 16)
    before = backend.digest
    backend.fit(x, torch.zeros(2, 1, 16, 16))
    assert not backend.fitted
    assert backend.digest == before
    with torch.autocast("cpu", torch.bfloat16):
        backend.fit(x)
    exact = RandomFeatures(2, 4)
    exact.fit(x)
    assert backend.fitted
    assert backend.digest == exact.digest
