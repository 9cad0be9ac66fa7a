"""Markdown tables of stored rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from coreg.cases import CASES
from coreg.judge import BLOCKS, GROSS_PX, Row

__all__ = [
    "bins",
    "by_case",
    "calibration",
    "counts",
    "markdown",
    "reasons",
    "refusal",
    "reliability",
    "shared",
    "still",
    "summary",
]

WITHIN_PX = 1.0


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])


def summary(rows: Sequence[Row], *, group: bool = False) -> str:
    """One line a block (and group) and method: how often, how far, how long.

    Shares are of all cases, so that declining costs; gross errors are of the accepted ones, median and
    90th percentile too.
    """
    picked = [row for row in rows if row.block not in ("unrelated", "well aligned") and counts(row)]
    lines = []
    for key, members in _grouped(picked, lambda row: (row.block, row.group if group else "", row.method)).items():
        block, name, method = key
        error = _errors(members)
        seconds = np.array([row.seconds for row in members], float)
        per_megapixel = seconds / np.array([row.megapixels for row in members])
        lines.append((
            block, *((name,) if group else ()), method, len(members),
            _percent(1 - len(error) / len(members)), _percent(np.mean(error > GROSS_PX) if len(error) else np.nan),
            _percent((error <= WITHIN_PX).sum() / len(members)), _percent((error <= 0.5).sum() / len(members)),
            _number(error, 50), _number(error, 90),
            _number(seconds[np.isfinite(seconds)], 50), _number(per_megapixel[np.isfinite(seconds)], 50),
        ))  # fmt: skip
    head = ("block", *(("set",) if group else ()), "method", "n", "declined %", "gross %", "≤ 1 px %", "≤ 0.5 px %",
            "median px", "p90 px", "CPU s/tile", "CPU s/MPx")  # fmt: skip
    return markdown(head, lines)


def by_case(rows: Sequence[Row], block: str) -> str:
    """Median error of the accepted ones, and accepted of all, by case."""
    picked = [row for row in rows if row.block == block and counts(row)]
    names = [case.name for case in CASES if any(row.case == case.name for row in picked)]
    lines = []
    for (method,), members in _grouped(picked, lambda row: (row.method,)).items():
        cells = []
        for name in names:
            here = [row for row in members if row.case == name]
            error = _errors(here)
            within = _percent((error <= WITHIN_PX).sum() / len(here)) if here else "–"
            cells.append(f"{_number(error, 50)} ({within} % of {len(here)})" if here else "–")
        lines.append((method, *cells))
    return markdown(("method", *names), lines)


def refusal(rows: Sequence[Row]) -> str:
    """Unrelated combinations by kind: how many were accepted."""
    picked = [row for row in rows if row.block == "unrelated"]
    kinds = sorted({row.group for row in picked})
    lines = []
    for (method,), members in _grouped(picked, lambda row: (row.method,)).items():
        cells = []
        for kind in (*kinds, ""):
            here = [row for row in members if not kind or row.group == kind]
            cells.append(f"{sum(row.ok for row in here)} of {len(here)}")
        lines.append((method, *cells))
    return markdown(("method", *kinds, "all"), lines)


def still(rows: Sequence[Row]) -> str:
    """How far untouched pairs that share one grid are moved; a declined pair is not moved."""
    picked = [
        row for row in rows if row.block == "well aligned" or (row.block == "exact other band" and _untouched(row))
    ]
    lines = []
    for (method,), members in _grouped(picked, lambda row: (row.method,)).items():
        length = np.array([row.moved_px or 0.0 for row in members])
        given = sum(row.ok for row in members)
        lines.append((method, len(members), given, _number(length, 50), _number(length, 90), _number(length, 100)))
    return markdown(("method", "pairs", "answered", "median moved px", "p90 px", "largest px"), lines)


def calibration(rows: Sequence[Row]) -> str:
    """How well a method's stated error describes its true one, by block."""
    picked = [row for row in rows if row.ok and row.error_px is not None and row.sigma_px is not None and counts(row)]
    lines = []
    groups = _grouped(picked, lambda row: (row.method, row.block))
    groups |= {(method, "all blocks"): m for (method,), m in _grouped(picked, lambda row: (row.method,)).items()}
    for (method, block), members in groups.items():
        error, sigma = (np.array([getattr(row, name) for row in members]) for name in ("error_px", "sigma_px"))
        rank = stats.spearmanr(sigma, error).statistic if len(members) > 4 else np.nan
        inside = np.mean(error <= 2 * sigma + 0.3)
        lines.append((method, block, len(members), _percent(inside), f"{rank:.2f}", f"{np.median(sigma):.2f}"))
    return markdown(("method", "block", "accepted", "within 2σ + 0.3 px %", "rank correlation", "median σ px"), lines)


