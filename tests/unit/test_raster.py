from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from rsgeo_gan import raster, warping
from rsgeo_gan.errors import GridError, ProductError, SourceError

BOX = GeoBox((300, 280), Affine(10, 0, 600000, 0, -10, 5300040), "EPSG:32632")


def ramp(box: GeoBox = BOX, bands: int = 2) -> np.ndarray:
    """A plane, which every kernel but nearest reproduces exactly: band · 100000 + column + 1000 · row."""
    row, col = np.indices(box.shape, dtype=np.float32)
    return np.stack([i * 100000 + col + 1000 * row for i in range(1, bands + 1)]).astype(np.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    valid = np.ones(BOX.shape, bool)
    valid[:20, :30] = False
    values = np.where(valid, ramp(), np.nan).astype(np.float32)
    return raster.write(
        tmp_path / "a.tif", values, BOX, valid=valid, nodata=np.nan, names=["VV", "VH"], unit="dB", tags={"A": "1"}
    )


def test_everything_about_a_raster_survives_the_file(file: Path) -> None:
    info = raster.inspect(file)
    assert info.geobox == BOX
    assert (info.count, info.dtype, info.names, info.units, info.masked) == (
        2,
        "float32",
        ("VV", "VH"),
        ("dB",) * 2,
        True,
    )
    assert info.nodata is not None
    assert np.isnan(info.nodata)
    assert info.tags["A"] == "1"
    values, valid = raster.read(file)
    assert not valid[:20, :30].any()
    assert valid.sum() == valid.size - 600
    np.testing.assert_array_equal(values[:, valid], ramp()[:, valid])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_any_dtype_and_band_count_comes_back_and_is_a_valid_cog(tmp_path: Path, dtype: str) -> None:
    values = np.random.default_rng(1).integers(0, 200, (5, *BOX.shape)).astype(dtype)
    path = raster.write(tmp_path / "x.tif", values, BOX, scale=1e-4, offset=-0.1)
    np.testing.assert_array_equal(raster.read(path)[0], values)
    assert cog_validate(str(path), strict=True)[0]
    with rasterio.open(path) as file:
        assert (file.scales[0], file.offsets[4]) == (1e-4, -0.1)


def test_large_cogs_have_overviews_and_statistics_of_valid_pixels(tmp_path: Path) -> None:
    box = GeoBox((700, 1100), BOX.affine, BOX.crs)
    values = np.full((1, *box.shape), 7, np.uint16)
    valid = np.zeros(box.shape, bool)
    valid[100:200] = True
    values[:, 100:150] = 9
    path = raster.write(tmp_path / "x.tif", values, box, valid=valid)
    with rasterio.open(path) as file:
        assert file.overviews(1) == [2, 4] or file.overviews(1) == [2]
        tags = file.tags(1)
    assert [float(tags[f"STATISTICS_{name}"]) for name in ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV")] == [7, 9, 8, 1]
    assert cog_validate(str(path), strict=True)[0]


def test_a_window_may_reach_outside(file: Path) -> None:
    values, valid = raster.read(file, bands=[2], window=Window(270, 290, 20, 20))
    assert valid[:10, :10].all()
    assert not valid[10:].any()
    assert not valid[:, 10:].any()
    assert values[0, 0, 0] == 200000 + 270 + 290000


def test_one_lattice_is_read_without_resampling(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warping, "reproject", lambda *_, **__: pytest.fail("resampled"))
    got = raster.warp(file, BOX.translate_pix(40, 50).crop((16, 24)))
    np.testing.assert_array_equal(got, ramp()[:, 50:66, 40:64])


def test_a_warp_resamples_exactly_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = warping.reproject
    monkeypatch.setattr(warping, "reproject", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    raster.warp(file, BOX.translate_pix(40.5, 50.25).crop((16, 24)), resampling="cubic")
    assert calls == [1]


def test_a_sub_pixel_box_samples_between_pixel_centres(file: Path) -> None:
    got = raster.warp(file, BOX.translate_pix(40.25, 50.5).crop((16, 24)))
    expected = ramp()[:, 50:66, 40:64] + 0.25 + 500
    np.testing.assert_allclose(got, expected, atol=0.02)


def test_a_rotated_box_with_non_square_pixels_keeps_x_and_y_apart(file: Path) -> None:
    box = GeoBox(
        (20, 30), BOX.affine * Affine.translation(120, 90) * Affine.rotation(25) * Affine.scale(0.8, 0.5), BOX.crs
    )
    got = raster.warp(file, box, bands=[1])
    row, col = np.indices(box.shape) + 0.5
    x, y = (~BOX.affine * box.affine) * (col, row)
    np.testing.assert_allclose(got[0], 100000 + (x - 0.5) + 1000 * (y - 0.5), atol=0.05)


def test_invalid_pixels_have_no_weight(file: Path) -> None:
    got = raster.warp(file, BOX.translate_pix(0.5, 0.5).crop((40, 40)), bands=[1])
    assert np.isnan(got[0, :18, :28]).all()
    row, col = np.indices((40, 40))
    seen = ~np.isnan(got[0])
    assert np.abs(got[0] - (100000 + col + 0.5 + 1000 * (row + 0.5)))[seen].max() <= 501


def test_preparation_comes_before_resampling(tmp_path: Path) -> None:
    values = np.array([[[0.0, 10.0]]], np.float32)
    box = GeoBox((1, 2), Affine(10, 0, 0, 0, -10, 0), "EPSG:32632")
    path = raster.write(tmp_path / "x.tif", values, box, cog=False)
    one = GeoBox((1, 1), Affine(20, 0, 0, 0, -10, 0), "EPSG:32632")
    got = raster.warp(path, one, resampling="average", prepare=lambda db: 10 ** (db / 10))
    assert got[0, 0, 0] == pytest.approx((1 + 10) / 2, rel=1e-5)


def test_a_box_elsewhere_is_empty_and_no_error(file: Path) -> None:
    far = GeoBox((8, 8), Affine(10, 0, 100000, 0, -10, 100000), "EPSG:32733")
    assert np.isnan(raster.warp(file, far)).all()


def test_strips_make_the_same_file_as_one_array(tmp_path: Path, file: Path) -> None:
    values, valid = raster.read(file)
    with raster.StripWriter(
        tmp_path / "b.tif", BOX, 2, "float32", np.nan, ["VV", "VH"], "dB", tags={"A": "1"}
    ) as writer:
        for row in range(0, 300, 70):
            writer.write(values[:, row : row + 70], row, valid[row : row + 70])
    assert (tmp_path / "b.tif").read_bytes() == file.read_bytes()


def test_missing_rows_leave_no_file(tmp_path: Path) -> None:
    writer = raster.StripWriter(tmp_path / "b.tif", BOX, 1, "uint8")
    writer.write(np.zeros((1, 10, 280), np.uint8), 0)
    with pytest.raises(ProductError, match="only 10 of 300 rows"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_the_block_leaves_no_file(tmp_path: Path) -> None:
    def fail() -> None:
        with raster.StripWriter(tmp_path / "b.tif", BOX, 1, "uint8") as writer:
            writer.write(np.zeros((1, 10, 280), np.uint8), 0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_strips_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(GridError, match=r"at row 5 does not fit"),
        raster.StripWriter(tmp_path / "b.tif", BOX, 1, "uint8") as writer,
    ):
        writer.write(np.zeros((1, 10, 280), np.uint8), 5)


def test_a_full_disk_is_said_in_words_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rasterio.shutil, "copy", full)
    with pytest.raises(ProductError, match="the disk is full"):
        raster.write(tmp_path / "x.tif", ramp(), BOX)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_writer_thread_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(raster.StripWriter, "_store", full)
    with pytest.raises(ProductError, match="the disk is full"):
        raster.write(tmp_path / "x.tif", ramp(), BOX)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProductError, match=r"Cannot write .*x\.tif"):
        raster.write(tmp_path / "file" / "x.tif", ramp(), BOX)


def test_an_array_that_does_not_fit_its_box_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GridError, match=r"does not fit a box of \(300, 280\)"):
        raster.write(tmp_path / "x.tif", np.zeros((1, 280, 300), np.uint8), BOX)


def test_missing_truncated_and_unplaced_files_are_told_apart(tmp_path: Path, file: Path) -> None:
    with pytest.raises(SourceError, match="There is no file"):
        raster.inspect(tmp_path / "none.tif")
    (tmp_path / "cut.tif").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"cut\.tif cannot be read.*truncated"):
        raster.read(tmp_path / "cut.tif")
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "nocrs.tif", "w", transform=BOX.affine, **profile) as out:
        out.write(np.ones((1, 4, 4), np.uint8))
    with pytest.raises(GridError, match=r"nocrs\.tif has no CRS"):
        raster.inspect(tmp_path / "nocrs.tif")


