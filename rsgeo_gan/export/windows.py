"""Chooses the sample windows whose moments become the frozen normalisation of an export."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from rsgeo_gan.datasets import TileReader, TileSet
from rsgeo_gan.datasets.tiles import Side
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import ExportError
from rsgeo_gan.inference import Translator
from rsgeo_gan.inference.streaming import SAMPLE_PX, SAMPLES, SceneReader, sample_windows
from rsgeo_gan.manifest import make_item
from rsgeo_gan.provenance import sides
from rsgeo_gan.raster import inspect
from rsgeo_gan.sensors import Sensor
from rsgeo_gan.tiling import Side as SceneSide

__all__ = ["Windows", "from_scene", "from_tiles"]


@dataclass(frozen=True)
class Windows:
    """Sample windows in model units.

    Attributes:
        values: Shape (N, C, h, w), 0 where invalid.
        valid: Shape (N, 1, h, w), 1 valid and 0 not.
        origin: Where they come from, in words.
    """

    values: Tensor
    valid: Tensor
    origin: str


def from_scene(path: Path, translator: Translator, *, offset_dn: float = 0.0) -> Windows:
    """Take the windows that `generate` would freeze the normalisation with for this scene.

    Args:
        path: Raster of the side that is read, on its own grid, with the sensor's stored values.
        translator: The generator.
        offset_dn: Radiometric offset of the scene, added to stored values first.

    Raises:
        SourceError: If the scene cannot be read, or has no valid pixel.
        ExportError: If it lacks a band, or its values contradict the sensor.
    """
    scaler = translator.source_scaler
    sensor = _sensor(translator)
    info = inspect(path)
    told = ", ".join(filter(None, info.names)) or "no names"
    names = [name.lower() for name in info.names]
    wanted = [name.lower() for name in scaler.bands]
    if all(name in names for name in wanted):
        indexes = [names.index(name) + 1 for name in wanted]
    elif info.count == len(wanted) and not any(names):
        indexes = list(range(1, info.count + 1))
    else:
        raise ExportError(
            f"{path}: expected the bands {', '.join(scaler.bands)}, got {told} in {info.count} bands; "
            f"give a scene of {scaler.sensor} with named bands, or "
            "the tiles (--tiles)."
        )
    item = make_item(
        "scene", info.geobox, when=datetime.now(UTC), properties={"rsgeo:offset_dn": offset_dn}, assets={"data": path}
    )
    still = Displacement.none(info.geobox, reason="reference")
    reader = SceneReader(SceneSide(item, sensor, tuple(indexes), still), info.geobox, scaler)
    values, valid = sample_windows(reader, translator.stride)
    return _windows(values, valid, f"the scene {path.name}")


def from_tiles(tiles: Path, translator: Translator) -> Windows:
    """Take windows spread over the tiles of the training split.

    Args:
        tiles: Manifest of the tiles, or its folder.
        translator: The generator.

    Raises:
        SourceError: If the tiles cannot be read.
        ExportError: If their bands are not those of the checkpoint, or no training tile has a valid pixel.
    """
    side: Side = "source" if translator.direction == "source_to_target" else "target"
    scaler = translator.source_scaler
    found = TileSet(tiles, "train")
    if found.bands[side] != scaler.bands:
        raise ExportError(
            f"{found.path}: the tiles have the bands {', '.join(found.bands[side])} on the {side} side, the checkpoint "
            f"was trained on {', '.join(scaler.bands)}; give the tiles it was trained on, or a scene (--scene)."
        )
    reader = TileReader(found, cache_mb=0)
    samples = []
    chosen = found.tiles[:: max(1, len(found.tiles) // SAMPLES)]
    for tile in chosen:
        scale = found.scale if side == "target" else 1
        height, width = (min(SAMPLE_PX, size * scale) for size in (tile.height, tile.width))
        pixels = reader.read(tile, side, (0, 0, width, height))
        model = scaler.forward(pixels.raw * pixels.scale[:, None, None] + pixels.offset[:, None, None])
        model[:, ~pixels.valid] = 0
        samples.append((model, pixels.valid))
    samples.sort(key=lambda sample: -sample[1].mean())
    if not samples or not samples[0][1].any():
        raise ExportError(
            f"{found.path}: no training tile has a valid pixel on the {side} side; give a scene (--scene)."
        )
    values, valid = zip(*samples[:SAMPLES], strict=True)
    return _windows(
        np.stack(values), np.stack(valid), f"{len(values)} training tiles of {found.path.parent.parent.name}"
    )


def _sensor(translator: Translator) -> Sensor:
    """Return the sensor of the side that is read; where it is unknown, one that stores analysis units."""
    scaler = translator.source_scaler
    known = translator.facts.sensor(sides(translator.direction)[0])
    if known is not None:
        return known.select(scaler.bands)
    modality: Literal["sar", "optical"] = "sar" if scaler.unit == "dB" else "optical"
    unit = cast("Literal['dB', 'reflectance', 'display']", scaler.unit)
    return Sensor.generic(scaler.sensor, modality=modality, unit=unit, bands=scaler.bands)


def _windows(values: np.ndarray, valid: np.ndarray, origin: str) -> Windows:
    return Windows(torch.from_numpy(values), torch.from_numpy(valid[:, None].astype(np.float32)), origin)
