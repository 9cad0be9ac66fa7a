from __future__ import annotations

import math

import pytest
import torch

from rsgeo_gan.losses import PatchNCE
from rsgeo_gan.losses.contrast import window_nce


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(2, 64, 10, 12, generator=torch.Generator().manual_seed(0))


def test_places_that_are_found_again_cost_next_to_nothing(features: torch.Tensor) -> None:
    assert window_nce(features, features, window=0) < 0.01
    unrelated = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    assert window_nce(features, unrelated, window=0) > math.log(120)


@pytest.mark.parametrize("window", [0, 1, 2])
def test_a_shift_within_the_window_is_forgiven_and_one_beyond_is_not(features: torch.Tensor, window: int) -> None:
    costs = [
        float(window_nce(torch.roll(features, (k, -k), dims=(2, 3)), features, window=window)) for k in (window, 3)
    ]
    assert costs[0] < costs[1] / 2


def test_invalid_places_are_neither_query_nor_key(features: torch.Tensor) -> None:
    valid = torch.ones(2, 1, 10, 12)
    valid[..., :4] = 0
    clean = window_nce(features.flip(3), features, valid)
    spoiled = torch.where(valid > 0, features, torch.tensor(1e3))
    torch.testing.assert_close(window_nce(features.flip(3) * valid, spoiled, valid), clean)


def test_the_temperature_must_be_positive() -> None:
    with pytest.raises(ValueError, match="temperature > 0, got 1, 256, 0"):
        PatchNCE(temperature=0)
