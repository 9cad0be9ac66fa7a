"""From sharp images to a network that makes others as sharp: collect, train, superres, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsgeo_gan import __version__
from rsgeo_gan.catalog import SuperresCatalog, SuperresTraining, load_superres
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
from rsgeo_gan.manifest import Manifest
from rsgeo_gan.progress import Progress

__all__ = ["SUPERRES", "SuperresJob", "superres_headline", "superres_training"]


@dataclass(frozen=True)
class SuperresJob(Plan[SuperresCatalog]):
    """One super-resolution, in plain text; see `Plan`.

    Args:
        device: Torch device that makes the products, "auto" for a GPU where there is one; training has its own setting
            (`training.overrides`).
    """

    device: str = "auto"

    @property
    def stages(self) -> Sequence[Stage[SuperresJob, SuperresCatalog]]:
        """The stages of the chain, in order."""
        return SUPERRES

    def read(self, settings: Mapping[str, Any]) -> SuperresCatalog:
        """Read the catalogue with entries replaced."""
        return load_superres(self.catalog, overrides=settings)


def _collect(job: SuperresJob, catalog: SuperresCatalog, progress: Progress) -> Outcome:
    from rsgeo_gan.collect import collect_superres

    return gathered(
        "collect", job, "tiles", lambda folder: collect_superres(catalog.collect, folder, progress=progress)
    )


def _train(job: SuperresJob, catalog: SuperresCatalog, progress: Progress) -> Outcome:
    return trained(job, superres_training(catalog), progress)


def superres_training(catalog: SuperresCatalog) -> SuperresTraining:
    """Return the training with what the catalogue says elsewhere: scale, references, degradation, sides of patches."""
    collect = catalog.collect
    told: dict[str, Any] = {
        "data.scale": collect.scale,
        "data.references": sum(source.count for source in collect.references),
    }
    if catalog.degradation is not None:
        told["data.degradation"] = catalog.degradation.model_dump(mode="json")
    return catalog.training.model_copy(update={"overrides": {**told, **catalog.training.overrides}})


def _superres(job: SuperresJob, catalog: SuperresCatalog, progress: Progress) -> Outcome:
    from rsgeo_gan.inference.sharpening import sharpen_tiles

    def make(folder: Path) -> Manifest:
        return sharpen_tiles(
            published(job, "superres"),
            Manifest.read(collection(job, "tiles")),
            folder,
            **catalog.products.model_dump(),
            max_failed_share=catalog.limits.max_failed_share,
            device=job.device,
            progress=progress,
        )

    return gathered("superres", job, "products", make)


def _report(job: SuperresJob, catalog: SuperresCatalog, progress: Progress) -> Outcome:
    root = job.root
    made_from = {
        "version": __version__,
        "parts": [fingerprint(collection(job, name)) for name in ("tiles", "products")],
    }

    def make() -> Path:
        from rsgeo_gan.report import superres_report
        from rsgeo_gan.score import score_sharp

        tiles, products = (Manifest.read(collection(job, name)) for name in ("tiles", "products"))
        return superres_report(root, scores=score_sharp(tiles, products, progress=progress))

    return sealed(root / "report" / "index.html", made_from, make, progress)


def superres_headline(job: SuperresJob) -> dict[str, list[dict[str, Any]]]:
    """Return the tables worth showing, `tiles` and `scores`, as the report computed them."""
    from rsgeo_gan.report import superres_headline as tables

    return tables(job.root)


SUPERRES: tuple[Stage[SuperresJob, SuperresCatalog], ...] = (
    Stage("collect", _collect),
    Stage("train", _train),
    Stage("superres", _superres),
    Stage("report", _report),
)
"""The chain of a super-resolution, in order."""
