from __future__ import annotations

import pytest
import torch
from torch import nn

from rsgeo_gan.models import RelativisticDiscriminator, RelativisticGenerator


def test_residual_branches_begin_silent() -> None:
    torch.manual_seed(0)
    judge = RelativisticDiscriminator(3, 16, 6, 12)
    for stage in judge.stages:
        x = torch.randn(2, stage[0].widen.in_channels, 8, 8)
        assert torch.equal(stage(x), x)


def test_at_the_start_the_image_is_linear_in_the_latent() -> None:
    torch.manual_seed(0)
    made = RelativisticGenerator(3, 16, 8, 16, latent_dim=4)
    one, other = torch.randn(2, 1, 4)
    torch.testing.assert_close(made(2 * one - other), 2 * made(one) - made(other), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("width", "group_width", "groups"), [(16, 16, 2), (24, 16, 3), (6, 16, 1), (10, 3, 5)])
def test_groups_have_at_least_the_stated_width(width: int, group_width: int, groups: int) -> None:
    made = RelativisticGenerator(1, 8, width, width, latent_dim=4, group_width=group_width)
    assert {block.mix.groups for stage in made.stages for block in stage} == {groups}


def test_no_layer_normalises() -> None:
    pair = nn.ModuleList([RelativisticGenerator(1, 8, 4), RelativisticDiscriminator(1, 8, 4)])
    assert not any("norm" in type(module).__name__.lower() for module in pair.modules())
