"""Compares sets of tiles: every value with an interval, at one number of images, beside two halves of the real set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsgeo_gan.errors import SourceError
from rsgeo_gan.metrics import (
    NRDS,
    FeatureBackend,
    Interval,
    distance_name,
    fit_levels,
    frechet_distance,
    halved,
    kernel_distance,
    level_cutoff,
    level_distances,
    nrds,
    per_class,
    precision_recall,
    radial_psd,
    rank_agreement,
    spectral_leakage,
)
from rsgeo_gan.progress import Progress
from rsgeo_gan.score.images import ImageSet
from rsgeo_gan.sensors import Scaler

__all__ = ["INTERVALS", "JUDGES", "JudgeSetup", "Row", "Scores", "compare", "model_domain"]

INTERVALS = ("frechet", "kernel", "precision", "recall", "spectrum_db", "leakage", "values_ks")
"""Attributes of a `Row` that are intervals."""

_VALUES_PER_TILE = 128
_FLOOR = 1e-12
"""Least power of a spectrum, in squared units of the model domain."""
_SPECTRA = 8
"""Wholly valid tiles from which on a spectrum is compared."""
_DRAWS_SLOW = 10
_NEIGHBOURS = 3
_FEWEST_OF_CLASS = 5
_BATCH = 64


@dataclass(frozen=True)
class JudgeSetup:
    """How judges of the relative discriminative score are trained.

    Attributes:
        epochs: Passes.
        width: Channels of the first convolution.
        batch: Real images a step.
        most: Images of a set that a judge sees.
    """

    epochs: int
    width: int
    batch: int
    most: int


JUDGES: dict[str, JudgeSetup | None] = {
    "quick": JudgeSetup(epochs=20, width=16, batch=16, most=128),
    "published": JudgeSetup(epochs=100, width=64, batch=1, most=1_000_000),
    "none": None,
}
"""By name; `published` takes hours on a processor."""


@dataclass(frozen=True)
class Row:
    """Scores of one set against the real one; the row of the real set compares its halves.

    Attributes:
        name: Short name of the folder.
        path: The folder.
        tiles: Tiles compared.
        frechet: Fréchet distance.
        kernel: Kernel distance.
        precision: Share of tiles that look real.
        recall: Share of real tiles that the set can show.
        spectrum_db: Log-spectral distance, dB; None with too few wholly valid tiles.
        leakage: Share of power at frequencies where it does not belong, mean taken off; None likewise.
        values_ks: Kolmogorov-Smirnov distance of values, mean over bands.
        values_ks_bands: The same by band, all tiles.
        frechet_all: Fréchet distance of all tiles, None for the real set.
        kernel_all: Kernel distance of all tiles, None for the real set.
        nrds: Relative discriminative score, mean over seeds; None for the real set or without judges.
        nrds_std: Its deviation over seeds.
        nrds_held_out: The same on tiles that the judges never learned from.
        area: Area A under the judges' outputs, mean over seeds.
        classes: By class: tiles of both sides, Fréchet and kernel distance.
        levels: Fréchet distance by level of frequency; empty when not asked for.
    """

    name: str
    path: str
    tiles: int
    frechet: Interval
    kernel: Interval
    precision: Interval
    recall: Interval
    spectrum_db: Interval | None
    leakage: Interval | None
    values_ks: Interval
    values_ks_bands: tuple[float, ...]
    frechet_all: float | None = None
    kernel_all: float | None = None
    nrds: float | None = None
    nrds_std: float | None = None
    nrds_held_out: float | None = None
    area: float | None = None
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    levels: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scores:
    """Everything that table and figure are made of.

    Attributes:
        rows: The real set first, then the others in the order given.
        frechet_name: What the Fréchet distance is called: FID only where it is one.
        kernel_name: What the kernel distance is called.
        backend: Name of the features.
        digest: Hash of the features; compare only values of equal digest.
        scaler: How analysis units became the model domain, as plain types.
        tile_px: Side of the tiles.
        count: Tiles a side in every interval.
        judge: Setup of the judges, seeds included; None without.
        agreement: Kendall's τ between NRDS and the Fréchet and the kernel distance; None with one set.
        level_cutoffs: Where the high-pass of every level begins, cycles per pixel; empty when not asked for.
        outputs: Judge outputs by name ("real" too), mean over seeds, one per epoch.
        notes: What a reader has to know.
    """

    rows: tuple[Row, ...]
    frechet_name: str
    kernel_name: str
    backend: str
    digest: str
    scaler: dict[str, Any]
    tile_px: int
    count: int
    judge: dict[str, Any] | None
    agreement: dict[str, float] | None
    level_cutoffs: tuple[float, ...]
    outputs: dict[str, list[float]]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Describe it in plain JSON types, values that are not finite as None."""
        found: dict[str, Any] = _plain(asdict(self))
        for row, source in zip(found["rows"], self.rows, strict=True):
            for key in INTERVALS:
                interval = getattr(source, key)
                row[key] = None if interval is None else _plain(interval._asdict())
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class _Described:
    """One set as the comparisons need it."""

    images: Tensor
    features: Tensor
    whole: Tensor
    spectra: Tensor
    values: Tensor


