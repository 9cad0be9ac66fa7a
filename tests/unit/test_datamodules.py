from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchgeo.samplers import RandomPatchSampler

from rsgeo_gan.datamodules import PairDataModule, collate
from rsgeo_gan.errors import CheckpointError, SourceError
from rsgeo_gan.sensors import Scaler
from tests.synth import write_tiles

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    return write_tiles(tmp_path, splits=["train", "train", "val", "train", "train", "test"])


def ready(tiles: Path, stage: str = "fit", **more: Any) -> PairDataModule:
    data = PairDataModule(str(tiles), **{"patch_size": 16, "batch_size": 4, **more})
    data.setup(stage)
    return data


def test_a_training_batch_is_in_the_model_domain_and_has_no_place(tiles: Path) -> None:
    batch = next(iter(ready(tiles).train_dataloader()))
    assert batch["image"].shape == (4, 2, 16, 16)
    assert batch["image"].abs().max() <= 1
    assert batch["tile"].dtype == torch.int64
    assert not {"bounds", "transform", "crs"} & set(batch)


def test_facts_are_plain_types_with_the_statistics_of_the_training_split(tiles: Path) -> None:
    facts = ready(tiles, radius_px=5).facts
    assert json.loads(json.dumps(facts)) == facts
    assert Scaler.from_dict(facts["source"]).bands == ("B02", "B03")
    assert facts["target"]["unit"] == "dB"
    assert facts["source"]["count"] == 4 * 32 * 32
    assert (facts["gsd"], facts["scale"], facts["radius_px"]) == (10.0, 1, 5)


def test_statistics_are_stored_beside_the_tiles_with_the_digest_of_the_training_tiles(tiles: Path) -> None:
    facts = ready(tiles).facts
    stored = json.loads((tiles / "stats.json").read_text())
    assert stored["digest"] == facts["tiles"]
    assert stored["source"] == facts["source"]


def test_splits_of_the_manifest_are_kept(tiles: Path) -> None:
    data = ready(tiles)
    assert {int(tile) for batch in data.train_dataloader() for tile in batch["tile"]} <= {0, 1, 3, 4}
    assert {int(tile) for batch in data.val_dataloader() for tile in batch["tile"]} == {2}
    data.setup("test")
    assert {int(tile) for batch in data.test_dataloader() for tile in batch["tile"]} == {5}


def test_prediction_walks_whole_tiles_in_the_manifests_order(tiles: Path) -> None:
    batches = list(ready(tiles, "predict", halo_px=4).predict_dataloader())
    assert [int(batch["tile"]) for batch in batches] == list(range(6))
    assert batches[0]["image"].shape == (1, 2, 40, 40)


def test_two_modules_with_one_seed_give_the_same_epoch(tiles: Path) -> None:
    first, second = (
        torch.cat([batch["image"] for batch in ready(tiles, seed=4, num_workers=workers).train_dataloader()])
        for workers in (0, 2)
    )
    assert torch.equal(first, second)


def test_making_a_loader_leaves_the_global_generator_alone(tiles: Path) -> None:
    data = ready(tiles)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(data.train_dataloader()))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_plain_torchgeo_sampler_serves_as_well(tiles: Path) -> None:
    data = ready(tiles)
    dataset: Any = data.train_dataset
    loader = DataLoader(
        dataset, batch_size=3, sampler=RandomPatchSampler(dataset, size=8, length=6, generator=1), collate_fn=collate
    )
    batches = list(loader)
    assert [batch["image"].shape for batch in batches] == [(3, 2, 8, 8)] * 2


def test_coordinates_of_other_datasets_are_dropped_from_a_batch() -> None:
    samples = [{"image": torch.zeros(1, 2, 2), "bounds": torch.zeros(9), "transform": torch.zeros(6)}] * 2
    assert set(collate(samples)) == {"image"}


def test_a_patch_larger_than_the_area_is_explained(tiles: Path) -> None:
    with pytest.raises(SourceError, match=r"no place in the split 'train' holds a patch of 128 x 128 px .* Lower"):
        ready(tiles, patch_size=128)


def test_invalid_tiles_give_no_patch_and_the_rest_serves(tmp_path: Path) -> None:
    nothing = np.ones((32, 32), bool)
    tiles = write_tiles(tmp_path, splits=["train"], hole={0: nothing, 1: nothing})
    data = ready(tiles)
    assert {int(tile) for batch in data.train_dataloader() for tile in batch["tile"]} <= {2, 3, 4, 5}


def test_only_invalid_tiles_are_an_error(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path, cells=(1, 1), hole={0: np.ones((32, 32), bool)})
    with pytest.raises(SourceError, match="no valid pixel on the source side"):
        ready(tiles)


def test_without_validation_tiles_training_patches_are_scored_and_it_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "rsgeo_gan"):
        data = ready(write_tiles(tmp_path))
    assert len(list(data.val_dataloader())) > 0
    assert "split 'val' has no patch of 16 px with 90 % valid; scores come from training patches" in caplog.text


def test_statistics_of_another_run_can_be_used(tiles: Path, tmp_path: Path) -> None:
    own = ready(tiles).facts
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"source": {**own["source"], "low": [-0.3, -0.3]}, "target": own["target"]}))
    facts = ready(tiles, statistics=str(other)).facts
    assert facts["source"]["low"] == [-0.3, -0.3]


@pytest.mark.parametrize(("name", "content"), [("a.json", b"{}"), ("a.ckpt", b"neither"), ("b.ckpt", b""), ("c", None)])
def test_statistics_that_are_none_are_refused(tiles: Path, tmp_path: Path, name: str, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"No statistics can be read from .*{name}.* Leave `statistics` out"):
        ready(tiles, statistics=str(tmp_path / name))


def test_an_epoch_smaller_than_a_batch_is_refused(tiles: Path) -> None:
    with pytest.raises(SourceError, match="an epoch of 2 patches is less than one batch of 4"):
        ready(tiles, length=2)
