from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.conditions import Conditions, Cyclic
from rsgeo_gan.datamodules import TileDataModule
from rsgeo_gan.datasets import ImageTileDataset, ImageTileSet, Patch
from rsgeo_gan.errors import CatalogError, CheckpointError, SourceError
from rsgeo_gan.labelled import conditions_of, values_of
from rsgeo_gan.manifest import Manifest, make_item
from rsgeo_gan.provenance import noise_seed
from rsgeo_gan.sensors import Scaler
from tests.synth import write_tiles

ZONES = ("EPSG:32632", "EPSG:32718", "EPSG:4326")
SPLITS = ("train", "train", "val", "train", "train", "test")


def write_chips(
    folder: Path,
    *,
    count: int = 6,
    size: int = 24,
    labels: Sequence[str | None] = ("crop", "water"),
    splits: Sequence[str] = SPLITS,
    hole: dict[int, np.ndarray] | None = None,
    bands: dict[int, int] | None = None,
    sizes: dict[int, int] | None = None,
) -> Path:
    """Write chips of different zones; value of band b of chip n is 1000 n + 100 b + column + 24 row."""
    manifest = Manifest(folder / "chips" / "chips.json")
    for number in range(count):
        side = (sizes or {}).get(number, size)
        degrees = ZONES[number % 3] == "EPSG:4326"
        step = 1e-4 if degrees else 10.0
        box = GeoBox(
            (side, side), Affine(step, 0, 3 + number if degrees else 500_013.0, 0, -step, 40.0), ZONES[number % 3]
        )
        rows, cols = np.mgrid[:side, :side]
        image = np.stack([1000 * number + 100 * b + cols + 24 * rows + 1 for b in range((bands or {}).get(number, 2))])
        valid = np.ones((side, side), bool) if not hole or number not in hole else ~hole[number]
        path = folder / "chips" / f"chip{number}" / "image.tif"
        names = [f"B{b + 2:02d}" for b in range(len(image))]
        stored = np.where(valid, image, 0).astype(np.uint16)
        raster.write(path, stored, box, valid=valid, nodata=0, names=names, unit="reflectance", scale=1e-4, cog=False)
        label = labels[number % len(labels)]
        properties: dict[str, Any] = {
            "rsgeo:split": splits[number % len(splits)],
            "rsgeo:sensor": "sentinel2-l2a",
            "rsgeo:digest": f"d{number}",
            "rsgeo:height": 10 * number,
            **({"rsgeo:label": label} if label else {}),
        }
        when = datetime(2023, 1 + number % 12, 1, tzinfo=UTC)
        manifest.add(make_item(f"chip{number}", box, when=when, properties=properties, assets={"image": path}))
    manifest.save()
    return manifest.path.parent


def ready(tiles: Path, stage: str = "fit", **more: Any) -> TileDataModule:
    data = TileDataModule(str(tiles), **{"patch_size": 16, "batch_size": 4, **more})
    data.setup(stage)
    return data


@pytest.fixture
def chips(tmp_path: Path) -> Path:
    return write_chips(tmp_path)


def test_a_batch_of_chips_of_three_zones_is_in_the_model_domain_with_its_conditions(chips: Path) -> None:
    data = ready(chips, conditions=["label", "day"], length=8)
    batch = next(iter(data.train_dataloader()))
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "image": (4, 2, 16, 16),
        "mask_valid": (4, 1, 16, 16),
        "tile": (4,),
        "origin_px": (4, 2),
        "label": (4,),
        "condition": (4, 4),
    }
    assert batch["image"].abs().max() <= 1
    assert batch["label"].tolist() == [int(tile) % 2 for tile in batch["tile"]]
    days = np.stack([Cyclic("day", 365.25).encode([1, 32, 60, 91, 121, 152][int(tile)]) for tile in batch["tile"]])
    torch.testing.assert_close(batch["condition"][:, 2:], torch.from_numpy(days))


def test_facts_are_plain_and_their_scaler_brings_the_stored_numbers_back(chips: Path) -> None:
    data = ready(chips, conditions=["label"])
    facts = data.facts
    assert json.loads(json.dumps(facts)) == facts
    assert facts["source_sensor"] == "sentinel2-l2a"
    assert facts["gsd"] == 10
    assert Conditions.from_dict(facts["conditions"]) == data.conditions
    scaler = Scaler.from_dict(facts["image"])
    assert (scaler.unit, scaler.bands, scaler.count) == ("reflectance", ("B02", "B03"), 4 * 24 * 24)
    dataset = ImageTileDataset(chips, scaler=scaler)
    sample = dataset[Patch(3, 5, 2, 16, 16)]
    back = scaler.inverse(sample["image"].numpy())
    rows, cols = np.mgrid[2:18, 5:21]
    np.testing.assert_allclose(back[1], (3000 + 100 + cols + 24 * rows + 1) * 1e-4, atol=1e-6)


