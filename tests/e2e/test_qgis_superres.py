"""Finer scenes open in QGIS over their input without any offset, side products too; a plain-GDAL twin always runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rsgeo_gan import raster
from rsgeo_gan.grid import divided
from rsgeo_gan.inference.superres import superres
from tests.e2e.test_qgis import LOOK, PYTHON, _has_qgis
from tests.generation import EO_BANDS, EO_SCALER, box, optical
from tests.sharpening import HERE, ToyTransfer, checkpoint

pytestmark = pytest.mark.e2e

HEIGHT, WIDTH, SCALE = 60, 84, 3
SIDES = ("fine", "fine_uncertainty", "fine_similarity")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A scene whose corner is no round number, a reference, and what was made of them."""
    made = tmp_path_factory.mktemp("finer")
    at = box(HEIGHT, WIDTH, origin=(600000.123456789, 5300040.987654321))
    scene = raster.write(made / "scene.tif", optical(HEIGHT, WIDTH), at, nodata=0, names=EO_BANDS)
    shape = (2, SCALE * HEIGHT, SCALE * WIDTH)
    shown = np.random.default_rng(0).integers(1, 255, shape).astype(np.uint8)
    reference = raster.write(made / "reference.tif", shown, divided(at, SCALE), names=("red", "green"))
    superres(
        scene,
        checkpoint(made / "toy.ckpt", ToyTransfer(scale=SCALE)),
        made / "fine.tif",
        references=[reference],
        align=False,
        uncertainty=2,
        trusted=(HERE,),
        device="cpu",
    )
    return made


@pytest.mark.qgis
def test_qgis_shows_product_and_side_products_over_the_scene_without_offset(folder, tmp_path):
    if not _has_qgis():
        pytest.skip(f"{PYTHON} cannot import qgis; apt-get install python3-qgis qgis-providers")
    script, picture = tmp_path / "look.py", tmp_path / "map.png"
    script.write_text(LOOK)
    done = subprocess.run(
        [PYTHON, str(script), str(picture), *(str(folder / f"{name}.tif") for name in (*SIDES, "scene"))],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    *layers, scene = json.loads(done.stdout.strip().splitlines()[-1])
    for layer in layers:
        assert layer["crs"] == scene["crs"]
        assert np.abs(np.subtract(layer["extent"], scene["extent"])).max() < 1e-6
        assert layer["style"]
    fine, uncertainty, similarity = layers
    assert [name.split(": ")[1] for name in fine["bands"][:3]] == list(EO_BANDS)
    assert fine["stretch"] == pytest.approx([EO_SCALER.low[2], EO_SCALER.high[2]])
    assert (uncertainty["renderer"], similarity["renderer"]) == ("singlebandgray", "singlebandgray")
    assert [name.split(": ")[1] for name in similarity["bands"]] == ["similarity", "gate"]


def test_gdal_tells_the_same_corner_and_a_divided_pixel(folder):
    if shutil.which("gdalinfo") is None:
        pytest.skip("gdalinfo is not installed; apt-get install gdal-bin")

    def told(name: str) -> dict:
        done = subprocess.run(
            ["gdalinfo", "-json", str(folder / f"{name}.tif")], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    scene = told("scene")
    left, width, _, top, _, height = scene["geoTransform"]
    for name in SIDES:
        facts = told(name)
        scale = 1 if name == "fine_similarity" else SCALE
        wanted = [left, width / scale, 0, top, 0, height / scale]
        assert np.abs(np.subtract(facts["geoTransform"], wanted)).max() < 1e-9
        assert facts["size"] == [scale * WIDTH, scale * HEIGHT]
        assert facts["coordinateSystem"]["wkt"] == scene["coordinateSystem"]["wkt"]
        assert facts["metadata"][""]["SYNTHETIC"] == "YES"
        assert facts["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
