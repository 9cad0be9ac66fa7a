"""What co-registration writes: displacement, arrows, record, styles, picture; and how inputs are looked at."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as Xml

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.coregister.files import (
    FIELD_BANDS,
    MAP_BANDS,
    coarsened,
    write_displacement,
    write_displacement_map,
    write_record,
    write_tie_points,
)
from rsgeo_gan.coregister.inputs import detected, look_at
from rsgeo_gan.coregister.pictures import Layer, checkerboard
from rsgeo_gan.coregister.styles import arrow_scale, displacement_style, tie_point_style
from rsgeo_gan.coregister.views import View
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.errors import CatalogError, ProductError, SourceError
from rsgeo_gan.manifest import displacement_of, make_item
from rsgeo_gan.sensors import Sensor

CRS = "EPSG:32633"
BOX = GeoBox((40, 60), Affine(10, 0, 500_000, 0, -10, 5_500_000), CRS)
TURNED = GeoBox((40, 60), Affine(0, 5, 500_000, 5, 0, 5_500_000), CRS)
PLAIN = Sensor.generic("image", modality="optical", unit="display", bands=["band1"])
POWER = Sensor.generic("radar", modality="sar", unit="linear", bands=["VV"])


@dataclass
class Points:
    """Tie points as `write_tie_points` needs them."""

    at: np.ndarray
    found: np.ndarray
    reason: np.ndarray
    score: np.ndarray = field(init=False)
    weight: np.ndarray = field(init=False)
    confidence: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.score, self.weight = np.full(len(self.at), 0.5), np.ones(len(self.at))
        self.confidence = np.full(len(self.at), 0.75)

    def __len__(self) -> int:
        return len(self.at)


def shift(box: GeoBox, dx: float, dy: float, **more: Any) -> Displacement:
    facts: dict[str, Any] = {"sigma_px": 0.2, "confidence": 0.9, "reliable": True, "n_tie_points": 5, **more}
    return Displacement(box, "shift", (dx, 0, 0, dy, 0, 0), **facts)


def measured(displacement: Displacement, points: list[tuple[float, float, float, float, str]]) -> Any:
    table = np.array([entry[:4] for entry in points], float).reshape(-1, 4)
    reason = np.array([entry[4] for entry in points], dtype=str)
    return SimpleNamespace(displacement=displacement, points=Points(table[:, :2], table[:, 2:], reason))


def smooth_field(box: GeoBox) -> Field:
    nodes = GeoBox((5, 7), box.affine * Affine.scale(10) * Affine.translation(-0.5, -0.5), box.crs)
    row, col = np.indices(nodes.shape).astype(np.float32)
    return Field(nodes, np.stack([col / 3, -row / 7]), 0.1 + row / 10, np.float32(1) - col / 10)


def test_a_field_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    there = Displacement(BOX, "field", (1, 0, 0, 0, 0, 0), 0.3, 0.8, True, 9, "", smooth_field(BOX))
    path = write_displacement(tmp_path / "displacement.tif", there)
    item = make_item(
        "pair",
        BOX,
        when=datetime(2024, 5, 1, tzinfo=UTC),
        properties={"rsgeo:displacement": there.to_dict()},
        assets={"displacement": path},
    )
    back = displacement_of(item)
    assert back.field is not None
    assert back.field.digest == there.field.digest  # type: ignore[union-attr]
    assert np.array_equal(back.field.sigma_px, smooth_field(BOX).sigma_px)
    with rasterio.open(path) as stored:
        assert stored.descriptions == FIELD_BANDS == ("dx", "dy", "confidence", "sigma_px")


def test_a_shift_is_stored_on_a_coarse_grid_of_the_whole_reference(tmp_path: Path) -> None:
    wide = GeoBox((600, 300), BOX.affine, CRS)
    with rasterio.open(write_displacement(tmp_path / "d.tif", shift(wide, 3, -2))) as stored:
        assert stored.shape == (200, 100)
        assert tuple(stored.bounds) == tuple(wide.boundingbox)
        assert [float(np.unique(band).item()) for band in stored.read()] == pytest.approx([3, -2, 0.9, 0.2])
        assert "+ right, + down" in stored.tags()["RSGEO_UNIT"]
        assert stored.tags()["RSGEO_RELIABLE"] == "true"


def test_coarsening_is_by_whole_factors_and_only_beyond_the_limit() -> None:
    assert coarsened(BOX, 60) == BOX
    smaller = coarsened(BOX, 25)
    assert tuple(smaller.shape) == (14, 20)
    assert smaller.affine == BOX.affine * Affine.scale(3)


@pytest.mark.parametrize("box", [BOX, TURNED])
def test_a_map_of_an_affine_displacement_tells_the_value_at_every_pixel_centre(tmp_path: Path, box: GeoBox) -> None:
    tilted = Displacement(box, "affine", (1.0, 0.1, 0, -2.0, 0, 0.05), 0.3, 0.8, True, 9)
    path = write_displacement_map(tmp_path / "map.tif", tilted, box)
    with rasterio.open(path) as stored:
        assert stored.descriptions == MAP_BANDS
        assert stored.transform == box.affine
        dx, dy, confidence, sigma, length = stored.read()
    row, col = np.indices(box.shape)
    assert np.allclose(dx, 1.0 + 0.1 * (col - 29.5), atol=1e-5)
    assert np.allclose(dy, -2.0 + 0.05 * (row - 19.5), atol=1e-5)
    assert np.allclose(length, np.hypot(dx, dy), atol=1e-5)
    assert np.allclose(confidence, 0.8)
    assert np.allclose(sigma, 0.3)


def test_a_coarse_map_tells_the_value_in_the_middle_of_its_pixels(tmp_path: Path) -> None:
    tilted = Displacement(BOX, "affine", (0, 1.0, 0, 0, 0, 1.0), 0.3, 0.8, True, 9)
    with rasterio.open(write_displacement_map(tmp_path / "map.tif", tilted, coarsened(BOX, 30))) as stored:
        dx = stored.read(1)
    # Pixel 0 covers columns 0 and 1 of the reference: 0.5 is 29 left of the centre 29.5.
    assert dx[0, 0] == pytest.approx(-29.0)


def test_a_map_of_a_field_tells_what_the_field_tells(tmp_path: Path) -> None:
    bent = Displacement(BOX, "field", (1, 0, 0, 0, 0, 0), 0.3, 0.8, True, 9, "", smooth_field(BOX))
    with rasterio.open(write_displacement_map(tmp_path / "map.tif", bent, BOX)) as stored:
        found = stored.read()
    # Node (row 2, column 3) lies at the centre of reference row 20, column 30, corner based: between pixels.
    assert found[0, 19:21, 29:31].mean() == pytest.approx(3 / 3, abs=0.02)
    assert found[1, 19:21, 29:31].mean() == pytest.approx(-2 / 7, abs=0.02)
    assert found[2, 19:21, 29:31].mean() == pytest.approx(0.7, abs=0.02)
    assert found[3, 19:21, 29:31].mean() == pytest.approx(0.3, abs=0.02)


def test_without_overlap_the_map_tells_nothing(tmp_path: Path) -> None:
    declined = Displacement.none(BOX, reason="no overlap")
    with rasterio.open(write_displacement_map(tmp_path / "map.tif", declined, BOX, known=False)) as stored:
        assert np.isnan(stored.read()).all()
        assert np.isnan(stored.nodata)
        assert stored.tags()["RSGEO_REASON"] == "no overlap"


def test_a_declined_map_is_zero_without_confidence_and_of_unknown_error(tmp_path: Path) -> None:
    with rasterio.open(
        write_displacement_map(tmp_path / "m.tif", Displacement.none(BOX, reason="two peaks"), BOX)
    ) as m:
        dx, dy, confidence, sigma, length = m.read()
    assert not dx.any()
    assert not dy.any()
    assert not length.any()
    assert not confidence.any()
    assert np.isposinf(sigma).all()


def test_arrows_lead_from_the_reference_to_where_the_content_lies(tmp_path: Path) -> None:
    found = measured(shift(BOX, 3, -2), [(10, 20, 3, -2, ""), (30, 5, 4, -2, "outlier")])
    layer = geopandas.read_file(write_tie_points(tmp_path / "points.gpkg", found))
    assert layer.crs == CRS
    first, second = (list(line.coords) for line in layer.geometry)
    # The centre of column 10, row 20 lies 105 m east and 205 m south of the corner; 2 px up is 20 m north.
    assert first == [(500_105.0, 5_499_795.0), (500_135.0, 5_499_815.0)]
    assert second == [(500_305.0, 5_499_945.0), (500_345.0, 5_499_965.0)]
    assert list(layer.used) == [True, False]
    assert list(layer.reason) == ["", "outlier"]
    assert list(layer.residual_px) == pytest.approx([0, 1])
    assert list(layer.length_px) == pytest.approx([np.hypot(3, 2), np.hypot(4, 2)])
    assert list(layer.confidence) == [0.75, 0.75]
    assert set(layer.columns) == {
        "dx_px", "dy_px", "length_px", "score", "confidence", "residual_px", "used", "reason", "geometry",
    }  # fmt: skip


def test_no_tie_point_of_a_declined_pair_counts_as_used(tmp_path: Path) -> None:
    found = measured(Displacement.none(BOX, reason="two peaks"), [(10, 20, 3, -2, ""), (30, 5, 4, -2, "weak")])
    layer = geopandas.read_file(write_tie_points(tmp_path / "points.gpkg", found))
    assert not layer.used.any()
    assert list(layer.reason) == ["declined", "weak"]


def test_arrows_on_a_turned_grid_turn_with_it(tmp_path: Path) -> None:
    layer = geopandas.read_file(
        write_tie_points(tmp_path / "points.gpkg", measured(shift(TURNED, 2, 0), [(0, 0, 2, 0, "")]))
    )
    # Columns of this grid run north, 5 m a pixel.
    assert list(layer.geometry[0].coords) == [(500_002.5, 5_500_002.5), (500_002.5, 5_500_012.5)]


def test_without_tie_points_the_layer_is_there_and_empty(tmp_path: Path) -> None:
    path = write_tie_points(tmp_path / "points.gpkg", measured(Displacement.none(BOX, reason="no texture"), []))
    layer = geopandas.read_file(path)
    assert len(layer) == 0
    assert {"dx_px", "used", "reason"} <= set(layer.columns)
    assert path.with_suffix(".qml").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProductError, match=r"Cannot write .*points\.gpkg"):
        write_tie_points(tmp_path / "file" / "points.gpkg", measured(shift(BOX, 1, 1), [(1, 1, 1, 1, "")]))
    with pytest.raises(ProductError, match=r"Cannot write .*map\.tif"):
        write_displacement_map(tmp_path / "file" / "map.tif", shift(BOX, 1, 1), BOX)


def test_the_record_holds_no_number_that_json_does_not_know(tmp_path: Path) -> None:
    record = {
        "a": float("nan"),
        "b": [np.float32(np.inf), np.int64(3)],
        "c": {"d": np.bool_(True), "e": 1.5},
        "f": None,
    }
    text = write_record(tmp_path / "r.json", record).read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None, "b": [None, 3], "c": {"d": True, "e": 1.5}, "f": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("lengths", "spacing", "scale"),
    [([20.0] * 10, 640, 20), ([20.0] * 10, 10, 1), ([0.01] * 3, 1000, 500), ([], 100, 1), ([0.0, 0.0], 100, 1)],
)
def test_arrows_are_lengthened_as_far_as_their_spacing_allows(lengths: list[float], spacing: float, scale: int) -> None:
    assert arrow_scale(lengths, spacing) == scale


def test_the_legend_says_how_much_longer_arrows_are_drawn(tmp_path: Path) -> None:
    style = Xml.fromstring(tie_point_style(tmp_path / "points.gpkg", 20).read_text())
    labels = [rule.get("label", "") for rule in style.iter("rule")]
    assert labels[:2] == ["not used, drawn 20 × their length", "used, drawn 20 × their length"]
    assert all(
        "* 20" in option.get("value", "") for option in style.iter("Option") if option.get("name") == "geometryModifier"
    )
    rules = {rule.get("symbol") for rule in style.iter("rule") if rule.get("symbol")}
    assert rules == {symbol.get("name") for symbol in style.findall("renderer-v2/symbols/symbol")}


def test_the_colours_of_a_displacement_begin_at_zero_and_hold_its_longest(tmp_path: Path) -> None:
    style = Xml.fromstring(displacement_style(tmp_path / "displacement.tif", 5, 3.2).read_text())
    renderer = style.find("pipe/rasterrenderer")
    assert renderer is not None
    assert renderer.get("band") == "5"
    assert [float(item.get("value", "nan")) for item in style.iter("item")] == [0, 0.875, 1.75, 2.625, 3.5]


def write(path: Path, values: np.ndarray, *, names: tuple[str, ...] = (), nodata: float | None = None) -> Path:
    return raster.write(path, values, BOX, names=names, nodata=nodata, cog=False)


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as picture:
        return picture.read([1, 2, 3]).astype(int)


def test_the_checkerboard_shows_reference_in_grey_moving_in_colour_and_nodata(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    here = write(tmp_path / "here.tif", rng.uniform(200, 3000, (1, 40, 60)).astype(np.float32))
    values = rng.gamma(2, 0.05, (1, 40, 60)).astype(np.float32)
    values[:, :, :30] = np.nan
    there = write(tmp_path / "there.tif", values, nodata=float("nan"))
    path = checkerboard(
        tmp_path / "board.png",
        Layer(View(here, PLAIN, (1,))),
        Layer(View(there, POWER, (1,)), decibel=True),
        None,
        box=BOX,
        detail=None,
        title="there.tif on here.tif",
        lines=("dx +1.00 px",),
    )
    red, green, blue = pixels(path)
    width = red.shape[1]
    left, right = np.s_[:, : width // 4], np.s_[:, width // 4 : width // 2]
    grey = (red == green) & (green == blue) & (red > 60) & (red < 200)
    tinted = (red > blue + 40) & (red > green)
    empty = (blue > red + 15) & (blue > 200)
    assert grey[left].mean() > 0.05
    assert grey[right].mean() > 0.05
    assert tinted[right].mean() > 0.05
    assert tinted[left].mean() < 0.01
    assert empty[left].mean() > 0.05


def test_a_checkerboard_without_overlap_is_words(tmp_path: Path) -> None:
    layer = Layer(View(tmp_path / "not-read.tif", PLAIN, (1,)))
    path = checkerboard(tmp_path / "board.png", layer, layer, None, box=None, detail=None, title="DECLINED: no overlap")
    assert 0 < (pixels(path) < 128).mean() < 0.1


def test_power_is_shown_in_decibel_and_an_undeclared_border_as_nodata(tmp_path: Path) -> None:
    values = np.full((1, 40, 60), 0.1, np.float32)
    values[:, :, :20] = 0
    path = write(tmp_path / "power.tif", values)
    shown = Layer(View(path, POWER, (1,)), decibel=True).on(BOX)
    assert np.allclose(shown[:, 20:], -10, atol=1e-5)
    assert np.isnan(shown[:, :20]).all()


def test_a_file_that_names_its_bands_tells_its_sensor(tmp_path: Path) -> None:
    values = np.full((2, 40, 60), -12.0, np.float32)
    found = look_at(str(write(tmp_path / "s1.tif", values, names=("VV", "VH"))), "moving")
    assert (found.view.sensor.name, found.told, found.view.bands) == ("sentinel1-rtc-db", "told by the file", (1, 2))
    dn = np.full((3, 40, 60), 1200, np.uint16)
    path = write(tmp_path / "s2.tif", dn, names=("B02", "B08", "B04"))
    assert look_at(str(path), "reference").view.bands == (3, 2)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_plain_image_is_taken_as_it_is_and_says_so(tmp_path: Path, dtype: str) -> None:
    found = look_at(str(write(tmp_path / "plain.tif", np.full((1, 40, 60), 7, dtype))), "moving")
    assert found.told == "not told"
    assert found.to_dict()["unit"] == "as in the file"
    assert "compared as they are" in found.notes[0]
    assert found.view.sensor.to_linear(np.float32([-3.5]))[0] == -3.5


def test_colours_alone_do_not_make_a_sentinel_2(tmp_path: Path) -> None:
    values = np.full((4, 40, 60), 900, np.uint16)
    path = write(tmp_path / "other.tif", values, names=("Red band", "Green band", "Blue band", "NIR band"))
    assert look_at(str(path), "moving").view.sensor.name == "image"


def test_a_colour_table_makes_values_classes(tmp_path: Path) -> None:
    path = tmp_path / "classes.tif"
    profile = {"driver": "GTiff", "width": 60, "height": 40, "count": 1, "dtype": "uint8", "crs": CRS}
    with rasterio.open(path, "w", transform=BOX.affine, **profile) as stored:
        stored.write(np.ones((1, 40, 60), np.uint8))
        stored.write_colormap(1, {0: (0, 0, 0), 1: (255, 0, 0)})
    found = look_at(str(path), "moving")
    assert found.classes
    assert "nearest pixel" in found.notes[1]
    assert not look_at(str(write(tmp_path / "plain.tif", np.ones((1, 40, 60), np.uint8))), "moving").classes


def test_bands_that_do_not_exist_are_named_with_the_option(tmp_path: Path) -> None:
    path = str(write(tmp_path / "one.tif", np.ones((1, 40, 60), np.uint8)))
    with pytest.raises(SourceError, match=r"--moving-bands 1,9: .*one\.tif has 1 band, counted from 1"):
        look_at(path, "moving", bands=[1, 9])
    with pytest.raises(SourceError, match="--reference-bands 0"):
        look_at(path, "reference", bands=[0])


def test_a_declared_unit_that_the_values_contradict_is_refused(tmp_path: Path) -> None:
    path = str(write(tmp_path / "db.tif", np.full((1, 40, 60), -12.0, np.float32)))
    with pytest.raises(SourceError, match=r"db\.tif \(--moving-sensor sentinel1-rtc\).*cannot be negative"):
        look_at(path, "moving", sensor="sentinel1-rtc")
    with pytest.raises(CatalogError, match=r"--moving-sensor: No sensor is called 'nix'"):
        look_at(path, "moving", sensor="nix")


def test_complex_samples_become_their_power(tmp_path: Path) -> None:
    path = tmp_path / "slc.tif"
    profile = {"driver": "GTiff", "width": 60, "height": 40, "count": 1, "dtype": "complex64", "crs": CRS}
    with rasterio.open(path, "w", transform=BOX.affine, **profile) as stored:
        stored.write(np.full((1, 40, 60), 3 - 4j, np.complex64))
    with pytest.raises(SourceError, match="complex values"):
        look_at(str(path), "moving")
    with rasterio.open(detected(str(path), tmp_path / "power.tif")) as power:
        assert power.transform == BOX.affine
        assert np.allclose(power.read(), 25)