def reliability(rows: Sequence[Row], edges: Sequence[float] = (0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)) -> str:
    """Stated confidence against the share within one pixel, accepted answers with a truth."""
    lines = []
    for method, low, high, said, seen, count in bins(rows, edges):
        lines.append((method, f"{low:g} to {high:g}", count, f"{said:.2f}", f"{seen:.2f}"))
    return markdown(("method", "confidence", "n", "mean stated", "share ≤ 1 px"), lines)


def bins(rows: Sequence[Row], edges: Sequence[float]) -> list[tuple[str, float, float, float, float, int]]:
    """Method, edges, mean confidence, share within 1 px and count of each filled bin."""
    picked = [r for r in rows if r.ok and r.error_px is not None and r.confidence is not None and counts(r)]
    out = []
    for (method,), members in _grouped(picked, lambda row: (row.method,)).items():
        said = np.array([row.confidence for row in members], float)
        good = np.array([row.error_px for row in members], float) <= WITHIN_PX
        for low, high in pairwise(edges):
            here = (said >= low) & ((said < high) | (high == edges[-1]))
            if here.any():
                out.append((method, low, high, float(said[here].mean()), float(good[here].mean()), int(here.sum())))
    return out


def reasons(rows: Sequence[Row]) -> str:
    """Why pairs were declined, by block."""
    picked = [row for row in rows if not row.ok and row.block != "unrelated"]
    lines = []
    for (method, block, note), members in _grouped(picked, lambda row: (row.method, row.block, row.note)).items():
        lines.append((method, block, note or "–", len(members)))
    return markdown(("method", "block", "reason", "n"), lines)


def report(rows: Sequence[Row], ours: str = "ours") -> str:
    """All tables of the results page."""
    mine = [row for row in rows if row.method == ours]
    slow = {row.method for row in rows if row.method.startswith(("AROSICS", "kornia"))}
    parts = [
        ("Ours, every case", summary(mine)),
        ("Ours, by set", summary(mine, group=True)),
        ("The same cases for all quick tools", summary(shared([row for row in rows if row.method not in slow]))),
    ]
    for tool in sorted({name.split(",")[0] for name in slow}):
        chosen = [row for row in rows if row.method in (ours, "no change") or row.method.startswith(tool)]
        ran = {row.block for row in chosen if row.method.startswith(tool)}
        parts.append((f"The cases of {tool}", summary(shared([row for row in chosen if row.block in ran]))))
    parts += [(f"Ours by case: {block}", by_case(mine, block)) for block in BLOCKS[:5]]
    parts += [
        ("Unrelated, accepted", refusal(rows)),
        ("Aligned pairs, moved", still(rows)),
        ("Stated error", calibration(mine)),
        ("Stated confidence", reliability(mine)),
        ("Why declined", reasons(mine)),
    ]
    return "\n\n".join(f"### {title}\n\n{table}" for title, table in parts) + "\n"


def shared(rows: Sequence[Row]) -> list[Row]:
    """Rows of the cases that every method that ran in the block has run."""
    ran: dict[tuple[str, str, str, int], set[str]] = defaultdict(set)
    methods: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        ran[row.key[1:]].add(row.method)
        methods[row.block].add(row.method)
    return [row for row in rows if ran[row.key[1:]] == methods[row.block]]


def _untouched(row: Row) -> bool:
    return row.case == CASES[0].name


def counts(row: Row) -> bool:
    """Untouched consistency pairs have no truth."""
    return not (row.block == "consistency" and _untouched(row))


def _errors(rows: Sequence[Row]) -> NDArray[np.float64]:
    return np.array([row.error_px for row in rows if row.ok and row.error_px is not None], float)


def _grouped(rows: Sequence[Row], key: Callable[[Row], tuple[str, ...]]) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    order = {block: number for number, block in enumerate(BLOCKS)}
    return dict(sorted(groups.items(), key=lambda item: [order.get(part, -1) for part in item[0]]))


def _percent(share: float) -> str:
    return (
        "–"
        if not np.isfinite(share)
        else f"{100 * share:.0f}"
        if share == 0 or share > 0.0995
        else f"{100 * share:.1f}"
    )


def _number(values: NDArray[np.float64], percentile: float) -> str:
    return f"{np.percentile(values, percentile):.2f}" if len(values) else "–"
