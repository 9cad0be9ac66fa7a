"""What a term that ties roughly aligned pairs together must offer, and two network-free ones.

Correspondence terms are interchangeable: a recipe injects one into the task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.losses.reconstruction import masked_mean
from rsgeo_gan.losses.shift import shift_tolerant_l1

__all__ = ["Correspondence", "PooledL1", "ShiftTolerantL1", "both_valid", "is_per_pixel"]


class Correspondence(nn.Module, ABC):
    """A term that ties each translation to the image it is paired with.

    A task calls `attach` once when its networks exist (before weights are loaded), `forward` in the
    generator step, and `update` after each generator step. Parameters that require a gradient are trained with
    the generators.

    Attributes:
        factors: Weight of a term relative to the weight the task gives the correspondence; 1 where absent.
    """

    factors: Mapping[str, float] = MappingProxyType({})

    def attach(self, generator: nn.Module, generator_back: nn.Module) -> None:
        """Meet the two networks: source to target, and back. Does nothing unless overridden."""

    def update(self, generator: nn.Module, generator_back: nn.Module) -> None:
        """Follow the networks after an optimiser step. Does nothing unless overridden."""

    @abstractmethod
    def forward(
        self,
        source: Tensor,
        target: Tensor,
        fake_source: Tensor,
        fake_target: Tensor,
        mask_source: Tensor | None = None,
        mask_target: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compare both directions.

        Args:
            source: Real source patches, shape (B, C, H, W), model domain.
            target: Real target patches, shape (B, C', H, W).
            fake_source: Source made from `target`.
            fake_target: Target made from `source`.
            mask_source: Validity of `source`, shape (B, 1, H, W).
            mask_target: Validity of `target`, shape (B, 1, H, W).
            weight: Trust in the alignment, [0, 1], per sample (B,) or per pixel (B, 1, H, W); scales the
                term and is not divided out.

        Returns:
            Named, unweighted scalars, float32.
        """


class PooledL1(Correspondence):
    """Mean absolute difference after averaging over cells: the network-free rival of `PairLoss`.

    Args:
        factor: Side of the averaged cells, in pixels.
    """

    def __init__(self, factor: int = 4) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"PooledL1: factor must be >= 1, got {factor}")
        self.factor = factor

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        fake_source: Tensor,
        fake_target: Tensor,
        mask_source: Tensor | None = None,
        mask_target: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return `pair`; a cell counts when all its pixels are valid on both sides."""
        mask = both_valid(mask_source, mask_target)
        valid = None if mask is None else 1.0 - F.max_pool2d(1.0 - mask, self.factor)
        if is_per_pixel(weight):
            weight = F.avg_pool2d(weight.float(), self.factor)
        total = torch.zeros((), device=source.device)
        for real, fake in ((source, fake_source), (target, fake_target)):
            difference = real.float() - fake.float()
            if mask is not None:
                difference = torch.where(mask > 0, difference, difference.new_zeros(()))
            total = total + masked_mean(F.avg_pool2d(difference, self.factor).abs(), valid, weight)
        return {"pair": total}


class ShiftTolerantL1(Correspondence):
    """Mean absolute difference at the best whole-tile integer offset, searched per sample and direction.

    Args:
        radius_px: Largest offset per axis, in pixels.
    """

    def __init__(self, radius_px: int = 3) -> None:
        super().__init__()
        self.radius_px = radius_px

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        fake_source: Tensor,
        fake_target: Tensor,
        mask_source: Tensor | None = None,
        mask_target: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return `pair`; a fake is valid where its input is."""
        forth = shift_tolerant_l1(
            fake_target, target, _stacked(mask_source, mask_target, target), self.radius_px, weight
        )
        back = shift_tolerant_l1(
            fake_source, source, _stacked(mask_target, mask_source, source), self.radius_px, weight
        )
        return {"pair": forth + back}


def is_per_pixel(weight: Tensor | None) -> TypeGuard[Tensor]:
    """Tell per-pixel weights from per-sample ones."""
    return weight is not None and weight.ndim == 4 and weight.shape[-2:].numel() > 1


def both_valid(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Validity of both sides, float32."""
    if a is None or b is None:
        only = b if a is None else a
        return None if only is None else only.float()
    return a.float() * b.float()


def _stacked(of_pred: Tensor | None, of_target: Tensor | None, like: Tensor) -> Tensor | None:
    if of_pred is None and of_target is None:
        return None
    ones = like.new_ones(like.shape[0], 1, *like.shape[-2:])
    return torch.cat([ones if m is None else m.to(ones.dtype) for m in (of_pred, of_target)], dim=1)
