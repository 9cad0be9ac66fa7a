"""Synthetic images open in QGIS on the cell of their tile, styled; a plain-GDAL twin always runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import rasterio

from rsgeo_gan.catalog import SyntheticProducts
from rsgeo_gan.inference.synthesis import synthesize
from rsgeo_gan.manifest import asset_path, item_box
from tests.e2e.test_qgis import LOOK, PYTHON, _has_qgis
from tests.generation import EO_BANDS
from tests.synthesis import EO_SCALER, SIZE_PX, checkpoint, tiles

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> tuple[Path, list[float]]:
    """An image, and the bounds of the tile it lies on."""
    folder = tmp_path_factory.mktemp("synthetic")
    places = tiles(folder / "tiles")
    wanted = SyntheticProducts(count=1, classes=("forest",))
    (item,) = synthesize(checkpoint(folder / "model.ckpt"), folder / "products", wanted, tiles=places)
    bounds = item_box(places.get(item.properties["rsgeo:from"][0])).boundingbox
    return Path(asset_path(item, "data")), [bounds.left, bounds.bottom, bounds.right, bounds.top]


@pytest.mark.qgis
def test_qgis_shows_the_image_on_the_cell_of_its_tile(image, tmp_path):
    if not _has_qgis():
        pytest.skip(f"{PYTHON} cannot import qgis; apt-get install python3-qgis qgis-providers")
    path, bounds = image
    script, picture = tmp_path / "look.py", tmp_path / "map.png"
    script.write_text(LOOK)
    done = subprocess.run(
        [PYTHON, str(script), str(picture), str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    (layer,) = json.loads(done.stdout.strip().splitlines()[-1])
    assert (layer["crs"], layer["extent"]) == ("EPSG:32632", bounds)
    assert [name.split(": ")[1] for name in layer["bands"][:3]] == list(EO_BANDS)
    assert (layer["renderer"], layer["style"]) == ("multibandcolor", True)
    assert layer["stretch"] == pytest.approx([EO_SCALER.low[2], EO_SCALER.high[2]])
    with rasterio.open(path) as product:
        raw = product.read(window=((SIZE_PX // 2, SIZE_PX // 2 + 1),) * 2).ravel()
    assert layer["centre"][:3] == pytest.approx([value * 1e-4 for value in raw])
    assert picture.stat().st_size > 0


def test_gdal_tells_place_units_and_origin(image):
    path, bounds = image
    if shutil.which("gdalinfo") is None:
        pytest.skip("gdalinfo is not installed; apt-get install gdal-bin")
    done = subprocess.run(["gdalinfo", "-json", str(path)], capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    corners = facts["cornerCoordinates"]
    assert [*corners["lowerLeft"], *corners["upperRight"]] == bounds
    assert 'ID["EPSG",32632]' in facts["coordinateSystem"]["wkt"]
    assert [band["description"] for band in facts["bands"]] == list(EO_BANDS)
    assert {(band["unit"], band["scale"], band["noDataValue"]) for band in facts["bands"]} == {("reflectance", 1e-4, 0)}
    tags = facts["metadata"][""]
    assert (tags["SYNTHETIC"], tags["RSGEO_LABEL"], tags["RSGEO_GRID"]) == ("YES", "forest", "tile")
    assert facts["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
