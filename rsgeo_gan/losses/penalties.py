"""Penalties on slopes, of the discriminator and of the generator, in float32 even under mixed precision."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["gradient_penalty", "interpolated_penalty", "path_length", "r1", "r2"]


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


def path_length(
    styles: Tensor, synthesis: Callable[[Tensor], Tensor], mean: Tensor, decay: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Squared distance of the generator's path lengths from their running mean, averaged over samples.

    A path length is |Jᵀ y| for the Jacobian J of the image in the style and an image y of unit normal noise over the
    root of its pixels; with several styles per sample, the root mean square of theirs.

    Reference: Karras et al., 2020, arXiv:1912.04958 (equation 4).

    Args:
        styles: Shape (B, K), or (B, L, K) for L layers. If they have a history, gradients reach what made them too.
        synthesis: From styles to images, shape (B, C, H, W); run here with autocast off.
        mean: Running mean of the lengths, a scalar; 0 at first.
        decay: Share of the batch in the new mean.

    Returns:
        The penalty, a scalar, float32, differentiable in the generator's weights and without a weight of its own; and
        the new running mean, detached, for the next call.

    Raises:
        ValueError: If the styles have another shape.
    """
    if styles.ndim not in (2, 3):
        raise ValueError(f"path_length: expected styles (B, K) or (B, L, K), got {tuple(styles.shape)}")
    with torch.enable_grad(), torch.autocast(styles.device.type, enabled=False):
        at = styles.float() if styles.requires_grad else styles.detach().float().requires_grad_()
        images = synthesis(at).float()
        noise = torch.randn_like(images) / (images.shape[-2] * images.shape[-1]) ** 0.5
        (gradient,) = torch.autograd.grad((images * noise).sum(), at, create_graph=True)
        squared = gradient.square().sum(dim=-1)  # (B,) or (B, L)
        lengths = ((squared if styles.ndim == 2 else squared.mean(dim=1)) + 1e-12).sqrt()
        fresh = torch.lerp(mean.float(), lengths.detach().mean(), decay)
        return (lengths - fresh).square().mean(), fresh
