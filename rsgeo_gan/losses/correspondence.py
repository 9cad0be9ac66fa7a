"""What a term that ties roughly aligned pairs together must offer, two network-free ones, and several at once.

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
from rsgeo_gan.losses.shift import filled, shift_tolerant_l1

__all__ = [
    "Combined",
    "Correspondence",
    "PooledL1",
    "ShiftTolerantL1",
    "both_valid",
    "is_per_pixel",
    "pooled_l1",
    "stacked",
]


class Correspondence(nn.Module, ABC):
    """A term that ties each translation to the image it is paired with.

    A task calls `attach` once when its networks exist (before weights are loaded), `forward` in the
    generator step, and `update` after each generator step. Parameters that require a gradient are trained with
    the generators.

    Attributes:
        factors: The terms that `forward` returns, and the weight of each relative to the weight that the task gives
            the correspondence.
    """

    factors: Mapping[str, float] = MappingProxyType({"pair": 1.0})

    def attach(self, generator: nn.Module, generator_back: nn.Module) -> None:
        """Meet the two networks: source to target, and back. Does nothing unless overridden."""

    def update(self, generator: nn.Module, generator_back: nn.Module) -> None:
        """Follow the networks after an optimiser step. Does nothing unless overridden."""

    def forgive(self, radius_px: int) -> None:
        """Hear how much misalignment the data are said to have, pixels. Does nothing unless overridden."""

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
        overlapping: Average around every pixel instead of over cells side by side, so that no place is special.
    """

    def __init__(self, factor: int = 4, overlapping: bool = False) -> None:
        super().__init__()
        if factor < 1:
            raise ValueError(f"PooledL1: factor must be >= 1, got {factor}")
        self.factor = factor
        self.overlapping = overlapping

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
        stride = 1 if self.overlapping else None
        back = pooled_l1(fake_source, source, mask, self.factor, weight, stride)
        return {"pair": back + pooled_l1(fake_target, target, mask, self.factor, weight, stride)}


class ShiftTolerantL1(Correspondence):
    """Mean absolute difference at the best whole-tile integer offset, searched per sample and direction.

    Args:
        radius_px: Largest offset per axis, in pixels. None follows what the data module says, 3 until it does.
        pool: Side of the window that both images are averaged over first, in pixels, so that speckle decides
            neither the search nor the difference; offsets stay whole pixels.
    """

    def __init__(self, radius_px: int | None = None, pool: int = 1) -> None:
        super().__init__()
        if pool < 1 or (radius_px or 0) < 0:
            raise ValueError(f"ShiftTolerantL1: expected radius_px >= 0 and pool >= 1, got {radius_px} and {pool}")
        self.follows = radius_px is None
        self.radius_px = 3 if radius_px is None else radius_px
        self.pool = pool

    def forgive(self, radius_px: int) -> None:
        """Search as far as the data are said to be off, unless the radius was given."""
        if self.follows:
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
        forth = self._compare(fake_target, target, stacked(mask_source, mask_target, target), weight)
        back = self._compare(fake_source, source, stacked(mask_target, mask_source, source), weight)
        return {"pair": forth + back}

    def _compare(self, fake: Tensor, real: Tensor, mask: Tensor | None, weight: Tensor | None) -> Tensor:
        if self.pool > 1:
            fake, real = (F.avg_pool2d(part, self.pool, 1) for part in filled(fake.float(), real.float(), mask))
            mask = None if mask is None else 1.0 - F.max_pool2d(1.0 - mask.float(), self.pool, 1)
            if is_per_pixel(weight):
                weight = F.avg_pool2d(weight.float(), self.pool, 1)
        return shift_tolerant_l1(fake, real, mask, self.radius_px, weight)


class Combined(Correspondence):
    """Several correspondence terms at once.

    Each term is called by the name given here and its own, `nce_pair`; its weight relative to the task's is the
    product of the weight given here and its own factor.

    Args:
        terms: Correspondence terms by name.
        weights: Weight by name; 1 where absent.

    Raises:
        ValueError: If there are no terms, or a weight names none.
    """

    def __init__(self, terms: dict[str, Correspondence], weights: dict[str, float] | None = None) -> None:
        super().__init__()
        unknown = set(weights or ()) - set(terms)
        if not terms or unknown:
            raise ValueError(
                f"Combined: expected one term or more and weights for some of them, got terms {sorted(terms)} and "
                f"weights for {sorted(weights or ())}"
            )
        self.terms = nn.ModuleDict(terms)
        self.weights = {name: (weights or {}).get(name, 1.0) for name in terms}

    @property
    def _members(self) -> dict[str, Correspondence]:
        return dict(self.terms.items())  # type: ignore[arg-type]

    @property
    def factors(self) -> Mapping[str, float]:  # type: ignore[override]
        """Weight of every term of every member."""
        return {
            f"{name}_{term}": self.weights[name] * factor
            for name, member in self._members.items()
            for term, factor in member.factors.items()
        }

    def attach(self, generator: nn.Module, generator_back: nn.Module) -> None:
        """Let every member meet the networks."""
        for member in self._members.values():
            member.attach(generator, generator_back)

    def update(self, generator: nn.Module, generator_back: nn.Module) -> None:
        """Let every member follow the networks."""
        for member in self._members.values():
            member.update(generator, generator_back)

    def forgive(self, radius_px: int) -> None:
        """Pass on how much misalignment the data are said to have."""
        for member in self._members.values():
            member.forgive(radius_px)

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
        """Return the terms of all members."""
        return {
            f"{name}_{term}": value
            for name, member in self._members.items()
            for term, value in member(
                source, target, fake_source, fake_target, mask_source, mask_target, weight
            ).items()
        }


def pooled_l1(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None,
    side: int,
    weight: Tensor | None = None,
    stride: int | None = None,
) -> Tensor:
    """Mean absolute difference of the means of cells; a cell counts when all its pixels do.

    Args:
        pred: Shape (B, C, H, W).
        target: Same shape.
        mask: Validity, shape (B, 1, H, W); what lies under 0 is ignored, even when not finite.
        side: Of the cells, in pixels.
        weight: As in `masked_mean`, per sample or per pixel.
        stride: Pixels from one cell to the next; `side` when None.

    Returns:
        Scalar, float32.
    """
    difference = pred.float() - target.float()
    valid = None
    if mask is not None:
        difference = torch.where(mask > 0, difference, difference.new_zeros(()))
        valid = 1.0 - F.max_pool2d(1.0 - mask.float(), side, stride)
    if is_per_pixel(weight):
        weight = F.avg_pool2d(weight.float(), side, stride)
    return masked_mean(F.avg_pool2d(difference, side, stride).abs(), valid, weight)


def is_per_pixel(weight: Tensor | None) -> TypeGuard[Tensor]:
    """Tell per-pixel weights from per-sample ones."""
    return weight is not None and weight.ndim == 4 and weight.shape[-2:].numel() > 1


def both_valid(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Validity of both sides, float32."""
    if a is None or b is None:
        only = b if a is None else a
        return None if only is None else only.float()
    return a.float() * b.float()


def stacked(of_pred: Tensor | None, of_target: Tensor | None, like: Tensor) -> Tensor | None:
    """Masks of a pair on two channels, as `offset_errors` takes them."""
    if of_pred is None and of_target is None:
        return None
    ones = like.new_ones(like.shape[0], 1, *like.shape[-2:])
    return torch.cat([ones if m is None else m.to(ones.dtype) for m in (of_pred, of_target)], dim=1)
