from __future__ import annotations

import math

import pytest
import torch

from rsgeo_gan.losses import AdversarialLoss, Hinge, LeastSquares, NonSaturating, Relativistic, Wasserstein

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


@pytest.mark.parametrize("shape", [(3, 1), (3, 1, 2, 2)])
def test_relativistic_logits_only_matter_by_their_difference_and_both_sides_mirror(shape: tuple[int, ...]) -> None:
    loss = Relativistic()
    real, fake = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss.discriminator(real + 7, fake + 7), loss.discriminator(real, fake))
    assert loss.generator(fake, real) == loss.discriminator(fake, real)
    assert loss.discriminator(real, real).item() == pytest.approx(math.log(2))
    expected = torch.log1p(torch.exp(fake - real)).mean()
    torch.testing.assert_close(loss.discriminator(real, fake), expected)


def test_relativistic_pairs_count_where_both_sides_are_valid() -> None:
    loss, logits = Relativistic(), torch.zeros(1, 1, 1, 3)
    fake, real = torch.tensor([[[[1.0, 50.0, 0.0]]]]), torch.tensor([[[[0.0, 0.0, -50.0]]]])
    mask_fake, mask_real = torch.tensor([[[[1.0, 0.0, 1.0]]]]), torch.tensor([[[[1.0, 1.0, 0.0]]]])
    one = math.log1p(math.exp(1))
    assert loss.discriminator(real, fake, mask_real, mask_fake).item() == pytest.approx(one)
    assert loss.generator(fake, real, mask_fake, mask_real).item() == pytest.approx(math.log1p(math.exp(-1)))
    assert loss.discriminator(logits, fake, None, mask_fake).item() == pytest.approx((one + math.log(2)) / 2)


def test_relativistic_loss_moves_the_fakes_only_with_detached_reals_and_refuses_unequal_batches() -> None:
    loss, fake = Relativistic(), torch.zeros(2, 1, requires_grad=True)
    assert loss.relativistic
    assert not any(other.relativistic for other in ALL)
    (pull,) = torch.autograd.grad(loss.generator(fake, torch.zeros(2, 1)), fake)
    assert (pull == -0.25).all()
    with pytest.raises(ValueError, match="needs the logits of the reals too; pass real="):
        loss.generator(fake)
    with pytest.raises(ValueError, match=r"as many reals as fakes, got logits of shapes \(2, 1\) and \(3, 1\)"):
        loss.discriminator(torch.zeros(3, 1), fake)
