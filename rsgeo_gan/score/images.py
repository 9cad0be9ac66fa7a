"""Any folder of rasters as a set of equal tiles in analysis units, with what is known of bands, units and classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pystac
import rasterio
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from rsgeo_gan import raster
from rsgeo_gan.errors import SourceError
from rsgeo_gan.manifest import Manifest
from rsgeo_gan.progress import Progress, track
from rsgeo_gan.sensors import Sensor, get_sensor

__all__ = ["Folder", "ImageSet", "look", "short_names", "tiles_of"]

_ENDINGS = frozenset(
    {".tif", ".tiff", ".jp2", ".j2k", ".png", ".jpg", ".jpeg", ".webp", ".bmp"}
    | {".vrt", ".img", ".bil", ".bsq", ".bip", ".dat", ".nc", ".hdf", ".ntf"}
)
_IMAGES = ("image", "data")
"""Assets that hold the image of an item, in order of preference."""
_DECLARED = ("dB", "reflectance", "display")
_METRES_PER_DEGREE = 111_320.0


@dataclass(frozen=True)
class _File:
    """One raster: where it is, its class, its size and the bands that are read."""

    path: Path
    label: str
    height: int
    width: int
    bands: tuple[int, ...]


@dataclass(frozen=True)
class Folder:
    """What a folder holds, before any pixel is read.

    Attributes:
        path: The folder.
        files: Its rasters, in order of their paths.
        bands: Band names.
        unit: Analysis unit: dB, reflectance, display, or "value" where nothing says.
        steps: Distance of neighbouring values per band, analysis units; 0 for floating point.
        gsd_m: Pixel size of the first georeferenced raster, metres, or None.
        sensor: What the caller said about the values, or None.
    """

    path: Path
    files: tuple[_File, ...]
    bands: tuple[str, ...]
    unit: str
    steps: tuple[float, ...]
    gsd_m: float | None
    sensor: Sensor | None

    @property
    def smallest_px(self) -> int:
        """Smallest side of any raster."""
        return min(min(file.height, file.width) for file in self.files)


@dataclass
class ImageSet:
    """Equal tiles of one folder.

    Attributes:
        name: Short name, for tables.
        folder: Where they come from.
        images: float32, shape (N, C, T, T), analysis units, NaN where invalid.
        labels: Class of each, "" where none is known.
        notes: What a reader of the scores has to know.
    """

    name: str
    folder: Folder
    images: np.ndarray
    labels: tuple[str, ...]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    def taken(self, rows: np.ndarray) -> ImageSet:
        """Return some of the tiles."""
        labels = tuple(self.labels[i] for i in rows.tolist())
        return ImageSet(self.name, self.folder, self.images[rows], labels, self.notes)


def look(
    path: Path,
    *,
    bands: Sequence[int] | None = None,
    sensor: str | Sensor | None = None,
    asset: str | None = None,
    split: str | None = None,
    classes: Sequence[str] | None = None,
) -> Folder:
    """List the rasters of a folder and check that they belong together.

    With a STAC item collection in it (or one folder below), its items are the rasters, with their `rsgeo:label`. Else
    all rasters below the folder count, and the first folder level is the class when there are several.

    Args:
        path: Folder, or a single raster.
        bands: Bands to use, counted from 1; all but an alpha band when None.
        sensor: What the values are where the files do not declare their unit; None takes them as they are, with the
            scale and offset of the file.
        asset: Asset of the items that holds the image.
        split: Only items with this `rsgeo:split`.
        classes: Only these classes.

    Returns:
        The folder's facts.

    Raises:
        SourceError: If there is no raster, one cannot be read, or band counts are mixed.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f"There is no folder {path}. Check the path on the command line.")
    listed = _listed(path, asset, split)
    if len({label for _, label in listed}) < 2:
        listed = [(file, "") for file, _ in listed]
    if classes is not None:
        known = sorted({label for _, label in listed if label})
        listed = [(file, label) for file, label in listed if label in classes]
        if not listed:
            raise SourceError(
                f"Folder {path}: expected rasters of the classes {', '.join(classes)}, got "
                f"{'the classes ' + ', '.join(known) if known else 'no classes (no sub-folders, no rsgeo:label)'}."
            )
    facts = get_sensor(sensor) if sensor is not None else None
    files: list[_File] = []
    names: tuple[str, ...] = ()
    unit, gsd = "", None
    steps: tuple[float, ...] = ()
    for file, label in listed:
        with raster.opened(file) as dataset:
            if not dataset.count:
                raise SourceError(
                    f"{file} holds no bands of its own, only {len(dataset.subdatasets)} subdatasets: expected a raster."
                    " Write the variable to be judged as a GeoTIFF (gdal_translate)."
                )
            chosen = _chosen(dataset, bands)
            if any("complex" in dataset.dtypes[i - 1] or "cint" in dataset.dtypes[i - 1] for i in chosen):
                raise SourceError(
                    f"{file} holds complex values: expected real ones. Take intensity (|z|²) first, and name a sensor "
                    "with unit linear."
                )
            if not files:
                names = _names(dataset, chosen, facts)
                unit = _unit(dataset, facts)
                steps = _steps(dataset, chosen, facts)
            elif _unit(dataset, facts) != unit:
                raise SourceError(
                    f"Folder {path}: expected one unit, got {unit} in {files[0].path.name} and "
                    f"{_unit(dataset, facts)} in {file.name}; sort them into folders of their own."
                )
            gsd = gsd if gsd is not None else _gsd_m(dataset)
            files.append(_File(file, label, dataset.height, dataset.width, chosen))
    counts = {len(file.bands): file.path for file in files}
    if len(counts) > 1:
        told = " and ".join(f"{count} ({file.name})" for count, file in sorted(counts.items()))
        raise SourceError(
            f"Folder {path}: expected rasters with the same number of bands, got {told}; choose bands that all have "
            "(--bands), or sort them into folders of their own."
        )
    return Folder(path, tuple(files), names, unit, steps, gsd, facts)


