"""From a scene as a provider describes it to a checked STAC item that the later stages can read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pystac
import rasterio
import rasterio.shutil
from rasterio.crs import CRS

from rsgeo_gan import raster
from rsgeo_gan.catalog import FolderSide, SampleSide, StacSide
from rsgeo_gan.catalog.guess import match_bands
from rsgeo_gan.ingest.checks import Declined, check_place, check_sensor, check_whole, sample
from rsgeo_gan.ingest.fetch import Layer, Reader, copy, crop, finest
from rsgeo_gan.ingest.offsets import darkest, decide
from rsgeo_gan.manifest import make_item
from rsgeo_gan.sensors import Sensor

__all__ = ["Role", "Scene", "build", "digest"]

Role = Literal["source", "target"]

VERSION = 1
"""Raised when scenes must be made anew although nothing else changed."""


@dataclass(frozen=True)
class Scene:
    """One scene as found, before a pixel is read.

    Attributes:
        id: Identifier as given; may be unsafe.
        when: Time of acquisition, UTC.
        files: Address of each wanted band; one address for all when `whole` is given instead.
        whole: One file holding all bands.
        band_names: Names of the bands of `whole` in file order, where item or catalogue give them.
        classes: Address of the class raster, if any.
        properties: Properties of the item, `proj:*` included.
        asset_properties: What each file's asset states, by address.
        collection: STAC collection.
        identity: What tells this version of the scene from another: sizes, times, addresses.
    """

    id: str
    when: datetime
    files: Mapping[str, str] = field(default_factory=dict)
    whole: str | None = None
    band_names: tuple[str, ...] = ()
    classes: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    asset_properties: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    collection: str | None = None
    identity: tuple[Any, ...] = ()

    @property
    def remote(self) -> bool:
        """Whether any file lies elsewhere."""
        addresses = [*self.files.values(), self.whole or "", self.classes or ""]
        return any("://" in address for address in addresses)


def digest(
    scene: Scene, side: SampleSide | FolderSide | StacSide, bbox: tuple[float, float, float, float] | None
) -> str:
    """Return a short fingerprint of a scene and all settings that shape its item."""
    facts = {
        "version": VERSION,
        "side": side.model_dump(mode="json", exclude={"retries", "retry_s", "token_env", "max_items", "glob"}),
        "bbox": bbox,
        "scene": [scene.id, scene.when.isoformat(), dict(scene.files), scene.whole, scene.classes],
        "identity": scene.identity,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def build(
    scene: Scene,
    side: SampleSide | FolderSide | StacSide,
    role: Role,
    *,
    item_id: str,
    fingerprint: str,
    bbox: tuple[float, float, float, float] | None,
    folder: Path,
    reader: Reader,
    crs: str | None = None,
) -> pystac.Item:
    """Make the item of a scene: find its bands, copy what must be copied, check it, decide its offset.

    Args:
        scene: The scene as found.
        side: Its side of the catalogue.
        role: Which side.
        item_id: Safe id of the item.
        fingerprint: From `digest`.
        bbox: Area of interest in degrees; None for all of the scene.
        folder: Where copies go.
        reader: How files are reached.
        crs: CRS of files that state none.

    Returns:
        The item; `data` is the raster, `scl` the class raster if there is one.

    Raises:
        SourceError: If a file cannot be found or read, or the scene is declined.
        GridError: If a file has no usable georeference.
        ProductError: If a copy cannot be written.
    """
    where = f"Scene {scene.id}"
    sensor = side.instrument.select(side.band_names)
    if crs is not None and scene.whole is not None:
        scene = _placed(scene, crs, folder)
    infos = {href: reader.inspect(href) for href in _addresses(scene)}
    layers = _layers(scene, side, infos, where)
    for layer in layers:
        stated = {**scene.properties, **scene.asset_properties.get(layer.href, {})}
        check_place(infos[layer.href], stated, f"{where}, {layer.name}")
    for href in {layer.href for layer in layers}:
        check_whole(href, where)
    used = {href: infos[href] for href in dict.fromkeys(layer.href for layer in layers)}
    full = finest(used, where)
    box = crop(full, bbox, where)

    if scene.remote or len(used) > 1 or box != full:
        data = copy(
            layers,
            box,
            folder / "data.tif",
            infos=infos,
            reader=reader,
            sensor=sensor,
            fingerprint=fingerprint,
            where=where,
        )
        indexes = list(range(1, len(layers) + 1))
    else:
        data = Path(layers[0].href)
        indexes = [layer.index for layer in layers]
    info = raster.inspect(data)
    missing = sensor.nodata if info.nodata is None else None
    values, valid = sample(data, info, indexes, missing)
    first = infos[layers[0].href]
    offset = decide(
        scene.id,
        sensor,
        override=side.offset_dn,
        collection=scene.collection,
        properties=scene.properties,
        band_metadata=_band_metadata(scene, layers),
        file_offset=(first.scales[0], first.offsets[0]),
        dark=darkest(values, valid) if sensor.unit == "dn" else None,
    )
    check_sensor(values, valid, sensor, where, offset.dn)

    assets: dict[str, Path | str] = {"data": data}
    properties: dict[str, Any] = {
        "rsgeo:sensor": side.sensor,
        "rsgeo:side": role,
        "rsgeo:bands": list(sensor.band_names),
        "rsgeo:band_indexes": indexes,
        "rsgeo:offset_dn": offset.dn,
        "rsgeo:offset_reason": offset.reason,
        "rsgeo:fingerprint": fingerprint,
    }
    if scene.classes is not None:
        assets["scl"] = _classes(scene, scene.classes, info, folder, reader, fingerprint, where)
        properties["rsgeo:invalid_classes"] = list(side.invalid_classes)
    kept = {"sat:orbit_state": "rsgeo:orbit_state", "sat:relative_orbit": "rsgeo:relative_orbit"}
    for theirs, ours in kept.items():
        if scene.properties.get(theirs) is not None:
            properties[ours] = scene.properties[theirs]
    for key in ("eo:cloud_cover", "platform", "s2:processing_baseline", "sar:product_type"):
        if scene.properties.get(key) is not None:
            properties[key] = scene.properties[key]
    if scene.collection is not None:
        properties["rsgeo:collection"] = scene.collection
    if scene.id != item_id:
        properties["rsgeo:provider_id"] = scene.id
    titles = {"data": ", ".join(sensor.band_names), "scl": "classes"}
    return make_item(item_id, info.geobox, when=scene.when, properties=properties, assets=assets, titles=titles)


def _addresses(scene: Scene) -> list[str]:
    """All files of a scene's bands, each once, in order."""
    return [scene.whole] if scene.whole is not None else list(dict.fromkeys(scene.files.values()))


