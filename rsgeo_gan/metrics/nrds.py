"""Normalised relative discriminative score: one judge learns to tell real images from the fakes of all competitors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsgeo_gan.progress import Progress, silent

__all__ = ["NRDS", "Judge", "nrds", "rank_agreement"]

_CHUNK = 256


class Judge(nn.Module):
    """Four 5 x 5 convolutions of stride 2 with ReLU, a hidden layer of 1024 with leaky ReLU, one logit.

    Args:
        in_bands: Bands of the images.
        size_px: Rows and columns of the images, each at least 16.
        width: Channels of the first convolution; the others have 2, 4 and 8 times as many. 64 as published.
    """

    def __init__(self, in_bands: int, size_px: tuple[int, int], width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, (rows, columns) = in_bands, size_px
        for wide in (width, 2 * width, 4 * width, 8 * width):
            layers += [nn.Conv2d(channels, wide, 5, stride=2, padding=2), nn.ReLU()]
            channels, rows, columns = wide, -(-rows // 2), -(-columns // 2)
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels * rows * columns, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits that images are real, shape (B,)."""
        return self.layers(x)[:, 0]


@dataclass(frozen=True)
class NRDS:
    """Outcome of `nrds` with S seeds, E epochs and n competitors, all float64.

    Attributes:
        outputs: Mean judge output per competitor after every epoch, over its full set, shape (S, E, n).
        outputs_real: The same over the real set, shape (S, E); it takes no part in the scores.
        outputs_held_out: As `outputs`, over the images that the judge never learned from; NaN when there are none.
        outputs_real_held_out: Likewise for the real set.
    """

    outputs: Tensor
    outputs_real: Tensor
    outputs_held_out: Tensor
    outputs_real_held_out: Tensor

    @property
    def areas(self) -> Tensor:
        """Area A below a competitor's outputs over the epochs, shape (S, n), at most E - 1; ranks near 0 are noise."""
        return torch.trapezoid(self.outputs, dim=1)

    @property
    def areas_held_out(self) -> Tensor:
        """The same over held-out images."""
        return torch.trapezoid(self.outputs_held_out, dim=1)

    @property
    def scores(self) -> Tensor:
        """A over the sum of all competitors' A, shape (S, n); every row adds up to 1."""
        return self.areas / self.areas.sum(dim=1, keepdim=True)

    @property
    def scores_held_out(self) -> Tensor:
        """The same over held-out images; NaN when there are none."""
        return self.areas_held_out / self.areas_held_out.sum(dim=1, keepdim=True)

    @property
    def mean(self) -> Tensor:
        """Score of every competitor, mean over seeds, shape (n,): 1 / n when all are alike, more is nearer to real."""
        return self.scores.mean(dim=0)

    @property
    def std(self) -> Tensor:
        """Its standard deviation over seeds, shape (n,); NaN for one seed."""
        return self.scores.std(dim=0) if len(self.scores) > 1 else torch.full_like(self.scores[0], torch.nan)


def nrds(
    real: Tensor,
    fakes: Sequence[Tensor],
    *,
    epochs: int = 100,
    batch: int = 16,
    held_out: float = 0.2,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    lr: float = 2e-4,
    width: int = 64,
    progress: Progress = silent,
) -> NRDS:
    """Train a judge on real images against the pool of all competitors' fakes, and see whom it believes how long.

    A score is relative to its pool: it says nothing across pools. All sets must have gone through one path, without
    loss and onto the same steps of values, or the judge learns the storage. An early perfect judge makes every area
    tiny; shorten the training then. Competitors are put in an order of their own content first, so that the order in
    which they are given changes nothing.

    Reference: Zhang et al., 2018, arXiv:1801.10355. The published judge sees one image at a time and all images;
    `held_out=0, batch=1` is that.

    Args:
        real: Shape (N, C, H, W), model domain, H and W at least 16; SAR in dB before scaling.
        fakes: One set per competitor, each of shape (M, C, H, W), the same M.
        epochs: Passes, at least 2.
        batch: Real images a step, and as many fakes.
        held_out: Share of every set that the judge never learns from.
        seeds: One judge each; five or more for a deviation worth naming.
        lr: Of Adam, with β₁ = 0.5.
        width: Channels of the judge's first convolution.
        progress: Receives finished epochs of all seeds.

    Returns:
        Judge outputs and the scores made of them.

    Raises:
        ValueError: If sets differ in shape or number, hold values that are not finite, or an argument is out of range.
    """
    _check(real, fakes, epochs, batch, held_out, seeds)
    order = sorted(range(len(fakes)), key=lambda i: _digest(fakes[i]))
    ranked = [fakes[i] for i in order]
    back = torch.tensor([order.index(i) for i in range(len(fakes))])
    runs = []
    for number, seed in enumerate(seeds):
        runs.append(
            _judged(
                real, ranked, epochs, batch, held_out, seed, lr, width, progress, (number * epochs, len(seeds) * epochs)
            )
        )
    full, kept = (torch.stack([run[i] for run in runs]) for i in (0, 1))  # (S, E, n + 1), real images first
    return NRDS(full[..., 1:][..., back], full[..., 0], kept[..., 1:][..., back], kept[..., 0])


