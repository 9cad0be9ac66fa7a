"""Noise that generators begin with, fresh or following from seeds, so that results do not depend on a batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["sample_noise", "sample_seeds"]

_PRIORS = ("normal", "uniform")
_STRIDE = 1_000_003
"""Prime that sets tile, column and row apart in a seed."""
_LIMIT = 2**62


def sample_noise(generator: Any, count: int, device: torch.device | str, seeds: Iterable[int] | None = None) -> Tensor:
    """Draw noise of the distribution that a generator was made for.

    Args:
        generator: Network with `latent_dim`, and `prior` "uniform" on [-1, 1] where it is not the normal one.
        count: Samples.
        device: Where the noise goes.
        seeds: One for each sample, so that its noise is the same in any batch and on any device; torch's own generator
            when None.

    Returns:
        Shape (count, latent_dim), float32.

    Raises:
        ValueError: If the generator has another prior, or there are not as many seeds as samples.
    """
    prior = str(getattr(generator, "prior", "normal"))
    if prior not in _PRIORS:
        raise ValueError(f"sample_noise: expected a prior out of {', '.join(_PRIORS)}, got {prior!r}")
    size = int(generator.latent_dim)
    if seeds is None:
        draw = torch.rand if prior == "uniform" else torch.randn
        z = draw(count, size, device=device)
    else:
        known = [torch.Generator().manual_seed(int(seed) % _LIMIT) for seed in seeds]
        if len(known) != count:
            raise ValueError(f"sample_noise: expected {count} seeds, one for each sample, got {len(known)}")
        one = torch.rand if prior == "uniform" else torch.randn
        z = torch.stack([one(size, generator=own) for own in known]).to(device) if known else torch.empty(0, size)
    return 2 * z - 1 if prior == "uniform" else z


def sample_seeds(batch: Mapping[str, Any]) -> list[int]:
    """Return a seed for each sample of a batch: its own (`seed`), else one that follows from tile and place."""
    if "seed" in batch:
        return [int(seed) for seed in batch["seed"]]
    tiles = [int(tile) for tile in batch["tile"]]
    places = batch.get("origin_px")
    if places is None:
        return tiles
    return [
        (tile * _STRIDE + int(column)) * _STRIDE + int(row)
        for tile, (column, row) in zip(tiles, places.tolist(), strict=True)
    ]
