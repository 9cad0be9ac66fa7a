"""The invented scenes: reproducible, exactly placed, physically plausible, with a truth that is true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
from pyproj import Transformer
from rio_cogeo.cogeo import cog_validate
from scipy import ndimage

from rsgeo_gan.errors import CatalogError
from rsgeo_gan.sample import Cover, make
from rsgeo_gan.sample.geometry import displacement

SIZE = 160


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sample"), size_px=SIZE, n_dates=2).parent


@pytest.fixture(scope="module")
def quiet_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Almost no speckle, so that positions can be measured finely."""
    return make(tmp_path_factory.mktemp("quiet"), size_px=256, looks=10_000).parent


def only(folder: Path, pattern: str) -> Path:
    return min(folder.glob(pattern))


def test_same_arguments_give_the_same_bytes(scenes: Path, tmp_path: Path) -> None:
    again = make(tmp_path / "again", size_px=SIZE, n_dates=2).parent
    files = sorted(p.relative_to(scenes) for p in scenes.rglob("*") if p.is_file())
    assert len(files) == 25
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for name in files:
        assert (scenes / name).read_bytes() == (again / name).read_bytes(), name


def test_another_seed_gives_another_landscape(scenes: Path, tmp_path: Path) -> None:
    other = make(tmp_path, size_px=SIZE, seed=8).parent
    assert (read(scenes / "truth/classes.tif") != read(other / "truth/classes.tif")).mean() > 0.3


def test_scenes_already_made_are_left_alone(scenes: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in scenes.rglob("*")}
    assert make(scenes, size_px=SIZE, n_dates=2) == scenes / "catalog.json"
    assert {path: path.stat().st_mtime_ns for path in scenes.rglob("*")} == before


def test_a_missing_file_is_made_again(tmp_path: Path) -> None:
    make(tmp_path, size_px=64)
    lost = only(tmp_path, "sample-s1/*/VV.tif")
    lost.unlink()
    make(tmp_path, size_px=64)
    assert lost.exists()


def test_catalogue_lists_both_collections_with_readable_assets(scenes: Path) -> None:
    catalogue = pystac.Catalog.from_file(str(scenes / "catalog.json"))
    found = {c.id: sorted(i.id for i in c.get_items()) for c in catalogue.get_children()}
    assert found == {
        "sample-s1": ["sample-s1-20240513", "sample-s1-20240618"],
        "sample-s2": ["sample-s2-20240512", "sample-s2-20240617"],
    }
    for item in catalogue.get_items(recursive=True):
        expected = {"VV", "VH"} if "s1" in item.id else {"B02", "B03", "B04", "B08", "SCL"}
        assert set(item.assets) == expected
        for asset in item.assets.values():
            assert not Path(asset.href).is_absolute()
            with rasterio.open(str(asset.get_absolute_href())) as dataset:
                assert list(dataset.transform)[:6] == asset.extra_fields["proj:transform"]
                assert list(dataset.shape) == asset.extra_fields["proj:shape"]
                assert str(dataset.crs) == item.properties["proj:code"]
                west, south, east, north = rasterio.warp.transform_bounds(
                    dataset.crs, "EPSG:4326", *dataset.bounds, densify_pts=21
                )
                pixel_deg = 2e-4
                assert np.allclose(item.bbox, (west, south, east, north), atol=2 * pixel_deg)


def test_items_carry_what_ingest_decides_by(scenes: Path) -> None:
    optical = json.loads(only(scenes, "sample-s2/*/*.json").read_text())
    radar = json.loads(only(scenes, "sample-s1/*/*.json").read_text())
    assert optical["properties"]["s2:processing_baseline"] == "05.10"
    assert optical["properties"]["earthsearch:boa_offset_applied"] is False
    band = optical["assets"]["B04"]["raster:bands"][0]
    assert (band["scale"], band["offset"], band["nodata"]) == (1e-4, -0.1, 0)
    assert 0 < optical["properties"]["eo:cloud_cover"] < 15
    assert radar["properties"]["sat:orbit_state"] == "descending"
    assert isinstance(radar["properties"]["sat:relative_orbit"], int)


