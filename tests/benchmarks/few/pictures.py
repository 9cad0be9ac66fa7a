"""Figures of the study: distance over the number of chips, features on their sphere, generated chips."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

from few.tables import SETTINGS, Row

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Circle
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

COLOURS = {"off": "#999999", "both": "#d55e00", "UR only": "#0072b2", "ER only": "#009e73"}


def draw(rows: Sequence[Row], work: Path, folder: Path) -> None:
    """Write all figures."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in sorted({row["data"] for row in rows}):
        _distances([row for row in rows if row["data"] == data], folder / f"scarcity-{data}.png")
        kept = {path: torch.load(path, weights_only=True) for path in sorted(work.glob(f"shown-{data}-*.pt"))}
        for part in sorted({content["part"] for content in kept.values()}):
            mine = {c["setting"]: c for c in kept.values() if c["part"] == part}
            ordered = {setting: mine[setting] for setting in SETTINGS if setting in mine}
            name = part.replace(" ", "-")
            _spheres(ordered, folder / f"scarcity-sphere-{data}-{name}.png")
            _chips(ordered, folder / f"scarcity-chips-{data}-{name}.png")


def _distances(rows: Sequence[Row], path: Path) -> None:
    lines = sorted({row["architecture"] for row in rows})
    columns = sorted({row["classes"] for row in rows})
    figure, axes = plt.subplots(
        len(lines), len(columns), figsize=(4 * len(columns), 2.8 * len(lines)), layout="constrained", squeeze=False
    )
    for line, architecture in zip(axes, lines, strict=True):
        for axis, classes in zip(line, columns, strict=True):
            group = [row for row in rows if (row["architecture"], row["classes"]) == (architecture, classes)]
            for setting in SETTINGS:
                found = _by_size([row for row in group if row["setting"] == setting])
                if found:
                    means = [statistics.mean(values) for values in found.values()]
                    errors = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in found.values()]
                    axis.errorbar(
                        list(found), means, errors, marker="o", ms=3, capsize=2, color=COLOURS[setting], label=setting
                    )
            if group:
                axis.axhline(group[0]["fd_real"], color="black", lw=0.8, ls=":", label="real against real")
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xticks(sorted({row["train_chips"] for row in group}))
            for side in (axis.xaxis, axis.yaxis):
                side.set_major_formatter(ScalarFormatter())
                side.set_minor_formatter(NullFormatter())
            axis.set_xticks([], minor=True)
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_title(f"{architecture}, {classes or 'all'} classes", fontsize=9)
            axis.set_xlabel("training chips")
            axis.set_ylabel("FD")
    axes[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _by_size(rows: Sequence[Row]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for row in sorted(rows, key=lambda row: row["train_chips"]):
        found.setdefault(row["train_chips"], []).append(row["fd"])
    return found


def _spheres(kept: dict[str, dict[str, Any]], path: Path) -> None:
    """A column a setting: directions in the plane where they differ most, on a sphere of radius 1, and all angles."""
    figure, axes = plt.subplots(
        2, len(kept), figsize=(3 * len(kept), 4.4), height_ratios=(3, 1), layout="constrained", squeeze=False
    )
    for (axis, below), (setting, content) in zip(axes.T, kept.items(), strict=True):
        x, labels = content["sphere"], content["labels"]
        axis.add_patch(Circle((0, 0), 1, fill=False, color="#bbbbbb", lw=0.8))
        axis.scatter(x[:, 0], x[:, 1], c=labels, cmap="tab10", vmin=0, vmax=9, s=5, alpha=0.7, linewidths=0)
        axis.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal", xticks=(), yticks=())
        axis.set_title(f"{setting}: G2 {content['potential']:.3f}", fontsize=9)
        below.hist(content["cosines"].numpy(), bins=80, range=(-1, 1), density=True, color=COLOURS[setting])
        below.set(xlim=(-1, 1), yticks=())
        below.set_xlabel("cosine of two features", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _chips(kept: dict[str, dict[str, Any]], path: Path) -> None:
    """Real chips and those of every setting, a line for each, classes one after the other."""
    first = next(iter(kept.values()))
    shown = {"real": first["real"], **{setting: content["made"] for setting, content in kept.items()}}
    count = max(len(images) for images in shown.values())
    figure, axes = plt.subplots(
        len(shown), count, figsize=(0.55 * count, 0.7 * len(shown)), squeeze=False, gridspec_kw={"wspace": 0.05}
    )
    for line, (setting, images) in zip(axes, shown.items(), strict=True):
        for axis in line:
            axis.axis("off")
        for axis, image in zip(line, images, strict=False):
            picked = image[[2, 1, 0]] if len(image) > 3 else image[:3]
            axis.imshow(((picked + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy())
        line[0].set_title(setting, fontsize=7, loc="left", pad=1)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
