from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from rsgeo_gan.models import coarsen, enlarge
from rsgeo_gan.models.sampling import UP_PX, fill, repeat_up, upsample


@pytest.mark.parametrize("scale", [2, 3, 4, 5])
def test_interpolation_is_that_of_the_cubic_kernel_and_keeps_parabolas(scale: int) -> None:
    inner = slice(UP_PX * scale, -UP_PX * scale)
    x = torch.rand(1, 2, 9, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = F.interpolate(x, scale_factor=scale, mode="bicubic", antialias=True)
    torch.testing.assert_close(upsample(x, scale)[..., inner, inner], theirs[..., inner, inner])
    coarse = torch.arange(12, dtype=torch.float64)
    fine = (torch.arange(12 * scale, dtype=torch.float64) + 0.5) / scale - 0.5
    made = upsample((coarse**2 - 3 * coarse).expand(1, 1, 8, 12), scale)
    torch.testing.assert_close(made[0, 0, 5, inner], (fine**2 - 3 * fine)[inner])


def test_what_lies_under_a_gap_is_ignored_and_its_border_is_continued() -> None:
    x = torch.ones(1, 1, 9, 9)
    mask = torch.ones_like(x)
    mask[..., 2:7, 2:7] = 0
    spoiled = torch.where(mask > 0, x, torch.nan)
    filled = fill(spoiled, mask)
    assert torch.allclose(
        filled, torch.where(torch.ones(9, 9).bool(), 1.0, 0.0) - (torch.arange(81).view(9, 9) == 40) * 1
    )
    assert torch.equal(fill(x, torch.zeros_like(x)), torch.zeros_like(x))
    assert torch.equal(enlarge(spoiled, 2, mask)[..., :4, :], torch.ones(1, 1, 4, 18))


@pytest.mark.parametrize("mtf", [None, 0.2])
def test_coarse_images_keep_constants_and_squares_of_one_value_their_mean(mtf: float | None) -> None:
    torch.testing.assert_close(coarsen(torch.full((1, 2, 12, 18), 0.3), 3, mtf), torch.full((1, 2, 4, 6), 0.3))
    x = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(coarsen(repeat_up(x, 3), 3), x)


@pytest.mark.parametrize("mtf", [None, 0.2])
def test_nothing_is_rounded_under_mixed_precision(mtf: float | None) -> None:
    x = torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    wide, small = upsample(x, 2), coarsen(x, 3, mtf)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(upsample(x, 2), wide)
        assert torch.equal(coarsen(x, 3, mtf), small)


def test_what_was_first_used_in_inference_can_be_learned_through_later() -> None:
    sides = {"scale": 7, "mtf": 0.11}  # Of no other test: weights are kept once they are made.
    with torch.inference_mode():
        upsample(coarsen(torch.rand(1, 1, 14, 14), **sides), 7)  # type: ignore[arg-type]
    x = torch.rand(1, 1, 14, 14, requires_grad=True)
    upsample(coarsen(x, **sides), 7).square().sum().backward()  # type: ignore[arg-type]
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
