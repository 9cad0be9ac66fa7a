"""From images to synthetic ones: collect, train, synthesize, report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsgeo_gan import __version__
from rsgeo_gan.catalog import SynthesisCatalog, SynthesisTraining, SyntheticProducts, load_synthesis
from rsgeo_gan.chain.stages import (
    Outcome,
    Plan,
    Stage,
    collection,
    fingerprint,
    gathered,
    published,
    sealed,
    trained,
)
from rsgeo_gan.errors import SourceError
from rsgeo_gan.manifest import Manifest
from rsgeo_gan.progress import Progress, silent

__all__ = ["SYNTHESIS", "SynthesisJob", "class_rows", "show", "synthesis_headline", "training_of"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SynthesisJob(Plan[SynthesisCatalog]):
    """One synthesis, in plain text; see `Plan`.

    Args:
        device: Torch device that makes the images; training has its own setting (`training.overrides`).
    """

    device: str = "cpu"

    @property
    def stages(self) -> Sequence[Stage[SynthesisJob, SynthesisCatalog]]:
        """The stages of the chain, in order."""
        return SYNTHESIS

    def read(self, settings: Mapping[str, Any]) -> SynthesisCatalog:
        """Read the catalogue with entries replaced."""
        return load_synthesis(self.catalog, overrides=settings)


def _collect(job: SynthesisJob, catalog: SynthesisCatalog, progress: Progress) -> Outcome:
    from rsgeo_gan.collect import collect

    return gathered("collect", job, "tiles", lambda folder: collect(catalog.collect, folder, progress=progress))


def _train(job: SynthesisJob, catalog: SynthesisCatalog, progress: Progress) -> Outcome:
    return trained(job, training_of(catalog), progress)


def training_of(catalog: SynthesisCatalog) -> SynthesisTraining:
    """Return the training with what the catalogue says elsewhere: conditions, and patches as large as tiles."""
    told: dict[str, Any] = {
        "data.conditions": list(catalog.conditions),
        "data.patch_size": catalog.collect.tile_px,
        **catalog.training.overrides,
    }
    return catalog.training.model_copy(update={"overrides": told})


def _synthesize(job: SynthesisJob, catalog: SynthesisCatalog, progress: Progress) -> Outcome:
    from rsgeo_gan.inference.synthesis import synthesize

    def make(folder: Path) -> Manifest:
        return synthesize(
            published(job, "synthesize"),
            folder,
            catalog.products,
            tiles=Manifest.read(collection(job, "tiles")),
            max_failed_share=catalog.limits.max_failed_share,
            device=job.device,
            progress=progress,
        )

    return gathered("synthesize", job, "products", make)


def _report(job: SynthesisJob, catalog: SynthesisCatalog, progress: Progress) -> Outcome:
    root, checkpoint = job.root, published(job, "synthesize")
    made_from = {
        "version": __version__,
        "parts": [fingerprint(collection(job, name)) for name in ("tiles", "products")],
        "checkpoint": checkpoint.name,
        "products": catalog.products.model_dump(mode="json"),
        "scoring": catalog.scoring.model_dump(mode="json"),
    }

    def make() -> Path:
        from rsgeo_gan.report import synthesis_report

        show(checkpoint, root / "products", root / "report", catalog.products, root / "tiles", job.device, progress)
        scores, notes = _score(job, catalog, progress)
        return synthesis_report(root, scores=scores, notes=notes)

    return sealed(root / "report" / "index.html", made_from, make, progress)


def _score(job: SynthesisJob, catalog: SynthesisCatalog, progress: Progress) -> tuple[list[dict[str, str]], list[str]]:
    """Compare the products with real tiles; where that is not possible, say why."""
    from rsgeo_gan.score import score_folders
    from rsgeo_gan.score.tables import HEADINGS, cells

    settings, root = catalog.scoring, job.root
    try:
        scores = score_folders(
            root / "tiles",
            [root / "products"],
            root / "report" / "scores",
            backend=settings.backend,
            weights=settings.weights,
            split=settings.split,
            judge=settings.judge,
            draws=settings.draws,
            most=settings.most,
            progress=progress,
        )
    except SourceError as error:
        logger.warning("report: no scores: %s", error)
        return [], [f"There are no scores: {error}"]
    rows = [dict(zip(HEADINGS, cells(row), strict=True)) for row in scores.rows]
    filled = [name for name in HEADINGS if any(row[name] for row in rows)]
    return [{name: row[name] for name in filled} for row in rows], [f"{note}." for note in scores.notes]


def synthesis_headline(job: SynthesisJob) -> dict[str, list[dict[str, Any]]]:
    """Return the tables worth showing, `classes` and `scores`, as the report computed them."""
    from rsgeo_gan.report import synthesis_headline as tables

    return tables(job.root)


def class_rows(tiles: Manifest | None, products: Manifest) -> list[dict[str, Any]]:
    """Count real tiles by split and synthetic images, one row a class."""
    from rsgeo_gan.report import class_rows as rows

    return rows(tiles, products)


def show(
    checkpoint: Path | str,
    products: Path,
    out: Path,
    settings: SyntheticProducts,
    tiles: Path | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[Path]:
    """Draw the contact sheet of products and the walks of the model that made them.

    Args:
        checkpoint: Checkpoint that made the products.
        products: Folder of the products.
        out: Folder of `contact-sheet.png` and `walks.png`.
        settings: What was made.
        tiles: Folder of real tiles, to be shown beside them.
        device: Torch device of the networks.
        progress: Receives finished and all pictures.

    Returns:
        Paths of the pictures.

    Raises:
        RSGeoGANError: If something cannot be read, made or written.
    """
    from rsgeo_gan.inference.synthesizer import Synthesizer
    from rsgeo_gan.inference.walks import walks
    from rsgeo_gan.report.drawing import save
    from rsgeo_gan.report.synthetic import contact_sheet, look_of, walk_figure

    synthesizer = Synthesizer.load(checkpoint, device=device)
    made = Manifest.read(products)
    real = None if tiles is None else Manifest.read(tiles)
    progress("pictures", 0, 2)
    look = look_of(made if real is None else real, "data" if real is None else synthesizer.side)
    sheet = save(contact_sheet(made, look, real, side=synthesizer.side), out / "contact-sheet.png")
    progress("pictures", 1, 2)
    rows = walks(synthesizer, settings, real)
    paths = [sheet, save(walk_figure(rows, look), out / "walks.png")]
    progress("pictures", 2, 2)
    return paths


SYNTHESIS: tuple[Stage[SynthesisJob, SynthesisCatalog], ...] = (
    Stage("collect", _collect),
    Stage("train", _train),
    Stage("synthesize", _synthesize),
    Stage("report", _report),
)
"""The chain of a synthesis, in order."""
