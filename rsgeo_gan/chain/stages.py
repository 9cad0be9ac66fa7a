"""What every chain of stages shares: a run told in text and paths, outcomes, and the running of one stage."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rsgeo_gan.catalog import Training
from rsgeo_gan.errors import CatalogError, ProductError
from rsgeo_gan.manifest import Manifest, check_writable, write_json
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.training import MODES, Mode, find_recipe, read_pin

__all__ = [
    "Outcome",
    "Plan",
    "Stage",
    "collection",
    "fingerprint",
    "gathered",
    "known_items",
    "nothing_new",
    "outcome_of",
    "prepare",
    "published",
    "run_stage",
    "sealed",
    "stage_named",
    "trained",
]


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
class Stage[J, C]:
    """One step of a chain.

    Args:
        name: Verb, as on the command line.
        run: Does the work.
        network: Whether it may talk to the network, and is worth another try.
    """

    name: str
    run: Callable[[J, C, Progress], Outcome]
    network: bool = False


class _Trained(Protocol):
    """A catalogue that says what is trained."""

    @property
    def training(self) -> Training: ...


@dataclass(frozen=True)
class Plan[C: _Trained](ABC):
    """One run of a chain, in plain text, so that it can be handed to another process.

    Args:
        catalog: Path or name of the catalogue.
        out: Output folder.
        train: Training mode, see `rsgeo_gan.training.train`.
        recipe: Recipe to train; empty for the catalogue's own.
        settings: Catalogue entries to replace, by dotted key.
        checkpoint: Checkpoint to make products with; empty for the published one.
    """

    catalog: str
    out: str
    train: Mode = "if_missing"
    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str = ""

    @property
    def root(self) -> Path:
        """The output folder, absolute."""
        return Path(self.out).expanduser().absolute()

    @property
    @abstractmethod
    def stages(self) -> Sequence[Stage[Any, C]]:
        """The stages of the chain, in order."""

    @abstractmethod
    def read(self, settings: Mapping[str, Any]) -> C:
        """Read the catalogue with entries replaced.

        Raises:
            CatalogError: If it is wrong.
        """

    def choices(self) -> dict[str, Any]:
        """Return the catalogue entries that this run replaces."""
        return {**self.settings, **({"training.recipe": self.recipe} if self.recipe else {})}

    def load(self) -> C:
        """Read the catalogue with this run's choices put in.

        A recipe file named by the catalogue is looked for beside it first, as its other paths are.

        Raises:
            CatalogError: If the catalogue or one of the choices is wrong.
        """
        if self.train not in MODES:
            raise CatalogError(f"Training mode {self.train!r} is unknown; expected one of {', '.join(MODES)}.")
        settings = self.choices()
        catalog = self.read(settings)
        beside = Path(self.catalog).expanduser().absolute().parent / catalog.training.recipe
        if not self.recipe and beside.suffix in {".yaml", ".yml"} and beside.is_file():
            catalog = self.read({**settings, "training.recipe": str(beside)})
        return catalog


def prepare[C: _Trained](job: Plan[C]) -> C:
    """Check catalogue, recipe and output folder before anything is done.

    Raises:
        CatalogError: If the catalogue is wrong, or there is no such recipe.
        ProductError: If the output folder cannot be written.
    """
    catalog = job.load()
    if job.train != "never":
        find_recipe(catalog.training.recipe)
    check_writable(job.root)
    return catalog


def run_stage(name: str, job: Plan[Any], progress: Progress = silent) -> Outcome:
    """Run one stage of a job on what the earlier ones left on disk.

    Raises:
        RSGeoGANError: What the stage raises; `SourceError` if an earlier stage has not been run.
    """
    return stage_named(name, job.stages).run(job, job.load(), progress)


def stage_named(name: str, stages: Sequence[Stage[Any, Any]]) -> Stage[Any, Any]:
    """Return a stage by its name.

    Raises:
        ValueError: If there is no such stage.
    """
    for stage in stages:
        if stage.name == name:
            return stage
    raise ValueError(f"no stage {name!r}; expected one of {', '.join(stage.name for stage in stages)}")


def nothing_new(outcomes: list[Outcome]) -> bool:
    """Tell whether a whole run found everything done already."""
    return all(outcome.new == 0 for outcome in outcomes)


def collection(job: Plan[Any], name: str) -> Path:
    """Return where a stage's item collection lies."""
    return job.root / name / f"{name}.json"


