from __future__ import annotations

import json
import logging
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.control import GroundControlPoint
from sources import BOX, catalogue, decibel, dn, item, static_catalogue, write

from rsgeo_gan import raster
from rsgeo_gan.catalog import Catalog, load
from rsgeo_gan.errors import ProductError, SourceError
from rsgeo_gan.ingest import ingest
from rsgeo_gan.ingest.checks import Declined, check_whole
from rsgeo_gan.ingest.offsets import darkest, decide
from rsgeo_gan.manifest import Manifest, item_box
from rsgeo_gan.sensors import SENSORS, Sensor

S2_BANDS = ["B02", "B03", "B04", "B08"]
EO = {"kind": "folder", "path": "eo", "sensor": "sentinel2-l2a", "bands": S2_BANDS}
SAR = {"kind": "folder", "path": "sar", "sensor": "sentinel1-rtc-db", "datetime": "2024-06-02"}
STAC_EO = {"kind": "stac", "url": "stac/catalog.json", "sensor": "sentinel2-l2a", "bands": S2_BANDS}
ALL_MAY_FAIL = {"limits": {"max_failed_share": 1.0}}


def eo_file(path: Path, values: np.ndarray | None = None, **facts: Any) -> Path:
    values = dn() if values is None else values
    return write(path, values, facts.pop("box", BOX), **{"names": S2_BANDS[: len(values)], "nodata": 0, **facts})


def sar_file(path: Path, values: np.ndarray | None = None, **facts: Any) -> Path:
    return write(path, decibel() if values is None else values, **{"names": ("VV", "VH"), "unit": "dB", **facts})


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """One optical and one SAR scene in folders."""
    eo_file(tmp_path / "eo" / "valley_20240601.tif")
    sar_file(tmp_path / "sar" / "valley_20240602.tif")
    return tmp_path


def made(folder: Path, source: dict[str, Any] = EO, target: dict[str, Any] = SAR, **more: Any) -> Catalog:
    return load(catalogue(folder / "toy.yaml", source, target, **more))


def reason(manifest: Manifest, scene: str) -> tuple[str, str]:
    entry = next(entry for entry in manifest.dropped if entry.id == scene)
    return entry.code, entry.reason


def files_and_times(folder: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.is_file() and path.suffix != ".yaml"
    }


