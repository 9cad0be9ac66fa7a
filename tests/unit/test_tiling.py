from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import torch
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.catalog import GridSettings, Tiling
from rsgeo_gan.datasets import TileDataset
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.errors import GridError, SourceError
from rsgeo_gan.grid import Grid
from rsgeo_gan.manifest import Manifest, asset_path, item_box, make_item
from rsgeo_gan.tiling import resolve_grid, side_of, sides_of_pair, tile

WHEN = datetime(2024, 6, 1, tzinfo=UTC)
EO_BOX = GeoBox((256, 256), Affine(10, 0, 600000, 0, -10, 5300040), "EPSG:32632")


def plane(box: GeoBox, a: float, b: float, c: float) -> np.ndarray:
    """a · column + b · row + c of the optical grid, evaluated at the pixel centres of another box."""
    row, col = np.indices(box.shape) + 0.5
    x, y = (~EO_BOX.affine * box.affine) * (col, row)
    return a * (x - 0.5) + b * (y - 0.5) + c


def scene(root: Path, name: str, values: np.ndarray, box: GeoBox, sensor: str, bands: list[str], **properties):
    nodata = 0 if values.dtype == np.uint16 else np.nan
    path = raster.write(root / f"{name}.tif", values, box, nodata=nodata)
    return make_item(
        name,
        box,
        when=WHEN,
        properties={"rsgeo:sensor": sensor, "rsgeo:bands": bands, **properties},
        assets={"data": path},
    )


@pytest.fixture
def scenes(tmp_path: Path) -> Manifest:
    """An optical plane of DN, and the same place in SAR (dB plane), whose content lies (+2.25, -1.5) px off."""
    eo = np.stack([plane(EO_BOX, 10, 1, 1000 * i) for i in (1, 2)]).round().astype(np.uint16)
    eo[:, :40, :40] = 0
    sar_box = EO_BOX
    linear = 10 ** (np.stack([plane(sar_box, 0.01, 0.02, -20), plane(sar_box, 0.02, 0.01, -25)]) / 10)
    return Manifest(
        tmp_path / "scenes" / "scenes.json",
        [
            scene(tmp_path, "eo", eo, EO_BOX, "sentinel2-l2a", ["B03", "B08"], **{"rsgeo:offset_dn": -1000}),
            scene(tmp_path, "sar", linear.astype(np.float32), sar_box, "sentinel1-rtc", ["VV", "VH"]),
        ],
    )


def pairs_of(scenes: Manifest, displacement: Displacement, reliable: bool = True) -> Manifest:
    pair = make_item(
        "eo_sar",
        EO_BOX,
        when=WHEN,
        properties={
            "rsgeo:source_item": "eo",
            "rsgeo:target_item": "sar",
            "rsgeo:reference": "source",
            "rsgeo:displacement": displacement.to_dict(),
            "rsgeo:reliable": reliable,
            "rsgeo:residual_px": 0.3,
            "rsgeo:confidence": 0.8,
        },
        assets={},
    )
    return Manifest(scenes.path.parent.parent / "pairs" / "pairs.json", [pair])


SHIFT = Displacement(EO_BOX, "shift", (2.25, 0, 0, -1.5, 0, 0), 0.1, 0.9, True, 30)
GRID = Grid("EPSG:32632", 10, 64, origin=(600000, 5300040))
SETTINGS = Tiling(min_valid=0.5, val_share=0.2, test_share=0.2, block_tiles=1, buffer_px=8, seed=3)


def run(scenes: Manifest, displacement: Displacement = SHIFT, settings: Tiling = SETTINGS, **kwargs):
    out = scenes.path.parent.parent / "tiles"
    return tile(pairs_of(scenes, displacement), scenes, GRID, settings, out, **kwargs)


def test_both_sides_lie_on_the_tile_and_say_how_to_read_them(scenes: Manifest) -> None:
    tiles = run(scenes)
    assert len(tiles) == 16
    for item in tiles:
        source, target = (raster.inspect(asset_path(item, side)) for side in ("source", "target"))
        assert source.geobox == target.geobox == item_box(item) == GRID.box(tuple(item.properties["rsgeo:index"]))
        assert (source.names, source.dtype, source.scales, source.nodata) == (("B03", "B08"), "uint16", (1e-4, 1e-4), 0)
        assert source.offsets == pytest.approx((-0.1, -0.1))
        assert (target.names, target.dtype, target.units) == (("VV", "VH"), "float32", ("dB", "dB"))


