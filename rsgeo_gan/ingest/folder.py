"""Scenes in a folder: one per raster, or one per group of single-band rasters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rsgeo_gan import raster
from rsgeo_gan.catalog import FolderSide
from rsgeo_gan.catalog.guess import match_bands
from rsgeo_gan.errors import SourceError
from rsgeo_gan.ingest.checks import Declined
from rsgeo_gan.ingest.scene import Scene

__all__ = ["Found", "scenes", "told_date"]

_DATES = (
    (re.compile(r"(?<!\d)(\d{8}T\d{6})(?!\d)"), "%Y%m%dT%H%M%S"),
    (re.compile(r"(?<!\d)(\d{4}-\d{2}-\d{2})(?!\d)"), "%Y-%m-%d"),
    (re.compile(r"(?<!\d)((?:19|20)\d{6})(?!\d)"), "%Y%m%d"),
)


@dataclass
class Found:
    """Files of one scene.

    Attributes:
        id: Identifier, safe to be a file name unless the group `scene` is not.
        files: By band; "" for a file that holds all.
        dated: Text of the regex group `datetime`.
    """

    id: str
    files: dict[str, Path] = field(default_factory=dict)
    dated: str = ""

    def scene(self, side: FolderSide) -> Scene:
        """Describe the scene; reads tags when the date is not given.

        Raises:
            SourceError: If a file cannot be read, or no date is found.
        """
        paths = list(self.files.values())
        bands, classes = {}, None
        for name, path in self.files.items():
            known = match_bands(side.instrument, [name])[0]
            if side.class_asset is not None and name.lower() == side.class_asset.lower():
                classes = str(path)
            elif known is not None:
                bands[known] = str(path)
        if side.class_asset is not None and classes is None:
            raise Declined(
                "bands",
                f"Scene {self.id}: expected a class raster {side.class_asset} beside its bands, got none; "
                "correct `class_asset` or `name_regex` in the catalogue, or drop the scene.",
            )
        whole = str(self.files[""]) if "" in self.files else None
        stats = [path.stat() for path in paths]
        return Scene(
            id=self.id,
            when=self._when(side, Path(whole or next(iter(bands.values()), paths[0]))),
            files=bands,
            whole=whole,
            band_names=side.file_bands if whole else (),
            classes=classes,
            identity=tuple(
                (path.name, stat.st_size, stat.st_mtime_ns) for path, stat in zip(paths, stats, strict=True)
            ),
        )

    def _when(self, side: FolderSide, path: Path) -> datetime:
        if side.datetime is not None:
            return side.datetime
        if self.dated:
            return _parsed(self.dated, side.datetime_format, f"Scene {self.id}")
        found = told_date(path, self.id, tag=side.datetime_tag)
        if found is not None:
            return found
        if side.default_datetime is not None:
            return side.default_datetime
        raise Declined(
            "no date",
            f"Scene {self.id} has no time of acquisition: expected a tag {side.datetime_tag!r} or a date in the name, "
            f"got neither in {path}; give `datetime`, `default_datetime` or a regex group in the catalogue.",
        )


def told_date(path: Path, name: str = "", *, tag: str = "datetime") -> datetime | None:
    """Return the time of acquisition that a raster's tags, its name or its folder's name tell; None where none does.

    Args:
        path: The raster.
        name: Another name it goes by.
        tag: Its first tag to look at.

    Raises:
        Declined: If a tag holds no date.
        SourceError: If the raster cannot be read.
    """
    with raster.opened(path) as dataset:
        tags = {key.lower(): value for key, value in dataset.tags().items()}
    for key in (tag, "datetime", "acquisitiondatetime", "tifftag_datetime"):
        if tags.get(key.lower()):
            return _parsed(tags[key.lower()], None, f"Scene {name or path.stem}, tag {key}")
    for pattern, form in _DATES:
        for text in (name, path.name, str(path.parent.name)):
            match = pattern.search(text)
            if match:
                try:
                    return datetime.strptime(match.group(1), form).replace(tzinfo=UTC)
                except ValueError:
                    continue
    return None


def _parsed(text: str, form: str | None, where: str) -> datetime:
    """Read a date as given by a tag or a name."""
    forms = [form] if form else ["%Y%m%dT%H%M%S", "%Y%m%d", "%Y:%m:%d %H:%M:%S"]
    for candidate in forms:
        try:
            return datetime.strptime(text.strip(), candidate).replace(tzinfo=UTC)
        except ValueError:
            continue
    if form is None:
        try:
            moment = datetime.fromisoformat(text.strip())
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except ValueError:
            pass
    raise Declined(
        "no date",
        f"{where}: expected a date {'as ' + form if form else 'as ISO 8601 or YYYYMMDD[THHMMSS]'}, got {text!r}; "
        "give `datetime_format` or `datetime` in the catalogue.",
    )


def scenes(side: FolderSide) -> list[Found]:
    """List the scenes of a folder side, in order of their names.

    Args:
        side: The side.

    Returns:
        What was found; nothing is opened yet.

    Raises:
        SourceError: If the folder is missing or holds no matching raster.
    """
    root = side.path
    if root.is_file():
        return [Found(_plain(root.stem), {"": root})]
    if not root.is_dir():
        raise SourceError(f"There is no folder or file {root}. Correct `path` in the catalogue.")
    paths = sorted(path for path in root.glob(side.glob) if path.is_file() and not path.name.startswith("."))
    found = _grouped(paths, root, side) if side.name_regex else _single(paths, root)
    if not found:
        also = f" that `name_regex` {side.name_regex!r} matches" if paths and side.name_regex else ""
        raise SourceError(
            f"Folder {root}: expected rasters matching {side.glob!r}{also}, got none; "
            "correct `path`, `glob` or `name_regex` in the catalogue."
        )
    return found


def _single(paths: Iterable[Path], root: Path) -> list[Found]:
    """One scene per file, named after its place in the folder."""
    found: dict[str, Found] = {}
    for path in paths:
        name = _plain(str(path.relative_to(root).with_suffix("")))
        if name in found:
            name = f"{name}-{path.suffix.lstrip('.').lower()}"
        while name in found:
            name += "_"
        found[name] = Found(name, {"": path})
    return list(found.values())


def _grouped(paths: Iterable[Path], root: Path, side: FolderSide) -> list[Found]:
    """One scene per value of the group `scene`."""
    pattern = re.compile(side.name_regex or "")
    found: dict[str, Found] = {}
    for path in paths:
        relative = path.relative_to(root).as_posix()
        match = pattern.search(relative)
        if match is None:
            continue
        groups = match.groupdict()
        name = _plain(groups.get("scene") or str(path.relative_to(root).with_suffix("")))
        entry = found.setdefault(name, Found(name))
        entry.files.setdefault(groups.get("band") or "", path)
        entry.dated = entry.dated or groups.get("datetime") or ""
    return list(found.values())


def _plain(name: str) -> str:
    """Turn a relative path into one safe name."""
    plain = re.sub(r"[^A-Za-z0-9._+=-]+", "_", name.replace("/", "__").replace("\\", "__"))
    return re.sub(r"\.{2,}", ".", plain).lstrip("._+=-") or "scene"
