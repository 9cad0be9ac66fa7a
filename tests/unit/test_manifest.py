from __future__ import annotations

import errno
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.errors import ProductError, SourceError
from rsgeo_gan.manifest import (
    Manifest,
    asset_path,
    check_share,
    displacement_of,
    item_box,
    make_item,
    safe_name,
    write_text,
)

BOX = GeoBox((60, 100), Affine(10.25, 0, 600000.125, 0, -10.25, 5300040.5), "EPSG:32632")


def item(root: Path, name: str = "scene-1"):
    return make_item(
        name,
        BOX,
        when=datetime(2024, 6, 1, tzinfo=UTC),
        properties={"rsgeo:side": "source"},
        assets={"data": root / "sample" / "a.tif", "web": "https://example.org/a.tif", "far": "/elsewhere/b.tif"},
    )


def test_items_come_back_with_box_properties_and_absolute_paths(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "scenes" / "scenes.json", [item(tmp_path)], extra={"rsgeo:note": 1})
    manifest.drop("scene-2", "ingest", "no CRS", "Scene 2 has no CRS.")
    again = Manifest.read(manifest.save())
    assert item_box(again.get("scene-1")) == BOX
    assert again.get("scene-1").properties["rsgeo:side"] == "source"
    assert asset_path(again.get("scene-1"), "data") == str(tmp_path / "sample" / "a.tif")
    assert asset_path(again.get("scene-1"), "web") == "https://example.org/a.tif"
    assert again.dropped == manifest.dropped
    assert again.extra == {"rsgeo:note": 1}


def test_paths_inside_the_run_are_relative_on_disk_so_that_it_can_be_moved(tmp_path: Path) -> None:
    path = Manifest(tmp_path / "scenes" / "scenes.json", [item(tmp_path)]).save()
    assets = json.loads(path.read_text())["features"][0]["assets"]
    assert assets["data"]["href"] == "../sample/a.tif"
    assert assets["far"]["href"] == "/elsewhere/b.tif"


def test_an_item_replaces_its_namesake_and_forgets_that_it_was_dropped(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "scenes.json")
    manifest.drop("scene-1", "ingest", "truncated", "…")
    manifest.add(item(tmp_path))
    manifest.add(item(tmp_path))
    assert (manifest.ids(), manifest.dropped) == (["scene-1"], [])


def test_items_are_found_by_id_however_the_list_was_changed(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "scenes.json")
    for name in "abcd":
        manifest.add(item(tmp_path, name))
    assert "c" in manifest
    manifest.items.reverse()
    assert [manifest.get(name).id for name in "abcd"] == list("abcd")
    manifest.items.append(item(tmp_path, "e"))
    manifest.items = [entry for entry in manifest.items if entry.id != "c"]
    assert ["c" in manifest, "e" in manifest, 3 in manifest] == [False, True, False]
    manifest.drop("d", "ingest", "truncated", "…")
    manifest.add(item(tmp_path, "b"))
    manifest.drop("d", "ingest", "unreadable", "…")
    assert manifest.ids() == ["b", "a", "e"]
    assert [(entry.id, entry.code) for entry in manifest.dropped] == [("d", "unreadable")]
    with pytest.raises(SourceError, match="no item 'd'; it has 3 others"):
        manifest.get("d")


def test_adding_dropping_and_finding_do_not_walk_through_all_items(tmp_path: Path) -> None:
    """Every step reads an id or two, whether there are ten items or thousands."""

    class Counted:
        read = 0

        def __init__(self, name: str) -> None:
            self.name = name

        @property
        def id(self) -> str:
            Counted.read += 1
            return self.name

    manifest = Manifest(tmp_path / "scenes.json")
    for number in range(300):
        manifest.drop(f"d{number}", "tile", "unreadable", "…")
        manifest.add(cast(Any, Counted(f"i{number}")))
        assert f"i{number}" in manifest
        manifest.get(f"i{number}")
    assert Counted.read < 20 * 300


@pytest.mark.parametrize("bad", ["../../x", "a/b", "", "..", "a\\b", "x" * 300, "a..b", ".hidden", "a b"])
def test_ids_that_could_escape_the_folder_are_refused(bad: str) -> None:
    with pytest.raises(SourceError, match="cannot be a file name"):
        safe_name(bad)


