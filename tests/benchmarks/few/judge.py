"""Scores of a generator: distances to held-out chips with intervals, spread of features, use to a classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from few.classifier import balanced_accuracy, fitted
from few.data import Chips, Data, Split
from few.systems import Cell
from rsgeo_gan.losses import entropy
from rsgeo_gan.losses.features import masked_features, potential
from rsgeo_gan.metrics import RandomConv, distance_name, frechet_distance, halved, kernel_distance, precision_recall
from rsgeo_gan.tasks import ImageSynthesis
from rsgeo_gan.tasks.noise import sample_noise

GROUP = 8
"""Images among which the potential is measured; its value depends on their number."""
SPREAD = 256
"""Images whose features are looked at, in groups."""
ADDED = 200
"""Generated chips of each class that a classifier learns from."""
SHOWN = 8
_DRAWN = 10_000
"""First seed of the images a classifier gets, away from those that are scored."""


class Judge:
    """Holds what all systems are compared with; everything real is read once.

    Args:
        data: Chips. Features are standardised on all training chips of all classes.
        dims: Length of the description of a chip.
        steps: Batches of a classifier.
    """

    def __init__(self, data: Data, dims: int = 16, steps: int = 300) -> None:
        self.data = data
        self.steps = steps
        every = data.split().train.images
        self.backend = RandomConv(every.shape[1], min(dims, len(every) // 4)).fit([every])
        self._splits: dict[tuple[int, int, int], Split] = {}
        self._real: dict[tuple[int, int, int], float] = {}

    def split(self, cell: Cell) -> Split:
        """Return what a cell learns from and what it is held against."""
        key = (cell.classes, cell.per_class, cell.seed)
        if key not in self._splits:
            self._splits[key] = self.data.split(*key)
        return self._splits[key]

    def __call__(self, task: ImageSynthesis, cell: Cell) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Score a task; also return pictures of its classes, and its features' directions in two dimensions."""
        split = self.split(cell)
        test = split.test
        made = images(task, test.codes)
        real, fake = self.backend.describe(test.images), self.backend.describe(made)
        precision, recall = precision_recall(real, fake)
        scores: dict[str, Any] = {
            "train_chips": len(split.train),
            "test_chips": len(test),
            "precision": float(precision),
            "recall": float(recall),
        }
        distances: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
            "fd": (frechet_distance, distance_name("F", self.backend)),
            "kd": (kernel_distance, distance_name("K", self.backend)),
        }
        for key, (distance, name) in distances.items():
            scores[f"{key}_name"] = name
            for kind, found in (
                (key, halved(distance, real, fake)),
                (f"{key}_real", halved(distance, real)),
            ):
                scores[kind] = found.value
                scores[f"{kind}_interval"] = [found.low, found.high]
        spread, shown = self._spread(task, test)
        return scores | spread | self._use(task, cell, split), shown

    @torch.no_grad()
    def _spread(self, task: ImageSynthesis, test: Chips) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Potential and entropy of the features of generated images, as the terms see them but without augmentation."""
        codes = test.codes[torch.arange(SPREAD) % len(test)]
        z = sample_noise(task.generator, SPREAD, "cpu", range(SPREAD))
        network: Any = task.generator
        maps = network.forward_features(z, codes, (task.taps["g"],))[task.taps["g"]]
        made = images(task, codes)
        features = {
            "g": masked_features(maps),
            "d": self._judged(task, made),
            "d_real": self._judged(task, test.images),
        }
        scores: dict[str, Any] = {"group": GROUP}
        for side, x in features.items():
            groups = [part for part in x.split(GROUP) if len(part) == GROUP]
            scores[f"potential_{side}"] = float(torch.stack([potential(part) for part in groups]).mean())
            scores[f"entropy_{side}"] = float(entropy(x))
        labels = test.labels[torch.arange(SPREAD) % len(test)]
        picked = _first_rows(labels)
        shown = {
            "sphere": plane(features["g"]),
            "cosines": cosines(features["g"]),
            "labels": labels,
            "made": made[picked],
            "real": test.images[_first_rows(test.labels)],
        }
        return scores, shown

    @torch.no_grad()
    def _judged(self, task: ImageSynthesis, shown: Tensor) -> Tensor:
        network: Any = task.discriminator
        return masked_features(network.forward_features(shown, (task.taps["d"],))[task.taps["d"]])

    def _use(self, task: ImageSynthesis, cell: Cell, split: Split) -> dict[str, float]:
        """Accuracy of a classifier that learns from few chips, from generated ones, and from both."""
        few, count = split.train, int(split.test.labels.max()) + 1
        labels = torch.arange(count).repeat_interleave(ADDED)
        codes = torch.stack([few.codes[few.labels == k][0] for k in range(count)])[labels]
        added = Chips(images(task, codes, first=_DRAWN), labels, codes)

        def accuracy(*sets: Chips) -> float:
            return balanced_accuracy(fitted(sets, count, cell.seed, self.steps), split.test)

        key = (cell.classes, cell.per_class, cell.seed)
        if key not in self._real:
            self._real[key] = accuracy(few)
        return {
            "accuracy_real": self._real[key],
            "accuracy_both": accuracy(few, added),
            "accuracy_made": accuracy(added),
        }


def _first_rows(labels: Tensor) -> Tensor:
    """Return the rows of the first few images of every class."""
    return torch.cat([(labels == k).nonzero()[:SHOWN, 0] for k in labels.unique()])


@torch.no_grad()
def images(task: ImageSynthesis, codes: Tensor, first: int = 0) -> Tensor:
    """Generate one image for each code, from noise of its own, in the range that a product may have."""
    made = []
    for start in range(0, len(codes), 64):
        part = codes[start : start + 64]
        z = sample_noise(task.generator, len(part), "cpu", range(first + start, first + start + len(part)))
        made.append(task(z, part).clamp(-1, 1))
    return torch.cat(made)


def plane(features: Tensor) -> Tensor:
    """Bring features to the unit sphere and then to the plane through their mean in which they differ most.

    Args:
        features: Shape (N, D).

    Returns:
        Shape (N, 2), in units of the sphere's radius.
    """
    x = _direction(features)
    x = x - x.mean(dim=0)
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    return u[:, :2] * s[:2]


def cosines(features: Tensor) -> Tensor:
    """Return the cosine of every pair of features (N, D), shape (N (N - 1) / 2,): what two dimensions cannot show."""
    x = _direction(features)
    i, j = torch.triu_indices(len(x), len(x), 1)
    return (x @ x.T)[i, j]


def _direction(features: Tensor) -> Tensor:
    return features / torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min(1e-8)
