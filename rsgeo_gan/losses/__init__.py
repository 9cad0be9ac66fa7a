"""Objectives: tensors in, scalars out; no optimisers, no logging."""

from __future__ import annotations

from rsgeo_gan.losses.adversarial import AdversarialLoss, Hinge, LeastSquares, NonSaturating, Wasserstein
from rsgeo_gan.losses.alignment import PairLoss
from rsgeo_gan.losses.contrast import PatchNCE
from rsgeo_gan.losses.correspondence import Combined, Correspondence, PooledL1, ShiftTolerantL1
from rsgeo_gan.losses.penalties import gradient_penalty, interpolated_penalty, r1, r2
from rsgeo_gan.losses.reconstruction import masked_l1, masked_mean, total_variation
from rsgeo_gan.losses.registration import RegistrationHead
from rsgeo_gan.losses.shift import best_shift, shift_tolerant_l1
from rsgeo_gan.losses.speckle import speckle_distance

__all__ = [
    "AdversarialLoss",
    "Combined",
    "Correspondence",
    "Hinge",
    "LeastSquares",
    "NonSaturating",
    "PairLoss",
    "PatchNCE",
    "PooledL1",
    "RegistrationHead",
    "ShiftTolerantL1",
    "Wasserstein",
    "best_shift",
    "gradient_penalty",
    "interpolated_penalty",
    "masked_l1",
    "masked_mean",
    "r1",
    "r2",
    "shift_tolerant_l1",
    "speckle_distance",
    "total_variation",
]
