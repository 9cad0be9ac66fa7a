"""How the report draws: ink, quiet axes, round lengths, files that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rsgeo_gan.errors import ProductError

__all__ = ["INK", "plain", "rounded", "save"]

INK = "#334155"
_LINE = "#94a3b8"


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all.

    Raises:
        ProductError: If the folder cannot be written.
    """
    staged = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(staged, format="png", dpi=110, facecolor="white", pil_kwargs={"compress_level": 2})
        staged.replace(path)
    except OSError as error:
        raise ProductError(
            f"Cannot write {path}: {error.strerror or error}. Choose an output folder that you may write to."
        ) from error
    finally:
        staged.unlink(missing_ok=True)
    return path


def plain(axes: Axes) -> None:
    """Take the weight out of an axes: no box, quiet ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_LINE)
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def rounded(value: float) -> float:
    """Return the greatest of 1, 2 or 5 times a power of ten that is not above a positive value."""
    digits = 10.0 ** np.floor(np.log10(value))
    return float(max(step for step in (1, 2, 5) if step * digits <= value) * digits)
