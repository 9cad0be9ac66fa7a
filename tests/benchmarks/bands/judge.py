"""What generated images are measured by, against images that were not learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from bands.data import Data
from bands.systems import HIGH, LOW
from rsgeo_gan.metrics import (
    RandomConv,
    band_mask,
    fit_levels,
    frechet_distance,
    high_frequency_ratio,
    kernel_distance,
    level_features,
    log_spectral_distance,
    power_share,
    radial_psd,
    spectral_leakage,
    wave_score,
)

COUNT = 500
"""Images compared."""
RADIUS = 0.045
"""Of a band, cycles per pixel: bands around the low frequencies reach a wave of 1/32 along both axes."""


class Judge:
    """Scores of what was made; the same for images of the training set, the floor.

    Args:
        data: Images to compare with; the feature networks are standardised on those that are learned.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        self.real = data.test[:COUNT]
        self.window: Literal["hann"] | None = None if data.waves else "hann"
        self.backends = fit_levels(RandomConv(self.real.shape[1], dims=8), data.train[:COUNT])
        self.described = level_features(self.real, self.backends)
        self._floor: dict[str, Any] | None = None

    def __call__(self, draw: Callable[[int], Tensor]) -> dict[str, Any]:
        """Score images: leakage in all, in the low and in the high bands; spectra; distances by level; waves."""
        return self._scores(draw(len(self.real)))

    def floor(self) -> dict[str, Any]:
        """Score images that were learned: what no generator can be expected to beat."""
        if self._floor is None:
            self._floor = self._scores(self.data.train[: len(self.real)])
        return self._floor

    def shares(self, draw: Callable[[int], Tensor]) -> Tensor:
        """Radial spectra, real and made, averaged over bands, (2, N)."""
        return torch.stack([radial_psd(x).mean(dim=(0, 1)) for x in (self.real, draw(len(self.real)))])

    def _scores(self, fake: Tensor) -> dict[str, Any]:
        real, window = self.real, self.window
        pairs = list(zip(self.described, level_features(fake, self.backends), strict=True))
        return {
            "leakage": spectral_leakage(real, fake, window, mean=False).item(),
            "leakage_low": spectral_leakage(real, fake, window, mean=False, around=LOW, radius=RADIUS).item(),
            "leakage_high": spectral_leakage(real, fake, window, mean=False, around=HIGH, radius=RADIUS).item(),
            "share_low": self._share(fake, LOW),
            "share_high": self._share(fake, HIGH),
            "spectrum_db": log_spectral_distance(fake, real, floor=1e-6).item(),
            "hf_ratio": (high_frequency_ratio(fake).mean() / high_frequency_ratio(real).mean()).item(),
            "level_fd": [frechet_distance(*pair).item() for pair in pairs],
            "level_kd": [kernel_distance(*pair).item() for pair in pairs],
            "features": self.backends[0].name,
            "waves": {f"{kx},{ky}": wave_score(real, fake, (kx, ky))._asdict() for kx, ky in self.data.waves},
        }

    def _share(self, fake: Tensor, around: tuple[tuple[float, float], ...]) -> float:
        """Share of the made images' power in some bands over that of the real ones."""
        near = band_mask(fake.shape[-2:], around, RADIUS)
        made, real = (power_share(x, self.window, mean=False)[:, near].sum().item() for x in (fake, self.real))
        return made / real
