"""Tables and figures of the study: mean ± spread over seeds, and what is told apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runs import spread

Row = dict[str, Any]

SCORES = {
    "psnr_db": ("PSNR, dB", 2, True),
    "ssim": ("SSIM", 3, True),
    "sam_deg": ("SAM, °", 2, False),
    "ergas": ("ERGAS", 2, False),
    "fdist": ("FDist", 3, False),
    "spectrum_db": ("spectrum, dB", 2, False),
    "area_error": ("area error, 10⁻³", 2, False),
    "hallucination": ("hallucination", 3, False),
    "omission": ("omission", 3, False),
    "improvement": ("improvement", 3, True),
}
"""Heading, decimals, and whether more is better."""
SHOWN = ("psnr_db", "fdist", "spectrum_db", "improvement")
WITH_REFERENCE = ("SRNTT-l2", "SRNTT", "SRNTT-l2, no gate", "SRNTT, no gate", "SRNTT-l2, truth not shown")
KINDS = ("truth", "other", "shifted", "another place", "noise", "none")
TITLES = {
    "landsat": "Landsat 8, ×2, panchromatic",
    "rotterdam": "Rotterdam, ×2, panchromatic",
    "boadella": "Boadella, ×4, other season",
    "brandenburg": "Brandenburg, ×4, other orbit",
    "satellogic": "Sentinel-2 judged by Satellogic, ×4, no reference",
}
COLOURS = ("#999999", "#56b4e9", "#0072b2", "#009e73", "#8c6d31", "#d55e00", "#e69f00", "#cc79a7", "#000000")


def summary(rows: Sequence[Row]) -> str:
    """Return Markdown: the ladder of every scene, then what each reference is worth."""
    lines: list[str] = []
    for scene in [name for name in TITLES if any(row["scene"] == name for row in rows)]:
        mine = [row for row in rows if row["scene"] == scene]
        first = mine[0]
        lines.append(f"\n### {TITLES[scene]} ({first['tiles']} tiles, R = {first['range']:.3f}, {first['notes']})\n")
        scores = [name for name in SCORES if math.isfinite(_values(mine, mine[0]["rung"], name)[0])]
        lines.append(f"| rung | {' | '.join(SCORES[name][0] for name in scores)} | s | seeds |")
        lines.append("|---" * (len(scores) + 3) + "|")
        for rung in dict.fromkeys(row["rung"] for row in mine):
            cells = [spread(_values(mine, rung, name), *_form(name)) for name in scores]
            own = [row for row in mine if row["rung"] == rung]
            seconds = statistics.mean(row["seconds"] for row in own)
            lines.append(f"| {rung} | {' | '.join(cells)} | {seconds:.0f} | {len(own)} |")
        lines += _references(mine)
    return "\n".join(lines)


def _references(rows: Sequence[Row]) -> list[str]:
    """Return a table of references by rungs that take one; empty where there is only one kind."""
    rungs = list(dict.fromkeys(row["rung"] for row in rows if "none" in row["scores"]))
    kinds = [kind for kind in KINDS if any(kind in row["scores"] for row in rows)]
    if len(kinds) < 2:
        return []
    lines = [f"\n| reference | {' | '.join(f'{rung}: PSNR, dB / FDist' for rung in rungs)} | similarity | gate |"]
    lines.append("|---" * (len(rungs) + 3) + "|")
    for kind in kinds:
        cells = []
        for rung in rungs:
            found = [row["scores"][kind] for row in rows if row["rung"] == rung]
            cells.append(" / ".join(spread([v[name] for v in found], *_form(name)) for name in ("psnr_db", "fdist")))
        gated = [row["scores"][kind] for row in rows if row["rung"] == "SRNTT-l2"]
        more = [spread([v[name] for v in gated], 2, 1) if gated else "" for name in ("similarity", "gate")]
        lines.append(f"| {kind} | {' | '.join(cells)} | {' | '.join(more)} |")
    return lines


def draw(rows: Sequence[Row], work: Path, folder: Path) -> None:
    """Draw the ladder, what references are worth, and pictures of every scene, as `superres-*.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [name for name in TITLES if any(row["scene"] == name for row in rows)]
    figure, axes = plt.subplots(len(scenes), len(SHOWN), figsize=(12, 2.1 * len(scenes)), layout="constrained")
    for line, scene in zip(axes.reshape(len(scenes), -1), scenes, strict=True):
        mine = [row for row in rows if row["scene"] == scene]
        rungs = list(dict.fromkeys(row["rung"] for row in mine))
        for axis, score in zip(line, SHOWN, strict=True):
            for place, rung in enumerate(rungs):
                values = _values(mine, rung, score)
                colour = COLOURS[min(place, len(COLOURS) - 1)]
                axis.errorbar(
                    statistics.mean(values), -place, xerr=_deviation(values), marker="o", ms=4, capsize=2, color=colour
                )
            axis.set_yticks([-place for place in range(len(rungs))], rungs if axis is line[0] else [])
            axis.set_title(f"{SCORES[score][0]} ({'more' if SCORES[score][2] else 'less'} is better)", fontsize=8)
            axis.grid(axis="x", lw=0.3)
        line[0].set_ylabel(TITLES[scene].replace(", ", "\n"), fontsize=7)
    figure.savefig(folder / "superres-ladder.png", dpi=120)
    plt.close(figure)
    _worth(rows, folder)
    for scene in scenes:
        _strips(scene, work, folder)


def _worth(rows: Sequence[Row], folder: Path) -> None:
    """Draw the gain over no reference, by reference."""
    import matplotlib.pyplot as plt

    scenes = [name for name in TITLES if any(row["scene"] == name and "other" in row["scores"] for row in rows)]
    if not scenes:
        return
    figure, axes = plt.subplots(2, len(scenes), figsize=(3 * len(scenes), 4.6), layout="constrained", squeeze=False)
    for column, scene in zip(axes.T, scenes, strict=True):
        mine = [row for row in rows if row["scene"] == scene and "other" in row["scores"]]
        for axis, score in zip(column, ("psnr_db", "fdist"), strict=True):
            for rung in dict.fromkeys(row["rung"] for row in mine):
                place = WITH_REFERENCE.index(rung)
                own = [row["scores"] for row in mine if row["rung"] == rung]
                gains = [[scores[kind][score] - scores["none"][score] for scores in own] for kind in KINDS]
                axis.errorbar(
                    [k + 0.06 * (place - 2) for k in range(len(KINDS))],
                    [statistics.mean(values) for values in gains],
                    [_deviation(values) for values in gains],
                    marker="o",
                    ms=3,
                    capsize=2,
                    lw=1,
                    color=COLOURS[place + 3],
                    label=rung,
                )
            axis.axhline(0, color="#bbbbbb", lw=0.6)
            axis.set_xticks(range(len(KINDS)), KINDS, rotation=35, fontsize=7)
            axis.set_title(f"{TITLES[scene].split(',')[0]}: {SCORES[score][0]}, change by the reference", fontsize=7)
    handles = {name: line for axis in axes[0] for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=7, loc="outside lower center", ncols=len(handles))
    figure.savefig(folder / "superres-references.png", dpi=130)
    plt.close(figure)


def _strips(scene: str, work: Path, folder: Path) -> None:
    """Show a tile of input, every rung, reference and truth."""
    import matplotlib.pyplot as plt
    import torch

    from sharp.systems import RUNGS

    found = {name: work / f"strip-{scene}-{name}.pt".replace(" ", "_") for name in RUNGS}
    kept = {name: torch.load(path, weights_only=True) for name, path in found.items() if path.is_file()}
    if not kept:
        return
    first = next(iter(kept.values()))
    columns = {"input": first["input"]} | {name: images["made"] for name, images in kept.items()}
    columns |= {"reference": first["reference"]} if "reference" in first else {}
    columns["truth"] = first["truth"]
    height = len(first["truth"])
    figure, axes = plt.subplots(
        height, len(columns), figsize=(1.75 * len(columns), 1.8 * height), layout="constrained", squeeze=False
    )
    flat = first["truth"].transpose(0, 1).flatten(1)
    low, high = (flat.quantile(q, dim=1)[:, None, None] for q in (0.01, 0.99))
    for axis, (name, images) in zip(axes.T, columns.items(), strict=True):
        axis[0].set_title(name, fontsize=8)
        for cell, image in zip(axis, images, strict=True):
            cell.axis("off")
            if name == "reference":
                ends = image.flatten(1).quantile(0.01, dim=1), image.flatten(1).quantile(0.99, dim=1)
                shown = (image - ends[0][:, None, None]) / (ends[1] - ends[0])[:, None, None]
            else:
                shown = (image - low) / (high - low)
            cell.imshow(shown.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest")
    figure.savefig(folder / f"superres-{scene}.png", dpi=100)
    plt.close(figure)


def _values(rows: Sequence[Row], rung: str, score: str) -> list[float]:
    """Scores of a rung over seeds: with the scene's own reference where it takes one."""
    found = [row["scores"] for row in rows if row["rung"] == rung]
    return [scores.get("", scores.get("other", scores.get("none")))[score] for scores in found]


def _form(score: str) -> tuple[int, float]:
    """Decimals, and the factor by which a score is shown."""
    return SCORES[score][1], 1e3 if score == "area_error" else 1


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
