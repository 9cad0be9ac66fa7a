"""Flow `superres`: catalogue to tiles, checkpoint, finer images and report.

Without a server: `python -m flows.superres --catalog catalogs/superres.yaml`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow

from flows.chains import script, walk
from flows.stages import as_tasks
from rsgeo_gan.chain import SUPERRES, SuperresJob, superres_headline
from rsgeo_gan.training import Mode

__all__ = ["SUPERRES_TASKS", "main", "superres"]

SUPERRES_TASKS = as_tasks(SUPERRES)
"""One task per stage of the chain, by name."""


@flow(name="superres", description="Sharp images train a network that makes coarse ones finer; with a report.")
def superres(
    catalog: str = "catalogs/superres.yaml",
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
    job = SuperresJob(catalog, out or f"out/{Path(catalog).stem}", train=train, recipe=recipe, settings=settings or {})
    return walk("superres", job, SUPERRES_TASKS, superres_headline)


def main(arguments: list[str] | None = None) -> int:
    """Run the flow in this process with a temporary API; returns the exit code."""
    return script(superres, SuperresJob, arguments)


if __name__ == "__main__":
    sys.exit(main())
