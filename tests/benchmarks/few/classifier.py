"""What generated chips are good for: a small classifier on few real chips, with and without them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from few.data import Chips

BATCH = 32


def fitted(sets: Sequence[Chips], classes: int, seed: int, steps: int) -> nn.Module:
    """Train a classifier on sets of images and labels, of which every batch holds equal shares, and all classes alike.

    Args:
        sets: Chips, real or generated.
        classes: Number of classes.
        seed: Of weights and batches.
        steps: Batches, the same however many chips there are.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _network(sets[0].images.shape[1], classes)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    share = BATCH // len(sets)
    for _ in range(steps):
        rows = [torch.multinomial(chips.evenly, share, replacement=True, generator=draw) for chips in sets]
        x = torch.cat([chips.images[row] for chips, row in zip(sets, rows, strict=True)])
        y = torch.cat([chips.labels[row] for chips, row in zip(sets, rows, strict=True)])
        turns, mirrored = torch.randint(4, (), generator=draw), torch.randint(2, (), generator=draw)
        x = torch.rot90(x, int(turns), (2, 3))
        loss = F.cross_entropy(network(x.flip(3) if mirrored else x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return network.eval()


@torch.no_grad()
def balanced_accuracy(network: nn.Module, chips: Chips) -> float:
    """Return the mean share of right answers over the classes."""
    told = torch.cat([network(part).argmax(dim=1) for part in chips.images.split(256)])
    return float(torch.stack([(told[chips.labels == k] == k).float().mean() for k in chips.labels.unique()]).mean())


def _network(bands: int, classes: int) -> nn.Module:
    layers: list[nn.Module] = []
    for wide, width in ((bands, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(wide, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))
