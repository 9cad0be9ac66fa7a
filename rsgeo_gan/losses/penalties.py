"""Gradient penalties of the discriminator, in float32 even under mixed precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gradient_penalty", "interpolated_penalty", "r1", "r2"]


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


def interpolated_penalty(
    real: Tensor, fake: Tensor, discriminator: Callable[[Tensor], Tensor], mask: Tensor | None = None
) -> Tensor:
    """Squared distance from 1 of the discriminator's slope, between real and fake images, averaged over samples.

    Reference: Gulrajani et al., 2017, arXiv:1704.00028 (WGAN-GP). The slope is the norm of the gradient of the summed
    logits over all bands and pixels, divided by the root of the number of valid pixels: a patch discriminator has
    then one penalty for images of any size. For a discriminator of single pixels it is the slope of the original.

    Args:
        real: Shape (B, C, H, W).
        fake: Same shape.
        discriminator: From images to logits, shape (B, 1, h, w), zero where they do not count; run here with autocast
            off.
        mask: Validity of the images, shape (B, 1, H, W).

    Returns:
        Scalar, float32, differentiable in the discriminator's weights; zero when nothing is valid.
    """
    with torch.enable_grad(), torch.autocast(real.device.type, enabled=False):
        share = torch.rand(len(real), 1, 1, 1, device=real.device)
        at = torch.lerp(fake.detach().float(), real.detach().float(), share).requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(at).float().sum(), at, create_graph=True)
        counted = torch.ones_like(at[:, :1]) if mask is None else mask.float()
        pixels = counted.sum(dim=(1, 2, 3))
        slope = (gradient.square().sum(dim=(1, 2, 3)) / pixels.clamp_min(1) + 1e-12).sqrt()
        held = (pixels > 0).float()
        return ((slope - 1).square() * held).sum() / held.sum().clamp_min(1)