def tiles_of(
    folder: Folder,
    name: str,
    tile_px: int,
    *,
    most: int,
    min_valid: float,
    seed: int,
    progress: Progress,
) -> ImageSet:
    """Cut a folder's rasters into tiles without overlap and read them.

    Args:
        folder: What `look` found.
        name: Short name, for tables and progress.
        tile_px: Side of a tile, pixels; rasters that are smaller are left out, remainders at the edges too.
        most: Number of tiles from which on a seeded choice is read.
        min_valid: Share of valid pixels that a tile needs.
        seed: Of the choice.
        progress: Receives finished rasters.

    Returns:
        The tiles, in order of file and place.

    Raises:
        SourceError: If a raster cannot be read, or its values contradict the sensor.
    """
    places = [
        (number, row, column)
        for number, file in enumerate(folder.files)
        for row in range(0, file.height - tile_px + 1, tile_px)
        for column in range(0, file.width - tile_px + 1, tile_px)
    ]
    rng = np.random.default_rng(seed)
    if len(places) > most:
        places = [places[i] for i in np.sort(rng.choice(len(places), most, replace=False))]
    by_file: dict[int, list[tuple[int, int]]] = {}
    for number, row, column in places:
        by_file.setdefault(number, []).append((row, column))
    images, labels, dropped = [], [], 0
    for number in track(list(by_file), f"read {name}", progress):
        file = folder.files[number]
        with raster.opened(file.path) as dataset:
            for row, column in by_file[number]:
                window = Window(column, row, tile_px, tile_px)
                raw, valid = raster.read(dataset, bands=file.bands, window=window)
                tile = _analysis(dataset, folder, file, raw, valid)
                if np.isfinite(tile).all(axis=0).mean() < max(min_valid, 1e-9):
                    dropped += 1
                    continue
                images.append(tile)
                labels.append(file.label)
    small = sum(min(file.height, file.width) < tile_px for file in folder.files)
    notes = []
    if dropped:
        notes.append(f"{name}: {dropped} tiles left out, less than {100 * min_valid:.0f} % valid pixels")
    if small:
        notes.append(f"{name}: {small} rasters left out, smaller than {tile_px} px")
    stack = np.stack(images) if images else np.zeros((0, len(folder.bands), tile_px, tile_px), np.float32)
    return ImageSet(name, folder, stack, tuple(labels), notes)


