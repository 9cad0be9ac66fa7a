"""An image that tiles are cut from: what it is, where it lies, how a part of it is read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from odc.geo.geobox import GeoBox
from rasterio.windows import Window

from rsgeo_gan import raster
from rsgeo_gan.grid import is_local
from rsgeo_gan.manifest import item_box
from rsgeo_gan.splits import Split
from rsgeo_gan.tiling import Side

__all__ = ["NO_DATE", "Broken", "Picture"]

NO_DATE = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands in items for a time that is not known."""


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
        in_all: Whether a pixel is missing only where all bands have the sensor's nodata. A chip may be dark in one
            band; power of radar is never 0, and bands of whole scenes end at different lines.
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
    in_all: bool = False
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
            return self.side.read(self.part(window), in_all=self.in_all)
        raw, valid = raster.read(self.side.path, bands=self.side.bands, window=window)
        sensor = self.side.sensor
        if sensor.nodata is not None and not math.isnan(sensor.nodata):
            known = raw != np.asarray(sensor.nodata).astype(raw.dtype)
            valid &= known.any(axis=0) if self.in_all else known.all(axis=0)
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
