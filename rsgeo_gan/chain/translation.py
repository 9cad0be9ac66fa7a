"""From scenes to translated rasters: ingest, coregister, tile, train, generate, report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rsgeo_gan import __version__
from rsgeo_gan.catalog import Catalog, load
from rsgeo_gan.catalog.models import Direction
from rsgeo_gan.chain.stages import (
    Outcome,
    Plan,
    Stage,
    collection,
    fingerprint,
    known_items,
    outcome_of,
    sealed,
    trained,
)
from rsgeo_gan.errors import CatalogError, ProductError
from rsgeo_gan.manifest import Manifest
from rsgeo_gan.progress import Progress
from rsgeo_gan.training import read_pin

__all__ = ["DIRECTIONS", "STAGES", "Direction", "Job", "headline"]

logger = logging.getLogger(__name__)

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


@dataclass(frozen=True)
class Job(Plan[Catalog]):
    """One run of the chain, in plain text.

    Args:
        more: See `Plan`.
        directions: Directions to generate; empty for the catalogue's own.
    """

    directions: tuple[str, ...] = ()

    @property
    def stages(self) -> Sequence[Stage[Job, Catalog]]:
        """The stages of the chain, in order."""
        return STAGES

    def read(self, settings: Mapping[str, Any]) -> Catalog:
        """Read the catalogue with entries replaced."""
        return load(self.catalog, overrides=settings)

    def choices(self) -> dict[str, Any]:
        """Return the catalogue entries that this run replaces."""
        wanted = {"products.directions": list(self.directions)} if self.directions else {}
        return {**super().choices(), **wanted}


def headline(job: Job) -> list[dict[str, Any]]:
    """Return the scores worth a table, one row per product or baseline, as the report computed them."""
    from rsgeo_gan.report import headline as rows

    return list(rows(job.root))


def _ingest(job: Job, catalog: Catalog, progress: Progress) -> Outcome:
    from rsgeo_gan.ingest import ingest

    before = known_items(job.root / "scenes")
    return outcome_of("ingest", "scenes", before, ingest(catalog, job.root / "scenes", progress=progress))


def _coregister(job: Job, catalog: Catalog, progress: Progress) -> Outcome:
    from rsgeo_gan.coregister import coregister

    before = known_items(job.root / "pairs")
    pairs = coregister(
        Manifest.read(collection(job, "scenes")),
        catalog.pairing,
        job.root / "pairs",
        max_failed_share=catalog.limits.max_failed_share,
        progress=progress,
    )
    return outcome_of("coregister", "pairs", before, pairs)


def _tile(job: Job, catalog: Catalog, progress: Progress) -> Outcome:
    from rsgeo_gan.tiling import resolve_grid, tile

    before = known_items(job.root / "tiles")
    scenes = Manifest.read(collection(job, "scenes"))
    tiles = tile(
        Manifest.read(collection(job, "pairs")),
        scenes,
        resolve_grid(catalog.grid, scenes, collection(job, "tiles")),
        catalog.tiling,
        job.root / "tiles",
        max_failed_share=catalog.limits.max_failed_share,
        progress=progress,
    )
    return outcome_of("tile", "tiles", before, tiles)


def _train(job: Job, catalog: Catalog, progress: Progress) -> Outcome:
    from rsgeo_gan.training import recipe_directions

    if job.train in ("finetune", "scratch") or read_pin(job.root / "models") is None:
        told = recipe_directions(catalog.training.recipe, catalog.training.overrides)
        _directions(job, catalog, told, f"recipe {catalog.training.recipe}")
    return trained(job, catalog.training, progress)


def _generate(job: Job, catalog: Catalog, progress: Progress) -> Outcome:
    from rsgeo_gan.inference import generate
    from rsgeo_gan.inference.checkpoints import read_stored
    from rsgeo_gan.tiling import resolve_grid

    pin = None if job.checkpoint else read_pin(job.root / "models")
    if not job.checkpoint and pin is None:
        raise ProductError(
            f"No checkpoint is published in {job.root / 'models'}; run `rsgeo-gan train` first, or `rsgeo-gan run`, or "
            "name a checkpoint or an export (--checkpoint)."
        )
    checkpoint = pin.path if pin else Path(job.checkpoint)
    directions = _directions(job, catalog, tuple(read_stored(checkpoint).networks), f"checkpoint {checkpoint.name}")
    if len(directions) < len(catalog.products.directions):
        logger.warning("checkpoint %s translates %s only", checkpoint.name, " and ".join(directions))
    before = known_items(job.root / "products")
    scenes = Manifest.read(collection(job, "scenes"))
    products = generate(
        scenes,
        Manifest.read(collection(job, "tiles")),
        checkpoint,
        job.root / "products",
        directions=directions,
        grid=resolve_grid(catalog.grid, scenes, collection(job, "tiles")),
        pairs=Manifest.read(collection(job, "pairs")),
        window_px=catalog.products.window_px,
        item_limit=catalog.products.item_limit,
        max_failed_share=catalog.limits.max_failed_share,
        progress=progress,
    )
    return outcome_of("generate", "products", before, products)


def _directions(job: Job, catalog: Catalog, there: Sequence[str], model: str) -> list[Direction]:
    """Return the wanted directions that a model has; empty `there` means that it is not known.

    The catalogue's own wish is met as far as it can be; one of the command line is met or refused.

    Raises:
        CatalogError: If a direction asked for on the command line, or all of them, are not there.
    """
    wanted = catalog.products.directions
    lacking = [direction for direction in wanted if there and direction not in there]
    if lacking and (job.directions or len(lacking) == len(wanted)):
        raise CatalogError(
            f"Products are asked for {' and '.join(lacking)}, but {model} translates {' and '.join(there)} only. "
            f"Ask for those (--direction {there[0]}, or --set 'products.directions=[{there[0]}]'), train the recipe "
            "the other way round (--set training.overrides.model.direction=…), or take one for both ways, such as "
            "translation."
        )
    return [direction for direction in wanted if direction not in lacking]


def _report(job: Job, catalog: Catalog, progress: Progress) -> Outcome:
    root = job.root
    radius_px = catalog.training.radius_px
    pin = read_pin(root / "models")
    made_from = {
        "version": __version__,
        "parts": [fingerprint(collection(job, name)) for name in ("scenes", "pairs", "tiles", "products")],
        "checkpoint": pin.digest if pin else "",
        "radius_px": radius_px,
    }

    def make() -> Path:
        from rsgeo_gan.report import report

        return report(root, radius_px=radius_px, progress=progress)

    return sealed(root / "report" / "index.html", made_from, make, progress)


STAGES: tuple[Stage[Job, Catalog], ...] = (
    Stage("ingest", _ingest, network=True),
    Stage("coregister", _coregister),
    Stage("tile", _tile),
    Stage("train", _train),
    Stage("generate", _generate),
    Stage("report", _report),
)
"""The chain, in order."""