def _listed(path: Path, asset: str | None, split: str | None) -> list[tuple[Path, str]]:
    """Rasters and their classes."""
    if path.is_file():
        return [(path, "")]
    items = _items(path)
    if items:
        kept = [item for item in items if split is None or item.properties.get("rsgeo:split") == split]
        if not kept:
            known = sorted({str(item.properties.get("rsgeo:split", "none")) for item in items})
            raise SourceError(f"Folder {path}: expected items of the split {split!r}, got {', '.join(known)} only.")
        return [(Path(_image(item, asset, path)), str(item.properties.get("rsgeo:label", ""))) for item in kept]
    if asset is not None or split is not None:
        raise SourceError(
            f"Folder {path}: an asset or a split was asked for, but there is no STAC item collection in it; leave "
            "them out for plain folders."
        )
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in _ENDINGS
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not found:
        raise SourceError(
            f"Folder {path} holds no raster: expected files such as .tif, .jp2 or .png, got "
            f"{sum(1 for _ in path.rglob('*'))} other entries. Give the folder that holds the images."
        )
    return [(file, parts[0] if len(parts := file.relative_to(path).parts) > 1 else "") for file in found]


def _items(path: Path) -> list[pystac.Item]:
    """Items of the first item collection in the folder or one below."""
    for candidate in sorted([*path.glob("*.json"), *path.glob("*/*.json")], key=lambda file: len(file.parts)):
        try:
            found = Manifest.read(candidate).items
        except SourceError:
            continue
        if any(item.assets for item in found):
            return found
    return []


def _image(item: pystac.Item, asset: str | None, path: Path) -> str:
    keys = [asset] if asset is not None else [key for key in _IMAGES if key in item.assets]
    if not keys:
        keys = [key for key, one in item.assets.items() if Path(one.href).suffix.lower() in _ENDINGS]
        keys = keys if len(keys) == 1 else []
    if not keys or keys[0] not in item.assets:
        raise SourceError(
            f"Folder {path}, item {item.id}: expected an image in the asset "
            f"{asset or ' or '.join(_IMAGES)}, got {', '.join(item.assets) or 'none'}; name the asset (--asset)."
        )
    return str(item.assets[keys[0]].href)


def _chosen(dataset: rasterio.DatasetReader, bands: Sequence[int] | None) -> tuple[int, ...]:
    """Bands to read, counted from 1; without an alpha band, which is a mask."""
    if bands is None:
        return tuple(i for i in range(1, dataset.count + 1) if dataset.colorinterp[i - 1] != ColorInterp.alpha)
    if not bands or min(bands) < 1 or max(bands) > dataset.count:
        raise SourceError(
            f"{dataset.name}: expected bands 1 to {dataset.count}, got {', '.join(map(str, bands))}; correct --bands."
        )
    return tuple(bands)


def _names(dataset: rasterio.DatasetReader, chosen: Sequence[int], sensor: Sensor | None) -> tuple[str, ...]:
    named = [dataset.descriptions[i - 1] or "" for i in chosen]
    if all(named) and len(set(named)) == len(named):
        return tuple(named)
    if sensor is not None and len(sensor.bands) == dataset.count:
        return tuple(sensor.band_names[i - 1] for i in chosen)
    colours = [dataset.colorinterp[i - 1].name for i in chosen]
    if colours == ["red", "green", "blue"]:
        return tuple(colours)
    return tuple(f"band {i}" for i in chosen)


