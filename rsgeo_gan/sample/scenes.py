"""Write the invented scenes: COGs in a static STAC catalogue, and the truth beside it."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from scipy import ndimage

from rsgeo_gan import raster
from rsgeo_gan.errors import CatalogError
from rsgeo_gan.sample import geometry, optical, radar
from rsgeo_gan.sample.landscape import MASTER_M, Landscape, build_landscape
from rsgeo_gan.sample.noise import FloatArray

__all__ = ["OPTICAL_COLLECTION", "RADAR_COLLECTION", "make"]

log = logging.getLogger(__name__)

OPTICAL_COLLECTION, RADAR_COLLECTION = "sample-s2", "sample-s1"
OPTICAL_BANDS = ("B02", "B03", "B04", "B08")
RADAR_BANDS = ("VV", "VH")
FIRST_DATE = datetime(2024, 5, 12, 10, 10, tzinfo=UTC)
DATE_STEP = timedelta(days=36)
RADAR_DELAY = timedelta(hours=19, minutes=16)
DN_SCALE, DN_OFFSET = 10_000, 1000
VERSION = 2
"""Counts changes of the scenes' content; a folder made by another version is made again."""

_EXTENSIONS = {
    "eo": "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "proj": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "raster": "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "sar": "https://stac-extensions.github.io/sar/v1.0.0/schema.json",
    "sat": "https://stac-extensions.github.io/sat/v1.0.0/schema.json",
}


def make(out: Path, *, size_px: int = 1024, seed: int = 7, n_dates: int = 1, looks: float = 4.0) -> Path:
    """Make optical and radar scenes of one landscape, displaced against each other by a known field.

    The optical scenes are Sentinel-2 L2A-like: UTM 32 north, 10 m, B02, B03, B04, B08 as DN with
    reflectance = (DN - 1000) / 10000, nodata 0, with a 20 m scene classification. The radar scenes are
    Sentinel-1 RTC-like: VV and VH as linear γ⁰, UTM 33 north, 12 m, nodata NaN, speckle independent between
    pixels. The truth lies in `<out>/truth`, which the catalogue does not mention: `displacement.tif` (dx, dy
    in optical pixels, on the optical grid; ground at optical pixel p appears at p + d in the radar scene),
    `classes.tif` (`Cover`), and per date `target.tif`, `target-2.tif`, … (radar on the optical grid, not
    displaced: VV and VH without speckle, VV and VH with it).

    A folder that already holds the same scenes is left as it is.

    Args:
        out: Folder; created.
        size_px: Side of the optical scene, pixels, at least 64.
        seed: Which landscape, clouds, speckle and displacement; same arguments, same files.
        n_dates: Dates, 36 days apart, at least 1; crops follow the season, the displacement stays.
        looks: Number of looks of the speckle, > 0.

    Returns:
        Path of `catalog.json`.

    Raises:
        CatalogError: If an argument is out of its range.
        ProductError: If the folder cannot be written.
    """
    for name, value, least in (("size_px", size_px, 64), ("n_dates", n_dates, 1)):
        if value < least:
            raise CatalogError(f"Sample scenes in {out}: {name} is {value}, expected at least {least}.")
    if not looks > 0:
        raise CatalogError(f"Sample scenes in {out}: looks is {looks}, expected more than 0.")
    out = Path(out)
    recipe = {"version": VERSION, "size_px": size_px, "seed": seed, "n_dates": n_dates, "looks": looks}
    if _already_made(out, recipe):
        return out / "catalog.json"

    box, radar_grid = geometry.optical_box(size_px), geometry.radar_box(size_px)
    margin_m = 2 * geometry.OPTICAL_M * round(10 + 0.01 * size_px)
    land = build_landscape(size_px * geometry.OPTICAL_M, margin_m, seed)
    classes = _at_centres(land, size_px)
    raster.write(out / "truth" / "classes.tif", classes, box, nodata=0, names=("cover",))
    columns, rows = np.meshgrid(np.arange(size_px, dtype=float), np.arange(size_px, dtype=float))
    field = np.stack(geometry.displacement(columns, rows, size_px, seed)).astype(np.float32)
    raster.write(out / "truth" / "displacement.tif", field, box, names=("dx", "dy"), unit="px")

    optical_items, radar_items = [], []
    seen = _seen_from_orbit(radar_grid, size_px, seed)
    for number in range(n_dates):
        date = FIRST_DATE + number * DATE_STEP
        optical_items.append(_optical_scene(out, land, classes, box, date, seed + 1000 * number))
        radar_items.append(_radar_scene(out, land, box, radar_grid, seen, date, number, seed + 1000 * number, looks))
    return _write_catalogue(out, recipe, optical_items, radar_items)


