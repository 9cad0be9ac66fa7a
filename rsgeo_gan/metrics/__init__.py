"""Scores that torchmetrics lacks; masks and data ranges are explicit everywhere."""

from __future__ import annotations

from rsgeo_gan.metrics.alignment import (
    ShiftScore,
    ShiftTolerantPSNR,
    ShiftTolerantSSIM,
    shift_tolerant_psnr,
    shift_tolerant_ssim,
)
from rsgeo_gan.metrics.distribution import (
    FrechetDistance,
    KernelDistance,
    distance_name,
    frechet_distance,
    kernel_distance,
)
from rsgeo_gan.metrics.drift import Drift, drift
from rsgeo_gan.metrics.features import FeatureBackend, RandomConv
from rsgeo_gan.metrics.intervals import Interval, halved, per_class
from rsgeo_gan.metrics.manifold import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from rsgeo_gan.metrics.nrds import NRDS, Judge, nrds, rank_agreement
from rsgeo_gan.metrics.pretrained import InceptionBackend, ResNetBackend, load_weights
from rsgeo_gan.metrics.response import shift_response
from rsgeo_gan.metrics.sar import (
    AmplitudeDistance,
    MultilookScore,
    amplitude_distance,
    enl,
    enl_map,
    multilook,
    multilook_score,
)
from rsgeo_gan.metrics.similarity import correlation, ssim
from rsgeo_gan.metrics.spectrum import (
    high_frequency_ratio,
    log_spectral_distance,
    radial_frequencies,
    radial_psd,
)

__all__ = [
    "NRDS",
    "AmplitudeDistance",
    "DensityCoverage",
    "Drift",
    "FeatureBackend",
    "FrechetDistance",
    "InceptionBackend",
    "Interval",
    "Judge",
    "KernelDistance",
    "MultilookScore",
    "PrecisionRecall",
    "RandomConv",
    "ResNetBackend",
    "ShiftScore",
    "ShiftTolerantPSNR",
    "ShiftTolerantSSIM",
    "amplitude_distance",
    "correlation",
    "density_coverage",
    "distance_name",
    "drift",
    "enl",
    "enl_map",
    "frechet_distance",
    "halved",
    "high_frequency_ratio",
    "kernel_distance",
    "load_weights",
    "log_spectral_distance",
    "multilook",
    "multilook_score",
    "nrds",
    "per_class",
    "precision_recall",
    "radial_frequencies",
    "radial_psd",
    "rank_agreement",
    "shift_response",
    "shift_tolerant_psnr",
    "shift_tolerant_ssim",
    "ssim",
]
