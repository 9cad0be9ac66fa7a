from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rsgeo_gan.models import StyleDiscriminator, StyleGenerator


def generator(**more: Any) -> StyleGenerator:
    torch.manual_seed(0)
    network = StyleGenerator(3, 16, 4, 16, latent_dim=8, **more)
    for block in network.blocks:
        for layer in block.layers:
            torch.nn.init.constant_(layer.strength, 0.5)
    return network


def test_finer_layers_get_another_style_in_the_stated_share_of_samples() -> None:
    torch.manual_seed(0)
    network = generator(mixing=0.5).train()
    styles = network.style(torch.randn(400, 8))
    same = (styles == styles[:, :1]).all(dim=2)  # (B, layers)
    mixed = ~same.all(dim=1)
    assert float(mixed.float().mean()) == pytest.approx(0.5, abs=0.08)
    # Coarse layers first: once another style begins it stays.
    assert (same.int().diff(dim=1) <= 0).all()
    # A style begins at each of the layers after the first about equally often.
    starts = same[mixed].sum(dim=1)
    assert set(starts.tolist()) == set(range(1, network.style_count))


@pytest.mark.parametrize(("mixing", "training"), [(0.0, True), (1.0, False)])
def test_styles_are_not_mixed_when_it_is_off_or_in_evaluation(mixing: float, training: bool) -> None:
    styles = generator(mixing=mixing).train(training).style(torch.randn(4, 8))
    assert torch.equal(styles, styles[:, :1].expand_as(styles))


def test_the_mean_style_follows_training_and_truncation_goes_towards_it() -> None:
    network = generator(noise=False).train()
    for _ in range(3):
        network.style(torch.randn(64, 8))
    assert network.mean_style.abs().max() > 0
    network.eval()
    z = torch.randn(2, 8)
    plain = network.style(z)
    network.truncate(0.5)
    torch.testing.assert_close(network.style(z), (plain + network.mean_style) / 2)
    network.truncate(0.0)
    one, other = network(z)
    assert torch.equal(one, other)
    network.truncate(1.0)
    assert torch.equal(network.style(z), plain)


def test_noise_is_fresh_in_training_and_a_matter_of_the_latent_in_evaluation() -> None:
    network, z = generator(mixing=0.0), torch.randn(2, 8)
    assert not torch.equal(network.train()(z), network(z))
    assert torch.equal(network.eval()(z), network(z))
    fixed = generator(mixing=0.0, fixed_noise=True).train()
    assert torch.equal(fixed(z), network(z))
    silent = generator(mixing=0.0, noise=False).train()
    assert torch.equal(silent(z), silent(z))


def test_noise_of_one_style_differs_between_latents() -> None:
    network = generator().eval()
    styles = network.style(torch.randn(1, 8)).expand(2, -1, -1)
    one, other = network.forward_head(network.forward_features(torch.randn(2, 8), styles=styles))
    assert (one - other).abs().mean() > 0.1


def test_given_styles_stand_in_for_the_mapping() -> None:
    network, z = generator().eval(), torch.randn(3, 8)
    made = network.forward_features(z, taps=("b8",), styles=network.style(z))
    assert torch.equal(network.forward_head(made), network(z))
    swapped = network.forward_features(z, styles=network.style(z.flip(0)))
    assert not torch.allclose(network.forward_head(swapped), network(z), atol=0.1)


def test_a_finer_style_leaves_coarser_features_alone() -> None:
    network, z = generator().eval(), torch.randn(2, 8)
    styles = network.style(z)
    changed = styles.clone()
    changed[:, 3:] = styles.flip(0)[:, 3:]  # the layers at 16 px, and the image's shares from 8 px on
    kept, other = (network.forward_features(z, taps=("b8", "b16"), styles=s) for s in (styles, changed))
    assert torch.equal(kept["b8"], other["b8"])
    assert not torch.allclose(kept["b16"], other["b16"])


def test_the_length_of_a_latent_does_not_matter() -> None:
    network, z = generator(noise=False).eval(), torch.randn(2, 8)
    torch.testing.assert_close(network(3 * z), network(z), atol=1e-4, rtol=1e-4)


def test_features_begin_neither_vanishing_nor_growing_with_depth() -> None:
    torch.manual_seed(0)
    judge = StyleDiscriminator(4, 64, 16, 64)
    features = judge.forward_features(torch.randn(8, 4, 64, 64), judge.taps)
    assert all(0.2 < part.square().mean() < 2 for part in features.values())
    made = StyleGenerator(4, 64, 16, 64, latent_dim=16)
    parts = made.forward_features(torch.randn(8, 16), taps=made.taps)
    assert all(0.05 < parts[name].square().mean() < 2 for name in made.taps)


def test_a_batch_without_variety_is_judged_differently() -> None:
    torch.manual_seed(0)
    judge, alone = StyleDiscriminator(3, 16, 4, 16), StyleDiscriminator(3, 16, 4, 16, group=0)
    x = torch.rand(4, 3, 16, 16)

    def change(network: StyleDiscriminator) -> Tensor:
        """How much the company of a sample changes its logit."""
        return (network(x)[0] - network(x[:1].expand(4, -1, -1, -1))[0]).abs()

    assert change(judge) > 1e-3
    assert change(alone) < 1e-5


@pytest.mark.parametrize(("name", "value"), [("mapping_layers", 0), ("mixing", 1.5)])
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="mapping_layers >= 1 and 0 <= mixing <= 1"):
        generator(**{name: value})
