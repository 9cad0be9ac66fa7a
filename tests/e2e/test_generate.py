"""Whole scenes through `generate`: equal to the untiled pass, exact on the map, honest about what they are."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import torch
from rio_cogeo.cogeo import cog_validate

from rsgeo_gan import raster
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import CheckpointError, ProductError, SourceError
from rsgeo_gan.grid import Grid
from rsgeo_gan.inference import Translator, generate, untrained
from rsgeo_gan.inference.streaming import SceneReader, sample_windows, translate
from rsgeo_gan.manifest import Manifest, make_item
from rsgeo_gan.models import ResNetGenerator, UNetGenerator
from rsgeo_gan.raster import StripWriter
from rsgeo_gan.tiling import side_of
from tests.generation import EO_BANDS, EO_SCALER, ORIGIN, SAR_BANDS, SAR_SCALER, WHEN, box, checkpoint, optical, run

pytestmark = pytest.mark.e2e


@pytest.fixture
def job(tmp_path):
    return run(tmp_path)


def _only(manifest: Manifest) -> pystac.Item:
    assert len(manifest) == 1, (manifest.ids(), manifest.dropped)
    return manifest.items[0]


def _data(item: pystac.Item) -> Path:
    return Path(item.assets["data"].href)


def _untiled(job, translator):
    reader = SceneReader(side_of(job.scenes.get("eo")), raster.inspect(job.folder / "scenes/eo.tif").geobox, EO_SCALER)
    samples, valid = sample_windows(reader, translator.stride)
    translator.freeze(torch.from_numpy(samples), torch.from_numpy(valid[:, None].astype(np.float32)))
    values, valid = reader.read(0, 0, *reader.shape)
    mask = torch.from_numpy(valid[None, None].astype(np.float32))
    return reader, translator(torch.from_numpy(values)[None], mask)[0].numpy(), valid


@pytest.mark.parametrize(("height", "width"), [(150, 171), (64, 130), (97, 45), (131, 256), (701, 40)])
@pytest.mark.parametrize("window_px", [32, 100])
def test_the_scene_equals_the_untiled_pass_to_the_last_pixel(tmp_path, height, width, window_px):
    job = run(tmp_path, height, width)
    translator = Translator.load(job.checkpoint, "source_to_target")
    _, expected, valid = _untiled(job, translator)
    item = _only(generate(**job.arguments | {"window_px": window_px}))
    with rasterio.open(_data(item)) as product:
        got = SAR_SCALER.forward(product.read())
    assert valid.any()
    assert np.isnan(got[:, ~valid]).all()
    assert np.abs(got - expected)[:, valid].max() < 1e-4


def test_a_network_with_a_wide_field_is_as_seamless(job):
    torch.manual_seed(0)
    generator = UNetGenerator(3, 2, width=4, depth=3)
    facts = Translator.load(job.checkpoint, "source_to_target").facts
    translator = Translator(generator, "source_to_target", facts)
    reader, expected, valid = _untiled(job, translator)
    strips = []
    write = lambda values, row, kept: strips.append(values)  # noqa: E731
    translate(reader, translator, write, channels=2, window_px=32)
    assert len(strips) > 2
    assert np.abs(np.concatenate(strips, axis=1) - expected)[:, valid].max() < 1e-4


def test_strips_of_wide_scenes_are_lower_and_just_as_seamless(tmp_path, monkeypatch):
    job = run(tmp_path, 300, 60)
    translator = Translator.load(job.checkpoint, "source_to_target")
    _, expected, valid = _untiled(job, translator)
    calls = []
    monkeypatch.setattr("rsgeo_gan.inference.streaming.STRIP_BYTES", 1)
    arguments = job.arguments | {"window_px": 512, "progress": lambda *call: calls.append(call)}
    with rasterio.open(_data(_only(generate(**arguments)))) as product:
        got = SAR_SCALER.forward(product.read())
    assert ("generate", 2, 2) in calls
    assert np.abs(got - expected)[:, valid].max() < 1e-4


def test_a_halo_one_stride_too_small_would_show(tmp_path):
    job = run(tmp_path)
    translator = Translator.load(job.checkpoint, "source_to_target")
    reader, expected, valid = _untiled(job, translator)
    got = np.zeros_like(expected)

    def keep(model, row, kept):
        got[:, row : row + model.shape[1]] = model

    translator.halo_px = 8
    translate(reader, translator, keep, channels=2, window_px=32)
    assert np.abs(got - expected)[:, valid].max() > 1e-4


def test_a_generator_with_noise_has_no_seams_either(tmp_path):
    job = run(tmp_path)
    torch.manual_seed(0)
    network = ResNetGenerator(3, 2, width=4, blocks=1, noise_channels=1)
    facts = Translator.load(job.checkpoint, "source_to_target").facts
    translator = Translator(network, "source_to_target", facts)
    reader = SceneReader(side_of(job.scenes.get("eo")), box(150, 171), EO_SCALER)
    results = []
    for window_px in (32, 512):
        samples, valid = sample_windows(reader, translator.stride)
        translator.freeze(torch.from_numpy(samples), torch.from_numpy(valid[:, None].astype(np.float32)))
        got = np.zeros((2, *reader.shape), np.float32)

        def keep(model, row, kept, got=got):
            got[:, row : row + model.shape[1]] = model

        translate(reader, translator, keep, channels=2, window_px=window_px, seed=5)
        results.append(got)
    valid = reader.read(0, 0, *reader.shape)[1]
    assert np.abs(results[0] - results[1])[:, valid].max() < 1e-4


def test_garbage_under_nodata_changes_nothing(tmp_path):
    products = []
    for name, garbage in (("a", 0), ("b", 60000)):
        job = run(tmp_path / name)
        path = job.folder / "scenes" / "eo.tif"
        values, valid = raster.read(path)
        values[:, ~valid] = garbage
        # The mask alone says what is valid.
        raster.write(path, values, box(150, 171), valid=valid, names=EO_BANDS)
        item = job.scenes.get("eo")
        item.properties["rsgeo:sensor"] = {
            "name": "plain",
            "modality": "optical",
            "unit": "dn",
            "scale": 1e-4,
            "bands": list(EO_BANDS),
        }
        with rasterio.open(_data(_only(generate(**job.arguments)))) as product:
            products.append(product.read())
    assert np.array_equal(*products, equal_nan=True)
    assert np.isnan(products[0]).any()


def test_clouds_are_nodata_in_the_product(job):
    classes = np.full((1, 150, 171), 4, np.uint8)
    classes[:, 20:60, 30:90] = 9
    path = job.folder / "scenes" / "scl.tif"
    raster.write(path, classes, box(150, 171))
    item = job.scenes.get("eo")
    item.add_asset("scl", pystac.Asset(str(path)))
    item.properties["rsgeo:invalid_classes"] = [3, 8, 9, 10]
    with rasterio.open(_data(_only(generate(**job.arguments)))) as product:
        values, mask = product.read(1), product.dataset_mask()
    assert np.isnan(values[20:60, 30:90]).all()
    assert not mask[20:60, 30:90].any()
    assert np.isfinite(values[0:20, 30:90]).all()


def test_the_product_lies_exactly_on_its_source_and_says_what_it_is(job):
    manifest = generate(**job.arguments)
    item = _only(manifest)
    with rasterio.open(job.folder / "scenes" / "eo.tif") as source, rasterio.open(_data(item)) as product:
        assert product.crs == source.crs
        assert product.transform == source.transform
        assert product.shape == source.shape
        assert product.dtypes == ("float32", "float32")
        assert np.isnan(product.nodata)
        assert product.descriptions == SAR_BANDS
        assert product.units == ("dB", "dB")
        assert (product.scales, product.offsets) == ((1, 1), (0, 0))
        assert np.array_equal(product.dataset_mask() > 0, np.isfinite(product.read(1)))
        tags = product.tags()
        assert tags["SYNTHETIC"] == "YES"
        assert tags["RSGEO_GRID"] == "source"
        assert tags["RSGEO_DIRECTION"] == "source_to_target"
        assert tags["RSGEO_CHECKPOINT"] == item.properties["rsgeo:checkpoint"]
        assert tags["RSGEO_SOURCES"] == "eo"
        assert tags["RADIUS_PX"] == "3"
        assert tags["RSGEO_VERSION"]
        values = product.read(1)
        assert float(product.tags(1)["STATISTICS_MEAN"]) == pytest.approx(np.nanmean(values), rel=1e-5)
        assert float(product.tags(1)["STATISTICS_MAXIMUM"]) == pytest.approx(np.nanmax(values))
    assert item.properties["rsgeo:synthetic"] is True
    assert item.properties["rsgeo:from"] == ["eo"]
    assert manifest.path == job.folder / "products" / "products.json"


def test_item_and_style_lie_beside_the_product(job):
    data = _data(_only(generate(**job.arguments)))
    item = pystac.Item.from_dict(json.loads(data.with_suffix(".json").read_text()))
    assert item.assets["data"].href == f"./{data.name}"
    assert item.assets["style"].href == f"./{data.stem}.qml"
    assert item.properties["rsgeo:synthetic"] is True
    assert "singlebandgray" in data.with_suffix(".qml").read_text()
    assert sorted(path.name for path in data.parent.iterdir()) == sorted(
        [f"{data.stem}{ending}" for ending in (".tif", ".json", ".qml")] + ["products.json"]
    )


def test_products_are_valid_cogs_with_overviews(tmp_path):
    job = run(tmp_path, 600, 530)
    data = _data(_only(generate(**job.arguments | {"window_px": 512})))
    valid, errors, warnings = cog_validate(data, strict=True, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(data) as product:
        assert product.overviews(1) == [2]


def test_sar_becomes_optical_on_the_tiled_grid_where_its_content_lies(job):
    """The pair says that SAR content lies 2 px right and 1 px up of where optical shows it."""
    arguments = job.arguments | {"directions": ["target_to_source"]}
    item = _only(generate(**arguments))
    with rasterio.open(_data(item)) as product:
        assert product.tags()["RSGEO_GRID"] == "tiled target"
        assert product.descriptions == EO_BANDS
        assert (product.dtypes[0], product.nodata, product.scales[0]) == ("uint16", 0, 1e-4)
        assert product.transform == box(150, 171).affine
        mask = product.dataset_mask() > 0
    assert mask[1:, :-2].all()
    assert not mask[0].any()
    assert not mask[:, -2:].any()
    assert "multibandcolor" in _data(item).with_suffix(".qml").read_text()


def test_a_displacement_that_is_not_reliable_moves_nothing(job):
    job.pairs.items = []
    job.add_pair("eo", "sar", Displacement(box(150, 171), "shift", (2.0, 0, 0, -1.0, 0, 0), 9, 0.1, False))
    item = _only(generate(**job.arguments | {"directions": ["target_to_source"]}))
    with rasterio.open(_data(item)) as product:
        assert product.dataset_mask().all()


def test_a_scene_of_another_pixel_size_goes_to_the_declared_grid(job):
    job.scenes.items = []
    job.add_optical("fine", optical(200, 200), box(200, 200, gsd=5.0, origin=(ORIGIN[0] + 13, ORIGIN[1] - 7)))
    with rasterio.open(_data(_only(generate(**job.arguments)))) as product:
        assert product.tags()["RSGEO_GRID"] == "declared"
        assert product.res == (10, 10)
        assert ((product.transform.c - ORIGIN[0]) / 10).is_integer()
        assert ((product.transform.f - ORIGIN[1]) / 10).is_integer()
        bounds = product.bounds
    assert (bounds.left, bounds.right) == (ORIGIN[0] + 10, ORIGIN[0] + 1020)
    assert (bounds.top, bounds.bottom) == (ORIGIN[1], ORIGIN[1] - 1010)


def test_a_scene_in_another_crs_is_covered_by_its_product(job):
    from odc.geo.geobox import GeoBox

    there = GeoBox.from_bbox((10.34, 47.83, 10.36, 47.84), "EPSG:4326", shape=(110, 150))
    job.scenes.items = []
    job.add_optical("geographic", optical(110, 150), there)
    with rasterio.open(_data(_only(generate(**job.arguments)))) as product:
        assert product.crs.to_epsg() == 32632
        outline = there.footprint("EPSG:32632").boundingbox
        assert product.bounds.left <= outline.left <= product.bounds.left + 10
        assert product.bounds.top >= outline.top >= product.bounds.top - 10
        # North of the two grids differs by a degree, which leaves wedges.
        assert (product.dataset_mask() > 0).mean() > 0.9


def test_a_declared_grid_of_another_pixel_size_than_the_models_is_refused(job):
    job.scenes.items = []
    job.add_optical("fine", optical(200, 200), box(200, 200, gsd=5.0))
    job.grid = Grid("EPSG:32632", 20.0, 64, ORIGIN)
    with pytest.raises(CheckpointError, match="trained at 10 CRS units a pixel, the declared grid has 20"):
        generate(**job.arguments)


def test_both_directions_come_from_one_checkpoint(job):
    manifest = generate(**job.arguments | {"directions": ["source_to_target", "target_to_source"]})
    assert [item.properties["rsgeo:direction"] for item in manifest] == ["source_to_target", "target_to_source"]
    assert len({item.properties["rsgeo:checkpoint"] for item in manifest}) == 1


def test_a_second_run_writes_nothing_and_a_lost_product_is_made_again(job):
    arguments = job.arguments | {"directions": ["source_to_target", "target_to_source"]}
    paths = [_data(item) for item in generate(**arguments)]
    before = [path.stat().st_mtime_ns for path in paths]
    generate(**arguments)
    assert [path.stat().st_mtime_ns for path in paths] == before
    paths[0].unlink()
    calls = []
    assert len(generate(**arguments, progress=lambda *call: calls.append(call))) == 2
    assert paths[0].exists()
    assert paths[1].stat().st_mtime_ns == before[1]
    assert [call for call in calls if call[0] == "generate"][-1] == ("generate", 3, 3)


def test_a_product_without_its_item_is_not_finished(job):
    data = _data(_only(generate(**job.arguments)))
    first = data.stat().st_mtime_ns
    data.with_suffix(".json").unlink()
    generate(**job.arguments)
    assert data.stat().st_mtime_ns > first


def test_a_changed_scene_is_translated_again(job):
    data = _data(_only(generate(**job.arguments)))
    before = data.read_bytes()
    job.add_optical("eo", optical(150, 171, seed=9), box(150, 171))
    assert _data(_only(generate(**job.arguments))) == data
    assert data.read_bytes() != before


def test_products_of_an_older_checkpoint_keep_their_files(job):
    old = _data(_only(generate(**job.arguments)))
    job.checkpoint = checkpoint(job.folder / "models" / "new.ckpt", seed=1)
    manifest = generate(**job.arguments)
    assert len(manifest) == 2
    assert old.exists()


def test_one_bad_scene_does_not_stop_the_others(job):
    path = job.add_optical("cut", optical(600, 600), box(600, 600))
    path.write_bytes(path.read_bytes()[:20000])
    manifest = generate(**job.arguments)
    assert [item.properties["rsgeo:from"] for item in manifest] == [["eo"]]
    assert "cut.tif" in manifest.dropped[0].reason
    assert not [left for left in (job.folder / "products").iterdir() if left.name.startswith(".")]
    with pytest.raises(SourceError, match="1 of 2 items failed"):
        generate(**job.arguments | {"max_failed_share": 0.2})


def test_a_scene_without_a_valid_pixel_says_so(job):
    job.scenes.items = []
    job.add_optical("empty", np.zeros((3, 150, 171), np.uint16), box(150, 171))
    with pytest.raises(SourceError, match="1 of 1 items failed"):
        generate(**job.arguments)
    reason = Manifest.read(job.folder / "products").dropped[0].reason
    assert "empty.tif: no valid pixel" in reason
    assert "Drop the scene" in reason


def test_missing_bands_are_named(job):
    job.scenes.get("eo").properties["rsgeo:bands"] = ["B02", "B03", "B08"]
    with pytest.raises(CheckpointError, match=r"trained on the 3 bands B02, B03, B04.*B02, B03, B08; missing B04"):
        generate(**job.arguments)


def test_bands_are_found_by_name_in_any_order(job):
    expected = _data(_only(generate(**job.arguments)))
    with rasterio.open(expected) as product:
        first = product.read()
    values, _ = raster.read(job.folder / "scenes" / "eo.tif")
    job.scenes.items = [item for item in job.scenes if item.id != "eo"]
    job.add_optical("turned", values[[2, 0, 1]], box(150, 171), **{"rsgeo:bands": ["B04", "B02", "B03"]})
    turned = next(item for item in generate(**job.arguments) if item.properties["rsgeo:from"] == ["turned"])
    with rasterio.open(_data(turned)) as product:
        assert np.array_equal(product.read(), first, equal_nan=True)


def test_another_unit_than_the_models_is_refused(job):
    job.scenes.get("eo").properties["rsgeo:sensor"] = {
        "name": "pretty",
        "modality": "optical",
        "unit": "display",
        "bands": list(EO_BANDS),
    }
    with pytest.raises(CheckpointError, match=r"trained on reflectance \(sentinel2-l2a\), the scene gives display"):
        generate(**job.arguments)


def test_an_item_whose_id_is_a_path_makes_no_file(job):
    item = job.scenes.get("eo")
    item.id = "../../x"
    with pytest.raises(SourceError, match="1 of 1 items failed"):
        generate(**job.arguments)
    assert not list(job.folder.parent.glob("x*"))


def test_a_full_disk_leaves_no_half_product(job, monkeypatch):
    def full(self, *_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StripWriter, "_store", full)
    with pytest.raises(ProductError, match="the disk is full"):
        generate(**job.arguments)
    assert not [path for path in (job.folder / "products").iterdir() if path.suffix != ".json"]


def test_an_unwritable_folder_says_so(job):
    blocked = job.folder / "file"
    blocked.write_text("not a folder")
    with pytest.raises(ProductError, match="Cannot write"):
        generate(**job.arguments | {"out": blocked / "products"})


def test_remains_of_a_killed_run_are_taken_away(job):
    data = _data(_only(generate(**job.arguments)))
    data.unlink()
    left = data.with_name(f".{data.stem}.1234abcd.stage.tif")
    left.write_bytes(b"half")
    generate(**job.arguments)
    assert not left.exists()


def test_item_limit_bounds_the_scenes_of_a_direction(job):
    job.add_optical("second", optical(64, 64), box(64, 64))
    assert len(generate(**job.arguments | {"item_limit": 1})) == 1


def test_statistics_come_from_the_valid_part_and_are_the_same_each_time(job):
    reader = SceneReader(side_of(job.scenes.get("eo")), box(150, 171), EO_SCALER)
    first, valid = sample_windows(reader, 4)
    again, _ = sample_windows(reader, 4)
    assert np.array_equal(first, again)
    assert valid.mean() > 0.5
    assert not first[~np.broadcast_to(valid[:, None], first.shape)].any()


def test_untrained_tiles_are_written_on_their_boxes(job, tmp_path):
    at = box(64, 64)
    raster.write(tmp_path / "source.tif", optical(64, 64), at, nodata=0, names=EO_BANDS, scale=1e-4)
    tiles = Manifest(tmp_path / "tiles.json")
    for name, split in (("t1", "test"), ("t2", "train")):
        facts = {"rsgeo:split": split}
        tiles.add(make_item(name, at, when=WHEN, properties=facts, assets={"source": tmp_path / "source.tif"}))
    paths = untrained(tiles, job.checkpoint, tmp_path / "report")
    assert paths == [tmp_path / "report" / "baseline" / "untrained" / "t1.tif"]
    with rasterio.open(paths[0]) as product:
        assert product.transform == at.affine
        assert product.tags()["RSGEO_CHECKPOINT"].startswith("none")
        assert np.isfinite(product.read()).all()


def test_test_tiles_get_an_untrained_baseline_beside_the_products(job):
    source = job.folder / "tiles" / "source.tif"
    raster.write(source, optical(64, 64), box(64, 64), nodata=0, names=EO_BANDS, scale=1e-4)
    assets = {"source": source}
    job.tiles.add(make_item("t1", box(64, 64), when=WHEN, properties={"rsgeo:split": "test"}, assets=assets))
    generate(**job.arguments)
    made = job.folder / "baseline" / "untrained" / "t1.tif"
    first = made.stat().st_mtime_ns
    generate(**job.arguments)
    assert made.stat().st_mtime_ns == first
    job.checkpoint = checkpoint(job.folder / "models" / "new.ckpt", seed=1)
    generate(**job.arguments)
    assert made.stat().st_mtime_ns > first