def compare(
    sets: Sequence[ImageSet],
    scaler: Scaler,
    backend: FeatureBackend,
    *,
    judge: JudgeSetup | None,
    levels: bool,
    seeds: Sequence[int],
    draws: int,
    notes: Sequence[str],
    progress: Progress,
) -> Scores:
    """Score sets against the first one.

    Args:
        sets: The real set first; the others hold the same number of tiles.
        scaler: Fitted on the real set.
        backend: Feature network, ready for use.
        judge: How judges are trained; None for no relative discriminative score.
        levels: Whether to compare level by level of frequency too.
        seeds: One judge each; the first one also seeds the draws.
        draws: Random halves an interval is made of.
        notes: Passed on.
        progress: Receives finished steps.

    Returns:
        The scores.

    Raises:
        SourceError: If too few tiles of a set have features.
    """
    rng = np.random.default_rng(seeds[0])
    described = [_described(one, scaler, backend, rng, progress) for one in sets]
    count = min(int(torch.isfinite(one.features).all(dim=1).sum()) for one in described) // 2
    if count <= _NEIGHBOURS:
        raise SourceError(
            f"Only {2 * count} tiles of a set have features of {backend.name}: expected at least "
            f"{2 * _NEIGHBOURS + 2}; give more or larger wholly valid tiles."
        )
    measured = []
    for number in range(len(sets)):
        progress("compare", number, len(sets))
        measured.append(_measured(described[0], described[number] if number else None, count, draws, seeds[0]))
    progress("compare", len(sets), len(sets))
    judged = _judge([one.images for one in described], judge, seeds, progress) if judge is not None else None
    by_level = _levels(described, backend, seeds[0], progress) if levels else [[] for _ in sets]
    rows = []
    for number, (one, scores) in enumerate(zip(sets, measured, strict=True)):
        extra: dict[str, Any] = {"levels": tuple(by_level[number])}
        if number:
            real, fake = described[0].features, described[number].features
            extra |= {
                "frechet_all": float(frechet_distance(real, fake)),
                "kernel_all": float(kernel_distance(real, fake)),
                "classes": _by_class(sets[0], one, real, fake),
            }
            if judged is not None:
                extra |= _relative(judged, number - 1)
        rows.append(Row(one.name, str(one.folder.path), len(one), **scores, **extra))
    names = [one.name for one in sets[1:]]
    return Scores(
        rows=tuple(rows),
        frechet_name=distance_name("F", backend),
        kernel_name=distance_name("K", backend),
        backend=backend.name,
        digest=backend.digest,
        scaler=scaler.to_dict(),
        tile_px=sets[0].images.shape[-1],
        count=count,
        judge=None if judge is None else asdict(judge) | {"seeds": list(seeds)},
        agreement=_agreement(judged, rows[1:]),
        level_cutoffs=tuple(level_cutoff(level) for level in range(len(by_level[0]))),
        outputs={} if judged is None else _curves(judged, names),
        notes=tuple(notes),
    )