def _unit(dataset: rasterio.DatasetReader, sensor: Sensor | None) -> str:
    declared = (dataset.units[0] or "") if dataset.units else ""
    if declared in _DECLARED:
        return declared
    if sensor is not None:
        return sensor.analysis_unit
    return "display" if dataset.dtypes[0] == "uint8" and set(dataset.scales) == {1.0} else "value"


def _converts(dataset: rasterio.DatasetReader, sensor: Sensor | None) -> bool:
    """Whether the sensor, and not the file, says what the values are."""
    return sensor is not None and ((dataset.units[0] or "") if dataset.units else "") not in _DECLARED


def _scaling(
    dataset: rasterio.DatasetReader, chosen: Sequence[int], sensor: Sensor | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset per band: the file's, or the sensor's where the file has none."""
    scales, offsets = (np.asarray([part[i - 1] for i in chosen]) for part in (dataset.scales, dataset.offsets))
    if _converts(dataset, sensor) and sensor is not None and (scales == 1).all() and (offsets == 0).all():
        return np.full(len(chosen), sensor.scale), np.full(len(chosen), sensor.offset)
    return scales, offsets


def _steps(dataset: rasterio.DatasetReader, chosen: Sequence[int], sensor: Sensor | None) -> tuple[float, ...]:
    radar = _converts(dataset, sensor) and sensor is not None and sensor.analysis_unit == "dB"
    if radar or not all(np.issubdtype(np.dtype(dataset.dtypes[i - 1]), np.integer) for i in chosen):
        return (0.0,) * len(chosen)
    return tuple(float(abs(scale)) for scale in _scaling(dataset, chosen, sensor)[0])


def _analysis(
    dataset: rasterio.DatasetReader, folder: Folder, file: _File, raw: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Values in analysis units, float32, NaN where invalid."""
    sensor = folder.sensor
    values = raw.astype(np.float32)
    if _converts(dataset, sensor) and sensor is not None:
        if dataset.nodata is None and sensor.nodata is not None and not math.isnan(sensor.nodata):
            # Of a file that declares nothing, one dark band is not taken for a missing pixel.
            valid = valid & (raw != sensor.nodata).any(axis=0)
        values[:, ~valid] = np.nan
        sensor.check_units(values, str(file.path))
        if sensor.modality == "sar":
            return sensor.linear_to_analysis(sensor.to_linear(values))
    values[:, ~valid] = np.nan
    scale, offset = (part.astype(np.float32)[:, None, None] for part in _scaling(dataset, file.bands, sensor))
    scaled: np.ndarray = values * scale + offset
    return scaled


def _gsd_m(dataset: rasterio.DatasetReader) -> float | None:
    """Pixel size on the ground, metres, roughly; None without a georeference."""
    if dataset.crs is None or dataset.transform.is_identity or dataset.transform.determinant == 0:
        return None
    side = math.sqrt(abs(dataset.transform.determinant))
    if dataset.crs.is_projected:
        return float(side * dataset.crs.linear_units_factor[1])
    middle = (dataset.transform * (dataset.width / 2, dataset.height / 2))[1]
    return float(side * _METRES_PER_DEGREE * math.sqrt(max(math.cos(math.radians(min(abs(middle), 89.0))), 1e-3)))


def short_names(paths: Iterable[Path]) -> list[str]:
    """Return the shortest ends of paths that tell them apart."""
    resolved = [path.resolve().parts for path in paths]
    for length in range(1, max(len(parts) for parts in resolved) + 1):
        names = ["/".join(parts[-length:]) for parts in resolved]
        if len(set(names)) == len(names):
            return names
    repeated = Counter(names)
    return [f"{name} ({number})" if repeated[name] > 1 else name for number, name in enumerate(names, start=1)]
