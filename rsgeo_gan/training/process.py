"""Runs `rsgeo-gan fit` as a process of its own, so that it can be killed, resumed and watched.

The folder of a training is a function of what it is trained on (recipe, band counts, overrides, tiles and
starting weights). A training that was killed is therefore found again and continues from its last
checkpoint; one that is still running, because only the process that started it died, is waited for.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

import yaml

from rsgeo_gan import raster
from rsgeo_gan.catalog import Training
from rsgeo_gan.errors import CatalogError, CheckpointError, ProductError, SourceError, TrainingError
from rsgeo_gan.labelled import conditions_of
from rsgeo_gan.manifest import Manifest, asset_path, write_text
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.training.pins import Published, publish, read_pin
from rsgeo_gan.training.recipes import fit_networks, read_recipe, with_overrides

__all__ = ["MODES", "Mode", "train"]

logger = logging.getLogger(__name__)

Mode = Literal["never", "if_missing", "finetune", "scratch"]
MODES: tuple[Mode, ...] = get_args(Mode)

FINETUNE_SHARE = 0.2
"""Epochs of a refinement, as a share of the recipe's own."""

PARTS = ("content_epochs", "plain_epochs", "warmup_epochs")
"""Settings of tasks that say how long the first parts of a training are, in epochs; shorter in a refinement too."""

FIT: tuple[str, ...] = (sys.executable, "-m", "rsgeo_gan.cli", "fit")
"""The command that trains."""

NETWORKS = 2
"""Counts changes of networks or steps after which a training cannot be continued; its folder then is another."""

_POLL_S = 0.5
_LOG_LINES = 15
_LEFTOVERS = {"", "Error in sys.excepthook:", "Original exception was:"}
"""Lines an interpreter may leave by the dozen while it ends, below the message that matters."""
_PROGRESS = "progress.json"


def train(
    tiles: Path | str,
    training: Training,
    out: Path,
    *,
    mode: Mode = "if_missing",
    models: Path,
    progress: Progress = silent,
) -> Published:
    """Make sure there is a published checkpoint, training one where the mode asks for it.

    Args:
        tiles: Tile collection or its folder.
        training: Recipe, seed and overrides of the catalogue.
        out: Folder of trainings; each gets a folder of its own, named by a digest of what it depends on.
        mode: `never` takes the pinned checkpoint, `if_missing` trains when there is none, `finetune` continues
            from the pinned weights on tiles they have not seen, `scratch` trains anew.
        models: Folder of published checkpoints and their pin.
        progress: Receives finished and all training batches.

    Returns:
        The published checkpoint; `new` says whether the pin moved.

    Raises:
        CheckpointError: If the mode needs a pinned checkpoint and there is none, or it is damaged.
        CatalogError: If the recipe cannot be found or read.
        SourceError: If there are no training tiles.
        TrainingError: If the training process fails; ends with the last lines of its log.
    """
    if mode not in MODES:
        raise CatalogError(f"Training mode {mode!r} is unknown; expected one of {', '.join(MODES)}.")
    pin = read_pin(models)
    if mode == "never" and pin is None:
        raise CheckpointError(
            f"No checkpoint is published in {models}, and training is switched off (train: never). "
            "Use train: if_missing, or copy a models folder there."
        )
    if pin is not None and mode in {"never", "if_missing"}:
        _say_if_other_recipe(pin, training.recipe)
        progress("train", 1, 1)
        return pin

    manifest = Manifest.read(tiles)
    mixed = _mixed(with_overrides(read_recipe(training.recipe), training.overrides))
    seen = _digest_of_tiles(manifest, mixed)
    start = pin if mode == "finetune" else None
    if start is not None and start.trained_on == seen:
        logger.info("finetune: checkpoint %s has seen these tiles already, nothing new to learn", start.digest[:12])
        progress("train", 1, 1)
        return start
    recipe = _complete_recipe(manifest, training, start)
    folder = out / _digest(recipe, seen, start.digest if start else "")
    checkpoint = _fit(folder, _with_paths(recipe, manifest.path, folder, start), progress)
    published = publish(checkpoint, models, recipe=training.recipe, trained_on=seen)
    if pin is not None and pin.digest == published.digest:
        return pin
    return published


