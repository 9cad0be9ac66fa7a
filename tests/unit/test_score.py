"""Folders of rasters judged against real ones: reading, scores with known order, tables, and errors in words."""

from __future__ import annotations

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from matplotlib.figure import Figure
from matplotlib.image import imread
from odc.geo.geobox import GeoBox
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from rsgeo_gan import cli
from rsgeo_gan.errors import CatalogError, CheckpointError, ProductError, SourceError
from rsgeo_gan.manifest import Manifest, make_item
from rsgeo_gan.progress import silent
from rsgeo_gan.score import score_folders
from rsgeo_gan.score.images import ImageSet, look, short_names, tiles_of

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
SIDE = 16
QUICK: dict[str, Any] = {"judge": "none", "draws": 2}


def _scenes(count: int, seed: int, bands: int = 2) -> np.ndarray:
    """Smooth tiles of unlike brightness, 0 to 255."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.normal(size=(count, bands, SIDE, SIDE)), (0, 0, 2, 2))
    return np.clip(120 + 150 * smooth + rng.normal(0, 20, (count, bands, 1, 1)), 0, 255)


def _put(path: Path, values: np.ndarray, **facts: Any) -> Path:
    """Write a GeoTIFF; without georeference unless one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = values.shape
    units, names = facts.pop("units", None), facts.pop("names", None)
    scale = facts.pop("scale", None)
    with rasterio.open(
        path, "w", driver="GTiff", count=bands, height=height, width=width, dtype=values.dtype, **facts
    ) as dataset:
        dataset.write(values)
        if units:
            dataset.units = (units,) * bands
        if names:
            dataset.descriptions = names
        if scale:
            dataset.scales, dataset.offsets = (scale[0],) * bands, (scale[1],) * bands
    return path


def _folder(path: Path, tiles: np.ndarray, kind: str = "uint8", **facts: Any) -> Path:
    for number, tile in enumerate(tiles):
        _put(path / f"{number:03}.tif", tile.astype(kind), **facts)
    return path


def _tiles(path: Path, tile_px: int = SIDE, **told: Any) -> ImageSet:
    limits = {key: told.pop(key, value) for key, value in {"most": 100, "min_valid": 0.5}.items()}
    return tiles_of(look(path, **told), "set", tile_px, seed=0, progress=silent, **limits)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the picture blank; one test looks at it."""
    monkeypatch.setattr("rsgeo_gan.score.folders.picture", lambda scores, sets: Figure((1, 1)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real set, other real tiles, noisy ones, and a copy of the real set."""
    root = tmp_path_factory.mktemp("sets")
    real, twin = _scenes(40, 0), _scenes(30, 1)
    _folder(root / "real", real)
    _folder(root / "copy", real)
    _folder(root / "twin", twin)
    noise = np.random.default_rng(2).normal(0, 40, twin.shape)
    _folder(root / "noisy", np.clip(twin + noise, 0, 255))
    return root


def test_the_command_line_judges_folders_and_writes_table_and_figure(folders: Path, tmp_path: Path) -> None:
    arguments = [str(folders / name) for name in ("real", "twin", "noisy")]
    said = runner.invoke(
        cli.app, ["score", *arguments, "--out", str(tmp_path), "--seeds", "2", "--draws", "4", "--levels"]
    )
    assert said.exit_code == 0, said.output
    assert "FD-random-conv-v1-seed0-2band" in said.output
    found = json.loads((tmp_path / "scores.json").read_text())
    real, twin, noisy = found["rows"]
    assert (found["count"], found["tile_px"], found["backend"]) == (15, SIDE, "random-conv-v1-seed0-2band-9d")
    for key in ("frechet", "kernel", "spectrum_db", "leakage"):
        assert twin[key]["value"] < noisy[key]["value"], key
        assert twin[key]["low"] <= real[key]["high"], key
    assert noisy["recall"]["value"] < real["recall"]["value"]
    assert twin["nrds"] + noisy["nrds"] == pytest.approx(1)
    assert twin["nrds"] > noisy["nrds"] + 0.1
    assert found["agreement"] == {"frechet": 1.0, "kernel": 1.0}
    assert [len(found["outputs"][name]) for name in ("real", "twin", "noisy")] == [20] * 3
    assert len(found["level_cutoffs"]) == len(noisy["levels"]) == 9
    # Noise is in the fine texture more than in the whole image.
    assert noisy["levels"][1] > noisy["levels"][0]
    lines = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [line["set"] for line in lines] == ["real", "twin", "noisy"]
    assert float(lines[2]["frechet"]) == pytest.approx(noisy["frechet"]["value"])
    assert lines[0]["nrds"] == ""
    page = (tmp_path / "scores.md").read_text()
    assert "| real (halves) | 40 |" in page
    assert "## By level of frequency" in page
    height, width = imread(tmp_path / "scores.png").shape[:2]
    assert min(height, width) > 800


