"""Objectives: tensors in, scalars out; no optimisers, no logging."""

from __future__ import annotations

from rsgeo_gan.losses.adversarial import (
    AdversarialLoss,
    Hinge,
    LeastSquares,
    NonSaturating,
    Relativistic,
    Wasserstein,
)
from rsgeo_gan.losses.alignment import PairLoss
from rsgeo_gan.losses.contrast import PatchNCE
from rsgeo_gan.losses.correspondence import Combined, Correspondence, PooledL1, ShiftTolerantL1
from rsgeo_gan.losses.features import (
    EntropyLimit,
    entropy,
    feature_scale,
    halved_uniformity,
    halves,
    masked_features,
    potential,
    uniformity,
)
from rsgeo_gan.losses.penalties import gradient_penalty, interpolated_penalty, path_length, r1, r2
from rsgeo_gan.losses.perceptual import Perceptual, spectral_angle_loss
from rsgeo_gan.losses.reconstruction import masked_l1, masked_mean, total_variation
from rsgeo_gan.losses.registration import RegistrationHead
from rsgeo_gan.losses.shift import best_shift, shift_tolerant_l1
from rsgeo_gan.losses.speckle import speckle_distance
from rsgeo_gan.losses.texture import gram, texture_loss

__all__ = [
    "AdversarialLoss",
    "Combined",
    "Correspondence",
    "EntropyLimit",
    "Hinge",
    "LeastSquares",
    "NonSaturating",
    "PairLoss",
    "PatchNCE",
    "Perceptual",
    "PooledL1",
    "RegistrationHead",
    "Relativistic",
    "ShiftTolerantL1",
    "Wasserstein",
    "best_shift",
    "entropy",
    "feature_scale",
    "gradient_penalty",
    "gram",
    "halved_uniformity",
    "halves",
    "interpolated_penalty",
    "masked_features",
    "masked_l1",
    "masked_mean",
    "path_length",
    "potential",
    "r1",
    "r2",
    "shift_tolerant_l1",
    "speckle_distance",
    "spectral_angle_loss",
    "texture_loss",
    "total_variation",
    "uniformity",
]
