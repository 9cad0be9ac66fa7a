"""The report: known answers for the scores, and a page that works whatever is missing."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from matplotlib.axes import Axes
from matplotlib.quiver import Quiver, QuiverKey
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.errors import SourceError
from rsgeo_gan.manifest import Manifest, make_item
from rsgeo_gan.report import headline, report
from rsgeo_gan.report.drawing import save
from rsgeo_gan.report.figures import map_of
from rsgeo_gan.report.scoring import score
from rsgeo_gan.report.tables import pair_row

SIDE = 96
WHEN = datetime(2024, 5, 1, tzinfo=UTC)
SPLITS = ("train", "train", "test", "val")


def box_at(column: int, row: int = 0, width: int = SIDE) -> GeoBox:
    return GeoBox((SIDE, width), Affine(10, 0, 600_000 + 10 * column, 0, -10, 5_300_000 - 10 * row), "EPSG:32632")


def speckled(rng: np.random.Generator, bands: int = 2, width: int = 4 * SIDE, looks: float = 4) -> np.ndarray:
    """Radar-like dB: broad structure times speckle."""
    columns = np.linspace(0, 6 * np.pi, width)
    rows = np.linspace(0, 4 * np.pi, SIDE)
    mean_db = -12 + 4 * np.sin(columns)[None, :] * np.cos(rows)[:, None]
    power = 10 ** (mean_db / 10) * rng.gamma(looks, 1 / looks, (bands, SIDE, width))
    return (10 * np.log10(power)).astype(np.float32)


def write(path: Path, values: np.ndarray, box: GeoBox, unit: str, names: tuple[str, ...], **more: Any) -> Path:
    valid = np.isfinite(values.astype(float)).all(axis=0)
    return raster.write(path, values, box, valid=valid, names=names, unit=unit, cog=False, **more)


def run_folder(
    root: Path,
    real: np.ndarray,
    made: np.ndarray | None,
    *,
    unit: str = "dB",
    names: tuple[str, ...] = ("VV", "VH"),
    splits: tuple[str, ...] = SPLITS,
    product_grid: GeoBox | None = None,
) -> Path:
    """A finished run: two scenes, a pair, a tile per split, and a product where `made` is given."""
    whole = box_at(0, width=real.shape[2])
    optical = np.full((1, *real.shape[1:]), 1500, np.uint16)
    source = write(root / "scenes/eo/data.tif", optical, whole, "reflectance", ("B04",), scale=1e-4, offset=-0.1)
    target = write(root / "scenes/sar/data.tif", real, whole, unit, names)
    scenes = Manifest(root / "scenes/scenes.json")
    for name, side, path in (("eo", "source", source), ("sar", "target", target)):
        properties = {"rsgeo:side": side, "rsgeo:sensor": "sentinel2-l2a", "rsgeo:bands": ["B04"]}
        scenes.add(make_item(name, whole, when=WHEN, properties=properties, assets={"data": path.resolve()}))
    scenes.drop("cloudy", "ingest", "cloud", "Scene cloudy has 93 % cloud & <no> use.")
    scenes.save()
    pairs = Manifest(root / "pairs/pairs.json")
    moved = Displacement(whole, "shift", (2.0, 0.0, 0.0, -1.0, 0.0, 0.0), 0.1, 0.9, True, 40, "")
    facts = {"rsgeo:displacement": moved.to_dict(), "rsgeo:reliable": True, "rsgeo:gap_days": 1.5}
    pairs.add(make_item("eo__sar", whole, when=WHEN, properties=facts, assets={}))
    pairs.save()
    tiles = Manifest(root / "tiles/tiles.json", extra={"rsgeo:skipped": {"too little valid data": 3}})
    for number, split in enumerate(splits):
        box, here = box_at(number * SIDE), np.s_[:, :, number * SIDE : (number + 1) * SIDE]
        folder = root / f"tiles/t{number}"
        assets = {
            "source": write(
                folder / "source.tif", optical[here], box, "reflectance", ("B04",), scale=1e-4, offset=-0.1
            ).resolve(),
            "target": write(folder / "target.tif", real[here], box, unit, names).resolve(),
        }
        properties = {
            "rsgeo:split": split,
            "rsgeo:source_item": "eo",
            "rsgeo:target_item": "sar",
            "rsgeo:source_sensor": "optics",
            "rsgeo:target_sensor": "radar",
            "rsgeo:index": [number, 0],
            "rsgeo:usable": [0, 0, SIDE, SIDE],
            "rsgeo:valid_share": 1.0,
        }
        tiles.add(make_item(f"t{number}", box, when=WHEN, properties=properties, assets=assets))
    tiles.save()
    if made is not None:
        grid = product_grid or whole
        tags = {"SYNTHETIC": "YES", "RSGEO_CHECKPOINT": "c0ffee" * 10, "RSGEO_DIRECTION": "source_to_target"}
        path = write(root / "products/eo_made.tif", made, grid, unit, names, tags=tags)
        properties = {"rsgeo:direction": "source_to_target", "rsgeo:from": ["eo"], "rsgeo:synthetic": True}
        products = Manifest(root / "products/products.json")
        products.add(make_item("eo_made", grid, when=WHEN, properties=properties, assets={"data": path.resolve()}))
        products.save()
    return root


def scored(root: Path) -> dict[str, Any]:
    """Score the products without drawing the page."""
    products, tiles = (Manifest.read(root / name / f"{name}.json") for name in ("products", "tiles"))
    _, directions = score(products.items, tiles, root, 2, lambda: None)
    assert len(directions) == 1
    return directions[0].to_dict()


def scores_of(root: Path) -> dict[str, dict[str, Any]]:
    return dict(scored(root)["scores"])


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("href", "src") and value]


def test_a_perfect_product_has_perfect_scores(tmp_path: Path, rng: np.random.Generator) -> None:
    real = speckled(rng)
    made = scores_of(run_folder(tmp_path, real, real.copy()))["generated"]
    assert made["correlation_multilook"] == pytest.approx(1, abs=1e-5)
    assert made["ssim_multilook"] == pytest.approx(1, abs=1e-5)
    assert made["ssim_tolerant"] == pytest.approx(1, abs=1e-5)
    assert made["spectrum_db"] == pytest.approx(0, abs=1e-4)
    assert made["amplitude_ks"] == pytest.approx(0, abs=1e-4)
    assert made["enl"] == made["enl_real"]
    assert made["shift_px"] == [0, 0]


def test_new_speckle_on_the_right_structure_beats_the_mean(tmp_path: Path, rng: np.random.Generator) -> None:
    real, made = speckled(rng), speckled(rng)
    scores = scores_of(run_folder(tmp_path, real, made))
    good, mean = scores["generated"], scores["mean value"]
    assert good["correlation_multilook"] > 0.9
    assert mean["correlation_multilook"] == 0
    assert good["ssim_multilook"] > mean["ssim_multilook"] + 0.3
    assert good["spectrum_db"] < 1.5 < mean["spectrum_db"]
    assert good["amplitude_ks"] < 0.05 < mean["amplitude_ks"]
    # A constant looks good in raw PSNR under speckle: the reason it is no gate.
    assert mean["psnr"] > good["psnr"] - 3


def test_a_shifted_product_is_forgiven_and_the_shift_is_told(tmp_path: Path, rng: np.random.Generator) -> None:
    real = speckled(rng)
    made = np.roll(real, (1, -2), axis=(1, 2))
    scores = scores_of(run_folder(tmp_path, real, made))["generated"]
    assert scores["ssim_tolerant"] > 0.99
    assert scores["psnr"] < 25
    # Real content lies to the right of and above the product's.
    assert scores["shift_px"] == [2, -1]


def test_the_mean_is_taken_in_linear_power_over_training_tiles(tmp_path: Path) -> None:
    real = np.full((1, SIDE, 4 * SIDE), -20, np.float32)
    real[:, : SIDE // 2, : 2 * SIDE] = 0  # half of the training pixels: mean power 0.505
    real[:, :, 2 * SIDE :] = -5.0  # held out
    scores = scores_of(run_folder(tmp_path, real, real.copy(), names=("VV",)))
    error_db = -5.0 - 10 * np.log10((1 + 0.01) / 2)
    assert scores["mean value"]["psnr"] == pytest.approx(20 * np.log10(30 / abs(error_db)), abs=1e-3)


def test_only_held_out_tiles_are_scored(tmp_path: Path, rng: np.random.Generator) -> None:
    real = speckled(rng)
    made = real.copy()
    made[:, :, : 2 * SIDE] = 30.0  # nonsense where the network has trained
    made[:, :, 3 * SIDE :] = 30.0  # and on validation, since a test tile exists
    root = run_folder(tmp_path, real, made)
    direction = scored(root)
    assert direction["scores"]["generated"]["correlation_multilook"] == pytest.approx(1, abs=1e-5)
    assert (direction["tiles"], direction["split"]) == (1, "test")


def test_invalid_pixels_count_on_neither_side(tmp_path: Path, rng: np.random.Generator) -> None:
    real = speckled(rng)
    made = real.copy()
    real[:, 10:40, 2 * SIDE + 5 : 2 * SIDE + 30] = np.nan
    made[:, 50:60, 2 * SIDE + 50 : 2 * SIDE + 90] = np.nan
    scores = scores_of(run_folder(tmp_path, real, made))["generated"]
    assert scores["correlation_multilook"] == pytest.approx(1, abs=1e-4)
    assert scores["amplitude_ks"] == pytest.approx(0, abs=1e-4)


def test_products_on_another_grid_are_warped_to_the_tiles(tmp_path: Path, rng: np.random.Generator) -> None:
    smooth = speckled(rng, looks=5000)
    fine = np.repeat(np.repeat(smooth, 2, axis=1), 2, axis=2)
    grid = GeoBox(fine.shape[1:], Affine(5, 0, 600_000, 0, -5, 5_300_000), "EPSG:32632")
    scores = scores_of(run_folder(tmp_path, smooth, fine, product_grid=grid))["generated"]
    assert scores["correlation_multilook"] > 0.999
    assert scores["psnr"] > 40


def test_display_values_get_no_looks_and_a_span_of_255(tmp_path: Path, rng: np.random.Generator) -> None:
    real = rng.integers(0, 255, (1, SIDE, 4 * SIDE)).astype(np.uint8)
    made = np.clip(real.astype(int) + 1, 0, 255).astype(np.uint8)
    root = run_folder(tmp_path, real, made, unit="display", names=("VH",))
    scores = scores_of(root)
    assert "enl" not in scores["generated"]
    assert scores["generated"]["psnr"] == pytest.approx(20 * np.log10(255), abs=0.05)
    page = report(root).read_text()
    assert "Equivalent number of looks" not in page
    assert "(display, uint8)" in page


def test_an_untrained_generator_is_compared_when_it_is_there(tmp_path: Path, rng: np.random.Generator) -> None:
    real = speckled(rng)
    root = run_folder(tmp_path, real, real.copy())
    noise = rng.normal(-12, 3, (2, SIDE, SIDE)).astype(np.float32)
    write(root / "baseline/untrained/t2.tif", noise, box_at(2 * SIDE), "dB", ("VV", "VH"))
    direction = scored(root)
    assert abs(direction["scores"]["untrained"]["correlation_multilook"]) < 0.3
    rows = headline({"directions": [direction]})
    assert [row["raster"] for row in rows] == [
        "optics → radar: generated",
        "optics → radar: untrained",
        "optics → radar: mean value",
    ]
    assert len({tuple(row) for row in rows}) == 1


def test_only_the_newest_checkpoint_counts_for_a_direction(tmp_path: Path, rng: np.random.Generator) -> None:
    real = speckled(rng)
    root = run_folder(tmp_path, real, real.copy())
    products = Manifest.read(root / "products/products.json")
    newest = products.items[0]
    newest.properties |= {"rsgeo:checkpoint": "b", "created": "2024-06-02T00:00:00Z"}
    older = newest.clone()
    older.id = "eo_older"
    older.properties |= {"rsgeo:checkpoint": "a", "created": "2024-06-01T00:00:00Z"}
    noise = write(
        root / "products/older.tif", speckled(rng)[:, ::-1].copy(), box_at(0, width=4 * SIDE), "dB", ("VV", "VH")
    )
    older.assets["data"].href = str(noise.resolve())
    products.items = [newest, older]
    products.save()
    direction = scored(root)
    assert direction["tiles"] == 1
    assert direction["scores"]["generated"]["correlation_multilook"] == pytest.approx(1, abs=1e-5)


def test_the_page_is_whole_and_needs_no_network(tmp_path: Path, rng: np.random.Generator) -> None:
    real = speckled(rng)
    root = run_folder(tmp_path, real, speckled(rng))
    logs = root / "training/abc/version_0/metrics.csv"
    logs.parent.mkdir(parents=True)
    logs.write_text("epoch,step,train_g/cycle,train_d/total,val/l1\n0,4,0.9,1.0,\n0,9,0.5,0.8,\n0,9,,,0.3\n")
    page = report(root, radius_px=2)
    html = page.read_text()
    assert "http" not in html
    assert "<script" not in html
    links = Links()
    links.feed(html)
    files = [link for link in links.found if not link.startswith("#")]
    assert "../products/eo_made.tif" in files
    assert "images/curves-0.png" in files
    for link in files:
        assert (page.parent / link).is_file(), link
    anchors = {link[1:] for link in links.found if link.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', html))
    assert "c0ffee" * 10 in html
    assert "Scene cloudy has 93 % cloud &amp; &lt;no&gt; use." in html
    assert "3 × too little valid data" in html
    assert "+2.00, -1.00" in html
    assert "+20.0, -10.0" in html
    assert headline(root) == headline(json.loads((page.parent / "scores.json").read_text()))
    assert len(headline(root)) == 2


def test_an_empty_folder_gets_a_page_that_says_so(tmp_path: Path) -> None:
    page = report(tmp_path)
    html = page.read_text()
    for sentence in (
        "no product lies in this folder yet",
        "No product has been generated here",
        "No pair of scenes was formed",
        "No scene was ingested",
        "Nothing was trained in this folder",
        "Nothing was left out",
    ):
        assert sentence in html
    assert headline(tmp_path) == []


def test_without_held_out_tiles_nothing_is_scored_and_the_page_says_why(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    real = speckled(rng)
    root = run_folder(tmp_path, real, real.copy(), splits=("train",) * 4)
    html = report(root).read_text()
    assert "no tile of this scene is held out of training" in html
    assert headline(root) == []


def test_a_product_whose_file_is_gone_is_left_out(tmp_path: Path, rng: np.random.Generator) -> None:
    root = run_folder(tmp_path, speckled(rng), speckled(rng))
    (root / "products/eo_made.tif").unlink()
    assert "No product has been generated here" in report(root).read_text()


def test_an_unreadable_tile_does_not_stop_the_report(tmp_path: Path, rng: np.random.Generator) -> None:
    root = run_folder(tmp_path, speckled(rng), speckled(rng))
    (root / "tiles/t2/target.tif").write_bytes(b"no raster")
    html = report(root).read_text()
    assert "share no valid pixel" in html


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles/tiles.json").write_text("{")
    with pytest.raises(SourceError, match=r"tiles\.json is not an item collection"):
        report(tmp_path)


def test_progress_ends_at_its_total_and_earlier_pictures_go_away(tmp_path: Path, rng: np.random.Generator) -> None:
    seen: list[tuple[int, int]] = []
    root = run_folder(tmp_path, speckled(rng), None)
    left = root / "report/images/old.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"")
    report(root, progress=lambda _, done, total: seen.append((done, total)))
    assert not left.exists()
    assert (root / "report/images/map.png").is_file()
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def pair_with(root: Path, moved: Displacement, **assets: Path) -> Manifest:
    """A manifest of one pair."""
    facts = {"rsgeo:displacement": moved.to_dict(), "rsgeo:reliable": moved.reliable, "rsgeo:reason": moved.reason}
    pairs = Manifest(root / "pairs.json")
    pairs.add(make_item("eo__sar", moved.geobox, when=WHEN, properties=facts, assets=assets))
    return pairs


def bent(root: Path, box: GeoBox) -> tuple[Displacement, Path]:
    """A field: dx grows from 0 to 4 px to the right, dy is -1 px, errors grow downwards; and its file."""
    nodes = GeoBox((8, 16), box.affine * Affine.scale(box.shape.x / 16, box.shape.y / 8), box.crs)
    dx, _ = np.meshgrid(np.linspace(0, 4, 16), np.ones(8))
    values = np.stack([dx, -np.ones_like(dx)]).astype(np.float32)
    sigma = np.linspace(0.2, 0.8, 8, dtype=np.float32)[:, None] * np.ones((1, 16), np.float32)
    trust = np.full((8, 16), 0.75, np.float32)
    field = Field(nodes, values, sigma, trust)
    moved = Displacement(box, "field", (2.0, 0.01, 0.0, -1.0, 0.0, 0.0), 0.5, 0.75, True, 88, "", field)
    names = ("dx", "dy", "confidence", "sigma_px")
    path = raster.write(root / "displacement.tif", np.stack([*values, trust, sigma]), nodes, names=names, cog=False)
    return moved, path


def drawn(pairs: Manifest) -> Axes:
    """The panel of the only pair."""
    scenes = Manifest(pairs.path.with_name("scenes.json"))
    scenes.add(make_item("eo", box_at(0), when=WHEN, properties={"rsgeo:side": "source"}, assets={}))
    figure = map_of(scenes, pairs, Manifest(pairs.path.with_name("tiles.json")))
    assert figure is not None
    save(figure, pairs.path.with_name("map.png"))
    return figure.axes[1]


def test_a_field_is_told_by_its_mean_and_drawn_by_its_arrows_and_errors(tmp_path: Path) -> None:
    moved, path = bent(tmp_path, box_at(0, width=4 * SIDE))
    pairs = pair_with(tmp_path, moved, displacement=path)
    row = pair_row(pairs.items[0])
    assert (row["model"], row["shift"], row["metres"]) == ("field", "+2.00, -1.00", "+20.0, -10.0")
    assert (row["sigma"], row["confidence"], row["points"]) == ("0.50", "0.75", "88")
    panel = drawn(pairs)
    (arrows,) = [part for part in panel.collections if isinstance(part, Quiver)]
    right = np.asarray(arrows.U).reshape(7, 7).mean(axis=0)
    assert np.all(np.diff(right) > 0.4)
    assert np.allclose(arrows.V, -1, atol=1e-3)
    (tint,) = panel.images
    errors = np.asarray(tint.get_array())
    assert errors[0].max() < 0.3
    assert errors[-1].min() > 0.7
    (key,) = panel.findobj(QuiverKey)
    assert key.text.get_text() == "2 px = 20 m"


def test_a_shift_has_no_map_of_errors(tmp_path: Path) -> None:
    box = box_at(0)
    panel = drawn(pair_with(tmp_path, Displacement(box, "shift", (2.0, 0, 0, 0.5, 0, 0), 0.1, 0.9, True, 40)))
    assert not panel.images
    assert panel.get_title(loc="left").endswith("shift: dx +2.00, dy +0.50 px")


def test_a_declined_pair_is_grey_and_says_why(tmp_path: Path) -> None:
    pairs = pair_with(tmp_path, Displacement.none(box_at(0), reason="halves disagree"))
    panel = drawn(pairs)
    assert [text.get_text() for text in panel.texts] == ["halves disagree"]
    assert not panel.collections
    row = pair_row(pairs.items[0])
    assert (row["shift"], row["metres"], row["sigma"], row["reason"]) == ("left alone", "–", "–", "halves disagree")


def test_tie_points_are_told_apart_by_whether_they_were_used(tmp_path: Path) -> None:
    box = box_at(0)
    east, north = 600_000 + np.array([100.0, 400.0, 900.0]), 5_300_000 - np.array([50.0, 450.0, 850.0])
    places = shapely.linestrings([[(x, y), (x + 30, y)] for x, y in zip(east, north, strict=True)])
    layer = geopandas.GeoDataFrame({"used": [True, False, True]}, geometry=places, crs="EPSG:32632")
    layer.to_file(tmp_path / "tie_points.gpkg", driver="GPKG", layer="tie_points")
    moved = Displacement(box, "shift", (3.0, 0, 0, 0, 0, 0), 0.1, 0.9, True, 2)
    used, rejected = drawn(pair_with(tmp_path, moved, tie_points=tmp_path / "tie_points.gpkg")).lines
    assert np.allclose(used.get_xydata(), [[10, 5], [90, 85]])
    assert np.allclose(rejected.get_xydata(), [[40, 45]])


def test_a_field_whose_file_is_gone_does_not_stop_the_report(tmp_path: Path) -> None:
    moved, _ = bent(tmp_path, box_at(0))
    pairs = pair_with(tmp_path, moved, displacement=tmp_path / "gone.tif")
    assert "gone.tif" in pair_row(pairs.items[0])["reason"]
    assert drawn(pairs).get_title(loc="left").endswith("left alone")


def test_metres_of_a_geographic_grid_are_those_on_the_ground(tmp_path: Path) -> None:
    box = GeoBox((100, 100), Affine(2e-4, 0, 10.0, 0, -1e-4, 60.005), "EPSG:4326")
    moved = Displacement(box, "shift", (1.0, 0, 0, 1.0, 0, 0), 0.1, 0.9, True, 40)
    # Half a degree of longitude is half as long at 60° north: both are about 11.1 m.
    assert pair_row(pair_with(tmp_path, moved).items[0])["metres"] == "+11.2, +11.1"
