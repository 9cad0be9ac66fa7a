"""`rsgeo-gan coregister REFERENCE MOVING`: what lies in the folder, what is declined, what is refused in words."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy import ndimage
from typer.testing import CliRunner, Result

from rsgeo_gan import cli, raster
from rsgeo_gan.coregister import product
from rsgeo_gan.displacement import Displacement, Field
from tests.unit.coregister_scenes import World, metres, north_up, optical, radar, texture

pytestmark = pytest.mark.e2e

QGIS_PYTHON = "/usr/bin/python3"
FILES = {
    "aligned.tif",
    "checkerboard.png",
    "coregistration.json",
    "displacement.qml",
    "displacement.tif",
    "tie_points.gpkg",
    "tie_points.qml",
}
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def call(*arguments: object) -> Result:
    return runner.invoke(cli.app, ["coregister", *map(str, arguments)])


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "coregistration.json").read_text(), parse_constant=pytest.fail)


def done(*arguments: object, out: Path) -> dict[str, Any]:
    """Run the command, expect exit code 0, return the record."""
    result = call(*arguments, "--out", out)
    assert result.exit_code == 0, result.output
    assert "Traceback" not in result.output
    return record_of(out)


@pytest.fixture(scope="module")
def world() -> World:
    return World(texture(11))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory, world: World) -> dict[str, Path]:
    """Files of one place: `eye` is the reference, `moved` and `sar` lie (3, -2) px off."""
    folder, box = tmp_path_factory.mktemp("scenes"), north_up()
    off = metres(box, (3.0, -2.0))
    values = world.on(box, off)
    east, north = Transformer.from_crs(box.crs.proj, "EPSG:32634", always_xy=True).transform(503_600, 5_496_400)
    utm34 = GeoBox((320, 320), Affine(10, 0, east - 1600, 0, -10, north + 1600), "EPSG:32634")
    degrees = GeoBox((400, 400), Affine(1.2e-4, 0, 15.02, 0, -0.8e-4, 49.640), "EPSG:4326")
    turned = GeoBox((400, 400), Affine(0, 8, 502_000, 8, 0, 5_494_800), "EPSG:32633")
    bordered = (500 + 3000 * world.on(box, off)).astype(np.uint16)
    bordered[:, :110] = 0
    far = GeoBox((320, 320), Affine(10, 0, 560_000, 0, -10, 5_400_000), "EPSG:32633")
    paths = {
        "eye": optical(folder / "eye.tif", world.on(box), box),
        "moved": optical(folder / "moved.tif", values, box),
        "sar": radar(folder / "sar.tif", values, box),
        "utm34": optical(folder / "utm34.tif", world.on(utm34, off), utm34),
        "degrees": optical(folder / "degrees.tif", world.on(degrees, off), degrees),
        "turned": optical(folder / "turned.tif", world.on(turned, off), turned),
        "bordered": raster.write(folder / "bordered.tif", bordered, box, cog=False),
        "unrelated": optical(folder / "unrelated.tif", World(texture(77)).on(box), box),
        "far": optical(folder / "far.tif", world.on(box), far),
        "empty": raster.write(folder / "empty.tif", np.zeros((1, 320, 320), np.uint16), box, nodata=0, cog=False),
        "flat": raster.write(folder / "flat.tif", np.full((1, 320, 320), 900, np.uint16), box, cog=False),
        "decibel": radar(folder / "decibel.tif", values, box, db=True),
    }
    with rasterio.open(paths["eye"]) as eye:
        profile = {key: value for key, value in eye.profile.items() if key not in ("crs", "transform")}
        bare = folder / "bare.tif"
        with rasterio.open(bare, "w", **profile) as copy:
            copy.write(eye.read())
    whole = paths["eye"].read_bytes()
    (folder / "truncated.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "text.tif").write_text("no raster at all")
    return paths | {"bare": bare, "truncated": folder / "truncated.tif", "text": folder / "text.tif"}


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory, scenes: dict[str, Path]) -> Path:
    """Folder of `sar` aligned to `eye`."""
    out = tmp_path_factory.mktemp("aligned")
    done(scenes["eye"], scenes["sar"], out=out)
    return out


def test_the_folder_holds_the_aligned_raster_and_the_evidence(aligned: Path, scenes: dict[str, Path]) -> None:
    assert {path.name for path in aligned.iterdir()} == FILES
    record = record_of(aligned)
    assert (record["status"], record["reliable"], record["reason"]) == ("aligned", True, "")
    assert (record["dx_px"], record["dy_px"]) == pytest.approx((3, -2), abs=0.15)
    assert (record["dx_m"], record["dy_m"]) == pytest.approx((30, -20), abs=1.5)
    assert (record["east_m"], record["north_m"]) == pytest.approx((30, 20), abs=1.5)
    assert record["overlap_share"] == 1
    assert record["n_tie_points"] >= 9
    assert 0 < record["sigma_px"] < 1
    assert record["moving"]["path"] == str(scenes["sar"])
    assert record["files"]["aligned"] == "aligned.tif"
    with rasterio.open(aligned / "aligned.tif") as stored, rasterio.open(scenes["eye"]) as eye:
        assert (stored.crs, stored.transform, stored.shape) == (eye.crs, eye.transform, eye.shape)
        assert stored.tags()["COREG_STATUS"] == "aligned"


def test_content_lies_on_the_reference_afterwards(scenes: dict[str, Path], tmp_path: Path) -> None:
    done(scenes["eye"], scenes["moved"], out=tmp_path)

    def difference(path: Path) -> float:
        with rasterio.open(path) as stored, rasterio.open(scenes["eye"]) as eye:
            inner = np.s_[20:-20, 20:-20]
            return float(np.abs(stored.read(1)[inner].astype(float) - eye.read(1)[inner]).mean())

    assert difference(tmp_path / "aligned.tif") < 0.1 * difference(scenes["moved"])


def test_displacement_and_arrows_say_the_same_as_the_record(aligned: Path) -> None:
    record = record_of(aligned)
    with rasterio.open(aligned / "displacement.tif") as stored:
        assert stored.descriptions == ("dx", "dy", "confidence", "sigma_px", "magnitude_px")
        dx, dy, *_ = stored.read()
        assert stored.shape == (320, 320)
    assert (dx.mean(), dy.mean()) == pytest.approx((record["dx_px"], record["dy_px"]), abs=0.02)
    arrows = geopandas.read_file(aligned / "tie_points.gpkg")
    used = arrows[arrows.used]
    assert len(arrows) == len(used) + record["n_tie_points_rejected"]
    assert used.dx_px.median() == pytest.approx(3, abs=0.3)
    length = [np.hypot(*np.subtract(*line.coords)) for line in used.geometry]
    assert np.allclose(length, 10 * used.length_px)


def test_the_same_file_twice_comes_back_byte_for_byte(scenes: dict[str, Path], tmp_path: Path) -> None:
    record = done(scenes["eye"], scenes["eye"], out=tmp_path)
    assert (record["status"], record["model"], record["reliable"]) == ("unchanged", "none", True)
    assert (record["dx_px"], record["dy_px"]) == (0, 0)
    assert (tmp_path / "aligned.tif").read_bytes() == scenes["eye"].read_bytes()


@pytest.mark.parametrize("name", ["utm34", "degrees", "turned"])
def test_another_crs_pixel_size_or_rotation_is_no_obstacle(name: str, scenes: dict[str, Path], tmp_path: Path) -> None:
    record = done(scenes["eye"], scenes[name], out=tmp_path)
    assert record["status"] == "aligned", record["reason"]
    assert (record["dx_px"], record["dy_px"]) == pytest.approx((3, -2), abs=0.3)
    with rasterio.open(tmp_path / "aligned.tif") as stored, rasterio.open(scenes["eye"]) as eye:
        assert (stored.crs, stored.transform, stored.shape) == (eye.crs, eye.transform, eye.shape)
        both = (stored.read(1) > 0) & (eye.read(1) > 0)
        assert both.mean() > 0.5
        assert np.corrcoef(stored.read(1)[both], eye.read(1)[both])[0, 1] > 0.97


def test_a_border_of_zeros_that_is_not_declared_does_not_mislead(scenes: dict[str, Path], tmp_path: Path) -> None:
    record = done(scenes["eye"], scenes["bordered"], out=tmp_path)
    assert record["status"] == "aligned", record["reason"]
    assert (record["dx_px"], record["dy_px"]) == pytest.approx((3, -2), abs=0.2)


@pytest.mark.parametrize(
    ("moving", "reasons"),
    [
        ("unrelated", None),
        ("empty", {"too little valid data"}),
        ("flat", {"no texture"}),
    ],
)
def test_what_cannot_be_known_is_declined_and_at_most_reprojected(
    moving: str, reasons: set[str] | None, scenes: dict[str, Path], tmp_path: Path
) -> None:
    record = done(scenes["eye"], scenes[moving], out=tmp_path)
    assert (record["status"], record["reliable"], record["model"]) == ("declined", False, "none")
    assert record["reason"]
    assert reasons is None or record["reason"] in reasons
    assert (record["dx_px"], record["dy_px"], record["residual_px"]) == (0, 0, None)
    with rasterio.open(tmp_path / "aligned.tif") as stored, rasterio.open(scenes[moving]) as source:
        assert np.array_equal(stored.read(), source.read())
        assert stored.tags()["COREG_STATUS"] == "declined"
        assert stored.tags()["COREG_REASON"] == record["reason"]


def test_strict_turns_declining_into_an_exit_code(scenes: dict[str, Path], tmp_path: Path) -> None:
    result = call(scenes["eye"], scenes["flat"], "--out", tmp_path, "--strict")
    assert result.exit_code == 1
    assert "DECLINED, geometry left alone: no texture" in result.stderr
    assert record_of(tmp_path)["status"] == "declined"
    assert call(scenes["eye"], scenes["eye"], "--out", tmp_path, "--strict").exit_code == 0


def test_without_overlap_nothing_that_looks_aligned_is_left(scenes: dict[str, Path], tmp_path: Path) -> None:
    done(scenes["eye"], scenes["eye"], out=tmp_path)
    record = done(scenes["eye"], scenes["far"], out=tmp_path)
    assert (record["status"], record["reason"], record["overlap_share"]) == ("declined", "no overlap", 0)
    assert record["files"]["aligned"] is None
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"aligned.tif"}


def test_a_partial_overlap_is_measured_and_stated(scenes: dict[str, Path], world: World, tmp_path: Path) -> None:
    part = north_up(at=3600.0)
    moving = optical(tmp_path / "part.tif", world.on(part, metres(part, (2.0, 1.0))), part)
    record = done(scenes["eye"], moving, out=tmp_path / "out")
    assert record["overlap_share"] == pytest.approx(0.25, abs=0.02)
    assert record["status"] == "aligned", record["reason"]
    assert (record["dx_px"], record["dy_px"]) == pytest.approx((2, 1), abs=0.2)
    with rasterio.open(tmp_path / "out" / "aligned.tif") as stored:
        assert stored.shape == (320, 320)
        assert not stored.dataset_mask()[:150, :150].any()


def test_no_model_means_reprojection_alone(scenes: dict[str, Path], tmp_path: Path) -> None:
    record = done(scenes["eye"], scenes["moved"], "--model", "none", out=tmp_path)
    assert record["model"] == "none"
    assert (record["dx_px"], record["dy_px"]) == (0, 0)
    assert record["status"] != "aligned"
    with rasterio.open(tmp_path / "aligned.tif") as stored, rasterio.open(scenes["moved"]) as source:
        assert np.array_equal(stored.read(), source.read())


@pytest.mark.parametrize(
    ("reference", "moving", "options", "message"),
    [
        ("eye", "nowhere", [], "There is no file"),
        ("eye", "text", [], "text.tif cannot be read"),
        ("eye", "truncated", [], "truncated.tif cannot be read"),
        ("truncated", "eye", [], "truncated.tif cannot be read"),
        ("bare", "eye", [], "bare.tif has no CRS"),
        ("eye", "sar", ["--moving-bands", "9"], "--moving-bands 9"),
        ("eye", "sar", ["--reference-bands", "2"], "--reference-bands 2"),
        ("eye", "sar", ["--moving-sensor", "nix"], "--moving-sensor: No sensor is called 'nix'"),
        ("eye", "decibel", ["--moving-sensor", "sentinel1-rtc"], "cannot be negative"),
    ],
)
def test_bad_input_is_one_message_and_leaves_no_record(
    reference: str, moving: str, options: list[str], message: str, scenes: dict[str, Path], tmp_path: Path
) -> None:
    files = [scenes.get(name, tmp_path / f"{name}.tif") for name in (reference, moving)]
    result = call(*files, "--out", tmp_path / "out", *options)
    assert result.exit_code == 1, result.output
    assert "Error: " in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "out" / "coregistration.json").exists()
    assert not list((tmp_path / "out").glob(".*"))


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_read(
    scenes: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = call(scenes["eye"], tmp_path / "nowhere.tif", "--out", tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert f"Cannot write {tmp_path / 'file' / 'out'}" in result.stderr


def test_a_result_never_overwrites_an_input(scenes: dict[str, Path], tmp_path: Path) -> None:
    moving = tmp_path / "aligned.tif"
    moving.write_bytes(scenes["moved"].read_bytes())
    result = call(scenes["eye"], moving, "--out", tmp_path)
    assert result.exit_code == 1
    assert "both an input and a result" in result.stderr
    assert moving.read_bytes() == scenes["moved"].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either REFERENCE and MOVING, or --catalog"),
        (["a.tif", "b.tif", "--catalog", "sample"], "give either REFERENCE and MOVING, or --catalog"),
        (["a.tif"], "expected at least two files, got 1"),
        (["a.tif", "b.tif", "--set", "a=1"], "has no meaning beside files"),
        (["--catalog", "sample", "--strict"], "has no meaning beside --catalog"),
        (["--catalog", "sample", "--max-shift-px", "5"], "has no meaning beside --catalog"),
        (["a.tif", "b.tif", "--model", "magic"], "expected one of auto, none, shift, affine, field, got 'magic'"),
        (["a.tif", "b.tif", "--method", "magic"], "expected one of structure, double-angle, gradient"),
        (["a.tif", "b.tif", "--max-shift-px", "0"], "expected more than 0 and at most 256, got 0"),
        (["a.tif", "b.tif", "--moving-bands", "red"], "expected band numbers such as 3,4; got 'red'"),
    ],
)
def test_wrong_usage_ends_with_code_two(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = call(*arguments, "--out", tmp_path)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.replace("│", " ").split())


def test_bands_may_be_chosen_for_both_or_for_one(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "s1s2-chips-usa"
    pair = [folder / f"texas_257_r512c0_{name}.tif" for name in ("s2rgb", "s1vh")]
    record = done(*pair, "--bands", "1", out=tmp_path)
    assert (record["reference"]["bands"], record["moving"]["bands"]) == ([1], [1])
    record = done(*pair, "--bands", "1", "--reference-bands", "2,3", out=tmp_path)
    assert (record["reference"]["bands"], record["moving"]["bands"]) == ([2, 3], [1])


def test_any_number_of_workers_measures_the_same(aligned: Path, scenes: dict[str, Path], tmp_path: Path) -> None:
    record = done(scenes["eye"], scenes["sar"], "--workers", "2", out=tmp_path)
    assert record["matrix"] == record_of(aligned)["matrix"]
    assert (tmp_path / "aligned.tif").read_bytes() == (aligned / "aligned.tif").read_bytes()


def test_a_field_reaches_every_file(
    scenes: dict[str, Path], world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = north_up()
    nodes = GeoBox((9, 9), box.affine * Affine.scale(40) * Affine.translation(-0.5, -0.5), box.crs)
    row = np.indices(nodes.shape)[0].astype(np.float32)
    values = np.stack([2 * np.sin(row / 2), 1 + row / 8]).astype(np.float32)
    bent = Field(nodes, values, np.full(nodes.shape, 0.25, np.float32), np.full(nodes.shape, 0.9, np.float32))
    truth = Displacement(box, "field", (1, 0, 0, 1.5, 0, 0), 0.25, 0.9, True, 25, "", bent)
    rows, cols = np.indices(box.shape)
    dx, dy = truth.at(cols, rows)
    # What the reference shows at p is shown by the moving raster at p + d(p).
    ux, uy = truth.inverse().at(cols, rows)
    moved = ndimage.map_coordinates(world.on(box), [rows + uy, cols + ux], order=3, mode="nearest")
    moving = optical(tmp_path / "bent.tif", moved, box)
    inner = product.survey
    monkeypatch.setattr(product, "survey", lambda *a, **k: replace(inner(*a, **k), displacement=truth))
    record = done(scenes["eye"], moving, out=tmp_path / "out")
    assert record["model"] == "field"
    assert (record["dx_px"], record["dy_px"]) == pytest.approx((dx.mean(), dy.mean()), abs=0.02)
    with rasterio.open(tmp_path / "out" / "displacement.tif") as stored:
        assert np.allclose(stored.read([1, 2]), [dx, dy], atol=1e-4)
    with rasterio.open(tmp_path / "out" / "aligned.tif") as stored, rasterio.open(scenes["eye"]) as eye:
        error = np.abs(stored.read(1).astype(float) - eye.read(1))[20:-20, 20:-20]
        with rasterio.open(moving) as source:
            before = np.abs(source.read(1).astype(float) - eye.read(1))[20:-20, 20:-20]
    assert error.mean() < 0.1 * before.mean()


def test_several_files_are_aligned_as_a_series(scenes: dict[str, Path], world: World, tmp_path: Path) -> None:
    box = north_up()
    other = optical(tmp_path / "other.tif", world.on(box, metres(box, (-1.0, 4.0))), box)
    files = [scenes["eye"], scenes["moved"], other, scenes["unrelated"]]
    result = call(*files, "--out", tmp_path / "out", "--strict")
    assert result.exit_code == 1, "one scene of another place is declined"
    assert "2 of 3 scenes placed" in result.stderr
    assert (tmp_path / "out" / "series.png").exists()
    found = json.loads((tmp_path / "out" / "series.json").read_text(), parse_constant=pytest.fail)
    assert [scene["name"] for scene in found["scenes"]] == ["moved", "other", "unrelated"]
    assert [scene["reliable"] for scene in found["scenes"]] == [True, True, False]
    for name, expected in (("moved", (3, -2)), ("other", (-1, 4))):
        record = record_of(tmp_path / "out" / name)
        assert record["status"] == "aligned"
        assert (record["dx_px"], record["dy_px"]) == pytest.approx(expected, abs=0.2)
    assert record_of(tmp_path / "out" / "unrelated")["status"] == "declined"


REAL = {
    "gcps alone": ("s1s2-chips-usa/losangeles_059_r512c512_s2rgb.tif", "awkward/rio-tiler/cog_gcps.tif"),
    "rpcs alone": ("awkward/rasterio/RGB.byte.tif", "awkward/rasterio/RGB.byte.rpc.vrt"),
    "mars": ("s1s2-chips-usa/losangeles_059_r512c512_s2rgb.tif", "awkward/rio-tiler/cog_hirise_mars.tif"),
    "truncated": ("awkward/rasterio/RGB.byte.tif", "awkward/rasterio/corrupt.tif"),
    "text": ("awkward/rasterio/RGB.byte.tif", "awkward/rio-pansharpen/corrupt.TIF"),
}


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("gcps alone", "ground control points but no affine georeference"),
        ("rpcs alone", "only rational polynomial coefficients"),
        ("mars", "no transformation from Equirectangular MARS"),
        ("text", "cannot be read"),
    ],
)
def test_real_files_without_a_usable_place_are_refused_in_words(
    case: str, message: str, shared_data: Path, tmp_path: Path
) -> None:
    result = call(*(shared_data / path for path in REAL[case]), "--out", tmp_path)
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "coregistration.json").exists()


def test_a_real_chip_is_aligned_and_its_metres_are_those_of_the_map(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "s1s2-chips-usa"
    record = done(
        folder / "losangeles_046_r512c512_s2rgb.tif", folder / "losangeles_046_r512c512_s1vh.tif", out=tmp_path
    )
    assert record["reference"]["sensor"] == "sentinel2-display"
    assert record["moving"]["sensor_is"] == "told by the file"
    assert record["dx_m"] == pytest.approx(10 * record["dx_px"], rel=1e-3)


def test_a_turned_complex_airborne_image_is_read_as_power(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "sar-rotterdam-quadpol-rotated"
    record = done(folder / "rgb_unmasked.tif", folder / "sar_vv.tif", out=tmp_path)
    assert record["moving"]["path"].endswith("sar_vv.tif")
    assert record["moving"]["unit"] == "linear"
    assert "moving: complex samples were turned into their power, |z|²" in record["notes"]
    assert record["moving"]["pixel"] == pytest.approx([2.5, 2.5], abs=1e-3)
    with rasterio.open(tmp_path / "aligned.tif") as stored, rasterio.open(folder / "rgb_unmasked.tif") as reference:
        assert stored.dtypes == ("float32",)
        assert stored.transform == reference.transform
        assert stored.tags()["COREG_MOVING"] == "sar_vv.tif"
        values = stored.read(1)
    assert np.isfinite(values).mean() == pytest.approx((2.5 / 4.5) ** 2, abs=0.01)
    assert np.nanmin(values) >= 0


def test_a_raster_across_the_antimeridian_comes_back_as_it_is(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "awkward" / "eoxserver" / "crosses_dateline.tif"
    record = done(path, path, out=tmp_path)
    assert (record["dx_px"], record["dy_px"]) == (0, 0)
    other = shared_data / "awkward" / "rio-tiler" / "cog_dateline.tif"
    record = done(other, path, out=tmp_path / "mixed")
    assert record["status"] in ("declined", "unchanged", "aligned")
    assert record["overlap_share"] > 0


LOOK = """
import json, os, sys
os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ.setdefault("XDG_RUNTIME_DIR", os.getcwd())
from qgis.core import QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsRasterLayer, QgsVectorLayer
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

