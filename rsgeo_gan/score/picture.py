"""One picture of the scores: what the tiles look like, the distances with intervals, spectra and values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from rsgeo_gan.metrics import Interval, radial_frequencies, radial_psd
from rsgeo_gan.report.drawing import INK, plain
from rsgeo_gan.score.images import ImageSet
from rsgeo_gan.score.judging import Scores

__all__ = ["picture"]

_COLOURS = ("#1b1b1b", "#c2410c", "#2563eb", "#15803d", "#9333ea", "#b45309", "#0891b2", "#be185d")
_SHOWN = 10
"""Tiles in a strip."""
_MOST_BANDS = 4
_RGB = (("B04", "B03", "B02"), ("B4", "B3", "B2"), ("red", "green", "blue"))
_STRETCH = (0.02, 0.98)
_GRID, _LINE = "#e2e8f0", "#94a3b8"
_BINS = 60


def picture(scores: Scores, sets: Sequence[ImageSet]) -> Figure:
    """Draw all sets with one stretch, and their scores.

    Args:
        scores: The scores.
        sets: The tiles behind them, the real set first.

    Returns:
        The figure.
    """
    bands = _bands(sets[0].folder.bands)
    strips = 0.34 + 1.0 * len(sets)
    below = 1 if len(bands) == 1 else 2
    figure = Figure(figsize=(13.0, strips + 2.5 + below * 2.5), layout="constrained")
    grid = figure.add_gridspec(2 + below, 1, height_ratios=[strips, 0.9 + 0.32 * len(sets), *([2.2] * below)])
    _strips(figure, grid[0], sets, seed=0)
    _bars(figure, grid[1], scores)
    # One band: spectrum and values side by side.
    halves = grid[2].subgridspec(1, 2)
    spectra, values = (halves[0], halves[1]) if below == 1 else (grid[2], grid[3])
    _spectra(figure, spectra, sets, bands)
    _values(figure, values, sets, bands)
    return figure


def _colour(number: int) -> str:
    return _COLOURS[number] if number < len(_COLOURS) else "#64748b"


def _bands(names: Sequence[str]) -> list[int]:
    """Bands that get a panel: those shown in colour, else the first ones."""
    shown = _composite(names)
    if len(shown) == 3 and len(names) > 3:
        rest = [i for i in range(len(names)) if i not in shown]
        return [*shown, rest[-1]]
    return list(range(min(len(names), _MOST_BANDS)))


def _composite(names: Sequence[str]) -> list[int]:
    """Bands shown as red, green and blue, or the one shown in grey."""
    for choice in _RGB:
        if set(choice) <= set(names):
            return [list(names).index(name) for name in choice]
    return [0, 1, 2] if len(names) == 3 else [0]


def _strips(figure: Figure, place: SubplotSpec, sets: Sequence[ImageSet], seed: int) -> None:
    """Some tiles of every set, all with the real set's stretch."""
    chosen = _composite(sets[0].folder.bands)
    limits = [np.nanquantile(sets[0].images[:, band], _STRETCH) for band in chosen]
    grid = place.subgridspec(len(sets), 1, hspace=0.04)
    names = sets[0].folder.bands
    how = (
        "true colour"
        if any([names[i] for i in chosen] == list(c) for c in _RGB)
        else ", ".join(names[i] for i in chosen)
    )
    for number, one in enumerate(sets):
        axes = figure.add_subplot(grid[number])
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(len(one), min(_SHOWN, len(one)), replace=False))
        strip = _strip(one.images[rows][:, chosen], limits)
        axes.imshow(strip, interpolation="nearest", aspect="equal")
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_ylabel(_short(one.name), rotation=0, ha="right", va="center", color=_colour(number), fontsize=10)
        if not number:
            low, high = limits[0] if len(chosen) == 1 else (min(a for a, _ in limits), max(b for _, b in limits))
            axes.set_title(
                f"Tiles drawn at random ({how}), one stretch for all: {low:.3g} to {high:.3g} {_unit(sets[0])}",
                loc="left",
                fontsize=10,
                color=INK,
            )


