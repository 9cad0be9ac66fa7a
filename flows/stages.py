"""The stages as Prefect tasks: paths and ids in and out, progress and results as artifacts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.tasks import Task, exponential_backoff

from rsgeo_gan.catalog import Catalog
from rsgeo_gan.chain import STAGES, Outcome, Plan, Stage, nothing_new, run_stage

__all__ = [
    "TASKS",
    "as_tasks",
    "is_remote",
    "markdown_table",
    "network_retries",
    "offline",
    "stages_artifact",
    "summary_of",
]

_REPORT_EVERY_S = 5.0
_HEAVY = {"train", "generate", "synthesize", "superres"}


def is_remote(catalog: Catalog) -> bool:
    """Tell whether a side of the catalogue is fetched over the network."""
    return any(getattr(side, "is_remote", False) for side in (catalog.source, catalog.target))


def network_retries(stage: Task[..., Any]) -> Task[..., Any]:
    """Return the task with three more tries, further and further apart, not all at the same moment."""
    return stage.with_options(
        retries=3, retry_delay_seconds=exponential_backoff(backoff_factor=10), retry_jitter_factor=0.5
    )


def _as_task(name: str) -> Task[[Plan[Any]], Outcome]:
    """Wrap a stage; what is done lies on disk, so nothing is cached here."""

    def stage(job: Plan[Any]) -> Outcome:
        logger = get_run_logger()
        outcome = run_stage(name, job, _progress_artifact(name, job))
        new = f"{outcome.new} new" if outcome.new else "nothing new"
        logger.info("%s: %s, %s, %d dropped, %s", name, outcome.note, new, outcome.dropped, outcome.path)
        return outcome

    stage.__name__ = name
    stage.__doc__ = f"Run the stage `{name}` on what the earlier ones left on disk."
    return task(name=name, cache_policy=NO_CACHE, persist_result=False, tags={"gpu"} if name in _HEAVY else None)(stage)


def _progress_artifact(name: str, job: Plan[Any]) -> Callable[[str, int, int], None]:
    """Return a progress function that updates one artifact, seldom enough not to slow the work."""
    state: dict[str, Any] = {"id": None, "last_s": 0.0}
    folder = Path(job.out).name.lower()
    key = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in f"{name}-{folder}").strip("-")

    def report(label: str, done: int, total: int) -> None:
        share = 100.0 * done / total if total else 0.0
        now = time.monotonic()
        if state["id"] is None:
            state["id"] = create_progress_artifact(progress=share, key=key, description=f"{name}: {label}")
        elif now - state["last_s"] < _REPORT_EVERY_S and done < total:
            return
        else:
            update_progress_artifact(state["id"], progress=share, description=f"{label}: {done} of {total}")
        state["last_s"] = now

    return report


def as_tasks(stages: Sequence[Stage[Any, Any]]) -> dict[str, Task[[Plan[Any]], Outcome]]:
    """Return one task per stage of a chain, by name."""
    return {stage.name: _as_task(stage.name) for stage in stages}


def summary_of(outcomes: list[Outcome]) -> str:
    """Say in one sentence what a run found new, and where its report lies."""
    page = outcomes[-1].path
    if nothing_new(outcomes):
        return f"Nothing new: everything was done already. Report: {page}"
    new = ", ".join(f"{outcome.stage} {outcome.new}" for outcome in outcomes if outcome.new)
    return f"New: {new}. Report: {page}"


def stages_artifact(key: str, outcomes: Sequence[Outcome], summary: str) -> None:
    """Leave what each stage did where Prefect shows it."""
    rows = [
        {"stage": o.stage, "items": o.total, "new": o.new, "dropped": o.dropped, "result": o.path} for o in outcomes
    ]
    create_table_artifact(rows, key=key, description=summary)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table with the keys of its first row as headings; none without rows."""
    if not rows:
        return []
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    return lines + ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in rows]


@contextmanager
def offline() -> Iterator[None]:
    """Run flows with a temporary API in this process."""
    settings = {
        PREFECT_API_URL: None,
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120,
    }
    with temporary_settings(settings):
        yield


TASKS = as_tasks(STAGES)
"""One task per stage of the chain, by name."""
