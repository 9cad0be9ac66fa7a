"""What holds for every generator and discriminator of image synthesis."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rsgeo_gan.losses import gradient_penalty
from rsgeo_gan.models import (
    DCGANDiscriminator,
    DCGANGenerator,
    RelativisticDiscriminator,
    RelativisticGenerator,
    StyleDiscriminator,
    StyleGenerator,
    SynthesisDiscriminator,
    SynthesisGenerator,
)

GENERATORS = (DCGANGenerator, RelativisticGenerator, StyleGenerator)
DISCRIMINATORS = (DCGANDiscriminator, RelativisticDiscriminator, StyleDiscriminator)
every_generator = pytest.mark.parametrize("kind", GENERATORS)
every_discriminator = pytest.mark.parametrize("kind", DISCRIMINATORS)


def awake(network: Any) -> Any:
    """Let what begins at zero (noise, ends of residual branches, biases) count."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, 0.0, 0.1)
    return network


def generator(kind: type, bands: int = 3, size: int = 16, **more: Any) -> SynthesisGenerator:
    torch.manual_seed(0)
    return awake(kind(bands, size, 4, 16, latent_dim=8, **more))


def discriminator(kind: type, bands: int = 3, size: int = 16, **more: Any) -> SynthesisDiscriminator:
    torch.manual_seed(0)
    return awake(kind(bands, size, 4, 16, **more))


def image(bands: int = 3, size: int = 16, count: int = 4) -> Tensor:
    return torch.rand(count, bands, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def classes(*labels: int, count: int = 3) -> Tensor:
    """One-hot conditions coded -1 and +1."""
    return torch.eye(count)[list(labels)] * 2 - 1


@every_generator
@pytest.mark.parametrize(("bands", "size"), [(1, 8), (13, 16), (4, 24), (2, 40)])
def test_any_bands_and_sizes_come_out(kind: type, bands: int, size: int) -> None:
    network = generator(kind, bands, size)
    made = network(network.draw(3))
    assert made.shape == (3, bands, size, size)
    assert made.dtype == torch.float32
    assert 0.01 < made.std() < 10


@every_discriminator
@pytest.mark.parametrize(("bands", "size"), [(1, 8), (13, 16), (4, 24), (2, 40)])
def test_any_bands_and_sizes_are_judged(kind: type, bands: int, size: int) -> None:
    logits = discriminator(kind, bands, size)(image(bands, size, 3))
    assert logits.shape == (3, 1)
    assert logits.dtype == torch.float32
    assert logits.std() > 0


@pytest.mark.parametrize("kind", [*GENERATORS, *DISCRIMINATORS])
@pytest.mark.parametrize("size", [4, 18, 44, 7])
def test_sizes_that_no_doubling_reaches_are_refused(kind: type, size: int) -> None:
    with pytest.raises(ValueError, match=f"at least 8, got {size}; take 32"):
        kind(3, size)


@every_generator
def test_taps_are_named_after_their_resolution_and_the_head_makes_the_image(kind: type) -> None:
    network = generator(kind, size=48).eval()
    z = network.draw(2)
    assert network.taps == ("b6", "b12", "b24", "b48")
    features = network.forward_features(z, taps=("b12", "b48"))
    assert {name for name in features if not name.startswith("_")} == {"b12", "b48"}
    for name in ("b12", "b48"):
        px = int(name[1:])
        assert features[name].shape == (2, network.tap_channels[name], px, px)
    assert torch.equal(network.forward_head(features), network(z))


@every_discriminator
def test_a_tap_is_the_output_of_the_block_that_leaves_its_resolution(kind: type) -> None:
    network = discriminator(kind, size=48)
    assert network.taps == ("b48", "b24", "b12")
    features = network.forward_features(image(size=48), network.taps)
    assert set(features) == {"last", *network.taps}
    for name in network.taps:
        px = int(name[1:]) // 2
        assert features[name].shape == (4, network.tap_channels[name], px, px)
    assert torch.equal(network.forward_head(features), network(image(size=48)))
    assert set(network.forward_features(image(size=48))) == {"last"}


def test_a_tap_that_does_not_exist_is_refused_with_those_that_do() -> None:
    for kind in GENERATORS:
        network = generator(kind)
        with pytest.raises(ValueError, match=r"unknown taps \['b32'\]; choose from \('b4', 'b8', 'b16'\)"):
            network.forward_features(network.draw(1), taps=("b8", "b32"))
    for kind in DISCRIMINATORS:
        with pytest.raises(ValueError, match=r"unknown taps \['b4'\]; choose from \('b16', 'b8'\)"):
            discriminator(kind).forward_features(image(), taps=("b4",))


@every_generator
def test_a_generator_draws_no_frame(kind: type) -> None:
    network = generator(kind, size=32).eval()
    for name, parameter in network.named_parameters():
        if name in ("constant", "basis", "dense.weight", "dense.bias"):
            # The coarsest map is flat; what differs along the edges would stem from the layers alone.
            nn.init.constant_(parameter, 0.5)
        if name.endswith("strength"):
            nn.init.zeros_(parameter)
    made = network(network.draw(2))
    assert made.std(dim=(2, 3)).max() < 1e-5 * made.abs().max()


@every_generator
def test_a_latent_makes_one_image_alone_or_in_a_batch(kind: type) -> None:
    network = generator(kind).eval()
    z = network.draw(4)
    torch.testing.assert_close(network(z[1:2]), network(z)[1:2], atol=1e-5, rtol=1e-5)


@every_generator
def test_the_seed_decides(kind: type) -> None:
    network = generator(kind).train()
    source = torch.Generator()
    made = []
    for _ in range(2):
        torch.manual_seed(5)
        made.append(network(network.draw(3, source.manual_seed(3))))
    assert torch.equal(*made)


@every_generator
@pytest.mark.parametrize("pair", [classes(0, 1), torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.2], [0.4]])])
def test_a_condition_changes_the_image(kind: type, pair: Tensor) -> None:
    network = generator(kind, condition_dim=pair.shape[1]).eval()
    z = network.draw(1).expand(2, -1)
    one, other = network(z, pair)
    assert (one - other).abs().mean() > 0.005 * one.std()


