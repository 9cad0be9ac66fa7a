from __future__ import annotations

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from pydantic import ValidationError

from rsgeo_gan import raster
from rsgeo_gan.collect import CollectSpec, collect
from rsgeo_gan.collect.covers import majority
from rsgeo_gan.errors import FailedShareError, SourceError
from rsgeo_gan.manifest import Manifest, item_box, make_item
from tests.synth import write_tiles

S2 = {"name": "toy", "modality": "optical", "unit": "dn", "bands": ["red", "nir"], "scale": 1e-4}


def box(size: int, east: float = 500_000.0, north: float = 5_000_000.0, step: float = 10.0) -> GeoBox:
    return GeoBox((size, size), Affine(step, 0, east, 0, -step, north), "EPSG:32632")


def scene(path: Path, size: int = 64, *, east: float = 500_000.0, bands: int = 2, hole: int = 0) -> np.ndarray:
    """Write DN that name their place; the first `hole` columns are nodata."""
    rows, cols = np.mgrid[:size, :size]
    image = np.stack([1 + 1000 * b + cols + size * rows for b in range(bands)]).astype(np.uint16)
    image[:, :, :hole] = 0
    raster.write(path, image, box(size, east), nodata=0, cog=False)
    return image


def picture(path: Path, value: int, size: int = 16) -> None:
    """Write an image without georeference."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((3, size, size), value, np.uint8)
    values[:, 0, 0] = (1, 2, 3)
    with rasterio.open(path, "w", driver="PNG", width=size, height=size, count=3, dtype="uint8") as file:
        file.write(values)


def spec(images: dict[str, Any], **more: Any) -> CollectSpec:
    return CollectSpec.model_validate({"images": images, "tile_px": 16, "min_tiles": 1, "block_tiles": 1, **more})


def folder(path: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "folder", "path": path, **more}


def test_a_scene_is_cut_without_resampling_and_keeps_place_bands_and_units(tmp_path: Path) -> None:
    image = scene(tmp_path / "in" / "one_20230615.tif", 70)
    found = collect(spec(folder(tmp_path / "in", sensor=S2)), tmp_path / "tiles")
    assert len(found) == 16
    item = found.get("one_20230615_r00016_c00032")
    info = raster.inspect(item.assets["image"].href)
    values, valid = raster.read(item.assets["image"].href)
    np.testing.assert_array_equal(values, image[:, 16:32, 32:48])
    assert valid.all()
    assert info.geobox == item_box(item) == box(16, 500_320.0, 4_999_840.0)
    assert (info.names, info.units[0], info.dtype, info.nodata) == (("red", "nir"), "reflectance", "uint16", 0)
    assert info.scales[0] == pytest.approx(1e-4)
    assert item.properties["rsgeo:day_of_year"] == 166
    assert item.properties["rsgeo:georeferenced"] is True
    assert Manifest.read(tmp_path / "tiles").ids() == found.ids()


def test_images_without_georeference_get_a_frame_that_is_no_place_on_earth(tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path / "in" / ("crop" if number % 2 else "lake") / f"p{number}.png", 10 * number)
    wanted = spec(folder(tmp_path / "in", gsd_m=10), labels={"kind": "folder"})
    found = collect(wanted, tmp_path / "tiles")
    item = found.get("crop__p1")
    assert item.geometry is None
    assert item.bbox is None
    assert item.properties["rsgeo:georeferenced"] is False
    assert item.properties["rsgeo:dated"] is False
    assert item.properties["rsgeo:label"] == "crop"
    assert "rsgeo:day_of_year" not in item.properties
    with rasterio.open(item.assets["image"].href) as file:
        assert "LOCAL_CS" in file.crs.to_wkt() or "ENGCRS" in file.crs.to_wkt()
        assert file.transform[:6] == (10, 0, 0, 0, -10, 0)
        assert file.units[0] == "display"
        assert file.read()[:, 0, 0].tolist() == [1, 2, 3]
    assert found.extra["rsgeo:classes"] == ["crop", "lake"]
    again = Manifest.read(tmp_path / "tiles").get("crop__p1")
    assert item_box(again) == raster.inspect(again.assets["image"].href).geobox


def test_without_a_pixel_size_such_images_are_left_out_and_it_is_said_how_to_take_them(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png", 7)
    with pytest.raises(SourceError, match=r"None of 1 images can be used.*has no CRS.*State `gsd_m`"):
        collect(spec(folder(tmp_path / "in")), tmp_path / "tiles")
    scene(tmp_path / "in" / "b.tif", 16, bands=3)
    raster.write(tmp_path / "in" / "c.tif", np.ones((3, 16, 16), np.uint8), box(16), cog=False)
    with pytest.raises(FailedShareError):
        collect(spec(folder(tmp_path / "in", glob="[ac].*"), max_failed_share=0.4), tmp_path / "tiles")
    assert [entry.code for entry in Manifest.read(tmp_path / "tiles").dropped] == ["no georeference"]


def test_what_is_finished_is_not_done_again_and_what_changed_is(tmp_path: Path) -> None:
    scene(tmp_path / "in" / "a.tif", 32)
    scene(tmp_path / "in" / "b.tif", 32, east=600_000.0)
    wanted = spec(folder(tmp_path / "in", sensor=S2))
    first = collect(wanted, tmp_path / "tiles")
    files = {item.id: Path(item.assets["image"].href) for item in first}
    times = {name: path.stat().st_mtime_ns for name, path in files.items()}
    lost = files["a_r00000_c00016"]
    lost.unlink()
    scene(tmp_path / "in" / "b.tif", 32, east=600_000.0, hole=1)
    again = collect(wanted, tmp_path / "tiles")
    later = {item.id for item in again if Path(item.assets["image"].href).stat().st_mtime_ns != times[item.id]}
    # A hole of one column of 16 leaves less than 95 % valid.
    assert set(first.ids()) - set(again.ids()) == {"b_r00000_c00000", "b_r00016_c00000"}
    assert later == {"a_r00000_c00016", "b_r00000_c00016", "b_r00016_c00016"}
    assert {(entry.id, entry.code) for entry in again.dropped} == {
        ("b_r00000_c00000", "too little valid data"),
        ("b_r00016_c00000", "too little valid data"),
    }


def test_neighbours_share_a_split_and_images_of_one_place_do_too(tmp_path: Path) -> None:
    scene(tmp_path / "in" / "a_20230101.tif", 64)
    scene(tmp_path / "in" / "b_20230701.tif", 64)
    wanted = spec(folder(tmp_path / "in", sensor=S2), block_tiles=2, val_share=0.2, test_share=0.2)
    found = collect(wanted, tmp_path / "tiles")
    places = defaultdict(set)
    for item in found:
        places[item.id.split("_", 2)[2]].add(item.properties["rsgeo:split"])
    assert all(len(splits) == 1 for splits in places.values())
    assert set().union(*places.values()) == {"train", "val", "test"}
    scene(tmp_path / "in" / "c_20240101.tif", 32, east=900_000.0)
    more = collect(wanted, tmp_path / "tiles")
    assert all(more.get(i.id).properties["rsgeo:split"] == i.properties["rsgeo:split"] for i in found)


def test_ground_of_a_held_out_tile_is_not_trained_on_through_another_image(tmp_path: Path) -> None:
    scene(tmp_path / "in" / "a.tif", 96)
    scene(tmp_path / "in" / "b.tif", 96, east=500_080.0)
    found = collect(spec(folder(tmp_path / "in", sensor=S2), val_share=0.25, test_share=0.25), tmp_path / "tiles")
    boxes = [(item_box(item).boundingbox, item.properties) for item in found]
    for one, mine in boxes:
        for other, theirs in boxes:
            apart = (
                one.left >= other.right or other.left >= one.right or one.bottom >= other.top or other.bottom >= one.top
            )
            assert apart or mine["rsgeo:split"] == theirs["rsgeo:split"] or mine is theirs
    assert any(entry.code == "overlap" for entry in found.dropped)


def test_images_at_no_known_place_are_held_out_class_by_class(tmp_path: Path) -> None:
    for label, count in (("a", 10), ("b", 4), ("c", 2)):
        for number in range(count):
            picture(tmp_path / "in" / label / f"{number}.png", number)
    wanted = spec(folder(tmp_path / "in", gsd_m=1), labels={"kind": "folder"}, val_share=0.2, test_share=0.2)
    found = collect(wanted, tmp_path / "tiles")
    counts = Counter((item.properties["rsgeo:label"], item.properties["rsgeo:split"]) for item in found)
    assert counts == {
        ("a", "train"): 6, ("a", "val"): 2, ("a", "test"): 2,
        ("b", "train"): 2, ("b", "val"): 1, ("b", "test"): 1,
        ("c", "train"): 2,
    }  # fmt: skip
    other = collect(wanted.model_copy(update={"seed": 1}), tmp_path / "other")
    assert [i.properties["rsgeo:split"] for i in other] != [i.properties["rsgeo:split"] for i in found]


def test_stated_splits_are_kept(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / "in" / f"p{number}.png", number)
    picture(tmp_path / "in" / "with a space.png", 4)
    (tmp_path / "train.txt").write_text("p0.jpg\n\n p2.jpg \nwith a space.png\n")
    (tmp_path / "test.txt").write_text("p1.jpg\n")
    lists = {"train": tmp_path / "train.txt", "test": tmp_path / "test.txt"}
    found = collect(spec(folder(tmp_path / "in", gsd_m=1, splits=lists)), tmp_path / "tiles")
    splits = {item.id: item.properties["rsgeo:split"] for item in found}
    assert splits == {"p0": "train", "p1": "test", "p2": "train", "with_a_space": "train"}
    assert [(entry.id, entry.code) for entry in found.dropped] == [("p3", "no split")]
    (tmp_path / "test.txt").write_text("p0\n")
    with pytest.raises(SourceError, match="p0 is in the split train as well"):
        collect(spec(folder(tmp_path / "in", gsd_m=1, splits=lists)), tmp_path / "tiles")


def test_the_class_of_a_tile_is_the_cover_of_most_of_it(tmp_path: Path) -> None:
    scene(tmp_path / "in" / "a.tif", 64)
    # The cover has pixels of 20 m: 8 of them across a tile.
    cover = np.full((32, 32), 5, np.uint8)
    cover[:, :8], cover[:, 8:12], cover[:8, 12:] = 1, 2, 9
    raster.write(tmp_path / "cover.tif", cover, box(32, step=20.0), nodata=0, cog=False)
    labels = {
        "kind": "cover",
        "path": tmp_path / "cover.tif",
        "legend": {5: "land", 1: "sea", 2: "sea"},
        "min_share": 0.6,
    }
    found = collect(
        spec(folder(tmp_path / "in", sensor=S2), labels=labels, val_share=0, test_share=0), tmp_path / "tiles"
    )
    by_id = {item.id[2:]: (item.properties["rsgeo:label"], item.properties["rsgeo:label_share"]) for item in found}
    assert by_id["r00000_c00000"] == ("sea", 1.0)
    assert by_id["r00016_c00032"] == ("land", 1.0)
    assert found.extra["rsgeo:classes"] == ["land", "sea"]
    reasons = {entry.id[2:]: entry.reason for entry in found.dropped}
    # Half sea and half land, half sea and half unknown, all unknown.
    assert set(reasons) == {
        "r00000_c00016",
        "r00000_c00032",
        "r00000_c00048",
        *(f"r000{r}_c00016" for r in (16, 32, 48)),
    }
    assert reasons["r00016_c00016"].startswith("land covers 50%")
    assert reasons["r00000_c00048"].startswith("no class is known here")


def test_equal_shares_are_settled_by_the_alphabet_and_unknown_pixels_count() -> None:
    assert majority(np.array([1, 1, 2, 2, np.nan]), {}) == ("1", 0.4)
    assert majority(np.array([3, 4, 5, 5]), {3: "b", 4: "b", 5: "a"}) == ("a", 0.5)
    assert majority(np.array([7.0]), {3: "b"}) == (None, 0.0)


@pytest.mark.parametrize("side", ["source", "target"])
def test_tiles_of_pairs_give_the_images_of_one_side_bit_for_bit(tmp_path: Path, side: str) -> None:
    tiles = write_tiles(tmp_path, cells=(2, 1), splits=["train", "val"], usable=(0, 0, 24, 32))
    found = collect(spec({"kind": "tiles", "path": tiles, "side": side}), tmp_path / "chips")
    # Of the usable 24 x 32 pixels, two tiles of 16 x 16 in one column.
    assert len(found) == 4
    item = found.get("pair-a-1-0_r00016_c00000")
    values, _ = raster.read(item.assets["image"].href)
    whole, _ = raster.read(tiles / "pair-a-1-0" / f"{side}.tif")
    np.testing.assert_array_equal(values, whole[:, 16:32, :16])
    before, after = raster.inspect(tiles / "pair-a-1-0" / f"{side}.tif"), raster.inspect(item.assets["image"].href)
    assert (after.names, after.units, after.dtype) == (before.names, before.units, before.dtype)
    assert (after.scales, after.offsets) == (before.scales, before.offsets)
    assert item.properties["rsgeo:split"] == "val"
    assert "rsgeo:label" not in item.properties
    again = collect(spec({"kind": "tiles", "path": tmp_path / "chips"}, tile_px=8), tmp_path / "smaller")
    assert len(again) == 16


def test_the_sample_brings_classes_of_its_own(tmp_path: Path) -> None:
    known = {"water", "forest", "grassland", "cropland", "settlement"}
    for side, unit, dtype, day in (("source", "reflectance", "uint16", 133), ("target", "dB", "float32", 134)):
        images = {"kind": "sample", "size_px": 128, "side": side}
        found = collect(spec(images, tile_px=16, min_valid=0.9), tmp_path / "tiles")
        assert len(found.extra["rsgeo:classes"]) >= 2
        assert set(found.extra["rsgeo:classes"]) <= known
        item = found.items[0]
        info = raster.inspect(item.assets["image"].href)
        assert (info.units[0], info.dtype) == (unit, dtype)
        assert item.properties["rsgeo:day_of_year"] == day
        assert item.properties["rsgeo:label_share"] >= 0.6


def test_bad_collections_are_explained(tmp_path: Path) -> None:
    scene(tmp_path / "in" / "a.tif", 16)
    scene(tmp_path / "in" / "b.tif", 16, east=600_000.0, bands=3)
    out = tmp_path / "tiles"
    with pytest.raises(SourceError, match=r"b.tif has 3 bands of uint16; expected 2 of uint16 as in .*a.tif"):
        collect(spec(folder(tmp_path / "in", sensor=S2)), out)
    only = folder(tmp_path / "in", sensor=S2, glob="a.tif")
    with pytest.raises(SourceError, match="expected a sub-folder for each class, got 1 images and no sub-folder"):
        collect(spec(only, labels={"kind": "folder"}), out)
    with pytest.raises(SourceError, match=r"1 training tiles are too few, expected at least 4 \(1 tiles in all"):
        collect(spec(only, min_tiles=4), out)
    with pytest.raises(SourceError, match=r"0 training tiles are too few.*1 too small"):
        collect(spec(only, tile_px=32), out)
    with pytest.raises(SourceError, match="expected band names, units or a data type that tell the sensor"):
        collect(spec(folder(tmp_path / "in", glob="a.tif")), out)
    with pytest.raises(SourceError, match=r"expected rasters matching '\*.jp2', got none"):
        collect(spec(folder(tmp_path / "in", glob="*.jp2")), out)
    with pytest.raises(SourceError, match="expected a class raster"):
        collect(spec(only, labels={"kind": "cover", "path": tmp_path / "none"}), out)
    (tmp_path / "in" / "c.tif").write_bytes((tmp_path / "in" / "a.tif").read_bytes()[:300])
    mixed = collect(spec(folder(tmp_path / "in", sensor=S2, glob="[ac].tif")), out)
    assert [(entry.id, entry.code) for entry in mixed.dropped] == [("c", "unreadable")]


def test_lists_tell_images_of_one_file_name_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("crop/1", "lake/1", "lake/2.5m", "alone/3", "other/2.5m"):
        picture(tmp_path / "in" / f"{name}.png", 7)
    (tmp_path / "train.txt").write_text("crop/1.jpg\n/data/lake/2.5m\n")
    (tmp_path / "test.txt").write_text("lake/1\nrgb/3.tif\n")
    lists = {"train": tmp_path / "train.txt", "test": tmp_path / "test.txt"}
    wanted = spec(folder(tmp_path / "in", gsd_m=1, splits=lists))
    found = collect(wanted, tmp_path / "tiles")
    splits = {item.id: item.properties["rsgeo:split"] for item in found}
    assert splits == {"crop__1": "train", "lake__1": "test", "lake__2.5m": "train", "alone__3": "test"}
    assert [entry.id for entry in found.dropped] == ["other__2.5m"]
    picture(tmp_path / "in" / "1.png", 7)
    with pytest.raises(SourceError, match=r"1\.png fits lines of the splits test and train"):
        collect(wanted, tmp_path / "tiles")


def test_a_dark_band_is_no_missing_pixel_unless_it_is_of_radar(tmp_path: Path) -> None:
    """The sensor's nodata marks what is missing in all bands of an image that declares none itself."""
    radar = {"name": "toy", "modality": "sar", "unit": "linear", "bands": ["vv", "vh"]}
    known = np.ones((2, 16, 16), bool)
    known[0, :, :4] = False
    known[:, 0, :4] = False
    for kind, where in (("placed", {"transform": box(16).affine, "crs": "EPSG:32632"}), ("bare", {})):
        for sensor, values, share in ((S2, np.uint16(40) * known, 252 / 256), (radar, np.float32(0.1) * known, 0.75)):
            path = tmp_path / f"{kind}-{sensor['modality']}" / "a.tif"
            path.parent.mkdir()
            form = {"width": 16, "height": 16, "count": 2, "dtype": values.dtype, **where}
            with rasterio.open(path, "w", driver="GTiff", **form) as file:
                file.write(values)
            images = folder(path.parent, gsd_m=10, sensor={**sensor, "nodata": 0})
            found = collect(spec(images, min_valid=0.5), tmp_path / "tiles" / path.parent.name)
            assert found.items[0].properties["rsgeo:valid_share"] == share
            stored, valid = raster.read(found.items[0].assets["image"].href)
            assert valid.mean() == share
            # A dark pixel stays apart from a missing one: it becomes the next value.
            assert sensor is radar or stored[:, 5, :5].tolist() == [[1, 1, 1, 1, 40], [40] * 5]


