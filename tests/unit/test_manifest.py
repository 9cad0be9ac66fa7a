from __future__ import annotations

import errno
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan.errors import ProductError, SourceError
from rsgeo_gan.manifest import Manifest, asset_path, check_share, item_box, make_item, safe_name, write_text

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