@every_discriminator
@pytest.mark.parametrize("pair", [classes(0, 1), torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.2], [0.4]])])
def test_a_condition_changes_the_logit_and_not_the_features(kind: type, pair: Tensor) -> None:
    network = discriminator(kind, condition_dim=pair.shape[1])
    features = network.forward_features(image(count=1).expand(2, -1, -1, -1))
    one, other = network.forward_head(features, pair)
    assert (one - other).abs() > 1e-4


@pytest.mark.parametrize("kind", [*GENERATORS, *DISCRIMINATORS])
def test_a_condition_that_does_not_fit_is_refused(kind: type) -> None:
    judge = kind in DISCRIMINATORS
    make = discriminator if judge else generator
    given = image(count=2) if judge else torch.randn(2, 8)
    with pytest.raises(ValueError, match=r"expected a condition of shape \(2, 3\), got None"):
        make(kind, condition_dim=3)(given)
    with pytest.raises(ValueError, match=r"expected a condition of shape \(2, 3\), got \(2, 4\)"):
        make(kind, condition_dim=3)(given, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"expected a condition of shape None, got \(2, 3\)"):
        make(kind)(given, torch.zeros(2, 3))


def test_latents_and_images_of_another_shape_are_refused() -> None:
    for kind in GENERATORS:
        with pytest.raises(ValueError, match=r"expected a latent of shape \(B, 8\), got \(2, 9\)"):
            generator(kind)(torch.randn(2, 9))
    for kind in DISCRIMINATORS:
        with pytest.raises(ValueError, match=r"expected \(B, 3, 16, 16\), got \(4, 4, 16, 16\)"):
            discriminator(kind)(image(4))
        with pytest.raises(ValueError, match=r"expected \(B, 3, 16, 16\), got \(4, 3, 24, 24\)"):
            discriminator(kind)(image(size=24))


