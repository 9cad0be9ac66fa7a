"""Folders of rasters as images: names, classes by sub-folder, lists of splits, bands, times."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, Literal, Self

from pyproj.exceptions import ProjError

from rsgeo_gan import raster
from rsgeo_gan.catalog.collecting import FolderImages, FolderLabels
from rsgeo_gan.catalog.guess import guess_sensor, match_bands
from rsgeo_gan.collect.pictures import NO_DATE, Broken, Picture
from rsgeo_gan.errors import RSGeoGANError, SourceError
from rsgeo_gan.grid import is_local
from rsgeo_gan.ingest.checks import check_sensor, sample
from rsgeo_gan.manifest import make_item
from rsgeo_gan.sensors import Sensor, get_sensor
from rsgeo_gan.splits import RANKS, Split
from rsgeo_gan.stacks import stack
from rsgeo_gan.tiling import side_of

__all__ = ["in_folder"]

_ENDINGS = (
    *(".tif", ".tiff", ".jp2", ".j2k", ".jpg", ".jpeg", ".png", ".img", ".vrt", ".nc", ".webp", ".bmp", ".gif"),
    *(".hdf", ".h5", ".bil", ".bsq", ".bip", ".dat", ".ntf"),
)
_DATE = re.compile(r"(?<!\d)((?:19|20)\d{2})-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?:T\d{6})?(?!\d)")
_LONGEST = 160
"""Characters of an image's id, beyond which they give way to a digest: tiles add their place, and files have limits."""
_DATE_TAGS = ("datetime", "acquisitiondatetime", "tifftag_datetime")


def in_folder(images: FolderImages, labels: object, views: Path) -> Iterator[Picture | Broken]:
    """Find the images of a folder, in the order of their names.

    Args:
        images: The folder.
        labels: What labels them; sub-folders do when it is a `FolderLabels`.
        views: Folder of the VRTs by which one-band files are seen as one image.

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
    if images.name_regex is not None:
        root, paths = views, _grouped(images, paths, views)
    listed = _Lists.read(images, paths)
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
            split = listed.split(path.relative_to(root))
            if images.splits and split is None:
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


def _grouped(images: FolderImages, paths: Sequence[Path], views: Path) -> list[Path]:
    """See the one-band files of each image as one raster, bands in the order of their names or as they are wanted."""
    groups: dict[str, dict[str, Path]] = {}
    for path in paths:
        match = re.search(images.name_regex or "", path.relative_to(images.path).as_posix())
        if match is None or (images.bands and match["band"] not in images.bands):
            continue
        name = _safe(match["scene"])
        if groups.setdefault(name, {}).setdefault(match["band"], path) != path:
            raise SourceError(
                f"{path} and {groups[name][match['band']]} are both band {match['band']} of {name}: expected one file "
                "each. Correct `name_regex` of the images."
            )
    if not groups:
        raise SourceError(
            f"Folder {images.path}: expected files that `name_regex` {images.name_regex!r} fits"
            f"{f', of the bands {", ".join(images.bands)}' if images.bands else ''}, got none of {len(paths)}, such as "
            f"{paths[0].name}. Correct it."
        )
    made = []
    for name, files in sorted(groups.items()):
        order = [band for band in images.bands if band in files] or sorted(files)
        made.append(stack([files[band] for band in order], views / f"{name}.vrt", order))
    return made


def _safe(text: str) -> str:
    return re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._+=-]+", "_", text)).lstrip("._+=-") or "image"


def _is_image(path: PurePath) -> bool:
    return path.suffix.lower() in _ENDINGS


def _named(paths: Sequence[Path], root: Path) -> list[tuple[str, Path]]:
    """Ids that are safe as file names and unique."""
    found: dict[str, Path] = {}
    for path in paths:
        relative = path.relative_to(root).with_suffix("").as_posix().replace("/", "__")
        name = _safe(relative)
        if len(name) > _LONGEST:
            name = f"{name[:_LONGEST]}-{hashlib.sha256(relative.encode()).hexdigest()[:12]}"
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


class _Lists:
    """Which split the lists of a folder put an image into.

    A line names an image by its path, from any folder above it, endings aside: as much of both paths as there is has
    to agree. An image that no line names so goes by its file name, where only one image and one split have it.
    """

    def __init__(self, lines: Mapping[str, Split], alone: Set[str]) -> None:
        self._alone = alone
        self._ends: dict[str, set[Split]] = {}
        self._lines = lines
        self._names: dict[str, set[Split]] = {}
        for line, split in lines.items():
            for end in _ends(line):
                self._ends.setdefault(end, set()).add(split)
            self._names.setdefault(line.rpartition("/")[2], set()).add(split)

    @classmethod
    def read(cls, images: FolderImages, paths: Sequence[Path]) -> Self:
        """Read the lists of a description, for the images that there are.

        Raises:
            SourceError: If a list cannot be read, or two name the same image.
        """
        found: dict[str, Split] = {}
        for split in RANKS:
            if split not in images.splits:
                continue
            path = images.splits[split]
            try:
                lines = path.read_text(encoding="utf-8").splitlines()
            except OSError as error:
                raise SourceError(
                    f"The list of the split {split} cannot be read from {path}: {error.strerror}."
                ) from error
            for line in filter(None, map(str.strip, lines)):
                named = PurePosixPath(line)
                name = _bare(named) if _is_image(named) else str(named)
                if found.setdefault(name, split) != split:
                    raise SourceError(f"{path}: {name} is in the split {found[name]} as well; expected one split each.")
        counts = Counter(path.stem for path in paths)
        return cls(found, {name for name, count in counts.items() if count == 1})

    def split(self, path: Path) -> Split | None:
        """Return the split of an image, given by its path in the folder; None where no list has it.

        Raises:
            SourceError: If lists of several splits fit it.
        """
        own = _bare(PurePosixPath(path.as_posix()))
        known = [{self._lines[end]} for end in _ends(own) if end in self._lines]
        name = own.rpartition("/")[2]
        by_name = self._names.get(name) if name in self._alone else None
        found = known[0] if known else self._ends.get(own) or by_name or set()
        if len(found) > 1:
            raise _Different(
                f"{path} fits lines of the splits {' and '.join(sorted(found))}; expected one split each. Name images "
                "of equal file names by their folders in the lists."
            )
        return next(iter(found), None)


def _bare(path: PurePosixPath) -> str:
    return str(path.with_suffix("")) if path.name else ""


def _ends(path: str) -> Iterator[str]:
    """Yield a path and its ends, the longest first."""
    parts = path.split("/")
    return ("/".join(parts[k:]) for k in range(len(parts)))


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
    in_all = not (sensor.modality == "sar" and sensor.physical)
    values, valid = sample(path, info, indexes, missing, in_all=in_all)
    check_sensor(values, valid, sensor, str(path), images.offset_dn)
    when = _when(path, info, images)
    properties = {
        "rsgeo:sensor": spec,
        "rsgeo:bands": list(bands),
        "rsgeo:band_indexes": list(indexes),
        "rsgeo:offset_dn": images.offset_dn,
    }
    item = make_item(name, info.geobox, when=when or NO_DATE, properties=properties, assets={"data": path.resolve()})
    how: Literal["scene", "bare"] = "bare" if is_local(info.geobox) else "scene"
    return Picture(side_of(item), info.dtype, info.nodata, when is not None, label, split, in_all=in_all, how=how)


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
