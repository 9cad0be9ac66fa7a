"""Flow `synthesis`: catalogue to tiles, checkpoint, synthetic images and report.

Without a server: `python -m flows.synthesis --catalog catalogs/synthesis.yaml`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow

from flows.chains import script, walk
from flows.stages import as_tasks
from rsgeo_gan.chain import SYNTHESIS, SynthesisJob, synthesis_headline
from rsgeo_gan.training import Mode

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
    return walk("synthesis", job, SYNTHESIS_TASKS, synthesis_headline)


def main(arguments: list[str] | None = None) -> int:
    """Run the flow in this process with a temporary API; returns the exit code."""
    return script(synthesis, SynthesisJob, arguments)


if __name__ == "__main__":
    sys.exit(main())
