"""The one exchange format between stages: a STAC item collection on disk, written atomically.

In memory asset hrefs are absolute paths or URLs. On disk those below the run's folder (the parent of the
manifest's own folder) are relative, so a run can be moved.
"""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from odc.geo.geobox import GeoBox
from shapely.geometry import mapping

from rsgeo_gan import raster
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.errors import FailedShareError, GridError, ProductError, SourceError
from rsgeo_gan.grid import box_from_dict, box_to_dict, is_local

__all__ = [
    "Dropped",
    "Manifest",
    "asset_path",
    "check_share",
    "check_writable",
    "displacement_of",
    "item_box",
    "make_item",
    "safe_name",
    "write_json",
    "write_text",
]

_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Dropped:
    """Something a stage left out, and why.

    Attributes:
        id: The scene, pair or tile.
        stage: Which stage left it out.
        code: Reason in one or two words, for counting.
        reason: Reason in a sentence, for people.
    """

    id: str
    stage: str
    code: str
    reason: str


def write_text(path: Path, text: str) -> Path:
    """Write a text file under a temporary name, then rename it.

    Args:
        path: Final path; its folder is created.
        text: Content, written as UTF-8.

    Returns:
        The path.

    Raises:
        ProductError: If the folder cannot be written or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise ProductError(_cannot_write(path, error)) from error
    staged = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staged.chmod(0o644)
        staged.replace(path)
    except OSError as error:
        raise ProductError(_cannot_write(path, error)) from error
    finally:
        staged.unlink(missing_ok=True)
    return path


def check_writable(folder: Path) -> None:
    """Make a folder where there is none, and see whether files can be made in it.

    Raises:
        ProductError: If not.
    """
    probe = write_text(folder / ".writable", "")
    try:
        probe.unlink()
    except OSError as error:
        raise ProductError(_cannot_write(folder, error)) from error


def _cannot_write(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"Cannot write {path}: the disk is full. Free some space and start again; finished work is kept."
    return (
        f"Cannot write {path}: {error.strerror or error}. Choose an output folder that exists or can be created "
        "and that you may write to."
    )


def write_json(path: Path, data: Any) -> Path:
    """Write JSON atomically, indented, keys in the given order; see `write_text`."""
    return write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def safe_name(name: str) -> str:
    """Return an id from a catalogue if it can serve as a file name.

    Args:
        name: The id.

    Returns:
        The same id.

    Raises:
        SourceError: If it is empty, too long, or holds anything but letters, digits and `._+=-`, such as a
            path separator.
    """
    if not _SAFE.fullmatch(name) or len(name) > _LONGEST_NAME or ".." in name:
        raise SourceError(
            f"Item id {name[:80]!r} cannot be a file name: expected letters, digits and ._+=- without '..', "
            f"at most {_LONGEST_NAME} characters. Rename the item in its catalogue."
        )
    return name


def make_item(
    item_id: str,
    geobox: GeoBox,
    *,
    when: datetime,
    properties: Mapping[str, Any],
    assets: Mapping[str, Path | str],
    titles: Mapping[str, str] | None = None,
) -> pystac.Item:
    """Build a STAC item for a raster.

    Args:
        item_id: Safe id, see `safe_name`.
        geobox: Box of the raster; gives footprint and `proj:*`.
        when: Time of acquisition; naive times are taken as UTC.
        properties: Further properties, plain JSON types.
        assets: Absolute paths or URLs by asset name.
        titles: Titles of assets, for people.

    Returns:
        The item, not yet in a manifest; without footprint where the box lies at no known place.
    """
    footprint = None if is_local(geobox) else geobox.footprint("EPSG:4326", npoints=16).geom
    described = box_to_dict(geobox)
    where = {"proj:transform": described["transform"], "proj:shape": described["shape"]}
    if described["crs"].startswith("EPSG:"):
        where["proj:code"] = described["crs"]
    else:
        where |= {"proj:code": None, "proj:wkt2": described["crs"]}
    item = pystac.Item(
        id=safe_name(item_id),
        geometry=None if footprint is None else mapping(footprint),
        bbox=None if footprint is None else list(footprint.bounds),
        datetime=when if when.tzinfo else when.replace(tzinfo=UTC),
        properties={**properties, **where},
        stac_extensions=[_PROJECTION],
    )
    for key, href in assets.items():
        item.add_asset(key, pystac.Asset(str(href), (titles or {}).get(key), media_type=_media_type(str(href))))
    return item


def _media_type(href: str) -> str | None:
    endings = {
        ".tif": pystac.MediaType.COG,
        ".tiff": pystac.MediaType.GEOTIFF,
        ".jp2": pystac.MediaType.JPEG2000,
        ".gpkg": pystac.MediaType.GEOPACKAGE,
        ".json": pystac.MediaType.JSON,
        ".png": pystac.MediaType.PNG,
        ".qml": pystac.MediaType.XML,
    }
    return endings.get(Path(href.split("?")[0]).suffix.lower())


def item_box(item: pystac.Item) -> GeoBox:
    """Return the box that `make_item` recorded."""
    properties = item.properties
    return box_from_dict(
        {
            "shape": properties["proj:shape"],
            "transform": properties["proj:transform"][:6],
            "crs": properties.get("proj:code") or properties["proj:wkt2"],
        }
    )


def asset_path(item: pystac.Item, key: str) -> str:
    """Return where an asset lies: an absolute path or a URL.

    Raises:
        SourceError: If the item has no such asset.
    """
    if key not in item.assets:
        raise SourceError(f"Item {item.id} has no asset {key!r}; it has {', '.join(item.assets) or 'none'}.")
    return str(item.assets[key].href)


def displacement_of(pair: pystac.Item) -> Displacement:
    """Return the displacement that co-registration measured for a pair.

    Args:
        pair: A pair's item; a field lies in its asset `displacement`, a raster on the field's lattice with the
            bands dx, dy, confidence and sigma_px.

    Returns:
        The displacement, with its field if it has one.

    Raises:
        SourceError: If the item describes none, or its field is missing, unreadable or another one.
    """
    try:
        data = pair.properties["rsgeo:displacement"]
        wanted = data.get("field") if data["model"] == "field" else None
        if data["model"] != "field":
            return Displacement.from_dict(data)
        path = asset_path(pair, "displacement")
        field_ = _field(path)
        if wanted is not None and field_.digest != wanted:
            raise SourceError(
                f"Pair {pair.id}: {path} is not the field that was measured: expected the fingerprint {wanted[:12]}, "
                f"got {field_.digest[:12]}. Run coregister again."
            )
        return Displacement.from_dict(data, field_)
    except (AttributeError, KeyError, TypeError, GridError) as error:
        raise SourceError(
            f"Pair {pair.id} has no usable `rsgeo:displacement`: expected what coregister writes, got {error!r}. "
            "Run coregister again."
        ) from error


def _field(path: str) -> Field:
    values, _ = raster.read(path)
    if len(values) != 4 or values.dtype != np.float32:
        raise SourceError(
            f"{path} is no displacement field: expected 4 bands of float32 (dx, dy, confidence, sigma_px), got "
            f"{len(values)} of {values.dtype}. Run coregister again."
        )
    return Field(raster.inspect(path).geobox, values[:2], sigma_px=values[3], confidence=values[2])


class _Places[T: (pystac.Item, Dropped)]:
    """Where entries stand by id, looked up anew whenever the list is not the one that is known."""

    def __init__(self) -> None:
        self._list: list[T] | None = None
        self._length = 0
        self._at: dict[str, int] = {}

    def find(self, entries: list[T], entry_id: str) -> int | None:
        """Return the position of the first entry of an id."""
        if entries is not self._list or len(entries) != self._length:
            self._look(entries)
        at = self._at.get(entry_id)
        if at is None or entries[at].id == entry_id:
            return at
        self._look(entries)
        return self._at.get(entry_id)

    def append(self, entries: list[T], entry: T) -> None:
        """Append an entry whose id is new to the list."""
        entries.append(entry)
        if entries is self._list and len(entries) == self._length + 1:
            self._length += 1
            self._at[entry.id] = len(entries) - 1

    def _look(self, entries: list[T]) -> None:
        self._list, self._length = entries, len(entries)
        self._at = {entry.id: len(entries) - 1 - k for k, entry in enumerate(reversed(entries))}


@dataclass
class Manifest:
    """What a stage left on disk: items, what was dropped, and facts about the stage.

    Attributes:
        path: The item collection's file.
        items: STAC items in the order they were made.
        dropped: What was left out, with reasons.
        extra: Further top-level members of the collection, plain JSON types, names beginning with `rsgeo:`.
    """

    path: Path
    items: list[pystac.Item] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    _kept: _Places[pystac.Item] = field(default_factory=_Places, init=False, repr=False, compare=False)
    _left_out: _Places[Dropped] = field(default_factory=_Places, init=False, repr=False, compare=False)

    @classmethod
    def read(cls, path: Path | str) -> Manifest:
        """Read an item collection.

        Args:
            path: The file, or a folder that holds a single `*.json` of the folder's name.

        Returns:
            The manifest, asset paths absolute.

        Raises:
            SourceError: If the file is missing or is not an item collection.
        """
        path = Path(path)
        if path.is_dir():
            path = path / f"{path.name}.json"
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            items = [pystac.Item.from_dict(feature) for feature in data["features"]]
            dropped = [Dropped(**entry) for entry in data.get("rsgeo:dropped", [])]
        except FileNotFoundError as error:
            raise SourceError(f"There is no item collection at {path}; run the stage that makes it first.") from error
        except (KeyError, TypeError, ValueError, pystac.STACError) as error:
            raise SourceError(
                f"{path} is not an item collection of ours: expected a STAC FeatureCollection, got {error!r}. "
                "Delete it and run the stage that makes it again."
            ) from error
        for item in items:
            for asset in item.assets.values():
                asset.href = _absolute(asset.href, path.parent)
        known = {"type", "features", "rsgeo:dropped"}
        extra = {key: value for key, value in data.items() if key not in known}
        return cls(path, items, dropped, extra)

    @classmethod
    def open(cls, path: Path) -> Manifest:
        """Read the manifest when it exists, else begin an empty one."""
        return cls.read(path) if path.exists() else cls(path)

    def save(self) -> Path:
        """Write the collection atomically.

        Returns:
            Its path.

        Raises:
            ProductError: If it cannot be written.
        """
        features = []
        for item in self.items:
            feature = item.to_dict(include_self_link=False, transform_hrefs=False)
            for asset in feature["assets"].values():
                asset["href"] = _portable(asset["href"], self.path.parent)
            features.append(feature)
        document = {"type": "FeatureCollection", **self.extra, "features": features}
        document["rsgeo:dropped"] = [asdict(entry) for entry in self.dropped]
        return write_json(self.path, document)

    def __iter__(self) -> Iterator[pystac.Item]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __contains__(self, item_id: object) -> bool:
        return isinstance(item_id, str) and self._kept.find(self.items, item_id) is not None

    def ids(self) -> list[str]:
        """Return the item ids, in order."""
        return [item.id for item in self.items]

    def get(self, item_id: str) -> pystac.Item:
        """Return one item.

        Raises:
            SourceError: If there is none of this id.
        """
        at = self._kept.find(self.items, item_id)
        if at is None:
            raise SourceError(f"{self.path} has no item {item_id!r}; it has {len(self.items)} others.")
        return self.items[at]

    def add(self, item: pystac.Item) -> None:
        """Add an item, replacing one of the same id and forgetting that it was ever dropped."""
        self._forget(item.id)
        at = self._kept.find(self.items, item.id)
        if at is None:
            self._kept.append(self.items, item)
        else:
            self.items[at] = item

    def drop(self, item_id: str, stage: str, code: str, reason: str) -> None:
        """Record that an item was left out, replacing an earlier record and the item itself."""
        if self._kept.find(self.items, item_id) is not None:
            self.items = [item for item in self.items if item.id != item_id]
        self._forget(item_id)
        self._left_out.append(self.dropped, Dropped(item_id, stage, code, reason))

    def _forget(self, item_id: str) -> None:
        """Take a record of what was left out away."""
        if self._left_out.find(self.dropped, item_id) is not None:
            self.dropped = [entry for entry in self.dropped if entry.id != item_id]


def _is_url(href: str) -> bool:
    return "://" in href or href.startswith("/vsi")


def _absolute(href: str, folder: Path) -> str:
    return href if _is_url(href) or Path(href).is_absolute() else os.path.normpath(folder.resolve() / href)


def _portable(href: str, folder: Path) -> str:
    if _is_url(href):
        return href
    target, root = Path(href).resolve(), folder.resolve().parent
    return os.path.relpath(target, folder.resolve()) if target.is_relative_to(root) else str(target)


def check_share(failed: int, total: int, max_failed_share: float, stage: str, manifest: Path) -> None:
    """Stop when too much of a stage failed.

    Args:
        failed: How many items failed.
        total: How many were tried.
        max_failed_share: Largest share that is accepted, 0 to 1.
        stage: Name of the stage.
        manifest: Where the reasons are kept.

    Raises:
        FailedShareError: If everything failed, or a larger share than accepted.
    """
    if total and failed and (failed == total or failed / total > max_failed_share):
        raise FailedShareError(
            f"{stage}: {failed} of {total} items failed, more than the accepted share of {max_failed_share:.0%}. "
            f"The reasons are in {manifest} under rsgeo:dropped; mend the sources, or raise "
            "limits.max_failed_share in the catalogue."
        )
