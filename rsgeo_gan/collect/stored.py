"""What earlier stages left as images: ingested scenes, and tiles that exist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rsgeo_gan import raster
from rsgeo_gan.catalog.collecting import SceneImages, TileImages
from rsgeo_gan.collect.pictures import NO_DATE, Broken, Picture
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import RSGeoGANError, SourceError
from rsgeo_gan.labelled import LABEL
from rsgeo_gan.manifest import Manifest, asset_path, item_box, make_item, safe_name
from rsgeo_gan.sensors import Sensor, get_sensor
from rsgeo_gan.splits import Split
from rsgeo_gan.tiling import Side, side_of

__all__ = ["in_tiles", "of_scenes"]


def of_scenes(images: SceneImages) -> Iterator[Picture | Broken]:
    """Yield the scenes of an earlier ingest.

    Raises:
        SourceError: If there is no such collection, or it has no scene of the side.
    """
    manifest = Manifest.read(images.path)
    scenes = [item for item in manifest if images.side in (None, item.properties.get("rsgeo:side"))]
    if not scenes:
        raise SourceError(
            f"{manifest.path}: expected scenes of the side {images.side or 'source or target'}, got none of "
            f"{len(manifest)}. Correct `side`, or run the ingest stage."
        )
    sensors = {get_sensor(item.properties["rsgeo:sensor"]).name: item.id for item in scenes}
    if len(sensors) > 1:
        raise SourceError(
            f"{manifest.path}: expected scenes of one sensor, got "
            f"{', '.join(f'{name} ({item})' for name, item in sensors.items())}. Choose one with `side`."
        )
    for item in scenes:
        try:
            safe_name(item.id)
            side = side_of(item)
            info = raster.inspect(side.path)
            yield Picture(side, info.dtype, info.nodata)
        except RSGeoGANError as error:
            yield Broken(item.id, "unreadable", str(error))


def in_tiles(images: TileImages, *, labelled: bool) -> Iterator[Picture | Broken]:
    """Yield the images of existing tiles, with their splits, and their labels when asked for.

    Raises:
        SourceError: If there is no such collection, or its tiles lack the asset or, all of them, labels.
    """
    manifest = Manifest.read(images.path)
    if not len(manifest):
        raise SourceError(f"{manifest.path} holds no tile. Make the tiles first.")
    key = "rsgeo:sensor" if images.side == "image" else f"rsgeo:{images.side}_sensor"
    for item in manifest:
        found = item.properties
        path = asset_path(item, images.side)
        try:
            info = raster.inspect(path)
            spec = found.get(key, "unknown")
            zoom = info.geobox.shape.x // item_box(item).shape.x
            label = found.get(f"rsgeo:{LABEL}") if labelled else None
            properties = {
                "rsgeo:sensor": spec,
                "rsgeo:bands": list(info.names),
                "rsgeo:band_indexes": list(range(1, info.count + 1)),
            }
            when = item.datetime or NO_DATE
            scene = make_item(item.id, info.geobox, when=when, properties=properties, assets={"data": path})
            sensor = replace(_stored_sensor(spec, info), scale=info.scales[0], offset=info.offsets[0])
            side = Side(scene, sensor, tuple(range(1, info.count + 1)), Displacement.none(info.geobox, reason="tile"))
            usable = found.get("rsgeo:usable")
            area = None if usable is None else tuple(int(value) * zoom for value in usable)
            split: Split = found.get("rsgeo:split", "train")
            dated = bool(found.get("rsgeo:dated", True))
            yield Picture(side, info.dtype, info.nodata, dated, label, split, area, how="stored")  # type: ignore[arg-type]
        except RSGeoGANError as error:
            yield Broken(item.id, "unreadable", str(error))


def _stored_sensor(spec: str | dict[str, Any], info: raster.RasterInfo) -> Sensor:
    """The sensor of values that a tile holds: dB stay dB, whatever the scene was in."""
    names = tuple(name or f"band{k + 1}" for k, name in enumerate(info.names))
    unit = info.units[0] or "reflectance"
    modality = "sar" if unit == "dB" else "optical"
    told = spec if isinstance(spec, str) else str(spec.get("name", "custom"))
    unit_in_file = {"dB": "dB", "display": "display"}.get(unit, "dn")
    return Sensor.generic(told, modality=modality, unit=unit_in_file, bands=names)  # type: ignore[arg-type]
