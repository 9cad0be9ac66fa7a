"""Exports: units at the graph's borders, tiles for QGIS, all or nothing, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from rsgeo_gan import chain, cli, raster
from rsgeo_gan.chain import Outcome
from rsgeo_gan.errors import CheckpointError, ExportError, ProductError
from rsgeo_gan.export import deepness, export, folder, graph
from rsgeo_gan.export.physical import Physical, StoredValues
from rsgeo_gan.export.windows import from_scene, from_tiles
from rsgeo_gan.inference import Facts, Translator
from rsgeo_gan.sensors import SENSORS, Scaler
from tests.generation import EO_BANDS, EO_SCALER, SAR_SCALER, box, checkpoint, optical, radar
from tests.synth import ramp, write_tiles


class Same(nn.Module):
    """Gives back what it gets, so that units show."""

    receptive_radius_px = 0
    stride = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def _translator(scaler: Scaler, network: nn.Module | None = None) -> Translator:
    return Translator(network or Same(), "source_to_target", Facts(scaler, scaler, 10.0, 3, "toy"))


@pytest.mark.parametrize(
    ("sensor", "offset_dn", "stored", "expected"),
    [
        ("sentinel2-l2a", 0.0, [1500.0, 0.0, 9000.0], [0.15, np.nan, 0.3]),
        ("sentinel2-l2a", -1000.0, [1500.0, 0.0, 9000.0], [0.05, np.nan, 0.3]),
        ("sentinel1-rtc", 0.0, [0.1, np.nan, 0.0], [-10.0, np.nan, -25.0]),
        ("sentinel1-rtc-db", 0.0, [-12.5, np.nan, 9.0], [-12.5, np.nan, 0.0]),
        # A radiometric offset is one of digital numbers; other sides of the same model are left alone.
        ("sentinel1-rtc-db", -1000.0, [-12.5, np.nan, 9.0], [-12.5, np.nan, 0.0]),
    ],
)
def test_stored_values_become_physical_values(sensor, offset_dn, stored, expected):
    known = SENSORS[sensor]
    low, high = (0.0, 0.3) if known.modality == "optical" else (-25.0, 0.0)
    scaler = Scaler(sensor, known.analysis_unit, ("a",), (low,), (high,))
    read = StoredValues.of(scaler, known, offset_dn)
    answer = Physical(_translator(scaler), read)(torch.tensor(stored)[None, None, None])
    assert answer.shape == (1, 1, 1, 3)
    np.testing.assert_allclose(answer[0, 0, 0].numpy(), np.float32(expected), rtol=1e-5, atol=1e-5)


@given(values=st.lists(st.floats(-24, -1), min_size=1, max_size=5), sensor=st.sampled_from(["linear", "dB", "dn"]))
@settings(max_examples=20, deadline=None)
def test_what_a_raster_would_store_is_read_back(values, sensor):
    names = {"linear": "sentinel1-rtc", "dB": "sentinel1-rtc-db", "dn": "sentinel2-l2a"}
    known = SENSORS[names[sensor]]
    scaler = Scaler(known.name, known.analysis_unit, ("a",), (-25.0,), (0.0,))
    read = StoredValues.of(scaler, known, -1000.0 if sensor == "dn" else 0.0)
    given_ = np.array(values, np.float32)[None, None, None]
    answer = Physical(_translator(scaler), read)(torch.from_numpy(read.from_analysis(given_)))
    np.testing.assert_allclose(answer.numpy(), given_, atol=1e-3)


@given(halo=st.integers(0, 900), exponent=st.integers(0, 6), tile_px=st.integers(64, 1024))
@settings(max_examples=60, deadline=None)
def test_tiles_in_qgis_leave_no_seam(halo, exponent, tile_px):
    stride = 2**exponent
    halo = -(-halo // stride) * stride
    cut = deepness.tiling(SimpleNamespace(stride=stride, halo_px=halo, direction="x"), tile_px)
    as_the_plugin = int(cut.tile_px * cut.overlap_pct / 100 * 2) // 2
    assert as_the_plugin // 2 >= halo
    assert (cut.tile_px - as_the_plugin) % stride == 0
    assert cut.tile_px >= tile_px


def test_a_network_that_sees_too_far_for_qgis_is_refused():
    far = SimpleNamespace(stride=256, halo_px=4096, direction="x")
    with pytest.raises(ExportError, match=r"holds a halo of 4096 px.*--no-onnx"):
        deepness.tiling(far)


def test_a_network_without_a_form_in_onnx_is_named(monkeypatch):
    def refuse(*_, **__):
        try:
            raise NotImplementedError("No ONNX function found for bessel_j1\nsecond line")
        except NotImplementedError as error:
            raise RuntimeError("Failed to convert; next steps are many") from error

    monkeypatch.setattr(torch.onnx, "export", refuse)
    message = r"source_to_target: Same has no form in ONNX \(NotImplementedError: No ONNX function .*j1\).*--no-onnx"
    with pytest.raises(ExportError, match=message):
        graph.traced(_translator(EO_SCALER), StoredValues.of(EO_SCALER, None))


def test_without_the_packages_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match=r"needs onnx, onnxscript, onnxruntime.*pip install 'rsgeo-gan\[export\]'"):
        export(checkpoint(tmp_path / "x.ckpt"), tmp_path / "out")


def test_weights_alone_need_no_moments_and_rebuild_every_generator(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt")
    made = export(path, tmp_path / "out", onnx=False)
    assert made.directions == ("source_to_target", "target_to_source")
    for direction, bands in (("source_to_target", 3), ("target_to_source", 2)):
        one, other = (Translator.load(here, direction) for here in (path, made.path))
        image = torch.rand(1, bands, 20, 24) * 2 - 1
        assert torch.equal(one(image), other(image))
        assert one.digest == other.digest
        assert one.facts == other.facts


def test_untrained_weights_are_the_same_from_an_export(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt")
    made = export(path, tmp_path / "out", onnx=False)
    loaded = [Translator.load(here, "source_to_target", untrained_seed=5) for here in (path, made.path)]
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded[0](image), loaded[1](image))


def test_a_checkpoint_of_one_direction_is_exported_and_refused_the_other_way(tmp_path):
    arguments = {"in_channels": 3, "out_channels": 2, "width": 4, "blocks": 2}
    spec = {"class_path": "rsgeo_gan.models.ResNetGenerator", "init_args": arguments}
    path = checkpoint(tmp_path / "x.ckpt", hyper_parameters={"generator": spec})
    made = export(path, tmp_path / "out", onnx=False)
    assert made.directions == ("source_to_target",)
    for here in (path, made.path):
        with pytest.raises(CheckpointError, match="no generator for target_to_source, only for source_to_target"):
            Translator.load(here, "target_to_source")
    with pytest.raises(CheckpointError, match="no generator for target_to_source"):
        export(path, tmp_path / "other", onnx=False, directions=["target_to_source"])


def test_an_earlier_export_is_replaced_and_anything_else_is_not(tmp_path):
    path, out = checkpoint(tmp_path / "x.ckpt"), tmp_path / "out"
    export(path, out, onnx=False)
    export(path, out, onnx=False, directions=["source_to_target"])
    assert not (out / "target_to_source.safetensors").exists()
    (out / "notes.txt").write_text("mine")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    (mine / "model.json").write_text("{}")
    for place in (out, mine):
        with pytest.raises(ProductError, match=f"{place.name}: the folder holds something that belongs to no export"):
            export(path, place, onnx=False)
        assert len(list(place.iterdir())) > 1
    with pytest.raises(ProductError, match="it is a file"):
        export(path, mine / "thesis.txt", onnx=False)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mine", "out", "x.ckpt"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise ExportError("differs")

    path = checkpoint(tmp_path / "models" / "x.ckpt")
    raster.write(tmp_path / "eo.tif", optical(64, 64), box(64, 64), nodata=0, names=EO_BANDS)
    monkeypatch.setattr(folder, "_onnx", fail)
    with pytest.raises(ExportError, match="differs"):
        export(path, tmp_path / "new" / "out", directions=["source_to_target"], scene=tmp_path / "eo.tif")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_output_folder_below_a_file_is_named(tmp_path):
    path = checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(ProductError, match=r"Cannot write .*x\.ckpt"):
        export(path, path / "out", onnx=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing tells its moments.*--scene SCENE.tif.*--tiles tiles.json"),
        ({"scene": "eo.tif", "directions": ()}, "a scene gives the moments of one direction, the export has 2"),
        ({"scene": "sar.tif"}, r"sar\.tif: expected the bands B02, B03, B04, got VV, VH in 2 bands"),
        ({"tiles": "tiles"}, r"bands B02, B03 on the source side.*trained on B02, B03, B04"),
    ],
)
def test_moments_that_cannot_be_had_are_explained(tmp_path, arguments, message):
    path = checkpoint(tmp_path / "x.ckpt")
    raster.write(tmp_path / "sar.tif", radar(32, 32), box(32, 32), nodata=float("nan"), names=("VV", "VH"), unit="dB")
    write_tiles(tmp_path)
    files = {name: tmp_path / arguments[name] for name in ("scene", "tiles") if name in arguments}
    directions = arguments.get("directions", ("source_to_target",))
    with pytest.raises(ExportError, match=message):
        export(path, tmp_path / "out", directions=directions, **files)
    assert not (tmp_path / "out").exists()


def test_a_scene_without_band_names_is_read_in_order_with_its_offset(tmp_path):
    array = optical(64, 64)
    raster.write(tmp_path / "eo.tif", array, box(64, 64), nodata=0)
    translator = Translator.load(checkpoint(tmp_path / "x.ckpt"), "source_to_target")
    windows = from_scene(tmp_path / "eo.tif", translator, offset_dn=-100)
    expected = EO_SCALER.forward((array - 100.0) * 1e-4)
    np.testing.assert_allclose(windows.values[0].numpy(), expected, atol=1e-5)


def test_windows_of_tiles_come_from_the_training_split_in_model_units(tmp_path):
    tiles = write_tiles(tmp_path, source=ramp(3), splits=("train", "test"))
    translator = Translator.load(checkpoint(tmp_path / "x.ckpt"), "target_to_source")
    windows = from_tiles(tiles, translator)
    assert windows.values.shape == (3, 2, 32, 32)
    assert windows.origin.startswith("3 training tiles of ")
    first, _ = raster.read(tiles / "pair-a-0-0" / "target.tif")
    np.testing.assert_allclose(windows.values.numpy().max(), SAR_SCALER.forward(first).max(), atol=0.3)


def _edit(path, **changes):
    content = json.loads((path / "model.json").read_text(encoding="utf-8"))
    (path / "model.json").write_text(json.dumps(content | changes), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "model.json").unlink(), r"not an export: expected a folder with model\.json"),
        (lambda path: (path / "model.json").write_text("{"), r"model\.json: cannot be read"),
        (lambda path: (path / "model.json").write_text("{}"), "expected a `format`, got None"),
        (lambda path: _edit(path, format=2, version="7.1"), "export format 2, written by version 7.1.*reads up to 1"),
        (lambda path: _edit(path, generators=[]), "generators missing or malformed"),
        (lambda path: _edit(path, facts={}), "lacks facts of its training data"),
        (lambda path: _change(path), r"safetensors: not the file that was exported: expected SHA-256"),
        (lambda path: (path / "source_to_target.safetensors").unlink(), r"safetensors: cannot be read"),
    ],
)
def test_a_damaged_export_is_refused_with_what_to_do(tmp_path, damage, message):
    made = export(checkpoint(tmp_path / "x.ckpt"), tmp_path / "out", onnx=False)
    damage(made.path)
    with pytest.raises(CheckpointError, match=message):
        Translator.load(made.path, "source_to_target")


def _change(path):
    weights = path / "source_to_target.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)


def test_an_export_may_name_only_trusted_classes(tmp_path):
    made = export(checkpoint(tmp_path / "x.ckpt"), tmp_path / "out", onnx=False)
    content = json.loads((made.path / "model.json").read_text(encoding="utf-8"))
    content["generators"]["source_to_target"]["class_path"] = "os.system"
    _edit(made.path, generators=content["generators"])
    with pytest.raises(CheckpointError, match=r"os\.system, outside the trusted packages"):
        Translator.load(made.path, "source_to_target")


def test_an_export_is_not_exported_again(tmp_path):
    made = export(checkpoint(tmp_path / "x.ckpt"), tmp_path / "out", onnx=False)
    with pytest.raises(ExportError, match=r"expected a \.ckpt file, got a folder"):
        export(made.path, tmp_path / "again", onnx=False)


def test_the_command_line_hands_a_checkpoint_to_generate(tmp_path, monkeypatch):
    seen = []

    def stage(name, job, progress):
        seen.append((name, job.checkpoint))
        return Outcome(name, "products.json", total=1, new=1)

    monkeypatch.setattr(chain, "run_stage", stage)
    arguments = ["generate", "-c", "sample", "-o", str(tmp_path), "--checkpoint", "model"]
    assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    assert seen == [("generate", "model")]
