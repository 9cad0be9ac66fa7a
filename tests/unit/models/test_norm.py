from __future__ import annotations

import pytest
import torch
from torch import nn

from rsgeo_gan.models import (
    ResNetGenerator,
    SceneNorm,
    collecting,
    frozen_state,
    is_frozen,
    load_frozen_state,
    unfreeze,
)


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0)) * 4 + 7


def test_instance_mode_gives_zero_mean_and_unit_variance_per_sample(features: torch.Tensor) -> None:
    y = SceneNorm(3)(features)
    assert y.mean(dim=(2, 3)).abs().max() < 1e-5
    assert (y.var(dim=(2, 3), correction=0) - 1).abs().max() < 1e-4


def test_whole_mask_changes_nothing(features: torch.Tensor) -> None:
    norm = SceneNorm(3, affine=True)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.bias.copy_(torch.tensor([0.5, 0.0, -1.0]))
    torch.testing.assert_close(norm(features, torch.ones(2, 1, 8, 10)), norm(features), atol=1e-5, rtol=1e-5)


def test_invalid_pixels_never_change_valid_ones(features: torch.Tensor) -> None:
    mask = torch.ones(2, 1, 8, 10)
    mask[..., :4] = 0
    spoiled = torch.where(mask > 0, features, torch.tensor(1e4))
    norm = SceneNorm(3)
    a, b = norm(features, mask), norm(spoiled, mask)
    assert torch.equal(a[..., 4:], b[..., 4:])
    torch.testing.assert_close(a[..., 4:], SceneNorm(3)(features[..., 4:]), atol=1e-5, rtol=1e-5)


def test_sample_without_valid_pixels_stays_finite_and_zero(features: torch.Tensor) -> None:
    y = SceneNorm(3)(features, torch.zeros(2, 1, 8, 10))
    assert torch.equal(y, torch.zeros_like(y))


def test_mask_of_another_size_is_refused(features: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected a mask of \(8, 10\), got \(4, 5\)"):
        SceneNorm(3)(features, torch.ones(2, 1, 4, 5))


def test_frozen_moments_pool_batch_and_space(features: torch.Tensor) -> None:
    norm = SceneNorm(3)
    with collecting(norm):
        norm(features)
    torch.testing.assert_close(norm.mean, features.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.variance, features.var(dim=(0, 2, 3), correction=0))
    assert norm.mean.dtype == torch.float32


def test_frozen_moments_count_valid_pixels_only(features: torch.Tensor) -> None:
    mask = torch.ones(2, 1, 8, 10)
    mask[1] = 0
    norm = SceneNorm(3)
    with collecting(norm):
        norm(features, mask)
    torch.testing.assert_close(norm.mean, features[0].mean(dim=(1, 2)), atol=1e-5, rtol=1e-5)


def test_later_layers_are_collected_behind_frozen_earlier_ones() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(SceneNorm(2), nn.Conv2d(2, 3, 3), nn.ReLU(), SceneNorm(3))
    windows = torch.randn(4, 2, 9, 9) * torch.tensor([1.0, 5.0, 0.1, 2.0]).view(4, 1, 1, 1)
    with collecting(network):
        network(windows)
    pooled = network(windows)  # the samples share constants, so only the pooled output is normalised
    assert pooled.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (pooled.var(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-3


def test_second_pass_inside_the_context_uses_the_first_ones_moments(features: torch.Tensor) -> None:
    norm = SceneNorm(3)
    with collecting(norm):
        norm(features)
        first = norm.mean.clone()
        norm(features * 9)
    assert torch.equal(norm.mean, first)


def test_unfreeze_restores_instance_statistics(features: torch.Tensor) -> None:
    norm = SceneNorm(3)
    before = norm(features)
    with collecting(norm):
        norm(features)
    assert not torch.allclose(norm(features), before, atol=1e-3)
    unfreeze(norm)
    assert not is_frozen(norm)
    assert torch.equal(norm(features), before)


def test_leaving_without_a_pass_is_refused() -> None:
    generator = ResNetGenerator(1, 1, width=4, blocks=1)
    with (
        pytest.raises(ValueError, match=r"no data passed through 7 of 7 .*encoder\.stem\.norm"),
        collecting(generator),
    ):
        pass
    assert not is_frozen(generator)


def test_an_error_while_collecting_leaves_the_network_unfrozen() -> None:
    generator = ResNetGenerator(1, 1, width=4, blocks=1)

    def run() -> None:
        with collecting(generator):
            generator(torch.rand(1, 1, 16, 16))
            generator(torch.rand(1, 2, 16, 16))

    with pytest.raises(ValueError, match=r"expected \(B, 1, H, W\)"):
        run()
    assert not is_frozen(generator)


def test_frozen_state_travels_to_another_copy() -> None:
    torch.manual_seed(0)
    a = ResNetGenerator(2, 1, width=4, blocks=1)
    b = ResNetGenerator(2, 1, width=4, blocks=1)
    b.load_state_dict(a.state_dict())
    with collecting(a):
        a(torch.rand(3, 2, 32, 32))
    state = frozen_state(a)
    load_frozen_state(b, state)
    x = torch.rand(1, 2, 24, 24)
    assert torch.equal(a(x), b(x))
    assert {v.dtype for v in state.values()} == {torch.float32}


def test_frozen_state_is_no_part_of_a_checkpoint() -> None:
    generator = ResNetGenerator(1, 1, width=4, blocks=1)
    names = set(generator.state_dict())
    with collecting(generator):
        generator(torch.rand(1, 1, 16, 16))
    assert set(generator.state_dict()) == names


def test_moments_of_another_network_are_refused() -> None:
    a = ResNetGenerator(1, 1, width=4, blocks=1)
    with collecting(a):
        a(torch.rand(1, 1, 16, 16))
    b = ResNetGenerator(1, 1, width=4, blocks=2)
    with pytest.raises(ValueError, match="expected 18 moments, got 14"):
        load_frozen_state(b, frozen_state(a))
    assert not is_frozen(b)


def test_export_of_an_unfrozen_network_is_refused() -> None:
    with pytest.raises(ValueError, match="is not frozen; run `collecting` first"):
        frozen_state(ResNetGenerator(1, 1, width=4, blocks=0))


def test_half_precision_keeps_float32_moments() -> None:
    norm = SceneNorm(2)
    x = torch.rand(2, 2, 8, 8) + 100
    with collecting(norm):
        norm(x.bfloat16())
    assert norm.variance.dtype == torch.float32
    assert norm(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("affine", [False, True])
def test_masked_normalisation_has_exact_first_and_second_gradients(affine: bool) -> None:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=random).requires_grad_()
    mask = (torch.rand(2, 1, 3, 4, generator=random) > 0.3).double()
    norm = SceneNorm(2, affine=affine).double()
    assert torch.autograd.gradcheck(lambda v: norm(v, mask), (x,))
    assert torch.autograd.gradgradcheck(lambda v: norm(v, mask), (x,))