app = QgsApplication([], False)
app.initQgis()


def draw(picture, layers, extent):
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setOutputSize(QSize(320, 320))
    settings.setBackgroundColor(QColor("white"))
    settings.setExtent(extent)
    settings.setDestinationCrs(layers[0].crs())
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(picture)
    assert not job.errors(), [error.message for error in job.errors()]


def main(arrows, field, *pictures):
    points, raster = QgsVectorLayer(arrows, "tie points", "ogr"), QgsRasterLayer(field, "displacement")
    assert points.isValid() and raster.isValid()
    draw(pictures[0], [points], raster.extent())
    draw(pictures[1], [raster], raster.extent())
    renderer = raster.renderer()
    print(json.dumps({
        "rules": [item.label() for item in points.renderer().legendSymbolItems()],
        "kind": [points.renderer().type(), renderer.type()],
        "band": raster.bandName(renderer.usesBands()[0]),
        "crs": [points.crs().authid(), raster.crs().authid()],
        "count": points.featureCount(),
    }))


main(*sys.argv[1:])
app.exitQgis()
"""


def _has_qgis() -> bool:
    if not Path(QGIS_PYTHON).exists():
        return False
    return subprocess.run([QGIS_PYTHON, "-c", "import qgis.core"], capture_output=True, check=False).returncode == 0


@pytest.mark.qgis
def test_qgis_shows_arrows_and_magnitude_at_once(aligned: Path, tmp_path: Path) -> None:
    if not _has_qgis():
        pytest.skip(f"{QGIS_PYTHON} cannot import qgis; apt-get install python3-qgis qgis-providers")
    script, pictures = tmp_path / "look.py", [tmp_path / "arrows.png", tmp_path / "magnitude.png"]
    script.write_text(LOOK)
    files = [aligned / "tie_points.gpkg", aligned / "displacement.tif"]
    shown = subprocess.run(
        [QGIS_PYTHON, str(script), *map(str, [*files, *pictures])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        check=False,
        timeout=240,
    )
    assert shown.returncode == 0, shown.stderr
    found = json.loads(shown.stdout.strip().splitlines()[-1])
    assert found["kind"] == ["RuleRenderer", "singlebandpseudocolor"]
    assert found["band"] == "Band 5: magnitude_px"
    assert found["crs"] == ["EPSG:32633", "EPSG:32633"]
    assert found["count"] == len(geopandas.read_file(files[0]))
    assert found["rules"][0].startswith("not used, drawn ")
    assert "residual up to 0.5 px" in found["rules"]
    arrows, magnitude = (_pixels(path) for path in pictures)
    drawn = (arrows < 250).any(axis=0)
    assert 0.002 < drawn.mean() < 0.5, "arrows are seen, and leave most of the map free"
    assert len(np.unique(np.flatnonzero(drawn.any(axis=0)) // 32)) >= 5, "they are spread over the map"
    red, _, blue = magnitude.reshape(3, -1).mean(axis=1)
    assert blue > red + 40, "a displacement of 3.6 px is a strong blue"


def _pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as picture:
        return picture.read([1, 2, 3]).astype(int)
