"""Products open in QGIS with CRS, extent, band names, nodata and style; a plain-GDAL twin always runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsgeo_gan.inference import generate
from tests.generation import run

pytestmark = pytest.mark.e2e

PYTHON = "/usr/bin/python3"

LOOK = """
import json, os, sys
os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ.setdefault("XDG_RUNTIME_DIR", os.getcwd())
from qgis.core import QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsRaster, QgsRasterLayer
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

app = QgsApplication([], False)
app.initQgis()


def main(picture, *paths):
    found = []
    layers = [QgsRasterLayer(path, path) for path in paths]
    for layer in layers:
        assert layer.isValid(), layer.source()
        extent, provider, renderer = layer.extent(), layer.dataProvider(), layer.renderer()
        grey = renderer.type() == "singlebandgray"
        style = renderer.contrastEnhancement() if grey else renderer.redContrastEnhancement()
        centre = provider.identify(extent.center(), QgsRaster.IdentifyFormatValue).results()
        found.append({
            "crs": layer.crs().authid(),
            "extent": [extent.xMinimum(), extent.yMinimum(), extent.xMaximum(), extent.yMaximum()],
            "bands": [layer.bandName(band + 1) for band in range(layer.bandCount())],
            "renderer": renderer.type(),
            "stretch": [style.minimumValue(), style.maximumValue()],
            "style": os.path.exists(layer.styleURI()),
            "centre": [centre[band + 1] for band in range(layer.bandCount())],
        })
    settings = QgsMapSettings()
    settings.setLayers(layers[:1])
    settings.setOutputSize(QSize(171, 150))
    settings.setBackgroundColor(QColor("white"))
    settings.setExtent(layers[0].extent())
    settings.setDestinationCrs(layers[0].crs())
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(picture)
    print(json.dumps(found))


main(*sys.argv[1:])
app.exitQgis()
"""


@pytest.fixture(scope="module")
def products(tmp_path_factory) -> list[Path]:
    job = run(tmp_path_factory.mktemp("qgis"))
    manifest = generate(**job.arguments | {"directions": ["source_to_target", "target_to_source"]})
    return [Path(item.assets["data"].href) for item in manifest]


def _has_qgis() -> bool:
    if not Path(PYTHON).exists():
        return False
    return subprocess.run([PYTHON, "-c", "import qgis.core"], capture_output=True, check=False).returncode == 0


@pytest.mark.qgis
def test_qgis_opens_draws_and_styles_the_products(products, tmp_path):
    if not _has_qgis():
        pytest.skip(f"{PYTHON} cannot import qgis; apt-get install python3-qgis qgis-providers")
    script, picture = tmp_path / "look.py", tmp_path / "map.png"
    script.write_text(LOOK)
    done = subprocess.run(
        [PYTHON, str(script), str(picture), *map(str, products)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    radar, optical = json.loads(done.stdout.strip().splitlines()[-1])
    with rasterio.open(products[0]) as product:
        bounds = list(product.bounds)
        middle = product.index(*[sum(pair) / 2 for pair in ((bounds[0], bounds[2]), (bounds[1], bounds[3]))])
        expected = product.read()[:, *middle]
    assert radar["crs"] == optical["crs"] == "EPSG:32632"
    assert radar["extent"] == bounds
    # The last one is how QGIS shows the internal mask.
    assert radar["bands"] == ["Band 1: VV", "Band 2: VH", "Band 3"]
    assert optical["bands"] == ["Band 1: B02", "Band 2: B03", "Band 3: B04", "Band 4"]
    assert radar["style"]
    assert optical["style"]
    assert (radar["renderer"], radar["stretch"]) == ("singlebandgray", [-25, 0])
    assert (optical["renderer"], optical["stretch"]) == ("multibandcolor", [0, 0.4])
    assert radar["centre"][:2] == pytest.approx(expected.tolist(), rel=1e-6)
    assert 0 < optical["centre"][0] < 1, "QGIS applies scale and offset, so the stretch is in reflectance"
    with rasterio.open(picture) as drawn:
        image = drawn.read([1, 2, 3])
    with rasterio.open(products[0]) as product:
        invalid = product.dataset_mask() == 0
    assert (image[:, invalid] == 255).mean() > 0.99, "nodata is transparent"
    assert image[:, ~invalid].std() > 10, "the product is drawn with contrast"


def test_gdal_reads_the_same_facts(products):
    with rasterio.open(products[0]) as product:
        assert product.crs.to_string() == "EPSG:32632"
        assert product.descriptions == ("VV", "VH")
        assert np.isnan(product.nodata)
        assert product.tags(1)["STATISTICS_MEAN"]
        with rasterio.MemoryFile() as memory:
            export = {**product.profile, "driver": "GTiff", "compress": "lzw"}
            with memory.open(**export) as copy:
                copy.write(product.read())
            with memory.open() as back:
                assert (back.transform, back.crs) == (product.transform, product.crs)
                assert np.array_equal(back.read(), product.read(), equal_nan=True)


def test_an_older_gdal_reads_the_product(products):
    if shutil.which("gdalinfo") is None:
        pytest.skip("gdalinfo is not there; apt-get install gdal-bin")
    done = subprocess.run(["gdalinfo", "-json", str(products[0])], capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    with rasterio.open(products[0]) as product:
        transform = product.transform.to_gdal()
    assert facts["geoTransform"] == list(transform)
    assert [band["description"] for band in facts["bands"]] == ["VV", "VH"]
    assert [band["unit"] for band in facts["bands"]] == ["dB", "dB"]
    assert 'ID["EPSG",32632]' in facts["coordinateSystem"]["wkt"]
    assert facts["metadata"][""]["SYNTHETIC"] == "YES"
    assert facts["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