def test_patches_lie_inside_tiles_and_hold_what_is_asked_for(tmp_path: Path) -> None:
    hole = np.zeros((48, 48), bool)
    hole[:8, :8] = True
    chips = write_chips(tmp_path, size=48, hole={0: hole}, splits=["train"])
    data = ready(chips, patch_size=24, min_valid=0.85, length=200)
    found = data.train_sampler.order(0)
    assert all(0 <= p.col <= 24 and 0 <= p.row <= 24 for p in found)
    worst = min(float(data.train_dataset[p]["mask_valid"].mean()) for p in found if p.tile == 0)
    assert 0.85 <= worst < 1


def test_what_is_not_usable_is_masked_in_patches_but_not_in_whole_tiles(tmp_path: Path) -> None:
    tiles = write_tiles(tmp_path, usable=(4, 0, 28, 32))
    dataset = ImageTileDataset(tiles, side="source")
    assert float(dataset[Patch(0, 0, 0, 32, 32)]["mask_valid"][0, :, :4].sum()) == 0
    assert float(dataset[Patch(0, 4, 0, 28, 32)]["mask_valid"].min()) == 1
    assert float(dataset[0]["mask_valid"].min()) == 1


@pytest.mark.parametrize(("side", "scale", "unit"), [("source", 2, "reflectance"), ("target", 2, "dB")])
def test_either_side_of_pairs_is_read_without_touching_their_statistics(
    tmp_path: Path, side: Any, scale: int, unit: str
) -> None:
    tiles = write_tiles(tmp_path, splits=["train", "val"], scale=scale)
    data = ready(tiles, side=side)
    assert data.facts["image"]["unit"] == unit
    assert sorted(path.name for path in tiles.glob("stats*")) == [f"stats-{side}.json", f"stats-{side}.npz"]
    size = 64 if side == "target" else 32
    whole = ImageTileDataset(tiles, side=side)[5]
    assert whole["image"].shape[-2:] == (size, size)
    # Tile 5 is the last of 3 x 2; the area begins at 500000 E, 4999910 N.
    assert whole["origin_px"].tolist() == [size // 32 * (50_000 + 64), size // 32 * (-499_991 + 32)]
    assert data.facts["gsd"] == (5 if side == "target" else 10)


def test_corners_half_a_pixel_off_the_lattice_are_rounded_to_one_side(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "chips" / "chips.json")
    for number in range(40):
        box = GeoBox((4, 4), Affine(0.1, 0, 0.05 + 0.4 * number, 0, -0.1, 0.05), "EPSG:32632")
        path = tmp_path / "chips" / f"c{number}.tif"
        raster.write(path, np.full((4, 4), number, np.uint8), box, cog=False)
        when = datetime(2023, 1, 1, tzinfo=UTC)
        manifest.add(make_item(f"c{number}", box, when=when, properties={}, assets={"image": path}))
    manifest.save()
    columns = [tile.col for tile in ImageTileSet(tmp_path / "chips").tiles]
    assert set(np.diff(columns)) == {4}


def test_a_rotated_tile_has_a_corner_in_its_own_pixels(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "chips" / "chips.json")
    transform = Affine.rotation(90) * Affine.scale(10, -10) * Affine.translation(30, 7)
    path = tmp_path / "chips" / "c.tif"
    box = GeoBox((4, 4), transform, "EPSG:32632")
    raster.write(path, np.ones((4, 4), np.uint8), box, cog=False)
    manifest.add(make_item("c", box, when=datetime(2023, 1, 1, tzinfo=UTC), properties={}, assets={"image": path}))
    manifest.save()
    assert ImageTileDataset(tmp_path / "chips")[0]["origin_px"].tolist() == [30, 7]


def test_an_epoch_depends_on_seed_and_epoch_and_goes_on_where_it_stopped(chips: Path) -> None:
    first, again = (ready(chips, seed=3, length=12) for _ in range(2))
    other = ready(chips, seed=4, length=12)
    assert list(first.train_sampler) == list(again.train_sampler) != list(other.train_sampler)
    again.train_sampler.resume(0, 8)
    assert list(again.train_sampler) == list(first.train_sampler)[8:]
    assert first.train_sampler.order(1) != first.train_sampler.order(0)


def test_balanced_patches_show_every_class_equally_often(tmp_path: Path) -> None:
    chips = write_chips(tmp_path, count=8, labels=["crop"] * 7 + ["water"], splits=["train"])
    data = ready(chips, conditions=["label"], balanced=True, length=1000)
    order = data.train_sampler.order(0)
    labels = Counter(data.train_dataset.labels[patch.tile] for patch in order)
    assert abs(labels[1] / 1000 - 0.5) < 0.05
    # Within the larger class every chip is equally likely.
    tiles = Counter(patch.tile for patch in order if patch.tile != 7)
    assert max(tiles.values()) / min(tiles.values()) < 1.8
    assert len({(p.col, p.row) for p in order}) > 20
    plain = ready(chips, conditions=["label"], length=1000)
    assert sum(plain.train_dataset.labels[p.tile] for p in plain.train_sampler.order(0)) < 200


def test_training_shrinks_to_nested_subsets_of_each_class_with_one_normalisation(tmp_path: Path) -> None:
    chips = write_chips(tmp_path, count=24, labels=["crop", "water", "town"], splits=["train"] * 7 + ["val"])
    used = {}
    for number in (None, 4, 2):
        data = ready(chips, conditions=["label"], per_class=number, length=300)
        used[number] = {data.train_dataset.tile_set.tiles[patch.tile].id for patch in data.train_sampler.order(0)}
        assert data.facts["train_tiles"] == len(used[number])
        assert data.facts["image"] == ready(chips).facts["image"]
        assert len(data.val_dataset.tile_set) == 3
    assert used[2] < used[4] < used[None]
    assert Counter(int(name[4:]) % 3 for name in used[2]) == {0: 2, 1: 2, 2: 2}
    other = ready(chips, per_class=2, seed=1, length=300).train_dataset.tile_set.tiles
    assert {tile.id for tile in other} != used[2]


def test_only_the_classes_asked_for_are_read(tmp_path: Path) -> None:
    chips = write_chips(tmp_path, count=12, labels=["crop", "water", "town"])
    data = ready(chips, "predict", conditions=["label"], classes=["town", "crop"])
    assert data.conditions.classes.classes == ("crop", "town")
    assert [int(tile) % 3 for batch in data.predict_dataloader() for tile in batch["tile"]] == [0, 2] * 4
    with pytest.raises(SourceError, match="No tile has the class sea; the tiles have crop, town, water"):
        ready(chips, classes=["sea"])


def test_prediction_walks_whole_tiles_with_a_seed_of_their_own(chips: Path) -> None:
    data = ready(chips, "predict", conditions=["label"])
    batches = list(data.predict_dataloader())
    assert [len(batch["image"]) for batch in batches] == [4, 2]
    assert torch.cat([b["tile"] for b in batches]).tolist() == list(range(6))
    assert torch.cat([b["seed"] for b in batches]).tolist() == [noise_seed(f"chip{n}") for n in range(6)]
    assert batches[0]["condition"].shape == (4, 2)


def test_statistics_of_a_model_serve_other_tiles(chips: Path, tmp_path: Path) -> None:
    scaler = ready(chips).facts["image"]
    other = write_tiles(tmp_path / "other")
    stored = tmp_path / "model.ckpt"
    torch.save({"rsgeo_gan": {"facts": {"image": scaler}}}, stored)
    assert ready(other, side="source", statistics=str(stored)).facts["image"] == scaler
    with pytest.raises(CheckpointError, match="No statistics can be read"):
        ready(other, side="source", statistics=str(tmp_path / "missing.json"))


def test_conditions_come_from_the_items(chips: Path) -> None:
    manifest = Manifest.read(chips)
    found = conditions_of(manifest, ["label", "height", {"kind": "cyclic", "name": "day", "period": 366}])
    assert found.names == ("label", "height", "day")
    assert found.encode(values_of(manifest.items[5], found.names))[2] == 1
    manifest.extra["rsgeo:classes"] = ["water", "town", "crop"]
    assert conditions_of(manifest, ["label"]).classes.classes == ("water", "crop")
    manifest.items[0].properties["rsgeo:dated"] = False
    with pytest.raises(SourceError, match="chip0 says nothing about the condition 'day'"):
        values_of(manifest.items[0], ["day"])
    with pytest.raises(CatalogError, match="describe it as classes"):
        conditions_of(manifest, ["sensor"])


def test_pixels_of_two_sizes_are_warned_of(chips: Path, caplog: pytest.LogCaptureFixture) -> None:
    ready(chips)
    assert "pixels of" not in caplog.text
    manifest = Manifest.read(chips)
    transform = manifest.items[3].properties["proj:transform"]
    manifest.items[3].properties["proj:transform"] = [
        2 * part if k in (0, 4) else part for k, part in enumerate(transform)
    ]
    manifest.save()
    ready(chips)
    assert "tile chip3 has pixels of 20, tile chip0 of 10; a network sees them as of one size" in caplog.text


def test_bad_collections_are_explained_before_training(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="chip1 says nothing about the condition 'label'"):
        ready(write_chips(tmp_path / "a", labels=["crop", None]), conditions=["label"])
    with pytest.raises(SourceError, match=r"chip2.* has the bands B02, B03, B04; expected B02, B03 as in the first"):
        ready(write_chips(tmp_path / "b", bands={2: 3}))
    with pytest.raises(SourceError, match=r"1 of 6 tiles are smaller than a patch of 16 x 16 px, the first is chip4"):
        ready(write_chips(tmp_path / "c", sizes={4: 8}))
    with pytest.raises(SourceError, match="balanced patches need classes"):
        ready(write_chips(tmp_path / "d"), balanced=True)
    with pytest.raises(SourceError, match="no asset 'image', only source, target"):
        ready(write_tiles(tmp_path / "e"))
    with pytest.raises(SourceError, match=r"training tiles of .* have no valid pixel on the image side"):
        ready(write_chips(tmp_path / "f", splits=["val"]))
