from __future__ import annotations

import pytest
import torch

from rsgeo_gan.metrics import RandomConv, feature_distance, feature_distance_name


@pytest.fixture(scope="module")
def tiles() -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.rand(24, 2, 32, 32, generator=random) * torch.rand(24, 1, 1, 1, generator=random)


@pytest.fixture(scope="module")
def backend(tiles: torch.Tensor) -> RandomConv:
    return RandomConv(2, dims=4).fit([tiles])


def test_texture_that_was_smoothed_away_is_seen_and_equal_images_are_equal(
    backend: RandomConv, tiles: torch.Tensor
) -> None:
    smooth = torch.nn.functional.avg_pool2d(tiles, 3, 1, 1)
    half = 0.5 * smooth + 0.5 * tiles
    assert feature_distance(tiles, tiles, backend).abs().max() < 1e-6
    assert (feature_distance(smooth, tiles, backend) > feature_distance(half, tiles, backend)).all()
    assert feature_distance_name(backend) == "FDist-random-conv-v1-seed0-2band-4d"


def test_what_lies_under_the_mask_does_not_count(backend: RandomConv, tiles: torch.Tensor) -> None:
    mask = torch.ones(len(tiles), 1, 32, 32)
    mask[..., :12] = 0
    other = 0.7 * tiles
    spoiled = torch.where(mask > 0, other, 9.0)
    torch.testing.assert_close(
        feature_distance(spoiled, tiles, backend, mask), feature_distance(other, tiles, backend, mask)
    )
    assert feature_distance(other, tiles, backend, 0 * mask).isnan().all()
