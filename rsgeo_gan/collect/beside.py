"""What lies beside an image: other rasters of its place, registered to it and brought onto the grid of its tiles.

A raster is measured against each image once; reprojection, displacement and regridding are one resampling of its
pixels. Where nothing certain can be measured its georeference is trusted, and the reason kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from rsgeo_gan.catalog.superres import Coarse, OtherDates, References
from rsgeo_gan.collect.folders import in_folder
from rsgeo_gan.collect.pictures import Picture
from rsgeo_gan.collect.stored import of_scenes
from rsgeo_gan.coregister.remembered import Remembered
from rsgeo_gan.coregister.views import View, default_bands
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import SourceError
from rsgeo_gan.grid import pixels_in, sharpness
from rsgeo_gan.manifest import asset_path, item_box
from rsgeo_gan.tiling import Side

__all__ = ["Neighbour", "Neighbours", "digest"]

_OUTLINE = 9


@dataclass(frozen=True)
class Neighbour:
    """A raster beside an image, ready to be read on any box.

    Attributes:
        picture: The raster.
        side: How it is read, with the displacement that is applied.
        found: What is known of its place, applied or not.
        how: Whether that was "measured", is "given", or is "trusted" unmeasured.
    """

    picture: Picture
    side: Side
    found: Displacement
    how: str

    def told(self) -> dict[str, Any]:
        """Say in plain JSON types where it comes from and what is known of its place."""
        found, item = self.found, self.side.item
        return {
            "scene": item.id,
            "datetime": item.datetime.isoformat() if self.picture.dated and item.datetime else None,
            "place": self.how,
            "applied": found.reliable,
            "dx_px": round(found.dx_px, 3),
            "dy_px": round(found.dy_px, 3),
            "residual_px": round(found.sigma_px, 3) if math.isfinite(found.sigma_px) else None,
            "confidence": round(found.confidence, 3),
            "reason": found.reason,
        }

    def key(self) -> list[Any]:
        """Everything that its pixels depend on, in plain JSON types."""
        return self.side.key()

    def read(self, box: GeoBox, mtf: float | None = None) -> np.ndarray:
        """Read it on a box.

        Args:
            box: Where pixels are wanted.
            mtf: Contrast left at the Nyquist frequency of the box where the raster is at least half as fine again;
                None for plain anti-aliased resampling.

        Returns:
            float32 of shape (C, H, W), NaN where invalid, in the units of `Side.read`.
        """
        return self.side.seen(box, sharpness(box, item_box(self.side.item)), mtf)


class Neighbours:
    """Rasters of one source beside images: finds, registers and orders them.

    Args:
        source: Where they come from, and how they are put in place.
        pictures: The images.
        common: Pairs of bands of image and neighbour, counted from 0, that show the same; by name when empty.
        views: Folder of the VRTs by which one-band files are seen as one image.
        remembered: Measures displacements, and knows those of earlier calls.

    Raises:
        SourceError: If there is none that can be used, or they differ in sensor or bands.
    """

    def __init__(
        self,
        source: References | Coarse,
        pictures: Sequence[Picture],
        common: Sequence[tuple[int, int]] = (),
        *,
        views: Path,
        remembered: Remembered | None = None,
    ) -> None:
        self.source = source
        self._remembered = remembered or Remembered(None)
        self._common = tuple(common)
        self._own = isinstance(source.images, OtherDates)
        found = list(pictures) if self._own else list(_listed(source.images, views))
        if not found:
            where = getattr(source.images, "path", "the collection")
            raise SourceError(f"{where}: no image can be used beside the others; the log says why. Correct the source.")
        self.pictures = [picture for picture in found if picture.placed]
        if not self.pictures:
            raise SourceError(
                f"{found[0].side.path} has no georeference, so nothing can be put beside it or it beside others: "
                "expected images with a CRS. Leave out `references` and `low`, or georeference the images."
            )
        first = self.pictures[0]
        for picture in self.pictures:
            if picture.side.sensor != first.side.sensor:
                raise SourceError(
                    f"{picture.side.path}: bands {', '.join(picture.side.sensor.band_names)} of "
                    f"{picture.side.sensor.name}; expected {', '.join(first.side.sensor.band_names)} of "
                    f"{first.side.sensor.name} as in {first.side.path}. Give each sensor a source of its own."
                )
        self._measured: dict[tuple[str, str], Neighbour] = {}
        self._lock = threading.Lock()

    def of(self, picture: Picture, box: GeoBox) -> Iterator[Neighbour]:
        """Yield what shows a box, registered to the image that it belongs to: nearest in time first, then by name."""
        for other in sorted(self.pictures, key=lambda other: _distance(picture, other)):
            if (self._own and other.id == picture.id) or not _meets(box, other.box):
                continue
            with self._lock:
                known = self._measured.get((picture.id, other.id))
                if known is None:
                    known = self._measured[picture.id, other.id] = self._register(picture, other)
            yield known

    def _register(self, picture: Picture, other: Picture) -> Neighbour:
        source = self.source
        if source.shift_m is not None:
            found, how = _known(picture.box, source.shift_m), "given"
        elif not source.align:
            found, how = Displacement.none(picture.box, reason="georeference trusted"), "trusted"
        else:
            mine, theirs = self._bands(picture.side, other.side)
            found = self._remembered.survey(
                _view(picture.side, mine), _view(other.side, theirs), max_shift_px=source.max_shift_px
            )
            how = "measured"
        side = replace(other.side, displacement=found) if found.reliable else other.side
        return Neighbour(other, side, found, how)

    def _bands(self, mine: Side, theirs: Side) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Bands of both files to match by: up to two that show the same, else what each sensor matches by."""
        pairs = list(self._common) or [
            (k, theirs.sensor.band_names.index(name))
            for k, name in enumerate(mine.sensor.band_names)
            if name in theirs.sensor.band_names
        ]
        if pairs and max(k for k, _ in pairs) < len(mine.bands) and max(k for _, k in pairs) < len(theirs.bands):
            wanted = default_bands(mine.sensor, *zip(*((mine.sensor.band_names[k], k) for k, _ in pairs), strict=True))
            partner = dict(pairs)
            return tuple(mine.bands[k] for k in wanted), tuple(theirs.bands[partner[k]] for k in wanted)
        first, second = (default_bands(s.sensor, s.sensor.band_names, s.bands) or s.bands[:1] for s in (mine, theirs))
        return first, second


