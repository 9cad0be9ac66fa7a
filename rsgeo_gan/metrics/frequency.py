"""Where in the spectrum generated images differ from real ones: leakage, and distances per level of frequency.

Reference: Khayatkhoei and Elgammal, 2022, arXiv:2010.01473. Radial spectra are in `spectrum`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rsgeo_gan.metrics.distribution import frechet_distance, kernel_distance
from rsgeo_gan.metrics.features import FeatureBackend

__all__ = [
    "LevelDistances",
    "band_mask",
    "fit_levels",
    "high_pass",
    "level_cutoff",
    "level_distances",
    "level_features",
    "power_share",
    "spectral_leakage",
]

LEVELS = 8
"""Filtered levels of the reference, beside level 0, the images themselves."""
_BATCH = 64


def power_share(images: Tensor, window: Literal["hann"] | None = None, *, mean: bool = True) -> Tensor:
    """Share of every frequency in the mean power spectrum of a set.

    Args:
        images: Shape (N, C, H, W), finite.
        window: "hann" tapers the tiles, so that an edge that does not close on the opposite one is no frequency.
        mean: Count the frequency 0. Without, every image's own mean (under the window) is taken off first.

    Returns:
        Per band, shape (C, H, W), sum 1 over the frequencies, in the order of `torch.fft.fftfreq`; float64.

    Raises:
        ValueError: If the images have another shape, are not finite or have no power.
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"power_share: expected at least one image (N, C, H, W), got {tuple(images.shape)}")
    if not torch.isfinite(images).all():
        raise ValueError("power_share: the images hold values that are not finite; use wholly valid tiles")
    x = images.double()
    h, w = x.shape[-2:]
    taper = x.new_ones(h, w)
    if window is not None:
        taper = torch.outer(*(torch.hann_window(n, periodic=True, dtype=x.dtype, device=x.device) for n in (h, w)))
    if not mean:
        x = x - (x * taper).sum(dim=(2, 3), keepdim=True) / taper.sum()
    power = torch.fft.fft2(x * taper).abs().square().mean(dim=0)  # (C, H, W)
    if not mean:
        power[:, 0, 0] = 0
    total = power.sum(dim=(1, 2), keepdim=True)
    if not (total > 0).all():
        raise ValueError("power_share: a band has no power; constant bands have no spectrum to compare")
    return power / total


