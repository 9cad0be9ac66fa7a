"""Tables and pictures of the study: mean ± spread over seeds, and what is told apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runs import spread

Row = dict[str, Any]

SCORES = {
    "correlation": ("correlation 7×7", 3, True),
    "ssim": ("SSIM 7×7", 3, True),
    "psnr_db": ("PSNR 7×7, dB", 2, True),
    "spectrum_db": ("spectrum, dB", 2, False),
    "fd": ("FD", 1, False),
    "ks": ("KS of values", 3, False),
    "enl_ratio": ("ENL, made / real", 2, None),
}
"""Heading, decimals, and whether more is better."""
DRAWN = ("correlation", "ssim", "spectrum_db", "fd")
COLOURS = ("#999999", "#d55e00", "#56b4e9", "#009e73", "#0072b2", "#cc79a7", "#e69f00", "#000000", "#8c6d31")


def summary(rows: Sequence[Row]) -> str:
    """Return Markdown tables, one per data set, size and displacement; a star marks what is best beyond the spread."""
    lines: list[str] = []
    for group in _groups(rows):
        first = group[0]
        kind = "smooth field, RMS" if first["smooth"] else "displacement"
        lines.append(f"\n### {first['data']}, {kind} {first['level_px']:g} px ({first['size']['steps']} steps)\n")
        heads = [head for name, (head, _, _) in SCORES.items() if name in first]
        lines.append(f"| system | {' | '.join(heads)} | drift, px | s | seeds |")
        lines.append("|---" * (len(heads) + 4) + "|")
        names = list(dict.fromkeys(row["system"] for row in group))
        stars = {name: _best(group, name) for name in SCORES}
        for system in names:
            mine = [row for row in group if row["system"] == system]
            cells = [
                spread([row[name] for row in mine], decimals) + ("*" if stars[name] == system else "")
                for name, (_, decimals, _) in SCORES.items()
                if name in first
            ]
            off = [max(abs(float(v)) for v in row["drift_px"]) for row in mine]
            seconds = round(statistics.mean(row["seconds"] for row in mine))
            lines.append(
                f"| {system} | {' | '.join(cells)} | {spread(off, 2, none='not found')} | {seconds} | {len(mine)} |"
            )
    responses = [row for row in rows if "response" in row]
    if responses:
        lines += ["\n### Shift response of trained source encoders, k = 1, 2, 3, 8 px\n"]
        for name in responses[0]["response"]:
            means = [statistics.mean(row["response"][name][k] for row in responses) for k in range(4)]
            lines.append(
                f"- {name}: " + ", ".join(f"{value:.2f}" for value in means) + f" ({len(responses)} trainings)"
            )
    return "\n".join(lines)


def draw(rows: Sequence[Row], work: Path, folder: Path) -> None:
    """Draw scores over displacement, and strips of pictures, as `misalignment*.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    for data in sorted({row["data"] for row in rows}):
        mine = [row for row in rows if row["data"] == data and not row["smooth"]]
        figure, axes = plt.subplots(1, len(DRAWN), figsize=(11, 2.9), layout="constrained")
        names = list(dict.fromkeys(row["system"] for row in sorted(mine, key=lambda row: row["system"])))
        for axis, score in zip(axes, DRAWN, strict=True):
            for number, name in enumerate(names):
                levels = sorted({row["level_px"] for row in mine if row["system"] == name})
                found = [[r[score] for r in mine if (r["system"], r["level_px"]) == (name, x)] for x in levels]
                means = [statistics.mean(values) for values in found]
                spread = [statistics.stdev(values) if len(values) > 1 else 0 for values in found]
                x = [level + mine[0]["residual_px"] + 0.06 * (number - len(names) / 2) for level in levels]
                axis.errorbar(x, means, spread, marker="o", ms=3, capsize=2, lw=1.2, color=COLOURS[number], label=name)
            more = SCORES[score][2]
            axis.set_title(f"{SCORES[score][0]} ({'more' if more else 'less'} is better)", fontsize=8)
            axis.set_xlabel("displacement of the training pairs, px")
            if score in ("spectrum_db", "fd"):
                axis.set_yscale("log")
        axes[0].legend(fontsize=6)
        figure.savefig(folder / f"misalignment-{data}.png", dpi=140)
        plt.close(figure)
        _strips(data, names, work, folder)


def _strips(data: str, names: Sequence[str], work: Path, folder: Path) -> None:
    import matplotlib.pyplot as plt
    import torch

    for level in (0.0, 2.0, 4.0):
        found = {name: work / f"strip-{data}-{name}-{level:g}.pt".replace(" ", "_") for name in names}
        kept = {name: torch.load(path, weights_only=True) for name, path in found.items() if path.is_file()}
        if not kept:
            continue
        shown = next(iter(kept.values()))
        columns = {"source": shown["source"], "true target": shown["target"]}
        columns |= {name: content["fake"] for name, content in kept.items()}
        height = len(shown["source"])
        figure, axes = plt.subplots(
            height, len(columns), figsize=(1.7 * len(columns), 1.75 * height), layout="constrained", squeeze=False
        )
        for axis, (name, images) in zip(axes.T, columns.items(), strict=True):
            axis[0].set_title(name, fontsize=8)
            for cell, image in zip(axis, images, strict=True):
                cell.axis("off")
                if name == "source":
                    picked = image[[2, 1, 0]] if len(image) > 3 else image[:3]
                    low, high = picked.quantile(0.02), picked.quantile(0.98)
                    cell.imshow(((picked - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).numpy())
                else:
                    cell.imshow(image[0].numpy(), cmap="gray", vmin=-1, vmax=0.8)
        figure.savefig(folder / f"misalignment-{data}-{level:g}px.png", dpi=110)
        plt.close(figure)


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    def key(row: Row) -> tuple[Any, ...]:
        return row["data"], row["size"]["side_px"], row["size"]["steps"], row["smooth"], row["level_px"]

    return [[row for row in rows if key(row) == found] for found in sorted({key(row) for row in rows})]


def _best(group: Sequence[Row], score: str) -> str | None:
    """Name the system that is best by more than the spread of the first two; none when they are not told apart."""
    more = SCORES[score][2]
    if more is None or score not in group[0]:
        return None
    found = {}
    for name in {row["system"] for row in group}:
        values = [row[score] for row in group if row["system"] == name]
        if len(values) < 2:
            return None
        found[name] = statistics.mean(values), statistics.stdev(values)
    first, *others = sorted(found, key=lambda name: found[name][0], reverse=more)
    if not others:
        return None
    gap = abs(found[first][0] - found[others[0]][0])
    return first if gap > max(found[first][1], found[others[0]][1]) else None
