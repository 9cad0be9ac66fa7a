"""Tiles to batches of coarse and fine images of one place, with references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rsgeo_gan.datamodules.base import PatchDataModule
from rsgeo_gan.datasets import Degradation, SuperResolutionDataset, SuperResolutionTileSet, Survey
from rsgeo_gan.datasets.tiles import TileSet
from rsgeo_gan.grid import pixel_m
from rsgeo_gan.manifest import item_box
from rsgeo_gan.sensors import SENSORS, Scaler
from rsgeo_gan.transforms import Turns

__all__ = ["SuperResolutionDataModule"]


class SuperResolutionDataModule(PatchDataModule):
    """Patches for training, validation and test of a super-resolution, and whole tiles for prediction.

    It serves tiles of `kind: superres`, and any collected tiles without references. Patches begin on whole coarse
    pixels and lie inside tiles. The statistics are those of the training split; a coarse image that is made from the
    fine one shares its scaler, so that both have one radiometry in the model domain as well.

    Args:
        tiles: Folder of the tiles, or their manifest.
        scale: Fine pixels per coarse pixel.
        patch_size: Side of a patch, coarse pixels.
        batch_size: Patches in a batch, of each process.
        references: Most references of a tile that are used; 0 ignores them.
        degradation: How a coarse image is made from the fine one: `mtf`, the contrast at its Nyquist frequency (one
            number, one for each band, or null for plain means), and `noise`, the standard deviation in model units.
            None: the real coarse images where the tiles have them, else made with an MTF of 0.2.
        common: Pairs of a fine band and a reference's band, counted from 0, that show the same; those of one name when
            None, or as the catalogue says.
        min_valid: Share of a patch that must be valid, fine and coarse; references do not count.
        flips: Mirror and turn patches at random; turns the look direction of SAR round, see `Augmentation`.
        mix_tiles: Tiles whose patches are mixed, and which a reader should be able to hold.
        shared: What data modules of patches have in common, see `PatchDataModule`: length, num_workers, seed,
            val_length, statistics and cache_mb.

    Attributes:
        facts: Scalers, scale, pixel size, bands, degradation and digest of the tiles as plain types, after `setup`.
    """

    inside = True

    def __init__(
        self,
        tiles: str = "tiles",
        scale: int = 4,
        patch_size: int = 32,
        batch_size: int = 16,
        references: int = 0,
        degradation: dict[str, Any] | None = None,
        common: list[list[int]] | None = None,
        min_valid: float = 0.95,
        flips: bool = False,
        mix_tiles: int = 64,
        **shared: Any,
    ) -> None:
        super().__init__(
            SuperResolutionDataset,
            tiles=tiles,
            patch_size=patch_size,
            batch_size=batch_size,
            min_valid=min_valid,
            mix_tiles=mix_tiles,
            flips=flips,
            **shared,
        )
        self.scale = scale
        self.references = references
        self.degradation = None if degradation is None else Degradation.of(degradation)
        self.common = common
        self.train_aug = Turns(flips)

    def _tile_set(self, split: str | None = None) -> SuperResolutionTileSet:
        real = None if self.degradation is None else False
        return SuperResolutionTileSet(self.tiles, split, self.scale, self.references, real)

    def _dataset(self, split: str | None, truth: bool = True) -> SuperResolutionDataset:
        return SuperResolutionDataset(
            self._tile_set(split), self._scalers, self.degradation, truth=truth, cache_mb=self.cache_mb
        )

    def _whole(self) -> SuperResolutionDataset:
        return self._dataset(None, truth=False)

    def _named(self, scalers: Mapping[Any, Scaler]) -> Mapping[str, Scaler]:
        named = {"source": scalers.get("low", scalers["image"]), "target": scalers["image"]}
        return named | ({"reference": scalers["reference"]} if "reference" in scalers else {})

    def _stored(self, side: Any) -> str:
        return {"image": "target", "low": "source"}.get(side, side)

    def _facts(self, every: TileSet, found: Survey) -> dict[str, Any]:
        assert isinstance(every, SuperResolutionTileSet)
        facts: dict[str, Any] = {
            "scale": self.scale,
            "references": every.references,
            "gsd": every.res,
            "patch_px": self.side_px,
            "tiles": found.digest,
            "gsd_m": [self.scale * length for length in pixel_m(item_box(every.manifest.items[0]))],
            "source_sensor": every.specs["low" if every.real else "image"],
            "target_sensor": every.specs["image"],
        }
        if not every.real:
            facts["degradation"] = (self.degradation or Degradation()).to_dict()
        if every.references:
            facts["reference_bands"] = list(every.bands["reference"])
            facts["reference_sensor"] = every.specs["reference"]
            facts["reference_mtf"] = _one(every.manifest.extra.get("rsgeo:reference_mtf"))
            facts["common"] = self.common or every.manifest.extra.get("rsgeo:common") or _common(every)
        return facts


def _one(values: Sequence[float | None] | None) -> float | None:
    """What all values are; None where they differ."""
    return values[0] if values and len(set(values)) == 1 else None


def _common(tiles: SuperResolutionTileSet) -> list[list[int]]:
    """Pairs of bands with one name or common name; red with a panchromatic band; else in order."""
    fine, other = (_names(tiles, side) for side in ("image", "reference"))
    pairs = [[k, other.index(name)] for k, name in enumerate(fine) if name in other]
    if pairs:
        return pairs
    if len(other) == 1:
        return [[fine.index("red") if "red" in fine else 0, 0]]
    return [[k, k] for k in range(min(len(fine), len(other)))]


def _names(tiles: SuperResolutionTileSet, side: Any) -> Sequence[str]:
    """Common names of bands where the sensor is known, else their own, in lower case."""
    known = SENSORS.get(tiles.sensors[side])
    common = {} if known is None else {band.name: band.common_name for band in known.bands}
    return [(common.get(name) or name).lower() for name in tiles.bands[side]]
