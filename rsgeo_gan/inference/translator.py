"""Turns a checkpoint or an export into a generator with frozen normalisation: the network half of `generate`.

Only the generator of the wanted direction is rebuilt, see `rsgeo_gan.inference.checkpoints`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from rsgeo_gan.errors import CheckpointError
from rsgeo_gan.inference.checkpoints import GENERATORS, TRUSTED, Facts, build, load_weights, read_stored
from rsgeo_gan.models import collecting, load_frozen_state, unfreeze
from rsgeo_gan.provenance import Direction, sides
from rsgeo_gan.sensors import Scaler, Sensor

__all__ = ["Translator"]


class Translator:
    """A generator of one direction, its scalers, and its halo.

    Attributes:
        generator: The network, in evaluation mode, without gradients.
        direction: Which way it translates.
        facts: What the checkpoint knows about its data.
        digest: SHA-256 of the checkpoint file, also where an export of it was read.
        halo_px: Margin, in pixels, that a window needs around the part that is kept: the generator's
            receptive radius, rounded up to its stride.
        stride: Read origins must be whole multiples of this many pixels.
        noise_channels: Channels of noise the generator takes, 0 for none.
        takes_mask: Whether the generator takes the validity of its input.
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
        self.takes_mask = "mask" in inspect.signature(generator.forward).parameters
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
        """Read a checkpoint of a translation task, or the folder of its export.

        Where weights were averaged during training, the averaged ones are used: they are what the
        checkpoint's `state_dict` holds.

        Args:
            path: The `.ckpt` file, or the folder that `rsgeo-gan export` wrote.
            direction: Which generator is wanted.
            trusted: Packages whose networks may be built.
            device: Torch device of the generator.
            precision: Of the computation.
            untrained_seed: Leave the weights as the network starts with under this seed, for a baseline.

        Returns:
            The translator. Its normalisation is frozen to the moments of the export where that holds some, and
            not yet frozen otherwise.

        Raises:
            CheckpointError: If the file is missing, damaged, not one of ours, does not hold together, or has no
                generator for the direction.
        """
        stored = read_stored(Path(path))
        spec = stored.network(direction)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(untrained_seed or 0)
            generator = build(spec, tuple(trusted), f"{path}: {GENERATORS[direction]}")
        moments = None
        if untrained_seed is None:
            load_weights(generator, stored, direction)
            moments = stored.moments(direction)
        made = cls(generator, direction, stored.facts, digest=stored.digest, device=device, precision=precision)
        if moments is not None:
            try:
                load_frozen_state(made.generator, moments)
            except ValueError as error:
                raise CheckpointError(f"{path}: {error}; export the checkpoint again.") from error
        return made

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
        if mask is not None and self.takes_mask:
            arguments["mask"] = mask.to(device)
        if noise is not None:
            arguments["noise"] = noise.to(device)
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            answer: Tensor = self.generator(batch.to(device), **arguments)
            return answer.float().cpu()


def _halo(generator: nn.Module, stride: int) -> int:
    radius = getattr(generator, "receptive_radius_px", None)
    if radius is None:
        raise CheckpointError(
            f"{type(generator).__name__} states no receptive_radius_px, so no halo makes its tiles seamless; "
            "use a network with a bounded receptive field, such as ResNetGenerator."
        )
    return -(-int(radius) // stride) * stride