def model_domain(one: ImageSet, scaler: Scaler) -> tuple[Tensor, Tensor]:
    """Return images in the model domain, 0 where invalid, and their validity (N, 1, T, T)."""
    scaled = scaler.forward(one.images)
    valid = np.isfinite(scaled).all(axis=1, keepdims=True)
    return torch.from_numpy(np.where(valid, scaled, np.float32(0))), torch.from_numpy(valid.astype(np.float32))


def _described(
    one: ImageSet, scaler: Scaler, backend: FeatureBackend, rng: np.random.Generator, progress: Progress
) -> _Described:
    images, mask = model_domain(one, scaler)
    features = []
    with torch.no_grad():
        for start in range(0, len(images), _BATCH):
            progress(f"features of {one.name}", start, len(images))
            part = slice(start, start + _BATCH)
            features.append(backend.describe(images[part], mask[part]).float().cpu())
    progress(f"features of {one.name}", len(images), len(images))
    whole = mask.flatten(1).bool().all(dim=1)
    # Spectra of unclipped values: a clipped highlight is no texture.
    gain = torch.from_numpy(scaler.gain.astype(np.float32))[:, None, None]
    unclipped = torch.from_numpy(one.images)[whole] * gain
    spectra = radial_psd(unclipped) if len(unclipped) else torch.empty(0, 1, 1)
    return _Described(images, torch.cat(features), images[whole], spectra, _values(one.images, rng))


