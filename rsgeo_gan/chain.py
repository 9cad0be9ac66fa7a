"""The order of the stages, in one place: what the command line and the flows both walk through.

A run is described by text and paths only (`Job`), so that it can be handed to another process. Every stage
reads what the earlier ones left in the output folder, does what is missing, and says how much was new.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from rsgeo_gan import __version__
from rsgeo_gan.catalog import Catalog, load
from rsgeo_gan.catalog.models import Direction
from rsgeo_gan.errors import CatalogError, ProductError
from rsgeo_gan.manifest import Manifest, write_json, write_text
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.training import MODES, Mode, read_pin

__all__ = [
    "DIRECTIONS",
    "STAGES",
    "Direction",
    "Job",
    "Outcome",
    "Stage",
    "headline",
    "nothing_new",
    "prepare",
    "run_stage",
    "stage_named",
]

logger = logging.getLogger(__name__)

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


@dataclass(frozen=True)
class Job:
    """One run of the chain, in plain text.

    Args:
        catalog: Path or name of the catalogue.
        out: Output folder.
        train: Training mode, see `rsgeo_gan.training.train`.
        directions: Directions to generate; empty for the catalogue's own.
        recipe: Recipe to train; empty for the catalogue's own.
        settings: Catalogue entries to replace, by dotted key.
        checkpoint: Checkpoint or export to generate with; empty for the published one.
    """

    catalog: str
    out: str
    train: Mode = "if_missing"
    directions: tuple[str, ...] = ()
    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str = ""

    @property
    def root(self) -> Path:
        """The output folder, absolute."""
        return Path(self.out).expanduser().absolute()

    def load(self) -> Catalog:
        """Read the catalogue with this run's choices put in.

        A recipe file named by the catalogue is looked for beside it first, as its other paths are.

        Raises:
            CatalogError: If the catalogue or one of the choices is wrong.
        """
        if self.train not in MODES:
            raise CatalogError(f"Training mode {self.train!r} is unknown; expected one of {', '.join(MODES)}.")
        settings = dict(self.settings)
        if self.directions:
            settings["products.directions"] = list(self.directions)
        if self.recipe:
            settings["training.recipe"] = self.recipe
        catalog = load(self.catalog, overrides=settings)
        beside = Path(self.catalog).expanduser().absolute().parent / catalog.training.recipe
        if not self.recipe and beside.suffix in {".yaml", ".yml"} and beside.is_file():
            catalog = load(self.catalog, overrides={**settings, "training.recipe": str(beside)})
        return catalog


@dataclass(frozen=True)
class Outcome:
    """What a stage did.

    Args:
        stage: Its name.
        path: The file that holds its result.
        total: Items in the result.
        new: Items made or changed by this call.
        dropped: Items left out, with reasons in the result.
        note: One sentence for people.
    """

    stage: str
    path: str
    total: int
    new: int
    dropped: int = 0
    note: str = ""


@dataclass(frozen=True)
class Stage:
    """One step of the chain.

    Args:
        name: Verb, as on the command line.
        run: Does the work.
        network: Whether it may talk to the network, and is worth another try.
    """

    name: str
    run: Callable[[Job, Catalog, Progress], Outcome]
    network: bool = False


def prepare(job: Job) -> Catalog:
    """Check catalogue and output folder before anything is done.

    Raises:
        CatalogError: If the catalogue is wrong.
        ProductError: If the output folder cannot be written.
    """
    catalog = job.load()
    probe = write_text(job.root / ".writable", "")
    try:
        probe.unlink()
    except OSError as error:
        raise ProductError(f"Cannot write {job.root}: {error.strerror}.") from error
    return catalog


def run_stage(name: str, job: Job, progress: Progress = silent) -> Outcome:
    """Run one stage of a job on what the earlier ones left on disk.

    Raises:
        RSGeoGANError: What the stage raises; `SourceError` if an earlier stage has not been run.
    """
    return stage_named(name).run(job, job.load(), progress)


def stage_named(name: str) -> Stage:
    """Return a stage by its name.

    Raises:
        ValueError: If there is no such stage.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise ValueError(f"no stage {name!r}; expected one of {', '.join(stage.name for stage in STAGES)}")


def headline(job: Job) -> list[dict[str, Any]]:
    """Return the scores worth a table, one row per product or baseline, as the report computed them."""
    from rsgeo_gan.report import headline as rows

    return list(rows(job.root))


def nothing_new(outcomes: list[Outcome]) -> bool:
    """Tell whether a whole run found everything done already."""
    return all(outcome.new == 0 for outcome in outcomes)


def _ingest(job: Job, catalog: Catalog, progress: Progress) -> Outcome:
    from rsgeo_gan.ingest import ingest

    before = _known(job.root / "scenes")
    return _outcome("ingest", "scenes", before, ingest(catalog, job.root / "scenes", progress=progress))


