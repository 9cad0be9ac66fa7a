"""Translates test tiles with weights that were never trained: the floor a report compares with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from rsgeo_gan.inference.checkpoints import TRUSTED
from rsgeo_gan.inference.encoding import Encoding
from rsgeo_gan.inference.translator import Translator
from rsgeo_gan.manifest import Manifest, asset_path, item_box
from rsgeo_gan.progress import Progress, silent, track
from rsgeo_gan.provenance import Direction, Provenance, fingerprint, sides
from rsgeo_gan.raster import inspect, read, write

__all__ = ["untrained"]


def untrained(
    tiles: Manifest,
    checkpoint: Path,
    out: Path,
    *,
    direction: Direction = "source_to_target",
    split: Literal["train", "val", "test"] = "test",
    limit: int = 24,
    seed: int = 0,
    trusted: Sequence[str] = TRUSTED,
    progress: Progress = silent,
) -> list[Path]:
    """Write what the checkpoint's architecture gives before any training, one raster a tile.

    Normalisation uses the statistics of each tile on its own. Rasters made for the same checkpoint and
    direction are left alone.

    Args:
        tiles: The tiles.
        checkpoint: Checkpoint whose architecture, scalers and bands are used; its weights are not.
        out: Output folder; rasters are called `baseline/untrained/<tile id>.tif` below it.
        direction: Which generator.
        split: Which tiles.
        limit: Most tiles; evenly spread over those of the split.
        seed: Seed of the weights.
        trusted: Packages whose networks the checkpoint may name.
        progress: Receives finished and all tiles.

    Returns:
        Paths of the rasters, in tile order.

    Raises:
        CheckpointError: If the checkpoint is not usable.
        SourceError: If a tile cannot be read.
        ProductError: If a raster cannot be written.
    """
    translator = Translator.load(checkpoint, direction, trusted=trusted, untrained_seed=seed)
    encoding = Encoding.of(translator.target_scaler, translator.target_sensor)
    wanted = [item for item in tiles if item.properties.get("rsgeo:split") == split]
    if len(wanted) > limit:
        wanted = [wanted[k * len(wanted) // limit] for k in range(limit)]
    untrained_name = f"none: untrained weights, seed {seed}, architecture of {translator.digest[:12]}"
    paths = []
    for item in track(wanted, "untrained baseline", progress):
        path = out / "baseline" / "untrained" / f"{item.id}.tif"
        paths.append(path)
        if path.exists():
            tags = inspect(path).tags
            if (tags.get("RSGEO_CHECKPOINT"), tags.get("RSGEO_DIRECTION")) == (untrained_name, direction):
                continue
        model, valid = _model_units(asset_path(item, sides(direction)[0]), translator)
        answer = translator(torch.from_numpy(model)[None], torch.from_numpy(valid[None, None].astype(np.float32)))
        provenance = Provenance(
            direction=direction,
            checkpoint=untrained_name,
            recipe=translator.facts.recipe,
            sources=(item.id,),
            radius_px=translator.facts.radius_px,
            grid="declared",
            inputs=fingerprint({"tile": item.id, "seed": seed}),
        )
        write(
            path,
            encoding(answer[0].numpy(), valid),
            item_box(item),
            valid=valid,
            nodata=encoding.nodata,
            names=encoding.names,
            unit=encoding.unit,
            scale=encoding.scale,
            offset=encoding.offset,
            tags=provenance.tags(),
            cog=False,
        )
    return paths


def _model_units(path: str, translator: Translator) -> tuple[np.ndarray, np.ndarray]:
    """Read one side of a tile: model units, 0 where invalid, and validity."""
    info = inspect(path)
    raw, valid = read(path)
    scales, offsets = (np.asarray(part, np.float32)[:, None, None] for part in (info.scales, info.offsets))
    model = translator.source_scaler.forward(raw.astype(np.float32) * scales + offsets)
    model[:, ~valid] = 0
    return model, valid