def test_the_catalogue_does_not_mention_the_truth(scenes: Path) -> None:
    assert not any("truth" in path.read_text() for path in scenes.rglob("*.json"))


def test_every_raster_is_a_valid_cog(scenes: Path) -> None:
    for path in scenes.rglob("*.tif"):
        valid, errors, warnings = cog_validate(path, quiet=True)
        assert valid, (path, errors)
        assert not warnings, (path, warnings)


def test_sides_lie_on_different_grids(scenes: Path) -> None:
    with (
        rasterio.open(only(scenes, "sample-s2/*/B02.tif")) as optical,
        rasterio.open(only(scenes, "sample-s1/*/VV.tif")) as radar,
    ):
        assert (str(optical.crs), optical.res, optical.dtypes, optical.nodata) == (
            "EPSG:32632",
            (10.0, 10.0),
            ("uint16",),
            0,
        )
        assert (str(radar.crs), radar.res, radar.dtypes) == ("EPSG:32633", (12.0, 12.0), ("float32",))
        assert np.isnan(radar.nodata)
        assert (optical.descriptions, radar.descriptions) == (("B02",), ("VV",))
        assert (optical.scales, optical.offsets) == ((1e-4,), (-0.1,))


def sampled_at(radar: Path, optical: Path, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Read the radar raster, by its georeference, where optical pixels claim to be."""
    with rasterio.open(radar) as moving, rasterio.open(optical) as reference:
        x = reference.transform.c + (columns + 0.5) * reference.transform.a
        y = reference.transform.f + (rows + 0.5) * reference.transform.e
        x, y = Transformer.from_crs(reference.crs, moving.crs, always_xy=True).transform(x, y)
        column = (x - moving.transform.c) / moving.transform.a - 0.5
        row = (y - moving.transform.f) / moving.transform.e - 0.5
        return ndimage.map_coordinates(moving.read(1), [row, column], order=1, cval=np.nan)


def test_radar_content_lies_at_reference_plus_displacement(quiet_scenes: Path) -> None:
    size = 256
    dx, dy = read(quiet_scenes / "truth/displacement.tif")
    clean = np.log(read(quiet_scenes / "truth/target.tif")[0])
    rows, columns = np.mgrid[:size, :size].astype(float)
    radar, optical = only(quiet_scenes, "sample-s1/*/VV.tif"), only(quiet_scenes, "sample-s2/*/B02.tif")

    def agreement(off_x: float, off_y: float) -> float:
        seen = np.log(sampled_at(radar, optical, columns + dx + off_x, rows + dy + off_y))
        both = np.isfinite(seen)
        assert both.mean() > 0.9
        return float(np.corrcoef(seen[both], clean[both])[0, 1])

    def peak(at: list[float]) -> float:
        left, middle, right = at
        return 0.5 * (left - right) / (left - 2 * middle + right)

    assert agreement(0, 0) > 0.97
    assert abs(peak([agreement(step, 0) for step in (-1, 0, 1)])) < 0.03
    assert abs(peak([agreement(0, step) for step in (-1, 0, 1)])) < 0.03
    assert agreement(0, 0) > agreement(-float(dx.mean()), -float(dy.mean())) + 0.2


def test_displacement_is_a_shift_with_a_small_smooth_part() -> None:
    rows, columns = np.mgrid[0:1024:8, 0:1024:8].astype(float)
    dx, dy = displacement(columns, rows, 1024, 7)
    assert abs(dx.mean() - 2.3) < 0.2
    assert abs(dy.mean() + 1.6) < 0.2
    varying = np.hypot(dx - dx.mean(), dy - dy.mean())
    assert 0.25 < np.sqrt((varying**2).mean()) < 0.6
    assert np.abs(np.gradient(dx, 8)).max() < 0.02


@pytest.mark.parametrize(
    ("cover", "vv", "vh"),
    [
        (Cover.WATER, -20, -27),
        (Cover.BROADLEAF, -9, -14.5),
        (Cover.CONIFER, -8.7, -14.3),
        (Cover.CEREAL, -14, -19.8),
        (Cover.BUILDING, -3, -10),
    ],
)
def test_backscatter_levels_are_those_of_the_cover(quiet_scenes: Path, cover: Cover, vv: float, vh: float) -> None:
    classes = read(quiet_scenes / "truth/classes.tif")[0]
    inside = ndimage.binary_erosion(classes == cover) if cover != Cover.BUILDING else classes == cover
    assert inside.sum() > 20
    levels = [10 * np.log10(np.median(band[inside])) for band in read(quiet_scenes / "truth/target.tif")[:2]]
    assert levels == pytest.approx([vv, vh], abs=1.6)


def test_speckle_has_the_looks_asked_for_and_is_white(scenes: Path) -> None:
    clean, speckled = np.split(read(scenes / "truth/target.tif"), 2)
    ratio = speckled / clean
    assert ratio.mean() == pytest.approx(1, abs=0.01)
    assert 1 / ratio.var() == pytest.approx(4, rel=0.05)
    neighbours = np.corrcoef(ratio[0][:, 1:].ravel(), ratio[0][:, :-1].ravel())[0, 1]
    polarisations = np.corrcoef(ratio[0].ravel(), ratio[1].ravel())[0, 1]
    assert abs(neighbours) < 0.03
    assert abs(polarisations) < 0.03


def test_radar_has_a_swath_edge_of_nan(scenes: Path) -> None:
    power = read(only(scenes, "sample-s1/*/VV.tif"))[0]
    assert 0.005 < np.isnan(power).mean() < 0.3
    assert np.nanmin(power) >= 0


def test_reflectance_with_the_offset_looks_like_the_cover(scenes: Path) -> None:
    folder = only(scenes, "sample-s2/*/B02.tif").parent
    blue, _, red, infrared = (
        (read(folder / f"{b}.tif")[0].astype(float) - 1000) / 10_000 for b in ("B02", "B03", "B04", "B08")
    )
    classes = read(scenes / "truth/classes.tif")[0]
    clear = np.kron(read(folder / "SCL.tif")[0], np.ones((2, 2), int))[:SIZE, :SIZE] >= 4
    clear &= np.kron(read(folder / "SCL.tif")[0], np.ones((2, 2), int))[:SIZE, :SIZE] <= 6
    forest = clear & np.isin(classes, (Cover.BROADLEAF, Cover.CONIFER))
    water = clear & ndimage.binary_erosion(classes == Cover.WATER)
    assert np.median((infrared - red)[forest] / (infrared + red)[forest]) > 0.7
    assert np.median(infrared[water]) < 0.04
    assert 0 < np.median(blue[clear]) < 0.1


def test_clouds_are_bright_and_classified(scenes: Path) -> None:
    for date in scenes.glob("sample-s2/*/B02.tif"):
        blue = (read(date)[0].astype(float) - 1000) / 10_000
        classes = np.kron(read(date.parent / "SCL.tif")[0], np.ones((2, 2), int))[:SIZE, :SIZE]
        assert {8, 9, 3} <= set(np.unique(classes))
        assert blue[classes == 9].mean() > 0.35
        clear = np.isin(classes, (4, 5, 6))
        assert np.quantile(blue[clear], 0.95) < 0.15


def test_the_season_changes_fields_and_leaves_lakes(scenes: Path) -> None:
    first, second = (read(p)[0].astype(float) for p in sorted(scenes.glob("sample-s2/*/B08.tif")))
    classes = read(scenes / "truth/classes.tif")[0]
    change = np.abs(second - first)
    assert np.median(change[classes == Cover.MAIZE]) > 300
    assert np.median(change[classes == Cover.WATER]) < 60


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size_px": 10}, "size_px is 10, expected at least 64"),
        ({"n_dates": 0}, "n_dates is 0, expected at least 1"),
        ({"looks": 0.0}, "looks is 0.0, expected more than 0"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        make(tmp_path, **arguments)  # type: ignore[arg-type]
