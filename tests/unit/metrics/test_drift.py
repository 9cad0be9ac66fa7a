from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rsgeo_gan.metrics import drift

BATCH, SIZE = 12, 64


def _scene(dx: float = 0.0, dy: float = 0.0, seed: int = 0) -> Tensor:
    """Cut-outs of band-limited random fields, moved right by dx and down by dy exactly."""
    n = 128
    spectrum = torch.fft.fft2(torch.randn(BATCH, 2, n, n, generator=torch.Generator().manual_seed(seed)))
    fy, fx = torch.fft.fftfreq(n)[:, None], torch.fft.fftfreq(n)
    f = (fy.square() + fx.square()).sqrt()
    shape = torch.where((f > 0) & (f < 0.4), f.clamp_min(1 / n) ** -1.2, 0.0)
    field = torch.fft.ifft2(spectrum * shape * torch.exp(-2j * math.pi * (fx * dx + fy * dy))).real
    return (field / field.std())[..., :SIZE, :SIZE]


def _noise(seed: int) -> Tensor:
    return torch.randn(BATCH, 2, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("move", [(0.0, 0.0), (0.05, -0.02), (0.43, -1.27), (-1.9, 0.5)])
def test_a_known_move_is_found_to_a_fiftieth_of_a_pixel(move: tuple[float, float]) -> None:
    found = drift(_scene(), 3.0 * _scene(*move) - 5.0)
    torch.testing.assert_close(found.shift, torch.tensor(move), rtol=0, atol=0.02)


def test_noise_of_its_own_on_either_side_does_not_pull_the_answer_and_widens_its_error() -> None:
    clean = drift(_scene(), _scene(0.3, 0.6))
    noisy = drift(_scene() + 0.5 * _noise(1), _scene(0.3, 0.6) + 0.5 * _noise(2))
    assert ((noisy.shift - torch.tensor([0.3, 0.6])).abs() < 4 * noisy.error).all()
    assert (noisy.error > clean.error).all()
    assert (noisy.error < 0.05).all()


def test_holes_neither_count_nor_attract() -> None:
    mask = torch.ones(BATCH, 1, SIZE, SIZE)
    mask[:, :, 20:34, 15:50] = 0
    mask[0] = 0
    target = torch.where(mask > 0, _scene(0.7, -0.4), torch.nan)
    found = drift(_scene(), target, mask)
    torch.testing.assert_close(found.shift, torch.tensor([0.7, -0.4]), rtol=0, atol=0.03)


def test_what_cannot_be_told_is_not_a_number() -> None:
    empty = torch.zeros(BATCH, 1, SIZE, SIZE)
    assert torch.isnan(drift(_scene(), _scene(), empty).shift).all()
    assert torch.isnan(drift(_scene(), _scene(5.0), radius_px=1.0).shift).any()
    assert torch.isnan(drift(_scene()[:1], _scene()[:1]).error).all()


def test_a_radius_beyond_a_quarter_is_refused() -> None:
    with pytest.raises(ValueError, match="a quarter of the patch"):
        drift(_scene(), _scene(), radius_px=16)