def _say_if_other_recipe(pin: Published, recipe: str) -> None:
    if pin.recipe != Path(recipe).stem:
        logger.warning(
            "Checkpoint %s was trained with recipe %s, the catalogue names %s; it is used as it is. "
            "Train with mode scratch to replace it.",
            pin.path.name,
            pin.recipe,
            recipe,
        )


def _training_items(manifest: Manifest) -> list[Any]:
    items = [item for item in manifest if item.properties.get("rsgeo:split") == "train"]
    if not items:
        raise SourceError(
            f"{manifest.path} has no tiles of the split 'train' ({len(manifest)} tiles in all). Lower "
            "tiling.min_valid, val_share or test_share, or give scenes that overlap more."
        )
    return items


def _digest_of_tiles(manifest: Manifest, mixed: Manifest | None = None) -> str:
    """Digest what is learned from: training tiles, and the synthetic images that are mixed with them."""
    names = ("rsgeo:pair", "rsgeo:digest", "rsgeo:usable")
    seen: list[Any] = sorted(
        [item.id, *(item.properties.get(name) for name in names), *_more(item)] for item in _training_items(manifest)
    )
    if mixed is not None:
        seen.append(sorted([item.id, item.properties.get("rsgeo:inputs"), *_more(item)] for item in mixed))
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def _mix(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return what a recipe says about synthetic images among the training tiles; empty where it has none."""
    settings = recipe.get("data", {}).get("init_args") or {}
    return (settings.get("mix") or {}) if _knows_data(recipe) else {}


def _mixed(recipe: dict[str, Any]) -> Manifest | None:
    """Read the synthetic images that a recipe mixes in."""
    products = _mix(recipe).get("products")
    return None if products is None else Manifest.read(products)


def _more(item: Any) -> list[str]:
    """What only some tiles have: a label, and images that lie beside them."""
    return [str(item.properties[name]) for name in ("rsgeo:label", "rsgeo:beside") if name in item.properties]


def _complete_recipe(manifest: Manifest, training: Training, start: Published | None) -> dict[str, Any]:
    """Fill in the networks' numbers, seed, the catalogue's overrides and, for a refinement, fewer epochs."""
    # The overrides come first, because numbers may follow from them, and last, because they have the last word.
    asked = with_overrides(read_recipe(training.recipe), training.overrides)
    counts: dict[str, int] = _counts(manifest, asked)
    values: dict[str, Any] = {}
    if _path(asked).endswith(".SuperResolutionDataModule"):
        found, values = _sharp(manifest, asked)
        counts |= found
    recipe = fit_networks(asked, counts, values)
    recipe["seed_everything"] = training.seed
    trainer = recipe.setdefault("trainer", {})
    if _knows_data(recipe):
        recipe["data"].setdefault("init_args", {}).update(seed=training.seed)
        if recipe["data"]["class_path"].endswith(".PairDataModule"):
            recipe["data"]["init_args"]["radius_px"] = training.radius_px
    if start is not None:
        for limit in ("max_epochs", "max_steps"):
            if isinstance(trainer.get(limit), int) and trainer[limit] > 0:
                trainer[limit] = max(1, round(trainer[limit] * FINETUNE_SHARE))
        arguments = recipe["model"]["init_args"]
        for part in PARTS:
            if isinstance(arguments.get(part), int):
                # Rounded down, or nothing would be left for the last part of a training.
                arguments[part] = int(arguments[part] * FINETUNE_SHARE)
    return with_overrides(recipe, training.overrides)


def _counts(manifest: Manifest, recipe: dict[str, Any]) -> dict[str, int]:
    """Count what networks may depend on: bands by asset, entries of the conditions, pixels along a patch."""
    first = _training_items(manifest)[0]
    counts = {
        side: raster.inspect(Path(asset_path(first, side))).count
        for side in ("source", "target", "image")
        if side in first.assets
    }
    settings = recipe.get("data", {}).get("init_args") or {}
    side = str(settings.get("side", "image"))
    if side in counts:
        counts["image"] = counts[side]
    if "patch_size" in settings:
        counts["patch"] = int(settings["patch_size"])
    counts["condition"] = 0
    if settings.get("conditions"):
        counts["condition"] = conditions_of(manifest, settings["conditions"], settings.get("classes")).width
    return counts


def _sharp(manifest: Manifest, recipe: dict[str, Any]) -> tuple[dict[str, int], dict[str, Any]]:
    """Ask a data module of super-resolution for counts, and for what networks must know of its images.

    These are the bands that references have in common with images, and the MTF by which coarse images are made, the
    mean one where bands differ.
    """
    from rsgeo_gan.datamodules import SuperResolutionDataModule

    settings = {**(recipe["data"].get("init_args") or {}), "tiles": str(manifest.path)}
    data = SuperResolutionDataModule(**settings)
    data.prepare_data()
    data.setup("fit")
    sides = [side for side in ("source", "target", "reference") if side in data.facts]
    counts: dict[str, int] = {str(side): len(data.facts[side]["bands"]) for side in sides}
    counts["scale"] = int(data.facts["scale"])
    values: dict[str, Any] = {}
    if common := data.facts.get("common"):
        counts["common"], values["common"] = len(common), common
    if made := data.facts.get("degradation"):
        mtf = made["mtf"]
        values["mtf"] = fmean(mtf) if isinstance(mtf, list) else mtf
    return counts, values


def _path(recipe: dict[str, Any]) -> str:
    return str(recipe.get("data", {}).get("class_path", ""))


def _knows_data(recipe: dict[str, Any]) -> bool:
    """Tell whether the recipe reads tiles with a data module of this package, whose settings are known."""
    return _path(recipe).startswith("rsgeo_gan.datamodules.")


def _digest(recipe: dict[str, Any], seen: str, start: str) -> str:
    """Name a training by what it depends on; folders are left out, so a moved run is found again."""
    if mix := _mix(recipe):
        # What lies there counts, and is part of what was seen.
        recipe = json.loads(json.dumps(recipe))
        recipe["data"]["init_args"]["mix"] = {**mix, "products": ""}
    text = json.dumps([NETWORKS, recipe, seen, start], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _with_paths(recipe: dict[str, Any], tiles: Path, folder: Path, start: Published | None) -> dict[str, Any]:
    """Add what belongs to this place: tiles, folders, checkpoints, progress."""
    recipe = json.loads(json.dumps(recipe))
    data = recipe.setdefault("data", {}).setdefault("init_args", {})
    data["tiles"] = str(tiles.resolve())
    if start is not None and _knows_data(recipe):
        data["statistics"] = str(start.path.resolve())
    trainer = recipe["trainer"]
    trainer["default_root_dir"] = str(folder.resolve())
    trainer["enable_progress_bar"] = False
    trainer.setdefault(
        "logger",
        [
            {
                "class_path": f"lightning.pytorch.loggers.{name}",
                "init_args": {"save_dir": ".", "name": "", "version": ""},
            }
            for name in ("TensorBoardLogger", "CSVLogger")
        ],
    )
    loggers = trainer["logger"] if isinstance(trainer["logger"], list) else [trainer["logger"]]
    for entry in loggers:
        if isinstance(entry, dict):
            entry.setdefault("init_args", {})["save_dir"] = str(folder.resolve())

    callbacks = trainer.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    savers = [entry for entry in callbacks if str(entry.get("class_path", "")).endswith("ModelCheckpoint")]
    if not savers:
        savers = [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}]
        callbacks.append(savers[0])
    for number, entry in enumerate(savers):
        arguments = entry.setdefault("init_args", {})
        arguments["dirpath"] = str((folder / "checkpoints" / (str(number) if number else "")).resolve())
        arguments.setdefault("save_last", True)
    if all(entry["init_args"].get("monitor") for entry in savers):
        # A saver that watches a metric writes `last.ckpt` only when the metric improves; this one does every epoch.
        for entry in savers:
            entry["init_args"]["save_last"] = False
        every: dict[str, Any] = {"filename": "last", "enable_version_counter": False, "save_on_train_epoch_end": True}
        every["dirpath"] = str((folder / "checkpoints").resolve())
        callbacks.append({"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": every})
    mine = "rsgeo_gan.training.callbacks"
    if start is not None:
        callbacks.insert(0, {"class_path": f"{mine}.StartFrom", "init_args": {"path": str(start.path.resolve())}})
    callbacks.append({"class_path": f"{mine}.ProgressFile", "init_args": {"path": str((folder / _PROGRESS).resolve())}})
    trainer["callbacks"] = callbacks
    return recipe


def _fit(folder: Path, recipe: dict[str, Any], progress: Progress) -> Path:
    """Train in a folder, or find that it was done; return the checkpoint."""
    config = write_text(folder / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False))
    with _lock(folder, progress) as lock:
        done = _finished(folder)
        if done is not None:
            logger.info("training %s was finished before, its checkpoint is used", folder.name)
            progress("train", 1, 1)
            return done
        (folder / _PROGRESS).unlink(missing_ok=True)
        command = [*FIT, "--config", str(config)]
        last = folder / "checkpoints" / "last.ckpt"
        if last.is_file():
            logger.info("training %s continues from its last checkpoint", folder.name)
            command += ["--ckpt_path", str(last)]
        code = _watch(command, folder, lock, progress)
    done = _finished(folder)
    if code != 0 or done is None:
        raise TrainingError(
            f"Training {folder} ended with exit status {code}; the last lines of {folder / 'train.log'}:\n"
            f"{_tail(folder / 'train.log')}\nStart again to continue from the last checkpoint."
        )
    return done


def _watch(command: list[str], folder: Path, lock: int, progress: Progress) -> int:
    """Run the command, its output in train.log, reporting until it ends; end it if we are ended."""
    with (folder / "train.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, pass_fds=(lock,)
        )
        try:
            while process.poll() is None:
                _report(folder, progress)
                time.sleep(_POLL_S)
            _report(folder, progress)
            return process.returncode
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                if process.poll() is None:
                    process.kill()
                    process.wait()


@contextmanager
def _lock(folder: Path, progress: Progress) -> Iterator[int]:
    """Hold the folder; the training process inherits the lock and keeps it if we are killed.

    Waits while another process holds it, reporting that one's progress.
    """
    try:
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ProductError(f"Cannot write {folder}: {error.strerror}. Choose a folder you may write to.") from error
    try:
        said = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    logger.warning("training %s is running in another process; waiting for it", folder.name)
                    said = True
                _report(folder, progress)
                time.sleep(_POLL_S)
        yield handle
    finally:
        os.close(handle)


def _state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _report(folder: Path, progress: Progress) -> None:
    state = _state(folder)
    if state:
        progress("train", int(state.get("done", 0)), int(state.get("total", 0)))


def _finished(folder: Path) -> Path | None:
    """Return the checkpoint of a training that reached its end; only its name is trusted, not its folder."""
    state = _state(folder)
    if state.get("state") != "finished" or not state.get("checkpoint"):
        return None
    name = Path(str(state["checkpoint"])).name
    found = sorted((folder / "checkpoints").rglob(name))
    return found[0] if found else None


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return "\n".join([line for line in lines if line.strip() not in _LEFTOVERS][-_LOG_LINES:])
