"""Loss of texture transfer: statistics of features, not their places, are to be those of the textures transferred.

References: Zhang et al., 2019, arXiv:1903.00834 (SRNTT); Gatys et al., 2015, arXiv:1505.07376 (Gram matrix).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["gram", "texture_loss"]

_QUARTER = 0.25
_LEAST = 1e-2
"""Mean square of a Gram matrix of standardised features below which a texture is none to compare with."""


def gram(features: Tensor, weight: Tensor | None = None) -> Tensor:
    """Compute products of channels, averaged over places.

    Args:
        features: Shape (B, C, h, w).
        weight: Of each place, shape (B, 1, h, w), which multiplies its features; 1 when None.

    Returns:
        Mean over all places, shape (B, C, C), float32.
    """
    flat = features.float().flatten(2)
    if weight is not None:
        flat = flat * weight.float().flatten(2)
    # A product would be rounded to half its digits under mixed precision.
    with torch.autocast(flat.device.type, enabled=False):
        return flat @ flat.transpose(1, 2) / flat.shape[-1]


def texture_loss(
    fake: Mapping[str, Tensor],
    swapped: Mapping[str, Tensor],
    weight: Tensor | Mapping[str, Tensor] | None = None,
    *,
    asymmetric: bool = False,
) -> Tensor:
    """Mean squared difference of Gram matrices, as a share of the mean square of the wanted one, averaged over levels.

    What is little trusted counts little: the loss falls with the fourth power of the weight. As a share of the texture
    that is to be reached, a bright object among standardised features does not outweigh all other images of a batch.

    Args:
        fake: Features of the made image by level, shape (B, C, h, w); gradients reach them.
        swapped: Textures put in place from the reference, of the same levels and shapes; no gradient reaches them.
        weight: Trust in each place of the match, shape (B, 1, h, w), resized to each level, or one by level; 1 when
            None. Both arguments are weighted.
        asymmetric: The form in print instead: (1 / 4 V²) ||G(fake · w) - G(swapped)||_F with Gram matrices of sums,
            V the number of values of a level, and the weight on one argument only.

    Returns:
        Scalar, float32.

    Raises:
        ValueError: If there is no level, or levels or shapes differ.
    """
    if not fake or set(fake) != set(swapped):
        raise ValueError(f"texture_loss: expected the same levels on both sides, got {list(fake)} and {list(swapped)}")
    terms = []
    for level, made in fake.items():
        wanted = swapped[level].detach()
        if made.shape != wanted.shape:
            raise ValueError(
                f"texture_loss: expected equal shapes at {level}, got {tuple(made.shape)} and {tuple(wanted.shape)}"
            )
        trust = weight[level] if isinstance(weight, Mapping) else weight
        if trust is not None:
            trust = _resized(trust.detach().float(), made)
        terms.append(_printed(made, wanted, trust) if asymmetric else _weighted(made, wanted, trust))
    return torch.stack(terms).mean()


def _weighted(made: Tensor, wanted: Tensor, trust: Tensor | None) -> Tensor:
    apart = (gram(made, trust) - gram(wanted, trust)).square().mean(dim=(1, 2))
    return _QUARTER * (apart / gram(wanted).square().mean(dim=(1, 2)).clamp_min(_LEAST)).mean()


def _printed(made: Tensor, wanted: Tensor, trust: Tensor | None) -> Tensor:
    values = made[0].numel()
    places = made.shape[-2] * made.shape[-1]
    weighted = made.float() if trust is None else made.float() * trust
    apart = (gram(weighted) - gram(wanted)) * places
    # The root has no gradient at 0.
    norm = apart.square().sum(dim=(1, 2)).clamp_min(torch.finfo(torch.float32).tiny).sqrt()
    return (_QUARTER / values**2 * norm).mean()


def _resized(weight: Tensor, like: Tensor) -> Tensor:
    if weight.shape[-2:] == like.shape[-2:]:
        return weight
    return F.interpolate(weight, size=like.shape[-2:], mode="bilinear", align_corners=False)