def test_long_names_are_shortened_or_left_out_and_stop_nothing(tmp_path: Path) -> None:
    for name in ("x" * 120 + "/" + "y" * 120, "x" * 120 + "/" + "y" * 120 + "z"):
        picture(tmp_path / "in" / f"{name}.png", 7, size=32)
    found = collect(spec(folder(tmp_path / "in", gsd_m=1)), tmp_path / "tiles")
    assert len({item.properties["rsgeo:image"] for item in found}) == 2
    assert len(found) == 8
    scene(tmp_path / "s" / "a.tif", 32)
    facts = {"rsgeo:sensor": S2, "rsgeo:bands": ["red", "nir"], "rsgeo:band_indexes": [1, 2]}
    when = datetime(2024, 5, 1, tzinfo=UTC)
    assets = {"data": tmp_path / "s" / "a.tif"}
    scenes = [make_item(name, box(32), when=when, properties=facts, assets=assets) for name in ("a", "b" * 190)]
    Manifest(tmp_path / "scenes" / "scenes.json", scenes).save()
    told = collect(spec({"kind": "scenes", "path": tmp_path / "scenes"}, max_failed_share=0.5), tmp_path / "more")
    assert {item.properties["rsgeo:image"] for item in told} == {"a"}
    assert [entry.code for entry in told.dropped] == ["unreadable"] * 4