def test_the_optical_lattice_is_not_resampled_and_the_sar_is_moved_back(scenes: Manifest) -> None:
    item = run(scenes).get(f"eo_sar_{Grid.tile_id((1, -2))}")
    box = item_box(item)
    source, _ = raster.read(asset_path(item, "source"))
    np.testing.assert_array_equal(source[0], plane(box, 10, 1, 1000))
    target, valid = raster.read(asset_path(item, "target"))
    moved = plane(box, 0.01, 0.02, -20) + 0.01 * 2.25 + 0.02 * -1.5
    assert valid.all()
    np.testing.assert_allclose(target[0], moved, atol=2e-4)


def test_a_displacement_that_is_not_reliable_is_not_applied(scenes: Manifest, tmp_path: Path) -> None:
    pairs = pairs_of(scenes, SHIFT, reliable=False)
    item = tile(pairs, scenes, GRID, SETTINGS, tmp_path / "tiles").get(f"eo_sar_{Grid.tile_id((1, -2))}")
    target, _ = raster.read(asset_path(item, "target"))
    np.testing.assert_allclose(target[0], plane(item_box(item), 0.01, 0.02, -20), atol=2e-4)


def test_sar_is_resampled_in_linear_power(tmp_path: Path) -> None:
    box = GeoBox((128, 128), Affine(5, 0, 600000, 0, -5, 5300040), "EPSG:32632")
    checker = np.where(np.indices(box.shape).sum(axis=0) % 2, 0.0, -20.0).astype(np.float32)
    item = scene(tmp_path, "sar", np.stack([checker] * 2), box, "sentinel1-rtc-db", ["VV", "VH"])
    got = side_of(item).read(GeoBox((30, 30), Affine(10, 0, 600100, 0, -10, 5299940), "EPSG:32632"))
    np.testing.assert_allclose(got, 10 * np.log10((1 + 0.01) / 2), atol=0.15)


def test_cloud_classes_and_nodata_are_invalid_on_their_side(tmp_path: Path, scenes: Manifest) -> None:
    classes = np.full(EO_BOX.shape, 4, np.uint8)
    classes[100:120, 100:120] = 9
    eo = scenes.get("eo")
    eo.properties["rsgeo:invalid_classes"] = [3, 8, 9, 10]
    eo.add_asset("scl", pystac.Asset(str(raster.write(tmp_path / "scl.tif", classes, EO_BOX))))
    values = side_of(eo).read(EO_BOX)
    assert np.isnan(values[:, 100:120, 100:120]).all()
    assert np.isnan(values[:, :40, :40]).all()
    assert np.isnan(values[0]).sum() == 1600 + 400


def test_tiles_under_the_valid_share_are_skipped_and_counted(scenes: Manifest) -> None:
    tiles = run(scenes, settings=SETTINGS.model_copy(update={"min_valid": 0.9}))
    assert len(tiles) == 15
    assert tiles.extra["rsgeo:skipped"] == {"too little valid data": 1}