def test_gcp_only_sar_is_refused_with_advice(tmp_path: Path) -> None:
    from rasterio.control import GroundControlPoint as Point

    points = [Point(r, c, 10 + c / 1e3, 47 - r / 1e3) for r, c in ((0, 0), (0, 4), (4, 0), (4, 4))]
    profile = {"driver": "GTiff", "width": 4, "height": 4, "count": 1, "dtype": "uint16"}
    with rasterio.open(tmp_path / "gcp.tif", "w", **profile) as out:
        out.gcps = (points, rasterio.crs.CRS.from_epsg(4326))
        out.write(np.ones((1, 4, 4), np.uint16))
    with pytest.raises(GridError, match=r"4 ground control points but no affine.*Terrain-correct it first"):
        raster.inspect(tmp_path / "gcp.tif")


def test_a_band_that_does_not_exist_is_named(file: Path) -> None:
    with pytest.raises(SourceError, match=r"has 2 bands: expected bands \[3\]"):
        raster.read(file, bands=[3])


def test_nodata_and_nan_in_any_band_make_a_pixel_invalid(tmp_path: Path) -> None:
    values = np.full((2, 4, 4), 5, np.uint16)
    values[0, 0, 0] = values[1, 3, 3] = 0
    box = GeoBox((4, 4), BOX.affine, BOX.crs)
    _, valid = raster.read(raster.write(tmp_path / "x.tif", values, box, nodata=0, cog=False))
    assert valid.sum() == 14
