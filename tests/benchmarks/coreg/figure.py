"""The figure of the results: how many cases lie within an error, what an answer costs, what confidence is worth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coreg.judge import Row
from coreg.tables import bins, counts

__all__ = ["draw"]

OURS = "ours"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#000000", "#8c6d31", "#7b4173")
LEFT_OUT = ("ours, arrays", "AROSICS, global", "AROSICS, local", "kornia, similarity")
"""Not run on all cases, or the same as another."""
BLOCKS = ("tie points", "sample", "consistency", "exact same band")


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the cases that all methods ran; the reliability of ours over all of its own.

    Args:
        rows: Stored rows.
        path: PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter

    from coreg.tables import shared

    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
    picked = [row for row in shared([row for row in rows if row.method not in LEFT_OUT]) if counts(row)]
    methods = sorted({row.method for row in picked}, key=lambda name: (name != OURS, name))
    styles = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(methods)}
    for axis, block in zip(axes.flat, BLOCKS, strict=False):
        for name in methods:
            here = [row for row in picked if row.block == block and row.method == name]
            if not here:
                continue
            error = np.sort([row.error_px for row in here if row.ok and row.error_px is not None])
            share = np.arange(1, len(error) + 1) / len(here)
            thick = 2.2 if name == OURS else 1.0
            axis.step(np.append(error, 12.0), np.append(share, share[-1:] if len(share) else [0.0]), where="post",
                      color=styles[name], linewidth=thick, label=name)  # fmt: skip
        axis.set(
            xscale="log", xlim=(0.03, 6), ylim=(0, 1.02), title=block, xlabel="error, px", ylabel="share of all cases"
        )
        axis.axvline(1.0, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.flat[0].legend(frameon=False, fontsize=6.5, loc="upper left")

    cost = axes.flat[4]
    for name in methods:
        here = [row for row in picked if row.method == name and row.block in BLOCKS]
        if not here or name == "no change":
            continue
        good = np.mean([row.error_px is not None and row.error_px <= 1.0 for row in here])
        seconds = float(np.nanmedian([row.seconds / row.megapixels for row in here]))
        cost.scatter(seconds, good, color=styles[name], s=60 if name == OURS else 25)
        cost.annotate(name, (seconds, good), xytext=(4, 3), textcoords="offset points", fontsize=6.5)
    cost.set(xscale="log", xlim=(0.05, 20), ylim=(0, 1), title="the same cases, all four blocks")
    cost.set(xlabel="CPU s per megapixel, one thread", ylabel="share within 1 px")
    cost.xaxis.set_minor_formatter(NullFormatter())

    trust = axes.flat[5]
    trust.plot((0, 1), (0, 1), color="#bbbbbb", linewidth=0.8)
    found = [entry for entry in bins(rows, np.linspace(0, 1, 11)) if entry[0] == OURS]
    if found:
        _, _, _, said, seen, number = zip(*found, strict=True)
        trust.plot(said, seen, color=COLOURS[0], marker="o", markersize=4)
        for x, y, n in zip(said, seen, number, strict=True):
            trust.annotate(str(n), (x, y), xytext=(3, -9), textcoords="offset points", fontsize=6.5)
    trust.set(xlim=(0, 1.02), ylim=(0, 1.02), title="confidence of ours (counts beside)", xlabel="stated confidence",
              ylabel="share within 1 px")  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