class TestFolder:
    def test_scenes_refer_to_their_files_and_nothing_is_copied(self, folders: Path) -> None:
        manifest = ingest(made(folders), folders / "out" / "scenes")
        assert manifest.ids() == ["valley_20240601", "valley_20240602"]
        scene = manifest.get("valley_20240601")
        assert scene.assets["data"].href == str(folders / "eo" / "valley_20240601.tif")
        assert scene.datetime == datetime(2024, 6, 1, tzinfo=UTC)
        assert scene.properties["rsgeo:side"] == "source"
        assert scene.properties["rsgeo:bands"] == S2_BANDS
        assert scene.properties["rsgeo:band_indexes"] == [1, 2, 3, 4]
        assert item_box(scene) == BOX
        assert manifest.get("valley_20240602").properties["rsgeo:sensor"] == "sentinel1-rtc-db"
        assert [path.name for path in (folders / "out" / "scenes").iterdir()] == ["scenes.json"]

    def test_what_is_returned_is_what_lies_on_disk(self, folders: Path) -> None:
        manifest = ingest(made(folders), folders / "out")
        again = Manifest.read(folders / "out" / "scenes.json")
        assert again.ids() == manifest.ids()
        assert again.get("valley_20240601").assets["data"].href == manifest.items[0].assets["data"].href

    def test_a_second_run_changes_no_file(self, folders: Path) -> None:
        ingest(made(folders), folders / "out")
        before = files_and_times(folders)
        ingest(made(folders), folders / "out")
        assert files_and_times(folders) == before

    def test_a_second_run_that_drops_the_same_scene_changes_no_file(self, folders: Path) -> None:
        (folders / "eo" / "broken_20240603.tif").write_bytes(b"no raster")
        ingest(made(folders), folders / "out")
        before = files_and_times(folders)
        manifest = ingest(made(folders), folders / "out")
        assert len(manifest.dropped) == 1
        assert files_and_times(folders) == before

    def test_a_new_file_is_added_and_a_changed_one_looked_at_again(self, folders: Path) -> None:
        ingest(made(folders), folders / "out")
        eo_file(folders / "eo" / "later_20240603.tif")
        changed = folders / "sar" / "valley_20240602.tif"
        sar_file(changed, decibel() * 0 + 300)
        os.utime(changed, ns=(1, 1))
        sar_file(folders / "sar" / "other_20240603.tif")
        manifest = ingest(made(folders), folders / "out")
        assert set(manifest.ids()) == {"later_20240603", "valley_20240601", "other_20240603"}
        assert reason(manifest, "valley_20240602")[0] == "units"

    def test_a_file_that_is_gone_leaves_the_collection(self, folders: Path) -> None:
        second = eo_file(folders / "eo" / "later_20240603.tif")
        assert len(ingest(made(folders), folders / "out")) == 3
        second.unlink()
        assert ingest(made(folders), folders / "out").ids() == ["valley_20240601", "valley_20240602"]

    def test_scenes_of_one_name_on_both_sides_get_ids_of_their_own(self, tmp_path: Path) -> None:
        eo_file(tmp_path / "eo" / "0001.tif")
        sar_file(tmp_path / "sar" / "0001.tif")
        manifest = ingest(made(tmp_path, {**EO, "datetime": "2024-06-01"}), tmp_path / "out")
        assert manifest.ids() == ["0001-source", "0001-target"]

    def test_bands_are_found_in_any_order_and_spelling(self, folders: Path) -> None:
        eo_file(folders / "eo" / "valley_20240601.tif", names=("B8", "red", "B3", "blue"))
        scene = ingest(made(folders), folders / "out").get("valley_20240601")
        assert scene.properties["rsgeo:band_indexes"] == [4, 3, 2, 1]

    def test_files_without_band_names_take_them_from_the_catalogue(self, folders: Path) -> None:
        eo_file(folders / "eo" / "valley_20240601.tif", names=())
        side = {**EO, "bands": ["B08", "B02"], "file_bands": S2_BANDS}
        scene = ingest(made(folders, side), folders / "out").get("valley_20240601")
        assert scene.properties["rsgeo:bands"] == ["B08", "B02"]
        assert scene.properties["rsgeo:band_indexes"] == [4, 1]

    def test_one_file_per_band_becomes_one_raster_on_the_finest_lattice(self, folders: Path) -> None:
        values = dn(4)
        coarse = BOX.zoom_out(2)
        for band, plane in zip(S2_BANDS[:3], values[:3], strict=True):
            eo_file(folders / "bands" / f"T32_20240601_{band}.tif", plane[None], names=())
        write(
            folders / "bands" / "T32_20240601_B8A.tif", np.full((1, *coarse.shape), 2345, np.uint16), coarse, nodata=0
        )
        classes = np.full(coarse.shape, 4, np.uint8)
        classes[0, 0] = 9
        write(folders / "bands" / "T32_20240601_SCL.tif", classes, coarse, nodata=0)
        side = {
            "kind": "folder",
            "path": "bands",
            "sensor": "sentinel2-l2a",
            "bands": ["B04", "B8A", "B02"],
            "name_regex": r"(?P<scene>T32_\d+)_(?P<band>B..|SCL)\.tif$",
            "class_asset": "SCL",
        }
        scene = ingest(made(folders, side), folders / "out").get("T32_20240601")
        got, valid = raster.read(scene.assets["data"].href)
        assert valid.all()
        assert got.dtype == np.uint16
        np.testing.assert_array_equal(got[0], values[2])
        np.testing.assert_array_equal(got[2], values[0])
        assert (got[1] == 2345).all()
        assert item_box(scene) == BOX
        assert scene.properties["rsgeo:band_indexes"] == [1, 2, 3]
        assert scene.properties["rsgeo:invalid_classes"] == [0, 1, 3, 8, 9, 10]
        assert scene.assets["scl"].href.endswith("T32_20240601_SCL.tif")
        before = files_and_times(folders)
        ingest(made(folders, side), folders / "out")
        assert files_and_times(folders) == before

    def test_a_finished_copy_is_kept_when_the_collection_was_lost(self, folders: Path) -> None:
        for band, plane in zip(S2_BANDS, dn(4), strict=True):
            eo_file(folders / "bands" / f"T32_20240601_{band}.tif", plane[None], names=())
        side = {**EO, "path": "bands", "name_regex": r"(?P<scene>T32_\d+)_(?P<band>B..)\.tif$"}
        out = folders / "out"
        copied = Path(ingest(made(folders, side), out).get("T32_20240601").assets["data"].href)
        first = copied.stat().st_mtime_ns
        (out / "scenes.json").unlink()
        ingest(made(folders, side), out)
        assert copied.stat().st_mtime_ns == first

    def test_an_area_cuts_scenes_on_their_own_lattice(self, folders: Path) -> None:
        inner = BOX[20:60, 30:90].footprint("EPSG:4326").boundingbox
        manifest = ingest(made(folders, aoi={"bbox": list(inner)}), folders / "out")
        box = item_box(manifest.get("valley_20240601"))
        assert box.shape.y < BOX.shape.y
        offset = ~BOX.affine * (box.affine.c, box.affine.f)
        assert offset == pytest.approx([round(part) for part in offset], abs=1e-9)
        whole, _ = raster.read(folders / "eo" / "valley_20240601.tif")
        got, _ = raster.read(manifest.get("valley_20240601").assets["data"].href)
        top, left = round(offset[1]), round(offset[0])
        assert (left, top) <= (30, 20)
        np.testing.assert_array_equal(got, whole[:, top : top + box.shape.y, left : left + box.shape.x])

    def test_a_scene_outside_area_or_time_is_left_out_without_being_a_failure(self, folders: Path) -> None:
        far = GeoBox(BOX.shape, Affine(10.0, 0, 400_000.0, 0, -10.0, 5_100_000.0), BOX.crs)
        eo_file(folders / "eo" / "far_20240601.tif", box=far)
        eo_file(folders / "eo" / "old_20200601.tif")
        bbox = list(BOX.footprint("EPSG:4326").boundingbox)
        more = {"aoi": {"bbox": bbox}, "time": {"start": "2024-01-01", "end": "2024-12-31"}}
        manifest = ingest(made(folders, limits={"max_failed_share": 0}, **more), folders / "out")
        assert "valley_20240601" in manifest
        assert reason(manifest, "far_20240601")[0] == "outside area"
        assert reason(manifest, "old_20200601")[0] == "outside time"

    def test_a_crs_can_be_lent_to_files_that_state_none(self, folders: Path) -> None:
        path = folders / "eo" / "bare_20240601.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=96, width=128, count=4, dtype="uint16", transform=BOX.affine, nodata=0
        ) as out:
            out.write(dn())
        side = {**EO, "glob": "bare*.tif", "file_bands": S2_BANDS, "crs": "EPSG:32632"}
        scene = ingest(made(folders, side), folders / "out").get("bare_20240601")
        assert item_box(scene) == BOX
        np.testing.assert_array_equal(raster.read(scene.assets["data"].href)[0], dn())
        before = files_and_times(folders)
        ingest(made(folders, side), folders / "out")
        assert files_and_times(folders) == before

    @pytest.mark.parametrize(
        ("name", "tags", "extra", "expected"),
        [
            ("S1_20240602T164500_x", {}, {}, datetime(2024, 6, 2, 16, 45, tzinfo=UTC)),
            ("a_2024-06-02", {}, {}, datetime(2024, 6, 2, tzinfo=UTC)),
            ("a", {"datetime": "2023-06-10T16:04:18.000000000"}, {}, datetime(2023, 6, 10, 16, 4, 18, tzinfo=UTC)),
            ("a", {"TIFFTAG_DATETIME": "2023:06:10 16:04:18"}, {}, datetime(2023, 6, 10, 16, 4, 18, tzinfo=UTC)),
            ("a", {"when": "2023-06-10"}, {"datetime_tag": "when"}, datetime(2023, 6, 10, tzinfo=UTC)),
            ("a_20240602", {}, {"datetime": "2024-01-01"}, datetime(2024, 1, 1, tzinfo=UTC)),
            ("a", {}, {"default_datetime": "2024-01-02"}, datetime(2024, 1, 2, tzinfo=UTC)),
            (
                "a_02.06.2024",
                {},
                {"name_regex": r"(?P<scene>a)_(?P<datetime>[\d.]+)\.tif", "datetime_format": "%d.%m.%Y"},
                datetime(2024, 6, 2, tzinfo=UTC),
            ),
        ],
    )
    def test_time_is_told_from_catalogue_tags_or_name(
        self, tmp_path: Path, name: str, tags: dict[str, str], extra: dict[str, Any], expected: datetime
    ) -> None:
        eo_file(tmp_path / "eo" / f"{name}.tif", tags=tags)
        sar_file(tmp_path / "sar" / "x.tif")
        manifest = ingest(made(tmp_path, {**EO, **extra}), tmp_path / "out")
        assert manifest.items[0].datetime == expected