def spectral_leakage(
    real: Tensor,
    fake: Tensor,
    window: Literal["hann"] | None = None,
    *,
    mean: bool = True,
    around: Sequence[Sequence[float]] | None = None,
    radius: float = 1 / 32,
) -> Tensor:
    """Half the absolute difference of the shares of power over frequencies, averaged over bands.

    0 for equal mean spectra up to a gain, 1 for disjoint ones. The mean of an image is often most of its power: `mean`
    False tells more about texture.

    Args:
        real: Shape (N, C, H, W).
        fake: Shape (M, C, H, W).
        window: As in `power_share`.
        mean: As in `power_share`.
        around: Sum over the bands around these frequencies (fx, fy) and their mirror images only, cycles per pixel. The
            shares remain those of the whole spectrum.
        radius: Of each of those bands, cycles per pixel.

    Returns:
        Scalar in [0, 1], float64.

    Raises:
        ValueError: If bands or sizes differ, and as `power_share`.
    """
    if real.shape[1:] != fake.shape[1:]:
        raise ValueError(
            f"spectral_leakage: expected equal bands and sizes, got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    shares = [power_share(x, window, mean=mean) for x in (real, fake)]
    difference = 0.5 * (shares[0] - shares[1]).abs()
    if around is not None:
        difference = difference * band_mask(difference.shape[-2:], around, radius).to(difference)
    return difference.sum(dim=(1, 2)).mean()


def band_mask(size: Sequence[int], around: Sequence[Sequence[float]], radius: float = 1 / 32) -> Tensor:
    """Mark the frequencies near some waves and near their mirror images.

    Args:
        size: Height and width of the images.
        around: (fx, fy) of the waves, cycles per pixel.
        radius: Largest distance that is near, cycles per pixel.

    Returns:
        Shape (H, W), bool, in the order of `torch.fft.fftfreq`.
    """
    h, w = size
    fy, fx = torch.fft.fftfreq(h).double()[:, None], torch.fft.fftfreq(w).double()
    found = torch.zeros(h, w, dtype=torch.bool)
    for x, y in around:
        for sign in (1, -1):
            # Frequencies lie on a ring: -1/2 and 1/2 are one.
            apart = [d - d.round() for d in (fx - sign * x, fy - sign * y)]
            found |= apart[0].square() + apart[1].square() <= radius**2 + 1e-12
    return found


def level_cutoff(level: int) -> float:
    """Return where the high-pass of a level begins, cycles per pixel; 0 for level 0."""
    return 0.0 if level == 0 else 1 / (2 * math.pi * _deviation(level))


def high_pass(images: Tensor, level: int, mask: Tensor | None = None) -> Tensor:
    """Take a Gaussian average off: level 0 is the image, level k = 1..8 has the deviation 8 / (9 - k) pixels.

    Level 1 leaves the finest texture; each further one more of the middle frequencies. At edges and around invalid
    pixels the average is that of what is there, so a constant image has no high frequencies anywhere.

    Args:
        images: Shape (B, C, H, W).
        level: 0..8.
        mask: Validity, shape (B, 1, H, W); invalid pixels become 0.

    Returns:
        Same shape, float32 (float64 for float64 images).

    Raises:
        ValueError: If the level does not exist.
    """
    deviation = _deviation(level) if level else 0.0
    x = images.to(torch.promote_types(images.dtype, torch.float32))
    valid = torch.ones_like(x[:, :1])
    if mask is not None:
        valid = (mask > 0).to(x).expand_as(valid)
        x = torch.where(valid > 0, x, x.new_zeros(()))
    if level == 0:
        return x
    rows, columns = (_gaussian(n, deviation).to(x) for n in x.shape[-2:])
    seen = (rows @ valid @ columns.T).clamp_min(torch.finfo(x.dtype).tiny)
    return (x - rows @ x @ columns.T / seen) * valid


class LevelDistances(NamedTuple):
    """Distances between two sets, level by level.

    Attributes:
        cutoff: Where each level's high-pass begins, cycles per pixel.
        frechet: Fréchet distances.
        kernel: Kernel distances.
        names: Which features every level was compared by.
    """

    cutoff: list[float]
    frechet: list[float]
    kernel: list[float]
    names: list[str]


def fit_levels(backend: FeatureBackend, tiles: Tensor | None = None, levels: int = LEVELS) -> list[FeatureBackend]:
    """Make a backend per level: copies of one, each standardised on the filtered tiles where it can be.

    A backend that learns what real tiles look like would take all filtered images for one odd corner of its space.

    Args:
        backend: Feature network; one without `fit` is used as it is for every level.
        tiles: Real tiles for `fit`, shape (N, C, H, W), model domain.
        levels: Filtered levels beside level 0.

    Raises:
        ValueError: If the backend is to be fitted and there are no tiles.
    """
    if not hasattr(backend, "fit"):
        return [backend] * (levels + 1)
    if tiles is None:
        raise ValueError(f"fit_levels: {backend.name} is standardised on real tiles; give them")
    found = []
    for level in range(levels + 1):
        own = copy.deepcopy(backend)
        own.fit(torch.split(high_pass(tiles, level), _BATCH))
        found.append(own)
    return found


@torch.no_grad()
def level_distances(real: Tensor, fake: Tensor, backends: Sequence[FeatureBackend]) -> LevelDistances:
    """Compare two sets after high-passing both, for one level per backend.

    The Fréchet distance is 0 for identical sets on every level; of two halves of the real set it is the floor that
    a finite number of images leaves. The reference stores its root.

    Args:
        real: Shape (N, C, H, W), model domain, wholly valid.
        fake: Shape (M, C, H, W).
        backends: By level, from `fit_levels`.

    Raises:
        ValueError: If there are too few images, or there are more backends than levels.
    """
    found = LevelDistances([], [], [], [])
    sets = [level_features(images, backends) for images in (real, fake)]
    for level, (a, b) in enumerate(zip(*sets, strict=True)):
        found.cutoff.append(level_cutoff(level))
        found.frechet.append(frechet_distance(a, b).item())
        found.kernel.append(kernel_distance(a, b).item())
        found.names.append(f"{backends[level].name}-level{level}")
    return found


@torch.no_grad()
def level_features(images: Tensor, backends: Sequence[FeatureBackend]) -> list[Tensor]:
    """Describe high-passed images, level by level: (N, D) each, for distances to one set from many."""
    return [
        torch.cat([backend.describe(part) for part in torch.split(high_pass(images, level), _BATCH)])
        for level, backend in enumerate(backends)
    ]


def _deviation(level: int) -> float:
    if not 0 <= level <= LEVELS:
        raise ValueError(f"Frequency levels run from 0 to {LEVELS}, got {level}")
    return LEVELS / (LEVELS + 1 - level)


def _gaussian(size: int, deviation: float) -> Tensor:
    """Average along one axis, (size, size), rows of sum 1 where all is valid."""
    place = torch.arange(size, dtype=torch.float64)
    weight = torch.exp(-0.5 * ((place - place[:, None]) / deviation).square())
    return weight / weight.sum(dim=1, keepdim=True)