def test_a_second_run_writes_nothing(scenes: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(scenes)
    monkeypatch.setattr(raster, "warp", lambda *_, **__: pytest.fail("read again"))
    monkeypatch.setattr(raster, "write", lambda *_, **__: pytest.fail("written again"))
    again = run(scenes)
    assert [item.to_dict() for item in again] == [item.to_dict() for item in first]


def test_a_changed_displacement_makes_tiles_anew(scenes: Manifest) -> None:
    before, _ = raster.read(asset_path(run(scenes).items[5], "target"))
    other = Displacement(EO_BOX, "shift", (-3.0, 0, 0, 0, 0, 0), 0.1, 0.9, True, 30)
    after, _ = raster.read(asset_path(run(scenes, other).items[5], "target"))
    assert np.mean(after[0] - before[0]) == pytest.approx(0.01 * -5.25 + 0.02 * 1.5, abs=2e-4)


@pytest.fixture
def bent(tmp_path: Path) -> Displacement:
    """A field that agrees with SHIFT on average and is trusted in the west only."""
    lattice = GeoBox((20, 20), EO_BOX.affine * Affine.translation(-32, -32) * Affine.scale(16), EO_BOX.crs)
    row, col = np.indices(lattice.shape)
    values = np.stack([2.25 + np.sin(row / 2), -1.5 + np.cos(col / 2)]).astype(np.float32)
    confidence = np.where(col < 10, 0.9, 0.3).astype(np.float32)
    field = Field(lattice, values, np.where(row < 10, 0.2, 0.6).astype(np.float32), confidence)
    return Displacement(EO_BOX, "field", (2.25, 0, 0, -1.5, 0, 0), 0.4, 0.6, True, 30, "", field)


def with_field(pairs: Manifest, displacement: Displacement) -> Manifest:
    """Put the field where a pair keeps it."""
    assert displacement.field is not None
    field = displacement.field
    bands = np.stack([*field.values, field.confidence, field.sigma_px])
    path = raster.write(pairs.path.parent / "displacement.tif", bands, field.box, cog=False)
    pairs.items[0].add_asset("displacement", pystac.Asset(str(path)))
    return pairs


def test_a_field_moves_every_pixel_of_a_tile_by_its_own_amount(scenes: Manifest, bent: Displacement) -> None:
    tiles = tile(with_field(pairs_of(scenes, bent), bent), scenes, GRID, SETTINGS, scenes.path.parent.parent / "tiles")
    item = tiles.get(f"eo_sar_{Grid.tile_id((1, -2))}")
    box = item_box(item)
    row, col = np.indices(box.shape) + 0.5
    col, row = (~EO_BOX.affine * box.affine) * (col, row)
    dx, dy = bent.at(col - 0.5, row - 0.5)
    target, valid = raster.read(asset_path(item, "target"))
    assert valid.all()
    np.testing.assert_allclose(target[0], plane(box, 0.01, 0.02, -20) + 0.01 * dx + 0.02 * dy, atol=1e-3)


def test_a_tile_says_what_a_field_knows_about_its_own_place(scenes: Manifest, bent: Displacement) -> None:
    tiles = tile(with_field(pairs_of(scenes, bent), bent), scenes, GRID, SETTINGS, scenes.path.parent.parent / "tiles")
    known = {tuple(item.properties["rsgeo:index"]): item.properties for item in tiles}
    assert (known[0, -1]["rsgeo:residual_px"], known[0, -1]["rsgeo:confidence"]) == (0.2, 0.9)
    assert (known[3, -4]["rsgeo:residual_px"], known[3, -4]["rsgeo:confidence"]) == (0.6, 0.3)
    stiff = run(scenes).items[0].properties
    assert (stiff["rsgeo:residual_px"], stiff["rsgeo:confidence"]) == (0.3, 0.8)


def test_trust_in_a_field_reaches_the_pixels_it_belongs_to(scenes: Manifest, bent: Displacement) -> None:
    """Nodes 16 px apart: 0.9 up to column 119.5, 0.3 from column 135.5, a straight line across the border at 128."""
    out = scenes.path.parent.parent / "tiles"
    tiles = tile(with_field(pairs_of(scenes, bent), bent), scenes, GRID, SETTINGS, out)
    positions = {tuple(item.properties["rsgeo:index"]): row for row, item in enumerate(tiles)}
    reading = TileDataset(out, halo_px=32)
    for index, columns in (((1, -2), slice(32, 160)), ((2, -2), slice(96, 224))):
        sample = reading[positions[index]]
        there = np.interp(np.arange(256)[columns], [119.5, 135.5], [0.9, 0.3])
        valid = sample["mask_valid"][0, 40].numpy()
        assert valid.all()
        np.testing.assert_allclose(sample["mask_confidence"][0, 40].numpy(), there, atol=0.6 / 255)
        assert float(sample["confidence"]) == pytest.approx(there[32:-32].mean(), abs=0.01)


def test_where_there_is_no_field_no_trust_is_stored(scenes: Manifest) -> None:
    tiles = run(scenes)
    assert not list(tiles.path.parent.rglob("confidence.tif"))
    sample = TileDataset(tiles.path)[0]
    assert torch.equal(sample["mask_confidence"], 0.8 * sample["mask_valid"])


def test_a_pair_whose_field_is_missing_is_left_out_with_its_reason(scenes: Manifest, bent: Displacement) -> None:
    pairs = with_field(pairs_of(scenes, bent), bent)
    whole = pairs_of(scenes, SHIFT).items[0]
    whole.id = "whole"
    pairs.add(whole)
    Path(asset_path(pairs.get("eo_sar"), "displacement")).unlink()
    tiles = tile(pairs, scenes, GRID, SETTINGS, scenes.path.parent.parent / "tiles")
    assert {item.properties["rsgeo:pair"] for item in tiles} == {"whole"}
    (dropped,) = tiles.dropped
    assert (dropped.id, dropped.code) == ("eo_sar", "unreadable")
    assert "There is no file" in dropped.reason


def test_a_changed_field_changes_what_a_side_depends_on(scenes: Manifest, bent: Displacement) -> None:
    pair = with_field(pairs_of(scenes, bent), bent).items[0]
    before = sides_of_pair(pair, scenes)[1].key()
    assert bent.field is not None
    bent.field.values[0, 4, 4] += 0.25
    other = with_field(pairs_of(scenes, bent), bent).items[0]
    assert sides_of_pair(other, scenes)[1].key() != before


def test_classes_move_with_the_scene(tmp_path: Path, scenes: Manifest, bent: Displacement) -> None:
    classes = np.full(EO_BOX.shape, 4, np.uint8)
    classes[100:120, 100:120] = 9
    eo = scenes.get("eo")
    eo.properties["rsgeo:invalid_classes"] = [9]
    eo.add_asset("scl", pystac.Asset(str(raster.write(tmp_path / "scl.tif", classes, EO_BOX))))
    hidden = np.isnan(side_of(eo, bent).read(EO_BOX)[0])
    row, col = np.indices(EO_BOX.shape, dtype=float)
    dx, dy = bent.at(col, row)
    inside = (np.abs(row + dy - 109.5) < 9.9) & (np.abs(col + dx - 109.5) < 9.9)
    outside = (np.abs(row + dy - 109.5) > 10.1) | (np.abs(col + dx - 109.5) > 10.1)
    far = (row > 60) & (col > 60) & (row < 250) & (col < 250)
    assert hidden[inside].all()
    assert not hidden[outside & far].any()


def test_splits_are_blocks_with_every_split_present_and_kept_when_scenes_are_added(scenes: Manifest) -> None:
    tiles = run(scenes)
    splits = {tuple(item.properties["rsgeo:index"]): item.properties["rsgeo:split"] for item in tiles}
    assert {name: list(splits.values()).count(name) for name in ("train", "val", "test")} == {
        "train": 10,
        "val": 3,
        "test": 3,
    }
    wider = run(scenes, settings=SETTINGS.model_copy(update={"seed": 99}))
    assert {tuple(item.properties["rsgeo:index"]): item.properties["rsgeo:split"] for item in wider} == splits


def test_usable_parts_of_different_splits_are_a_buffer_apart(scenes: Manifest) -> None:
    tiles = run(scenes)
    parts = []
    for item in tiles:
        col, row, width, height = item.properties["rsgeo:usable"]
        ix, iy = item.properties["rsgeo:index"]
        parts.append((item.properties["rsgeo:split"], ix * 64 + col, -iy * 64 + row, width, height))
    closest = 1000
    for i, (split, x, y, w, h) in enumerate(parts):
        for other, x2, y2, w2, h2 in parts[:i]:
            if split != other:
                closest = min(closest, max(x2 - x - w, x - x2 - w2, y2 - y - h, y - y2 - h2))
    assert closest == SETTINGS.buffer_px


def test_an_unreadable_scene_costs_its_tiles_only_up_to_the_share(scenes: Manifest) -> None:
    path = Path(asset_path(scenes.get("sar"), "data"))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(SourceError, match=r"tile: 16 of 16 items failed"):
        run(scenes)


def test_an_automatic_grid_takes_the_optical_lattice(scenes: Manifest) -> None:
    grid = resolve_grid(GridSettings(crs="auto", gsd_m="auto", tile_px=64), scenes)
    assert grid == Grid("EPSG:32632", 10, 64, (600000, 5300040))


def test_an_automatic_grid_of_a_geographic_scene_is_utm_with_round_pixels(tmp_path: Path) -> None:
    box = GeoBox((64, 64), Affine(9e-5, 0, 10.5, 0, -9e-5, 47.5), "EPSG:4326")
    item = scene(tmp_path, "eo", np.ones((1, 64, 64), np.uint16), box, "sentinel2-l2a", ["B03"])
    grid = resolve_grid(GridSettings(crs="auto", gsd_m=10, tile_px=64), Manifest(tmp_path / "s.json", [item]))
    assert (grid.crs, grid.gsd) == ("EPSG:32632", 10)


def test_an_automatic_grid_is_kept_when_scenes_are_added(scenes: Manifest) -> None:
    run(scenes)
    known = scenes.path.parent.parent / "tiles" / "tiles.json"
    box = GeoBox((64, 64), Affine(20, 0, 500000, 0, -20, 5200000), "EPSG:32633")
    scenes.add(scene(known.parent, "a-first", np.ones((1, 64, 64), np.uint16), box, "sentinel2-l2a", ["B03"]))
    assert resolve_grid(GridSettings(crs="auto", gsd_m="auto", tile_px=64), scenes, known) == GRID


def test_a_geographic_grid_is_refused(scenes: Manifest) -> None:
    with pytest.raises(GridError, match="projected CRS"):
        resolve_grid(GridSettings(crs="EPSG:4326", gsd_m=10, tile_px=64), scenes)


def test_when_the_target_is_the_reference_the_source_is_moved(scenes: Manifest) -> None:
    pair = pairs_of(scenes, SHIFT).items[0]
    pair.properties["rsgeo:reference"] = "target"
    source, target = sides_of_pair(pair, scenes)
    assert (source.displacement.model, target.displacement.model) == ("shift", "none")
