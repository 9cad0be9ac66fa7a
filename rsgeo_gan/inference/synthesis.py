"""Makes georeferenced images from noise and conditions: one COG each, on the cell of a tile or on a declared grid.

What an image looks like follows from the checkpoint, its class, its number within the class and the settings, and
from nothing else. More images, or further classes, therefore leave those that are there as they are.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.catalog import SyntheticProducts
from rsgeo_gan.errors import CatalogError, CheckpointError, GridError, SourceError
from rsgeo_gan.grid import box_to_dict
from rsgeo_gan.inference.encoding import Encoding
from rsgeo_gan.inference.records import finished, write_item
from rsgeo_gan.inference.synthesizer import Synthesizer
from rsgeo_gan.labelled import values_of
from rsgeo_gan.manifest import Manifest, asset_path, check_share, item_box, make_item, safe_name, write_text
from rsgeo_gan.progress import Progress, silent, track
from rsgeo_gan.provenance import Provenance, fingerprint, noise_seed, qml

__all__ = ["Cell", "corner", "plan", "read_model", "synthesize"]

_log = logging.getLogger(__name__)

_STAGE = "synthesize"
_GSD_TOLERANCE = 1e-3
_UNSAFE = re.compile(r"[^A-Za-z0-9]+")
ALL = "all"
"""Name of the only class of a model without classes."""


@dataclass(frozen=True)
class Cell:
    """One image to make.

    Attributes:
        stem: Name of its files, without ending.
        label: Class, or "all" where the model has none.
        asked: Value of each condition of the model, by name.
        seed: Of its noise.
        box: Where it lies.
        tile: The tile that gives place and conditions; None on a declared grid.
        inputs: Digest of everything beside the checkpoint that decides its pixels.
    """

    stem: str
    label: str
    asked: Mapping[str, Any]
    seed: int
    box: GeoBox
    tile: pystac.Item | None
    inputs: str


def synthesize(
    checkpoint: Path | str,
    out: Path,
    settings: SyntheticProducts,
    *,
    tiles: Manifest | None = None,
    max_failed_share: float = 0.0,
    device: str = "cpu",
    progress: Progress = silent,
) -> Manifest:
    """Make images of each class, one COG with STAC item and QGIS style each.

    An image lies on the cell of a tile, centred on it where the sizes differ, and takes over the tile's conditions; or
    on a declared grid, cell by cell. Of images that are finished and were made from the same inputs nothing is touched.
    The collection lists what was made with one checkpoint and the same noise, truncation and grid; files made otherwise
    stay on disk unlisted.

    Args:
        checkpoint: Checkpoint of a synthesis task.
        out: Folder of products; `products.json` is written there.
        settings: How many of which classes, where, and how.
        tiles: Tiles that give place and conditions; not needed on a declared grid.
        max_failed_share: Share of images that may fail, 0 to 1.
        device: Torch device of the networks, or "auto" for a GPU where there is one; devices round differently.
        progress: Receives finished and all images.

    Returns:
        The products, with what failed and why.

    Raises:
        CheckpointError: If the checkpoint is not usable, or was trained at another pixel size.
        CatalogError: If a class or a condition is unknown, conditions have no value, or there is no such device.
        SourceError: If there are no tiles of a class, or too many images failed.
        ProductError: If the output folder cannot be written.
    """
    synthesizer = Synthesizer.load(checkpoint, device=device)
    cells = plan(synthesizer, settings, tiles)
    out = Path(out)
    products = Manifest.open(out / "products.json")
    kin = _kin(synthesizer, settings)
    products.items = [
        item
        for item in products.items
        if item.properties.get("rsgeo:set") == kin and Path(asset_path(item, "data")).is_file()
    ]
    products.extra["rsgeo:conditions"] = synthesizer.conditions.to_dict()
    failed = 0
    try:
        for cell in track(cells, _STAGE, progress):
            provenance = _provenance(cell, synthesizer, settings)
            try:
                made = finished(out, cell.stem, provenance.decisive())
                products.add(made or _make(cell, synthesizer, settings, provenance, out))
            except SourceError as error:
                failed += 1
                _log.warning("%s: %s left out: %s", _STAGE, cell.stem, error)
                products.drop(cell.stem, _STAGE, type(error).__name__, str(error))
    finally:
        # Whoever stops it finds what was made until then.
        products.save()
    check_share(failed, len(cells), max_failed_share, _STAGE, products.path)
    return products


def plan(synthesizer: Synthesizer, settings: SyntheticProducts, tiles: Manifest | None = None) -> list[Cell]:
    """Decide which images are made: name, conditions, seed and place of each.

    A class that nobody named and that has no tile of the split is left out, with a warning: it was not learnt either.

    Args:
        synthesizer: The model.
        settings: What is wanted.
        tiles: Tiles that give place and conditions.

    Raises:
        CatalogError, SourceError, CheckpointError: As `synthesize`.
    """
    if settings.latent == "tile" and settings.grid is not None:
        raise CatalogError(
            "products.latent: tile encodes the tile an image lies on, and products.grid puts images where no tile is; "
            "leave one of the two out."
        )
    cells = []
    for label in _labels(synthesizer, settings):
        try:
            given = _tiles_of(label, tiles, settings) if settings.grid is None else []
        except _NoTile as error:
            if label in (ALL, *settings.classes):
                raise
            _log.warning("%s: class %s left out: %s", _STAGE, label, error)
            continue
        for number in range(settings.count):
            tile = given[number % len(given)] if given else None
            cells.append(_cell(label, number, tile, synthesizer, settings))
    if not cells:
        raise SourceError(f"No class of the model has a tile in the split {settings.split!r}: nothing to make.")
    return cells


class _NoTile(SourceError):
    """A class has no tile to lie on."""


def _labels(synthesizer: Synthesizer, settings: SyntheticProducts) -> tuple[str, ...]:
    known = synthesizer.conditions.classes
    if known is None:
        if settings.classes:
            raise CatalogError(
                f"The model of recipe {synthesizer.recipe} has no classes, so {', '.join(settings.classes)} cannot be "
                "asked for; leave `classes` out, or train with conditions: [label]."
            )
        return (ALL,)
    for name in settings.classes:
        known.index(name)
    return settings.classes or known.classes


def _tiles_of(label: str, tiles: Manifest | None, settings: SyntheticProducts) -> list[pystac.Item]:
    """The tiles of a class, in an order that further tiles hardly change."""
    if tiles is None:
        raise SourceError("Images on the cells of tiles need tiles: give their collection (--tiles), or a grid.")
    found = [
        item
        for item in tiles
        if settings.split in ("all", item.properties.get("rsgeo:split"))
        and (label == ALL or item.properties.get("rsgeo:label") == label)
    ]
    if not found:
        what = "" if label == ALL else f" of class {label}"
        raise _NoTile(
            f"{tiles.path} has no tile{what} in the split {settings.split!r} ({len(tiles)} tiles in all), so there is "
            "no place for such an image. Choose another split or other classes, or declare a grid (products.grid)."
        )
    return sorted(found, key=lambda item: hashlib.sha256(f"{settings.seed}:{item.id}".encode()).hexdigest())


def _cell(
    label: str, number: int, tile: pystac.Item | None, synthesizer: Synthesizer, settings: SyntheticProducts
) -> Cell:
    conditions = synthesizer.conditions
    known = conditions.classes
    given: dict[str, Any] = {} if known is None else {known.name: label}
    given |= settings.conditions
    rest = [name for name in conditions.names if name not in given]
    asked = given if tile is None else values_of(tile, rest) | given
    conditions.encode(asked)
    box = _box_on(tile, synthesizer) if tile is not None else _box_at(label, number, synthesizer, settings)
    rank = 0 if known is None else known.classes.index(label)
    name = "-".join(part for part in _UNSAFE.split(label) if part)
    stem = f"c{rank:03d}-{name[:60]}-{number:05d}_{synthesizer.digest[:12]}"
    seed = noise_seed(f"{settings.seed}:{label}:{number}")
    inputs = {"asked": asked, "seed": seed, "box": box_to_dict(box), **_common(settings)}
    if tile is not None:
        inputs["tile"] = [tile.id, tile.properties.get("rsgeo:digest")]
    return Cell(safe_name(stem), label, asked, seed, box, tile, fingerprint(inputs))


def _kin(synthesizer: Synthesizer, settings: SyntheticProducts) -> str:
    return fingerprint({"checkpoint": synthesizer.digest, **_common(settings)})


def _common(settings: SyntheticProducts) -> dict[str, Any]:
    """What all images of one collection share."""
    told = settings.model_dump(mode="json", include={"seed", "truncation", "latent", "grid", "conditions"})
    return dict(told)


def _box_on(tile: pystac.Item, synthesizer: Synthesizer) -> GeoBox:
    """The image's box on a tile's lattice, its middle on the tile's middle to the pixel."""
    box = item_box(tile)
    gsd = abs(float(box.resolution.x))
    if abs(gsd / synthesizer.gsd - 1) > _GSD_TOLERANCE:
        raise CheckpointError(
            f"Tile {tile.id} has pixels of {gsd:g}, the model was trained on {synthesizer.gsd:g} (units of the CRS); "
            "give tiles of that pixel size, or declare a grid."
        )
    size = synthesizer.size_px
    if (box.shape.y, box.shape.x) == (size, size):
        return box
    down, right = (box.shape.y - size) // 2, (box.shape.x - size) // 2
    return GeoBox((size, size), box.affine * Affine.translation(right, down), box.crs)


