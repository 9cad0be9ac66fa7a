"""Who is trained on: neighbours together where the place is known, images one by one within each class where not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pystac
import shapely

from rsgeo_gan.catalog import Tiling
from rsgeo_gan.catalog.collecting import CollectSpec
from rsgeo_gan.collect.pictures import Picture
from rsgeo_gan.manifest import Dropped, Manifest, item_box
from rsgeo_gan.splits import RANKS, Blocks, Split, share_out

__all__ = ["hold_out"]

_EQUAL_AREA = "EPSG:6933"
_TOUCHING = 0.01
"""Tiles that share no more of their area than this are neighbours; rounding makes borders overlap."""

Made = tuple[pystac.Item, Picture]


def hold_out(
    made: Sequence[Made], before: Manifest, spec: CollectSpec
) -> tuple[list[pystac.Item], list[Dropped], dict[str, Any]]:
    """Give every tile its split.

    A tile whose image has a split keeps it. Others are split by blocks on an equal-area map of the earth, so that
    images of one place stay together, and what lies at no known place image by image, within each class. A tile that
    overlaps one of another image with a higher split (train, then val, then test) is left out.

    Args:
        made: Tiles and their images.
        before: An earlier state of the collection; its blocks and images keep their splits.
        spec: Shares, size of a block and seed.

    Returns:
        Tiles with `rsgeo:split`, what is left out, and what to remember in the manifest.
    """
    settings = Tiling(
        val_share=spec.val_share, test_share=spec.test_share, block_tiles=spec.block_tiles, buffer_px=0, seed=spec.seed
    )
    outlines = {item.id: _outline(item) for item, picture in made if picture.placed}
    extra = _by_place([pair for pair in made if _open(pair) and pair[1].placed], outlines, before, settings, spec)
    extra |= _by_image([pair for pair in made if _open(pair) and not pair[1].placed], before, settings)
    for item, picture in made:
        if picture.split is not None:
            item.properties["rsgeo:split"] = picture.split
    lost = _overlapping([item for item, _ in made], outlines)
    kept = [item for item, _ in made if item.id not in lost]
    return kept, [Dropped(name, "collect", "overlap", reason) for name, reason in lost.items()], extra


def _open(pair: Made) -> bool:
    return pair[1].split is None


def _outline(item: pystac.Item) -> shapely.Geometry:
    limits = item_box(item).footprint(_EQUAL_AREA, npoints=4).boundingbox
    return shapely.box(limits.left, limits.bottom, limits.right, limits.top)


def _by_place(
    made: Sequence[Made], outlines: dict[str, Any], before: Manifest, settings: Tiling, spec: CollectSpec
) -> dict[str, Any]:
    if not made:
        return {}
    known = before.extra.get("rsgeo:blocks", {})
    side_m = float(known.get("side_m") or math.sqrt(outlines[made[0][0].id].area))
    blocks = Blocks(settings, known.get("splits", {}), spec.tile_px)
    cells = {}
    for item, _ in made:
        middle = outlines[item.id].centroid
        cells[item.id] = math.floor(middle.x / side_m), math.floor(middle.y / side_m)
    blocks.assign(set(cells.values()))
    for item, _ in made:
        item.properties["rsgeo:split"] = blocks.split(cells[item.id])
    return {"rsgeo:blocks": {"side_m": side_m, "splits": blocks.to_dict()}}


def _by_image(made: Sequence[Made], before: Manifest, settings: Tiling) -> dict[str, Any]:
    known: dict[str, Split] = before.extra.get("rsgeo:image_splits", {})
    classes: dict[str, set[str]] = defaultdict(set)
    for item, picture in made:
        classes[str(item.properties.get("rsgeo:label", ""))].add(picture.id)
    splits: dict[str, Split] = {}
    for names in classes.values():
        mine = {name: known[name] for name in names if name in known}
        splits |= mine | share_out(names, mine, settings)
    for item, picture in made:
        item.properties["rsgeo:split"] = splits[picture.id]
    return {"rsgeo:image_splits": dict(sorted(splits.items()))} if splits else {}


def _overlapping(items: Sequence[pystac.Item], outlines: dict[str, Any]) -> dict[str, str]:
    """Tiles that show ground of another image's tile in a split they must not see, and why."""
    placed = [item for item in items if item.id in outlines]
    shapes = [outlines[item.id] for item in placed]
    tree = shapely.STRtree(shapes)
    lost: dict[str, str] = {}
    for item, shape in zip(placed, shapes, strict=True):
        mine = item.properties
        for position in tree.query(shape, predicate="intersects"):
            other = placed[position]
            theirs = other.properties
            higher = RANKS[theirs["rsgeo:split"]] > RANKS[mine["rsgeo:split"]]
            if not higher or theirs["rsgeo:image"] == mine["rsgeo:image"]:
                continue
            if shape.intersection(shapes[position]).area > _TOUCHING * shape.area:
                lost[item.id] = f"Its ground is also that of {other.id} in the split {theirs['rsgeo:split']}."
                break
    return lost
