"""Gradient penalties of the discriminator, in float32 even under mixed precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gradient_penalty", "r1", "r2"]


def gradient_penalty(images: Tensor, discriminator: Callable[[Tensor], Tensor], gamma: float = 1.0) -> Tensor:
    """Half of gamma times the squared gradient norm of the summed logits, averaged over samples.

    Reference: Mescheder et al., 2018, arXiv:1801.04406 (equation 9).

    Args:
        images: Where the gradient is taken, shape (B, C, H, W).
        discriminator: From images to logits, shape (B, 1, h, w); run here with autocast off.
        gamma: Weight of the penalty as the literature states it.

    Returns:
        Scalar, float32, differentiable in the discriminator's weights.
    """
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
        at = images.detach().float().requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(at).float().sum(), at, create_graph=True)
        return 0.5 * gamma * gradient.square().sum(dim=(1, 2, 3)).mean()


def r1(real: Tensor, discriminator: Callable[[Tensor], Tensor], gamma: float = 1.0) -> Tensor:
    """Gradient penalty on real images; see `gradient_penalty`."""
    return gradient_penalty(real, discriminator, gamma)


def r2(fake: Tensor, discriminator: Callable[[Tensor], Tensor], gamma: float = 1.0) -> Tensor:
    """Gradient penalty on generated images; see `gradient_penalty`."""
    return gradient_penalty(fake, discriminator, gamma)