def _strip(tiles: np.ndarray, limits: Sequence[np.ndarray]) -> np.ndarray:
    """Tiles side by side as RGB, invalid pixels pale."""
    low, high = (np.asarray([pair[i] for pair in limits])[:, None, None] for i in (0, 1))
    scaled = np.clip((tiles - low) / np.maximum(high - low, 1e-12), 0, 1)
    scaled = np.repeat(scaled, 3, axis=1) if scaled.shape[1] == 1 else scaled
    valid = np.isfinite(scaled).all(axis=1, keepdims=True)
    scaled = np.where(valid, scaled, 0.95)
    side = tiles.shape[-1]
    gap = max(1, side // 16)
    strip = np.ones((side, len(tiles) * (side + gap) - gap, 3))
    for number, tile in enumerate(scaled):
        strip[:, number * (side + gap) : number * (side + gap) + side] = tile.transpose(1, 2, 0)
    return strip


def _bars(figure: Figure, place: SubplotSpec, scores: Scores) -> None:
    """Scores with intervals, a panel each; the real set's halves as a line through all."""
    fid = scores.frechet_name == "FID"
    panels = [
        (f"{'FID' if fid else 'Fréchet distance'}\nlower is better", "frechet", 1.0),
        (f"{'KID' if fid else 'kernel distance'} ×10³\nlower is better", "kernel", 1000.0),
        ("precision (looks real)\nhigher is better", "precision", 1.0),
        ("recall (variety)\nhigher is better", "recall", 1.0),
        ("spectrum, dB\nlower is better", "spectrum_db", 1.0),
    ]
    judged = any(row.nrds is not None for row in scores.rows)
    told = (
        f"Scores against the real set: mean and 95 % interval over random draws of {scores.count} tiles a side; "
        f"dashed: two halves of the real set. Features: {scores.backend}"
    )
    outer = place.subgridspec(2, 1, height_ratios=[0.02, 1])
    head = figure.add_subplot(outer[0])
    head.set_axis_off()
    head.set_title(told, loc="left", fontsize=10, color=INK)
    grid = outer[1].subgridspec(1, len(panels) + judged)
    names = [_short(row.name) if number else "real, halves" for number, row in enumerate(scores.rows)]
    for column, (title, key, times) in enumerate(panels):
        axes = figure.add_subplot(grid[column])
        for number, row in enumerate(scores.rows):
            interval: Interval | None = getattr(row, key)
            if interval is None:
                continue
            value, low, high = (times * part for part in interval[:3])
            axes.plot([low, high], [number, number], color=_colour(number), linewidth=2.2, solid_capstyle="butt")
            axes.plot([value], [number], "o", color=_colour(number), markersize=5)
            if not number:
                axes.axvline(value, color=_LINE, linewidth=0.8, linestyle=(0, (4, 3)))
        _ranked(axes, title, names, first=column == 0)
        if key in ("precision", "recall"):
            axes.set_xlim(-0.05, 1.05)
    if judged:
        axes = figure.add_subplot(grid[len(panels)])
        for number, row in enumerate(scores.rows):
            if row.nrds is None or row.area is None:
                continue
            axes.barh(number, row.nrds, 0.5, color=_colour(number), xerr=row.nrds_std, ecolor=INK, capsize=2)
            end = row.nrds + (0.0 if np.isnan(row.nrds_std or 0.0) else row.nrds_std or 0.0)
            axes.text(end, number, f"  A {row.area:.2f}", fontsize=7, color=INK, va="center")
        axes.axvline(1 / max(1, len(scores.rows) - 1), color=_LINE, linewidth=0.8, linestyle=(0, (4, 3)))
        _ranked(axes, "NRDS (line: equal shares)\nhigher is better", names, first=False)
        axes.set_xlim(0, 1.35 * axes.get_xlim()[1])


def _ranked(axes: Axes, title: str, names: Sequence[str], *, first: bool) -> None:
    plain(axes)
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names if first else [""] * len(names), fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.grid(True, axis="x", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def _spectra(figure: Figure, place: SubplotSpec, sets: Sequence[ImageSet], bands: Sequence[int]) -> None:
    """Mean radial power spectra, a panel per band."""
    grid = place.subgridspec(1, len(bands))
    side = sets[0].images.shape[-1]
    found = []
    for one in sets:
        whole = np.isfinite(one.images).all(axis=(1, 2, 3))
        images = torch.from_numpy(np.ascontiguousarray(one.images[whole][:, list(bands)]))
        found.append(radial_psd(images).mean(dim=0).numpy() if whole.any() else None)
    for column, band in enumerate(bands):
        axes = figure.add_subplot(grid[column])
        for number, spectrum in enumerate(found):
            if spectrum is not None:
                axes.loglog(
                    radial_frequencies(side).numpy(),
                    np.maximum(spectrum[column], 1e-12),
                    color=_colour(number),
                    linewidth=2.0 if number == 0 else 1.3,
                    label=_short(sets[number].name),
                    zorder=3 if number == 0 else 2,
                )
        _titled(axes, f"Power spectrum, {sets[0].folder.bands[band]}", "cycles per pixel")
        axes.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
        axes.minorticks_off()
        axes.set_xlim(1 / side, 0.5)
        if column == 0:
            axes.set_ylabel(f"({_unit(sets[0])})²", fontsize=8)
    axes.legend(fontsize=8, frameon=False)


def _values(figure: Figure, place: SubplotSpec, sets: Sequence[ImageSet], bands: Sequence[int]) -> None:
    """Distributions of values, a panel per band."""
    grid = place.subgridspec(1, len(bands))
    for column, band in enumerate(bands):
        axes = figure.add_subplot(grid[column])
        valid = [one.images[:, band][np.isfinite(one.images[:, band])] for one in sets]
        edges = _edges(valid[0], sets[0].folder.steps[band])
        axes.hist(valid[0], edges, density=True, color="#cbd5e1")
        for number, here in enumerate(valid[1:], start=1):
            axes.hist(here, edges, density=True, histtype="step", color=_colour(number), linewidth=1.4)
        _titled(axes, f"Values, {sets[0].folder.bands[band]} (real in grey)", _unit(sets[0]))
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)


def _edges(values: np.ndarray, step: float) -> list[float]:
    """Ends of bins a little beyond the real values; bins of stored steps hold equally many of them."""
    low, high = (float(end) for end in np.quantile(values, [0.001, 0.999]))
    room = 0.15 * max(high - low, 1e-6)
    low, high = low - room, high + room
    if step <= 0:
        return np.linspace(low, high, _BINS + 1).tolist()
    width = step * max(1, round((high - low) / _BINS / step))
    first = (np.floor(low / step) + 0.5) * step
    return (first + width * np.arange(int((high - first) / width) + 2)).tolist()


def _titled(axes: Axes, title: str, below: str) -> None:
    plain(axes)
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xlabel(below, fontsize=8)
    axes.grid(True, color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def _unit(one: ImageSet) -> str:
    return {"display": "display value", "value": "value as stored"}.get(one.folder.unit, one.folder.unit)


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"…{name[-21:]}"
