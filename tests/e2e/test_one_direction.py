"""A recipe with one generator in the whole chain: it makes the products it can, and is refused for others in time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import rasterio

from rsgeo_gan.chain import DIRECTIONS, Job, run_stage
from rsgeo_gan.errors import CatalogError
from rsgeo_gan.manifest import Manifest, asset_path
from tests.toy import TOY, run_cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RECIPE = "pix2pix-small"
SETTINGS = {
    "model.direction": "target_to_source",
    "trainer.max_epochs": 1,
    "model.generator.width": 4,
    "model.generator.depth": 3,
    "model.discriminator.width": 4,
    "data.patch_size": 64,
    "data.length": 4,
    "data.min_valid": 0.5,
    "data.val_length": 1,
}


@pytest.fixture(scope="module")
def tiled(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has come as far as its tiles."""
    out = tmp_path_factory.mktemp("paired") / "out"
    for stage in ("scenes", "pairs", "tiles"):
        shutil.copytree(toy_run / stage, out / stage)
    return out


def test_a_direction_that_the_recipe_has_not_is_refused_before_it_is_trained(tiled: Path) -> None:
    job = Job(str(TOY), str(tiled), directions=DIRECTIONS, recipe=RECIPE)
    said = f"asked for target_to_source, but recipe {RECIPE} translates source_to_target only"
    with pytest.raises(CatalogError, match=said):
        run_stage("train", job)
    assert not (tiled / "training").exists()


def test_of_the_catalogues_directions_those_that_are_there_are_made(tiled: Path) -> None:
    settings = [part for entry in SETTINGS.items() for part in ("--set", "training.overrides.{}={}".format(*entry))]
    done = run_cli("run", "--catalog", str(TOY), "--out", str(tiled), "--recipe", RECIPE, *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "translates target_to_source only" in done.stderr
    products = Manifest.read(tiled / "products" / "products.json")
    assert {item.properties["rsgeo:direction"] for item in products} == {"target_to_source"}
    with rasterio.open(asset_path(products.items[0], "data")) as product:
        assert product.descriptions == ("B02", "B03", "B04", "B08")
        assert product.read_masks(1).any()
    assert (tiled / "report" / "index.html").is_file()