def _listed(images: Any, views: Path) -> Iterator[Picture]:
    found = in_folder(images, None, views) if images.kind == "folder" else of_scenes(images)
    return (picture for picture in found if isinstance(picture, Picture))


def _view(side: Side, bands: tuple[int, ...]) -> View:
    bad = side.item.properties.get("rsgeo:invalid_classes") or []
    hidden = (asset_path(side.item, "scl"), tuple(bad)) if "scl" in side.item.assets and bad else None
    return View(side.path, side.sensor, bands, hidden)


def _known(box: GeoBox, shift_m: tuple[float, float]) -> Displacement:
    """A displacement that was told, in pixels of a box."""
    affine = ~box.affine
    dx = affine.a * shift_m[0] + affine.b * shift_m[1]
    dy = affine.d * shift_m[0] + affine.e * shift_m[1]
    return Displacement(box, "shift", (dx, 0.0, 0.0, dy, 0.0, 0.0), 0.0, 1.0, True, reason="given")


def _distance(picture: Picture, other: Picture) -> tuple[float, str]:
    first, second = picture.side.item.datetime, other.side.item.datetime
    if not (picture.dated and other.dated and first and second):
        return 0.0, other.id
    return abs((first - second).total_seconds()), other.id


def _meets(box: GeoBox, other: GeoBox) -> bool:
    """Whether any of a spread of places in a box lies in another."""
    height, width = box.shape
    share = (np.arange(_OUTLINE) + 0.5) / _OUTLINE
    col, row = pixels_in(other, box, *np.meshgrid(share * width, share * height))
    rows, cols = other.shape
    with np.errstate(invalid="ignore"):
        return bool(((col > 0) & (col < cols) & (row > 0) & (row < rows)).any())


def digest(parts: Sequence[Any]) -> str:
    """Return a SHA-256 of plain JSON types."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
