"""Consistency, synthesis and correctness against numbers of the package opensr-test 1.3.3, and their parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from skimage.exposure import match_histograms
from skimage.registration import phase_cross_correlation
from torch import Tensor
from torch.nn import functional as F

from rsgeo_gan.metrics import consistency, correctness, harmonised, normalised_difference, synthesis
from rsgeo_gan.metrics.offsets import offset
from rsgeo_gan.metrics.opensr import _matched

THEIRS = {
    "soft": (0.00811, 1.3645, 0.07211, 0.01066, 0.23193, 0.6668, 0.10127),
    "half": (0.00704, 1.07303, 0.05657, 0.01535, 0.07227, 0.2973, 0.63044),
    "invented": (0.00811, 1.36468, 0.07211, 0.02371, 0.56072, 0.26934, 0.16993),
    "moved": (0.01605, 2.53013, 0.35777, 0.01492, 0.07405, 0.32472, 0.60124),
}
"""Reflectance, spectral, spatial, synthesis, hallucination, omission, improvement: `Metrics().compute(lr, sr, hr)`."""


@pytest.fixture(scope="module")
def images() -> dict[str, Tensor]:
    """Return made-up fields, their coarse image, and four ways to sharpen it; no random numbers."""
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    waves = [torch.sin(0.9 * rows * a + 0.7 * columns * b) for a, b in ((0.3, 1.0), (1.1, -0.4), (0.05, 0.08))]
    fields = (torch.sin(rows / 7) * torch.sin(columns / 9) > 0.2).float()
    bands = [0.2 + 0.1 * fields + 0.03 * (w * waves[0] + waves[1]) + 0.04 * waves[2] for w in (0.5, 1.0, -0.5)]
    target = torch.stack(bands)[None]
    low = F.avg_pool2d(target, 4)
    soft = F.interpolate(low, scale_factor=4, mode="bicubic")
    return {
        "low": low,
        "target": target,
        "soft": soft,
        "half": 0.5 * (soft + target),
        "invented": soft + 0.05 * torch.sin(2.1 * rows + 1.7 * columns),
        "moved": torch.roll(0.5 * (soft + target), (1, 2), (2, 3)),
    }


@pytest.mark.parametrize("name", THEIRS)
def test_scores_are_those_of_the_package(images: dict[str, Tensor], name: str) -> None:
    low, made, target = images["low"], images[name], images["target"]
    ours = [*consistency(low, made), synthesis(low, made, target), *correctness(low, made, target)]
    assert [value.item() for value in ours] == pytest.approx(THEIRS[name], abs=2e-4)


def test_shares_sum_to_one_and_name_what_was_done(images: dict[str, Tensor]) -> None:
    low, target = images["low"], images["target"]
    found = {name: correctness(low, images[name], target) for name in ("soft", "half", "invented")}
    for shares in found.values():
        assert sum(shares).item() == pytest.approx(1, abs=1e-5)
    assert max(range(3), key=lambda k: found["soft"][k].item()) == 1
    assert max(range(3), key=lambda k: found["half"][k].item()) == 2
    assert max(range(3), key=lambda k: found["invented"][k].item()) == 0


@pytest.mark.parametrize("garbage", [0.9, torch.nan])
def test_what_lies_under_the_mask_changes_nothing(images: dict[str, Tensor], garbage: float) -> None:
    low, target = images["low"], images["target"]
    mask = torch.ones(1, 1, 96, 96)
    mask[..., 40:56, 60:] = 0
    coarse = F.avg_pool2d(mask, 4)

    def scores(value: float) -> Tensor:
        spoiled, true = (torch.where(mask > 0, image, value) for image in (images["moved"], target))
        read = torch.where(coarse > 0, low, value)
        kept = consistency(read, spoiled, coarse)
        return torch.stack([*kept, synthesis(read, spoiled, true, mask), *correctness(read, spoiled, true, mask)])

    found = scores(0.0)
    assert found.isfinite().all()
    assert torch.equal(scores(garbage), found)
    reflectance, spectral, _ = consistency(low, images["moved"])
    torch.testing.assert_close(found[:2], torch.stack([reflectance, spectral]), atol=0, rtol=0.1)
    torch.testing.assert_close(found[3], synthesis(low, images["moved"], target), atol=0, rtol=0.1)
    assert synthesis(low, images["half"], target, 0 * mask).isnan().all()
    assert torch.stack(correctness(low, images["half"], target, 0 * mask)).isnan().all()


def test_histograms_and_offsets_agree_with_scikit_image(images: dict[str, Tensor]) -> None:
    random = np.random.default_rng(0)
    a, b = random.gamma(2.0, size=500).round(1), random.normal(size=300)
    expected = match_histograms(a, b)
    np.testing.assert_allclose(_matched(torch.from_numpy(a), torch.from_numpy(b)), expected, atol=1e-12)
    grey, moved = images["target"].mean(dim=1), images["moved"].mean(dim=1)
    theirs, *_ = phase_cross_correlation(grey[0].double().numpy(), moved[0].double().numpy(), upsample_factor=50)
    assert offset(images["moved"], images["target"], None)[0].tolist() == pytest.approx(theirs[::-1], abs=1e-6)


def test_an_image_that_is_only_brighter_and_shifted_is_harmonised_to_the_target(images: dict[str, Tensor]) -> None:
    target = images["target"]
    other = 1.5 * torch.roll(target, (2, -1), (2, 3)) + 0.05
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(harmonised(other, target)[inner], target[inner], atol=0.01, rtol=0)


def test_a_difference_is_relative_to_the_brightness() -> None:
    dark, bright = torch.full((1, 2, 4, 4), 0.01), torch.full((1, 2, 4, 4), 0.1)
    for level in (dark, bright):
        torch.testing.assert_close(normalised_difference(level, 3 * level), torch.full((1, 1, 4, 4), 0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda v: consistency(v["low"][..., :-1], v["soft"]), "one integer s"),
        (lambda v: synthesis(v["low"], v["soft"], v["target"], border_px=48), "nothing is left"),
        (lambda v: synthesis(v["low"], v["soft"], v["target"], border_px=18), "multiple of the scale 4"),
    ],
)
def test_what_does_not_fit_is_refused(
    images: dict[str, Tensor], call: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(images)