def _layers(
    scene: Scene,
    side: SampleSide | FolderSide | StacSide,
    infos: Mapping[str, raster.RasterInfo],
    where: str,
) -> list[Layer]:
    """Find the file and the band in it of each wanted band."""
    wanted = side.band_names
    if scene.whole is None:
        absent = [name for name in wanted if name not in scene.files]
        if absent:
            raise Declined(
                "bands",
                f"{where}: expected the bands {', '.join(wanted)}, got no {', '.join(absent)}; "
                "correct `bands` or `assets` in the catalogue, or drop the scene.",
            )
        layers = []
        for name in wanted:
            info = infos[scene.files[name]]
            found = match_bands(side.instrument, info.names)
            index = found.index(name) + 1 if name in found else 1
            if name not in found and info.count != 1:
                raise Declined(
                    "bands",
                    f"{where}: expected one band for {name}, got {info.count} unnamed bands in {scene.files[name]}; "
                    "use `data_asset` with `file_bands` in the catalogue.",
                )
            layers.append(Layer(name, scene.files[name], index))
        return layers
    info = infos[scene.whole]
    order = _order(scene, side.instrument, info, wanted, where)
    return [Layer(name, scene.whole, order.index(name) + 1) for name in wanted]


def _order(
    scene: Scene, sensor: Sensor, info: raster.RasterInfo, wanted: Sequence[str], where: str
) -> list[str | None]:
    """Names of a file's bands in file order: as catalogue or item give them, as the file does, as the sensor does."""
    if scene.band_names:
        order = match_bands(sensor, scene.band_names)
        if len(order) != info.count:
            raise Declined(
                "bands",
                f"{where}: expected {len(order)} bands ({', '.join(scene.band_names)}), got {info.count} in "
                f"{info.path}; correct `file_bands` in the catalogue or drop the scene.",
            )
    else:
        order = match_bands(sensor, info.names)
        if not set(wanted) <= set(order) and info.count == len(sensor.bands) and not any(order):
            order = list(sensor.band_names)
        elif info.count == len(wanted) and not any(info.names):
            order = list(wanted)
    absent = [name for name in wanted if name not in order]
    if absent:
        names = ", ".join(name or "unnamed" for name in info.names)
        raise Declined(
            "bands",
            f"{where}: expected the bands {', '.join(wanted)} of {sensor.name}, got {info.count} band(s) ({names}) in "
            f"{info.path}; list them in file order as `file_bands` in the catalogue, or drop the scene.",
        )
    return order


def _band_metadata(scene: Scene, layers: Sequence[Layer]) -> list[Mapping[str, Any]]:
    """Per layer, the mapping of its asset that may hold scale and offset."""
    found: list[Mapping[str, Any]] = []
    for layer in layers:
        stated = scene.asset_properties.get(layer.href, {})
        merged: dict[str, Any] = {key: stated[key] for key in ("raster:scale", "raster:offset") if key in stated}
        for key in ("raster:bands", "bands"):
            bands = stated.get(key)
            if isinstance(bands, list) and len(bands) >= layer.index and isinstance(bands[layer.index - 1], dict):
                merged |= bands[layer.index - 1]
        found.append(merged)
    return found


def _classes(
    scene: Scene,
    href: str,
    info: raster.RasterInfo,
    folder: Path,
    reader: Reader,
    fingerprint: str,
    where: str,
) -> Path:
    """Return the class raster: where it lies, or a copy on the lattice of the bands."""
    if "://" not in href:
        raster.inspect(href)
        return Path(href)
    infos = {href: reader.inspect(href)}
    return copy(
        [Layer("classes", href)],
        info.geobox,
        folder / "scl.tif",
        infos=infos,
        reader=reader,
        sensor=None,
        fingerprint=fingerprint,
        where=where,
    )


def _placed(scene: Scene, crs: str, folder: Path) -> Scene:
    """Return the scene with its file seen through a VRT that adds a CRS, where the file states none."""
    assert scene.whole is not None
    with raster.opened(scene.whole) as dataset:
        if dataset.crs is not None or dataset.transform.is_identity:
            return scene
        folder.mkdir(parents=True, exist_ok=True)
        view = folder / "placed.vrt"
        rasterio.shutil.copy(dataset, view, driver="VRT")
    with rasterio.open(view, "r+") as dataset:
        dataset.crs = CRS.from_user_input(crs)
    return Scene(**{**scene.__dict__, "whole": str(view)})