def known_items(folder: Path) -> dict[str, str]:
    """Return the items of an earlier call, each with a digest of what it says."""
    path = folder / f"{folder.name}.json"
    if not path.is_file():
        return {}
    return {
        item.id: _digest({**item.to_dict(), "properties": _lasting(item.properties)}) for item in Manifest.read(path)
    }


def gathered(stage: str, job: Plan[Any], folder: str, make: Callable[[Path], Manifest]) -> Outcome:
    """Make the collection of a stage in its folder, and say what is new in it.

    Args:
        stage: Name of the stage.
        job: The job.
        folder: Name of the folder, and of the collection.
        make: Makes the collection in that folder.
    """
    before = known_items(job.root / folder)
    return outcome_of(stage, folder, before, make(job.root / folder))


def outcome_of(stage: str, folder: str, before: dict[str, str], manifest: Manifest) -> Outcome:
    """Say how many items of a collection a stage made or changed, given what was known before."""
    after = known_items(manifest.path.parent)
    new = sum(1 for name, digest in after.items() if before.get(name) != digest)
    return Outcome(
        stage,
        str(manifest.path),
        total=len(after),
        new=new,
        dropped=len(manifest.dropped),
        note=f"{len(after)} {folder}",
    )


def trained(job: Plan[Any], training: Training, progress: Progress) -> Outcome:
    """Make sure there is a published checkpoint for the tiles of a job."""
    from rsgeo_gan.training import train

    published = train(
        collection(job, "tiles"),
        training,
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


def published(job: Plan[Any], command: str) -> Path:
    """Return the checkpoint that a job makes products with: the one it was given, else the published one.

    Args:
        job: The job.
        command: Command of the chain, for the message.

    Raises:
        ProductError: If there is none.
    """
    if job.checkpoint:
        return Path(job.checkpoint)
    pin = read_pin(job.root / "models")
    if pin is None:
        raise ProductError(
            f"No checkpoint is published in {job.root / 'models'}; run `rsgeo-gan {command} --catalog {job.catalog}`, "
            "which trains one, or give a checkpoint instead of the catalogue."
        )
    return pin.path


def sealed(page: Path, made_from: Mapping[str, Any], make: Callable[[], Path], progress: Progress) -> Outcome:
    """Write a report, unless it was made from exactly what lies there now.

    Args:
        page: The page; what it was made from is kept beside it.
        made_from: Everything it depends on, plain JSON types.
        make: Writes it.
        progress: Receives that nothing was to be done.
    """
    seal = page.with_name(".made_from.json")
    if page.is_file() and seal.is_file() and json.loads(seal.read_text(encoding="utf-8")) == made_from:
        progress("report", 1, 1)
        return Outcome("report", str(page), total=1, new=0, note="nothing changed since it was written")
    seal.unlink(missing_ok=True)
    page = make()
    write_json(seal, made_from)
    return Outcome("report", str(page), total=1, new=1, note="written")


def fingerprint(path: Path) -> str:
    """Digest a collection's content without the times it was written at."""
    if not path.is_file():
        return ""
    data = json.loads(path.read_text(encoding="utf-8"))
    for feature in data.get("features", []):
        feature["properties"] = _lasting(feature.get("properties", {}))
    return _digest(data)


_IGNORED = {"created", "updated", "processing:datetime"}


def _lasting(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in properties.items() if key not in _IGNORED}


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()