def _already_made(out: Path, recipe: dict[str, Any]) -> bool:
    try:
        found = json.loads((out / "catalog.json").read_text())
    except (OSError, ValueError):
        return False
    # The catalogue is written last, so everything it speaks of was there once.
    if not isinstance(found, dict) or found.get("rsgeo:sample") != recipe:
        return False
    expected = 2 + recipe["n_dates"] * (1 + len(OPTICAL_BANDS) + 1 + len(RADAR_BANDS))
    return len(list(out.glob("*/*.tif"))) + len(list(out.glob("*/*/*.tif"))) == expected


def _at_centres(land: Landscape, size_px: int) -> NDArray[np.uint8]:
    """Land cover of each optical pixel: of its upper-left quarter, the nearest master pixel."""
    start, ratio = round(land.margin_m / MASTER_M), round(geometry.OPTICAL_M / MASTER_M)
    stop = start + size_px * ratio
    return np.ascontiguousarray(land.cover[start:stop:ratio, start:stop:ratio])


def _optical_scene(
    out: Path, land: Landscape, classes: NDArray[np.uint8], box: GeoBox, date: datetime, seed: int
) -> pystac.Item:
    size_px = classes.shape[0]
    rng = np.random.default_rng([seed, 4])
    day = date.timetuple().tm_yday
    share = float(rng.uniform(0.015, 0.03))
    opacity, shadow = optical.clouds(classes.shape, geometry.OPTICAL_M, seed, share=share)
    start = round(land.margin_m / MASTER_M)
    stop = start + 2 * size_px
    image = np.empty((len(OPTICAL_BANDS), size_px, size_px), np.uint16)
    for band, ground in enumerate(optical.ground_reflectance(land, day)):
        sharp = ndimage.gaussian_filter(ground, 1.0)[start:stop, start:stop]
        values = sharp.reshape(size_px, 2, size_px, 2).mean(axis=(1, 3))
        values *= 1 - (0.62, 0.60, 0.58, 0.50)[band] * shadow
        bright = 0.58 - 0.03 * band + 0.10 * opacity
        values += opacity**1.3 * (bright - values)
        values += rng.standard_normal(values.shape, dtype=np.float32) * (0.0011 + 0.006 * values)
        dn = np.round(np.clip(values, 0, 2) * DN_SCALE) + DN_OFFSET
        image[band] = dn.astype(np.uint16)

    name = f"{OPTICAL_COLLECTION}-{date:%Y%m%d}"
    folder = out / OPTICAL_COLLECTION / name
    coarse = geometry.optical_box(size_px, 2 * geometry.OPTICAL_M)
    scl = optical.scene_classes(classes, opacity, shadow, day)
    clear = ~np.isin(scl, (optical.CLOUD_SHADOW, 8, optical.CLOUD))
    cloudy = float(np.isin(scl, (8, optical.CLOUD)).mean() * 100)
    # A coarse pixel takes the most disturbing class of its four.
    order = np.where(clear, 0, scl)
    worst, first = _blocks(order, np.max), _blocks(scl, lambda block, axis: block[:, 0, :, 0])
    scl20 = np.where(worst > 0, worst, first).astype(np.uint8)
    properties = {
        "eo:cloud_cover": round(cloudy, 3),
        "platform": "sample-optical",
        "s2:processing_baseline": "05.10",
        "earthsearch:boa_offset_applied": False,
        "view:sun_azimuth": optical.SUN_AZIMUTH_DEG,
        "view:sun_elevation": optical.SUN_ELEVATION_DEG,
    }
    item = _item(name, box, date, properties, ("eo", "proj", "raster"), OPTICAL_COLLECTION)
    common = dict(zip(OPTICAL_BANDS, ("blue", "green", "red", "nir"), strict=True))
    for key, values in zip(OPTICAL_BANDS, image, strict=True):
        path = raster.write(folder / f"{key}.tif", values, box, nodata=0, names=(key,), scale=1 / DN_SCALE, offset=-0.1)
        facts = {"data_type": "uint16", "nodata": 0, "scale": 1 / DN_SCALE, "offset": -0.1, "spatial_resolution": 10}
        _asset(item, key, path, facts, {"name": key, "common_name": common[key]}, box)
    path = raster.write(folder / "SCL.tif", scl20, coarse, nodata=0, names=("SCL",))
    _asset(item, "SCL", path, {"data_type": "uint8", "nodata": 0, "spatial_resolution": 20}, None, coarse)
    return item


