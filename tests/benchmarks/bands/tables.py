"""Tables and pictures of the study: mean ± spread over seeds, and differences of pairs with their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]

SCORES = {
    "leakage": ("leakage", 3),
    "leakage_low": ("low bands", 3),
    "leakage_high": ("high bands", 3),
    "share_high": ("power high, made / real", 2),
    "spectrum_db": ("spectrum, dB", 2),
    "fd0": ("FD", 2),
    "fd1": ("FD level 1", 2),
    "fd8": ("FD level 8", 2),
    "kd0": ("KD", 3),
}
"""Heading and decimals; less is better but for the power, which is best at 1."""
WAVES = {"amplitude": "amplitude W₁", "phase": "phase W₁, rad"}
PAIRS = (
    ("plain on shifted", "plain on plain"),
    ("shifted on shifted", "plain on shifted"),
    ("shifted on shifted", "plain on plain"),
    ("low branches", "control"),
    ("high branches", "control"),
    ("high branches", "plain on plain"),
)
"""First minus second is reported."""
COLOURS = ("#999999", "#56b4e9", "#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00")


def flat(row: Row) -> dict[str, float]:
    """Scores of a row by name."""
    found = {name: row[name] for name in ("leakage", "leakage_low", "leakage_high", "share_high", "spectrum_db")}
    found |= {"fd0": row["level_fd"][0], "fd1": row["level_fd"][1], "fd8": row["level_fd"][-1]}
    found["kd0"] = row["level_kd"][0]
    for wave, score in row["waves"].items():
        found |= {f"{name} {wave}": score[name] for name in WAVES}
    return found


def summary(rows: Sequence[Row]) -> str:
    """Return Markdown tables, one per data set and size, each with what is told apart."""
    lines: list[str] = []
    for group in _groups(rows):
        first = group[0]
        scores = [flat(row) for row in group]
        waves = [name for name in scores[0] if name not in SCORES]
        heads = [head for head, _ in SCORES.values()] + waves
        lines.append(f"\n### {first['data']}, {first['size']['side_px']} px, {first['size']['steps']} steps\n")
        lines.append(f"| system | {' | '.join(heads)} | s | seeds |")
        lines.append("|---" * (len(heads) + 3) + "|")
        floor = flat(first["floor"])
        lines.append("| images that were learned | " + " | ".join(_cell([floor[n]], n) for n in floor) + " | | |")
        for system in _systems(group):
            mine = [s for s, row in zip(scores, group, strict=True) if row["system"] == system]
            seconds = round(statistics.mean(row["seconds"] for row in group if row["system"] == system))
            cells = " | ".join(_cell([s[name] for s in mine], name) for name in mine[0])
            lines.append(f"| {system} | {cells} | {seconds} | {len(mine)} |")
        lines.append("\nDifferences of pairs with the same seed, 95 % interval; bold where it leaves 0 out:\n")
        lines += _differences(group)
    return "\n".join(lines)


def _differences(group: Sequence[Row]) -> list[str]:
    lines = []
    for one, other in PAIRS:
        found = {name: {row["seed"]: flat(row) for row in group if row["system"] == name} for name in (one, other)}
        seeds = sorted(set(found[one]) & set(found[other]))
        if len(seeds) < 2:
            continue
        cells = []
        for score in found[one][seeds[0]]:
            values = [found[one][seed][score] - found[other][seed][score] for seed in seeds]
            mean, half = statistics.mean(values), interval(values)
            text = f"{score} {mean:+.3g} ± {half:.2g}"
            cells.append(f"**{text}**" if abs(mean) > half else text)
        lines.append(f"- {one} − {other} ({len(seeds)} seeds): {'; '.join(cells)}")
    return lines


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of a mean, from Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def draw(rows: Sequence[Row], work: Path, folder: Path) -> None:
    """Draw distances over levels, radial spectra and strips of images, as `frequency-*.png`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import torch

    from rsgeo_gan.metrics import radial_frequencies

    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    for data in sorted({row["data"] for row in rows}):
        mine = [row for row in rows if row["data"] == data]
        figure, (levels, spectra) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
        strips: dict[str, Any] = {}
        for colour, system in zip(COLOURS, _systems(mine), strict=False):
            curves = [row["level_fd"] for row in mine if row["system"] == system]
            middle = [statistics.mean(values) for values in zip(*curves, strict=True)]
            levels.plot(range(len(middle)), middle, marker="o", ms=3, lw=1.2, color=colour, label=system)
            path = work / f"strip-{data}-{system}.pt"
            if path.is_file():
                strips[system] = torch.load(path, weights_only=True)
                made = strips[system]["spectrum"][1]
                spectra.plot(radial_frequencies(2 * len(made)), made, lw=1.2, color=colour, label=system)
        levels.plot(range(len(middle)), mine[0]["floor"]["level_fd"], ":", color="black", label="images learned")
        levels.set(yscale="log", xlabel="level: 0 unfiltered, 1 finest texture only", title=f"FD by level, {data}")
        levels.legend(fontsize=6)
        for content in list(strips.values())[:1]:
            real = content["spectrum"][0]
            spectra.plot(radial_frequencies(2 * len(real)), real, "k:", label="real")
        spectra.set(yscale="log", xlabel="cycles per pixel", title="mean power by ring")
        figure.savefig(folder / f"frequency-{data}.png", dpi=140)
        plt.close(figure)
        if strips:
            _strips(strips, folder / f"frequency-{data}-images.png")


def _strips(strips: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    rows = {"real": next(iter(strips.values()))["real"]} | {name: content["fake"] for name, content in strips.items()}
    figure, axes = plt.subplots(len(rows), 8, figsize=(8, 1.05 * len(rows)), layout="constrained", squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        for cell, image in zip(line, images, strict=False):
            shown = (image.expand(3, -1, -1) if len(image) == 1 else image[:3]).permute(1, 2, 0)
            cell.imshow(((shown + 1) / 2).clamp(0, 1).numpy(), interpolation="nearest")
            cell.axis("off")
        line[0].set_title(name, fontsize=7, loc="left")
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _cell(values: Sequence[float], name: str) -> str:
    decimals = SCORES[name][1] if name in SCORES else 3
    spread = f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{decimals}f}{spread}"


def _systems(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["system"] for row in rows))


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    def key(row: Row) -> tuple[Any, ...]:
        return row["data"], row["size"]["side_px"], row["size"]["steps"]

    return [[row for row in rows if key(row) == found] for found in sorted({key(row) for row in rows})]
