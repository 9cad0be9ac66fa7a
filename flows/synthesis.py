"""Flow `synthesis`: catalogue to tiles, checkpoint, synthetic images and report.

Without a server: `python -m flows.synthesis --catalog catalogs/synthesis.yaml`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from flows.stages import as_tasks, markdown_table, offline, stages_artifact, summary_of
from rsgeo_gan.chain import SYNTHESIS, SynthesisJob, prepare, synthesis_headline
from rsgeo_gan.errors import RSGeoGANError
from rsgeo_gan.training import MODES, Mode

__all__ = ["SYNTHESIS_TASKS", "main", "synthesis"]

SYNTHESIS_TASKS = as_tasks(SYNTHESIS)
"""One task per stage of the chain, by name."""


@flow(name="synthesis", description="A collection of images becomes labelled synthetic ones and a report.")
def synthesis(
    catalog: str = "catalogs/synthesis.yaml",
    out: str = "",
    train: Mode = "if_missing",
    recipe: str = "",
    settings: dict[str, Any] | None = None,
) -> str:
    """Run the chain; what is done already is skipped.

    Args:
        catalog: Path or name of the catalogue.
        out: Output folder; empty for `out/<catalogue name>`.
        train: never, if_missing, finetune or scratch.
        recipe: Recipe to train; empty for the catalogue's own.
        settings: Catalogue entries to replace, by dotted key.

    Returns:
        One sentence: what was new, or that nothing was, and where the report lies.
    """
    job = SynthesisJob(catalog, out or f"out/{Path(catalog).stem}", train=train, recipe=recipe, settings=settings or {})
    prepare(job)
    outcomes = [SYNTHESIS_TASKS[stage.name](job) for stage in SYNTHESIS]
    summary = summary_of(outcomes)
    get_run_logger().info(summary)
    stages_artifact("synthesis-stages", outcomes, summary)
    tables = synthesis_headline(job)
    lines = [f"# synthesis: {Path(job.catalog).stem}", "", summary, ""]
    lines += [*markdown_table(tables["classes"]), "", *markdown_table(tables["scores"])]
    create_markdown_artifact("\n".join(lines), key="synthesis-report", description=summary)
    return summary


def main(arguments: list[str] | None = None) -> int:
    """Run the flow in this process with a temporary API; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.synthesis", description=synthesis.description)
    parser.add_argument("--catalog", default="catalogs/synthesis.yaml", help="path or name of the catalogue")
    parser.add_argument("--out", default="", help="output folder; default out/<catalogue name>")
    parser.add_argument("--train", choices=MODES, default="if_missing", help="when to train")
    parser.add_argument("--recipe", default="", help="recipe name or YAML; default: the catalogue's own")
    chosen = parser.parse_args(arguments)
    out = chosen.out or f"out/{Path(chosen.catalog).stem}"
    try:
        # What is wrong with the input is said at once.
        prepare(SynthesisJob(chosen.catalog, out, recipe=chosen.recipe))
        with offline():
            synthesis(catalog=chosen.catalog, out=out, train=chosen.train, recipe=chosen.recipe)
    except RSGeoGANError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
