"""Puts an export together in a folder: all of it, or nothing.

The folder is made under another name and renamed when everything in it has been written, opened and compared.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save as to_safetensors
from torch import Tensor

import rsgeo_gan
from rsgeo_gan.errors import CheckpointError, ExportError, ProductError
from rsgeo_gan.export import deepness, graph
from rsgeo_gan.export.card import card
from rsgeo_gan.export.evidence import gather, own_tiles
from rsgeo_gan.export.item import model_item
from rsgeo_gan.export.physical import StoredValues
from rsgeo_gan.export.windows import Windows, from_scene, from_tiles
from rsgeo_gan.inference import Translator
from rsgeo_gan.inference.checkpoints import TRUSTED, Stored, read_stored
from rsgeo_gan.inference.exports import DESCRIPTION, FORMAT, read_export
from rsgeo_gan.manifest import write_json, write_text
from rsgeo_gan.models import frozen_state
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.provenance import Direction, digest_of, sides

__all__ = ["Exported", "export"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """What an export holds.

    Attributes:
        path: The folder.
        directions: Directions it translates.
        origin: Where the frozen normalisation comes from, in words; empty without ONNX.
        difference: Largest difference between ONNX and PyTorch, in model units.
    """

    path: Path
    directions: tuple[Direction, ...]
    origin: str
    difference: float


def export(
    checkpoint: Path,
    out: Path,
    *,
    directions: Sequence[Direction] = (),
    scene: Path | None = None,
    tiles: Path | None = None,
    onnx: bool = True,
    offset_dn: float = 0.0,
    tile_px: int = 512,
    trusted: Sequence[str] = TRUSTED,
    progress: Progress = silent,
) -> Exported:
    """Write a trained model as a folder that needs no pickle to load.

    The moments of the normalisation are frozen in what is exported, so that tiles agree: to those of a scene, or of
    training tiles. `generate` on the folder still takes those of each scene, and makes what the checkpoint makes.

    Args:
        checkpoint: The `.ckpt` file of a translation task.
        out: Folder to make. An earlier export there is replaced; anything else is left alone.
        directions: Which generators; all the checkpoint has when empty.
        scene: Raster to take the moments from; only with a single direction.
        tiles: Manifest of tiles to take the moments from; by default the tiles of the run that published the
            checkpoint.
        onnx: Write ONNX as well, for onnxruntime and for QGIS with Deepness. Without it neither moments nor
            the packages of the `export` extra are needed.
        offset_dn: What is added to stored values first, such as -1000 for Sentinel-2 from baseline 04.00 on.
        tile_px: Side of the tiles in QGIS, pixels.
        trusted: Packages whose networks the checkpoint may name.
        progress: Receives finished and all generators.

    Returns:
        What was made.

    Raises:
        CheckpointError: If the checkpoint is not usable or lacks a direction.
        ExportError: If nothing tells the moments, a network has no form in ONNX, or ONNX computes something else.
        SourceError: If scene or tiles cannot be read.
        ProductError: If the folder cannot be written.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if checkpoint.is_dir():
        raise ExportError(f"{checkpoint}: expected a .ckpt file, got a folder; an export is not exported again.")
    if onnx:
        graph.need("onnx", "onnxscript", "onnxruntime")
    stored = read_stored(checkpoint)
    chosen: tuple[Direction, ...] = tuple(directions) or tuple(stored.networks)
    if not chosen:
        raise ExportError(f"{checkpoint}: holds no generator of a known direction; nothing can be exported.")
    if scene is not None and len(chosen) > 1:
        raise ExportError(
            f"{scene}: a scene gives the moments of one direction, the export has {len(chosen)}; choose one "
            "(--direction) or give tiles (--tiles)."
        )
    _see_that_it_may_be_made(out)
    own = own_tiles(checkpoint)
    evidence = gather(stored, tiles or own)
    # Tiles found by themselves serve only when they are those of the training; tiles that were given always do.
    known_tiles = tiles or (own if evidence.splits else None)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    except OSError as error:
        raise ProductError(
            f"Cannot write {out}: {error.strerror or error}. Choose a folder you may write to."
        ) from error
    try:
        translators, inputs, cuts, differences = [], [], [], [0.0]
        generators: dict[Direction, dict[str, Any]] = {}
        origin = ""
        for number, direction in enumerate(chosen):
            progress("export", number, len(chosen))
            translator = Translator.load(checkpoint, direction, trusted=trusted)
            sensor = stored.facts.sensor(sides(direction)[0])
            read = StoredValues.of(translator.source_scaler, sensor, offset_dn)
            generators[direction] = _weights(staged, translator, stored)
            if onnx:
                windows = _windows(translator, scene, known_tiles, offset_dn)
                translator.freeze(windows.values, windows.valid)
                cuts.append(deepness.tiling(translator, tile_px))
                differences.append(_onnx(staged, translator, read, windows, cuts[-1]))
                name = f"{direction}.moments.safetensors"
                _tensors(staged / name, frozen_state(translator.generator))
                generators[direction] |= {"moments": name, "moments_from": windows.origin}
                origin = windows.origin
            translators.append(translator)
            inputs.append(read)
        name = f"{stored.facts.recipe.rpartition('.')[2]}-{stored.digest[:12]}"
        write_text(staged / "recipe.yaml", _recipe(stored, evidence.hyper_parameters))
        text = card(name, stored, translators, inputs, evidence, cuts, origin, max(differences))
        write_text(staged / "MODEL_CARD.md", text)
        titles = {path.name: _title(path.name) for path in sorted(staged.iterdir())} | {
            DESCRIPTION: _title(DESCRIPTION)
        }
        write_json(staged / "item.json", model_item(name, stored, translators, inputs, evidence, titles))
        write_json(staged / DESCRIPTION, _described(staged, stored, evidence.facts, generators))
        _move(staged, out)
    except OSError as error:
        raise ProductError(f"Cannot write {out}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    progress("export", len(chosen), len(chosen))
    return Exported(out, chosen, origin, max(differences))


def _see_that_it_may_be_made(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ProductError(f"Cannot write {out}: it is a file; choose another folder.")
    found = {path.name for path in out.iterdir()} if out.is_dir() else set()
    try:
        ours = {DESCRIPTION, *read_export(out)["files"]} if found else set()
    except CheckpointError:
        ours = set()
    foreign = sorted(found - ours)
    if foreign:
        raise ProductError(
            f"Cannot write {out}: the folder holds something that belongs to no export ({', '.join(foreign[:3])}); "
            "choose another folder."
        )


def _windows(translator: Translator, scene: Path | None, tiles: Path | None, offset_dn: float) -> Windows:
    if scene is not None:
        return from_scene(scene, translator, offset_dn=offset_dn)
    if tiles is not None:
        return from_tiles(tiles, translator)
    raise ExportError(
        "Instance normalisation has to be frozen for ONNX, and nothing tells its moments: give a raster of the kind to "
        "be translated (--scene SCENE.tif) or the training tiles (--tiles tiles.json), or leave ONNX out (--no-onnx)."
    )


def _weights(folder: Path, translator: Translator, stored: Stored) -> dict[str, Any]:
    """Write a generator's weights and return how it is built again."""
    name = f"{translator.direction}.safetensors"
    _tensors(folder / name, translator.generator.state_dict())
    spec = stored.network(translator.direction)
    return {
        "class_path": spec["class_path"],
        "init_args": dict(spec.get("init_args") or {}),
        "weights": name,
        "halo_px": translator.halo_px,
        "stride_px": translator.stride,
    }


def _tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    # Tensors that share memory are not accepted.
    path.write_bytes(to_safetensors({name: value.detach().clone().contiguous() for name, value in tensors.items()}))


def _onnx(folder: Path, translator: Translator, stored: StoredValues, windows: Windows, cut: deepness.Tiling) -> float:
    model = graph.traced(translator, stored)
    path = folder / f"{translator.direction}.onnx"
    graph.save(model, path)
    difference = graph.assert_parity(path, translator, stored, windows)
    beside = folder / f"{translator.direction}.qgis.onnx"
    graph.save(deepness.fitted(model, translator, cut), beside)
    graph.session(beside)
    return difference


def _recipe(stored: Stored, given: Mapping[str, Any]) -> str:
    """Return the task as `rsgeo-gan fit` reads it."""
    arguments = {key: value for key, value in given.items() if not key.startswith("_")}
    task = str(given.get("_class_path") or stored.task)
    return yaml.safe_dump({"model": {"class_path": task, "init_args": arguments}}, sort_keys=False)


def _described(
    folder: Path, stored: Stored, facts: Mapping[str, Any], generators: Mapping[Direction, Any]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": stored.version,
        "exported_by": rsgeo_gan.__version__,
        "torch": torch.__version__,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "task": stored.task,
        "checkpoint": stored.digest,
        "facts": {**facts, "recipe": stored.facts.recipe},
        "generators": dict(generators),
        "files": {path.name: digest_of(path) for path in sorted(folder.iterdir()) if path.name != DESCRIPTION},
    }


def _title(name: str) -> str:
    stem, _, ending = name.partition(".")
    words = stem.replace("_", " ")
    return {
        "safetensors": f"Weights, {words}",
        "moments.safetensors": f"Frozen normalisation, {words}",
        "onnx": f"ONNX for onnxruntime, {words}",
        "qgis.onnx": f"ONNX for QGIS with Deepness, {words}",
        "yaml": "Recipe of the training",
        "md": "Model card",
        "json": "Facts that rebuild the model",
    }[ending]


def _move(staged: Path, out: Path) -> None:
    """Put the finished folder in place; an earlier export goes only when the new one is there."""
    staged.chmod(0o755)
    if not out.exists():
        staged.rename(out)
        return
    earlier = staged.with_suffix(".earlier")
    out.rename(earlier)
    try:
        staged.rename(out)
    except OSError:
        earlier.rename(out)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
