"""How far a distance between sets can be trusted: intervals from half the images, and one score per class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Interval", "halved", "per_class"]

_NORMAL_95 = 1.959964


class Interval(NamedTuple):
    """A mean with its 95 % interval.

    Attributes:
        value: Mean over the draws.
        low: Lower end.
        high: Upper end.
        std: Standard deviation over the draws.
        images: Images a side in every draw.
    """

    value: float
    low: float
    high: float
    std: float
    images: int

    @property
    def text(self) -> str:
        """Return it as people write it."""
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@torch.no_grad()
def halved(
    distance: Callable[[Tensor, Tensor], Tensor | float],
    real: Tensor,
    fake: Tensor | None = None,
    *,
    draws: int = 20,
    seed: int = 0,
    count: int | None = None,
) -> Interval:
    """Measure a distance on random halves, without drawing any image twice.

    Every draw takes as many images from both sets: half of the smaller one. The scatter of such halves around their
    mean is that of the distance between the whole sets around its expectation, as far as the distance is a mean over
    images; for sets that are hardly apart it is too large rather than too small. Resampling with replacement would put
    equal images into a set, which both the Fréchet and the kernel distance take for structure. Without `fake` every
    draw cuts the real set into two halves: where a perfect generator would be, at the same number of images.

    Args:
        distance: Compares two sets of features, such as `frechet_distance`.
        real: Features, shape (N, D); images whose features are not finite are left out.
        fake: Shape (M, D), or None for real against real.
        draws: Number of draws, at least 2.
        seed: Of the draws.
        count: Images a side in every draw, so that several sets can be compared at one number; by default half of the
            smaller set. The interval is too wide for less than half of a set.

    Returns:
        Mean over the draws, and 1.96 deviations to both sides.

    Raises:
        ValueError: If a set has less than 4 images, `draws` is below 2, or `count` exceeds half of the smaller set.
    """
    sets = [x[torch.isfinite(x).all(dim=1)] for x in ((real,) if fake is None else (real, fake))]
    fewest = min(len(x) for x in sets)
    if fewest < 4 or draws < 2:
        raise ValueError(
            f"halved: expected at least 4 images with features in each set and 2 draws, got {fewest} and {draws}; "
            "use more tiles"
        )
    count = fewest // 2 if count is None else count
    if not 1 <= count <= fewest // 2:
        raise ValueError(f"halved: expected count from 1 to {fewest // 2} (half of the smaller set), got {count}")
    draw = torch.Generator().manual_seed(seed)

    def pick(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=draw).to(x.device)]

    found = []
    for _ in range(draws):
        first = pick(sets[0])
        second = first[count : 2 * count] if fake is None else pick(sets[1])[:count]
        found.append(float(distance(first[:count], second)))
    values = torch.tensor(found, dtype=torch.float64)
    mean, std = float(values.mean()), float(values.std())
    return Interval(mean, mean - _NORMAL_95 * std, mean + _NORMAL_95 * std, std, count)


def per_class[T](
    score: Callable[[Tensor, Tensor], T],
    real: Tensor,
    real_labels: Tensor,
    fake: Tensor,
    fake_labels: Tensor,
    *,
    fewest: int = 2,
) -> Mapping[int, T]:
    """Score the images of every class by themselves.

    A generator that ignores its labels can have a good distance over all classes together.

    Args:
        score: Compares the features of real and fake images of one class.
        real: Shape (N, ...).
        real_labels: Class of each, shape (N,), integer.
        fake: Shape (M, ...).
        fake_labels: Shape (M,).
        fewest: Images a class must have on both sides to be scored.

    Returns:
        Score by class, in order of the class; classes with fewer images are left out.

    Raises:
        ValueError: If labels and images differ in number, or no class has enough images on both sides.
    """
    for kind, images, labels in (("real", real, real_labels), ("fake", fake, fake_labels)):
        if labels.ndim != 1 or len(labels) != len(images):
            raise ValueError(
                f"per_class: expected one label per {kind} image, got labels {tuple(labels.shape)} for {len(images)}"
            )
    both = sorted(set(real_labels.tolist()) & set(fake_labels.tolist()))
    found = {}
    for label in both:
        a, b = real[real_labels == label], fake[fake_labels == label]
        if min(len(a), len(b)) >= fewest:
            found[int(label)] = score(a, b)
    if not found:
        raise ValueError(
            f"per_class: expected a class with at least {fewest} real and fake images, got real labels "
            f"{sorted(set(real_labels.tolist()))} and fake labels {sorted(set(fake_labels.tolist()))}"
        )
    return found
