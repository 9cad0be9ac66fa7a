"""Flow `eo2sar`: catalogue to scenes, pairs, tiles, checkpoint, products and report.

Without a server: `python -m flows.eo2sar --catalog catalogs/sample.yaml`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)

from flows.stages import TASKS, is_remote, network_retries
from rsgeo_gan.chain import DIRECTIONS, STAGES, Direction, Job, Outcome, headline, nothing_new, prepare
from rsgeo_gan.errors import RSGeoGANError
from rsgeo_gan.training import MODES, Mode

__all__ = ["default_out", "eo2sar", "main"]


@flow(name="eo2sar", description="New EO and SAR scenes become CRS-exact synthetic rasters and a report.")
def eo2sar(
    catalog: str = "catalogs/sample.yaml",
    out: str = "",
    train: Mode = "if_missing",
    directions: list[Direction] | None = None,
    recipe: str = "",
    settings: dict[str, Any] | None = None,
) -> str:
    """Run the chain; what is done already is skipped.

    Args:
        catalog: Path or name of the catalogue.
        out: Output folder; empty for `out/<catalogue name>`.
        train: never, if_missing, finetune or scratch.
        directions: What to generate; none for the catalogue's own.
        recipe: Recipe to train; empty for the catalogue's own.
        settings: Catalogue entries to replace, by dotted key.

    Returns:
        One sentence: what was new, or that nothing was, and where the report lies.
    """
    logger = get_run_logger()
    job = Job(
        catalog=catalog,
        out=out or default_out(catalog),
        train=train,
        directions=tuple(directions or ()),
        recipe=recipe,
        settings=settings or {},
    )
    remote = is_remote(prepare(job))
    outcomes: list[Outcome] = []
    for stage in STAGES:
        work = TASKS[stage.name]
        if stage.network and remote:
            work = network_retries(work)
        outcomes.append(work(job))
    summary = _summary(outcomes)
    logger.info(summary)
    _artifacts(job, outcomes, summary)
    return summary


def default_out(catalog: str) -> str:
    """Return the output folder of a catalogue when none is given."""
    return f"out/{Path(catalog).stem}"


def _summary(outcomes: list[Outcome]) -> str:
    page = outcomes[-1].path
    if nothing_new(outcomes):
        return f"Nothing new: everything was done already. Report: {page}"
    new = ", ".join(f"{outcome.stage} {outcome.new}" for outcome in outcomes if outcome.new)
    return f"New: {new}. Report: {page}"


def _artifacts(job: Job, outcomes: list[Outcome], summary: str) -> None:
    """Leave the stages and the scores where Prefect shows them."""
    rows = [
        {"stage": o.stage, "items": o.total, "new": o.new, "dropped": o.dropped, "result": o.path} for o in outcomes
    ]
    create_table_artifact(rows, key="eo2sar-stages", description=summary)
    scores = headline(job)
    lines = [f"# eo2sar: {Path(job.catalog).stem}", "", summary, ""]
    if scores:
        names = list(scores[0])
        lines += ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
        lines += ["| " + " | ".join(str(row.get(name, "")) for name in names) + " |" for row in scores]
    create_markdown_artifact("\n".join(lines), key="eo2sar-report", description=summary)


def main(arguments: list[str] | None = None) -> int:
    """Run the flow in this process with a temporary API; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.eo2sar", description=eo2sar.description)
    parser.add_argument("--catalog", default="catalogs/sample.yaml", help="path or name of the catalogue")
    parser.add_argument("--out", default="", help="output folder; default out/<catalogue name>")
    parser.add_argument("--train", choices=MODES, default="if_missing", help="when to train")
    parser.add_argument("--direction", choices=(*DIRECTIONS, "both"), help="default: the catalogue's own")
    parser.add_argument("--recipe", default="", help="recipe name or YAML; default: the catalogue's own")
    chosen = parser.parse_args(arguments)
    directions = [name for name in DIRECTIONS if chosen.direction in (name, "both")] or None
    offline = {
        PREFECT_API_URL: None,
        PREFECT_SERVER_ANALYTICS_ENABLED: False,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 120,
    }
    out = chosen.out or default_out(chosen.catalog)
    try:
        prepare(Job(chosen.catalog, out, recipe=chosen.recipe))  # what is wrong with the input is said at once
        with temporary_settings(offline):
            eo2sar(
                catalog=chosen.catalog,
                out=out,
                train=chosen.train,
                directions=directions,
                recipe=chosen.recipe,
            )
    except RSGeoGANError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
