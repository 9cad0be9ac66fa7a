"""The feature network that distances are computed with, chosen by name."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rsgeo_gan.errors import CatalogError, CheckpointError, SourceError
from rsgeo_gan.metrics import FeatureBackend, InceptionBackend, RandomConv, ResNetBackend
from rsgeo_gan.sensors import Scaler

__all__ = ["BACKENDS", "check_backend", "make_backend"]

BACKENDS = ("random-conv", "inception", "resnet")

_DIMS = 16
_SAR_MEAN, _SAR_STD = (-12.59, -20.26), (5.26, 5.91)
"""dB of VV and VH that torchgeo's Sentinel-1 weights were trained with."""


def check_backend(name: str, weights: Path | None) -> None:
    """See whether a feature network can be named so, before any image is read.

    Raises:
        CatalogError: If the name is unknown, or weights are missing or not wanted.
    """
    if name not in BACKENDS:
        raise CatalogError(f"There is no feature backend {name!r}; expected one of {', '.join(BACKENDS)}.")
    if (weights is None) != (name == "random-conv"):
        raise CatalogError(
            f"Backend {name}: expected {'no file of weights' if name == 'random-conv' else 'a local file of weights'}, "
            f"got {weights or 'none'}. Weights are never downloaded; random-conv needs none."
        )


def make_backend(name: str, weights: Path | None, scaler: Scaler, real: Tensor, mask: Tensor) -> FeatureBackend:
    """Make a feature network for a set of real images.

    Args:
        name: One of `BACKENDS`.
        weights: Local file of weights; random-conv needs none.
        scaler: How analysis units became the model domain.
        real: Real images, shape (N, C, H, W), model domain.
        mask: Their validity, shape (N, 1, H, W).

    Returns:
        The network, ready for use.

    Raises:
        CatalogError: If the name is unknown, or weights are missing or not wanted.
        CheckpointError: If the weights do not fit.
        SourceError: If there are too few real images to fit random features to.
    """
    check_backend(name, weights)
    if weights is None:
        backend = RandomConv(real.shape[1], dims=max(1, min(_DIMS, (len(real) - 1) // 4)))
        try:
            return backend.fit(zip(torch.split(real, 64), torch.split(mask, 64), strict=True))
        except ValueError as error:
            raise SourceError(f"The real set does not suffice for random features: {error}") from error
    if name == "inception":
        return InceptionBackend.from_file(weights, in_bands=real.shape[1])
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,) if scaler.unit == "display" else (1.0,)
    if scaler.unit == "dB":
        if real.shape[1] != len(_SAR_MEAN):
            raise CheckpointError(
                f"Backend resnet: expected VV and VH for weights in dB, got {real.shape[1]} bands; choose two bands."
            )
        mean, std = _SAR_MEAN, _SAR_STD
    return ResNetBackend.from_file(weights, weights.stem, scaler.low, scaler.high, mean, std)