class TestBadScenes:
    """One bad scene does not stop the night; its reason is on record."""

    def left_out(self, folders: Path, scene: str, source: dict[str, Any] = EO) -> tuple[str, str]:
        manifest = ingest(made(folders, source), folders / "out")
        assert "valley_20240601" in manifest, "the good scene stays"
        return reason(manifest, scene)

    def test_no_crs(self, folders: Path) -> None:
        with rasterio.open(
            folders / "eo" / "bare_20240601.tif",
            "w", driver="GTiff", height=8, width=8, count=4, dtype="uint16", transform=BOX.affine,
        ) as out:  # fmt: skip
            out.write(dn(shape=(8, 8)))
        code, text = self.left_out(folders, "bare_20240601")
        assert code == "georeference"
        assert "bare_20240601.tif has no CRS: expected one" in text

    def test_sar_with_ground_control_points_only(self, folders: Path) -> None:
        points = [GroundControlPoint(row, col, 11 + col / 1e3, 46 - row / 1e3) for row in (0, 95) for col in (0, 127)]
        with rasterio.open(
            folders / "sar" / "gcp_20240602.tif",
            "w", driver="GTiff", height=96, width=128, count=2, dtype="float32", gcps=points, crs="EPSG:4326",
        ) as out:  # fmt: skip
            out.write(decibel())
        manifest = ingest(made(folders), folders / "out")
        code, text = reason(manifest, "gcp_20240602")
        assert code == "georeference"
        assert "4 ground control points but no affine georeference" in text
        assert "Terrain-correct it first" in text

    def test_all_nodata(self, folders: Path) -> None:
        eo_file(folders / "eo" / "empty_20240601.tif", dn() * 0)
        code, text = self.left_out(folders, "empty_20240601")
        assert code == "all nodata"
        assert "empty_20240601.tif holds no valid pixel" in text

    def test_truncated_file(self, folders: Path) -> None:
        whole = eo_file(folders / "eo" / "cut_20240601.tif", compress="none")
        data = whole.read_bytes()
        whole.write_bytes(data[: len(data) - 5000])
        code, text = self.left_out(folders, "cut_20240601")
        assert code in ("truncated", "unreadable")
        assert "truncated" in text
        assert "Fetch it again" in text or "fetch it again" in text

    def test_truncation_is_seen_without_reading_pixels(self, tmp_path: Path) -> None:
        path = tmp_path / "big.tif"
        box = GeoBox((1200, 1200), BOX.affine, BOX.crs)
        write(path, dn(1, shape=(1200, 1200)), box, cog=True)
        check_whole(path, "Scene big")
        data = path.read_bytes()
        path.write_bytes(data[:-60_000])
        with pytest.raises(Declined, match=r"Scene big: .*big.tif is truncated: expected at least \d+ bytes, got \d+"):
            check_whole(path, "Scene big")

    def test_no_raster(self, folders: Path) -> None:
        (folders / "eo" / "text_20240601.tif").write_text("no raster")
        code, text = self.left_out(folders, "text_20240601")
        assert code == "unreadable"
        assert "text_20240601.tif cannot be read" in text

    def test_wrong_band_count(self, folders: Path) -> None:
        eo_file(folders / "eo" / "three_20240601.tif", dn(3), names=())
        code, text = self.left_out(folders, "three_20240601")
        assert code == "bands"
        assert "expected the bands B02, B03, B04, B08 of sentinel2-l2a, got 3 band(s)" in text
        assert "file_bands" in text

    def test_file_bands_that_do_not_fit_the_file(self, folders: Path) -> None:
        eo_file(folders / "eo" / "three_20240601.tif", dn(3), names=())
        code, text = self.left_out(folders, "three_20240601", {**EO, "file_bands": S2_BANDS})
        assert code == "bands"
        assert "expected 4 bands (B02, B03, B04, B08), got 3" in text

    def test_wrong_units(self, folders: Path) -> None:
        sar_file(folders / "sar" / "linear_20240602.tif", np.full((2, *BOX.shape), 90.0, np.float32))
        manifest = ingest(made(folders), folders / "out")
        code, text = reason(manifest, "linear_20240602")
        assert code == "units"
        assert "expected mostly -35 to 5" in text

    def test_no_date(self, folders: Path) -> None:
        eo_file(folders / "eo" / "undated.tif")
        code, text = self.left_out(folders, "undated")
        assert code == "no date"
        assert "`default_datetime`" in text

    def test_missing_class_raster(self, folders: Path) -> None:
        for band, plane in zip(S2_BANDS, dn(4), strict=True):
            eo_file(folders / "bands" / f"T32_20240601_{band}.tif", plane[None], names=())
        side = {**EO, "path": "bands", "class_asset": "SCL", "name_regex": r"(?P<scene>T32_\d+)_(?P<band>B..)\.tif$"}
        with pytest.raises(SourceError, match="expected a class raster SCL beside its bands"):
            ingest(made(folders, side, limits={"max_failed_share": 0.9}), folders / "out")

    def test_bands_of_different_crs(self, folders: Path) -> None:
        for number, band in enumerate(S2_BANDS):
            box = GeoBox(BOX.shape, BOX.affine, f"EPSG:3263{2 + number % 2}")
            eo_file(folders / "bands" / f"T32_20240601_{band}.tif", dn(1), names=(), box=box)
        side = {**EO, "path": "bands", "name_regex": r"(?P<scene>T32_\d+)_(?P<band>B..)\.tif$"}
        with pytest.raises(SourceError, match="expected all bands in one CRS"):
            ingest(made(folders, side, limits={"max_failed_share": 0.9}), folders / "out")

    def test_an_unforeseen_failure_of_a_library_is_a_reason_too(
        self, folders: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        eo_file(folders / "eo" / "odd_20240601.tif")
        whole = raster.inspect

        def inspect(path: Path | str) -> raster.RasterInfo:
            if "odd" in str(path):
                raise RuntimeError("out of luck")
            return whole(path)

        monkeypatch.setattr(raster, "inspect", inspect)
        code, text = self.left_out(folders, "odd_20240601")
        assert code == "unforeseen"
        assert "RuntimeError: out of luck" in text


class TestLimits:
    def test_too_large_a_share_of_failures_stops_the_stage(self, folders: Path) -> None:
        for name in "abc":
            (folders / "eo" / f"{name}_20240601.tif").write_text("no raster")
        with pytest.raises(SourceError, match=r"ingest: 3 of 5 items failed, more than the accepted share of 50%"):
            ingest(made(folders), folders / "out")
        assert len(Manifest.read(folders / "out" / "scenes.json").dropped) == 3
        assert len(ingest(made(folders, limits={"max_failed_share": 0.6}), folders / "out")) == 2

    def test_a_side_without_scenes_stops_the_stage_and_says_why(self, folders: Path) -> None:
        eo_file(folders / "eo" / "valley_20240601.tif", dn() * 0)
        with pytest.raises(SourceError, match=r"at least one source scene for toy, got none.*holds no valid pixel"):
            ingest(made(folders, **ALL_MAY_FAIL), folders / "out")

    def test_a_missing_folder_is_named(self, folders: Path) -> None:
        with pytest.raises(SourceError, match=r"no folder or file .*nowhere. Correct `path`"):
            ingest(made(folders, {**EO, "path": "nowhere"}), folders / "out")

    def test_a_folder_without_matching_rasters_is_named(self, folders: Path) -> None:
        with pytest.raises(SourceError, match=r"expected rasters matching '\*.jp2', got none; correct `path`, `glob`"):
            ingest(made(folders, {**EO, "glob": "*.jp2"}), folders / "out")

    def test_an_unwritable_output_folder_is_named(self, folders: Path) -> None:
        (folders / "out").write_text("a file where a folder should be")
        with pytest.raises(ProductError, match=r"Cannot write .*out.*Choose an output folder"):
            ingest(made(folders), folders / "out" / "scenes")

    def test_progress_counts_all_scenes(self, folders: Path) -> None:
        seen: list[tuple[str, int, int]] = []
        ingest(made(folders), folders / "out", progress=lambda *state: seen.append(state))
        assert seen == [("scenes", 0, 2), ("scenes", 1, 2), ("scenes", 2, 2)]


def stac_eo(folder: Path, item_id: str = "eo-1", **more: Any) -> Any:
    """An item with one local file per band, written below the folder."""
    box = more.pop("box", BOX)
    assets: dict[str, Path | str] = {}
    for band, plane in zip(S2_BANDS, more.pop("values", dn()), strict=True):
        assets[band] = eo_file(folder / "files" / f"{item_id.replace('/', '_')}_{band}.tif", plane[None], names=())
    return item(item_id, assets, box=box, **more)


class TestStaticStac:
    def run(self, folder: Path, items: list[Any], side: dict[str, Any] | None = None, **more: Any) -> Manifest:
        static_catalogue(folder / "stac", items)
        sar_file(folder / "sar" / "sar_20240602.tif")
        return ingest(made(folder, {**STAC_EO, **(side or {})}, **more), folder / "out")

    def test_bands_in_several_assets_become_one_raster(self, tmp_path: Path) -> None:
        manifest = self.run(tmp_path, [stac_eo(tmp_path, properties={"s2:processing_baseline": "05.10"})])
        scene = manifest.get("eo-1")
        np.testing.assert_array_equal(raster.read(scene.assets["data"].href)[0], dn())
        assert scene.properties["rsgeo:offset_dn"] == -1000
        assert scene.properties["rsgeo:offset_reason"].startswith("processing baseline 05.10")
        assert not list((tmp_path / "out").rglob("*.part"))

    def test_a_local_multiband_asset_is_not_copied(self, tmp_path: Path) -> None:
        path = eo_file(tmp_path / "files" / "all.tif")
        manifest = self.run(tmp_path, [item("eo-1", {"data": "../files/all.tif"})])
        assert manifest.get("eo-1").assets["data"].href == str(path)

    def test_band_names_may_come_from_the_asset(self, tmp_path: Path) -> None:
        path = eo_file(tmp_path / "files" / "all.tif", names=())
        fields = {"image": {"eo:bands": [{"name": name} for name in ("B08", "B04", "B03", "B02")]}}
        manifest = self.run(tmp_path, [item("eo-1", {"image": path}, fields=fields)], {"data_asset": "image"})
        assert manifest.get("eo-1").properties["rsgeo:band_indexes"] == [4, 3, 2, 1]

    def test_assets_may_have_other_names_than_bands(self, tmp_path: Path) -> None:
        entry = stac_eo(tmp_path)
        for band, key in zip(S2_BANDS, ("blue", "green", "red", "infrared"), strict=True):
            entry.assets[key] = entry.assets.pop(band)
        manifest = self.run(tmp_path, [entry], {"assets": {"B08": "infrared"}})
        np.testing.assert_array_equal(raster.read(manifest.get("eo-1").assets["data"].href)[0], dn())

    def test_a_class_raster_is_kept_with_the_classes_that_count_as_invalid(self, tmp_path: Path) -> None:
        entry = stac_eo(tmp_path)
        classes = write(tmp_path / "files" / "scl.tif", np.full(BOX.shape, 4, np.uint8))
        entry.add_asset("scl", pystac.Asset(str(classes)))
        scene = self.run(tmp_path, [entry], {"class_asset": "SCL"}).get("eo-1")
        assert scene.assets["scl"].href == str(classes)
        assert scene.properties["rsgeo:invalid_classes"] == [0, 1, 3, 8, 9, 10]

    def test_orbit_and_cloud_are_passed_on(self, tmp_path: Path) -> None:
        facts = {"sat:orbit_state": "ascending", "sat:relative_orbit": 117, "eo:cloud_cover": 3.5}
        properties = self.run(tmp_path, [stac_eo(tmp_path, properties=facts)]).get("eo-1").properties
        assert properties["rsgeo:orbit_state"] == "ascending"
        assert properties["rsgeo:relative_orbit"] == 117
        assert properties["eo:cloud_cover"] == 3.5

    def test_items_are_chosen_by_collection_time_query_and_number(self, tmp_path: Path) -> None:
        when = datetime(2024, 6, 1, tzinfo=UTC)
        entries = [
            stac_eo(
                tmp_path,
                f"eo-{day}",
                when=when + timedelta(days=day),
                collection="s2",
                properties={"eo:cloud_cover": day},
            )
            for day in (3, 1, 2, 4)
        ]
        other = stac_eo(tmp_path, "other", when=when, collection="l8")
        side = {"collection": "s2", "query": {"eo:cloud_cover": {"lt": 4}}, "max_items": 2}
        manifest = self.run(tmp_path, [*entries, other], side, time={"start": "2024-06-02", "end": "2024-06-30"})
        assert manifest.ids() == ["eo-1", "eo-2", "sar_20240602"]
        assert not manifest.dropped

    def test_a_cloudy_item_is_left_out_without_being_a_failure(self, tmp_path: Path) -> None:
        cloudy = stac_eo(tmp_path, "eo-2", properties={"eo:cloud_cover": 80})
        manifest = self.run(tmp_path, [stac_eo(tmp_path), cloudy], limits={"max_failed_share": 0})
        code, text = reason(manifest, "eo-2")
        assert code == "cloud"
        assert "80 % cloudy, more than pairing.max_cloud_pct of 20 %" in text

    def test_an_id_that_is_a_path_is_left_out_and_writes_nothing(self, tmp_path: Path) -> None:
        manifest = self.run(tmp_path, [stac_eo(tmp_path), stac_eo(tmp_path, "../../escape")])
        code, text = reason(manifest, "../../escape")
        assert code == "id"
        assert "cannot be a file name" in text
        assert not list(tmp_path.parent.glob("escape*"))
        assert not list(tmp_path.glob("escape*"))

    @pytest.mark.parametrize(
        ("stated", "match"),
        [
            ({"proj:code": "EPSG:32633"}, r"expected the CRS EPSG:32633 that the item states .*got EPSG:32632"),
            ({"proj:epsg": 32633}, r"expected the CRS EPSG:32633"),
            ({"proj:shape": [96, 96]}, r"expected 96 x 96 pixels as the item states"),
            ({"proj:transform": [10, 0, 600_005, 0, -10, 5_200_000]}, r"up to 0.5 pixels elsewhere"),
        ],
    )
    def test_a_georeference_that_contradicts_the_item_is_refused(
        self, tmp_path: Path, stated: dict[str, Any], match: str
    ) -> None:
        manifest = self.run(tmp_path, [stac_eo(tmp_path), stac_eo(tmp_path, "eo-2", properties=stated)])
        code, text = reason(manifest, "eo-2")
        assert code == "georeference"
        assert re.search(match, text), text

    def test_a_georeference_that_agrees_with_the_item_is_accepted(self, tmp_path: Path) -> None:
        facts = {"proj:code": "EPSG:32632", "proj:shape": [96, 128], "proj:transform": list(BOX.affine)}
        assert "eo-1" in self.run(tmp_path, [stac_eo(tmp_path, properties=facts)])

    def test_damaged_documents_and_missing_assets_are_reasons(self, tmp_path: Path) -> None:
        gone = item("gone", {band: f"../files/gone_{band}.tif" for band in S2_BANDS})
        poor = stac_eo(tmp_path, "poor")
        del poor.assets["B08"]
        damaged = {"type": "Feature", "id": "damaged"}
        manifest = self.run(tmp_path, [stac_eo(tmp_path), gone, poor, damaged], limits={"max_failed_share": 0.9})
        assert manifest.ids() == ["eo-1", "sar_20240602"]
        assert "There is no file" in reason(manifest, "gone")[1]
        assert reason(manifest, "poor") == (
            "bands",
            "Item poor: expected an asset 'B08', got B02, B03, B04; name the right ones with `assets`, `data_asset` or "
            "`class_asset` in the catalogue.",
        )
        assert reason(manifest, "damaged")[0] == "item"

    def test_a_link_to_a_missing_item_is_a_reason(self, tmp_path: Path) -> None:
        static_catalogue(tmp_path / "stac", [stac_eo(tmp_path), stac_eo(tmp_path, "eo-2")])
        (tmp_path / "stac" / "item-1.json").unlink()
        sar_file(tmp_path / "sar" / "sar_20240602.tif")
        manifest = ingest(made(tmp_path, STAC_EO), tmp_path / "out")
        assert manifest.ids() == ["eo-1", "sar_20240602"]
        assert [entry.code for entry in manifest.dropped] == ["id"]

    def test_an_item_collection_is_a_catalogue_too(self, tmp_path: Path) -> None:
        path = tmp_path / "items.json"
        features = [stac_eo(tmp_path).to_dict(include_self_link=False)]
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        sar_file(tmp_path / "sar" / "sar_20240602.tif")
        assert "eo-1" in ingest(made(tmp_path, {**STAC_EO, "url": "items.json"}), tmp_path / "out")

    @pytest.mark.parametrize(
        ("text", "match"),
        [(None, "no file"), ("nothing", "in JSON"), ("{}", "expected a STAC Catalog"), ("[]", "got list")],
    )
    def test_a_root_that_is_no_catalogue_is_refused(self, tmp_path: Path, text: str | None, match: str) -> None:
        if text is not None:
            (tmp_path / "root.json").write_text(text)
        sar_file(tmp_path / "sar" / "sar_20240602.tif")
        with pytest.raises(SourceError, match=match):
            ingest(made(tmp_path, {**STAC_EO, "url": "root.json"}), tmp_path / "out")

    def test_a_catalogue_without_matching_items_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"expected items of collection s9, got none; widen aoi"):
            self.run(tmp_path, [stac_eo(tmp_path, collection="s2")], {"collection": "s9"})