def test_a_scene_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    scene(tmp_path / "s" / "a.tif", 16)
    facts = {"rsgeo:sensor": S2, "rsgeo:bands": ["red", "nir"], "rsgeo:band_indexes": [1, 2]}
    when = datetime(2024, 5, 1, tzinfo=UTC)
    item = make_item("a", box(16), when=when, properties=facts, assets={"data": tmp_path / "s" / "a.tif"})
    item.id = "../../out"
    Manifest(tmp_path / "scenes" / "scenes.json", [item]).save()
    with pytest.raises(SourceError, match="cannot be a file name"):
        collect(spec({"kind": "scenes", "path": tmp_path / "scenes"}), tmp_path / "deep" / "er" / "tiles")
    assert not (tmp_path / "deep" / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": 3}, "Extra inputs are not permitted"),
        ({"val_share": 0.5, "test_share": 0.5}, "something is left to train on"),
        ({"labels": {"kind": "cover"}}, "since only the sample brings its own"),
        ({"images": {"kind": "sample"}, "labels": {"kind": "folder"}}, "only with images of kind folder"),
        ({"images": {"kind": "folder", "path": "x", "sensor": "spot"}}, "one of sentinel1"),
    ],
)
def test_a_description_that_does_not_hold_together_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CollectSpec.model_validate({"images": {"kind": "folder", "path": "x"}, **change})


