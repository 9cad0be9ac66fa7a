"""Scores that torchmetrics lacks; masks and data ranges are explicit everywhere."""

from __future__ import annotations

from rsgeo_gan.metrics.alignment import (
    ShiftScore,
    ShiftTolerantPSNR,
    ShiftTolerantSSIM,
    shift_tolerant_psnr,
    shift_tolerant_ssim,
)
from rsgeo_gan.metrics.branches import feature_cosine, low_pass_share, out_of_range
from rsgeo_gan.metrics.distribution import (
    FrechetDistance,
    KernelDistance,
    distance_name,
    frechet_distance,
    kernel_distance,
)
from rsgeo_gan.metrics.drift import Drift, drift
from rsgeo_gan.metrics.features import FeatureBackend, RandomConv
from rsgeo_gan.metrics.frequency import (
    LevelDistances,
    band_mask,
    fit_levels,
    high_pass,
    level_cutoff,
    level_distances,
    level_features,
    power_share,
    spectral_leakage,
)
from rsgeo_gan.metrics.intervals import Interval, halved, per_class
from rsgeo_gan.metrics.manifold import DensityCoverage, PrecisionRecall, density_coverage, precision_recall
from rsgeo_gan.metrics.nrds import NRDS, Judge, nrds, rank_agreement
from rsgeo_gan.metrics.opensr import (
    Consistency,
    Correctness,
    consistency,
    correctness,
    harmonised,
    normalised_difference,
    synthesis,
)
from rsgeo_gan.metrics.perceptual import FeatureMaps, feature_distance, feature_distance_map, feature_distance_name
from rsgeo_gan.metrics.pretrained import InceptionBackend, ResNetBackend, load_weights
from rsgeo_gan.metrics.radiometry import ergas, psnr, spectral_angle
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
from rsgeo_gan.metrics.waves import WaveScore, planted_waves, wasserstein, wave_parts, wave_score

__all__ = [
    "NRDS",
    "AmplitudeDistance",
    "Consistency",
    "Correctness",
    "DensityCoverage",
    "Drift",
    "FeatureBackend",
    "FeatureMaps",
    "FrechetDistance",
    "InceptionBackend",
    "Interval",
    "Judge",
    "KernelDistance",
    "LevelDistances",
    "MultilookScore",
    "PrecisionRecall",
    "RandomConv",
    "ResNetBackend",
    "ShiftScore",
    "ShiftTolerantPSNR",
    "ShiftTolerantSSIM",
    "WaveScore",
    "amplitude_distance",
    "band_mask",
    "consistency",
    "correctness",
    "correlation",
    "density_coverage",
    "distance_name",
    "drift",
    "enl",
    "enl_map",
    "ergas",
    "feature_cosine",
    "feature_distance",
    "feature_distance_map",
    "feature_distance_name",
    "fit_levels",
    "frechet_distance",
    "halved",
    "harmonised",
    "high_frequency_ratio",
    "high_pass",
    "kernel_distance",
    "level_cutoff",
    "level_distances",
    "level_features",
    "load_weights",
    "log_spectral_distance",
    "low_pass_share",
    "multilook",
    "multilook_score",
    "normalised_difference",
    "nrds",
    "out_of_range",
    "per_class",
    "planted_waves",
    "power_share",
    "precision_recall",
    "psnr",
    "radial_frequencies",
    "radial_psd",
    "rank_agreement",
    "shift_response",
    "shift_tolerant_psnr",
    "shift_tolerant_ssim",
    "spectral_angle",
    "spectral_leakage",
    "ssim",
    "synthesis",
    "wasserstein",
    "wave_parts",
    "wave_score",
]