def test_the_sample_is_made_once_and_read_as_a_catalogue(tmp_path: Path) -> None:
    sides = {name: {"kind": "sample", "size_px": 128, "n_dates": 1} for name in ("eo", "sar")}
    path = catalogue(
        tmp_path / "toy.yaml",
        {**sides["eo"], "sensor": "sentinel2-l2a", "bands": S2_BANDS},
        {**sides["sar"], "sensor": "sentinel1-rtc"},
    )
    manifest = ingest(load(path), tmp_path / "scenes")
    optical, radar = manifest.items
    assert optical.properties["rsgeo:offset_dn"] == -1000
    assert "scl" in optical.assets
    assert radar.properties["rsgeo:orbit_state"] == "descending"
    assert item_box(optical).crs != item_box(radar).crs
    before = files_and_times(tmp_path)
    ingest(load(path), tmp_path / "scenes")
    assert files_and_times(tmp_path) == before


S2 = SENSORS["sentinel2-l2a"]
STILL_IN, TAKEN_OUT, BRIGHT = (1010.0, 1080.0), (120.0, 240.0), (3500.0, 4200.0)
FLAG = "earthsearch:boa_offset_applied"


def decided(**more: Any) -> tuple[float, str]:
    facts: dict[str, Any] = {
        "override": None,
        "collection": "sentinel-2-l2a",
        "properties": {},
        "band_metadata": [],
        "file_offset": (1.0, 0.0),
        "dark": None,
    }
    sensor: Sensor = more.pop("sensor", S2)
    offset = decide("S2A_x", sensor, **{**facts, **more})
    return offset.dn, offset.reason


