from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rsgeo_gan.models import (
    RRDB,
    SRCNN,
    Bicubic,
    DetailDiscriminator,
    SRResNet,
    SuperResolver,
    UNetDiscriminator,
    enlarge,
)
from rsgeo_gan.models.resolver import PixelShuffle, reach, zoom_steps
from rsgeo_gan.models.sampling import FILL_PX

SMALL: dict[type[SuperResolver], dict[str, Any]] = {
    Bicubic: {},
    SRCNN: {"width": 8},
    SRResNet: {"width": 8, "blocks": 2},
    RRDB: {"width": 8, "blocks": 1, "growth": 4},
}
kinds = pytest.mark.parametrize("kind", list(SMALL), ids=lambda kind: kind.__name__)


def made(kind: type[SuperResolver], scale: int = 2, bands: int = 3, *, learnt: bool = False) -> Any:
    """A small network; learnt: every convolution says something."""
    torch.manual_seed(0)
    network = kind(bands, bands, scale=scale, **SMALL[kind])
    for part in network.modules() if learnt else ():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    return network.requires_grad_(False)


def image(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


@kinds
@pytest.mark.parametrize(("scale", "bands"), [(2, 1), (3, 4), (4, 13), (5, 2)])
def test_networks_of_any_scale_and_bands_begin_as_interpolation(
    kind: type[SuperResolver], scale: int, bands: int
) -> None:
    network, low = made(kind, scale, bands), image(2, bands, 5, 7)
    assert torch.equal(network(low), enlarge(low, scale))
    assert (network.in_channels, network.out_channels, network.scale, network.stride) == (bands, bands, scale, 1)


@kinds
def test_what_lies_under_nodata_changes_nothing(kind: type[SuperResolver]) -> None:
    network, low = made(kind, learnt=True), image(1, 3, 8, 9)
    mask = torch.ones(1, 1, 8, 9)
    mask[..., 2:7, 3:] = 0
    plain = network(torch.where(mask > 0, low, 0.0), mask)
    for garbage in (1e6, torch.nan):
        assert torch.equal(network(torch.where(mask > 0, low, garbage), mask), plain)


@kinds
def test_the_receptive_radius_holds_and_is_not_wasted(kind: type[SuperResolver]) -> None:
    network = made(kind, learnt=True).double()
    radius, size = network.receptive_radius_px, 2 * network.receptive_radius_px + 9
    low, middle, farthest = image(1, 3, 3, size).double(), size // 2, 0
    for column in (middle, middle + 1):
        spoiled = low.clone()
        spoiled[..., column] += 50
        moved = (network(spoiled) != network(low)).any(dim=(0, 1, 2)).nonzero().flatten() // 2
        farthest = max(farthest, int((moved - column).abs().max()))
    assert radius - FILL_PX - 2 <= farthest <= radius


@kinds
def test_masked_windows_with_their_halo_equal_the_whole_scene(kind: type[SuperResolver]) -> None:
    network, scale, step = made(kind, 3, learnt=True).double(), 3, 11
    low, mask = image(1, 3, 6, 60).double(), (image(1, 1, 6, 60, seed=1) > -0.6).double()
    whole, halo = network(low, mask), network.receptive_radius_px
    for start in range(0, 60, step):
        first, last = max(0, start - halo), start + step + halo
        part = network(low[..., first:last], mask[..., first:last])[..., scale * (start - first) :]
        wanted = whole[..., scale * start : scale * (start + step)]
        torch.testing.assert_close(part[..., : wanted.shape[-1]], wanted)


def test_the_head_of_the_content_is_the_image() -> None:
    network, low = made(SRResNet, learnt=True), image(2, 3, 5, 5)
    content = network.forward_features(low)
    assert content.shape == (2, 8, 5, 5)
    assert torch.equal(network.forward_head(content, low), network(low))


def test_output_bands_name_the_input_band_they_begin_with() -> None:
    low = image(1, 4, 6, 6)
    assert torch.equal(SRResNet(4, 2, 2, 4, 1, bands=(3, 0))(low), enlarge(low[:, [3, 0]], 2))
    assert SRCNN(2, 4, 2, 4).bands == (0, 1, 1, 1)
    with pytest.raises(ValueError, match="one of 4 input bands for each of 2 output bands, got"):
        SRCNN(4, 2, 2, 4, bands=(4, 0))


def test_squares_of_a_pixel_shuffle_begin_alike() -> None:
    torch.manual_seed(0)
    up = PixelShuffle(4, 3)(image(1, 4, 5, 5)).detach()
    squares = up.unflatten(-1, (5, 3)).unflatten(-3, (5, 3)).transpose(-3, -2).flatten(-2)
    assert float(squares.std(dim=-1).max()) < 1e-6 < float(up.std())


def test_steps_are_prime_factors_and_radii_add_up_over_grids() -> None:
    assert [zoom_steps(scale) for scale in (2, 3, 4, 5, 6, 8)] == [(2,), (3,), (2, 2), (5,), (2, 3), (2, 2, 2)]
    assert reach([(4, 4), (2, 1), (1, 3)]) == 5  # 4 fine pixels are 2 of the middle grid; with 1 more 1.5 coarse ones
    with pytest.raises(ValueError, match="expected a scale of 2 or more, got 1"):
        zoom_steps(1)


def test_details_are_learnt() -> None:
    torch.manual_seed(0)
    stripes = torch.sin(torch.arange(32) * 1.3).expand(1, 1, 32, 32)
    low, network = nn.functional.avg_pool2d(stripes, 2), SRResNet(1, 1, 2, 8, 1)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = (network(low) - stripes).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]


@kinds
def test_wrong_bands_and_masks_are_refused(kind: type[SuperResolver]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 3, h, w\), got \(1, 4, 5, 5\); give the bands"):
        made(kind)(image(1, 4, 5, 5))
    with pytest.raises(ValueError, match=r"expected a mask \(1, 1, 5, 5\), got \(1, 1, 10, 10\)"):
        made(kind)(image(1, 3, 5, 5), torch.ones(1, 1, 10, 10))


@pytest.mark.parametrize("network", [DetailDiscriminator(3, 4, 3), UNetDiscriminator(3, 4)])
def test_discriminators_take_any_size_and_ignore_what_is_invalid(network: nn.Module) -> None:
    x, mask = image(2, 3, 24, 17), torch.ones(2, 1, 24, 17)
    mask[..., :9] = 0
    logits = network.eval()(x, mask).detach()
    assert logits.shape == ((2, 1) if isinstance(network, DetailDiscriminator) else (2, 1, 24, 17))
    assert torch.equal(network(torch.where(mask > 0, x, torch.nan), mask).detach(), logits)
    assert not torch.equal(logits[0], logits[1])
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\) with H, W >= 8, got \(1, 3, 4, 9\)"):
        network(x[:1, :, :4, :9])
