"""Synthetic images read back as samples, and mixed with real tiles in a stated share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchgeo.datasets import NonGeoDataset

from rsgeo_gan import raster
from rsgeo_gan.catalog import SyntheticProducts
from rsgeo_gan.conditions import Classes, Conditions
from rsgeo_gan.datamodules import TileDataModule
from rsgeo_gan.datasets import Patch, SyntheticDataset
from rsgeo_gan.errors import CatalogError, SourceError
from rsgeo_gan.inference.synthesis import synthesize
from rsgeo_gan.manifest import Manifest, asset_path
from tests.synthesis import CLASSES, EO_SCALER, SIZE_PX, checkpoint, tiles

COUNT = 3


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Manifest:
    return tiles(tmp_path_factory.mktemp("run") / "tiles")


@pytest.fixture(scope="module")
def products(places: Manifest) -> Manifest:
    """Three images of each class; not to be changed by tests."""
    folder = places.path.parents[1]
    model = checkpoint(folder / "models" / "synthesis.ckpt")
    return synthesize(model, folder / "products", SyntheticProducts(count=COUNT), tiles=places)


@pytest.fixture(scope="module")
def mixed(places: Manifest, products: Manifest) -> TileDataModule:
    """Half real, half synthetic; not to be changed by tests."""
    return module(places, products)


def module(places: Manifest, products: Manifest, share: float = 0.5, **more) -> TileDataModule:
    made = TileDataModule(
        str(places.path),
        patch_size=SIZE_PX,
        batch_size=2,
        length=10,
        conditions=["label"],
        val_length=2,
        mix={"products": str(products.path), "share": share},
        **more,
    )
    made.setup("fit")
    return made


def test_samples_say_that_they_are_synthetic_and_what_they_were_asked_to_be(products: Manifest) -> None:
    dataset = SyntheticDataset(products.path.parent, EO_SCALER)
    assert isinstance(dataset, NonGeoDataset)
    assert len(dataset) == 3 * COUNT
    for item, sample in zip(products, (dataset[k] for k in range(len(dataset))), strict=True):
        assert sample["synthetic"] == 1
        assert CLASSES[sample["label"]] == item.properties["rsgeo:label"]
        assert dataset.conditions.decode(sample["condition"].numpy())["day"] == pytest.approx(
            item.properties["rsgeo:conditions"]["day"], abs=1e-3
        )
        assert sample["image"].shape == (3, SIZE_PX, SIZE_PX)
        assert sample["mask_valid"].all()
        reflectance = raster.read(asset_path(item, "data"))[0] * 1e-4
        assert np.allclose(sample["image"], EO_SCALER.forward(reflectance), atol=1e-6)


def test_labels_follow_the_conditions_of_the_real_tiles(products: Manifest) -> None:
    turned = Conditions((Classes("label", CLASSES[::-1]),))
    dataset = SyntheticDataset(products.path, EO_SCALER, turned)
    assert [CLASSES[::-1][dataset[k]["label"]] for k in range(len(dataset))] == [
        item.properties["rsgeo:label"] for item in products
    ]
    with pytest.raises(CatalogError, match="there is no class 'field'"):
        SyntheticDataset(products.path, EO_SCALER, Conditions((Classes("label", ("forest",)),)))


def test_only_images_of_the_classes_trained_on_are_mixed_in(places: Manifest, products: Manifest) -> None:
    made = TileDataModule(
        str(places.path),
        patch_size=SIZE_PX,
        batch_size=2,
        classes=["forest"],
        val_length=2,
        mix={"products": str(products.path), "share": 0.5},
    )
    made.setup("fit")
    assert made.facts["mix"]["images"] == COUNT
    kept = [item.properties["rsgeo:label"] for item in map(made.train_dataset.synthetic.tile_set.item, _tiles(made))]
    assert kept == ["forest"] * COUNT


def _tiles(made: TileDataModule):
    return made.train_dataset.synthetic.tile_set.tiles


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_is_met_exactly_in_every_epoch_and_every_process(
    share: float, places: Manifest, products: Manifest
) -> None:
    made = module(places, products, share)
    for epoch in range(3):
        made.train_sampler.set_epoch(epoch)
        flags = torch.cat([batch["synthetic"] for batch in made.train_dataloader()])
        assert (len(flags), int(flags.sum())) == (10, round(share * 10))


def test_mixed_batches_carry_labels_and_conditions_of_both_kinds(
    mixed: TileDataModule, places: Manifest, products: Manifest
) -> None:
    for batch in mixed.train_dataloader():
        for kind, row, label, code in zip(
            batch["synthetic"], batch["tile"], batch["label"], batch["condition"], strict=True
        ):
            item = (products if kind else places).items[int(row)]
            assert CLASSES[label] == item.properties["rsgeo:label"] == mixed.conditions.decode(code.numpy())["label"]


def test_statistics_and_validation_are_those_of_the_real_tiles(mixed: TileDataModule, places: Manifest) -> None:
    plain = TileDataModule(str(places.path), patch_size=SIZE_PX, conditions=["label"])
    plain.setup("fit")
    assert mixed.facts["image"] == plain.facts["image"]
    assert mixed.facts["mix"]["share"] == 0.5
    assert all("synthetic" not in batch for batch in mixed.val_dataloader())
    assert "mix" not in plain.facts


@given(share=st.floats(0, 1), epoch=st.integers(0, 50), world=st.sampled_from([1, 2, 3]), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_an_epoch_depends_on_seed_and_epoch_alone(share, epoch, world, seed, mixed) -> None:
    order, dataset = type(mixed.train_sampler), mixed.train_dataset
    arguments = (mixed._drawn(dataset.real), 12, dataset.synthetic, share, 6, SIZE_PX, seed, 4)
    whole = order(*arguments, 0, world).order(epoch)
    assert whole == order(*arguments, world - 1, world).order(epoch)
    each = 12 // world
    for rank in range(world):
        run = whole[rank * each : (rank + 1) * each]
        assert sum(patch.tile >= 6 for patch in run) == round(share * each)


def test_synthetic_images_take_turns(places: Manifest, products: Manifest) -> None:
    made = module(places, products, 0.3)
    seen = Counter(
        patch.tile
        for epoch in range(3 * COUNT)
        for patch in made.train_sampler.order(epoch)
        if patch.tile >= len(places)
    )
    assert set(seen.values()) == {3}
    assert len(seen) == 3 * COUNT


def test_patches_lie_anywhere_inside_a_larger_image(places: Manifest, products: Manifest) -> None:
    made = module(places, products, 1.0)
    sampler = type(made.train_sampler)(
        made._drawn(made.train_dataset.real), 200, made.train_dataset.synthetic, 1.0, 6, SIZE_PX - 3
    )
    corners = {(patch.col, patch.row) for patch in sampler.order(0)}
    assert corners == {(col, row) for col in range(4) for row in range(4)}
    patch = Patch(len(places), 2, 1, 5, 5)
    assert torch.equal(made.train_dataset[patch]["image"], made.train_dataset.synthetic[0]["image"][:, 1:6, 2:7])


def test_what_cannot_be_mixed_is_said(places: Manifest, products: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected mix with a folder of products and a share from 0 to 1"):
        TileDataModule(mix={"share": 0.3})
    with pytest.raises(ValueError, match="share from 0 to 1"):
        TileDataModule(mix={"products": "x", "share": 1.3})
    with pytest.raises(SourceError, match="6 of 6 items are not marked as synthetic, the first is tile0"):
        SyntheticDataset(places.path)
    large = tiles(tmp_path / "tiles", size_px=24)
    made = TileDataModule(
        str(large.path), patch_size=20, batch_size=2, mix={"products": str(products.path), "share": 0.5}
    )
    with pytest.raises(SourceError, match="images smaller than a patch of 20 x 20 px"):
        made.setup("fit")
