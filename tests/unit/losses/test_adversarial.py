from __future__ import annotations

import math

import pytest
import torch

from rsgeo_gan.losses import AdversarialLoss, Hinge, LeastSquares, NonSaturating, Wasserstein

ALL = [LeastSquares(), Hinge(), NonSaturating(), Wasserstein()]


@pytest.mark.parametrize(
    ("loss", "generator", "discriminator"),
    [
        (LeastSquares(), 1.0, 0.5),
        (Hinge(), 0.0, 2.0),
        (NonSaturating(), math.log(2), 2 * math.log(2)),
        (Wasserstein(), 0.0, 0.0),
    ],
    ids=lambda v: type(v).__name__,
)
def test_undecided_logits_give_the_known_values(loss: AdversarialLoss, generator: float, discriminator: float) -> None:
    zeros = torch.zeros(2, 1, 3, 3)
    assert loss.generator(zeros).item() == pytest.approx(generator)
    assert loss.discriminator(zeros, zeros).item() == pytest.approx(discriminator)


def test_least_squares_is_zero_at_its_targets() -> None:
    ones, zeros = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    assert LeastSquares().generator(ones) == 0
    assert LeastSquares().discriminator(ones, zeros) == 0


@pytest.mark.parametrize("loss", ALL, ids=lambda v: type(v).__name__)
def test_the_two_sides_pull_the_fake_logits_apart(loss: AdversarialLoss) -> None:
    fake = torch.zeros(1, 1, 2, 2, requires_grad=True)
    (g,) = torch.autograd.grad(loss.generator(fake), fake)
    (d,) = torch.autograd.grad(loss.discriminator(torch.zeros(1, 1, 2, 2), fake + 0.1), fake)
    assert (g < 0).all()
    assert (d > 0).all()


@pytest.mark.parametrize("loss", ALL, ids=lambda v: type(v).__name__)
def test_masked_logits_do_not_count(loss: AdversarialLoss) -> None:
    mask = torch.tensor([[[[1.0, 0.0]]]])
    a, b = torch.tensor([[[[0.3, 5.0]]]]), torch.tensor([[[[0.3, -7.0]]]])
    assert loss.generator(a, mask=mask) == loss.generator(b, mask=mask)
    assert loss.discriminator(a, b, mask, mask) == loss.discriminator(b, a, mask, mask)
