from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rsgeo_gan.models import (
    Encoder,
    ImageDecoder,
    ImageDiscriminator,
    LatentDiscriminator,
    SummedDecoders,
    SummedGenerators,
    UNetGenerator,
    start_at_zero,
)
from rsgeo_gan.models.autoencoder import comparable


def codes(count: int = 2, length: int = 6, seed: int = 0) -> Tensor:
    return 2 * torch.rand(count, length, generator=torch.Generator().manual_seed(seed)) - 1


def decoder(**more: Any) -> ImageDecoder:
    torch.manual_seed(0)
    return ImageDecoder(**{"out_channels": 3, "size_px": 32, "latent_dim": 6, "condition_dim": 2, "width": 4, **more})


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize(("bands", "conditions"), [(1, 0), (5, 3)])
def test_networks_of_one_size_fit_each_other(size: int, bands: int, conditions: int) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, bands, size, size) * 2 - 1
    condition = torch.ones(2, conditions) if conditions else None
    z = Encoder(bands, size, 6, 4)(image)
    assert z.shape == (2, 6)
    assert float(z.detach().abs().max()) <= 1
    made = ImageDecoder(bands, size, 6, conditions, 4)(z, condition)
    assert made.shape == image.shape
    assert float(made.detach().abs().max()) <= 1
    assert ImageDiscriminator(bands, size, conditions, 4, 8)(made, condition).shape == (2, 1)
    assert LatentDiscriminator(6, 8)(z).shape == (2, 1)


def test_codes_of_a_normal_prior_are_not_bounded() -> None:
    torch.manual_seed(0)
    network = Encoder(1, 32, 4, 4, prior="normal")
    image = torch.ones(1, 1, 32, 32)
    assert float(network(100 * image).detach().abs().max()) > 1


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_the_head_of_the_features_is_the_image_and_taps_have_the_size_in_their_name(norm: Any) -> None:
    network, condition = decoder(norm=norm, size_px=64).eval(), torch.ones(2, 2)
    features = network.forward_features(codes(), condition, taps=("b8", "b64"))
    assert [features[tap].shape[-1] for tap in ("b8", "b64")] == [8, 64]
    assert torch.equal(network.forward_head(features), network(codes(), condition))
    assert network.taps == ("b8", "b16", "b32", "b64")
    with pytest.raises(ValueError, match=r"unknown taps \['b128'\]; choose from \('b8'"):
        network.forward_features(codes(), condition, taps=("b128",))


def test_a_discriminator_gives_its_features_and_the_logit_of_them() -> None:
    network, x, condition = ImageDiscriminator(1, 64, 2, 4, 8), torch.rand(2, 1, 64, 64), torch.ones(2, 2)
    features = network.forward_features(x, ("b32",), condition=condition)
    assert features["b32"].shape == (2, 8, 16, 16)
    assert torch.equal(network.forward_head(features), network(x, condition))
    with pytest.raises(ValueError, match=r"unknown taps \['b8'\]"):
        network.forward_features(x, ("b8",), condition=condition)


def test_an_image_begins_small_and_a_residual_at_zero() -> None:
    z, condition = codes(), torch.ones(2, 2)
    made = decoder()(z, condition).detach()
    assert 0 < float(made.std()) < 0.9
    assert not decoder(zero=True)(z, condition).any()


def _one_hot(count: int, classes: int) -> Tensor:
    return 2.0 * nn.functional.one_hot(torch.arange(count) % classes, classes) - 1


def _phase(count: int) -> Tensor:
    angle = torch.arange(count) * 0.7
    return torch.stack([angle.sin(), angle.cos()], dim=1)


@pytest.mark.parametrize("latent", [16, 50])
@pytest.mark.parametrize(
    "condition", [_one_hot(200, 2), _one_hot(200, 10), _one_hot(200, 120), _phase(200), 2 * torch.rand(200, 1) - 1]
)
@pytest.mark.parametrize("prior", ["uniform", "normal"])
def test_a_repeated_condition_is_as_long_as_a_code(condition: Tensor, latent: int, prior: Any) -> None:
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(200, latent, generator=draw)
    if prior == "uniform":
        z = 2 * torch.rand(200, latent, generator=draw) - 1
    ratio = comparable(condition, latent, prior).square().sum(1).mean().sqrt() / z.square().sum(1).mean().sqrt()
    assert 0.5 <= float(ratio) <= 2


