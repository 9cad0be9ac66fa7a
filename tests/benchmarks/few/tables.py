"""Tables of the study: scores of every setting, differences to the same seed without the terms, the classifier."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from runs import spread

Row = dict[str, Any]

SCORES = {
    "fd": ("FD", 3),
    "kd": ("KD", 4),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "potential_g": ("G2 of G", 4),
    "potential_d": ("G2 of D", 4),
    "entropy_g": ("entropy of G", 3),
    "entropy_d": ("entropy of D", 3),
    "accuracy_both": ("accuracy, real + generated", 3),
}
USE = {"accuracy_real": "real", "accuracy_both": "real + generated", "accuracy_made": "generated"}
SETTINGS = ("off", "both", "UR only", "ER only")
UNRESOLVED = "unresolved"
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t for 95 % by degrees of freedom, from 1."""


class Difference(NamedTuple):
    """A mean of paired differences, their deviation, and the 95 % interval of the mean; none for a single pair."""

    mean: float
    std: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """Tell whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def difference(values: Sequence[float]) -> Difference | None:
    """Sum up differences of pairs by Student's t; None for less than two."""
    if len(values) < 2:
        return None
    mean, std = statistics.mean(values), statistics.stdev(values)
    reach = _T95[min(len(values) - 1, len(_T95)) - 1] * std / len(values) ** 0.5
    return Difference(mean, std, mean - reach, mean + reach)


def paired(rows: Sequence[Row], setting: str, name: str) -> list[float]:
    """Return a score under a setting minus that of the same seed without the terms."""
    off = {row["seed"]: row[name] for row in rows if row["setting"] == "off"}
    return [row[name] - off[row["seed"]] for row in rows if row["setting"] == setting and row["seed"] in off]


def groups(rows: Sequence[Row]) -> Iterator[tuple[tuple[str, str, int, int], list[Row]]]:
    """Go through what is comparable: data, architecture, classes and chips of a class."""

    def key(row: Row) -> tuple[str, str, int, int]:
        return row["data"], row["architecture"], row["classes"], -row["per_class"]

    for data, architecture, classes, chips in sorted({key(row) for row in rows}):
        yield (
            (data, architecture, classes, -chips),
            [row for row in rows if key(row) == (data, architecture, classes, chips)],
        )


def summary(rows: Sequence[Row]) -> str:
    """Return Markdown tables."""
    lines: list[str] = []
    for (data, architecture, classes, chips), group in groups(rows):
        first = group[0]
        amount = f"at most {chips} chips a class" if chips else "all chips"
        lines += [
            f"\n### {data}, {architecture}: {classes or 'all'} classes, {amount} ({first['train_chips']})\n",
            f"Real against real, halves of {first['test_chips']} held-out chips: {first['fd_name']} "
            f"{_interval(first, 'fd_real')}, {first['kd_name']} {_interval(first, 'kd_real', 4)}. Potentials of groups "
            f"of {first['group']}.\n",
            _head("setting", [head for head, _ in SCORES.values()]),
        ]
        for setting in SETTINGS:
            mine = [row for row in group if row["setting"] == setting]
            if mine:
                cells = [spread([row[name] for row in mine], digits) for name, (_, digits) in SCORES.items()]
                lines.append(f"| {setting} | {' | '.join(cells)} | {len(mine)} |")
        for setting in SETTINGS[1:]:
            cells = [_difference(paired(group, setting, name), digits) for name, (_, digits) in SCORES.items()]
            pairs = len(paired(group, setting, "fd"))
            if pairs:
                lines.append(f"| {setting} - off | {' | '.join(cells)} | {pairs} |")
        lines += _intervals(group)
    return "\n".join([*lines, *_use(rows)])


def _intervals(group: Sequence[Row]) -> list[str]:
    shown = [
        f"{row['setting']} {_interval(row, 'fd')}"
        for row in sorted(group, key=lambda row: SETTINGS.index(row["setting"]))
        if row["seed"] == 0
    ]
    return [f"\nFD of seed 0 with the interval of its images: {'; '.join(shown)}"] if shown else []


def _use(rows: Sequence[Row]) -> list[str]:
    lines = ["\n### Balanced accuracy of a classifier on held-out chips\n"]
    heads = [*USE.values(), "real + generated - real"]
    lines.append(_head("data | generator | classes | chips a class | terms", heads))
    for (data, architecture, classes, chips), group in groups(rows):
        for setting in SETTINGS:
            mine = [row for row in group if row["setting"] == setting]
            if not mine:
                continue
            cells = [spread([row[name] for row in mine], 3) for name in USE]
            cells.append(_difference([row["accuracy_both"] - row["accuracy_real"] for row in mine], 3))
            lines.append(
                f"| {data} | {architecture} | {classes or 'all'} | {chips or 'all'} | {setting} | {' | '.join(cells)} "
                f"| {len(mine)} |"
            )
    return lines


def _head(first: str, heads: Sequence[str]) -> str:
    return f"| {first} | {' | '.join(heads)} | seeds |\n" + "|---" * (len(heads) + first.count("|") + 2) + "|"


def _difference(values: Sequence[float], digits: int) -> str:
    found = difference(values)
    if found is None:
        return f"{values[0]:+.{digits}f} (one pair)" if values else ""
    ends = f"[{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    text = f"{found.mean:+.{digits}f} ± {found.std:.{digits}f} {ends}"
    return text if found.resolved else f"{text} {UNRESOLVED}"


def _interval(row: Row, name: str, digits: int = 3) -> str:
    low, high = row[f"{name}_interval"]
    return f"{row[name]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
