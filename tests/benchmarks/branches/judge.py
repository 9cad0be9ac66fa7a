"""Scores of trained systems on places they have not seen: alone, and against each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from branches.data import Data
from rsgeo_gan.losses import masked_l1
from rsgeo_gan.metrics import (
    RandomConv,
    feature_cosine,
    frechet_distance,
    log_spectral_distance,
    low_pass_share,
    nrds,
    out_of_range,
    rank_agreement,
)
from rsgeo_gan.tasks import ConditionalAutoencoding
from rsgeo_gan.tasks.noise import sample_noise

COUNT = 400
"""Held-out images that are judged."""
SHOWN = 8
_CLASSIFIED = 600
"""Steps of the classifier."""


class Judge:
    """Holds what all systems are compared with.

    Args:
        data: Chips; features and classifier learn from those of the training.
        epochs: Of the judge behind NRDS.
        seeds: Of the judges behind NRDS.
    """

    def __init__(self, data: Data, epochs: int = 20, seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> None:
        order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))[:COUNT]
        self.real, self.codes = data.test[order], data.test_conditions[order]
        self.data, self.epochs, self.seeds = data, epochs, seeds
        self.backend = RandomConv(self.real.shape[1]).fit([data.train])
        self.classes = data.conditions.slices[data.conditions.classes.name] if data.conditions.classes else None
        self.classifier = None if self.classes is None else _classifier(data.train, self._labels(data.train_conditions))

    def _labels(self, codes: Tensor) -> Tensor:
        assert self.classes is not None
        return codes[:, self.classes].argmax(dim=1)

    @torch.no_grad()
    def __call__(self, task: ConditionalAutoencoding) -> tuple[dict[str, Any], Tensor]:
        """Score a task; also return what it made of the held-out places, stored as eight bits."""
        batch = {"image": self.real, "mask_valid": torch.ones_like(self.real[:, :1]), "condition": self.codes}
        ready = task.prepare(batch)
        made = _stored(ready["made"])
        drawn = sample_noise(task.generator, len(self.real), "cpu", seeds=range(len(self.real)))
        free = task(drawn, self.codes if self.codes.shape[1] else None)
        real = self.backend.describe(self.real)
        scores: dict[str, Any] = {
            "l1": float(masked_l1(ready["reconstruction"], self.real)),
            "made_l1": float(masked_l1(made, self.real)),
            "fd": float(frechet_distance(real, self.backend.describe(made))),
            "fd_drawn": float(frechet_distance(real, self.backend.describe(free))),
            "spectrum_db": float(log_spectral_distance(made, self.real)),
            "out_of_range": float(out_of_range(ready["made"])),
        }
        if task.residual is not None:
            added = ready["made"] - ready["reconstruction"]
            scores["low_pass_share"] = float(low_pass_share(added, ready["reconstruction"]).mean())
        if self.codes.shape[1]:
            scores |= self._walked(task, ready["z"])
        return scores, made

    def _walked(self, task: ConditionalAutoencoding, z: Tensor) -> dict[str, float]:
        """Every place under the conditions of another one: is it still the place, and is it under the condition."""
        asked = self.codes.roll(1, dims=0)
        other = task(z, asked)
        found = {
            "identity_code": float(feature_cosine(task.encode(other), z).mean()),
            "identity": float(feature_cosine(self.backend.describe(other), self.backend.describe(self.real)).mean()),
        }
        if self.classifier is not None:
            told, wanted = self.classifier(other).argmax(dim=1), self._labels(asked)
            found["condition_accuracy"] = float((told == wanted).float().mean())
            right = self.classifier(self.real).argmax(dim=1) == self._labels(self.codes)
            found["classifier_accuracy"] = float(right.float().mean())
        return found

    def together(self, names: Sequence[str], sets: Sequence[Tensor], scores: Sequence[float]) -> dict[str, Any]:
        """Judge a pool of systems by NRDS, and say how its order agrees with that of a distance."""
        found = nrds(_stored(self.real), sets, epochs=self.epochs, seeds=self.seeds, width=16)
        return {
            "names": list(names),
            "nrds": [round(float(v), 5) for v in found.mean],
            "nrds_std": [round(float(v), 5) for v in found.std],
            "area": [round(float(v), 4) for v in found.areas.mean(dim=0)],
            "nrds_held_out": [round(float(v), 5) for v in found.scores_held_out.mean(dim=0)],
            "agreement_fd": rank_agreement(found.mean, -torch.tensor(scores, dtype=torch.float64)),
        }


def _stored(image: Tensor) -> Tensor:
    """Bring images to what a file of eight bits would hold; reals and fakes alike."""
    return torch.round((image.clamp(-1, 1) + 1) * 127.5) / 127.5 - 1


def _classifier(images: Tensor, labels: Tensor) -> nn.Module:
    """Train a small network to tell the classes of real images."""
    torch.manual_seed(0)
    count = int(labels.max()) + 1
    channels = images.shape[1]
    network = nn.Sequential(
        *(
            layer
            for a, b in ((channels, 16), (16, 32), (32, 64))
            for layer in (nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU())
        ),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, count),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(_CLASSIFIED):
        chosen = torch.randint(len(images), (32,))
        optimizer.zero_grad()
        F.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return network.eval()
