"""A few labelled tiles and an untrained checkpoint of the right form, for tests of synthetic products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rsgeo_gan import models, raster
from rsgeo_gan.conditions import Classes, Conditions, Cyclic
from rsgeo_gan.manifest import Manifest, make_item
from rsgeo_gan.models import StyleGenerator
from tests.generation import EO_BANDS, EO_SCALER, ORIGIN, WHEN, box

CLASSES = ("field", "forest", "open water/ice")
CONDITIONS = Conditions((Classes("label", CLASSES), Cyclic("day", 365.25, "d")))
SIZE_PX = 16
_SHARED = {"size_px": 2 * SIZE_PX, "latent_dim": 6, "width": 4}
_DECODER = {"out_channels": 3, "condition_dim": CONDITIONS.width, **_SHARED}
AUTOENCODER = {
    "encoder": ("Encoder", {"in_channels": 3, **_SHARED}),
    "generator": ("ImageDecoder", _DECODER),
    "residual": ("ImageDecoder", _DECODER),
}
"""Class and arguments of the networks of `autoencoder`, by name."""


def checkpoint(path: Path, asked: Conditions | None = CONDITIONS, seed: int = 0, **facts) -> Path:
    """Write what `rsgeo-gan fit` writes for ImageSynthesis, with a tiny generator and random weights."""
    torch.manual_seed(seed)
    width = 0 if asked is None else asked.width
    arguments = {
        "out_channels": 3,
        "size_px": SIZE_PX,
        "width": 8,
        "max_width": 16,
        "latent_dim": 8,
        "condition_dim": width,
        "mapping_layers": 1,
    }
    network = StyleGenerator(**arguments)
    for block in network.blocks:
        torch.nn.init.constant_(block.layers[-1].strength, 0.5)
    known = {"image": EO_SCALER.to_dict(), "gsd": 10.0, "patch_px": SIZE_PX, "source_sensor": "sentinel2-l2a"}
    known["conditions"] = None if asked is None else asked.to_dict()
    content = {
        "state_dict": {f"generator.{key}": value for key, value in network.state_dict().items()},
        "hyper_parameters": {"generator": {"class_path": "rsgeo_gan.models.StyleGenerator", "init_args": arguments}},
        "rsgeo_gan": {
            "format": 1,
            "task": "rsgeo_gan.tasks.ImageSynthesis",
            "version": "0.1.0",
            "facts": known | facts,
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def autoencoder(path: Path) -> Path:
    """Write what `rsgeo-gan fit` writes for a decoupled ConditionalAutoencoding, with tiny networks, random weights."""
    torch.manual_seed(1)
    networks = {name: getattr(models, kind)(**given) for name, (kind, given) in AUTOENCODER.items()}
    content = {
        "state_dict": {
            f"{name}.{key}": value for name, network in networks.items() for key, value in network.state_dict().items()
        },
        "hyper_parameters": {
            name: {"class_path": f"rsgeo_gan.models.{kind}", "init_args": given}
            for name, (kind, given) in AUTOENCODER.items()
        },
        "rsgeo_gan": {
            "format": 1,
            "task": "rsgeo_gan.tasks.ConditionalAutoencoding",
            "version": "0.1.0",
            "residuals": {"generator": "residual"},
            "facts": {"image": EO_SCALER.to_dict(), "gsd": 10.0, "conditions": CONDITIONS.to_dict()},
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def tiles(folder: Path, count: int = 6, size_px: int = SIZE_PX, **properties) -> Manifest:
    """Write labelled optical tiles in a row, classes in turn, all of the training split; one corner is nodata."""
    made = Manifest(folder / "tiles.json", extra={"rsgeo:classes": list(CLASSES)})
    for number in range(count):
        rng = np.random.default_rng(number)
        array = (400 + 700 * (number % 3) + rng.integers(0, 200, (3, size_px, size_px))).astype(np.uint16)
        array[:, 0, 0] = 0
        at = box(size_px, size_px, origin=(ORIGIN[0] + number * size_px * 10.0, ORIGIN[1]))
        name = f"tile{number}"
        path = raster.write(
            folder / name / "image.tif", array, at, nodata=0, names=EO_BANDS, unit="reflectance", scale=1e-4, cog=False
        )
        facts = {
            "rsgeo:label": CLASSES[number % 3],
            "rsgeo:split": "train",
            "rsgeo:sensor": "sentinel2-l2a",
            "rsgeo:day": 30.0 * number,
        }
        item = make_item(name, at, when=WHEN, properties=facts | properties, assets={"image": path.resolve()})
        made.add(item)
    made.save()
    return made


__all__ = ["AUTOENCODER", "CLASSES", "CONDITIONS", "EO_SCALER", "SIZE_PX", "autoencoder", "checkpoint", "tiles"]
