"""Decides which bands of a scene are read, and on which grid its product lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import CheckpointError
from rsgeo_gan.grid import Grid, crs_of
from rsgeo_gan.manifest import Manifest, displacement_of
from rsgeo_gan.tiling import Side

__all__ = ["GridName", "ordered", "place"]

GridName = Literal["source", "declared", "tiled target"]

_GSD_TOLERANCE = 1e-6
_GSD_ROOM = 0.01
_SNAP_PX = 1e-4


def ordered(side: Side, wanted: Sequence[str]) -> Side:
    """Return the side with the bands the generator was trained on, in its order.

    Args:
        side: A scene, ready to be read.
        wanted: Band names of the generator; letter case does not matter.

    Raises:
        CheckpointError: If the scene lacks one.
    """
    names = [name.lower() for name in side.sensor.band_names]
    missing = [name for name in wanted if name.lower() not in names]
    if missing:
        raise CheckpointError(
            f"{side.item.id}: the checkpoint was trained on the {len(wanted)} bands {', '.join(wanted)}, the scene "
            f"gives {', '.join(side.sensor.band_names)}; missing {', '.join(missing)}. List them in the catalogue, "
            "or train on these."
        )
    bands = tuple(side.bands[names.index(name.lower())] for name in wanted)
    return replace(side, sensor=side.sensor.select(wanted), bands=bands)


def place(
    side: Side, scene_box: GeoBox, gsd: float, grid: Grid, pairs: Manifest
) -> tuple[GeoBox, GridName, Displacement | None]:
    """Choose the product's grid, and how the scene's content is found on it.

    Args:
        side: The scene.
        scene_box: Its own grid.
        gsd: Pixel size the model was trained on, in CRS units.
        grid: The declared grid.
        pairs: Co-registered pairs.

    Returns:
        The product's box, whose grid that is, and the displacement of the scene's content, if any.

    Raises:
        CheckpointError: If the scene needs the declared grid and the model was trained on other pixels.
    """
    moving, displacement = _moved(side, pairs)
    if not moving and all(abs(size / gsd - 1) <= _GSD_TOLERANCE for size in _pixel_size(scene_box)):
        return scene_box, "source", None
    if abs(grid.gsd / gsd - 1) > _GSD_ROOM:
        raise CheckpointError(
            f"{side.item.id}: the checkpoint was trained at {gsd:g} CRS units a pixel, the declared grid has "
            f"{grid.gsd:g}; set grid.gsd_m to the model's, or train on this grid."
        )
    return _cover(scene_box, grid.box((0, 0))), "tiled target" if moving else "declared", displacement


def _moved(side: Side, pairs: Manifest) -> tuple[bool, Displacement | None]:
    """Tell whether co-registration moves this scene, and by which, the most trusted, measurement."""
    name = side.item.id
    roles = ("rsgeo:source_item", "rsgeo:target_item")
    mine = [pair for pair in pairs if name in (pair.properties.get(role) for role in roles)]
    if not mine:
        return side.sensor.modality == "sar", None
    if all(
        pair.properties.get(f"rsgeo:{pair.properties.get('rsgeo:reference', 'source')}_item") == name for pair in mine
    ):
        return False, None
    found = [displacement_of(pair) for pair in mine if pair.properties.get("rsgeo:reliable")]
    return True, max(found, key=lambda displacement: displacement.confidence, default=None)


def _pixel_size(box: GeoBox) -> tuple[float, float]:
    """Return the lengths of a pixel's two sides in CRS units, whatever the rotation."""
    a, b, _, d, e, _ = box.affine[:6]
    return math.hypot(a, d), math.hypot(b, e)


def _cover(scene_box: GeoBox, lattice: GeoBox) -> GeoBox:
    """Return the smallest box of whole lattice pixels around a scene."""
    if scene_box.crs == lattice.crs:
        height, width = scene_box.shape
        corners = [scene_box.affine * corner for corner in ((0, 0), (width, 0), (0, height), (width, height))]
    else:
        corners = list(scene_box.footprint(crs_of(lattice), npoints=64).exterior.points)
    pixels = [~lattice.affine * corner for corner in corners]
    columns, rows = ([pixel[axis] for pixel in pixels] for axis in (0, 1))
    left, top = math.floor(min(columns) + _SNAP_PX), math.floor(min(rows) + _SNAP_PX)
    right, bottom = math.ceil(max(columns) - _SNAP_PX), math.ceil(max(rows) - _SNAP_PX)
    return GeoBox((bottom - top, right - left), lattice.affine * Affine.translation(left, top), lattice.crs)
