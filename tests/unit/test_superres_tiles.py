"""Tiles with a known truth: their products, scores beside interpolation, and the page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rsgeo_gan import raster
from rsgeo_gan.errors import SourceError
from rsgeo_gan.inference import superresolver
from rsgeo_gan.inference.sharpening import reference_assets, sharpen_tiles
from rsgeo_gan.manifest import Manifest, asset_path, item_box, make_item
from rsgeo_gan.optics import thinned
from rsgeo_gan.report import superres_headline, superres_report
from rsgeo_gan.report.superres import interpolated, sharp_strips
from rsgeo_gan.score import score_sharp
from tests.generation import EO_BANDS, ORIGIN, WHEN, box
from tests.sharpening import HERE, SCALE, ToyTransfer, checkpoint

SIDE = 32


@pytest.fixture(autouse=True)
def _trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    load = superresolver.SuperResolver.load.__func__
    monkeypatch.setattr(
        superresolver.SuperResolver,
        "load",
        classmethod(lambda cls, path, **options: load(cls, path, trusted=(HERE,), **options)),
    )


def _tiles(root: Path, count: int = 4, *, references: int = 0) -> Manifest:
    """Tiles with real low-resolution images that are their exact block means; one has a hole."""
    made = Manifest(root / "tiles" / "tiles.json")
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = rng.integers(400, 2400, (3, SIDE // SCALE, SIDE // SCALE))
        fine = np.kron(coarse, np.ones((1, SCALE, SCALE))) + rng.integers(-90, 90, (3, SIDE, SIDE))
        if number == 1:
            fine[:, :6, :6] = 0
        low = fine.reshape(3, SIDE // SCALE, SCALE, SIDE // SCALE, SCALE).mean(axis=(2, 4))
        at = box(SIDE, SIDE, gsd=5.0, origin=(ORIGIN[0] + number * 5.0 * SIDE, ORIGIN[1]))
        folder = made.path.parent / f"tile{number}"
        about = {"nodata": 0, "names": EO_BANDS, "unit": "reflectance", "scale": 1e-4, "cog": False}
        assets = {
            "image": raster.write(folder / "image.tif", fine.astype(np.uint16), at, **about).resolve(),
            "low": raster.write(folder / "low.tif", low.astype(np.uint16), at.zoom_out(SCALE), **about).resolve(),
        }
        for name in ["reference", "reference-2"][:references]:
            shown = rng.integers(1, 255, (2, SIDE, SIDE)).astype(np.uint8)
            path = raster.write(folder / f"{name}.tif", shown, at, names=("red", "green"), unit="display", cog=False)
            assets[name] = path.resolve()
        split = "test" if number else "train"
        made.add(make_item(f"tile{number}", at, when=WHEN, properties={"rsgeo:split": split}, assets=assets))
    made.save()
    return made


def test_each_held_out_tile_becomes_one_product_on_its_own_pixels_and_rests_the_second_time(tmp_path):
    tiles = _tiles(tmp_path)
    path = checkpoint(tmp_path / "toy.ckpt")
    out = tmp_path / "products"
    made = sharpen_tiles(path, tiles, out, uncertainty=0)
    assert {item.properties["rsgeo:tile"] for item in made} == {"tile1", "tile2", "tile3"}
    for item in made:
        assert item_box(item) == item_box(tiles.get(item.properties["rsgeo:tile"]))
    stamps = {item.id: Path(asset_path(item, "data")).stat().st_mtime_ns for item in made}
    again = sharpen_tiles(path, tiles, out, uncertainty=0)
    assert {item.id: Path(asset_path(item, "data")).stat().st_mtime_ns for item in again} == stamps
    assert len(sharpen_tiles(path, tiles, tmp_path / "few", uncertainty=0, most=2)) == 2
    with pytest.raises(SourceError, match="no tile in the split 'val'"):
        sharpen_tiles(path, tiles, out, split="val")


def test_a_tile_without_a_coarse_image_is_degraded_as_in_training(tmp_path):
    tiles = _tiles(tmp_path)
    for item in tiles:
        del item.assets["low"]
    path = checkpoint(tmp_path / "toy.ckpt", degradation={"mtf": 0.3, "noise": 0.0})
    made = sharpen_tiles(path, tiles, tmp_path / "products", uncertainty=0)
    for item in made:
        assert item.properties["rsgeo:low"] == "degraded"
        assert item_box(item) == item_box(tiles.get(item.properties["rsgeo:tile"]))
        fine, valid = raster.read(asset_path(tiles.get(item.properties["rsgeo:tile"]), "image"))
        low, seen = raster.read(asset_path(item, "low"))
        wanted = thinned(np.where(valid, fine, np.nan), SCALE, 0.3)
        assert np.array_equal(seen, np.isfinite(wanted[0]))
        assert np.abs(low - wanted)[:, seen].max() <= 0.51
    assert (tmp_path / "products" / "low").is_dir()


def test_scores_of_block_means_are_exact_and_the_page_shows_them(tmp_path):
    tiles = _tiles(tmp_path, references=2)
    assert reference_assets(tiles.items[0]) == ["reference", "reference-2"]
    network = ToyTransfer()
    made = sharpen_tiles(checkpoint(tmp_path / "toy.ckpt", network), tiles, tmp_path / "products", uncertainty=2)
    assert all(len(item.properties["rsgeo:references"]) == 2 for item in made)
    rows = {row["method"]: row for row in score_sharp(tiles, made)}
    assert list(rows) == ["bicubic", "product"]
    assert rows["bicubic"]["tiles"] == "3"
    # A perfect product: the truth itself.
    perfect = Manifest(tmp_path / "perfect" / "products.json")
    for item in made:
        item = item.clone()
        item.assets["data"].href = asset_path(tiles.get(item.properties["rsgeo:tile"]), "image")
        perfect.add(item)
    best = score_sharp(tiles, perfect)[1]
    assert float(best["spectral angle, °"].split()[0]) < 1e-3
    assert float(best["ERGAS"].split()[0]) < 1e-6
    assert float(best["consistency"].split()[0]) <= 1e-4
    page = superres_report(tmp_path, scores=list(rows.values()), notes=["Something <b>odd</b>."]).read_text()
    assert 'src="strips.png"' in page
    assert "Something &lt;b&gt;odd&lt;/b&gt;." in page
    assert rows["bicubic"]["ERGAS"] in page
    titles = [cell.get_title() for cell in sharp_strips(tiles, made).axes[:8]]
    assert titles[:6] == ["input", "bicubic", "product", "truth", "reference", "reference-2"]
    assert titles[6] == "gate, 0 to 1"
    assert titles[7].startswith("uncertainty, 0 to ")
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [row["tiles"] for row in told["tiles"]] == [1, 0, 3]
    assert superres_headline(tmp_path)["scores"] == list(rows.values())


def test_what_was_blurred_is_compared_with_what_is_blurred_alike(tmp_path):
    tiles = _tiles(tmp_path)
    for item in tiles:
        del item.assets["low"]
    path = checkpoint(tmp_path / "toy.ckpt", degradation={"mtf": [0.2, 0.3, 0.4]})
    made = sharpen_tiles(path, tiles, tmp_path / "products", uncertainty=0)
    for item in made:
        item.assets["data"].href = asset_path(tiles.get(item.properties["rsgeo:tile"]), "image")
    product, smooth = score_sharp(tiles, made)[1], score_sharp(tiles, made)[0]
    assert float(product["consistency"].split()[0]) <= 0.5e-4
    assert float(smooth["consistency"].split()[0]) > 1e-3


def test_interpolation_lies_between_neighbours_and_leaves_holes():
    row, col = np.indices((12, 9))
    plane = (2.0 * row + col)[None].astype(np.float32)
    made = interpolated(plane, 3)
    fine_row, fine_col = (np.indices((36, 27)) + 0.5) / 3 - 0.5
    inner = np.s_[9:-9, 9:-9]
    # Bicubic kernels other than a = -0.5 keep a plane only roughly.
    assert np.allclose(made[0][inner], (2 * fine_row + fine_col)[inner], atol=0.4)
    hole = np.zeros((12, 9), bool)
    hole[2:4, 2:4] = True
    holed = interpolated(np.where(hole, np.nan, np.full_like(plane, 7)), 3)
    assert np.array_equal(np.isnan(holed[0]), hole.repeat(3, 0).repeat(3, 1))
    assert np.allclose(holed[np.isfinite(holed)], 7, atol=1e-4)


def test_the_page_of_no_product_says_why(tmp_path):
    _tiles(tmp_path)
    products = Manifest(tmp_path / "products" / "products.json")
    products.drop("tile1", "superres", "SourceError", "It broke off.")
    products.save()
    assert "It broke off." in superres_report(tmp_path).read_text()