def test_a_missing_or_foreign_collection_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="run the stage that makes it first"):
        Manifest.read(tmp_path / "none.json")
    (tmp_path / "odd.json").write_text("[1, 2")
    with pytest.raises(SourceError, match="not an item collection of ours"):
        Manifest.read(tmp_path / "odd.json")


def test_a_missing_asset_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"scene-1 has no asset 'scl'; it has data, web, far"):
        asset_path(item(tmp_path), "scl")


def test_a_full_disk_leaves_neither_the_old_file_changed_nor_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ProductError, match="the disk is full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProductError, match=r"Cannot write .*file.*Choose an output folder"):
        write_text(tmp_path / "file" / "a.txt", "x")


@pytest.mark.parametrize(("failed", "total", "stops"), [(0, 4, False), (2, 4, False), (3, 4, True), (1, 1, True)])
def test_the_share_of_failures_decides(failed: int, total: int, stops: bool) -> None:
    if stops:
        with pytest.raises(SourceError, match=f"{failed} of {total} items failed"):
            check_share(failed, total, 0.5, "ingest", Path("scenes.json"))
    else:
        check_share(failed, total, 0.5, "ingest", Path("scenes.json"))


def pair_with_field(root: Path) -> tuple[pystac.Item, Displacement]:
    """A pair whose field lies in a file, on a rotated lattice that no file format keeps to the last bit."""
    box = GeoBox(BOX.shape, BOX.affine * Affine.rotation(12.3), BOX.crs)
    lattice = GeoBox((6, 9), box.affine * Affine.translation(-13.7, -13.7) * Affine.scale(16.3), box.crs)
    parts = np.random.default_rng(1).uniform(0, 1, (4, 6, 9)).astype(np.float32)
    moved = Displacement(
        box, "field", (1, 0, 0, 2, 0, 0), 0.3, 0.8, True, 40, "", Field(lattice, parts[:2], parts[2], parts[3])
    )
    path = raster.write(root / "displacement.tif", np.stack([*parts[:2], parts[3], parts[2]]), lattice)
    pair = item(root, "pair")
    pair.properties["rsgeo:displacement"] = moved.to_dict()
    pair.add_asset("displacement", pystac.Asset(str(path)))
    return pair, moved


def test_a_pairs_field_comes_back_from_its_file(tmp_path: Path) -> None:
    pair, moved = pair_with_field(tmp_path)
    manifest = Manifest(tmp_path / "pairs" / "pairs.json", [pair])
    found = displacement_of(Manifest.read(manifest.save()).get("pair"))
    assert found.to_dict() == moved.to_dict()
    col, row = np.array([0.0, 50.0, 99.0]), np.array([59.0, 20.0, 0.0])
    np.testing.assert_allclose(np.stack(found.at(col, row)), np.stack(moved.at(col, row)), atol=1e-5)
    np.testing.assert_allclose(found.quality(col, row), moved.quality(col, row), atol=1e-5)


def test_stiffer_displacements_need_no_file(tmp_path: Path) -> None:
    pair = item(tmp_path)
    moved = Displacement(BOX, "affine", (1, 0.01, 0, 2, 0, 0.02), 0.3, 0.8, True, 40)
    pair.properties["rsgeo:displacement"] = moved.to_dict()
    assert displacement_of(pair) == moved


def test_a_missing_or_foreign_field_is_refused_in_words(tmp_path: Path) -> None:
    pair, _ = pair_with_field(tmp_path)
    path = Path(asset_path(pair, "displacement"))
    values, _ = raster.read(path)
    values[0, 2, 3] += 0.5
    raster.write(path, values, raster.inspect(path).geobox)
    with pytest.raises(SourceError, match="not the field that was measured"):
        displacement_of(pair)
    raster.write(path, values[:2], raster.inspect(path).geobox)
    with pytest.raises(SourceError, match="expected 4 bands of float32"):
        displacement_of(pair)
    with rasterio.open(path, "w", driver="GTiff", width=4, height=4, count=4, dtype="float32") as placeless:
        placeless.write(np.zeros((4, 4, 4), np.float32))
    with pytest.raises(SourceError, match="no usable `rsgeo:displacement`"):
        displacement_of(pair)
    del pair.assets["displacement"]
    with pytest.raises(SourceError, match="no asset 'displacement'"):
        displacement_of(pair)
    with pytest.raises(SourceError, match="no usable `rsgeo:displacement`"):
        displacement_of(item(tmp_path))
