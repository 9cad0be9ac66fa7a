"""Shows what a registration head has learnt: how far pairs are still apart, as rasters and arrows for QGIS."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from torch.nn import functional as F

from rsgeo_gan import raster
from rsgeo_gan.coregister.files import write_tie_points
from rsgeo_gan.coregister.fit import TiePoints
from rsgeo_gan.coregister.registration import Registration
from rsgeo_gan.coregister.styles import displacement_style
from rsgeo_gan.datasets import Tile, TileDataset, TileSet
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import CheckpointError, GridError
from rsgeo_gan.inference.checkpoints import TRUSTED, build, read_checkpoint, read_stored
from rsgeo_gan.inference.translator import Translator
from rsgeo_gan.losses import RegistrationHead
from rsgeo_gan.manifest import Manifest, make_item, safe_name
from rsgeo_gan.progress import Progress, silent, track
from rsgeo_gan.provenance import Direction, sides

__all__ = ["BANDS", "learned_displacement"]

BANDS = ("dx", "dy", "magnitude_px")
"""Bands of a learnt displacement; the last one is the length of (dx, dy)."""

Values = NDArray[np.float32]

_log = logging.getLogger(__name__)

_UNITS = (
    "pixels of the tiles, + right, + down, from where the side read shows a content to this place, where the side "
    "compared holds it; the running mean of the registration head is taken out"
)
_STEP_PX = 8
_ARROW_STEPS = 4
_KEYS = {"source": ("image", "mask_valid"), "target": ("image_target", "mask_valid_target")}


@dataclass(frozen=True)
class _Judge:
    """A generator and the head that was trained with it.

    Attributes:
        translator: Makes images of the side compared.
        head: Finds where real images lie relative to those.
        mean_px: What the head takes out of every displacement: its running mean dx, dy, pixels.
    """

    translator: Translator
    head: RegistrationHead
    mean_px: NDArray[np.float64]


def learned_displacement(
    checkpoint: Path,
    tiles: Path | str,
    out: Path,
    *,
    direction: Direction | None = None,
    trusted: Sequence[str] = TRUSTED,
    progress: Progress = silent,
) -> Manifest:
    """Write where the real image of every pair lies relative to the one made from the other side.

    It is what the registration head of the training finds after co-registration, its running mean taken out, as in
    the loss: dx (right) and dy (down), pixels of the tiles, from where the side that is read shows a content to where
    the other one holds it. Tiles of a pair are put together; what one of them finds ends at its edge. The raster has
    a pixel for 8 of the tiles (fewer where tiles are no multiple of that), the bands `BANDS`, and NaN where either
    side has no data. The arrows are those of co-registration, every fourth raster pixel; `residual_px` is their
    length, and there is no `score` and no `confidence`.

    Args:
        checkpoint: Checkpoint of a translation task with a `RegistrationHead`.
        tiles: Folder of the tiles, or their manifest.
        out: Output folder: `<pair>.tif`, `<pair>.gpkg`, their styles, and `displacement.json`.
        direction: Which generator is used; by default the first one there is.
        trusted: Packages whose networks the checkpoint may name, besides this package's losses.
        progress: Receives finished and all tiles.

    Returns:
        An item for each pair, with `rsgeo:mean_px` (dx, dy) and `rsgeo:median_px`, the median length; null where
        a pair has no pixel with data on both sides.

    Raises:
        CheckpointError: If the checkpoint is unusable, has no registration head, or was trained on other bands.
        SourceError: If the tiles cannot be read.
        GridError: If source and target tiles differ in pixel size.
        ProductError: If a file cannot be written.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    way = direction or _first(checkpoint)
    judge = _Judge(Translator.load(checkpoint, way, trusted=trusted), *_head(checkpoint, way, tuple(trusted)))
    facts = judge.translator.facts
    _check(TileSet(tiles), judge)
    data = TileDataset(tiles, None, judge.translator.halo_px, facts.source, facts.target)
    found, step = _found(data, judge, progress)
    made = Manifest(out / "displacement.json")
    for pair, (positions, _) in data.tile_set.pairs.items():
        members = [data.tile_set.tiles[position] for position in positions]
        values, box = _merged(data.tile_set, members, found, step)
        files = _write(out, safe_name(pair), values, box, step)
        known = values[:, np.isfinite(values[0])].astype(np.float64)
        summary = {
            "rsgeo:pair": pair,
            "rsgeo:direction": way,
            "rsgeo:checkpoint": judge.translator.digest,
            "rsgeo:mean_px": [float(part) for part in known[:2].mean(axis=1)] if known.size else None,
            "rsgeo:median_px": float(np.median(known[2])) if known.size else None,
            "rsgeo:removed_px": [float(part) for part in judge.mean_px],
        }
        made.add(make_item(safe_name(pair), box, when=members[0].when, properties=summary, assets=files))
    made.save()
    _log.info("displacement: %d pairs in %s", len(made.items), out)
    return made


def _first(checkpoint: Path) -> Direction:
    stored = read_stored(checkpoint)
    return next(iter(stored.networks), "source_to_target")


