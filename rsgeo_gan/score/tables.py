"""Writes scores as JSON, CSV and a Markdown page that says how to read them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rsgeo_gan.manifest import write_json, write_text
from rsgeo_gan.metrics import Interval
from rsgeo_gan.score.judging import INTERVALS, Row, Scores

__all__ = ["HEADINGS", "cells", "write_tables"]

HEADINGS = (
    "set",
    "tiles",
    "Fréchet",
    "kernel ×10³",
    "precision",
    "recall",
    "NRDS",
    "A",
    "spectrum, dB",
    "leakage",
    "values KS",
)
"""Columns for people; `cells` fills them."""

_SINGLE = ("frechet_all", "kernel_all", "nrds", "nrds_std", "nrds_held_out", "area")


def cells(row: Row, *, short: bool = False) -> tuple[str, ...]:
    """Return one row as text, intervals in brackets, or as half their width when short."""
    relative = "" if row.nrds is None else f"{row.nrds:.3f} ± {row.nrds_std or 0:.3f}"
    return (
        f"{row.name} (halves)" if row.frechet_all is None else row.name,
        str(row.tiles),
        _told(row.frechet, 2, short=short),
        _told(row.kernel, 1, 1000, short=short),
        _told(row.precision, 2, short=short),
        _told(row.recall, 2, short=short),
        relative,
        "" if row.area is None else f"{row.area:.2f}",
        _told(row.spectrum_db, 2, short=short),
        _told(row.leakage, 3, short=short),
        _told(row.values_ks, 3, short=short),
    )


def _told(interval: Interval | None, digits: int, times: float = 1.0, *, short: bool) -> str:
    if interval is None:
        return ""
    if short:
        half = max(interval.high - interval.value, interval.value - interval.low)
        return f"{times * interval.value:.{digits}f} ±{times * half:.{digits}f}"
    value, low, high = (f"{times * part:.{digits}f}" for part in interval[:3])
    return f"{value} [{low}, {high}]"


def write_tables(scores: Scores, out: Path) -> None:
    """Write `scores.json`, `scores.csv` and `scores.md`.

    Raises:
        ProductError: If the folder cannot be written.
    """
    write_json(out / "scores.json", scores.to_dict())
    write_text(out / "scores.csv", _csv(scores))
    write_text(out / "scores.md", _page(scores))


def _csv(scores: Scores) -> str:
    """One line per set, then one per set and class; empty where nothing was measured."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = [f"{key}{end}" for key in INTERVALS for end in ("", "_low", "_high")]
    writer.writerow(["set", "class", "path", "tiles", "count", *ends, *_SINGLE])
    for row in scores.rows:
        measured: list[float | str] = []
        for key in INTERVALS:
            interval = getattr(row, key)
            measured += ["", "", ""] if interval is None else list(interval[:3])
        single = ["" if (value := getattr(row, key)) is None else value for key in _SINGLE]
        writer.writerow([row.name, "", row.path, row.tiles, scores.count, *measured, *single])
    for row in scores.rows:
        for label, found in row.classes.items():
            blank = [""] * len(ends)
            single = [found["frechet"], found["kernel"], *([""] * (len(_SINGLE) - 2))]
            writer.writerow([row.name, label, row.path, int(found["tiles"]), "", *blank, *single])
    return text.getvalue()


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def _page(scores: Scores) -> str:
    lines = ["# Scores", "", *_table(HEADINGS, [cells(row) for row in scores.rows]), ""]
    lines += [
        f"Fréchet is {scores.frechet_name}, kernel is {scores.kernel_name} (features {scores.backend}, digest "
        f"{scores.digest}; compare with values of the same name and digest only). Tiles of {scores.tile_px} px. Values "
        f"with brackets are means over random draws of {scores.count} tiles a side with their 95 % interval. The first "
        "line compares two halves of the real set at the same number: where a perfect generator would be.",
        "",
        "* **Fréchet, kernel** lower is better. The Fréchet distance of few tiles is too large, for all sets alike; "
        "the kernel distance is not, and may be negative.",
        "* **precision** is the share of generated tiles that look real, **recall** the share of real tiles that the "
        "set can show; higher is better.",
        "* **spectrum** is the distance of the mean radial power spectra, **leakage** the share of power at other "
        "frequencies than in the real set, **values KS** the distance of the distributions of values; the last two run "
        "from 0 (equal) to 1.",
    ]
    if scores.judge is not None:
        setup = scores.judge
        lines += [
            f"* **NRDS** is each set's share of the belief that {len(setup['seeds'])} judges put into all generated "
            f"sets while they learned to tell them from real ones ({setup['epochs']} epochs, first layer "
            f"{setup['width']} wide, at most {setup['most']} tiles a set), mean ± deviation over judges; equal sets "
            f"share equally ({1 / max(1, len(scores.rows) - 1):.3g}). It holds within this table only. **A** is the "
            f"area under a set's belief over the epochs, at most {setup['epochs'] - 1}; where all are near 0 the "
            "ranks are noise.",
        ]
        if scores.agreement is not None:
            lines.append(
                f"* NRDS orders the sets as the Fréchet distance does to τ = {scores.agreement['frechet']:.2f}, as the "
                f"kernel distance to τ = {scores.agreement['kernel']:.2f} (1 the same order, -1 the opposite)."
            )
    every = sorted({label for row in scores.rows for label in row.classes})
    if every:
        lines += [
            "",
            "## By class",
            "",
            "Fréchet / kernel ×10³ of all tiles of a class (real and generated), where both sides have five or more.",
        ]
        lines += ["Their numbers differ, so compare sets within a class, not classes.", ""]
        judged = [row for row in scores.rows if row.frechet_all is not None]
        body = []
        for label in every:
            body.append([label, *(_class_cell(row, label) for row in judged)])
        lines += _table(["class", *(row.name for row in judged)], body)
    if scores.level_cutoffs:
        lines += ["", "## By level of frequency", "", f"{scores.frechet_name} after a high-pass that begins there."]
        lines += [
            "",
            *_table(["set", *(f"{cut:.3f} c/px" if cut else "all" for cut in scores.level_cutoffs)], _levels(scores)),
        ]
    if scores.notes:
        lines += ["", "## To know", "", *(f"* {note}" for note in scores.notes)]
    lines += ["", "![Scores](scores.png)"]
    return "\n".join(lines) + "\n"


def _levels(scores: Scores) -> list[list[str]]:
    return [[cells(row)[0], *(f"{value:.2f}" for value in row.levels)] for row in scores.rows]


def _class_cell(row: Row, label: str) -> str:
    found = row.classes.get(label)
    if found is None:
        return ""
    tiles = f"{int(found['real_tiles'])} and {int(found['tiles'])}"
    return f"{found['frechet']:.2f} / {1000 * found['kernel']:.1f} ({tiles})"