@pytest.mark.usefixtures("undrawn")
def test_a_copy_of_the_real_set_is_nowhere_apart(folders: Path, tmp_path: Path) -> None:
    scores = score_folders(folders / "real", [folders / "copy"], tmp_path, **QUICK)
    row = scores.rows[1]
    assert abs(row.frechet_all or 1) < 1e-6
    assert row.values_ks_bands == pytest.approx((0, 0), abs=0.08)
    assert (row.nrds, scores.agreement, scores.judge) == (None, None, None)


@pytest.mark.usefixtures("undrawn")
def test_unequal_sets_are_drawn_alike_or_refused(folders: Path, tmp_path: Path) -> None:
    fakes = [folders / "twin", folders / "copy"]
    scores = score_folders(folders / "real", fakes, tmp_path, **QUICK)
    assert [row.tiles for row in scores.rows] == [40, 30, 30]
    assert "30 were drawn from each" in scores.notes[0]
    assert "differ in size" in (tmp_path / "scores.md").read_text()
    with pytest.raises(SourceError, match=r"differ in size \(twin: 30, copy: 40 tiles\): unequal sets bias"):
        score_folders(folders / "real", fakes, tmp_path, strict=True, **QUICK)


@pytest.mark.usefixtures("undrawn")
def test_storage_gives_nobody_away(folders: Path, tmp_path: Path) -> None:
    """The same tiles as floating point with fractions become those of whole numbers."""
    twin = _scenes(30, 1)
    _folder(tmp_path / "float", twin + np.random.default_rng(0).uniform(0.05, 0.45, twin.shape) % 1, "float32")
    _folder(tmp_path / "whole", twin.round())
    scores = score_folders(
        folders / "real", [tmp_path / "float", tmp_path / "whole"], tmp_path / "out", **QUICK, bands=[2]
    )
    assert any("all were rounded to steps of 1" in note for note in scores.notes)
    first, second = scores.rows[1:]
    assert first.values_ks_bands[0] == pytest.approx(second.values_ks_bands[0], abs=0.02)


@pytest.mark.usefixtures("undrawn")
def test_classes_are_scored_by_themselves(tmp_path: Path) -> None:
    dark, bright = _scenes(12, 0), np.clip(_scenes(12, 1) + 80, 0, 255)
    for name, (water, town) in {"real": (dark, bright), "good": (dark, bright), "swapped": (bright, dark)}.items():
        _folder(tmp_path / name / "water", water)
        _folder(tmp_path / name / "town", town)
    scores = score_folders(tmp_path / "real", [tmp_path / "good", tmp_path / "swapped"], tmp_path / "out", **QUICK)
    good, swapped = scores.rows[1:]
    assert good.frechet_all == pytest.approx(swapped.frechet_all, abs=1e-6)
    assert list(good.classes) == ["town", "water"]
    assert swapped.classes["water"]["frechet"] > good.classes["water"]["frechet"] + 0.5
    assert "| water |" in (tmp_path / "out" / "scores.md").read_text()
    one = score_folders(tmp_path / "real", [tmp_path / "good"], tmp_path / "out", classes=["water"], **QUICK)
    assert one.rows[1].tiles == 12
    with pytest.raises(SourceError, match="of the classes ice, got the classes town, water"):
        score_folders(tmp_path / "real", [tmp_path / "good"], tmp_path / "out", classes=["ice"], **QUICK)


def test_scenes_are_cut_where_they_are_valid(tmp_path: Path) -> None:
    scene = np.arange(2 * 40 * 50, dtype=np.float32).reshape(2, 40, 50)
    scene[:, :16, :16] = -9999
    scene[0, 20, 20] = -9999
    path = _put(tmp_path / "scene.tif", scene, nodata=-9999, transform=Affine(10, 0, 0, 0, -10, 0), crs="EPSG:32632")
    _put(tmp_path / "chip.png.tif", scene[:, :8, :8], nodata=-9999)
    found = _tiles(tmp_path)
    # Two rows by three columns, the first place empty; the chip is too small.
    assert len(found) == 5
    np.testing.assert_array_equal(found.images[0], scene[:, :16, 16:32])
    assert np.argwhere(np.isnan(found.images)).tolist() == [[3, band, 4, 4] for band in (0, 1)]
    assert [note.partition(": ")[2] for note in found.notes] == [
        "1 tiles left out, less than 50 % valid pixels",
        "1 rasters left out, smaller than 16 px",
    ]
    assert look(path).gsd_m == 10
    assert len(_tiles(path, most=2)) == 2


