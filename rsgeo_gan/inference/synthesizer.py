"""Turns a checkpoint of a synthesis into a generator that can be asked in words: the network half of `synthesize`.

Images are made one at a time, from a latent that follows from a seed, so an image does not depend on those that are
made beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from rsgeo_gan.conditions import Conditions
from rsgeo_gan.errors import CheckpointError
from rsgeo_gan.inference.checkpoints import TRUSTED, build, fill, read_checkpoint, recipe_of, with_residual
from rsgeo_gan.inference.devices import device_of
from rsgeo_gan.models import swap_spectrum
from rsgeo_gan.provenance import digest_of
from rsgeo_gan.sensors import SENSORS, Scaler, Sensor, get_sensor

__all__ = ["Synthesizer"]

_GENERATORS = ("generator", "decoder")


class Synthesizer:
    """A generator of images from noise and conditions, with what it knows of its data.

    Attributes:
        generator: The network, in evaluation mode, without gradients.
        encoder: Network from image to latent, where the model has one.
        scaler: Model domain to analysis units.
        sensor: Sensor whose images are made, where it is known.
        conditions: What can be asked for.
        gsd: Pixel size of the training tiles, CRS units.
        size_px: Height and width of an image.
        recipe: Name of the recipe, or the class of the task.
        digest: SHA-256 of the checkpoint file.
        shifted: Whether what the generator puts out has low and high frequencies exchanged.
        side: Asset of the tiles whose images are imitated.
    """

    def __init__(
        self,
        generator: nn.Module,
        scaler: Scaler,
        *,
        encoder: nn.Module | None = None,
        sensor: Sensor | None = None,
        conditions: Conditions | None = None,
        gsd: float = 1.0,
        recipe: str = "unknown",
        digest: str = "",
        shifted: bool = False,
        side: str = "image",
        device: str = "cpu",
    ) -> None:
        self.device = device_of(device)
        self.generator = generator.to(self.device).eval().requires_grad_(False)
        self.encoder = None if encoder is None else encoder.to(self.device).eval().requires_grad_(False)
        self.scaler = scaler
        self.sensor = sensor or SENSORS.get(scaler.sensor)
        self.conditions = conditions or Conditions()
        self.gsd = gsd
        self.recipe = recipe
        self.digest = digest
        self.shifted = shifted
        self.side = side
        self.size_px = _number(generator, "size_px")
        self.latent_dim = _number(generator, "latent_dim")
        wanted = int(getattr(generator, "condition_dim", 0))
        if wanted != self.conditions.width:
            raise CheckpointError(
                f"The generator takes {wanted} numbers of conditions, the checkpoint describes "
                f"{self.conditions.width} ({', '.join(self.conditions.names) or 'none'}); train again."
            )

    @classmethod
    def load(cls, path: Path | str, *, trusted: Sequence[str] = TRUSTED, device: str = "cpu") -> Self:
        """Read a checkpoint of a synthesis task.

        Where weights were averaged during training, the averaged ones are used: they are what the checkpoint's
        `state_dict` holds.

        Args:
            path: The `.ckpt` file.
            trusted: Packages whose networks may be built.
            device: Torch device of the networks, see `device_of`.

        Raises:
            CatalogError: If there is no such device.
            CheckpointError: If the file is missing, damaged, not one of ours, does not hold together, or makes no
                images from noise.
        """
        path, place = Path(path), str(device_of(device))
        content = read_checkpoint(path)
        entry, given = content["rsgeo_gan"], content["hyper_parameters"]
        facts = entry.get("facts")
        name = next((name for name in _GENERATORS if given.get(name) is not None), None)
        if not isinstance(facts, Mapping) or "image" not in facts or name is None:
            raise CheckpointError(
                f"{path}: expected a checkpoint of a task that makes images from noise (such as ImageSynthesis), got "
                f"one of {entry.get('task') or 'an unknown task'}. Translate scenes with `rsgeo-gan generate`."
            )
        networks = {
            part: _network(content, part, path, tuple(trusted))
            for part in (name, "encoder")
            if given.get(part) is not None
        }
        digest = digest_of(path)
        try:
            return cls(
                networks[name],
                Scaler.from_dict(facts["image"]),
                encoder=networks.get("encoder"),
                sensor=_sensor(facts),
                conditions=Conditions.from_dict(facts.get("conditions") or {}),
                gsd=float(facts.get("gsd") or 1.0),
                recipe=recipe_of(entry, path, digest),
                digest=digest,
                shifted=_shifted(given.get("spectrum")),
                side=str(facts.get("side") or "image"),
                device=place,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: the checkpoint does not hold together ({type(error).__name__}: {error}); expected a scaler, "
                "a pixel size and conditions, as training with TileDataModule stores them. Train again."
            ) from error

    def latent(self, seed: int) -> Tensor:
        """Return the latent that a seed leads to, shape (1, latent_dim), float32."""
        draw = torch.Generator().manual_seed(seed)  # on the CPU, whatever makes the image
        if getattr(self.generator, "prior", "normal") == "uniform":
            return 2 * torch.rand(1, self.latent_dim, generator=draw) - 1
        return torch.randn(1, self.latent_dim, generator=draw)

    def encode(self, image: np.ndarray) -> Tensor:
        """Return the latent of an image.

        Args:
            image: Model domain, shape (C, size_px, size_px), 0 where invalid.

        Returns:
            Shape (1, latent_dim), float32.

        Raises:
            CheckpointError: If the model has no encoder.
        """
        if self.encoder is None:
            raise CheckpointError(
                f"The model of recipe {self.recipe} has no encoder, so no tile can be encoded; make images from noise "
                "(latent: noise), or train an autoencoder such as ConditionalAutoencoding."
            )
        with torch.inference_mode():
            found: Tensor = self.encoder(torch.from_numpy(np.ascontiguousarray(image))[None].to(self.device))
            return found.float().cpu()

    def __call__(
        self,
        latent: Tensor,
        asked: Mapping[str, Any] | None = None,
        *,
        origin_px: tuple[int, int] = (0, 0),
        truncation: float = 1.0,
        noise: Tensor | None = None,
    ) -> np.ndarray:
        """Make one image.

        Args:
            latent: Shape (1, latent_dim).
            asked: Value of each condition by name.
            origin_px: Column and row of the image's corner on the lattice of its grid, for generators that know
                where they are.
            truncation: 1 keeps the latent's variety, 0 gives the average image. Styles are drawn towards their mean
                where the generator has styles, else the latent towards 0.
            noise: Another latent that decides the fine noise of generators with styles, so that it stays the same along
                a walk; `latent` itself when None.

        Returns:
            Model domain, float32, shape (C, size_px, size_px), within [-1, 1].

        Raises:
            CatalogError: If a condition is missing, unknown, or has a value that the model does not know.
        """
        code = self.conditions.encode(asked or {})
        condition = torch.from_numpy(code)[None].to(self.device) if code.size else None
        place = torch.tensor([origin_px], dtype=torch.int64, device=self.device)
        with torch.inference_mode(), _truncated(self.generator, truncation) as left:
            image = self._image((latent * left).to(self.device), condition, place, noise)
            image = swap_spectrum(image, place) if self.shifted else image
            made: np.ndarray = image[0].float().clamp(-1, 1).cpu().numpy()
            return made

    def _image(self, latent: Tensor, condition: Tensor | None, place: Tensor, noise: Tensor | None) -> Tensor:
        network: Any = self.generator
        if noise is None or not hasattr(network, "style"):
            made: Tensor = network(latent, condition, origin_px=place)
            return made
        styles = network.style(latent, condition)
        features = network.forward_features(noise.to(self.device), condition, origin_px=place, styles=styles)
        made = network.forward_head(features)
        return made


@contextmanager
def _truncated(generator: nn.Module, psi: float) -> Iterator[float]:
    """Truncate a generator for a while; yields the factor that is left to the latent."""
    truncate = getattr(generator, "truncate", None)
    if truncate is None:
        yield psi
        return
    truncate(psi)
    try:
        yield 1.0
    finally:
        truncate(1.0)


def _number(generator: nn.Module, name: str) -> int:
    value = getattr(generator, name, None)
    if value is None:
        raise CheckpointError(
            f"{type(generator).__name__} has no {name}: expected a generator of images from noise, such as "
            "StyleGenerator."
        )
    return int(value)


def _network(content: Mapping[str, Any], name: str, path: Path, trusted: tuple[str, ...]) -> nn.Module:
    spec, weights = with_residual(content, name, "SummedDecoders")
    with torch.random.fork_rng(devices=[]):
        network = build(spec, trusted, f"{path}: {name}")
    version = str(content["rsgeo_gan"].get("version"))
    fill(network, weights, f"{path}: the weights of {name}", version)
    return network


def _shifted(spectrum: Any) -> bool:
    """Twice shifted, as data and as generated images, is not shifted."""
    told = spectrum if isinstance(spectrum, Mapping) else {}
    return bool(told.get("generator")) != bool(told.get("data"))


def _sensor(facts: Mapping[str, Any]) -> Sensor | None:
    told = facts.get("source_sensor")
    if isinstance(told, str):
        return SENSORS.get(told)
    return get_sensor(told) if isinstance(told, Mapping) else None
