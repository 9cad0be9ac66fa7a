"""The picture of a series: how far every pair is from the common solution, and where each scene lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from rsgeo_gan.coregister.series_result import SeriesResult, SeriesScene
from rsgeo_gan.errors import ProductError

__all__ = ["draw_series"]

_INK, _QUIET = "#334155", "#94a3b8"
_DX, _DY, _LOST = "#c2410c", "#2563eb", "#cbd5e1"
_CELL_IN, _BARE_CELL_IN = 0.48, 0.3
_MOST_NAMED = 40
_LONGEST_NAME = 26
_MOST_TEXT = 14


def draw_series(path: Path, result: SeriesResult) -> Path:
    """Draw a series as PNG: closure residuals scenes by scenes, dx and dy of each scene with error bars.

    Args:
        path: File to write.
        result: The series.

    Returns:
        The path.

    Raises:
        ProductError: If it cannot be written.
    """
    count = len(result.scenes)
    side = float(np.clip((_CELL_IN if count < _MOST_TEXT else _BARE_CELL_IN) * (count + 1), 3.4, 14.0))
    figure = Figure(figsize=(2 * side + 6.4, side + 1.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _residuals(figure, left, result)
    _places(right, result.scenes)
    staged = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(staged, format="png", dpi=110, facecolor="white")
        staged.replace(path)
    except OSError as error:
        raise ProductError(
            f"Cannot write {path}: {error.strerror or error}. Choose an output folder that you may write to."
        ) from error
    finally:
        staged.unlink(missing_ok=True)
    return path


def _residuals(figure: Figure, axes: Axes, result: SeriesResult) -> None:
    """Matrix of scenes by scenes; both halves show the same pair."""
    count = len(result.scenes) + 1
    names = ["reference", *(scene.name for scene in result.scenes)]
    values = np.full((count, count), np.nan)
    axes.set_facecolor("#f8fafc")
    for edge in result.edges:
        for row, col in ((edge.start, edge.stop), (edge.stop, edge.start)):
            values[row, col] = edge.residual_px
            if not np.isfinite(edge.residual_px):
                axes.plot(col, row, "x", color=_LOST, markersize=6, markeredgewidth=1.6)
            elif not edge.used:
                axes.add_patch(_frame(col, row))
    top = max(1.0, float(np.nanmax(values)) if np.isfinite(values).any() else 1.0)
    shown = axes.imshow(values, cmap="YlOrRd", norm=PowerNorm(0.5, 0.0, top), interpolation="nearest")
    if count <= _MOST_TEXT:
        for row, col in np.argwhere(np.isfinite(values)):
            dark = values[row, col] > 0.4 * top
            axes.text(
                col, row, f"{values[row, col]:.2f}", ha="center", va="center", fontsize=7,
                color="white" if dark else _INK,
            )  # fmt: skip
    step = max(1, -(-count // _MOST_NAMED))
    ticks = list(range(0, count, step))
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.set_yticks(ticks, [f"{_short(names[n])}  {n}" for n in ticks])
    for label, n in zip(axes.get_yticklabels(), ticks, strict=True):
        label.set_color(_colour(result.scenes, n))
    for label, n in zip(axes.get_xticklabels(), ticks, strict=True):
        label.set_color(_colour(result.scenes, n))
    axes.tick_params(labelsize=8, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(
        "Distance of each pair from the solution, px\nframed: not used; ×: declined; empty: not measured",
        loc="left", fontsize=9, color=_INK,
    )  # fmt: skip
    bar = figure.colorbar(shown, ax=axes, shrink=0.7, pad=0.02)
    bar.ax.tick_params(labelsize=7, colors=_INK)
    bar.outline.set_visible(False)


def _places(axes: Axes, scenes: Sequence[SeriesScene]) -> None:
    """Draw dx and dy of each scene, one above the other, with error bars of two sigma; the reason where declined."""
    row = np.arange(1, len(scenes) + 1, dtype=float)
    good = [n for n, scene in enumerate(scenes) if scene.displacement.reliable]
    for offset, colour, label in ((-0.14, _DX, "dx"), (0.14, _DY, "dy")):
        values = [getattr(scenes[n].displacement, f"{label}_px") for n in good]
        errors = [2 * scenes[n].displacement.sigma_px for n in good]
        axes.errorbar(
            values, row[good] + offset, xerr=errors, fmt="o", color=colour, markersize=4, capsize=2,
            linewidth=1.2, label=f"{label}, ± 2σ",
        )  # fmt: skip
    axes.axvline(0, color=_QUIET, linewidth=0.8)
    for n, scene in enumerate(scenes):
        if not scene.displacement.reliable:
            axes.annotate(
                scene.displacement.reason, (0.02, n + 1), xycoords=axes.get_yaxis_transform(), va="center",
                fontsize=8, color="#b91c1c",
            )  # fmt: skip
    reach = max([1.0] + [abs(v) + 2 * s.displacement.sigma_px for s in scenes if s.displacement.reliable
                         for v in (s.displacement.dx_px, s.displacement.dy_px)])  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.set_xlim(-1.12 * reach, 1.12 * reach)
    step = max(1, -(-len(scenes) // _MOST_NAMED))
    axes.set_yticks(row[::step], [f"{_short(scene.name)}  {n + 1}" for n, scene in enumerate(scenes)][::step])
    axes.set_ylim(len(scenes) + 0.6, 0.4)
    axes.tick_params(labelsize=8, colors=_INK)
    axes.grid(True, axis="x", color="#e2e8f0", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_QUIET)
    axes.set_xlabel("reference pixels, + right (dx), + down (dy)", fontsize=8, color=_INK)
    axes.set_title(
        "Where each scene's content lies, relative to the reference", loc="left", fontsize=9, color=_INK,
        pad=20 if good else 6,
    )  # fmt: skip
    if good:
        axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=2)


def _frame(col: int, row: int) -> Rectangle:
    return Rectangle((col - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="#1d4ed8", linewidth=1.6)


def _colour(scenes: Sequence[SeriesScene], number: int) -> str:
    return _INK if number == 0 or scenes[number - 1].displacement.reliable else "#b91c1c"


def _short(name: str) -> str:
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
