"""What the studies share: rows that outlive a stop, a limit of time, the usual arguments, and quiet libraries."""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Ledger:
    """Rows in files of a work folder; several processes may append to one.

    Args:
        work: Folder, made if it is missing.
        minutes: After which nothing further begins.
    """

    def __init__(self, work: Path, minutes: float = 0.0) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work = work
        self.deadline = time.monotonic() + 60 * minutes
        self.over = False

    def rows(self, name: str = "rows") -> list[Row]:
        """Return what was appended so far."""
        path = self.work / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def append(self, row: Row, name: str = "rows") -> None:
        """Add a row."""
        with (self.work / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def missing[T](self, cells: Iterable[T], key: Callable[[T], Row]) -> Iterator[tuple[T, Row]]:
        """Go through the cells that have no row, each with its key, until the time is over.

        Args:
            cells: What is to be done, in order.
            key: Entries by which the row of a cell is known.
        """
        for cell in cells:
            wanted = key(cell)
            if self.over or any(all(row.get(name) == wanted[name] for name in wanted) for row in self.rows()):
                continue
            if time.monotonic() > self.deadline:
                self.over = True
                sys.stderr.write("stopped by --minutes; run again to go on\n")
                return
            yield cell, wanted


def parser(doc: str | None, *, steps: int, minutes: float = 60.0) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all studies have.

    Args:
        doc: Docstring of the program, whose first line is shown.
        steps: Batches of a training.
        minutes: After which no further training begins.
    """
    found = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    found.add_argument("--work", type=Path, required=True, help="folder of data, rows and pictures")
    found.add_argument("--folder", type=Path, help="folder of the real scenes or chips")
    found.add_argument("--seeds", type=int, default=3)
    found.add_argument("--steps", type=int, default=steps, help="batches of every training")
    found.add_argument("--minutes", type=float, default=minutes, help="begin no further training after this time")
    found.add_argument("--full", action="store_true", help="standard sizes, for a GPU")
    found.add_argument("--show", action="store_true", help="train nothing, show what there is")
    found.add_argument("--figures", type=Path, help="folder for the figures, with --show")
    return found


def chosen(names: list[str] | None, known: Iterable[str], default: Iterable[str] | None = None) -> list[str]:
    """Return the names asked for, or the default.

    Raises:
        SystemExit: If one is unknown.
    """
    allowed = list(known)
    found = names or list(allowed if default is None else default)
    if unknown := sorted(set(found) - set(allowed)):
        raise SystemExit(f"Unknown names {unknown}: expected some of {', '.join(allowed)}.")
    return found


def study(
    args: argparse.Namespace,
    run: Callable[[argparse.Namespace, Ledger], None],
    show: Callable[[argparse.Namespace, Ledger], None],
) -> None:
    """Run a study, or show what there is of it."""
    ledger = Ledger(args.work, args.minutes)
    if not args.show:
        quieten()
        run(args, ledger)
    elif ledger.rows():
        show(args, ledger)


def spread(values: Sequence[float], decimals: int, factor: float = 1.0, none: str = "-") -> str:
    """Return mean ± standard deviation of what is finite, and of how many that is where some are not.

    Args:
        values: One for each training.
        decimals: After the point.
        factor: Multiplies the values.
        none: What is said when nothing is finite.
    """
    found = [factor * value for value in values if math.isfinite(value)]
    if not found:
        return none
    lacking = f" ({len(found)} of {len(values)})" if len(found) < len(values) else ""
    more = f" ± {statistics.stdev(found):.{decimals}f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.{decimals}f}{more}{lacking}"


def quieten() -> None:
    """Keep warnings and Lightning's notes out of the progress."""
    import lightning.pytorch  # noqa: F401  (sets its own level when imported)

    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning", "rsgeo_gan"):
        logging.getLogger(name).setLevel(logging.ERROR)
