from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan.metrics import shift_response


def _fields(beta: float, count: int = 16, size: int = 128, seed: int = 0) -> Tensor:
    """Gaussian fields whose power falls as 1 / f^beta."""
    draw = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.fft2(torch.randn(count, 1, size, size, generator=draw))
    f = (torch.fft.fftfreq(size)[:, None].square() + torch.fft.fftfreq(size).square()).sqrt()
    fields = torch.fft.ifft2(spectrum * torch.where(f > 0, f.clamp_min(1 / size) ** (-beta / 2), 0.0)).real
    return fields / fields.std(dim=(2, 3), keepdim=True)


def test_white_noise_is_another_image_after_one_pixel() -> None:
    response = shift_response(lambda x: x, _fields(0.0), (0, 1, 3))
    torch.testing.assert_close(response, torch.tensor([0.0, 1.0, 1.0]), rtol=0, atol=0.02)


@pytest.mark.parametrize(("beta", "expected"), [(2.0, (0.50, 0.65, 0.71, 0.85)), (3.0, (0.17, 0.27, 0.33, 0.55))])
def test_images_of_known_spectra_have_the_published_response(beta: float, expected: tuple[float, ...]) -> None:
    response = shift_response(lambda x: x, _fields(beta))
    torch.testing.assert_close(response, torch.tensor(expected), rtol=0, atol=0.06)
    assert (response.diff() > 0).all()


def test_averaging_before_sampling_lowers_the_response_as_published() -> None:
    pooled = shift_response(lambda x: F.avg_pool2d(x, 4), _fields(2.0))
    torch.testing.assert_close(pooled, torch.tensor([0.18, 0.33, 0.45, 0.74]), rtol=0, atol=0.06)


def test_a_ramp_responds_by_its_step_whichever_way_it_rises() -> None:
    """Two ramps that differ by 100 everywhere; along their slope a pixel is one level, across it nothing."""
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    images = torch.cat([ramp, ramp + 100])
    expected = torch.tensor([0.5 / 100, 2.0 / 100])
    for x in (images, images.transpose(2, 3)):
        torch.testing.assert_close(shift_response(lambda v: v, x, (1, 4)), expected)


def test_padding_does_not_count_within_the_margin() -> None:
    def framed(x: Tensor) -> Tensor:
        inner = F.avg_pool2d(x, 2)[..., 2:-2, 2:-2]
        return F.pad(inner, (2, 2, 2, 2), value=1e6)

    images = _fields(2.0, count=4, size=64)
    inside = shift_response(framed, images, (1, 2), margin_px=4)
    torch.testing.assert_close(inside, shift_response(lambda x: F.avg_pool2d(x, 2), images, (1, 2), margin_px=4))


def test_one_image_or_too_small_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more images"):
        shift_response(lambda x: x, torch.zeros(1, 1, 64, 64))
    with pytest.raises(ValueError, match="larger than 24 px"):
        shift_response(lambda x: x, torch.zeros(2, 1, 24, 24), margin_px=4)
