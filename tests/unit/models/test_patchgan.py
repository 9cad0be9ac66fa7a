from __future__ import annotations

import pytest
import torch

from rsgeo_gan.models import PatchDiscriminator, collecting, logit_mask


def test_one_logit_sees_seventy_pixels() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(1, width=4)
    with collecting(discriminator):
        discriminator(torch.randn(2, 1, 96, 96))
    x = torch.randn(1, 1, 160, 160, requires_grad=True)
    logits = discriminator(x)
    logits[0, 0, 9, 9].backward()
    columns = x.grad[0, 0].abs().sum(dim=0).nonzero().flatten()
    assert int(columns.max() - columns.min()) + 1 == 70


def test_a_256_patch_gives_30_by_30_logits() -> None:
    assert PatchDiscriminator(2, width=4)(torch.rand(1, 2, 256, 256)).shape == (1, 1, 30, 30)


def test_head_of_features_is_forward() -> None:
    discriminator = PatchDiscriminator(2, width=4, layers=2)
    x = torch.rand(1, 2, 32, 32)
    features = discriminator.forward_features(x, ("stage0",))
    assert set(features) == {"stage0", "stage2"}
    assert torch.equal(discriminator.forward_head(features["stage2"]), discriminator(x))


def test_what_lies_under_the_mask_changes_nothing() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(2, width=4)
    x = torch.rand(1, 2, 64, 64)
    mask = torch.ones(1, 1, 64, 64)
    mask[..., :20, :] = 0
    assert torch.equal(discriminator(x, mask), discriminator(torch.where(mask > 0, x, torch.nan), mask))


def test_logit_mask_follows_the_valid_half() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    small = logit_mask(mask, torch.zeros(1, 1, 6, 6))
    assert small.shape == (1, 1, 6, 6)
    assert small[..., :3].sum() == 0
    assert small[..., 3:].mean() == 1


@pytest.mark.parametrize(("shape", "part"), [((1, 3, 64, 64), r"\(B, 2, H, W\)"), ((1, 2, 20, 64), ">= 24")])
def test_wrong_bands_and_small_patches_are_refused(shape: tuple[int, ...], part: str) -> None:
    with pytest.raises(ValueError, match=part):
        PatchDiscriminator(2, width=4)(torch.rand(shape))


@pytest.mark.parametrize("antialias", [False, True])
def test_smallest_patch_runs(antialias: bool) -> None:
    discriminator = PatchDiscriminator(1, width=4, antialias=antialias)
    n = discriminator.min_size_px
    assert torch.isfinite(discriminator(torch.rand(1, 1, n, n))).all()
