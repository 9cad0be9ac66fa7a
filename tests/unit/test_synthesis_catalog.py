"""The catalogue of a synthesis: what is refused, where paths start, what reaches the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rsgeo_gan.catalog import SynthesisCatalog, load, load_synthesis, products_of
from rsgeo_gan.chain import SynthesisJob
from rsgeo_gan.chain.synthesis import training_of
from rsgeo_gan.errors import CatalogError

RAW: dict[str, Any] = {
    "kind": "synthesis",
    "name": "chips",
    "collect": {
        "images": {"kind": "folder", "path": "images", "splits": {"train": "lists/train.txt"}},
        "labels": {"kind": "cover", "path": "cover.tif"},
        "tile_px": 32,
    },
    "conditions": ["label"],
}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "chips.yaml"
    path.write_text(yaml.safe_dump({**RAW, **changes}))
    return path


def read(folder: Path, **changes: Any) -> SynthesisCatalog:
    return load_synthesis(written(folder, **changes))


def test_relative_paths_start_from_the_file_or_its_root(tmp_path: Path) -> None:
    made = read(tmp_path)
    assert made.collect.images.path == tmp_path / "images"
    assert made.collect.images.splits == {"train": tmp_path / "lists" / "train.txt"}
    assert made.collect.labels.path == tmp_path / "cover.tif"
    assert read(tmp_path, root="elsewhere").collect.images.path == tmp_path / "elsewhere" / "images"
    assert (made.training.recipe, made.products.count, made.limits.max_failed_share) == ("synthesis", 16, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"product": {}}, r"key `product`: expected one of collect, .*Did you mean `products`\?"),
        ({"products": {"cout": 3}}, r"key `products\.cout`: .*Did you mean `count`\?"),
        ({"products": {"grid": {"crs": "EPSG:32632"}}}, r"key `products\.grid\.origin`: expected a value, got nothing"),
        ({"products": {"truncation": 3}}, r"key `products\.truncation`: expected less than or equal to 2"),
        (
            {"collect": {"images": {"kind": "web"}}},
            r"key `collect\.images\.kind`: .*folder, scenes, sample, tiles; got web",
        ),
        (
            {"collect": {"images": {"kind": "sample", "sizepx": 256}}},
            r"key `collect\.images\.sizepx`: expected one of kind, n_dates, seed, side, size_px; .*`size_px`\?",
        ),
        (
            {"collect": {"images": {"kind": "sample"}, "labels": {"kind": "cover", "share": 1}}},
            r"key `collect\.labels\.share`: expected one of glob, kind, legend, min_share, path",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_key(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=message):
        read(tmp_path, **changes)


def test_the_two_kinds_of_catalogue_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="Run it with `rsgeo-gan synthesize`"):
        load(written(tmp_path))
    with pytest.raises(CatalogError, match="Run it with `rsgeo-gan run`"):
        load_synthesis("sample")


def test_products_can_be_described_without_a_catalogue() -> None:
    made = products_of({"products.count": 3, "products.grid.crs": "EPSG:32632", "products.grid.origin": [0, 5]})
    assert made.count == 3
    assert made.grid is not None
    assert (made.grid.origin, made.grid.columns) == ((0, 5), 8)
    with pytest.raises(CatalogError, match="key `collect`: expected one of products"):
        products_of({"collect.tile_px": 3})


def test_conditions_and_tile_size_reach_the_training_and_overrides_have_the_last_word(tmp_path: Path) -> None:
    path = written(tmp_path, training={"recipe": "synthesis-small", "overrides": {"data.batch_size": 4}})
    job = SynthesisJob(str(path), str(tmp_path), settings={"training.overrides.data.patch_size": 16})
    told = training_of(job.load()).overrides
    assert told == {"data.conditions": ["label"], "data.patch_size": 16, "data.batch_size": 4}


def test_a_recipe_beside_the_catalogue_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {}")
    job = SynthesisJob(str(written(tmp_path, training={"recipe": "mine.yaml"})), str(tmp_path))
    assert job.load().training.recipe == str(tmp_path / "mine.yaml")
