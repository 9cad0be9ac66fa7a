"""Sharpens held-out tiles, whose truth is known: their real low-resolution image, or a degraded copy.

A tile is the smallest scene there is, so each goes the way of a scene. References of a tile lie where they should
already: collecting has measured and warped them.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import numpy as np
import pystac
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.errors import RSGeoGANError, SourceError
from rsgeo_gan.inference.references import Reference, file_side
from rsgeo_gan.inference.sharp import WINDOW_PX, make
from rsgeo_gan.inference.streaming import SceneReader
from rsgeo_gan.inference.superresolver import SuperResolver
from rsgeo_gan.manifest import Manifest, asset_path, check_share, item_box, safe_name
from rsgeo_gan.progress import Progress, silent, track
from rsgeo_gan.provenance import noise_seed
from rsgeo_gan.tiling import Side, write_image

__all__ = ["lowered", "reference_assets", "sharpen_tiles", "truths"]

_log = logging.getLogger(__name__)

_STAGE = "superres"
_REFERENCE = re.compile(r"reference(-\d+)?")


def sharpen_tiles(
    checkpoint: Path | str,
    tiles: Manifest,
    out: Path,
    *,
    split: str = "test",
    most: int | None = None,
    uncertainty: int = 4,
    window_px: int = WINDOW_PX,
    max_failed_share: float = 0.0,
    device: str = "cpu",
    progress: Progress = silent,
) -> Manifest:
    """Make one product of each tile of a split; of those that are there, made from the same inputs, nothing is touched.

    Args:
        checkpoint: Checkpoint of a super-resolution.
        tiles: Tiles of `kind: superres`.
        out: Folder of products; `products.json` is written there, and degraded tiles to `low` in it.
        split: "train", "val", "test" or "all".
        most: Most tiles; all when None.
        uncertainty: Turned copies whose spread is written; 0 for none.
        window_px: Side of a window's core, pixels of the low-resolution image.
        max_failed_share: Share of tiles that may fail, 0 to 1.
        device: Torch device.
        progress: Receives finished and all tiles.

    Returns:
        The products, with what failed and why.

    Raises:
        CheckpointError: If the checkpoint is not usable.
        SourceError: If there is no tile in the split, or too many failed.
        ProductError: If the folder cannot be written.
    """
    resolver = SuperResolver.load(checkpoint, device=device)
    chosen = truths(tiles, split)[:most]
    if not chosen:
        raise SourceError(
            f"{tiles.path} has no tile in the split {split!r} ({len(tiles)} tiles in all): nothing to sharpen. Choose "
            "another split (products.split), or larger shares of held-out tiles (collect.test_share)."
        )
    products = Manifest.open(out / "products.json")
    products.items = [
        item
        for item in products.items
        if item.properties.get("rsgeo:checkpoint") == resolver.digest and Path(asset_path(item, "data")).is_file()
    ]
    failed = 0
    for tile in track(chosen, _STAGE, progress):
        stem = safe_name(f"{tile.id}_x{resolver.scale}_{resolver.digest[:12]}")
        try:
            side = _low_side(tile, resolver, out / "low")
            references = _references(tile, resolver)
            made = make(
                out / f"{stem}.tif",
                side,
                raster.inspect(side.path).geobox,
                references,
                resolver,
                uncertainty=uncertainty,
                window_px=window_px,
                about={
                    "tile": tile.id,
                    **(
                        {"low": "real"}
                        if "low" in tile.assets
                        else {"low": "degraded", "degradation": dict(resolver.facts.degradation)}
                    ),
                },
            )
            for note in made.notes if made.new else ():
                _log.warning("%s: %s", tile.id, note)
            made.item.add_asset("low", pystac.Asset(href=side.path, title="What it was made from"))
            products.add(made.item)
        except SourceError as error:
            failed += 1
            _log.warning("%s: %s left out: %s", _STAGE, tile.id, error)
            products.drop(stem, _STAGE, type(error).__name__, str(error))
        except RSGeoGANError:
            products.save()
            raise
    products.save()
    check_share(failed, len(chosen), max_failed_share, _STAGE, products.path)
    return products


def truths(tiles: Manifest, split: str) -> list[pystac.Item]:
    """Return the tiles of a split, in an order that further tiles hardly change."""
    found = [item for item in tiles if split in ("all", item.properties.get("rsgeo:split"))]
    return sorted(found, key=lambda item: hashlib.sha256(item.id.encode()).hexdigest())


def reference_assets(tile: pystac.Item) -> list[str]:
    """Return the names of a tile's references, in order."""
    names = (name for name in tile.assets if _REFERENCE.fullmatch(name))
    return sorted(names, key=lambda name: (len(name), name))


def _low_side(tile: pystac.Item, resolver: SuperResolver, folder: Path) -> Side:
    facts = resolver.facts
    path = asset_path(tile, "low") if "low" in tile.assets else lowered(tile, resolver, folder)
    return file_side(path, facts.source, facts.sensor("source"), "scene", checked=False)


def _references(tile: pystac.Item, resolver: SuperResolver) -> list[Reference]:
    facts = resolver.facts
    if not resolver.takes_reference:
        return []
    scaler, sensor = (
        (facts.target, facts.sensor("target"))
        if facts.reference is None
        else (facts.reference, facts.sensor("reference"))
    )
    return [
        Reference(file_side(asset_path(tile, name), scaler, sensor, "reference", checked=False))
        for name in reference_assets(tile)
    ]


def lowered(tile: pystac.Item, resolver: SuperResolver, folder: Path) -> Path:
    """Write a tile's image as the training saw it: blurred as by the sensor, and thinned out.

    Args:
        tile: The tile.
        resolver: Knows scale and degradation.
        folder: Where to.

    Returns:
        The raster, on the tile's corner with pixels as many times larger.

    Raises:
        SourceError: If the tile cannot be read, or its sides are no whole multiples of the scale.
    """
    from rsgeo_gan.degrade import degrade

    facts, scale = resolver.facts, resolver.scale
    side = file_side(asset_path(tile, "image"), facts.target, facts.sensor("target"), "scene", checked=False)
    box = item_box(tile)
    height, width = box.shape
    if height % scale or width % scale:
        raise SourceError(
            f"Tile {tile.id} has {width} x {height} pixels, no whole multiples of the scale {scale}; collect tiles of "
            "such a size (collect.tile_px)."
        )
    # In model units, as in training, whose noise is told in them; not clipped, so that bright places keep their mean.
    values, valid = SceneReader(side, box, facts.target, clip=False).read(0, 0, height, width)
    low, mask = degrade(
        torch.from_numpy(values)[None],
        torch.from_numpy(valid[None, None].astype(np.float32)),
        scale,
        generator=torch.Generator().manual_seed(noise_seed(tile.id)),
        **{name: facts.degradation[name] for name in ("mtf", "noise") if name in facts.degradation},
    )
    made = np.where(mask[0].numpy() > 0, low[0].numpy(), np.float32(np.nan))
    raw = (facts.target.inverse(made) - side.offset) / side.sensor.scale
    coarse = GeoBox((height // scale, width // scale), box.affine * Affine.scale(scale), box.crs)
    info = raster.inspect(side.path)
    path = folder / f"{tile.id}_x{scale}.tif"
    if not path.is_file():
        write_image(path, raw, coarse, side.sensor, info.dtype, info.nodata, side.offset, tile.id)
    return path
