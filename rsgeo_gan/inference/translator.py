"""Turns a checkpoint into a generator with frozen normalisation: the network half of `generate`.

Only the generator of the wanted direction is rebuilt, from the class path and arguments that the recipe
stored in the checkpoint. Nothing in a checkpoint can run code: it is read with `weights_only=True`, and
a class path is followed only into trusted packages (this package's `models` unless the caller names more)
and only to subclasses of `torch.nn.Module`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from rsgeo_gan.errors import CheckpointError
from rsgeo_gan.models import collecting, unfreeze
from rsgeo_gan.provenance import Direction, digest_of, sides
from rsgeo_gan.sensors import SENSORS, Scaler, Sensor, get_sensor

__all__ = ["TRUSTED", "Facts", "Translator"]

TRUSTED: tuple[str, ...] = ("rsgeo_gan.models",)
"""Packages whose networks a checkpoint may name."""

_GENERATORS = {"source_to_target": "generator", "target_to_source": "generator_back"}
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


class Translator:
    """A generator of one direction, its scalers, and its halo.

    Attributes:
        generator: The network, in evaluation mode, without gradients.
        direction: Which way it translates.
        facts: What the checkpoint knows about its data.
        digest: SHA-256 of the checkpoint file.
        halo_px: Margin, in pixels, that a window needs around the part that is kept: the generator's
            receptive radius, rounded up to its stride.
        stride: Read origins must be whole multiples of this many pixels.
        noise_channels: Channels of noise the generator takes, 0 for none.
        precision: "fp32", or "bf16" for mixed precision where the device is faster with it.
    """

    def __init__(
        self,
        generator: nn.Module,
        direction: Direction,
        facts: Facts,
        *,
        digest: str = "",
        device: str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        sides(direction)
        self.precision = precision
        self.device = torch.device(device)
        self.generator = generator.to(self.device).eval().requires_grad_(False)
        self.direction = direction
        self.facts = facts
        self.digest = digest
        self.stride = int(getattr(generator, "stride", 1))
        self._takes_mask = "mask" in inspect.signature(generator.forward).parameters
        self.noise_channels = int(getattr(generator, "noise_channels", 0))
        self.halo_px = _halo(generator, self.stride)

    @property
    def source_scaler(self) -> Scaler:
        """Scaler of what the generator reads."""
        return self.facts.scaler(sides(self.direction)[0])

    @property
    def target_scaler(self) -> Scaler:
        """Scaler of what the generator writes."""
        return self.facts.scaler(sides(self.direction)[1])

    @property
    def target_sensor(self) -> Sensor | None:
        """Sensor of what the generator writes, where it is known."""
        return self.facts.sensor(sides(self.direction)[1])

    @classmethod
    def load(
        cls,
        path: Path | str,
        direction: Direction,
        *,
        trusted: Sequence[str] = TRUSTED,
        device: str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
        untrained_seed: int | None = None,
    ) -> Self:
        """Read a checkpoint of a translation task.

        Where weights were averaged during training, the averaged ones are used: they are what the
        checkpoint's `state_dict` holds.

        Args:
            path: The `.ckpt` file.
            direction: Which generator is wanted.
            trusted: Packages whose networks may be built.
            device: Torch device of the generator.
            precision: Of the computation.
            untrained_seed: Leave the weights as the network starts with under this seed, for a baseline.

        Returns:
            The translator, normalisation not yet frozen.

        Raises:
            CheckpointError: If the file is missing, damaged, not one of ours, or does not hold together.
        """
        path = Path(path)
        content = _read(path)
        stored = content["rsgeo_gan"]
        digest = digest_of(path)
        facts = _facts(stored, path, digest)
        name = _GENERATORS.get(direction, "")
        sides(direction)
        spec = content["hyper_parameters"].get(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(untrained_seed or 0)
            generator = _build(spec, tuple(trusted), f"{path}: {name}")
        if untrained_seed is None:
            _load_weights(generator, name, content, path)
        return cls(generator, direction, facts, digest=digest, device=device, precision=precision)

    def freeze(self, samples: Tensor, valid: Tensor | None = None) -> None:
        """Fix the normalisation of every layer to the moments of sample windows of a scene.

        Args:
            samples: Windows at full resolution, shape (N, C, h, w), model units.
            valid: Validity, shape (N, 1, h, w), 1 valid and 0 not; only valid pixels count.
        """
        noise = None
        if self.noise_channels:
            draw = torch.Generator().manual_seed(0)
            shape = (len(samples), self.noise_channels, *samples.shape[2:])
            noise = torch.randn(shape, generator=draw)
        with collecting(self.generator):
            self(samples, valid, noise)

    def unfreeze(self) -> None:
        """Return to the statistics of each image on its own."""
        unfreeze(self.generator)

    def __call__(self, batch: Tensor, mask: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Translate a batch.

        Args:
            batch: Images, shape (B, C, H, W), float32, model units, 0 where invalid.
            mask: Validity, shape (B, 1, H, W); None when all pixels count.
            noise: Standard normal noise, shape (B, noise_channels, H, W), where the generator takes any.

        Returns:
            Images, shape (B, C', H, W), float32, in [-1, 1], on the CPU.
        """
        device = self.device
        arguments: dict[str, Tensor] = {}
        if mask is not None and self._takes_mask:
            arguments["mask"] = mask.to(device)
        if noise is not None:
            arguments["noise"] = noise.to(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            answer: Tensor = self.generator(batch.to(device), **arguments)
            return answer.float().cpu()


def _read(path: Path) -> dict[str, Any]:
    """Read the file and make sure it is one of ours."""
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


def _facts(stored: Mapping[str, Any], path: Path, digest: str) -> Facts:
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


def _build(spec: Any, trusted: tuple[str, ...], where: str) -> nn.Module:
    """Build a network from `class_path` and `init_args`, nested ones included."""
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
        key: _build(value, trusted, f"{where}.{key}") if _is_spec(value) else value
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


def _load_weights(generator: nn.Module, name: str, content: Mapping[str, Any], path: Path) -> None:
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


def _halo(generator: nn.Module, stride: int) -> int:
    radius = getattr(generator, "receptive_radius_px", None)
    if radius is None:
        raise CheckpointError(
            f"{type(generator).__name__} states no receptive_radius_px, so no halo makes its tiles seamless; "
            "use a network with a bounded receptive field, such as ResNetGenerator."
        )
    return -(-int(radius) // stride) * stride
