"""The images that tiles are cut from: what each is, where it lies, how a part of it is read."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError
from rasterio.windows import Window

from rsgeo_gan import raster
from rsgeo_gan.catalog.collecting import FolderImages, FolderLabels, SceneImages, TileImages
from rsgeo_gan.catalog.guess import guess_sensor, match_bands
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import RSGeoGANError, SourceError
from rsgeo_gan.grid import is_local
from rsgeo_gan.ingest.checks import check_sensor, sample
from rsgeo_gan.labelled import LABEL
from rsgeo_gan.manifest import Manifest, asset_path, item_box, make_item, safe_name
from rsgeo_gan.sensors import Sensor, get_sensor
from rsgeo_gan.splits import RANKS, Split
from rsgeo_gan.tiling import Side, side_of

__all__ = ["Broken", "Picture", "in_folder", "in_tiles", "of_scenes"]

_ENDINGS = (
    *(".tif", ".tiff", ".jp2", ".j2k", ".jpg", ".jpeg", ".png", ".img", ".vrt", ".nc", ".webp", ".bmp", ".gif"),
    *(".hdf", ".h5", ".bil", ".bsq", ".bip", ".dat", ".ntf"),
)
_DATE = re.compile(r"(?<!\d)((?:19|20)\d{2})-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?:T\d{6})?(?!\d)")
_DATE_TAGS = ("datetime", "acquisitiondatetime", "tifftag_datetime")
_NO_DATE = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Picture:
    """One image that tiles are cut from.

    Attributes:
        side: How it is read, as a side of a pair that is not displaced.
        dtype: Data type of the file.
        nodata: Nodata of the file.
        dated: Whether the time of the item is known; it is a placeholder otherwise.
        label: Its class; None when it has none, or each tile its own.
        split: Its split; None when it is still to be given one.
        area: Left, top, width and height of the part that tiles are cut from, pixels; all when None.
        how: Whether it is read as a "scene" with its masks, as a "bare" file without a CRS, or as numbers "stored" in
            tiles, which stay as they are.
    """

    side: Side
    dtype: str
    nodata: float | None
    dated: bool = True
    label: str | None = None
    split: Split | None = None
    area: tuple[int, int, int, int] | None = None
    how: Literal["scene", "bare", "stored"] = "scene"

    @property
    def id(self) -> str:
        """Id of the image."""
        return self.side.item.id

    @property
    def box(self) -> GeoBox:
        """Where it lies."""
        return item_box(self.side.item)

    @property
    def placed(self) -> bool:
        """Whether its place on the earth is known."""
        return not is_local(self.box)

    def windows(self, side_px: int) -> Iterator[Window]:
        """Yield the windows of tiles, line by line; what is left at the right and lower edges belongs to none."""
        height, width = self.box.shape
        left, top, wide, high = self.area or (0, 0, width, height)
        for row in range(top, top + high - side_px + 1, side_px):
            for col in range(left, left + wide - side_px + 1, side_px):
                yield Window(col, row, side_px, side_px)

    def read(self, window: Window) -> np.ndarray:
        """Read a window without resampling.

        Args:
            window: Within the image.

        Returns:
            float32 of shape (C, H, W), NaN where invalid, in the units of `Side.read`.

        Raises:
            SourceError: If the file cannot be read.
        """
        if self.how == "scene":
            return self.side.read(self.part(window))
        raw, valid = raster.read(self.side.path, bands=self.side.bands, window=window)
        sensor = self.side.sensor
        if sensor.nodata is not None and not math.isnan(sensor.nodata):
            valid &= (raw != np.asarray(sensor.nodata).astype(raw.dtype)).all(axis=0)
        values = np.where(valid, raw, np.nan).astype(np.float32)
        return values if self.how == "stored" else sensor.linear_to_analysis(sensor.to_linear(values))

    def part(self, window: Window) -> GeoBox:
        """Return where a window lies."""
        box = self.box
        shift = type(box.affine).translation(window.col_off, window.row_off)
        return GeoBox((int(window.height), int(window.width)), box.affine * shift, box.crs)

    def key(self) -> str:
        """Return a digest of everything that the pixels and the class of its tiles depend on."""
        facts = [self.side.key(), self.label]
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Broken:
    """An image that cannot be used.

    Attributes:
        id: Its id.
        code: Reason in one or two words.
        reason: Reason in a sentence.
    """

    id: str
    code: str
    reason: str


def in_folder(images: FolderImages, labels: object) -> Iterator[Picture | Broken]:
    """Find the images of a folder, in the order of their names.

    Args:
        images: The folder.
        labels: What labels them; sub-folders do when it is a `FolderLabels`.

    Yields:
        Images, and what cannot be used.

    Raises:
        SourceError: If there is no image, none can be told its sensor, images differ in their bands, or there are
            sub-folders for no image.
    """
    root = images.path
    if not root.is_dir():
        raise SourceError(f"There is no folder {root}. Correct `path` of the images.")
    every = sorted(path for path in root.glob(images.glob) if path.is_file() and not path.name.startswith("."))
    paths = [path for path in every if images.glob != FolderImages.model_fields["glob"].default or _is_image(path)]
    if not paths:
        raise SourceError(
            f"Folder {root}: expected rasters matching {images.glob!r}, got none; correct `path` or `glob`."
        )
    by_class = isinstance(labels, FolderLabels)
    if by_class and not any(len(path.relative_to(root).parts) > 1 for path in paths):
        raise SourceError(
            f"Folder {root}: expected a sub-folder for each class, got {len(paths)} images and no sub-folder; sort the "
            "images into folders, label them otherwise, or leave `labels` out."
        )
    listed = _listed(images)
    first: tuple[Path, raster.RasterInfo] | None = None
    spec = images.sensor
    for name, path in _named(paths, root):
        try:
            info = raster.inspect(path, local_px=images.gsd_m)
            if first is None:
                first, spec = (path, info), spec if spec is not None else guess_sensor(info)
            _same_bands(first, path, info)
            label = _label(path, root) if by_class else None
            if by_class and label is None:
                yield Broken(name, "no class", f"{path} lies in no sub-folder of {root}, so it has no class.")
                continue
            split = _split(path, listed)
            if listed and split is None:
                yield Broken(name, "no split", f"{path.name} is in none of the lists in `splits`.")
                continue
            yield _picture(name, path, info, images, spec, label, split)
        except _Different:
            raise
        except (RSGeoGANError, ProjError) as error:
            code = "no georeference" if "has no CRS" in str(error) and images.gsd_m is None else "unreadable"
            advice = " State `gsd_m` to use images without georeference." if code == "no georeference" else ""
            yield Broken(name, code, f"{error}{advice}")


class _Different(SourceError):
    """Images of one folder do not go together."""


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _ENDINGS


def _named(paths: Sequence[Path], root: Path) -> list[tuple[str, Path]]:
    """Ids that are safe as file names and unique."""
    found: dict[str, Path] = {}
    for path in paths:
        relative = path.relative_to(root).with_suffix("").as_posix().replace("/", "__")
        name = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._+=-]+", "_", relative)).lstrip("._+=-") or "image"
        if name in found:
            name = f"{name}-{path.suffix.lstrip('.').lower()}"
        while name in found:
            name += "_"
        found[name] = path
    return list(found.items())


def _same_bands(first: tuple[Path, raster.RasterInfo], path: Path, info: raster.RasterInfo) -> None:
    before, known = first
    if (info.count, info.dtype) != (known.count, known.dtype):
        raise _Different(
            f"{path} has {info.count} bands of {info.dtype}; expected {known.count} of {known.dtype} as in {before}. "
            "Collect each kind of image in its own folder, or choose one with `glob`."
        )


def _label(path: Path, root: Path) -> str | None:
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else None


def _listed(images: FolderImages) -> dict[str, Split]:
    found: dict[str, Split] = {}
    for split in RANKS:
        if split not in images.splits:
            continue
        path = images.splits[split]
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise SourceError(f"The list of the split {split} cannot be read from {path}: {error.strerror}.") from error
        for line in filter(None, map(str.strip, lines)):
            name = Path(line).stem
            if found.setdefault(name, split) != split:
                raise SourceError(f"{path}: {name} is in the split {found[name]} as well; expected one split each.")
    return found


def _split(path: Path, listed: dict[str, Split]) -> Split | None:
    return listed.get(path.stem)


def _picture(
    name: str,
    path: Path,
    info: raster.RasterInfo,
    images: FolderImages,
    spec: str | dict[str, Any] | None,
    label: str | None,
    split: Split | None,
) -> Picture:
    if spec is None:
        raise _Different(
            f"{path}: expected band names, units or a data type that tell the sensor, got {info.count} bands of "
            f"{info.dtype}. State `sensor` of the images, by name or by its facts."
        )
    sensor = get_sensor(spec)
    bands, indexes = _bands(sensor, info, images)
    sensor = sensor.select(bands)
    missing = sensor.nodata if info.nodata is None else None
    values, valid = sample(path, info, indexes, missing)
    check_sensor(values, valid, sensor, str(path), images.offset_dn)
    when = _when(path, info, images)
    properties = {
        "rsgeo:sensor": spec,
        "rsgeo:bands": list(bands),
        "rsgeo:band_indexes": list(indexes),
        "rsgeo:offset_dn": images.offset_dn,
    }
    item = make_item(name, info.geobox, when=when or _NO_DATE, properties=properties, assets={"data": path.resolve()})
    how: Literal["scene", "bare"] = "bare" if is_local(info.geobox) else "scene"
    return Picture(side_of(item), info.dtype, info.nodata, when is not None, label, split, how=how)


def _bands(sensor: Sensor, info: raster.RasterInfo, images: FolderImages) -> tuple[list[str], list[int]]:
    """Names of the wanted bands, and where they lie in the file, counted from 1."""
    names = images.file_bands or info.names
    order = match_bands(sensor, names)
    if images.file_bands and len(images.file_bands) != info.count:
        raise _Different(
            f"{info.path} has {info.count} bands; expected {len(images.file_bands)} ({', '.join(images.file_bands)}). "
            "Correct `file_bands` of the images."
        )
    if not images.file_bands and not any(order) and info.count == len(sensor.bands):
        order = list(sensor.band_names)
    wanted = sensor.select(images.bands or None).band_names if images.bands else [name for name in order if name]
    absent = [name for name in wanted if name not in order]
    if absent or not wanted:
        raise _Different(
            f"{info.path}: expected the bands {', '.join(wanted or sensor.band_names)} of {sensor.name}, got "
            f"{info.count} bands named {', '.join(name or '-' for name in info.names)}. Name them in file order as "
            "`file_bands` of the images."
        )
    return list(wanted), [order.index(name) + 1 for name in wanted]


def _when(path: Path, info: raster.RasterInfo, images: FolderImages) -> datetime | None:
    tags = {key.lower(): value for key, value in info.tags.items()}
    texts = [images.datetime or "", *(tags.get(key, "") for key in _DATE_TAGS)]
    for text in texts:
        try:
            when = datetime.fromisoformat(text.strip()) if text else None
        except ValueError:
            continue
        if when is not None:
            return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    match = _DATE.search(path.name)
    try:
        return datetime.strptime("".join(match.groups()), "%Y%m%d").replace(tzinfo=UTC) if match else None
    except ValueError:
        return None


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
            when = item.datetime or _NO_DATE
            scene = make_item(item.id, info.geobox, when=when, properties=properties, assets={"data": path})
            sensor = replace(_stored_sensor(spec, info), scale=info.scales[0], offset=info.offsets[0])
            side = Side(scene, sensor, tuple(range(1, info.count + 1)), Displacement.none(info.geobox, reason="tile"))
            usable = found.get("rsgeo:usable")
            area = None if usable is None else tuple(int(value) * zoom for value in usable)
            split: Split = found.get("rsgeo:split", "train")
            dated = bool(found.get("rsgeo:dated", True))
            yield Picture(side, info.dtype, info.nodata, dated, label, split, area, "stored")  # type: ignore[arg-type]
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
