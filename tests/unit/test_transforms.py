from __future__ import annotations

import numpy as np
import pytest
import torch

from rsgeo_gan.sensors import Scaler
from rsgeo_gan.transforms import Augmentation, Denormalize, Normalize

SCALER = Scaler("sentinel1-rtc", "dB", ("VV", "VH"), (-25.0, -32.0), (0.0, -5.0))


def test_normalising_agrees_with_the_scaler(rng: np.random.Generator) -> None:
    values = rng.uniform(-40, 10, (2, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(Normalize(SCALER)(torch.from_numpy(values)), SCALER.forward(values), atol=1e-6)


def test_undoing_it_gives_back_what_was_not_clipped(rng: np.random.Generator) -> None:
    values = torch.from_numpy(rng.uniform(-24.9, -5.1, (3, 2, 4, 4)).astype(np.float32))
    torch.testing.assert_close(Denormalize(SCALER)(Normalize(SCALER)(values)), values, atol=1e-4, rtol=0)


def test_invalid_pixels_become_zero_even_when_nan() -> None:
    image, mask = torch.full((2, 2, 2), -10.0), torch.ones(1, 2, 2)
    image[:, 0, 1], mask[0, 0, 1] = torch.nan, 0
    out = Normalize(SCALER)(image, mask)
    assert out[:, 0, 1].tolist() == [0, 0]
    assert torch.isfinite(out).all()


def test_another_band_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected 2 bands \(VV, VH\) in dimension -3, got \(3, 4, 4\)"):
        Normalize(SCALER)(torch.zeros(3, 4, 4))


def batch() -> dict[str, torch.Tensor]:
    image = torch.arange(4 * 2 * 6 * 6, dtype=torch.float32).reshape(4, 2, 6, 6)
    return {
        "image": image,
        "image_target": torch.nn.functional.interpolate(image, scale_factor=2),
        "mask_valid": image[:, :1],
        "confidence": torch.arange(4.0),
        "origin_px": torch.arange(8).reshape(4, 2),
        "tile": torch.arange(4),
    }


def test_without_flips_nothing_moves() -> None:
    before = batch()
    after = Augmentation()(batch())
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_flips_move_images_and_masks_together_and_nothing_else() -> None:
    torch.manual_seed(0)
    before, after = batch(), Augmentation(flips=True)(batch())
    assert not torch.equal(before["image"], after["image"])
    torch.testing.assert_close(after["mask_valid"], after["image"][:, :1])
    torch.testing.assert_close(after["image_target"], torch.nn.functional.interpolate(after["image"], scale_factor=2))
    for key in ("confidence", "origin_px", "tile"):
        assert torch.equal(before[key], after[key])