def _box_at(label: str, number: int, synthesizer: Synthesizer, settings: SyntheticProducts) -> GeoBox:
    """The image's cell on the declared grid."""
    grid = settings.grid
    assert grid is not None
    known = synthesizer.conditions.classes
    rank = 0 if known is None else known.classes.index(label)
    row, column = divmod(number, grid.columns)
    size, gsd = synthesizer.size_px, grid.gsd_m or synthesizer.gsd
    x = grid.origin[0] + (rank * grid.columns + column) * size * gsd
    y = grid.origin[1] - row * size * gsd
    try:
        return GeoBox((size, size), Affine(gsd, 0, x, 0, -gsd, y), grid.crs)
    except Exception as error:  # pyproj and odc-geo raise what they like at a CRS that is none
        raise GridError(
            f"products.grid.crs: expected a CRS such as EPSG:32632, got {grid.crs!r} ({error}). Correct the catalogue."
        ) from error


def _provenance(cell: Cell, synthesizer: Synthesizer, settings: SyntheticProducts) -> Provenance:
    known = synthesizer.conditions.classes
    return Provenance(
        checkpoint=synthesizer.digest,
        recipe=synthesizer.recipe,
        sources=() if cell.tile is None else (cell.tile.id,),
        grid="declared" if cell.tile is None else "tile",
        inputs=cell.inputs,
        asked={
            "sensor": synthesizer.scaler.sensor,
            # Another one than the tile's where the settings say so.
            "label": None if known is None else str(cell.asked[known.name]),
            "conditions": dict(cell.asked),
            "seed": cell.seed if settings.latent == "noise" else None,
            "latent": settings.latent,
            "truncation": settings.truncation,
            "set": _kin(synthesizer, settings),
        },
    )