def rank_agreement(a: Tensor, b: Tensor) -> float:
    """Kendall's τ: share of pairs that two scores order alike, minus the share that they order unlike.

    Args:
        a: Score per competitor, shape (n,), n >= 2.
        b: Another one; give a distance with a minus sign, so that higher is better in both.

    Returns:
        In [-1, 1]; a tie in either counts as neither.

    Raises:
        ValueError: If there are less than two competitors or the shapes differ.
    """
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"rank_agreement: expected two scores of the same n >= 2 competitors, got {tuple(a.shape)} and "
            f"{tuple(b.shape)}"
        )
    first, second = torch.combinations(torch.arange(len(a))).T
    alike = torch.sign(a[first] - a[second]).double() * torch.sign(b[first] - b[second]).double()
    return float(alike.mean())


def _check(
    real: Tensor, fakes: Sequence[Tensor], epochs: int, batch: int, held_out: float, seeds: Sequence[int]
) -> None:
    if not fakes:
        raise ValueError("nrds: expected at least one competitor, got none")
    if real.ndim != 4 or min(real.shape[-2:]) < 16 or any(x.ndim != 4 or x.shape[1:] != real.shape[1:] for x in fakes):
        raise ValueError(
            "nrds: expected images (N, C, H, W) of one size and H, W >= 16, got "
            f"{', '.join(str(tuple(x.shape)) for x in (real, *fakes))} (real first); cut all sets to the same tiles"
        )
    if len({len(x) for x in fakes}) > 1:
        raise ValueError(
            "nrds: expected sets of one size from all competitors, got "
            f"{', '.join(str(len(x)) for x in fakes)} images; unequal sets bias the pool: "
            "draw the same number from each"
        )
    if not all(torch.isfinite(x).all() for x in (real, *fakes)):
        raise ValueError("nrds: the images hold values that are not finite; use wholly valid tiles, or fill them alike")
    if epochs < 2 or batch < 1 or not seeds or not 0 <= held_out < 1:
        raise ValueError(
            "nrds: expected epochs >= 2, batch >= 1, a seed and 0 <= held_out < 1, got "
            f"{epochs}, {batch}, {len(seeds)} seeds and {held_out}"
        )
    if min(_learned(len(x), held_out) for x in (real, *fakes)) < 1:
        raise ValueError(
            f"nrds: expected an image to learn from in every set, got {len(real)} real and {len(fakes[0])} fake images "
            f"with held_out {held_out}; use more tiles"
        )


def _learned(count: int, held_out: float) -> int:
    """Images of a set that the judge learns from; at least one is held out when a share is asked for."""
    return count if held_out == 0 else min(count - 1, round(count * (1 - held_out)))


def _digest(images: Tensor) -> bytes:
    return hashlib.sha256(images.detach().cpu().contiguous().numpy().tobytes()).digest()


def _judged(
    real: Tensor,
    fakes: Sequence[Tensor],
    epochs: int,
    batch: int,
    held_out: float,
    seed: int,
    lr: float,
    width: int,
    progress: Progress,
    steps: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Train one judge; mean outputs after every epoch over full sets and over held-out images, (E, 1 + n) each."""
    device = real.device
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        judge = Judge(real.shape[1], (real.shape[2], real.shape[3]), width).to(device)
    optimiser = torch.optim.Adam(judge.parameters(), lr=lr, betas=(0.5, 0.999))
    splits = []
    for count in (len(real), len(fakes[0])):
        shuffled = torch.randperm(count, generator=draw)
        learned = _learned(count, held_out)
        splits.append((shuffled[:learned].to(device), shuffled[learned:].to(device)))
    (learn_real, kept_real), (learn_fake, kept_fake) = splits
    pool = torch.cat([x[learn_fake] for x in fakes])
    batches = max(1, min(len(learn_real), len(pool)) // batch)
    size = min(batch, len(learn_real), len(pool))
    truth = torch.cat([torch.ones(size), torch.zeros(size)]).to(device)
    full, kept = [], []
    for epoch in range(epochs):
        order_real = learn_real[torch.randperm(len(learn_real), generator=draw).to(device)]
        order_fake = torch.randperm(len(pool), generator=draw).to(device)
        judge.train()
        for step in range(batches):
            here = slice(step * size, (step + 1) * size)
            logits = judge(torch.cat([real[order_real[here]], pool[order_fake[here]]]))
            optimiser.zero_grad(set_to_none=True)
            F.binary_cross_entropy_with_logits(logits, truth).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        judge.eval()
        believed = [_believed(judge, x) for x in (real, *fakes)]
        full.append(torch.stack([x.mean() for x in believed]))
        held = (kept_real, *(kept_fake for _ in fakes))
        kept.append(torch.stack([x[i].mean() for x, i in zip(believed, held, strict=True)]))
        progress("judge", steps[0] + epoch + 1, steps[1])
    return torch.stack(full).cpu(), torch.stack(kept).cpu()


@torch.no_grad()
def _believed(judge: Judge, images: Tensor) -> Tensor:
    """Judge's probability that each image is real, float64."""
    return torch.cat([judge(part).double().sigmoid() for part in torch.split(images, _CHUNK)])
