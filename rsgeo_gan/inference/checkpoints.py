"""Reads a checkpoint without trusting it: facts of its data, and a network rebuilt from its recipe.

Nothing in a checkpoint can run code: it is read with `weights_only=True`, and a class path is followed only
into trusted packages (this package's `models` unless the caller names more) and only to subclasses of
`torch.nn.Module`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rsgeo_gan.errors import CheckpointError
from rsgeo_gan.sensors import SENSORS, Scaler, Sensor, get_sensor

__all__ = ["TRUSTED", "Facts", "build", "load_weights", "read_checkpoint", "read_facts"]

TRUSTED: tuple[str, ...] = ("rsgeo_gan.models",)
"""Packages whose networks a checkpoint may name."""

_FORMAT = 1
_ADVICE = "give the .ckpt that `rsgeo-gan fit` or `rsgeo-gan run` wrote"


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
    # Published checkpoints are called <recipe>-<digest>.ckpt.
    name, _, tail = path.stem.rpartition("-")
    published = name if tail and digest.startswith(tail) else ""
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
            recipe=str(facts.get("recipe") or published or stored.get("task") or "unknown"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the checkpoint lacks facts of its training data ({type(error).__name__}: {error}); expected "
            "scalers of source and target and the pixel size; it was written outside PairDataModule: train "
            "with it, so that products get physical units."
        ) from error


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
    arguments = {
        key: build(value, trusted, f"{where}.{key}") if _is_spec(value) else value
        for key, value in (spec.get("init_args") or {}).items()
    }
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: {spec['class_path']} does not accept the stored arguments {arguments} ({error}); install "
            "the version that wrote the checkpoint, or train again."
        ) from error


def _is_spec(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("class_path"), str)


def load_weights(generator: nn.Module, name: str, content: Mapping[str, Any], path: Path) -> None:
    """Put the weights that a checkpoint keeps under a name into a network.

    Raises:
        CheckpointError: If they do not fit.
    """
    prefix = f"{name}."
    weights = {
        key.removeprefix(prefix): value for key, value in content["state_dict"].items() if key.startswith(prefix)
    }
    try:
        generator.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path}: the weights of {name} do not fit its class ({' '.join(str(error).split())[:200]}); the "
            f"checkpoint was written by version {content['rsgeo_gan'].get('version')} of this package: install "
            "that version, or train again."
        ) from error