def _make(
    cell: Cell, synthesizer: Synthesizer, settings: SyntheticProducts, provenance: Provenance, out: Path
) -> pystac.Item:
    """Make one image, and write raster, style and item."""
    valid = np.ones(cell.box.shape, bool)
    if settings.latent == "tile" and cell.tile is not None:
        image, valid = read_model(cell.tile, cell.box, synthesizer)
        latent = synthesizer.encode(image)
    else:
        latent = synthesizer.latent(cell.seed)
    model = synthesizer(latent, cell.asked, origin_px=corner(cell.box), truncation=settings.truncation)
    encoding = Encoding.of(synthesizer.scaler, synthesizer.sensor)
    path = raster.write(
        out / f"{cell.stem}.tif",
        encoding(model, valid),
        cell.box,
        valid=valid,
        nodata=encoding.nodata,
        names=encoding.names,
        unit=encoding.unit,
        scale=encoding.scale,
        offset=encoding.offset,
        tags=provenance.tags(),
    )
    style = write_text(path.with_suffix(".qml"), qml(synthesizer.scaler, masked=encoding.nodata is None))
    item = make_item(
        cell.stem,
        cell.box,
        when=(cell.tile.datetime if cell.tile is not None else None) or datetime.now(UTC),
        properties=provenance.properties(),
        assets={"data": path.resolve(), "style": style.resolve()},
        titles={"data": f"Synthetic {', '.join(encoding.names)} ({encoding.unit})", "style": "QGIS style"},
    )
    write_item(item, path.with_suffix(".json"))
    return item


def corner(box: GeoBox) -> tuple[int, int]:
    """Column and row of a box's corner, counted in its own pixels from the origin of its CRS."""
    x, y = ~Affine(box.affine.a, box.affine.b, 0, box.affine.d, box.affine.e, 0) * (box.affine.c, box.affine.f)
    # Half a pixel off the lattice is rounded to one side, whatever the last bits are, as patches of tiles are.
    return math.floor(x + 0.501), math.floor(y + 0.501)


def read_model(tile: pystac.Item, box: GeoBox, synthesizer: Synthesizer) -> tuple[np.ndarray, np.ndarray]:
    """Read a tile on a box, in the model domain, 0 where invalid, and its validity."""
    path = asset_path(tile, synthesizer.side)
    info = raster.inspect(path)
    if len(info.names) != len(synthesizer.scaler.bands):
        raise SourceError(
            f"Tile {tile.id} has {len(info.names)} bands, the model {len(synthesizer.scaler.bands)} "
            f"({', '.join(synthesizer.scaler.bands)}); give tiles of the same bands."
        )
    values = raster.warp(path, box)
    scale, offset = (np.asarray(part, np.float32)[:, None, None] for part in (info.scales, info.offsets))
    model = synthesizer.scaler.forward(values * scale + offset)
    valid = np.isfinite(model).all(axis=0)
    return np.where(valid, model, np.float32(0)), valid