def test_codings_of_ones_have_the_norm_of_codes() -> None:
    repeated = comparable(torch.tensor([[1.0, -1.0, -1.0]]), 50)
    assert repeated.shape == (1, 51)
    torch.testing.assert_close(repeated.square().sum(), torch.tensor(50 / 3))


def test_the_image_is_continuous_between_two_conditions() -> None:
    network = decoder().eval()
    one, other = torch.tensor([[1.0, -1.0]]), torch.tensor([[-1.0, 1.0]])
    steps = {}
    for count in (16, 64):
        frames = [network(codes(1), torch.lerp(one, other, k / count)).detach() for k in range(count + 1)]
        steps[count] = max(float((b - a).abs().max()) for a, b in pairwise(frames))
    assert steps[16] > 0
    assert steps[64] < steps[16] / 2


@pytest.mark.parametrize("network", [decoder(), ImageDiscriminator(3, 32, 2, 4, 8)])
def test_conditions_reach_decoder_and_image_discriminator(network: nn.Module) -> None:
    given = codes() if isinstance(network, ImageDecoder) else torch.rand(2, 3, 32, 32)
    one, other = (network(given, torch.full((2, 2), value)).detach() for value in (1.0, -1.0))
    assert not torch.allclose(one, other)


def test_condition_planes_join_after_the_first_convolution_and_are_constant() -> None:
    network, seen = ImageDiscriminator(3, 32, 2, 4, 8), []
    network.downs[0].register_forward_hook(lambda _module, args, _out: seen.append(args[0]))
    assert network.first.conv.in_channels == 3
    condition = torch.tensor([[0.25, -1.0]])
    network(torch.rand(1, 3, 32, 32), condition)
    (joined,) = seen
    assert joined.shape == (1, 4 + 2, 16, 16)
    assert torch.equal(joined[:, 4:], condition[:, :, None, None].expand(1, 2, 16, 16))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Encoder(3, 48), r"Encoder: expected size_px in \(32, 64, 128\), got 48"),
        (lambda: Encoder(3, prior="cauchy"), "expected the prior uniform or normal, got 'cauchy'"),  # type: ignore[arg-type]
        (lambda: decoder(width=6), "a width that is a multiple of 4, got 6"),
        (lambda: Encoder(3, 32, 6, 4)(torch.rand(1, 2, 32, 32)), r"expected \(B, 3, 32, 32\), got \(1, 2, 32, 32\)"),
        (lambda: decoder()(codes(length=5)), r"expected codes \(B, 6\), got \(2, 5\)"),
        (lambda: decoder()(codes()), r"expected a condition \(2, 2\), got none"),
        (lambda: decoder(condition_dim=0)(codes(), torch.ones(2, 2)), "built without a condition"),
        (lambda: LatentDiscriminator(6)(torch.rand(2, 3, 32, 32)), r"expected codes \(B, 6\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_sum_is_limited_to_the_model_domain_and_says_what_its_parts_say() -> None:
    torch.manual_seed(0)
    one, other = decoder(), decoder()
    both = SummedDecoders(one, other)
    with torch.no_grad():
        for network in (one, other):
            network.head.weight.mul_(40)
    z, condition = codes(), torch.ones(2, 2)
    raw = (one(z, condition) + other(z, condition)).detach()
    assert float(raw.abs().max()) > 1
    assert torch.equal(both(z, condition), raw.clamp(-1, 1))
    assert (both.latent_dim, both.condition_dim, both.size_px, both.prior) == (6, 2, 32, "uniform")
    with pytest.raises(ValueError, match="have latent_dim 6 and 7"):
        SummedDecoders(one, decoder(latent_dim=7))


def test_a_summed_generator_needs_the_halo_of_the_larger_part() -> None:
    small, large = UNetGenerator(2, 1, 4, 2), UNetGenerator(2, 1, 4, 3)
    both = SummedGenerators(small, large).eval()
    assert (both.stride, both.receptive_radius_px) == (8, large.receptive_radius_px)
    x, mask = torch.rand(1, 2, 16, 16), torch.ones(1, 1, 16, 16)
    mask[..., :4] = 0
    torch.testing.assert_close(both(x, mask), (small(x, mask) + large(x, mask)).clamp(-1, 1))
    start_at_zero(large)
    assert torch.equal(both(x, mask), small(x, mask))


def test_a_residual_without_an_output_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="Identity: a residual starts with an output of zero"):
        start_at_zero(nn.Identity())