def test_values_become_analysis_units(tmp_path: Path) -> None:
    decibel = np.random.default_rng(0).uniform(-25, 0, (2, SIDE, SIDE)).astype(np.float32)
    _put(tmp_path / "linear" / "a.tif", (10 ** (decibel / 10)).astype(np.float32))
    _put(tmp_path / "decibel" / "a.tif", decibel, units="dB", names=("VV", "VH"))
    linear = _tiles(tmp_path / "linear", sensor="sentinel1-rtc")
    declared = _tiles(tmp_path / "decibel", sensor="sentinel1-rtc")
    np.testing.assert_allclose(linear.images, declared.images, atol=1e-4)
    assert (linear.folder.unit, declared.folder.unit) == ("dB", "dB")
    assert declared.folder.bands == linear.folder.bands == ("VV", "VH")
    dn = np.full((1, SIDE, SIDE), 3000, np.uint16)
    _put(tmp_path / "scaled" / "a.tif", dn, scale=(1e-4, -0.1))
    scaled = _tiles(tmp_path / "scaled")
    np.testing.assert_allclose(scaled.images, 0.2, atol=1e-6)
    assert scaled.folder.steps == pytest.approx((1e-4,))
    with pytest.raises(SourceError, match="linear power, which cannot be negative"):
        _tiles(_put(tmp_path / "wrong" / "a.tif", decibel), sensor="sentinel1-rtc")


@pytest.mark.parametrize(("declared", "kept"), [(None, 14 / 16), (0, 11 / 16 * 14 / 16)])
def test_a_dark_band_is_missing_only_where_the_file_says_so(declared: int | None, kept: float, tmp_path: Path) -> None:
    values = np.full((13, SIDE, SIDE), 1000, np.uint16)
    values[10, :5] = 0
    values[:, :, :2] = 0
    _put(tmp_path / "chip.tif", values, nodata=declared)
    found = _tiles(tmp_path, sensor="sentinel2-l1c")
    assert np.isfinite(found.images[0]).all(axis=0).mean() == pytest.approx(kept)


def test_an_alpha_band_is_a_mask_and_colours_are_named(tmp_path: Path) -> None:
    rgba = np.full((4, SIDE, SIDE), 100, np.uint8)
    rgba[3, 0, :] = 0
    found = _tiles(_put(tmp_path / "rgba.tif", rgba, photometric="rgb", alpha="yes"))
    assert found.folder.bands == ("red", "green", "blue")
    assert found.folder.unit == "display"
    assert np.isnan(found.images[0, :, 0]).all()
    assert (found.images[0, :, 1:] == 100).all()


def test_items_say_class_split_and_image(tmp_path: Path) -> None:
    box = GeoBox((SIDE, SIDE), Affine(10, 0, 600_000, 0, -10, 5_200_000), "EPSG:32632")
    items = []
    for number, label in enumerate(("forest", "water", "water")):
        path = _put(tmp_path / "tiles" / f"{number}.tif", np.full((1, SIDE, SIDE), number, np.uint8))
        mask = _put(tmp_path / "tiles" / f"{number}-mask.tif", np.ones((1, SIDE, SIDE), np.uint8))
        properties = {"rsgeo:label": label, "rsgeo:split": "test" if number else "train"}
        assets = {"image": path, "mask": mask}
        when = datetime(2024, 6, 1, tzinfo=UTC)
        items.append(make_item(f"t{number}", box, when=when, properties=properties, assets=assets))
    Manifest(tmp_path / "tiles" / "tiles.json", items).save()
    found = _tiles(tmp_path)
    assert found.labels == ("forest", "water", "water")
    assert found.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert len(_tiles(tmp_path, split="test")) == 2
    assert (_tiles(tmp_path, asset="mask").images == 1).all()
    with pytest.raises(SourceError, match=r"in the asset thumb, got image, mask; name the asset"):
        look(tmp_path, asset="thumb")


def test_names_tell_folders_apart() -> None:
    assert short_names([Path("/a/x/products"), Path("/a/y/products")]) == ["x/products", "y/products"]


