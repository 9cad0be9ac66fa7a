"""A toy that isolates frequencies: images made of a few waves, and how well the waves of generated ones are met.

Reference: Khayatkhoei and Elgammal, 2022, arXiv:2010.01473 (toy task).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["WaveScore", "planted_waves", "wasserstein", "wave_parts", "wave_score"]

_BINS = 32
"""Of the histograms behind total variation."""


class WaveScore(NamedTuple):
    """How far the amplitudes and phases of one wave are from the real ones.

    Attributes:
        amplitude: Wasserstein-1 distance, in units of the image.
        amplitude_variation: Total variation of histograms of 32 equal steps over the range of both sets, in [0, 1].
        phase: Wasserstein-1 distance around the circle, radians.
        phase_variation: Total variation of histograms of 32 equal steps of the circle, in [0, 1].
    """

    amplitude: float
    amplitude_variation: float
    phase: float
    phase_variation: float


def planted_waves(
    count: int, size: int = 128, bins: Sequence[Sequence[int]] = ((0, 0), (3, 3), (41, 41)), seed: int = 0
) -> Tensor:
    """Draw images Σ_k A_k cos(2π f_k · u + φ_k), A ~ N(0.5, 0.1) within [0, 1], φ ~ N(0, 0.2π), f_k = bin / size.

    Every wave has the same distribution of amplitude and phase, so what a network learns of one and not of another is
    due to the frequency.

    Args:
        count: Images.
        size: Pixels of a side.
        bins: (kx, ky) of every wave, periods over the image along columns and rows.
        seed: Of amplitudes and phases.

    Returns:
        Shape (count, 1, size, size), float32, within [-K, K] for K waves.

    Raises:
        ValueError: If a wave is beyond Nyquist.
    """
    if any(abs(k) > size / 2 for wave in bins for k in wave):
        raise ValueError(f"planted_waves: expected bins of at most {size // 2} for {size} pixels, got {list(bins)}")
    draw = torch.Generator().manual_seed(seed)
    amplitude = (0.5 + 0.1 * torch.randn(count, len(bins), generator=draw)).clamp(0, 1)
    phase = 0.2 * math.pi * torch.randn(count, len(bins), generator=draw)
    place = torch.arange(size, dtype=torch.float64) / size
    total = torch.zeros(count, size, size)
    for k, (kx, ky) in enumerate(bins):
        angle = (2 * math.pi * (kx * place + ky * place[:, None])).float()
        total += amplitude[:, k, None, None] * torch.cos(angle + phase[:, k, None, None])
    return total[:, None]


def wave_parts(images: Tensor, wave: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Measure amplitude and phase of one wave in every image.

    Args:
        images: Shape (N, C, H, W).
        wave: (kx, ky), whole periods over the image.

    Returns:
        Amplitude, in units of the image, and phase, radians in [-π, π]; each (N, C), float64. A wave that is its own
        mirror image, such as the mean, has the phase 0 or π only.
    """
    h, w = images.shape[-2:]
    kx, ky = wave
    found = torch.fft.fft2(images.double())[..., ky % h, kx % w] / (h * w)
    alone = (2 * kx) % w == 0 and (2 * ky) % h == 0
    return found.abs() * (1 if alone else 2), found.angle()


def wave_score(real: Tensor, fake: Tensor, wave: Sequence[int]) -> WaveScore:
    """Compare amplitudes and phases of one wave over two sets, all bands together.

    Args:
        real: Shape (N, C, H, W).
        fake: Shape (M, C, H, W).
        wave: (kx, ky), whole periods over the image.
    """
    (a, p), (b, q) = ([part.flatten() for part in wave_parts(images, wave)] for images in (real, fake))
    low, high = torch.cat([a, b]).aminmax()
    return WaveScore(
        wasserstein(a, b).item(),
        _variation(a, b, low.item(), high.item()),
        wasserstein(p, q, period=2 * math.pi).item(),
        _variation(p, q, -math.pi, math.pi),
    )


def wasserstein(one: Tensor, other: Tensor, period: float | None = None) -> Tensor:
    """Wasserstein-1 distance of two samples of numbers: the least mean way to move one onto the other.

    Args:
        one: Shape (N,).
        other: Shape (M,).
        period: Length of the circle that the numbers lie on, if they do.

    Returns:
        Scalar >= 0, float64, in units of the numbers.
    """
    x, y = (v.double() if period is None else v.double().remainder(period) for v in (one, other))
    place, order = torch.cat([x, y]).sort()
    step = torch.cat([x.new_full((len(x),), 1 / len(x)), y.new_full((len(y),), -1 / len(y))])[order]
    apart = step.cumsum(0)  # difference of the distributions from each place to the next
    if period is None:
        return (apart[:-1].abs() * place.diff()).sum()
    length = torch.cat([place.diff(), place[:1] + period - place[-1:]])
    # Around a circle a constant flow is free to choose: the weighted median is the cheapest.
    ranked, order = apart.sort()
    passed = length[order].cumsum(0)
    median = ranked[torch.searchsorted(passed, passed[-1] / 2).clamp_max(len(ranked) - 1)]
    return ((apart - median).abs() * length).sum()


def _variation(one: Tensor, other: Tensor, low: float, high: float) -> float:
    if high <= low:
        return 0.0
    shares = []
    for x in (one, other):
        at = ((x - low) / (high - low) * _BINS).long().clamp(0, _BINS - 1)
        shares.append(torch.bincount(at, minlength=_BINS).double() / len(x))
    return 0.5 * (shares[0] - shares[1]).abs().sum().item()
