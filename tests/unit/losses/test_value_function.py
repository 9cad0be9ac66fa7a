"""The two-player value function on distributions whose optimum is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rsgeo_gan.losses import NonSaturating

NORMAL = torch.distributions.Normal(0.0, 1.0)


def quantiles(mean: float, count: int = 4000) -> Tensor:
    """Stand for a normal distribution without scatter, shape (count, 1)."""
    return (NORMAL.icdf((torch.arange(count) + 0.5) / count) + mean)[:, None]


def trained(real: Tensor, fake: Tensor) -> tuple[nn.Module, float]:
    """Train a logistic discriminator to the end; returns it and the value of the game."""
    torch.manual_seed(0)
    network = _Beside(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)))
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = NonSaturating().discriminator(network(real), network(fake))
        value.backward()
        return value

    optimizer.step(loss)
    return network, -float(loss().detach())


class _Beside(nn.Module):
    """A curved logit beside a straight one."""

    def __init__(self, curved: nn.Module) -> None:
        super().__init__()
        self.straight = nn.Linear(1, 1)
        self.curved = curved

    def forward(self, x: Tensor) -> Tensor:
        return self.straight(x) + self.curved(x)


def test_a_trained_discriminator_is_the_share_of_the_real_density() -> None:
    network, value = trained(quantiles(0.0), quantiles(1.0))
    x = torch.linspace(-3, 4, 141)[:, None]
    q, p = NORMAL.log_prob(x).exp(), NORMAL.log_prob(x - 1).exp()
    assert float((torch.sigmoid(network(x)) - q / (q + p)).abs().max().detach()) < 0.03
    # V(D*) = 2 JS(q, p) - log 4, the divergence by integration.
    fine = torch.linspace(-12, 13, 100_001, dtype=torch.float64)
    a, b = NORMAL.log_prob(fine).exp(), NORMAL.log_prob(fine - 1).exp()
    middle = (a + b) / 2
    js = 0.5 * torch.trapezoid(a * (a / middle).log() + b * (b / middle).log(), fine)
    assert value == pytest.approx(2 * float(js) - math.log(4), abs=3e-3)


def test_equal_distributions_leave_no_better_guess_than_a_half() -> None:
    network, value = trained(quantiles(0.0), quantiles(0.0))
    x = torch.linspace(-3, 3, 61)[:, None]
    assert float((torch.sigmoid(network(x)) - 0.5).abs().max().detach()) < 0.01
    assert value == pytest.approx(-1.386, abs=1e-3)


def test_logits_far_out_leave_loss_and_gradient_finite_in_half_precision() -> None:
    logits = torch.tensor([[300.0], [-300.0]], dtype=torch.float16, requires_grad=True)
    loss = NonSaturating().generator(logits)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(150.0)
    assert logits.grad is not None
    assert torch.equal(logits.grad.float(), torch.tensor([[0.0], [-0.5]]))