def _values(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Values of some valid pixels of every tile, shape (N, C, K)."""
    found = np.empty((len(images), images.shape[1], _VALUES_PER_TILE), np.float32)
    for number, image in enumerate(images):
        valid = np.flatnonzero(np.isfinite(image).all(axis=0))
        found[number] = image.reshape(len(image), -1)[:, rng.choice(valid, _VALUES_PER_TILE)]
    return torch.from_numpy(found)


def _measured(real: _Described, fake: _Described | None, count: int, draws: int, seed: int) -> dict[str, Any]:
    """Scores with intervals; of the halves of the real set without a fake one."""

    def interval(score: Callable[[Tensor, Tensor], Tensor | float], part: str, times: int = draws) -> Interval:
        a = getattr(real, part)
        b = None if fake is None else getattr(fake, part)
        bands = a.shape[1:]

        def shaped(x: Tensor, y: Tensor) -> Tensor | float:
            return score(x.view(-1, *bands), y.view(-1, *bands))

        most = min(len(a), len(a) if b is None else len(b)) // 2
        return halved(
            shaped,
            a.flatten(1),
            None if b is None else b.flatten(1),
            draws=times,
            seed=seed,
            count=min(count, most) if part != "features" else count,
        )

    spectra = min(len(real.spectra), len(real.spectra if fake is None else fake.spectra))
    textured = spectra >= _SPECTRA
    everything = _ks(real.values, (real if fake is None else fake).values)
    return {
        "frechet": interval(frechet_distance, "features"),
        "kernel": interval(kernel_distance, "features"),
        "precision": _share(interval(lambda a, b: precision_recall(a, b, k=_NEIGHBOURS).precision, "features")),
        "recall": _share(interval(lambda a, b: precision_recall(a, b, k=_NEIGHBOURS).recall, "features")),
        "spectrum_db": interval(_spectral, "spectra") if textured else None,
        "leakage": _share(interval(_leakage, "whole", _DRAWS_SLOW)) if textured else None,
        "values_ks": _share(interval(lambda a, b: _ks(a, b).mean(), "values", _DRAWS_SLOW)),
        "values_ks_bands": tuple(everything.tolist()),
    }


def _leakage(a: Tensor, b: Tensor) -> Tensor:
    return spectral_leakage(a, b, "hann", mean=False)


def _levels(
    described: Sequence[_Described], backend: FeatureBackend, seed: int, progress: Progress
) -> list[list[float]]:
    """Fréchet distances by level of frequency, of as many wholly valid tiles a side; none with too few."""
    count = min(len(described[0].whole) // 2, *(len(one.whole) for one in described))
    if count < _SPECTRA:
        return [[] for _ in described]
    draw = torch.Generator().manual_seed(seed)
    tiles = [one.whole[torch.randperm(len(one.whole), generator=draw)] for one in described]
    backends = fit_levels(backend, tiles[0])
    found = []
    for number, fakes in enumerate(tiles):
        progress("levels", number, len(tiles))
        other = fakes[:count] if number else fakes[count : 2 * count]
        found.append(level_distances(tiles[0][:count], other, backends).frechet)
    progress("levels", len(tiles), len(tiles))
    return found


def _share(interval: Interval) -> Interval:
    """The interval of a share, which ends at 0 and 1."""
    return interval._replace(low=max(0.0, interval.low), high=min(1.0, interval.high))


def _spectral(a: Tensor, b: Tensor) -> Tensor:
    """Log-spectral distance of mean spectra (N, C, K), dB, mean over bands."""
    one, other = (x.mean(dim=0).clamp_min(_FLOOR) for x in (a, b))
    return (10 * torch.log10(one / other)).square().mean(dim=-1).sqrt().mean()


def _ks(a: Tensor, b: Tensor) -> Tensor:
    """Kolmogorov-Smirnov distance by band of values (N, C, K), shape (C,)."""
    one, other = (x.transpose(0, 1).flatten(1).sort(dim=1).values for x in (a, b))
    points = torch.cat([one, other], dim=1).sort(dim=1).values
    shares = [torch.searchsorted(x, points, right=True) / x.shape[1] for x in (one, other)]
    return (shares[0] - shares[1]).abs().amax(dim=1)


def _by_class(real: ImageSet, fake: ImageSet, a: Tensor, b: Tensor) -> dict[str, dict[str, float]]:
    """Distances by class, where both sides know classes."""
    known = sorted(set(real.labels) & set(fake.labels) - {""})
    if not known:
        return {}
    codes = {label: number for number, label in enumerate(known)}
    labels = [
        torch.tensor([codes.get(label, -1 - side) for label in one.labels]) for side, one in enumerate((real, fake))
    ]

    def both(x: Tensor, y: Tensor) -> dict[str, float]:
        kept = [v[torch.isfinite(v).all(dim=1)] for v in (x, y)]
        if min(len(v) for v in kept) < _FEWEST_OF_CLASS:
            return {}
        return {
            "real_tiles": len(x),
            "tiles": len(y),
            "frechet": float(frechet_distance(*kept)),
            "kernel": float(kernel_distance(*kept)),
        }

    try:
        found = per_class(both, a, labels[0], b, labels[1], fewest=_FEWEST_OF_CLASS)
    except ValueError:  # no class with enough tiles on both sides
        return {}
    return {known[code]: scores for code, scores in found.items() if scores}


def _judge(images: Sequence[Tensor], setup: JudgeSetup, seeds: Sequence[int], progress: Progress) -> NRDS:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    real, *fakes = (one[: setup.most].to(device) for one in images)
    return nrds(
        real,
        fakes,
        epochs=setup.epochs,
        batch=setup.batch,
        width=setup.width,
        seeds=seeds,
        progress=progress,
    )


def _relative(judged: NRDS, number: int) -> dict[str, float]:
    return {
        "nrds": float(judged.mean[number]),
        "nrds_std": float(judged.std[number]),
        "nrds_held_out": float(judged.scores_held_out.mean(dim=0)[number]),
        "area": float(judged.areas.mean(dim=0)[number]),
    }


def _agreement(judged: NRDS | None, rows: Sequence[Row]) -> dict[str, float] | None:
    if judged is None or len(rows) < 2:
        return None
    return {
        kind: rank_agreement(judged.mean, -torch.tensor([getattr(row, kind).value for row in rows]))
        for kind in ("frechet", "kernel")
    }


def _curves(judged: NRDS, names: Sequence[str]) -> dict[str, list[float]]:
    real = {"real": judged.outputs_real.mean(dim=0).tolist()}
    return real | {name: judged.outputs[..., i].mean(dim=0).tolist() for i, name in enumerate(names)}