class TestOffset:
    """Which offset Sentinel-2 needs, by provider."""

    @pytest.mark.parametrize(
        ("facts", "expected", "because"),
        [
            ({"properties": {"s2:processing_baseline": "05.09"}}, -1000, "processing baseline 05.09"),
            ({"properties": {"s2:processing_baseline": "04.00"}, "dark": STILL_IN}, -1000, "agrees with the dark"),
            ({"properties": {"s2:processing_baseline": "03.01"}, "dark": TAKEN_OUT}, 0, "processing baseline 03.01"),
            ({"properties": {"s2:product_uri": "S2A_MSIL2A_20240601T1_N0510_R65.SAFE"}}, -1000, "baseline 05.10"),
            (
                {
                    "collection": "sentinel-2-c1-l2a",
                    "band_metadata": [{"scale": 1e-4, "offset": -0.1}],
                    "dark": STILL_IN,
                },
                -1000,
                "raster metadata",
            ),
            (
                {"collection": "sentinel-2-c1-l2a", "band_metadata": [{"raster:scale": 1e-4, "raster:offset": 0}]},
                0,
                "raster",
            ),
            (
                {
                    "collection": "sentinel-2-c1-l2a",
                    "band_metadata": [{"scale": 1e-4, "offset": -0.1}],
                    "properties": {FLAG: True},
                },
                -1000,
                "raster metadata",
            ),
            ({"properties": {FLAG: True, "s2:processing_baseline": "05.09"}, "dark": TAKEN_OUT}, 0, "is true; agrees"),
            (
                {"properties": {FLAG: False, "s2:processing_baseline": "05.09"}, "dark": STILL_IN},
                -1000,
                "is false; agrees",
            ),
            ({"properties": {FLAG: "false"}, "dark": STILL_IN}, -1000, "is false"),
            ({"properties": {FLAG: True, "s2:processing_baseline": "02.14"}, "dark": STILL_IN}, 0, "adds no offset"),
            ({"properties": {FLAG: True}, "dark": BRIGHT}, 0, "too bright to check"),
            ({"properties": {FLAG: True}, "dark": None}, 0, "not checked, too few valid pixels"),
            (
                # its raster metadata are known to state the offset although it was taken out
                {"properties": {FLAG: True}, "band_metadata": [{"scale": 1e-4, "offset": -0.1}], "dark": TAKEN_OUT},
                0,
                "is true",
            ),
            ({"file_offset": (1e-4, -0.1)}, -1000, "scale and offset in the file"),
            ({"dark": TAKEN_OUT}, 0, "not stated"),
            ({"dark": STILL_IN}, 0, "look as if an offset of 1000 were in"),
            ({"override": -1000.0, "properties": {FLAG: True}, "dark": TAKEN_OUT}, -1000, "catalogue: offset_dn"),
            (
                {"sensor": SENSORS["sentinel1-rtc"], "properties": {"s2:processing_baseline": "05.09"}},
                0,
                "as delivered",
            ),
            ({"sensor": SENSORS["sentinel2-display"]}, 0, "as delivered"),
        ],
    )
    def test_is_decided_per_collection_and_item(self, facts: dict[str, Any], expected: float, because: str) -> None:
        got, why = decided(**facts)
        assert got == expected
        assert because in why

    @pytest.mark.parametrize(
        ("facts", "match"),
        [
            ({"properties": {FLAG: True, "s2:processing_baseline": "05.09"}, "dark": STILL_IN}, "as if the offset"),
            ({"properties": {FLAG: True}, "dark": STILL_IN}, "is true, so dark pixels should lie well below 1000"),
            ({"properties": {FLAG: False}, "dark": TAKEN_OUT}, "is false, so its DNs should still hold the offset"),
            ({"properties": {"s2:processing_baseline": "05.09"}, "dark": TAKEN_OUT}, "got 240 at the 1st percentile"),
            ({"band_metadata": [{"scale": 1e-4, "offset": o} for o in (0, -0.1)]}, "one radiometric offset for all"),
        ],
    )
    def test_a_contradiction_declines_the_item(self, facts: dict[str, Any], match: str) -> None:
        with pytest.raises(Declined, match=match) as caught:
            decided(**facts)
        assert caught.value.code == "offset"
        assert "S2A_x" in str(caught.value)
        assert "offset_dn" in str(caught.value)

    def test_a_suspicion_without_a_statement_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING, logger="rsgeo_gan"):
            decided(dark=STILL_IN)
        assert "set offset_dn: -1000 in the catalogue if so" in caplog.text

    def test_the_darkest_band_decides(self) -> None:
        values = np.stack([np.linspace(2000, 3000, 1001), np.linspace(100, 1100, 1001)])
        low = darkest(values, np.ones(1001, bool))
        assert low == (pytest.approx(101), pytest.approx(110))

    def test_few_valid_pixels_tell_nothing(self) -> None:
        assert darkest(np.ones((2, 200)), np.arange(200) < 99) is None

    def test_a_wrong_flag_on_real_pixels_declines_only_that_item(self, tmp_path: Path) -> None:
        facts = {FLAG: True, "s2:processing_baseline": "05.09"}
        right = stac_eo(tmp_path, "right", values=dn(low=50), properties=facts)
        wrong = stac_eo(tmp_path, "wrong", values=dn(low=1020), properties=facts)
        static_catalogue(tmp_path / "stac", [right, wrong])
        sar_file(tmp_path / "sar" / "sar_20240602.tif")
        manifest = ingest(made(tmp_path, STAC_EO), tmp_path / "out")
        assert manifest.get("right").properties["rsgeo:offset_dn"] == 0
        assert reason(manifest, "wrong")[0] == "offset"
        manifest = ingest(made(tmp_path, {**STAC_EO, "offset_dn": -1000}), tmp_path / "out")
        assert manifest.get("wrong").properties["rsgeo:offset_dn"] == -1000


