"""Scores that torchmetrics lacks; masks and data ranges are explicit everywhere."""

from __future__ import annotations

from rsgeo_gan.metrics.alignment import (
    ShiftScore,
    ShiftTolerantPSNR,
    ShiftTolerantSSIM,
    shift_tolerant_psnr,
    shift_tolerant_ssim,
)
from rsgeo_gan.metrics.distribution import FrechetDistance, KernelDistance, frechet_distance, kernel_distance
from rsgeo_gan.metrics.drift import Drift, drift
from rsgeo_gan.metrics.features import FeatureBackend, RandomConv
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
    "AmplitudeDistance",
    "Drift",
    "FeatureBackend",
    "FrechetDistance",
    "KernelDistance",
    "MultilookScore",
    "RandomConv",
    "ShiftScore",
    "ShiftTolerantPSNR",
    "ShiftTolerantSSIM",
    "amplitude_distance",
    "correlation",
    "drift",
    "enl",
    "enl_map",
    "frechet_distance",
    "high_frequency_ratio",
    "kernel_distance",
    "log_spectral_distance",
    "multilook",
    "multilook_score",
    "radial_frequencies",
    "radial_psd",
    "shift_response",
    "shift_tolerant_psnr",
    "shift_tolerant_ssim",
    "ssim",
]
