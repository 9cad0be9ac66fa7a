"""Training curves out of Lightning's CSV logs."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rsgeo_gan.report.drawing import INK, plain

__all__ = ["curves", "read_curves"]


def read_curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Read a CSV log of Lightning.

    Args:
        path: `metrics.csv`.

    Returns:
        Steps and finite values by column; the `_step` variant of a column is left out where there is an
        `_epoch` one. Empty when the file cannot be read.
    """
    found: dict[str, tuple[list[float], list[float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file)):
                step = _number(row.get("step")) or float(number)
                for name, text in row.items():
                    value = _number(text)
                    if name and name not in ("step", "epoch") and value is not None:
                        steps, values = found.setdefault(name, ([], []))
                        steps.append(step)
                        values.append(value)
    except (OSError, csv.Error, UnicodeDecodeError):
        return {}
    kept = {n: c for n, c in found.items() if not (n.endswith("_step") and n[:-5] + "_epoch" in found)}
    return {name.removesuffix("_epoch").removesuffix("_step"): curve for name, curve in kept.items()}


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def curves(read: Mapping[str, tuple[list[float], list[float]]]) -> Figure | None:
    """Plot training curves: generator terms, discriminator terms, validation scores; None when there are none."""
    groups = (
        ("train_g/", "Generator terms", True),
        ("train_d/", "Discriminator terms", False),
        ("val/", "Validation scores", False),
    )
    shown = [(title, prefix, log) for prefix, title, log in groups if any(name.startswith(prefix) for name in read)]
    if not shown:
        return None
    figure = Figure(figsize=(4.2 * len(shown), 3.9), layout="constrained")
    for axes, (title, prefix, logarithmic) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        names = sorted(name for name in read if name.startswith(prefix))
        if prefix == "val/":
            # Scores have different units; those between 0 and 1 share an axis.
            small = [n for n in names if max(map(abs, read[n][1])) <= 1.2]
            names = small or names
        for name in names[:9]:
            steps, values = read[name]
            smooth = _smoothed(values)
            axes.plot(steps, smooth, linewidth=1.3, label=name[len(prefix) :])
        if logarithmic and all(min(read[name][1]) > 0 for name in names[:9]):
            axes.set_yscale("log")
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.set_xlabel("optimiser step")
        axes.grid(True, color="#e2e8f0", linewidth=0.6)
        axes.legend(fontsize=7, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
        plain(axes)
    return figure


def _smoothed(values: Sequence[float]) -> np.ndarray:
    """Running mean over a fiftieth of the curve; the ends are kept."""
    width = max(1, len(values) // 50) | 1
    padded = np.pad(np.asarray(values, float), width // 2, mode="edge")
    mean: np.ndarray = np.convolve(padded, np.full(width, 1 / width), mode="valid")
    return mean