def _blocks(values: NDArray[np.uint8], reduce: Any) -> NDArray[np.uint8]:
    """Reduce blocks of 2 x 2 pixels; the last odd row and column are repeated."""
    height, width = values.shape
    even = np.pad(values, ((0, height % 2), (0, width % 2)), mode="edge")
    blocks = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2)
    reduced: NDArray[np.uint8] = reduce(blocks, axis=(1, 3))
    return reduced


def _seen_from_orbit(grid: GeoBox, size_px: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Ground positions of radar pixels in metres from the scene's corner (y, x), and which the swath covers."""
    columns, rows = geometry.radar_positions(grid, size_px, seed)
    x, y = (columns + 0.5) * geometry.OPTICAL_M, (rows + 0.5) * geometry.OPTICAL_M
    look = np.deg2rad(radar.LOOK_AZIMUTH_DEG)
    ground_range = x * np.sin(look) - y * np.cos(look)
    side = size_px * geometry.OPTICAL_M
    # The near edge of the swath cuts off the scene's lower right corner.
    return np.stack([y, x]), ground_range > 0.94 * side * np.sin(look) - side * np.cos(look)


def _sampled(ground: FloatArray, positions: NDArray[np.float64], margin_m: float, blur_m: float) -> FloatArray:
    """Read a master layer, blurred to the sensor's resolution, at positions in metres; NaN outside."""
    blurred = ndimage.gaussian_filter(ground, blur_m / MASTER_M)
    where = (positions + margin_m) / MASTER_M - 0.5
    return np.asarray(ndimage.map_coordinates(blurred, where, order=1, mode="constant", cval=np.nan), dtype=np.float32)


def _radar_scene(
    out: Path,
    land: Landscape,
    box: GeoBox,
    grid: GeoBox,
    seen: tuple[NDArray[np.float64], NDArray[np.bool_]],
    optical_date: datetime,
    number: int,
    seed: int,
    looks: float,
) -> pystac.Item:
    date = optical_date + RADAR_DELAY
    rng = np.random.default_rng([seed, 5])
    power = radar.gamma0(land, date.timetuple().tm_yday)
    positions, covered = seen
    blur_m = 0.45 * geometry.RADAR_M
    name = f"{RADAR_COLLECTION}-{date:%Y%m%d}"
    folder = out / RADAR_COLLECTION / name
    properties = {
        "platform": "sample-radar",
        "sat:orbit_state": "descending",
        "sat:relative_orbit": 168,
        "sar:instrument_mode": "IW",
        "sar:frequency_band": "C",
        "sar:polarizations": list(RADAR_BANDS),
        "sar:product_type": "RTC",
        "sar:looks_equivalent_number": looks,
    }
    item = _item(name, grid, date, properties, ("proj", "raster", "sar", "sat"), RADAR_COLLECTION)
    for band, ground in zip(RADAR_BANDS, power, strict=True):
        values = _sampled(ground, positions, land.margin_m, blur_m)
        values *= radar.speckle(values.shape, looks, rng)
        values[~covered] = np.nan
        path = raster.write(folder / f"{band}.tif", values, grid, nodata=float("nan"), names=(band,), unit="1")
        facts = {"data_type": "float32", "nodata": "nan", "unit": "1", "spatial_resolution": geometry.RADAR_M}
        _asset(item, band, path, facts, {"name": band}, grid)

    centres = (np.arange(box.shape[0]) + 0.5) * geometry.OPTICAL_M
    straight = np.stack(np.meshgrid(centres, centres, indexing="ij"))
    clean = np.stack([_sampled(ground, straight, land.margin_m, blur_m) for ground in power])
    truth = np.concatenate([clean, clean * radar.speckle(clean.shape, looks, rng)])
    names = (*(f"{band} without speckle" for band in RADAR_BANDS), *(f"{band} with speckle" for band in RADAR_BANDS))
    suffix = f"-{number + 1}" if number else ""
    raster.write(out / "truth" / f"target{suffix}.tif", truth, box, nodata=float("nan"), names=names, unit="1")
    return item


def _item(
    name: str, box: GeoBox, date: datetime, properties: dict[str, Any], extensions: tuple[str, ...], collection: str
) -> pystac.Item:
    east, north = geometry.outline(box, "EPSG:4326", per_side=4)
    ring = [[round(float(x), 7), round(float(y), 7)] for x, y in zip(east, north, strict=True)]
    return pystac.Item(
        id=name,
        geometry={"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        bbox=[float(east.min()), float(north.min()), float(east.max()), float(north.max())],
        datetime=date,
        properties={
            **properties,
            "gsd": abs(box.resolution.x),
            "proj:code": str(box.crs),
            "proj:shape": [int(box.shape.y), int(box.shape.x)],
            "proj:transform": [float(value) for value in box.affine[:6]],
        },
        stac_extensions=[_EXTENSIONS[key] for key in extensions],
        collection=collection,
    )


def _asset(
    item: pystac.Item, key: str, path: Path, facts: dict[str, Any], band: dict[str, str] | None, box: GeoBox
) -> None:
    extra: dict[str, Any] = {
        "raster:bands": [facts],
        "proj:shape": [int(box.shape.y), int(box.shape.x)],
        "proj:transform": [float(value) for value in box.affine[:6]],
    }
    if band is not None and "common_name" in band:
        extra["eo:bands"] = [band]
    item.add_asset(
        key,
        pystac.Asset(
            str(path.resolve()), title=key, media_type=pystac.MediaType.COG, roles=["data"], extra_fields=extra
        ),
    )


def _write_catalogue(
    out: Path, recipe: dict[str, Any], optical_items: list[pystac.Item], radar_items: list[pystac.Item]
) -> Path:
    catalogue = pystac.Catalog(
        "rsgeo-gan-sample",
        "Synthetic optical and radar scenes of an invented valley; no real place looks like this.",
        extra_fields={"rsgeo:sample": recipe},
    )
    for name, items, what in (
        (OPTICAL_COLLECTION, optical_items, "Optical surface reflectance, Sentinel-2 L2A-like, simulated."),
        (RADAR_COLLECTION, radar_items, "Radar γ⁰ in linear power, Sentinel-1 RTC-like, simulated."),
    ):
        boxes = [item.bbox for item in items if item.bbox]
        dates = [item.datetime for item in items if item.datetime]
        extent = pystac.Extent(pystac.SpatialExtent([boxes[0]]), pystac.TemporalExtent([[min(dates), max(dates)]]))
        collection = pystac.Collection(name, what, extent, license="CC0-1.0")
        collection.add_items(items)
        catalogue.add_child(collection)
    catalogue.normalize_hrefs(str(out.resolve()))
    catalogue.make_all_asset_hrefs_relative()
    catalogue.save(pystac.CatalogType.SELF_CONTAINED)
    log.info("Sample scenes written to %s: %d optical, %d radar", out, len(optical_items), len(radar_items))
    return out / "catalog.json"
