"""Displacements that were measured before: kept in an item collection, and read back while both files are the same."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rsgeo_gan
from rsgeo_gan import raster
from rsgeo_gan.coregister.files import write_displacement
from rsgeo_gan.coregister.registration import survey
from rsgeo_gan.coregister.views import View
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import SourceError
from rsgeo_gan.manifest import Manifest, displacement_of, make_item

__all__ = ["Remembered"]

_log = logging.getLogger(__name__)

_FORMAT = 1
_KEY = "rsgeo:measured_from"


class Remembered:
    """Measures displacements, each pair of rasters once.

    What is found is kept under a digest of both files (path, size, time), their bands, what hides the ground in them,
    and the search; whatever of these changes, it is measured anew. May be used by several threads.

    Args:
        path: Item collection that is read and written; smooth fields lie in a folder of that name beside it. Nothing
            is kept when None.

    Attributes:
        measured: How many displacements were measured and not read back.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.measured = 0
        self._lock = threading.Lock()
        self._known = Manifest.open(path) if path is not None else None

    def survey(self, reference: View, moving: View, *, max_shift_px: float) -> Displacement:
        """Return where the content of a raster lies relative to a reference, see `rsgeo_gan.coregister.survey`.

        Raises:
            SourceError, GridError, CoregistrationError: As `survey`.
            ProductError: If it cannot be kept.
        """
        key = _digest([_FORMAT, rsgeo_gan.__version__, max_shift_px, _state(reference), _state(moving)])
        name = f"registered-{key[:16]}"
        with self._lock:
            if self._known is not None and name in self._known:
                try:
                    item = self._known.get(name)
                    if item.properties.get(_KEY) == key:
                        return displacement_of(item)
                except SourceError as error:
                    _log.info("%s: measured again: %s", self.path, error)
        found = survey(reference, moving, max_shift_px=max_shift_px).displacement
        with self._lock:
            self.measured += 1
            self._keep(name, key, found, reference)
        return found

    def _keep(self, name: str, key: str, found: Displacement, reference: View) -> None:
        if self._known is None:
            return
        assets: dict[str, Path | str] = {}
        if found.field is not None:
            folder = self._known.path.with_suffix("")
            assets["displacement"] = write_displacement(folder / f"{name}.tif", found)
        item = make_item(
            name,
            raster.inspect(reference.path).geobox,
            when=datetime.now(UTC),
            properties={_KEY: key, "rsgeo:displacement": found.to_dict()},
            assets=assets,
        )
        self._known.add(item)
        self._known.save()


def _state(look: View) -> list[Any]:
    files = [look.path, *([] if look.classes is None else [look.classes[0]])]
    hidden = None if look.classes is None else list(look.classes[1])
    sensor = look.sensor
    return [
        [_stamp(path) for path in files],
        list(look.bands),
        hidden,
        sensor.modality,
        sensor.unit,
        str(sensor.nodata),
    ]


def _stamp(path: Path | str) -> list[Any]:
    """Path, size and time of a file; the address alone of a remote one, without its signature."""
    file = Path(path)
    if "://" not in str(path) and file.is_file():
        status = file.stat()
        return [str(file.resolve()), status.st_size, status.st_mtime_ns]
    return [str(path).split("?")[0]]


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
