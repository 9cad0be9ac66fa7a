"""Synthetic images read back as torchgeo samples, and mixed with real ones in a stated share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from rsgeo_gan.conditions import Conditions
from rsgeo_gan.datasets.images import ImageTileDataset, Sample
from rsgeo_gan.datasets.pairs import Patch
from rsgeo_gan.datasets.sampling import BlockPatchSampler, Positions
from rsgeo_gan.errors import SourceError
from rsgeo_gan.labelled import of_classes
from rsgeo_gan.manifest import Manifest
from rsgeo_gan.sensors import Scaler

__all__ = ["MixedDataset", "MixedPatchSampler", "SyntheticDataset"]

log = logging.getLogger(__name__)

_GSD_TOLERANCE = 0.05


class SyntheticDataset(ImageTileDataset):
    """What `synthesize` made: every image a sample that says so (`synthetic` is 1) and carries what it was asked to be.

    Args:
        products: Folder of the products, or their manifest.
        scaler: Brings values to [-1, 1], fitted on real tiles; analysis units when None.
        conditions: What `condition` and `label` mean, so that they agree with those of real tiles; those of the model
            that made the images when None.
        transforms: Called on every sample.
        cache_mb: Memory for decoded images, MiB, per worker; 0 reads single windows.
        classes: Only images of these classes; all when None.

    Raises:
        SourceError: If there are no products, none of a class, some are not synthetic, or bands and scaler differ.
        CatalogError: If an image was asked to be something that `conditions` does not know.
    """

    def __init__(
        self,
        products: Path | str = "products",
        scaler: Scaler | None = None,
        conditions: Conditions | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
        cache_mb: float = 256.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        made = Manifest.read(products)
        foreign = [item.id for item in made if not item.properties.get("rsgeo:synthetic")]
        if foreign:
            raise SourceError(
                f"{made.path}: {len(foreign)} of {len(made)} items are not marked as synthetic, the first is "
                f"{foreign[0]}; expected what `rsgeo-gan synthesize` made. Read real tiles with ImageTileDataset."
            )
        if conditions is None:
            conditions = Conditions.from_dict(made.extra.get("rsgeo:conditions") or {})
        ids = None if classes is None else [item.id for item in of_classes(made.items, classes)]
        super().__init__(made.path, None, "data", scaler, conditions, transforms, cache_mb, ids)

    def __getitem__(self, index: int | Patch) -> Sample:
        """Return an image, or a patch of one; see `ImageTileDataset`."""
        return super().__getitem__(index) | {"synthetic": torch.tensor(1)}


class MixedDataset(Dataset[Sample]):
    """Patches of real tiles, and of synthetic images under the numbers behind them; samples say which they are.

    Args:
        real: Real tiles; its `tile_set` is this one's.
        synthetic: Synthetic images with the same bands, scaler and conditions.

    Raises:
        SourceError: If the bands differ.
    """

    def __init__(self, real: ImageTileDataset, synthetic: SyntheticDataset) -> None:
        bands = [part.tile_set.bands[part.tile_set.side] for part in (real, synthetic)]
        if bands[0] != bands[1]:
            raise SourceError(
                f"{synthetic.tile_set.path} has the bands {', '.join(bands[1])}, the real tiles have "
                f"{', '.join(bands[0])}; mix only what a model trained on these bands made."
            )
        sizes = [part.tile_set.res for part in (real, synthetic)]
        if abs(sizes[1] / sizes[0] - 1) > _GSD_TOLERANCE:
            log.warning(
                "%s has pixels of %g, the real tiles have %g (units of their CRS); a network sees them as of one size",
                synthetic.tile_set.path,
                sizes[1],
                sizes[0],
            )
        self.real = real
        self.synthetic = synthetic
        self.tile_set = real.tile_set

    def __len__(self) -> int:
        return len(self.real) + len(self.synthetic)

    def __getitem__(self, index: Patch) -> Sample:
        """Cut one patch; `synthetic` is 0 or 1."""
        if index.tile < len(self.real):
            return self.real[index] | {"synthetic": torch.tensor(0)}
        return self.synthetic[index._replace(tile=index.tile - len(self.real))]


class MixedPatchSampler(BlockPatchSampler):
    """Random patches of an epoch of which a stated share is synthetic, in every process and every epoch exactly.

    Synthetic images take turns, so that each is seen equally often; where the patch lies in the image is random.

    Args:
        positions: Acceptable places in real tiles.
        length: As in `BlockPatchSampler`.
        synthetic: The synthetic images.
        share: Share of the patches of an epoch that are synthetic, 0 to 1.
        first: Number under which the dataset knows the first synthetic image.
        patch_px: Side of a patch, pixels.
        seed: Together with the epoch, decides what is drawn.
        mix_tiles: As in `BlockPatchSampler`.
        rank: Which process this is.
        world: How many processes share an epoch.

    Raises:
        ValueError: If the share is not between 0 and 1.
        SourceError: If a synthetic image is smaller than a patch.
    """

    def __init__(
        self,
        positions: Positions,
        length: int,
        synthetic: SyntheticDataset,
        share: float,
        first: int,
        patch_px: int,
        seed: int = 0,
        mix_tiles: int = 16,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"MixedPatchSampler: expected a share from 0 to 1, got {share}")
        super().__init__(positions, length, seed, mix_tiles, rank, world)
        self.share = share
        self._first = first
        self._patch_px = patch_px
        self._room: Sequence[tuple[int, int]] = [
            (tile.width - patch_px, tile.height - patch_px) for tile in synthetic.tile_set.tiles
        ]
        if min(min(room) for room in self._room) < 0:
            raise SourceError(
                f"{synthetic.tile_set.path} has images smaller than a patch of {patch_px} x {patch_px} px; lower "
                "patch_size, or mix images of a model of that size."
            )

    def order(self, epoch: int) -> list[Patch]:
        """Return the patches of an epoch, of all processes, in order."""
        patches = super().order(epoch)
        each = len(self)
        count = round(self.share * each)
        rng = np.random.default_rng([self._seed, epoch, 1])
        for rank in range(self.num_replicas):
            # The turns of all epochs and processes are one row, so none begins with the same images again.
            turns = (epoch * self.num_replicas + rank) * count + np.arange(count)
            for place, which in zip(rng.permutation(each)[:count], self._images(turns), strict=True):
                col, row = (int(rng.integers(room + 1)) for room in self._room[which])
                patches[rank * each + place] = Patch(self._first + which, col, row, self._patch_px, self._patch_px)
        return patches

    def _images(self, turns: np.ndarray) -> Iterator[int]:
        """Yield whose turn it is; every lap has all images in another order."""
        laps, positions = np.divmod(turns, len(self._room))
        orders = {lap: np.random.default_rng([self._seed, lap, 2]).permutation(len(self._room)) for lap in set(laps)}
        for lap, position in zip(laps, positions, strict=True):
            yield int(orders[lap][position])
