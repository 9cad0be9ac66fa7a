"""Reads a checkpoint or an export without trusting it: facts of its data, and a network rebuilt from its recipe.

Nothing in either can run code: a checkpoint is read with `weights_only=True`, an export holds no pickle at all, and a
class path is followed only into trusted packages (this package's `models` unless the caller names more) and only
to subclasses of `torch.nn.Module`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rsgeo_gan.errors import CheckpointError
from rsgeo_gan.inference.exports import read_export, read_tensors
from rsgeo_gan.provenance import Direction, digest_of, sides
from rsgeo_gan.sensors import SENSORS, Scaler, Sensor, get_sensor

__all__ = [
    "GENERATORS",
    "TRUSTED",
    "Facts",
    "Stored",
    "below",
    "build",
    "fill",
    "load_weights",
    "read_checkpoint",
    "read_facts",
    "read_stored",
    "recipe_of",
    "with_residual",
]

GENERATORS: dict[Direction, str] = {"source_to_target": "generator", "target_to_source": "generator_back"}
"""Name, in a task, of the network of each direction, where a checkpoint does not tell."""

TRUSTED: tuple[str, ...] = ("rsgeo_gan.models",)
"""Packages whose networks a checkpoint may name."""

_FORMAT = 1
_ADVICE = "give the .ckpt that `rsgeo-gan fit`, `run`, `synthesize` or `superres` wrote, or the folder of an export"


@dataclass(frozen=True)
class Facts:
    """What a checkpoint knows about the data it was trained on.

    Attributes:
        source: Scaler of the source side.
        target: Scaler of the target side.
        gsd: Pixel size of the training tiles, in units of their CRS.
        radius_px: Largest misalignment the training forgave, in pixels.
        recipe: Name of the recipe, or the class of the task when no name was stored.
        sensors: Sensors by side, where the checkpoint tells them.
    """

    source: Scaler
    target: Scaler
    gsd: float
    radius_px: int
    recipe: str
    sensors: Mapping[str, Sensor] = field(default_factory=dict)

    def scaler(self, side: str) -> Scaler:
        """Return the scaler of a side, "source" or "target"."""
        return self.source if side == "source" else self.target

    def sensor(self, side: str) -> Sensor | None:
        """Return the sensor of a side, where it is known."""
        return self.sensors.get(side) or SENSORS.get(self.scaler(side).sensor)


@dataclass(frozen=True)
class Stored:
    """What a checkpoint or an export holds of its generators, tensors not yet in a network.

    Attributes:
        path: The file or folder.
        digest: SHA-256 of the checkpoint file; of the one it was made from for an export.
        version: Version of this package that wrote the weights.
        task: Class of the task.
        facts: What is known about the data.
        networks: How each generator is built, by direction: `class_path` and `init_args`.
        weights: Reads the weights of a direction.
        moments: Reads the frozen normalisation of a direction; None where there is none.
    """

    path: Path
    digest: str
    version: str
    task: str
    facts: Facts
    networks: Mapping[Direction, Any]
    weights: Callable[[Direction], Mapping[str, Tensor]]
    moments: Callable[[Direction], Mapping[str, Tensor] | None] = lambda _: None

    def network(self, direction: Direction) -> Any:
        """Return how a direction's generator is built; None where that is told of no direction.

        Raises:
            CheckpointError: If only the other direction has one.
            ProductError: If there is no such direction.
        """
        sides(direction)
        if self.networks and direction not in self.networks:
            raise CheckpointError(
                f"{self.path}: holds no generator for {direction}, only for {' and '.join(self.networks)}; choose that "
                "direction, or train a task that translates this way."
            )
        return self.networks.get(direction)


def read_stored(path: Path) -> Stored:
    """Read a checkpoint file, or the folder of an export.

    Raises:
        CheckpointError: If it is missing, damaged, not one of ours, or lacks facts of its data.
    """
    if not path.is_dir():
        content = read_checkpoint(path)
        entry, digest = content["rsgeo_gan"], digest_of(path)
        told = entry.get("generators")
        told = told if isinstance(told, Mapping) else GENERATORS
        names = {direction: str(told[direction]) for direction in GENERATORS if direction in told}
        return Stored(
            path=path,
            digest=digest,
            version=str(entry.get("version")),
            task=str(entry.get("task") or "unknown"),
            facts=read_facts(entry, path, digest),
            networks={
                direction: with_residual(content, name, "SummedGenerators")[0]
                for direction, name in names.items()
                if content["hyper_parameters"].get(name) is not None
            },
            weights=lambda direction: with_residual(content, names[direction], "SummedGenerators")[1],
        )
    content = read_export(path)
    generators = {
        direction: content["generators"][direction] for direction in GENERATORS if direction in content["generators"]
    }

    def moments(direction: Direction) -> Mapping[str, Tensor] | None:
        name = generators[direction].get("moments")
        return read_tensors(path, content, str(name)) if name else None

    return Stored(
        path=path,
        digest=content["checkpoint"],
        version=content["version"],
        task=content["task"],
        facts=read_facts(content, path, content["checkpoint"]),
        networks=generators,
        weights=lambda direction: read_tensors(path, content, str(generators[direction].get("weights"))),
        moments=moments,
    )


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries whose name begins with the prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def with_residual(content: Mapping[str, Any], name: str, summed: str) -> tuple[Any, dict[str, Tensor]]:
    """Return how a task's network is built and its weights; of a decoupled task, those of the sum with its residual.

    Args:
        content: Content of the checkpoint.
        name: Name of the network in the task.
        summed: Class of `rsgeo_gan.models` that adds the residual.
    """
    given, tensors = content["hyper_parameters"], content["state_dict"]
    told = content["rsgeo_gan"].get("residuals")
    residual = told.get(name) if isinstance(told, Mapping) else None
    if residual is None:
        return given.get(name), below(f"{name}.", tensors)
    parts = {"generator": name, "residual": str(residual)}
    weights = {f"{part}.{key}": value for part, of in parts.items() for key, value in below(f"{of}.", tensors).items()}
    arguments = {part: given.get(of) for part, of in parts.items()}
    return {"class_path": f"rsgeo_gan.models.{summed}", "init_args": arguments}, weights


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint file, weights only.

    Returns:
        Its content; `rsgeo_gan`, `hyper_parameters` and `state_dict` are there.

    Raises:
        CheckpointError: If it is missing, damaged or not one of ours.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; {_ADVICE}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # a damaged or foreign pickle fails in any way it likes
        first = str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({first}); the file is damaged, truncated or not a "
            f"checkpoint; {_ADVICE}."
        ) from error
    expected = ("rsgeo_gan", "hyper_parameters", "state_dict")
    missing = [key for key in expected if not isinstance(content, dict) or not isinstance(content.get(key), Mapping)]
    if missing:
        raise CheckpointError(
            f"{path}: not a checkpoint of rsgeo_gan: expected the entries {', '.join(expected)}, "
            f"missing {', '.join(missing)}; {_ADVICE}."
        )
    if content["rsgeo_gan"].get("format") != _FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {content['rsgeo_gan'].get('format')!r}, this version reads {_FORMAT}; "
            f"install the version that wrote it ({content['rsgeo_gan'].get('version')}) or train again."
        )
    return dict(content)


def read_facts(stored: Mapping[str, Any], path: Path, digest: str) -> Facts:
    """Return what a checkpoint's `rsgeo_gan` entry knows about its data.

    Raises:
        CheckpointError: If scalers or pixel size are missing.
    """
    facts = stored.get("facts")
    try:
        if not isinstance(facts, Mapping):
            raise KeyError("facts")
        return Facts(
            source=Scaler.from_dict(facts["source"]),
            target=Scaler.from_dict(facts["target"]),
            gsd=float(facts["gsd"]),
            radius_px=int(facts.get("radius_px", 0)),
            sensors={
                side: get_sensor(facts[f"{side}_sensor"])
                for side in ("source", "target")
                if isinstance(facts.get(f"{side}_sensor"), Mapping)
            },
            recipe=recipe_of(stored, path, digest),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint lacks facts of its training data ({type(error).__name__}: {error}); expected "
            "scalers of source and target and the pixel size; it was written outside PairDataModule: train "
            "with it, so that products get physical units."
        ) from error


def recipe_of(stored: Mapping[str, Any], path: Path, digest: str) -> str:
    """Return the name of a checkpoint's recipe, or the class of its task where no name is told."""
    # Published checkpoints are called <recipe>-<digest>.ckpt.
    name, _, tail = path.stem.rpartition("-")
    published = name if tail and digest.startswith(tail) else ""
    facts = stored.get("facts")
    told = facts.get("recipe") if isinstance(facts, Mapping) else None
    return str(told or published or stored.get("task") or "unknown")


