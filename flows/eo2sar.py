"""Flow `eo2sar`: catalogue to scenes, pairs, tiles, checkpoint, products and report.

Without a server: `python -m flows.eo2sar --catalog catalogs/sample.yaml`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from flows.stages import (
    TASKS,
    is_remote,
    markdown_table,
    network_retries,
    offline,
    stages_artifact,
    summary_of,
)
from rsgeo_gan.chain import DIRECTIONS, STAGES, Direction, Job, Outcome, headline, prepare
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
    summary = summary_of(outcomes)
    logger.info(summary)
    _artifacts(job, outcomes, summary)
    return summary


def default_out(catalog: str) -> str:
    """Return the output folder of a catalogue when none is given."""
    return f"out/{Path(catalog).stem}"


def _artifacts(job: Job, outcomes: list[Outcome], summary: str) -> None:
    """Leave the stages and the scores where Prefect shows them."""
    stages_artifact("eo2sar-stages", outcomes, summary)
    lines = [f"# eo2sar: {Path(job.catalog).stem}", "", summary, "", *markdown_table(headline(job))]
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
    out = chosen.out or default_out(chosen.catalog)
    try:
        prepare(Job(chosen.catalog, out, recipe=chosen.recipe))  # what is wrong with the input is said at once
        with offline():
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
