"""What flows over a chain share: all stages in order with their artifacts, and the script that runs one at home."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.flows import Flow
from prefect.logging import get_run_logger
from prefect.tasks import Task

from flows.stages import markdown_table, offline, stages_artifact, summary_of
from rsgeo_gan.chain import Outcome, Plan, prepare
from rsgeo_gan.errors import RSGeoGANError
from rsgeo_gan.training import MODES

__all__ = ["script", "walk"]

Tables = Callable[[Any], Mapping[str, Sequence[Mapping[str, Any]]]]


def walk(name: str, job: Plan[Any], tasks: Mapping[str, Task[[Plan[Any]], Outcome]], tables: Tables) -> str:
    """Run all stages of a job, and leave what each did and the tables of the report where Prefect shows them.

    Args:
        name: Name of the flow.
        job: The job.
        tasks: A task for each stage, by name.
        tables: Returns the report's tables.

    Returns:
        One sentence: what was new, or that nothing was, and where the report lies.
    """
    prepare(job)
    outcomes = [tasks[stage.name](job) for stage in job.stages]
    summary = summary_of(outcomes)
    get_run_logger().info(summary)
    stages_artifact(f"{name}-stages", outcomes, summary)
    lines = [f"# {name}: {Path(job.catalog).stem}", "", summary]
    for rows in tables(job).values():
        lines += ["", *markdown_table(rows)]
    create_markdown_artifact("\n".join(lines), key=f"{name}-report", description=summary)
    return summary


def script(flow: Flow[..., str], job_of: Callable[..., Plan[Any]], arguments: list[str] | None = None) -> int:
    """Run a flow in this process with a temporary API; returns the exit code.

    Args:
        flow: Takes `catalog`, `out`, `train` and `recipe`, the catalogue with a default.
        job_of: Makes the job that the flow will run.
        arguments: Of the command line; those of this process when None.
    """
    catalog = flow.parameters.properties["catalog"]["default"]
    parser = argparse.ArgumentParser(prog=f"python -m flows.{flow.name}", description=flow.description)
    parser.add_argument("--catalog", default=catalog, help="path or name of the catalogue")
    parser.add_argument("--out", default="", help="output folder; default out/<catalogue name>")
    parser.add_argument("--train", choices=MODES, default="if_missing", help="when to train")
    parser.add_argument("--recipe", default="", help="recipe name or YAML; default: the catalogue's own")
    chosen = parser.parse_args(arguments)
    out = chosen.out or f"out/{Path(chosen.catalog).stem}"
    try:
        # What is wrong with the input is said at once.
        prepare(job_of(chosen.catalog, out, recipe=chosen.recipe))
        with offline():
            flow(catalog=chosen.catalog, out=out, train=chosen.train, recipe=chosen.recipe)
    except RSGeoGANError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0
