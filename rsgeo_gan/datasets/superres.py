"""Tiles for super-resolution as samples: the same place coarse and fine, with references where there are any.

The coarse image is a real one that lies with the tile, or the fine one as a coarser instrument would have seen it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchgeo.datasets import NonGeoDataset

from rsgeo_gan.datasets.images import brought
from rsgeo_gan.datasets.pairs import Patch
from rsgeo_gan.datasets.sharpsets import REFERENCES, SuperResolutionTileSet
from rsgeo_gan.datasets.tiles import Pixels, Side, Tile, TileReader
from rsgeo_gan.degrade import degrade, reach_px
from rsgeo_gan.errors import SourceError
from rsgeo_gan.optics import MTF
from rsgeo_gan.provenance import noise_seed
from rsgeo_gan.sensors import POWER_FLOOR, Scaler

__all__ = ["Degradation", "SuperResolutionDataset"]

Sample = dict[str, Tensor]


@dataclass(frozen=True)
class Degradation:
    """How a coarse image is made from a fine one.

    Attributes:
        mtf: Contrast at the coarse Nyquist frequency, for all bands or for each; None for plain means.
        noise: Standard deviation of the noise, model units.
    """

    mtf: float | tuple[float, ...] | None = MTF
    noise: float = 0.0

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Degradation:
        """Build from plain types.

        Raises:
            ValueError: If there are other settings, or impossible values.
        """
        unknown = sorted(set(settings) - {"mtf", "noise"})
        mtf, noise = settings.get("mtf", MTF), float(settings.get("noise", 0.0))
        contrasts = [] if mtf is None else mtf if isinstance(mtf, Sequence) else [mtf]
        if unknown or noise < 0 or not all(0 < value < 1 for value in contrasts):
            raise ValueError(
                "degradation: expected mtf (between 0 and 1, one or one a band, or null) and noise (0 or more), got "
                f"{dict(settings)}"
            )
        return cls(tuple(mtf) if isinstance(mtf, Sequence) else mtf, noise)

    def to_dict(self) -> dict[str, Any]:
        """Describe it in plain types."""
        return {"mtf": list(self.mtf) if isinstance(self.mtf, tuple) else self.mtf, "noise": self.noise}


class SuperResolutionDataset(NonGeoDataset):
    """Coarse and fine images of tiles and patches of them, in the model domain where scalers are given.

    Item i is tile i, whole; a `Patch`, in coarse pixels, cuts a part of it. Invalid pixels are 0 and marked in the
    masks. A coarse image that is made has the noise of its tile: the same at every call, for every patch.

    Args:
        tiles: The tiles.
        scalers: Scaler by side: image, low, reference; a made coarse image has that of the fine one. Analysis units
            when None.
        degradation: How coarse images are made; they are read when the tiles are `real`.
        truth: Give the fine image too.
        transforms: Called on every sample.
        cache_mb: Memory for decoded tiles, MiB, per worker; 0 reads single windows.

    Raises:
        SourceError: If scalers have other bands than the tiles.
    """

    def __init__(
        self,
        tiles: SuperResolutionTileSet,
        scalers: Mapping[Side, Scaler] | None = None,
        degradation: Degradation | None = None,
        *,
        truth: bool = True,
        transforms: Callable[[Sample], Sample] | None = None,
        cache_mb: float = 256.0,
    ) -> None:
        self.tile_set = tiles
        self.scalers = dict(scalers or {})
        self.degradation = degradation or Degradation()
        self.truth = truth
        self.transforms = transforms
        self._reader = TileReader(tiles, cache_mb)
        for side, scaler in self.scalers.items():
            bands = tiles.bands.get(side, scaler.bands)
            if len(scaler.bands) != len(bands):
                raise SourceError(
                    f"{tiles.path}: the {side} has {len(bands)} bands ({', '.join(bands)}), but the statistics have "
                    f"{len(scaler.bands)} ({', '.join(scaler.bands)}). Compute the statistics from these tiles."
                )

    def __len__(self) -> int:
        return len(self.tile_set)

    def __getitem__(self, index: int | Patch) -> Sample:
        """Cut one sample.

        Args:
            index: Number of a tile, or a patch that lies within one, coarse pixels.

        Returns:
            `image` (C, h, w), `mask_valid` (1, h, w), `image_target` (C', s h, s w) and `mask_valid_target` (1, s h,
            s w) where truth is given, `image_reference` (R · Cr, s h, s w) and `mask_reference` (R, s h, s w) where
            there are references, `tile` (row in the manifest) and `origin_px` (column and row of the corner, counted
            in coarse pixels from the origin of the tile's CRS).

        Raises:
            IndexError: If there is no such tile.
            SourceError: If a file cannot be read or has other bands or another size than it should.
        """
        number = index.tile if isinstance(index, Patch) else int(index)
        tile = self.tile_set.tiles[number]
        col, row, width, height = index[1:] if isinstance(index, Patch) else (0, 0, tile.width, tile.height)
        window = col, row, col + width, row + height
        usable = _usable(tile, window) if isinstance(index, Patch) else np.ones((height, width), bool)
        sample: dict[str, np.ndarray] = {}
        if self.tile_set.real:
            pixels = self._reader.read(tile, "low", window)
            valid = pixels.valid & usable
            sample["image"] = brought(pixels, valid, self.scalers.get("low"))
            sample["mask_valid"] = valid[None].astype(np.float32)
        else:
            sample["image"], sample["mask_valid"] = self._made(tile, window, usable)
        fine = _times(window, self.tile_set.scale)
        if self.truth:
            pixels = self._reader.read(tile, "image", fine)
            valid = pixels.valid & np.kron(usable, np.ones((self.tile_set.scale,) * 2, bool))
            sample["image_target"] = brought(pixels, valid, self.scalers.get("image"))
            sample["mask_valid_target"] = valid[None].astype(np.float32)
        if self.tile_set.references:
            sample["image_reference"], sample["mask_reference"] = self._references(tile, fine)
        found = {key: torch.from_numpy(value) for key, value in sample.items()}
        found["tile"] = torch.tensor(tile.row, dtype=torch.int64)
        found["origin_px"] = torch.tensor((tile.col + col, tile.line + row), dtype=torch.int64)
        return self.transforms(found) if self.transforms is not None else found

    def _made(self, tile: Tile, window: tuple[int, int, int, int], usable: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Make the coarse image of a window from fine pixels in it and as far around it as they have weight."""
        scale, how = self.tile_set.scale, self.degradation
        room = reach_px(scale, how.mtf)
        left, top, right, bottom = window
        wide = max(0, left - room), max(0, top - room), min(tile.width, right + room), min(tile.height, bottom + room)
        pixels = self._reader.read(tile, "image", _times(wide, scale))
        scaler = self.scalers.get("image")
        power = self.tile_set.units["image"] == "dB"
        fine = _power(pixels) if power else brought(pixels, pixels.valid, scaler)
        fine[:, ~pixels.valid] = 0
        low, seen = degrade(
            torch.from_numpy(fine)[None], torch.from_numpy(pixels.valid[None, None].astype(np.float32)), scale, how.mtf
        )
        rows, cols = slice(top - wide[1], bottom - wide[1]), slice(left - wide[0], right - wide[0])
        image, valid = low[0, :, rows, cols].numpy(), (seen[0, 0, rows, cols].numpy() > 0) & usable
        if power:
            image = 10 * np.log10(np.maximum(image, POWER_FLOOR))
            image = image if scaler is None else scaler.forward(image)
        if how.noise:
            image = image + np.float32(how.noise) * self._noise(tile, len(image))[:, top:bottom, left:right]
        return np.where(valid, image, 0).astype(np.float32), valid[None].astype(np.float32)

    def _noise(self, tile: Tile, bands: int) -> np.ndarray:
        """Return the noise of a whole tile, deviation 1."""
        generator = torch.Generator().manual_seed(noise_seed(tile.id))
        return torch.randn((bands, tile.height, tile.width), generator=generator).numpy()

    def _references(self, tile: Tile, fine: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
        left, top, right, bottom = fine
        count, bands = self.tile_set.references, len(self.tile_set.bands["reference"])
        images = np.zeros((count, bands, bottom - top, right - left), np.float32)
        masks = np.zeros((count, bottom - top, right - left), np.float32)
        for number, name in enumerate(REFERENCES[:count]):
            if name in tile.paths:
                pixels = self._reader.read(tile, name, fine)
                images[number] = brought(pixels, pixels.valid, self.scalers.get("reference"))
                masks[number] = pixels.valid
        return images.reshape(-1, *images.shape[2:]), masks


def _times(window: tuple[int, int, int, int], scale: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = window
    return left * scale, top * scale, right * scale, bottom * scale


def _usable(tile: Tile, window: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = (edge - zero for edge, zero in zip(tile.usable, (tile.col, tile.line) * 2, strict=True))
    rows, cols = np.arange(window[1], window[3]), np.arange(window[0], window[2])
    found: np.ndarray = ((rows >= top) & (rows < bottom))[:, None] & ((cols >= left) & (cols < right))
    return found


def _power(pixels: Pixels) -> np.ndarray:
    values = pixels.raw * pixels.scale[:, None, None] + pixels.offset[:, None, None]
    found: np.ndarray = np.power(10, np.where(pixels.valid, values, 0) / 10).astype(np.float32)
    return found