@pytest.mark.parametrize("kinds", list(zip(GENERATORS, DISCRIMINATORS, strict=True)))
def test_every_weight_of_a_pair_learns(kinds: tuple[type, type]) -> None:
    made, judge = generator(kinds[0], condition_dim=3), discriminator(kinds[1], condition_dim=3)
    condition = classes(0, 1, 2, 0)
    judge(made(made.draw(4), condition), condition).square().sum().backward()
    for name, parameter in [*made.named_parameters(), *judge.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_discriminator
def test_the_slope_penalty_has_a_gradient_in_the_weights_before_the_logit(kind: type) -> None:
    network = discriminator(kind)
    gradient_penalty(image(), network).backward()
    learns = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name for name, p in network.named_parameters() if p.ndim == 4} <= learns


@pytest.mark.parametrize("kinds", list(zip(GENERATORS, DISCRIMINATORS, strict=True)))
def test_mixed_precision_keeps_float32_results_close(kinds: tuple[type, type]) -> None:
    made, judge = generator(kinds[0]).eval(), discriminator(kinds[1])
    z = made.draw(4)
    full, logits = made(z), judge(image())
    with torch.autocast("cpu", torch.bfloat16):
        mixed, mixed_logits = made(z), judge(image())
        features = made.forward_features(z, taps=("b16",))["b16"]
    assert features.dtype == torch.bfloat16
    assert mixed.dtype == mixed_logits.dtype == torch.float32
    assert (mixed - full).abs().max() < 0.05 * full.abs().max()
    assert (mixed_logits - logits).abs().max() < 0.05 * logits.abs().max()


def test_styles_are_drawn_towards_the_mean_from_the_first_batch_on() -> None:
    torch.manual_seed(0)
    network = StyleGenerator(2, 8, width=4, max_width=8, latent_dim=6, mixing=0.0)
    z = torch.randn(64, 6)
    with torch.no_grad():
        first = network.style(z)[:, 0].mean(dim=0)
        torch.testing.assert_close(network.mean_style, first)
        second = network.style(2 + z)[:, 0].mean(dim=0)
        torch.testing.assert_close(network.mean_style, torch.lerp(first, second, 0.002))
        network.eval().truncate(0.0)
        torch.testing.assert_close(network.style(z[:1])[0, 0], network.mean_style)


@pytest.mark.parametrize("kinds", list(zip(GENERATORS, DISCRIMINATORS, strict=True)))
def test_a_pair_is_one_graph_for_the_compiler(kinds: tuple[type, type]) -> None:
    made, judge = generator(kinds[0], size=8, condition_dim=3).eval(), discriminator(kinds[1], size=8, condition_dim=3)
    z, condition = made.draw(2), classes(0, 2)

    def both(z: Tensor, condition: Tensor) -> Tensor:
        return judge(made(z, condition), condition)

    compiled = torch.compile(both, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(z, condition), both(z, condition))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # names of jsonargparse 4.44 that newer ones replace
@pytest.mark.parametrize("kind", [*GENERATORS, *DISCRIMINATORS])
def test_a_network_comes_from_a_line_of_yaml(kind: type) -> None:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    words = f"{{class_path: rsgeo_gan.models.{kind.__name__}, init_args: {{size_px: 8, width: 4, condition_dim: 2, "
    words += "in_channels: 3}}" if kind in DISCRIMINATORS else "out_channels: 3}}"
    network = parser.instantiate_classes(parser.parse_object({"network": words})).network
    assert type(network) is kind
    assert (network.size_px, network.condition_dim) == (8, 2)
