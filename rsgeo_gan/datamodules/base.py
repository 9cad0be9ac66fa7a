"""What every data module of patches does: statistics, samplers, loaders at the place where a run stopped.

Images arrive normalised, so torchgeo's own normalisation, which would scale every `image*` alike, is switched off
here.
"""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset
from torchgeo.datamodules import GeoDataModule
from torchgeo.datasets import stack_samples

from rsgeo_gan.datasets import BlockPatchSampler, GridPatchSampler, Positions, Survey, TileSet, survey
from rsgeo_gan.datasets.tiles import Side
from rsgeo_gan.errors import CheckpointError, SourceError
from rsgeo_gan.sensors import Scaler
from rsgeo_gan.transforms import Augmentation

__all__ = ["PatchDataModule", "collate"]

log = logging.getLogger("rsgeo_gan.datamodules")

_PLACES = ("bounds", "transform", "crs")
_PATCHES_A_TILE = 4


def collate(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack samples, leaving out coordinates: in float32 they are off by decimetres."""
    kept = [{key: value for key, value in sample.items() if key not in _PLACES} for sample in samples]
    return cast(dict[str, Any], stack_samples(kept))


class PatchDataModule(GeoDataModule):
    """Patches of tiles for training, validation and test, and whole tiles for prediction.

    Statistics are computed once from valid pixels of the training split and kept beside the tiles; of several
    processes only the first does so. The patches of an epoch depend on the seed and the epoch alone, and are shared
    by the processes that train together. A subclass says which tiles, datasets and facts these are.

    Args:
        dataset_class: Class of the datasets.
        tiles: Folder of the tiles, or their manifest.
        patch_size: Side of a patch, pixels.
        batch_size: Patches in a batch, of each process; whole tiles likewise where patches lie `inside`, if all tiles
            are of one size.
        min_valid: Share of a patch that must be valid.
        mix_tiles: Tiles whose patches are mixed, and which a reader should be able to hold.
        length: Patches an epoch, of all processes; about four for every training tile when None.
        num_workers: Processes that read.
        seed: Of the patches drawn.
        val_length: Most patches in validation and test; all that fit without overlap when None.
        flips: Mirror patches at random; turns the look direction of SAR round, see `Augmentation`.
        statistics: Take the normalisation from this `stats.json` or checkpoint instead of from these tiles.
        cache_mb: Memory for decoded tiles, MiB, per worker.

    Attributes:
        facts: Plain types that say what the data are, after `setup`.
    """

    mean = torch.tensor(0)
    std = torch.tensor(1)
    asked: str = "valid"
    """What `min_valid` asks of a patch, in words."""
    inside: bool = False
    """Whether patches lie inside tiles, instead of anywhere on the lattice of neighbouring ones."""

    def __init__(
        self,
        dataset_class: type[Dataset[Any]],
        *,
        tiles: str,
        patch_size: int,
        batch_size: int,
        min_valid: float,
        mix_tiles: int,
        length: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        val_length: int | None = None,
        flips: bool = False,
        statistics: str | None = None,
        cache_mb: float = 256.0,
    ) -> None:
        super().__init__(
            cast(Any, dataset_class),
            batch_size=batch_size,
            patch_size=patch_size,
            length=length,
            num_workers=num_workers,
        )
        if not 0 < min_valid <= 1:
            raise ValueError(f"{type(self).__name__}: expected 0 < min_valid <= 1, got {min_valid}")
        self.tiles = tiles
        self.side_px = patch_size
        self.seed = seed
        self.min_valid = min_valid
        self.val_length = val_length
        self.statistics = statistics
        self.mix_tiles = mix_tiles
        self.cache_mb = cache_mb
        self.facts: dict[str, Any] = {}
        self.aug = Augmentation()
        self.train_aug = Augmentation(flips)
        self.collate_fn = cast(Any, collate)
        self._survey: Survey | None = None
        self._scalers: Mapping[Side, Scaler] = {}

    def _tile_set(self, split: str | None = None) -> TileSet:
        """Return the tiles of a split, or all."""
        raise NotImplementedError

    def _dataset(self, split: str) -> Any:
        """Return the dataset of a split, with a `tile_set`."""
        raise NotImplementedError

    def _whole(self) -> Any:
        """Return the dataset of whole tiles."""
        raise NotImplementedError

    def _facts(self, every: TileSet, found: Survey) -> dict[str, Any]:
        """Return what the data are, as plain types, beside the scalers."""
        raise NotImplementedError

    def _positions(self, dataset: Any) -> Positions:
        """Return the acceptable places of a dataset."""
        assert self._survey is not None
        found = self._survey
        return Positions(
            dataset.tile_set, found.missing, found.cell_px, self.side_px, self.min_valid, inside=self.inside
        )

    def _drawn(self, dataset: Any) -> Positions:
        """Return the places that training patches are drawn from."""
        return self._positions(dataset)

    def _training(self, dataset: Any, length: int, rank: int, world: int) -> tuple[Any, Any]:
        """Return the dataset and the sampler of training patches."""
        return dataset, BlockPatchSampler(self._drawn(dataset), length, self.seed, self.mix_tiles, rank, world)

    def prepare_data(self) -> None:
        """Fit statistics where they are missing, while other processes wait."""
        self._surveyed()

    def _surveyed(self) -> tuple[TileSet, Survey]:
        every = self._tile_set()
        if self._survey is None:
            self._survey = survey(every)
        return every, self._survey

    def _share(self) -> tuple[int, int]:
        """Return which process this is, and of how many."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def setup(self, stage: str) -> None:
        """Fit or load statistics, and make the datasets and samplers of a stage.

        Raises:
            SourceError: If tiles are missing or no patch has enough valid pixels.
            CheckpointError: If `statistics` holds none.
        """
        if not self.facts:
            every, found = self._surveyed()
            stored = _scalers(self.statistics, every.sides, self._stored) if self.statistics else found.scalers
            self._scalers = {**stored}
            self.facts = {
                **{side: scaler.to_dict() for side, scaler in self._named(self._scalers).items()},
                **self._facts(every, found),
            }
        if stage == "fit":
            dataset: Any = self._dataset("train") if len(self._tile_set("train")) else None
            if dataset is None or not len(self._positions(dataset)):
                raise SourceError(self._no_patch("train"))
            rank, world = self._share()
            least = self.batch_size * world
            length = self.length or max(least, _PATCHES_A_TILE * len(dataset.tile_set))
            if length < least:
                raise SourceError(
                    f"{type(self).__name__}: an epoch of {length} patches is less than one batch of {self.batch_size} "
                    f"for each of {world} processes; raise length or lower batch_size."
                )
            self.train_dataset, self.train_sampler = self._training(dataset, length, rank, world)
        if stage in ("fit", "validate"):
            self.val_dataset, self.val_sampler = self._fixed("val")
        if stage == "test":
            self.test_dataset, self.test_sampler = self._fixed("test")
        if stage == "predict":
            self.predict_dataset = self._whole()

    def _named(self, scalers: Mapping[Side, Scaler]) -> Mapping[str, Scaler]:
        """Return the scalers under the names they have in the facts."""
        return {str(side): scaler for side, scaler in scalers.items()}

    def _stored(self, side: Side) -> str:
        """Return the name of a side's scaler in a checkpoint's facts."""
        return side

    def _fixed(self, split: str) -> tuple[Any, Any]:
        """Patches that never change; of the training split where this one has none, and said so."""
        for name in (split, "train"):
            if not len(self._tile_set(name)):
                continue
            dataset = self._dataset(name)
            sampler = GridPatchSampler(self._positions(dataset), self.val_length, *self._share())
            if len(sampler):
                if name != split:
                    log.warning(
                        "%s: split %r has no patch of %d px with %.0f %% valid; scores come from training patches",
                        self.tiles,
                        split,
                        self.side_px,
                        100 * self.min_valid,
                    )
                return dataset, sampler
        raise SourceError(self._no_patch(split))

    def _no_patch(self, split: str) -> str:
        return (
            f"{self.tiles}: no place in the split {split!r} holds a patch of {self.side_px} x {self.side_px} px with "
            f"{self.min_valid:.0%} of them {self.asked}. Lower patch_size or min_valid, or make larger tiles."
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of training, at the place where a stopped run was."""
        sampler = cast(BlockPatchSampler, self.train_sampler)
        loader = self._dataloader_factory("train")
        trainer = self.trainer
        if trainer is not None and sampler is not None:
            done = int(trainer.fit_loop.epoch_loop.batch_progress.current.ready)
            start = done if done < len(loader) else 0
            epochs: Any = trainer.fit_loop.epoch_progress
            sampler.resume(int(epochs.current.processed), start * self.batch_size)
        return loader

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of whole tiles, in the manifest's order."""
        dataset: Any = self.predict_dataset
        alike = self.inside and len({(tile.width, tile.height) for tile in dataset.tile_set.tiles}) == 1
        return DataLoader(
            dataset,
            batch_size=self.batch_size if alike else 1,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
        )

    def _dataloader_factory(self, split: str) -> DataLoader[Any]:
        """Own generator: making a loader's iterator must not move torch's global one, or a resume would differ."""
        sampler = getattr(self, f"{split}_sampler")
        return DataLoader(
            getattr(self, f"{split}_dataset"),
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            drop_last=split == "train",
            persistent_workers=self.num_workers > 0,
            generator=torch.Generator().manual_seed(self.seed),
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move the tensors of a batch; coordinates that a torchgeo dataset added are left behind."""
        if isinstance(batch, dict):
            batch = {key: value for key, value in batch.items() if key not in _PLACES}
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


def _scalers(path: str, sides: Sequence[Side], named: Callable[[Side], str]) -> dict[Side, Scaler]:
    """Read scalers from a `stats.json` or from a checkpoint's facts."""
    try:
        if Path(path).suffix == ".json":
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)["rsgeo_gan"]["facts"]
        # A model of single images keeps their scaler as "image", whichever side of the tiles they were.
        names = {side: (side, named(side), *(("image",) if len(sides) == 1 else ())) for side in sides}
        keys = {side: next((name for name in found if name in stored), side) for side, found in names.items()}
        return {side: Scaler.from_dict(stored[key]) for side, key in keys.items()}
    except (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        # The rest of what torch says advises to read the file unsafely.
        reason = str(error).partition(". ")[0]
        raise CheckpointError(
            f"No statistics can be read from {path}: expected a stats.json or a checkpoint of this package, got "
            f"{type(error).__name__} ({reason}). Leave `statistics` out to compute them from the tiles."
        ) from error
