"""An export made by the real command line: what others do with it gives what this package gives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import numpy as np
import pystac
import pytest
import rasterio
import torch
from pystac.extensions.mlm import MLMExtension
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from rsgeo_gan.errors import ExportError
from rsgeo_gan.export import deepness, graph
from rsgeo_gan.export.physical import StoredValues
from rsgeo_gan.export.windows import from_scene
from rsgeo_gan.inference import Facts, Translator, generate
from rsgeo_gan.models import ResNetGenerator
from rsgeo_gan.sensors import SENSORS
from tests.generation import EO_BANDS, EO_SCALER, SAR_SCALER, Run, run
from tests.toy import ROOT, run_cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

DIRECTION = "source_to_target"
MODEL_UNIT_DB = 12.5 * graph.TOLERANCE
"""A tolerated difference in dB: SAR_SCALER spans 25 dB in two model units at least."""


@dataclass
class Made:
    """A run, its export, and the product of its scene."""

    job: Run
    folder: Path
    said: str

    def session(self, ending: str = "onnx"):
        return graph.session(self.folder / f"{DIRECTION}.{ending}")

    def scene(self) -> np.ndarray:
        with rasterio.open(self.job.folder / "scenes" / "eo.tif") as file:
            return file.read()

    def product(self) -> np.ndarray:
        with rasterio.open(next((self.job.folder / "products").glob("*.tif"))) as file:
            return file.read()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    job = run(tmp_path_factory.mktemp("run"))
    generate(**job.arguments)
    folder = job.folder / "exported"
    scene = str(job.folder / "scenes" / "eo.tif")
    done = run_cli("export", str(job.checkpoint), "--out", str(folder), "--direction", DIRECTION, "--scene", scene)
    assert done.returncode == 0, done.stderr
    return Made(job, folder, done.stderr)


def test_the_command_line_says_what_was_made(made):
    assert "source_to_target in " in made.said
    assert "normalisation frozen to the scene eo.tif" in made.said


def test_onnx_on_the_stored_scene_gives_the_product(made):
    answer = made.session().run(["translated"], {"image": made.scene()[None].astype(np.float32)})[0][0]
    product = made.product()
    assert np.array_equal(np.isnan(answer), np.isnan(product))
    assert 0 < np.isnan(product).mean() < 1
    assert np.nanmax(np.abs(answer - product)) <= MODEL_UNIT_DB


@pytest.fixture(scope="module", params=["as exported", "direct path and noise"])
def twins(request: pytest.FixtureRequest, made: Made, tmp_path_factory: pytest.TempPathFactory):
    """A graph in onnxruntime and the translator it was made from; noise is left out of a graph."""
    if request.param == "as exported":
        return made.session(), Translator.load(made.folder, DIRECTION)
    torch.manual_seed(0)
    network = ResNetGenerator(3, 2, width=4, blocks=1, direct_channels=3, noise_channels=2)
    torch.nn.init.normal_(network.noise_skew)
    translator = Translator(network, DIRECTION, Facts(EO_SCALER, SAR_SCALER, 10.0, 3, "toy"))
    windows = from_scene(made.job.folder / "scenes" / "eo.tif", translator)
    translator.freeze(windows.values, windows.valid)
    path = tmp_path_factory.mktemp("traced") / "graph.onnx"
    graph.save(graph.traced(translator, StoredValues.of(EO_SCALER, SENSORS["sentinel2-l2a"])), path)
    return graph.session(path), translator


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 16, 16), (3, 33, 50), (2, 101, 24)])
def test_onnx_takes_any_batch_and_size_and_agrees_with_python(twins, batch, height, width):
    session, translator = twins
    rng = np.random.default_rng(0)
    reflectance = rng.uniform(0.01, 0.29, (batch, 3, height, width)).astype(np.float32)
    expected = translator(torch.from_numpy(EO_SCALER.forward(reflectance))).numpy()
    answer = session.run(None, {"image": reflectance * 1e4})[0]
    assert answer.shape == (batch, 2, height, width)
    assert np.abs(answer - SAR_SCALER.inverse(expected)).max() <= MODEL_UNIT_DB


def test_a_graph_that_computes_something_else_is_refused(made):
    translator = Translator.load(made.folder, DIRECTION)
    windows = from_scene(made.job.folder / "scenes" / "eo.tif", translator)
    stored = StoredValues.of(EO_SCALER, SENSORS["sentinel2-l2a"])
    path = made.folder / f"{DIRECTION}.onnx"
    assert graph.assert_parity(path, translator, stored, windows) <= graph.TOLERANCE
    with torch.no_grad():
        translator.generator.head.weight.mul_(1.01)
    with pytest.raises(
        ExportError, match=r"source_to_target\.onnx: differs from PyTorch by .* expected at most 0\.0001"
    ):
        graph.assert_parity(path, translator, stored, windows)


def test_deepness_draws_the_product_in_levels(made):
    """Do with a tile what the plugin does: divide, standardise, run, multiply, store as 8 bits."""
    session = made.session("qgis.onnx")
    told = {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    assert told["model_type"] == "Regressor"
    assert told["resolution"] == 1000
    side = told["tile_size"]
    assert session.get_inputs()[0].shape == ["batch", 3, side, side]
    assert [output.shape for output in session.get_outputs()] == [["batch", 1, side, side]] * 2
    scene = made.scene()
    tile = np.zeros((1, side, side, 3), scene.dtype)
    rows, columns = scene.shape[1:]
    tile[0, :rows, :columns] = scene.transpose(1, 2, 0)
    given = np.float32(tile * 1.0 / 255.0)
    mean, std = (np.array(told[f"standardization_{name}"], np.float32) for name in ("mean", "std"))
    given = ((given - mean) / std).transpose(0, 3, 1, 2)
    outputs = session.run(None, {"image": given})
    levels = np.stack([(output[0, 0] * told["reg_output_scaling"]).astype(np.uint8) for output in outputs])
    got = levels[:, :rows, :columns].astype(float)
    product = made.product()
    low, high = (np.array(ends)[:, None, None] for ends in (SAR_SCALER.low, SAR_SCALER.high))
    assert np.array_equal(got == 0, np.isnan(product))
    # Below and right of the scene the tile is nodata, the scene is mirrored: the halo tells them apart.
    inner = np.s_[:, : rows - 48, : columns - 48]
    value = (low + (got - 1) / deepness.LEVELS * (high - low))[inner]
    step = ((high - low) / deepness.LEVELS).max()
    assert np.nanmax(np.abs(np.where(got[inner] == 0, np.nan, value) - product[inner])) <= 0.51 * step
    assert told["class_names"][0]["0"] == "Synthetic VV, 1 to 255 is -25 to 0 dB"


def test_the_same_products_come_from_the_export_and_from_the_checkpoint(made, tmp_path):
    arguments = made.job.arguments | {"out": tmp_path / "products", "checkpoint": made.folder}
    item = generate(**arguments).items[0]
    path = Path(item.assets["data"].href)
    twin = next((made.job.folder / "products").glob("*.tif"))
    assert path.name == twin.name
    with rasterio.open(path) as one, rasterio.open(twin) as other:
        assert np.array_equal(one.read(), other.read(), equal_nan=True)
        changing = {"CREATED"}
        tags = [{key: value for key, value in file.tags().items() if key not in changing} for file in (one, other)]
    assert tags[0] == tags[1]


def test_an_export_is_read_without_pickle(made, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("pickle was read")

    monkeypatch.setattr(torch, "load", refuse)
    expected = Translator.load(made.folder, DIRECTION)
    assert not any(path.suffix in {".ckpt", ".pt", ".pkl", ".bin"} for path in made.folder.iterdir())
    assert expected.halo_px > 0


def test_the_item_is_a_valid_stac_item_that_pystac_reads(made):
    path = made.folder / "item.json"
    item = pystac.Item.from_file(path)
    schemas = get_local_schema_cache()
    registry = _registry(schemas)
    core = next(schema for name, schema in schemas.items() if name.endswith("item-spec/json-schema/item.json"))
    jsonschema.Draft7Validator(core, registry=registry).validate(json.loads(path.read_text(encoding="utf-8")))
    told = MLMExtension.ext(item)
    assert told.input[0].bands == list(EO_BANDS)
    assert told.output[0].tasks == ["generative"]
    assert all((made.folder / asset.href).is_file() for asset in item.assets.values())


def test_the_item_keeps_to_the_schema_of_the_extension(made):
    path = ROOT.parent / "shared" / "schemas" / "mlm-v1.4.0.json"
    if not path.is_file():
        pytest.skip(f"the extension's schema is not there: {path}")
    kinds = {"enum": ["float32"]}
    others = {
        "raster": {"definitions": {"bands": {"items": {"properties": {"data_type": kinds}}}}},
        "processing": {"definitions": {"fields": {"properties": {"processing:expression": {}}}}},
        "classification": {"definitions": {"fields": {"properties": {"classification:classes": {}}}}},
    }
    named = {f"https://stac-extensions.github.io/{name}/v1.1.0/schema.json": part for name, part in others.items()}
    schema = json.loads(path.read_text(encoding="utf-8"))
    item = json.loads((made.folder / "item.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator(schema, registry=_registry(named)).validate(item)


def _registry(schemas):
    parts = [(name, Resource.from_contents(part, default_specification=DRAFT7)) for name, part in schemas.items()]
    return Registry().with_resources(parts)


def test_the_card_tells_what_a_user_must_know(made):
    text = (made.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    for part in (
        "Every output is synthetic",
        "shifts of up to 3 px were forgiven",
        "digital numbers of sentinel2-l2a (reflectance = DN · 0.0001), nodata 0",
        "No score is stored",
        "frozen to the scene eo.tif",
        "Licence",
    ):
        assert part in text
    assert "{{" not in text


def test_no_file_names_this_machine(made):
    places = [str(made.job.folder).encode(), str(ROOT).encode()]
    assert not [path.name for path in made.folder.iterdir() if any(place in path.read_bytes() for place in places)]