def _bad(name: str, root: Path) -> dict[str, Any]:
    """Arguments that must be refused."""
    good = _folder(root / "good", _scenes(12, 0))
    fake = root / name
    more: dict[str, Any] = {}
    if name == "empty":
        fake.mkdir()
        (fake / "readme.txt").write_text("nothing")
    elif name == "mixed":
        _folder(fake, _scenes(12, 1))
        _put(fake / "wide.tif", _scenes(1, 2, bands=3)[0].astype("uint8"))
    elif name == "wide":
        _folder(fake, _scenes(12, 1, bands=3))
    elif name == "few":
        _folder(fake, _scenes(4, 1))
    elif name == "radar":
        _folder(fake, _scenes(12, 1), "float32", units="dB")
    elif name == "tiny":
        _folder(fake, _scenes(12, 1)[..., :8, :8])
    elif name == "complex":
        _put(fake / "slc.tif", _scenes(1, 1)[0].astype("complex64"))
    elif name == "broken":
        _folder(fake, _scenes(12, 1))
        (fake / "last.tif").write_bytes(b"II*\0nothing")
    elif name == "flat":
        good = _folder(root / "flat", np.full((12, 2, SIDE, SIDE), 7.0), "float32")
        fake = good
    elif name != "missing":
        _folder(fake, _scenes(12, 1))
        more = {
            "backend": {"backend": "vgg"},
            "weights": {"backend": "inception"},
            "unread": {"backend": "inception", "weights": root / "none.pt"},
            "judge": {"judge": "strict"},
            "sensors": {"sensors": ["a", "b", "c"]},
            "band": {"bands": [5]},
            "split": {"split": "test"},
        }[name]
    return {"real": good, "fakes": [fake], "out": root / "out", **QUICK, **more}


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("missing", SourceError, r"no folder .*missing\. Check the path"),
        ("empty", SourceError, r"holds no raster: expected files such as .*got 1 other"),
        ("mixed", SourceError, r"same number of bands, got 2 \(011\.tif\) and 3 \(wide\.tif\); choose bands"),
        ("wide", SourceError, r"expected 2 bands as in .*got 3 \(.*choose the same bands"),
        ("few", SourceError, r"at least 10 tiles of 16 px .*got 4 from 4 rasters; give more rasters"),
        ("radar", SourceError, r"expected values in display as in .*, got dB; name the sensors"),
        ("tiny", SourceError, r"Tiles of 8 px are too small: expected at least 16; give --tile-px"),
        ("complex", SourceError, r"slc\.tif holds complex values: .*Take intensity"),
        ("broken", SourceError, r"last\.tif cannot be read"),
        ("flat", SourceError, r"span no range; .*Leave constant bands out"),
        ("backend", CatalogError, r"no feature backend 'vgg'; expected one of random-conv, inception, resnet"),
        ("weights", CatalogError, r"Backend inception: expected a local file of weights, got none"),
        ("unread", CheckpointError, r"no file of weights .*none\.pt"),
        ("judge", CatalogError, r"no judge 'strict'; expected one of quick, published, none"),
        ("sensors", CatalogError, r"one for each of the 2 folders \(the real one first\), got 3"),
        ("band", SourceError, r"expected bands 1 to 2, got 5"),
        ("split", SourceError, r"no STAC item collection in it; leave them out for plain folders"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_words(
    name: str, error: type[Exception], told: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=told):
        score_folders(**_bad(name, tmp_path))
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written_is_said_before_anything_is_judged(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("rsgeo_gan.score.folders.compare")
    (tmp_path / "taken").write_text("")
    with pytest.raises(ProductError, match=r"Cannot write .*taken"):
        score_folders(folders / "real", [folders / "twin"], tmp_path / "taken", **QUICK)


def test_a_file_of_subdatasets_alone_is_no_image(shared_data: Path) -> None:
    with pytest.raises(SourceError, match=r"\.nc holds no bands of its own, only \d+ subdatasets"):
        look(shared_data / "s1s2-timeseries-netcdf")


@pytest.mark.usefixtures("undrawn")
def test_doubtful_comparisons_are_noted(tmp_path: Path) -> None:
    def place(side_m: float) -> dict[str, Any]:
        return {"transform": Affine(side_m, 0, 0, 0, -side_m, 0), "crs": "EPSG:32632"}

    real = _folder(tmp_path / "real", _scenes(12, 0), "float32", **place(10))
    fake = _folder(tmp_path / "fake", _scenes(12, 1) / 1e4, "float32", **place(30))
    notes = " ".join(score_folders(real, [fake], tmp_path / "out", **QUICK).notes)
    assert "pixels differ in size: 10 m in real, 30 m in fake" in notes
    assert "hardly meet the real ones" in notes