def test_a_description_survives_json() -> None:
    wanted = spec({"kind": "sample"}, labels={"kind": "cover", "legend": {1: "water"}})
    assert CollectSpec.model_validate(json.loads(wanted.model_dump_json())) == wanted


def test_real_chips_without_georeference(shared_data: Path, tmp_path: Path) -> None:
    wanted = CollectSpec.model_validate(
        {"images": folder(shared_data / "scenes-eurosat-rgb", gsd_m=10), "labels": {"kind": "folder"}}
    )
    found = collect(wanted, tmp_path / "tiles")
    assert len(found) == 70
    assert len(found.extra["rsgeo:classes"]) == 10
    counts = Counter(item.properties["rsgeo:split"] for item in found)
    assert counts == {"train": 50, "val": 10, "test": 10}


def test_real_land_cover_labels_real_scenes(shared_data: Path, tmp_path: Path) -> None:
    bands = [*(f"B{n:02d}" for n in range(1, 9)), "B8A", "B09", "B11", "B12"]
    images = folder(
        shared_data / "s1s2-terramesh",
        glob="*_S2L2A.tif",
        sensor="sentinel2-l2a",
        file_bands=bands,
        bands=["B04", "B03", "B02", "B08"],
    )
    labels = {"kind": "cover", "path": shared_data / "s1s2-terramesh", "glob": "*_LULC.tif", "min_share": 0.6}
    wanted = CollectSpec.model_validate({"images": images, "labels": labels, "tile_px": 56, "block_tiles": 1})
    found = collect(wanted, tmp_path / "tiles")
    counts = Counter(item.properties["rsgeo:label"] for item in found)
    # Water, trees, crops and rangeland cover enough of some tiles.
    assert set(counts) >= {"1", "2", "4", "9"}
    assert {str(item_box(item).crs) for item in found} == {"EPSG:32722", "EPSG:32736", "EPSG:32718"}
    assert {item.properties["rsgeo:split"] for item in found} == {"train", "val", "test"}