def build(spec: Any, trusted: tuple[str, ...], where: str) -> nn.Module:
    """Build a network from `class_path` and `init_args`, nested ones included.

    Raises:
        CheckpointError: If the class is not trusted, not a network, not there, or takes other arguments.
    """
    if not _is_spec(spec):
        raise CheckpointError(
            f"{where}: the checkpoint does not say how the network is built (expected class_path and init_args, "
            f"got {type(spec).__name__}); train through a recipe (`rsgeo-gan fit --config …`)."
        )
    module_name, _, class_name = str(spec["class_path"]).rpartition(".")
    if not any(module_name == package or module_name.startswith(f"{package}.") for package in trusted):
        raise CheckpointError(
            f"{where}: the checkpoint names the class {spec['class_path']}, outside the trusted packages "
            f"{', '.join(trusted)}; if you trust it, add its package to `trusted`."
        )
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{where}: class {spec['class_path']} cannot be imported ({error}); install the version that "
            "wrote the checkpoint, or train again."
        ) from error
    if not (inspect.isclass(kind) and issubclass(kind, nn.Module)):
        raise CheckpointError(f"{where}: {spec['class_path']} is not a network (a subclass of torch.nn.Module).")
    given = spec.get("init_args") or {}
    if not isinstance(given, Mapping):
        raise CheckpointError(f"{where}: init_args of {spec['class_path']} is {given!r}, expected names and values.")
    arguments = _built(given, trusted, where)
    try:
        return kind(**arguments)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(
            f"{where}: {spec['class_path']} does not accept the stored arguments {arguments} ({error}); install "
            "the version that wrote the checkpoint, or train again."
        ) from error


def _built(values: Mapping[str, Any], trusted: tuple[str, ...], where: str) -> dict[str, Any]:
    """Build the networks among the values, and those in mappings among them."""
    return {
        key: build(value, trusted, f"{where}.{key}")
        if _is_spec(value)
        else _built(value, trusted, f"{where}.{key}")
        if isinstance(value, Mapping)
        else value
        for key, value in values.items()
    }


def _is_spec(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("class_path"), str)


def load_weights(generator: nn.Module, stored: Stored, direction: Direction) -> None:
    """Put a direction's weights into its network.

    Raises:
        CheckpointError: If they do not fit.
    """
    fill(generator, stored.weights(direction), f"{stored.path}: the weights of {GENERATORS[direction]}", stored.version)


def fill(network: nn.Module, weights: Mapping[str, Tensor], what: str, version: str) -> None:
    """Put weights into a network.

    Raises:
        CheckpointError: If they do not fit; begins with `what`.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{what} do not fit its class ({' '.join(str(error).split())[:200]}); it was written by version {version} "
            "of this package: install that version, or train again."
        ) from error
