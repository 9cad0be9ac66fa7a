from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.degrade import degrade
from rsgeo_gan.models import (
    Constrained,
    RandomFeatures,
    SRResNet,
    TextureTransfer,
    coarsen,
    constrain,
    enlarge,
    low_pass,
)
from rsgeo_gan.models.constraint import Form, constraint_radius_px
from rsgeo_gan.models.sampling import FILL_PX, UP_PX

examples = settings(max_examples=20, deadline=None, derandomize=True)
FORMS = get_args(Form)
SOFT = ("fourier", "butterworth", "gaussian", "sigmoid")


def pair(scale: int = 4, height: int = 6, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A refined image and a measurement that have nothing to do with each other."""
    draw = torch.Generator().manual_seed(seed)
    shape = (1, 2, height, width)
    fine = (1, 2, scale * height, scale * width)
    return torch.randn(fine, generator=draw, dtype=torch.float64), torch.randn(
        shape, generator=draw, dtype=torch.float64
    )


@examples
@given(st.integers(2, 6), st.integers(1, 7), st.integers(1, 7), st.integers(0, 99))
def test_every_coarse_pixel_keeps_its_mean_exactly(scale: int, height: int, width: int, seed: int) -> None:
    image, low = pair(scale, height, width, seed)
    kept = constrain(image, low, scale)
    torch.testing.assert_close(F.avg_pool2d(kept, scale), low)
    torch.testing.assert_close(constrain(kept, low, scale), kept)
    # What the network added inside a coarse pixel is untouched.
    torch.testing.assert_close(kept.diff(dim=-1)[..., : scale - 1], image.diff(dim=-1)[..., : scale - 1])


def test_the_local_form_knows_no_windows() -> None:
    image, low = pair()
    assert torch.equal(constrain(image[..., 8:24], low[..., 2:6], 4), constrain(image, low, 4)[..., 8:24])


def test_the_ideal_mask_keeps_the_low_frequencies_of_the_measurement() -> None:
    image, low = pair()
    kept = constrain(image, low, 4, "fourier")
    torch.testing.assert_close(low_pass(kept, 4), low_pass(enlarge(low, 4).double(), 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(kept - low_pass(kept, 4), image - low_pass(image, 4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("form", SOFT)
def test_fourier_forms_add_the_filtered_residual(form: Form) -> None:
    image, low = pair()
    residual = low_pass(enlarge(low, 4).double() - image, 4, form)
    torch.testing.assert_close(constrain(image, low, 4, form) - image, residual, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", SOFT)
@pytest.mark.parametrize(("cycles", "passes"), [(0, True), (1, True), (14, False)])
def test_masks_pass_what_a_coarse_grid_shows(form: Form, cycles: int, passes: bool) -> None:
    wave = torch.cos(2 * torch.pi * cycles * torch.arange(32) / 32).expand(1, 1, 16, 32)
    share = float(low_pass(wave, 4, form).abs().max() / wave.abs().max())
    assert share > 0.9 if passes else share < 0.1


def test_the_mtf_form_brings_the_image_as_the_sensor_sees_it_to_the_measurement() -> None:
    image, low = pair()
    smooth = F.interpolate(low, scale_factor=0.5, mode="area")
    low = enlarge(smooth, 2).double()
    before, after = (
        float((coarsen(made, 4, 0.3) - low).square().mean())
        for made in (image, constrain(image, low, 4, "mtf", mtf=0.3))
    )
    assert after < 0.05 * before
    consistent = coarsen(image, 4, 0.3)
    torch.testing.assert_close(constrain(image, consistent, 4, "mtf", mtf=0.3), image)


def test_the_mtf_form_sees_what_the_sensor_saw_that_knew_of_nodata() -> None:
    image, _ = pair()
    mask = torch.ones(1, 1, 24, 32, dtype=torch.float64)
    mask[..., 12:] = 0
    low, seen = degrade(image, mask, 4, 0.3)
    # Whatever a network makes up where nothing is known, an image that is consistent stays as it is.
    made = torch.where(mask > 0, image, 50.0)
    torch.testing.assert_close(constrain(made, low, 4, "mtf", seen, 0.3)[..., :8], image[..., :8])


def test_the_mtf_form_without_an_mtf_is_one_of_plain_means() -> None:
    image, low = pair()
    kept = constrain(image, low, 4, "mtf", mtf=None)
    before, after = (float((F.avg_pool2d(made, 4) - low).abs().mean()) for made in (image, kept))
    assert after < 0.3 * before
    consistent = F.avg_pool2d(image, 4)
    torch.testing.assert_close(constrain(image, consistent, 4, "mtf", mtf=None), image)
    assert constraint_radius_px("mtf", 4, None) == 3 * UP_PX + FILL_PX


@pytest.mark.parametrize("form", FORMS)
def test_nodata_of_the_measurement_corrects_nothing_and_leaks_nowhere(form: Form) -> None:
    image, low = pair()
    mask = torch.ones(1, 1, 6, 8)
    mask[..., :3] = 0
    kept = constrain(image, torch.where(mask > 0, low, torch.nan), 4, form, mask)
    assert torch.equal(kept, constrain(image, torch.where(mask > 0, low, 7.0), 4, form, mask))
    if form == "local":
        assert torch.equal(kept[..., :12], image[..., :12])
        torch.testing.assert_close(F.avg_pool2d(kept, 4)[..., 3:], low[..., 3:])


@pytest.mark.parametrize("form", ["local", "mtf"])
def test_means_are_kept_under_mixed_precision(form: Form) -> None:
    torch.manual_seed(0)
    inner = SRResNet(2, 2, 2, 4, 1).requires_grad_(False)
    nn.init.normal_(inner.head.weight)
    low = torch.rand(1, 2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        made, known = Constrained(inner, form, None)(low), inner.enlarged(low)
    assert made.dtype == known.dtype == torch.float32
    torch.testing.assert_close(known, enlarge(low, 2))
    apart = (F.avg_pool2d(made, 2) - low).abs()
    assert float(apart.max()) < (1e-6 if form == "local" else 0.1)
    assert torch.equal(Constrained(inner, form, None).constrain(made, low), constrain(made, low, 2, form, mtf=None))


@pytest.mark.parametrize("form", FORMS)
def test_a_constrained_network_is_called_as_the_network_is(form: Form) -> None:
    torch.manual_seed(0)
    inner = SRResNet(3, 2, 2, 4, 1, bands=(2, 0)).requires_grad_(False)
    nn.init.normal_(inner.head.weight)
    network, low = Constrained(inner, form), torch.rand(1, 3, 8, 8)
    assert torch.equal(network(low), constrain(inner(low), low[:, [2, 0]], 2, form))
    assert (network.in_channels, network.out_channels, network.scale, network.stride) == (3, 2, 2, 1)
    radius = network.receptive_radius_px
    assert radius is None if form in SOFT else radius is not None and radius >= inner.receptive_radius_px
    assert torch.equal(network.enlarged(low), constrain(enlarge(low[:, [2, 0]], 2), low[:, [2, 0]], 2, form))


def test_windows_of_the_mtf_form_fit_with_their_halo() -> None:
    torch.manual_seed(0)
    network = Constrained(SRResNet(1, 1, 2, 4, 0), "mtf").double()
    nn.init.normal_(network.network.head.weight)
    low, halo = torch.rand(1, 1, 4, 70, dtype=torch.float64), network.receptive_radius_px
    assert halo is not None
    assert halo < 35
    part = network(low[..., : 35 + halo])
    torch.testing.assert_close(part[..., :70], network(low)[..., :70])


def test_what_does_not_fit_is_refused() -> None:
    image, low = pair()
    with pytest.raises(ValueError, match=r"unknown form 'wiener'; choose from \('local'"):
        constrain(image, low, 4, "wiener")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected an image \(1, 2, 18, 24\) .* at scale 3, got \(1, 2, 24, 32\)"):
        constrain(image, low, 3)
    with pytest.raises(ValueError, match="takes references and has a constraint of its own; give it form"):
        Constrained(TextureTransfer(SRResNet(1, 1, 2, 4, 1), RandomFeatures(1, 4)))
