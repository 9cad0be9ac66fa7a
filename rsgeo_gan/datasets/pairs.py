"""Paired patches as torchgeo samples, and whole tiles for prediction.

Values go straight from the numbers in the file to the model domain: the file's scale and offset and the
scaler are one multiplication and one addition a band. Places never pass through tensors: a sample carries
integers, `tile` and `origin_px`, from which a writer looks the box up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchgeo.datasets import GeoDataset, IntersectionDataset

from rsgeo_gan.datasets.tiles import SIDES, Layer, Pixels, Side, Tile, TileReader, TileSet
from rsgeo_gan.errors import GridError, SourceError
from rsgeo_gan.sensors import Scaler

__all__ = ["PairDataset", "Patch", "TileDataset"]

Sample = dict[str, Tensor]


class Patch(NamedTuple):
    """A window in whole pixels, counted from the corner of its home tile; it may reach into neighbours.

    Attributes:
        tile: Position of the home tile in the dataset.
        col: Left edge, pixels right of the tile's left edge; may be negative.
        row: Upper edge, pixels below the tile's upper edge; may be negative.
        width: Columns.
        height: Rows.
    """

    tile: int
    col: int
    row: int
    width: int
    height: int


class _Reading:
    """Cuts samples out of tiles, in analysis units or, with scalers, in the model domain."""

    def __init__(
        self,
        tiles: TileSet,
        source_scaler: Scaler | None,
        target_scaler: Scaler | None,
        cache_mb: float,
        *,
        everywhere: bool,
    ) -> None:
        self.tiles = tiles
        self.reader = TileReader(tiles, cache_mb)
        self.scalers: dict[Side, Scaler | None] = {"source": source_scaler, "target": target_scaler}
        self.everywhere = everywhere
        for side in SIDES:
            scaler, bands = self.scalers[side], tiles.bands[side]
            if scaler is not None and len(scaler.bands) != len(bands):
                raise SourceError(
                    f"{tiles.path}: the {side} tiles have {len(bands)} bands ({', '.join(bands)}), but the statistics "
                    f"have {len(scaler.bands)} ({', '.join(scaler.bands)}). Compute the statistics from these tiles."
                )

    def sample(self, tile: Tile, box: tuple[int, int, int, int]) -> Sample:
        """Build the sample of a box on the lattice."""
        image, valid = self._side("source", tile, box)
        image_target, valid_target = self._side("target", tile, box)
        return {
            "image": torch.from_numpy(image),
            "image_target": torch.from_numpy(image_target),
            "mask_valid": torch.from_numpy(valid),
            "mask_valid_target": torch.from_numpy(valid_target),
            "mask_confidence": torch.from_numpy(valid * self._trust(tile, box)),
            "residual_px": torch.tensor(tile.residual_px, dtype=torch.float32),
            "confidence": torch.tensor(np.float32(tile.confidence)),
            "origin_px": torch.tensor(box[:2], dtype=torch.int64),
            "tile": torch.tensor(tile.row, dtype=torch.int64),
        }

    def _side(self, side: Side, home: Tile, box: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        scale = self.tiles.scale if side == "target" else 1
        left, top, right, bottom = box
        bands = len(self.tiles.bands[side])
        image = np.zeros((bands, (bottom - top) * scale, (right - left) * scale), np.float32)
        mask = np.zeros((1, *image.shape[1:]), np.float32)
        for pixels, rows, cols in self._parts(side, home, box, scale):
            part = image[:, rows, cols]
            scaler = self.scalers[side]
            gain, bias = (pixels.scale, pixels.offset)
            if scaler is not None:
                gain, bias = gain * scaler.gain, bias * scaler.gain + scaler.bias
            np.multiply(pixels.raw, gain.astype(np.float32)[:, None, None], out=part, dtype=np.float32)
            part += bias.astype(np.float32)[:, None, None]
            if scaler is not None:
                np.clip(part, -1, 1, out=part)
            if not pixels.valid.all():
                np.copyto(part, 0, where=~pixels.valid)
            mask[0, rows, cols] = pixels.valid
        return image, mask

    def _trust(self, home: Tile, box: tuple[int, int, int, int]) -> np.float32 | np.ndarray:
        """Trust in the coregistration: a number, or (1, H, W) where tiles say it pixel by pixel."""
        if "confidence" not in home.paths:
            return np.float32(home.confidence)
        trust = np.zeros((1, box[3] - box[1], box[2] - box[0]), np.float32)
        for pixels, rows, cols in self._parts("confidence", home, box):
            np.multiply(pixels.raw, np.float32(pixels.scale[0]), out=trust[:, rows, cols], dtype=np.float32)
        return trust

    def _parts(
        self, layer: Layer, home: Tile, box: tuple[int, int, int, int], scale: int = 1
    ) -> Iterator[tuple[Pixels, slice, slice]]:
        """Yield what each tile of the pair has within the box, and the rows and columns where it belongs."""
        left, top, right, bottom = box
        for tile in self.tiles.neighbours(home.pair, box):
            limits = (tile.col, tile.line, tile.col + tile.width, tile.line + tile.height)
            limits = limits if self.everywhere else tile.usable
            near = (max(left, limits[0]), max(top, limits[1]), min(right, limits[2]), min(bottom, limits[3]))
            if near[0] >= near[2] or near[1] >= near[3]:
                continue
            window = (near[0] - tile.col, near[1] - tile.line, near[2] - tile.col, near[3] - tile.line)
            pixels = self.reader.read(
                tile, layer, (window[0] * scale, window[1] * scale, window[2] * scale, window[3] * scale)
            )
            rows = slice((near[1] - top) * scale, (near[3] - top) * scale)
            cols = slice((near[0] - left) * scale, (near[2] - left) * scale)
            yield pixels, rows, cols


class PairDataset(GeoDataset):
    """Source and target patches of coregistered pairs, read from the tiles on disk.

    It answers torchgeo's coordinate queries, so every torchgeo sampler and `&` work, and integer queries
    (`Patch`), which are exact and need no geometry in the loop. Unlike torchgeo's intersection, the target
    keeps its own resolution: a query of H x W source pixels gives sH x sW target pixels.

    Pixels outside a tile's usable part, outside the split, or without data are 0 and marked in the masks,
    whatever sampler asks. `mask_confidence` is the trust in the coregistration at every valid pixel, `confidence`
    that of the home tile on average. Where tiles of several pairs cover a place, a query without a time gets the first.

    Args:
        tiles: Folder of the tiles, or their manifest.
        split: "train", "val" or "test"; all tiles when None.
        source_scaler: Brings the source to [-1, 1]; analysis units when None.
        target_scaler: Likewise for the target.
        transforms: Called on every sample.
        cache_mb: Memory for decoded tiles, MiB, per worker; 0 reads single windows.

    Raises:
        SourceError: If there are no such tiles, sensors are mixed, or bands differ.
        GridError: If the tiles do not lie on one lattice.
    """

    def __init__(
        self,
        tiles: Path | str = "tiles",
        split: str | None = None,
        source_scaler: Scaler | None = None,
        target_scaler: Scaler | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
        cache_mb: float = 256.0,
    ) -> None:
        self.tile_set = TileSet(tiles, split)
        self.paths = str(self.tile_set.path)
        self.transforms = transforms
        members = self.tile_set.tiles
        if not members:
            counts = pd.Series([tile.split for tile in self.tile_set.everything]).value_counts().to_dict()
            raise SourceError(
                f"{self.tile_set.path} has no tile in the split {split!r}, only {counts}. "
                "Make tiles smaller or change val_share in the catalogue, and tile again."
            )
        self._reading = _Reading(self.tile_set, source_scaler, target_scaler, cache_mb, everywhere=False)
        self._res = (self.tile_set.res, self.tile_set.res)
        self._boxes = np.array([tile.usable for tile in members], np.int64)
        stamps = [pd.Timestamp(tile.when).tz_convert("UTC").tz_localize(None) for tile in members]
        self._times = np.array([stamp.to_datetime64() for stamp in stamps])
        self.index = gpd.GeoDataFrame(
            {"tile": [tile.row for tile in members]},
            index=pd.IntervalIndex.from_arrays(stamps, stamps, closed="both", name="datetime"),
            geometry=[shapely.box(*self.tile_set.bounds_of(tile.usable)) for tile in members],
            crs=self.tile_set.crs,
        )
        self._limits = super().bounds

    @property
    def bounds(self) -> tuple[slice, slice, slice]:
        """Smallest box of x, y and time around all usable parts."""
        return self._limits

    @property
    def crs(self) -> Any:
        """CRS of the tiles."""
        return self.index.crs

    @crs.setter
    def crs(self, new_crs: Any) -> None:
        if new_crs != self.index.crs:
            raise GridError(
                f"{self.tile_set.path} is tiled in {self.tile_set.crs} and is not warped again, asked for {new_crs}; "
                "put it first (`pairs & other`), so that the other dataset follows."
            )

    @property
    def res(self) -> tuple[float, float]:
        """Pixel size of the source side, CRS units."""
        return self._res

    @res.setter
    def res(self, new_res: float | tuple[float, float]) -> None:
        wanted = (new_res, new_res) if isinstance(new_res, int | float) else new_res
        if not np.allclose(wanted, self._res, rtol=1e-9):
            raise GridError(
                f"{self.tile_set.path} has pixels of {self._res[0]} and is not resampled again, asked for {wanted}; "
                "put it first (`pairs & other`), so that the other dataset follows."
            )

    def __and__(self, other: GeoDataset) -> IntersectionDataset:
        """Add another dataset's entries at the same place; torchgeo's own joining refuses scalar entries."""
        return IntersectionDataset(self, other, spatial_only=True, collate_fn=_join)

    def __getitem__(self, index: Any) -> Sample:
        """Cut one sample.

        Args:
            index: A `Patch`, or torchgeo's `[xmin:xmax, ymin:ymax, tmin:tmax]` in CRS units, parts optional.

        Returns:
            Tensors by name: `image`, `image_target`, their masks, and what is known of the tile.

        Raises:
            IndexError: If no usable tile is touched.
            GridError: If another pixel size is asked for.
        """
        patch = index if isinstance(index, Patch) else self._locate(index)
        tile = self.tile_set.tiles[patch.tile]
        left, top = tile.col + patch.col, tile.line + patch.row
        sample = self._reading.sample(tile, (left, top, left + patch.width, top + patch.height))
        return self.transforms(sample) if self.transforms is not None else sample

    def _locate(self, index: Any) -> Patch:
        parts = index if isinstance(index, tuple) else (index,)
        axes = [*parts, *self._limits[len(parts) :]]
        (x0, x1), (y0, y1), (t0, t1) = (
            (whole.start if part.start is None else part.start, whole.stop if part.stop is None else part.stop)
            for part, whole in zip(axes, self._limits, strict=True)
        )
        for part, size in zip(axes[:2], self._res, strict=True):
            if part.step is not None and not np.isclose(part.step, size, rtol=1e-6):
                raise GridError(
                    f"{self.tile_set.path} is read at its own pixel size {size}, asked for a step of {part.step}; "
                    "leave the step open."
                )
        left, top = (round(value) for value in self.tile_set.position_of(x0, y1))
        width, height = round((x1 - x0) / self._res[0]), round((y1 - y0) / self._res[1])
        boxes = self._boxes
        wide = np.minimum(boxes[:, 2], left + width) - np.maximum(boxes[:, 0], left)
        high = np.minimum(boxes[:, 3], top + height) - np.maximum(boxes[:, 1], top)
        area = np.maximum(wide, 0) * np.maximum(high, 0)
        if len(parts) > 2:
            start, stop = (_utc(value) for value in (t0, t1))
            area = np.where((self._times >= start) & (self._times <= stop), area, 0)
        best = int(area.argmax())
        if not area[best]:
            raise IndexError(f"query {index} touches no usable tile of {self.tile_set.path} with bounds {self.bounds}")
        tile = self.tile_set.tiles[best]
        return Patch(best, left - tile.col, top - tile.line, width, height)


def _join(samples: Sequence[Sample]) -> Sample:
    """Entries of both; what has one name in both is joined along the bands, as torchgeo does; no places."""
    pair, other = ({k: v for k, v in sample.items() if k not in ("bounds", "transform", "crs")} for sample in samples)
    shared = {key: torch.cat([pair[key], other[key]]) for key in pair.keys() & other.keys()}
    return {**pair, **other, **shared}


def _utc(value: Any) -> np.datetime64:
    stamp = pd.Timestamp(value)
    stamp = stamp.tz_convert("UTC").tz_localize(None) if stamp.tz is not None else stamp
    return stamp.to_datetime64()


class TileDataset(Dataset[Sample]):
    """Item i is tile i, whole, with a margin from its neighbours of the same pair.

    Prediction walks integers, not coordinates. The whole tile counts here, whatever split it is in.

    Args:
        tiles: Folder of the tiles, or their manifest.
        split: Keep one split; all tiles when None.
        halo_px: Margin on each side, source pixels; filled from neighbouring tiles, invalid where none is.
        source_scaler: Brings the source to [-1, 1]; analysis units when None.
        target_scaler: Likewise for the target.
        cache_mb: Memory for decoded tiles, MiB, per worker.
    """

    def __init__(
        self,
        tiles: Path | str,
        split: str | None = None,
        halo_px: int = 0,
        source_scaler: Scaler | None = None,
        target_scaler: Scaler | None = None,
        cache_mb: float = 256.0,
    ) -> None:
        self.tile_set = TileSet(tiles, split)
        self.halo_px = halo_px
        self._reading = _Reading(self.tile_set, source_scaler, target_scaler, cache_mb, everywhere=True)

    def __len__(self) -> int:
        return len(self.tile_set)

    def __getitem__(self, index: int) -> Sample:
        """Return the sample of one tile, margin included; `origin_px` is the corner of the margin."""
        tile = self.tile_set.tiles[index]
        halo = self.halo_px
        return self._reading.sample(
            tile,
            (tile.col - halo, tile.line - halo, tile.col + tile.width + halo, tile.line + tile.height + halo),
        )
