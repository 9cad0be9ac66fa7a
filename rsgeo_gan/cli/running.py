"""Runs stages with a bar each, and says at the end what came of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from rsgeo_gan import chain
from rsgeo_gan.chain import Job, Outcome
from rsgeo_gan.cli.shell import screen
from rsgeo_gan.progress import Progress

__all__ = ["heed_termination", "progress_bar", "run_job", "run_stages", "run_whole", "table_of", "wide_console"]

_PLAIN_WIDTH = 120
"""Columns of the final table where the output is not a terminal."""


def run_job(job: Job, names: Sequence[str] = ()) -> None:
    """Run stages of the chain, all when none is named, then say what came of it."""
    outcomes = run_stages(job, names)
    if not names:
        _close(job, outcomes)


def run_stages(job: chain.Plan[Any], names: Sequence[str] = ()) -> list[Outcome]:
    """Run stages of a job with one bar each, all when none is named."""
    heed_termination()
    chain.prepare(job)
    chosen = [stage.name for stage in job.stages if not names or stage.name in names]
    outcomes: list[Outcome] = []
    for name in chosen:
        with progress_bar(name) as progress:
            outcome = chain.run_stage(name, job, progress)
        outcomes.append(outcome)
        screen.print(_line(outcome), highlight=False, markup=False, soft_wrap=True)
    return outcomes


def wide_console(width: int = _PLAIN_WIDTH) -> Console:
    """Return a console for results, of that many columns where it is not a terminal."""
    console = Console()
    if not console.is_terminal:
        console.width = width
    return console


def heed_termination() -> None:
    """Let a request to end the process be heard as Ctrl-C is, so that what is unfinished is taken away."""
    signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def run_whole(
    job: chain.Plan[Any],
    tables: Callable[[Any], Mapping[str, Sequence[Mapping[str, Any]]]],
    titles: Mapping[str, str],
    what: str,
) -> None:
    """Run all stages of a job, then show what came of it.

    Args:
        job: The job; the stage before the last makes its products, the last its report.
        tables: Returns the tables of the report by name.
        titles: Title of each table that is shown, by name.
        what: What the products are, for people.
    """
    outcomes = run_stages(job)
    console, found = wide_console(), tables(job)
    for name, title in titles.items():
        if found[name]:
            console.print(table_of(title, found[name]))
    if chain.nothing_new(outcomes):
        console.print("Nothing new: everything was done already.", highlight=False)
    console.print(f"{outcomes[-2].total} {what} in {job.root / 'products'}", highlight=False, soft_wrap=True)
    console.print(f"Report: {job.root / 'report' / 'index.html'}", highlight=False, soft_wrap=True)


def _line(outcome: Outcome) -> str:
    parts = [outcome.note or f"{outcome.total} items", f"{outcome.new} new" if outcome.new else "nothing new"]
    if outcome.dropped:
        parts.append(f"{outcome.dropped} dropped (reasons in {outcome.path})")
    return f"{outcome.stage:>10}  {', '.join(parts)}"


@contextmanager
def progress_bar(name: str) -> Iterator[Progress]:
    """Draw one stage's bar with its remaining time; gone when the stage ends."""
    columns = (
        TextColumn("{task.fields[stage]:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Bars(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bars:
        task = bars.add_task("", total=None, stage=name)

        def report(label: str, done: int, total: int) -> None:
            bars.update(task, description="" if label == name else label, completed=done, total=total or None)

        yield report


def _close(job: Job, outcomes: Sequence[Outcome]) -> None:
    """Print the scores, the products and the way to the report."""
    console = wide_console()
    root = job.root
    products = sorted((root / "products").rglob("*.tif"))
    for direction, rows in groupby(
        chain.headline(job), key=lambda row: str(next(iter(row.values()))).rpartition(": ")[0]
    ):
        console.print(_scores(direction, list(rows)))
    if chain.nothing_new(list(outcomes)):
        console.print("Nothing new: everything was done already.", highlight=False)
    console.print(f"{len(products)} products in {root / 'products'}", highlight=False, soft_wrap=True)
    console.print(f"Report: {root / 'report' / 'index.html'}", highlight=False, soft_wrap=True)


def _scores(direction: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Set the scores of one direction in a table; the first entry of a row is `direction: kind`."""
    first, *_ = rows[0]
    return table_of(f"Scores, {direction}", [{**row, first: str(row[first]).rpartition(": ")[2]} for row in rows])


def table_of(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Set rows in a table, their keys as headings, numbers to the right of a first column of names."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    first, *others = rows[0]
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="right", overflow="fold")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    return table