class TestRealRasters:
    def test_terramesh_chips(self, shared_data: Path, tmp_path: Path) -> None:
        source = {
            "kind": "folder",
            "path": str(shared_data / "s1s2-terramesh"),
            "glob": "*S2L2A.tif",
            "sensor": "sentinel2-l2a",
            "bands": S2_BANDS,
            "default_datetime": "2022-01-01",
        }
        target = {"kind": "folder", "path": source["path"], "glob": "*S1RTC.tif", "sensor": "sentinel1-rtc-db"}
        manifest = ingest(made(tmp_path, source, target), tmp_path / "out")
        assert len(manifest) == 6
        assert not manifest.dropped
        scene = manifest.get("38D_378R_2_3_S2L2A")
        assert scene.properties["rsgeo:band_indexes"] == [2, 3, 4, 8]
        assert manifest.get("38D_378R_2_3_S1RTC").datetime == datetime(2023, 6, 10, 16, 4, 18, tzinfo=UTC)
        assert item_box(scene) == raster.inspect(scene.assets["data"].href).geobox

    def test_bigearthnet_bands_in_single_files(self, shared_data: Path, tmp_path: Path) -> None:
        base = shared_data / "s1s2-bigearthnet" / "4_55"
        source = {
            "kind": "folder",
            "path": str(base / "S2"),
            "sensor": "sentinel2-l2a",
            "name_regex": r"(?P<scene>S2[^/]+)_(?P<band>B\w\w)\.tif$",
        }
        target = {
            "kind": "folder",
            "path": str(base / "S1"),
            "sensor": "sentinel1-grd-db",
            "name_regex": r"(?P<scene>S1[^/]+)_(?P<band>V[VH])\.tif$",
        }
        manifest = ingest(made(tmp_path, source, target), tmp_path / "out")
        optical, radar = manifest.items
        assert optical.datetime.date() == radar.datetime.date() == datetime(2017, 6, 17).date()
        assert item_box(optical) == item_box(radar)
        got, valid = raster.read(optical.assets["data"].href)
        assert got.shape == (12, 120, 120)
        assert valid.mean() > 0.99

    def test_losangeles_scene_by_the_shipped_catalogue(self, shared_data: Path, tmp_path: Path) -> None:
        path = Path(__file__).resolve().parents[2] / "catalogs" / "losangeles.yaml"
        made = load(path, overrides={"root": str(shared_data / "s1s2-scene-losangeles")})
        manifest = ingest(made, tmp_path / "out")
        assert [scene.properties["rsgeo:side"] for scene in manifest] == ["source", "target"]
        assert all(item_box(scene).shape == (3072, 3072) for scene in manifest)

    def test_radar_geometry_is_refused(self, shared_data: Path, tmp_path: Path) -> None:
        eo_file(tmp_path / "eo" / "valley_20240601.tif")
        radar = {
            "kind": "folder",
            "path": str(shared_data / "awkward" / "rio-tiler" / "cog_gcps.tif"),
            "sensor": "sentinel1-display",
            "datetime": "2018-07-16",
        }
        with pytest.raises(SourceError, match="210 ground control points but no affine georeference"):
            ingest(made(tmp_path, EO, radar, **ALL_MAY_FAIL), tmp_path / "out")

    def test_no_awkward_file_stops_the_stage(self, shared_data: Path, tmp_path: Path) -> None:
        sar_file(tmp_path / "sar" / "x.tif")
        eo_file(tmp_path / "eo" / "good.tif")
        for number, path in enumerate(sorted((shared_data / "awkward").rglob("*.*"))):
            if path.is_file():
                (tmp_path / "eo" / f"{number:02d}_{path.name}").symlink_to(path)
        side = {**EO, "glob": "*.*", "default_datetime": "2020-01-01"}
        manifest = ingest(made(tmp_path, side, **ALL_MAY_FAIL), tmp_path / "out")
        assert "good" in manifest
        assert len(manifest.dropped) > 30
        assert {entry.code for entry in manifest.dropped} <= {
            "georeference", "bands", "unreadable", "units", "all nodata", "truncated",
        }  # fmt: skip