def _head(
    checkpoint: Path, direction: Direction, trusted: tuple[str, ...]
) -> tuple[RegistrationHead, NDArray[np.float64]]:
    """Rebuild the registration head and say which mean displacement it takes out."""
    got, heads, content = "an export, which keeps generators only", [], {}
    if not checkpoint.is_dir():
        content = read_checkpoint(checkpoint)
        spec = content["hyper_parameters"].get("correspondence")
        got = "no correspondence"
        if spec is not None:
            term = build(spec, (*trusted, "rsgeo_gan.losses"), f"{checkpoint}: correspondence")
            got = type(term).__name__
            heads = [(name, part) for name, part in term.named_modules() if isinstance(part, RegistrationHead)]
    if not heads:
        raise CheckpointError(
            f"{checkpoint}: holds no registration head: expected RegistrationHead as the correspondence, alone or in "
            f"Combined, got {got}; give the .ckpt of a training with one (docs/training.md)."
        )
    name, head = heads[0]
    prefix = ".".join(part for part in ("correspondence", name) if part) + "."
    weights = {key.removeprefix(prefix): v for key, v in content["state_dict"].items() if key.startswith(prefix)}
    try:
        head.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint}: the weights of the registration head do not fit ({' '.join(str(error).split())[:200]}); "
            "install the version that wrote the checkpoint, or train again."
        ) from error
    mean = head.mean_px[int(direction == "target_to_source")]
    return head.eval().requires_grad_(False), mean.double().numpy()


def _check(tiles: TileSet, judge: _Judge) -> None:
    for side in ("source", "target"):
        wanted, got = judge.translator.facts.scaler(side).bands, tiles.bands[side]
        if tuple(wanted) != tuple(got):
            raise CheckpointError(
                f"{tiles.path}: the checkpoint was trained on the {side} bands {', '.join(wanted)}, the tiles have "
                f"{', '.join(got)}; give the tiles it was trained on."
            )
    if tiles.scale != 1:
        raise GridError(
            f"{tiles.path}: expected source and target at one pixel size, got {tiles.scale} target pixels a source "
            "pixel; tile both at the size the checkpoint was trained at."
        )


def _found(data: TileDataset, judge: _Judge, progress: Progress) -> tuple[dict[int, Values], int]:
    """Compare made and real image tile by tile.

    Returns:
        By the tile's row, dx and dy where both images are known, else 0, and whether they are, averaged over pixels
        of the raster, shape (3, h, w); and pixels of the tiles along one of the raster.
    """
    read, compared = sides(judge.translator.direction)
    step = _step(data.tile_set.tiles)
    mean = torch.from_numpy(judge.mean_px).float()[:, None, None]
    found = {}
    for number in track(range(len(data)), "displacement", progress):
        tile, sample = data.tile_set.tiles[number], data[number]
        image, mask = (sample[key][None] for key in _KEYS[read])
        real, mask_real = (sample[key][None] for key in _KEYS[compared])
        made = judge.translator(image, mask) * mask
        back = compared == "source"
        shift = judge.head.displacement(made, real, mask, mask_real, back=back)[0] - mean
        known = mask[0] * mask_real[0]
        inner = torch.cat([shift * known, known])[
            :, data.halo_px : data.halo_px + tile.height, data.halo_px : data.halo_px + tile.width
        ]
        found[tile.row] = F.avg_pool2d(inner, step).numpy()
    return found, step


def _step(tiles: Sequence[Tile]) -> int:
    """Pixels of the tiles along one of the raster: 8, or what divides every tile and its place."""
    first = tiles[0]
    places = ((tile.width, tile.height, tile.col - first.col, tile.line - first.line) for tile in tiles)
    return reduce(math.gcd, (size for place in places for size in place), _STEP_PX)


def _merged(tiles: TileSet, members: Sequence[Tile], found: Mapping[int, Values], step: int) -> tuple[Values, GeoBox]:
    """Put the tiles of a pair together: `BANDS`, NaN where nothing is known, and the box in pixels of the raster."""
    left, top = (min(getattr(tile, name) for tile in members) for name in ("col", "line"))
    right = max(tile.col + tile.width for tile in members)
    bottom = max(tile.line + tile.height for tile in members)
    whole = np.zeros((3, (bottom - top) // step, (right - left) // step), np.float32)
    for tile in members:
        part = found[tile.row]
        row, col = (tile.line - top) // step, (tile.col - left) // step
        whole[:, row : row + part.shape[1], col : col + part.shape[2]] = part
    with np.errstate(invalid="ignore"):
        dx, dy = whole[:2] / whole[2]
    x, _, _, y = tiles.bounds_of((left, top, right, bottom))
    affine = Affine.translation(x, y) * Affine.scale(tiles.res, -tiles.res) * Affine.scale(step)
    return np.stack([dx, dy, np.hypot(dx, dy)]), GeoBox(whole.shape[1:], affine, tiles.crs)


def _write(out: Path, name: str, values: Values, box: GeoBox, step: int) -> dict[str, Path]:
    """Write raster, arrows and their styles; return them by asset name."""
    path = raster.write(
        out / f"{name}.tif",
        values,
        box,
        nodata=float("nan"),
        names=BANDS,
        unit="px",
        tags={"RSGEO_UNIT": _UNITS, "RSGEO_STEP_PX": str(step)},
    )
    known = np.isfinite(values[0])
    displacement_style(path, len(BANDS), float(values[2][known].max(initial=0.0)))
    chosen = np.zeros_like(known)
    chosen[_ARROW_STEPS // 2 :: _ARROW_STEPS, _ARROW_STEPS // 2 :: _ARROW_STEPS] = True
    row, col = np.nonzero(chosen & known)
    shift = values[:2, row, col].T.astype(np.float64)
    there = (np.stack([col, row], axis=1) + 0.5) * step - 0.5
    unknown = np.full(len(row), np.nan)
    points = TiePoints(there - shift, shift, np.zeros((len(row), 3)), unknown, np.ones(len(row)), unknown)
    height, width = box.shape
    pixels = GeoBox((height * step, width * step), box.affine * Affine.scale(1 / step), box.crs)
    straight = Displacement.none(pixels, reason="", reliable=True)
    arrows = write_tie_points(out / f"{name}.gpkg", Registration(straight, points))
    return {"displacement": path.resolve(), "tie_points": arrows.resolve()}