def _coregister(job: Job, catalog: Catalog, progress: Progress) -> Outcome:
    from rsgeo_gan.coregister import coregister

    before = _known(job.root / "pairs")
    pairs = coregister(
        Manifest.read(_collection(job, "scenes")),
        catalog.pairing,
        job.root / "pairs",
        max_failed_share=catalog.limits.max_failed_share,
        progress=progress,
    )
    return _outcome("coregister", "pairs", before, pairs)


def _tile(job: Job, catalog: Catalog, progress: Progress) -> Outcome:
    from rsgeo_gan.tiling import resolve_grid, tile

    before = _known(job.root / "tiles")
    scenes = Manifest.read(_collection(job, "scenes"))
    tiles = tile(
        Manifest.read(_collection(job, "pairs")),
        scenes,
        resolve_grid(catalog.grid, scenes, _collection(job, "tiles")),
        catalog.tiling,
        job.root / "tiles",
        max_failed_share=catalog.limits.max_failed_share,
        progress=progress,
    )
    return _outcome("tile", "tiles", before, tiles)


def _train(job: Job, catalog: Catalog, progress: Progress) -> Outcome:
    from rsgeo_gan.training import recipe_directions, train

    if job.train in ("finetune", "scratch") or read_pin(job.root / "models") is None:
        told = recipe_directions(catalog.training.recipe, catalog.training.overrides)
        _directions(job, catalog, told, f"recipe {catalog.training.recipe}")
    published = train(
        _collection(job, "tiles"),
        catalog.training,
        job.root / "training",
        mode=job.train,
        models=job.root / "models",
        progress=progress,
    )
    done = "trained and published" if published.new else "kept"
    return Outcome(
        "train",
        str(published.path),
        total=1,
        new=int(published.new),
        note=f"checkpoint {published.digest[:12]} (recipe {published.recipe}) {done}",
    )


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
    before = _known(job.root / "products")
    scenes = Manifest.read(_collection(job, "scenes"))
    products = generate(
        scenes,
        Manifest.read(_collection(job, "tiles")),
        checkpoint,
        job.root / "products",
        directions=directions,
        grid=resolve_grid(catalog.grid, scenes, _collection(job, "tiles")),
        pairs=Manifest.read(_collection(job, "pairs")),
        window_px=catalog.products.window_px,
        item_limit=catalog.products.item_limit,
        max_failed_share=catalog.limits.max_failed_share,
        progress=progress,
    )
    return _outcome("generate", "products", before, products)


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
    """Write the report, unless it was made from exactly what lies there now."""
    root = job.root
    page, seal = root / "report" / "index.html", root / "report" / ".made_from.json"
    radius_px = catalog.training.radius_px
    parts = [_fingerprint(_collection(job, name)) for name in ("scenes", "pairs", "tiles", "products")]
    pin = read_pin(root / "models")
    made_from = {
        "version": __version__,
        "parts": parts,
        "checkpoint": pin.digest if pin else "",
        "radius_px": radius_px,
    }
    if page.is_file() and seal.is_file() and json.loads(seal.read_text(encoding="utf-8")) == made_from:
        progress("report", 1, 1)
        return Outcome("report", str(page), total=1, new=0, note="nothing changed since it was written")
    from rsgeo_gan.report import report

    seal.unlink(missing_ok=True)
    page = report(root, radius_px=radius_px, progress=progress)
    write_json(seal, made_from)
    return Outcome("report", str(page), total=1, new=1, note="written")


STAGES: tuple[Stage, ...] = (
    Stage("ingest", _ingest, network=True),
    Stage("coregister", _coregister),
    Stage("tile", _tile),
    Stage("train", _train),
    Stage("generate", _generate),
    Stage("report", _report),
)
"""The chain, in order."""

_IGNORED = {"created", "updated", "processing:datetime"}


def _collection(job: Job, name: str) -> Path:
    return job.root / name / f"{name}.json"


def _known(folder: Path) -> dict[str, str]:
    """Return the items of an earlier call, each with a digest of what it says."""
    path = folder / f"{folder.name}.json"
    if not path.is_file():
        return {}
    return {
        item.id: _digest({**item.to_dict(), "properties": _lasting(item.properties)}) for item in Manifest.read(path)
    }


def _outcome(stage: str, folder: str, before: dict[str, str], manifest: Manifest) -> Outcome:
    after = _known(manifest.path.parent)
    new = sum(1 for name, digest in after.items() if before.get(name) != digest)
    return Outcome(
        stage,
        str(manifest.path),
        total=len(after),
        new=new,
        dropped=len(manifest.dropped),
        note=f"{len(after)} {folder}",
    )


def _fingerprint(path: Path) -> str:
    """Digest a collection's content without the times it was written at."""
    if not path.is_file():
        return ""
    data = json.loads(path.read_text(encoding="utf-8"))
    for feature in data.get("features", []):
        feature["properties"] = _lasting(feature.get("properties", {}))
    return _digest(data)


def _lasting(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in properties.items() if key not in _IGNORED}


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
