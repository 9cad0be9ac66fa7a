"""Tables and pictures of the study: scores over the adversarial weight, and how flat they are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runs import spread

Row = dict[str, Any]

SCORES = {
    "nrds": ("NRDS", 3),
    "fd": ("FD", 2),
    "l1": ("L1 of the reconstruction", 4),
    "made_l1": ("L1 of what is made", 4),
    "spectrum_db": ("spectrum, dB", 2),
    "out_of_range": ("out of range", 3),
    "low_pass_share": ("low-pass share", 3),
}
CAAE = {
    "l1": ("L1", 4),
    "fd": ("FD", 2),
    "fd_drawn": ("FD of codes drawn", 1),
    "identity": ("identity", 3),
    "identity_code": ("identity, codes", 3),
    "condition_accuracy": ("condition met", 3),
}
COLOURS = {"tied": "#d55e00", "decoupled": "#0072b2", "none": "#999999"}


def summary(rows: Sequence[Row], pools: Sequence[Row]) -> str:
    """Return Markdown tables: weights under each optimiser and rate, flatness, and the two discriminators."""
    _join(rows, pools)
    lines: list[str] = []
    for data, optimizer, lr in sorted({(r["data"], r["optimizer"], r["lr"]) for r in rows}):
        group = [r for r in _swept(rows) if (r["data"], r["optimizer"], r["lr"]) == (data, optimizer, lr)]
        if not group:
            continue
        lines += [f"\n### {data}, {optimizer}, learning rate {lr:g}\n", _head("system | weight", SCORES)]
        for mode, weight in sorted({(r["mode"], r["adversarial"]) for r in group}):
            mine = [r for r in group if (r["mode"], r["adversarial"]) == (mode, weight)]
            lines.append(f"| {mode} | {weight:g} | {_cells(mine, SCORES)} | {len(mine)} |")
        for mode in ("tied", "decoupled"):
            swings = [f"{SCORES[name][0]} {_swing(group, mode, name)}" for name in ("nrds", "fd", "l1")]
            lines.append(f"\n{mode}, largest over smallest across weights: {', '.join(swings)}")
    agreements = [pool["agreement_fd"] for pool in pools]
    if agreements:
        lines.append(f"\nRank agreement of NRDS and FD, mean of {len(agreements)} pools: {spread(agreements, 2)}")
    both = [r for r in rows if r["part"] == "caae"]
    if both:
        lines += ["\n### Tied, discriminators on and off\n", _head("D_img | D_z", CAAE)]
        for image, code in sorted({(r["adversarial"], r["adversarial_z"]) for r in both}):
            mine = [r for r in both if (r["adversarial"], r["adversarial_z"]) == (image, code)]
            lines.append(f"| {image:g} | {code:g} | {_cells(mine, CAAE)} | {len(mine)} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], pools: Sequence[Row], work: Path, folder: Path) -> None:
    """Draw scores over the weight and strips of pictures, as `decoupling*.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    _join(rows, pools)
    folder.mkdir(parents=True, exist_ok=True)
    shown = ("nrds", "fd", "l1", "spectrum_db")
    for data in sorted({r["data"] for r in rows}):
        groups = sorted({(r["optimizer"], r["lr"]) for r in _swept(rows) if r["data"] == data})
        figure, axes = plt.subplots(
            len(groups), len(shown), figsize=(11, 2.3 * len(groups)), layout="constrained", squeeze=False
        )
        for line, (optimizer, lr) in zip(axes, groups, strict=True):
            group = [r for r in _swept(rows) if (r["data"], r["optimizer"], r["lr"]) == (data, optimizer, lr)]
            for axis, name in zip(line, shown, strict=True):
                for mode in ("tied", "decoupled"):
                    weights = sorted({r["adversarial"] for r in group if r["mode"] == mode})
                    found = [[r[name] for r in _of(group, mode, w) if _known(r, name)] for w in weights]
                    kept = [(w, v) for w, v in zip(weights, found, strict=True) if v]
                    if not kept:
                        continue
                    axis.set_xscale("log")
                    means = [statistics.mean(v) for _, v in kept]
                    errors = [statistics.stdev(v) if len(v) > 1 else 0.0 for _, v in kept]
                    axis.errorbar(
                        [w for w, _ in kept],
                        means,
                        errors,
                        marker="o",
                        ms=3,
                        capsize=2,
                        color=COLOURS[mode],
                        label=mode,
                    )
                alone = [r[name] for r in group if r["mode"] == "none" and _known(r, name)]
                if alone:
                    axis.axhline(statistics.mean(alone), color=COLOURS["none"], lw=1, label="no adversarial term")
                axis.set_title(f"{optimizer}, {lr:g}: {SCORES[name][0]}", fontsize=8)
                axis.set_xlabel("adversarial weight")
        axes[0][0].legend(fontsize=6)
        figure.savefig(folder / f"decoupling-{data}.png", dpi=130)
        plt.close(figure)
    _strips(work, folder)


def _strips(work: Path, folder: Path) -> None:
    import matplotlib.pyplot as plt
    import torch

    paths = sorted(work.glob("strip-*.pt"))
    for data in sorted({path.stem.split("-")[1] for path in paths}):
        kept = {path.stem: torch.load(path, weights_only=True) for path in paths if path.stem.split("-")[1] == data}
        real = next(iter(kept.values()))["real"]
        lines = {"real": real, **{name.split("-", 2)[2]: content["made"] for name, content in kept.items()}}
        figure, axes = plt.subplots(len(lines), len(real), figsize=(len(real), 1.05 * len(lines)), squeeze=False)
        for line, (name, images) in zip(axes, lines.items(), strict=True):
            for axis, image in zip(line, images, strict=True):
                picked = image[[2, 1, 0]] if len(image) > 3 else image[:3]
                axis.imshow(((picked + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy())
                axis.axis("off")
            line[0].set_title(name, fontsize=6, loc="left")
        figure.savefig(folder / f"decoupling-strip-{data}.png", dpi=110, bbox_inches="tight")
        plt.close(figure)


def _join(rows: Sequence[Row], pools: Sequence[Row]) -> None:
    """Give every row the score it has in its pool."""
    known = {
        (pool["data"], *pool["pool"], name): value
        for pool in pools
        for name, value in zip(pool["names"], pool["nrds"], strict=True)
    }
    for row in rows:
        key = (row["data"], row["optimizer"], row["lr"], row["adversarial_z"], row["seed"], row["name"])
        row["nrds"] = known.get(key, math.nan)


def _swept(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["part"] == "weights"]


def _of(rows: Sequence[Row], mode: str, weight: float) -> list[Row]:
    return [row for row in rows if (row["mode"], row["adversarial"]) == (mode, weight)]


def _known(row: Row, name: str) -> bool:
    return name in row and math.isfinite(row[name])


def _head(first: str, scores: dict[str, tuple[str, int]]) -> str:
    heads = [head for head, _ in scores.values()]
    return f"| {first} | {' | '.join(heads)} | seeds |\n" + "|---" * (len(heads) + first.count("|") + 2) + "|"


def _cells(rows: Sequence[Row], scores: dict[str, tuple[str, int]]) -> str:
    cells = []
    for name, (_, decimals) in scores.items():
        values = [row[name] for row in rows if _known(row, name)]
        cells.append(spread(values, decimals) if values else "")
    return " | ".join(cells)


def _swing(rows: Sequence[Row], mode: str, name: str) -> str:
    means = []
    for weight in {row["adversarial"] for row in rows if row["mode"] == mode}:
        values = [row[name] for row in _of(rows, mode, weight) if _known(row, name)]
        if values:
            means.append(statistics.mean(values))
    return f"{max(means) / max(min(means), 1e-9):.2f}" if len(means) > 1 else "?"
