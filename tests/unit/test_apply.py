"""`align`: what the aligned file holds, in which unit, and when nothing is moved."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate
from scipy import ndimage

from rsgeo_gan import raster, warping
from rsgeo_gan.coregister import apply
from rsgeo_gan.coregister.apply import align
from rsgeo_gan.coregister.views import View
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.errors import CoregistrationError, ProductError, SourceError
from rsgeo_gan.grid import pixels_in
from rsgeo_gan.sensors import Sensor, get_sensor

BOX = GeoBox((300, 260), Affine(10, 0, 600000, 0, -10, 5300040), "EPSG:32632")
OPTICAL = get_sensor("sentinel2-display")
S2 = get_sensor("sentinel2-l2a")
DB = get_sensor("sentinel1-rtc-db")
CLASSES = Sensor.generic("classes", modality="optical", unit="display", bands=["class"])


def texture(box: GeoBox, bands: int = 1, sigma: float = 2.0) -> np.ndarray:
    noise = np.random.default_rng(5).normal(size=(bands, *box.shape))
    smooth = ndimage.gaussian_filter(noise, (0, sigma, sigma))
    return (smooth / smooth.std()).astype(np.float32)


def view(path: Path, sensor: Sensor = OPTICAL) -> View:
    return View(path, sensor, (1,))


def shift(dx: float, dy: float, **facts) -> Displacement:
    return Displacement(
        BOX, "shift", (dx, 0, 0, dy, 0, 0), **{"sigma_px": 0.1, "confidence": 0.9, "reliable": True, **facts}
    )


def wave(box: GeoBox = BOX, amplitude: float = 2.0) -> Displacement:
    """A smooth field over the reference and beyond, nodes 20 px apart."""
    lattice = GeoBox((19, 17), box.affine * Affine.translation(-40, -40) * Affine.scale(20), box.crs)
    row, col = np.indices(lattice.shape)
    values = np.stack([3.4 + amplitude * np.sin(row / 3), -1.2 + amplitude * np.cos(col / 3)]).astype(np.float32)
    flat = np.ones(lattice.shape, np.float32)
    field = Field(lattice, values, 0.2 * flat, 0.8 * flat)
    return Displacement(box, "field", (3.4, 0, 0, -1.2, 0, 0), 0.2, 0.8, True, 60, "", field)


def sampled(values: np.ndarray, displacement: Displacement) -> np.ndarray:
    """The displaced values by cubic splines at dense positions."""
    row, col = np.indices(values.shape[-2:], dtype=np.float64)
    dx, dy = displacement.at(col, row)
    return ndimage.map_coordinates(values, [row + dy, col + dx], order=3, mode="constant", cval=np.nan)


@pytest.mark.parametrize("displacement", [shift(2.4, -3.7), wave()], ids=["shift", "field"])
def test_content_comes_to_lie_where_the_reference_has_it(tmp_path: Path, displacement: Displacement) -> None:
    values = texture(BOX, 2)
    path = raster.write(tmp_path / "m.tif", values, BOX, nodata=np.nan, names=["a", "b"])
    out = align(view(path), displacement, tmp_path / "out" / "a.tif")
    got, valid = raster.read(out)
    assert raster.inspect(out).geobox == BOX
    assert 0.9 < valid.mean() < 1
    for band, truth in zip(got, values, strict=True):
        expected = sampled(truth, displacement)
        both = valid & ~np.isnan(expected)
        assert np.sqrt(np.mean((band - expected)[both] ** 2)) < 0.01
    assert cog_validate(str(out), strict=True)[0]


def test_everything_about_the_file_stays_and_the_tags_say_what_was_done(tmp_path: Path) -> None:
    values = (texture(BOX, 2) * 300 + 2000).astype(np.uint16)
    with raster.StripWriter(
        tmp_path / "m.tif", BOX, 2, "uint16", 0, ["B02", "B03"], ["dn", "counts"], (1e-4, 2e-4), (-0.1, 0.0),
        {"MINE": "kept"}, masked=False,
    ) as writer:  # fmt: skip
        writer.write(values, 0)
    out = align(
        view(tmp_path / "m.tif", S2), shift(1.5, 0.5, n_tie_points=7), tmp_path / "a.tif", reference_name="ref.tif"
    )
    info = raster.inspect(out)
    assert (info.dtype, info.nodata, info.names, info.masked) == ("uint16", 0, ("B02", "B03"), False)
    assert (info.units, info.scales, info.offsets) == (("dn", "counts"), (1e-4, 2e-4), (-0.1, 0.0))
    assert info.tags["MINE"] == "kept"
    told = {key.removeprefix("COREG_"): value for key, value in info.tags.items() if key.startswith("COREG_")}
    assert told.pop("VERSION")
    assert told == {
        "STATUS": "aligned",
        "MODEL": "shift",
        "DX_PX": "1.5000",
        "DY_PX": "0.5000",
        "SIGMA_PX": "0.1000",
        "CONFIDENCE": "0.9000",
        "REFERENCE": "ref.tif",
        "MOVING": "m.tif",
    }


def test_a_whole_pixel_displacement_keeps_every_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warping, "reproject", lambda *_, **__: pytest.fail("resampled"))
    values = np.random.default_rng(1).integers(-(2**31), 2**31, (1, *BOX.shape), np.int32)
    path = raster.write(tmp_path / "m.tif", values, BOX)
    got, valid = raster.read(align(view(path), shift(3, -2), tmp_path / "a.tif"))
    np.testing.assert_array_equal(got[:, 2:, :-3], values[:, :-2, 3:])
    assert valid[2:, :-3].all()
    assert not valid[:2].any()
    assert not valid[:, -3:].any()


def test_nothing_to_do_copies_the_file_byte_for_byte(tmp_path: Path) -> None:
    path = raster.write(tmp_path / "m.tif", texture(BOX), BOX)
    still = Displacement.none(BOX, reason="", reliable=True, sigma_px=0.1)
    out = align(view(path), still, tmp_path / "a.tif")
    assert out.read_bytes() == path.read_bytes()


def test_a_file_with_a_mask_beside_it_is_not_copied_without(tmp_path: Path) -> None:
    path = raster.write(
        tmp_path / "in.tif", texture(BOX)[None].astype(np.float32).reshape(1, *BOX.shape), BOX, cog=False
    )
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        mask = np.full(BOX.shape, 255, np.uint8)
        mask[:5] = 0
        dataset.write_mask(mask)
    assert path.with_name("in.tif.msk").exists()
    out = align(view(path), Displacement.none(BOX, reason="", reliable=True), tmp_path / "out.tif", reference_box=BOX)
    values, valid = raster.read(out)
    assert not valid[:5].any()
    assert valid[5:].all()
    assert np.array_equal(values[:, 5:], raster.read(path)[0][:, 5:])


def test_a_declined_displacement_moves_nothing_and_says_why(tmp_path: Path) -> None:
    values = texture(BOX)
    path = raster.write(tmp_path / "m.tif", values, BOX)
    refused = shift(5.5, 3.5, reliable=False, reason="two peaks")
    out = align(view(path), refused, tmp_path / "a.tif")
    np.testing.assert_array_equal(raster.read(out)[0], values)
    tags = raster.inspect(out).tags
    assert (tags["COREG_STATUS"], tags["COREG_REASON"]) == ("declined", "two peaks")
    assert (tags["COREG_DX_PX"], tags["COREG_DY_PX"]) == ("0.0000", "0.0000")


def test_decibels_are_averaged_as_power_and_stay_decibels(tmp_path: Path) -> None:
    values = np.where(np.indices(BOX.shape)[1] % 2, 0.0, -20.0).astype(np.float32)[None].repeat(2, 0)
    path = raster.write(tmp_path / "m.tif", values, BOX, nodata=np.nan, unit="dB")
    got, _ = raster.read(align(view(path, DB), shift(0.5, 0), tmp_path / "a.tif"))
    np.testing.assert_allclose(got[:, :, 5:-5], 10 * np.log10((1 + 0.01) / 2), atol=1e-3)
    assert raster.inspect(tmp_path / "a.tif").units == ("dB", "dB")


def test_scaled_decibels_are_averaged_as_power_too(tmp_path: Path) -> None:
    values = np.where(np.indices(BOX.shape)[1] % 2, 0, -2000).astype(np.int16)[None]
    path = raster.write(tmp_path / "m.tif", values, BOX, nodata=-32768, scale=0.01)
    got, _ = raster.read(align(view(path, DB), shift(0.5, 0), tmp_path / "a.tif"))
    np.testing.assert_allclose(got[:, :, 5:-5], 1000 * np.log10((1 + 0.01) / 2), atol=1)


def test_categories_are_never_mixed(tmp_path: Path) -> None:
    values = np.random.default_rng(2).choice(np.array([1, 20_000_001, 20_000_003], np.int32), (1, *BOX.shape))
    path = raster.write(tmp_path / "m.tif", values, BOX, nodata=0)
    got, valid = raster.read(align(view(path, CLASSES), wave(), tmp_path / "a.tif", classes=True))
    assert set(np.unique(got[:, valid])) == {1, 20_000_001, 20_000_003}


def test_rounding_never_makes_a_valid_pixel_nodata_and_clips_to_the_type(tmp_path: Path) -> None:
    # Steps between the darkest and the brightest valid value, where a cubic kernel overshoots both ways.
    values = np.where(np.indices(BOX.shape)[1] // 5 % 2, 255, 1).astype(np.uint8)[None]
    values[0, 100:120, 100:120] = 0
    path = raster.write(tmp_path / "m.tif", values, BOX, nodata=0)
    got, valid = raster.read(align(view(path), shift(0.5, 0.5), tmp_path / "a.tif"))
    assert got.max() == 255
    assert valid[5:95, 5:-5].all()
    assert not valid[102:118, 102:118].any()


def test_a_file_without_nodata_gets_a_mask_for_what_it_does_not_cover(tmp_path: Path) -> None:
    path = raster.write(tmp_path / "m.tif", np.full((1, *BOX.shape), 9, np.uint8), BOX)
    out = align(view(path), shift(40.5, 0), tmp_path / "a.tif")
    got, valid = raster.read(out)
    assert raster.inspect(out).nodata is None
    assert raster.inspect(out).masked
    assert (got[0][valid] == 9).all()
    assert valid[:, :218].all()
    assert not valid[:, 221:].any()


def test_each_band_keeps_its_own_holes(tmp_path: Path) -> None:
    values = texture(BOX, 2)
    values[0, 50:60, 50:60] = np.nan
    path = raster.write(tmp_path / "m.tif", values, BOX, nodata=np.nan)
    got = raster.read(align(view(path), shift(0.5, 0), tmp_path / "a.tif"))[0]
    assert np.isnan(got[0, 52:58, 52:58]).all()
    assert np.isfinite(got[1, 40:70, 40:70]).all()


def test_the_sensors_nodata_counts_when_the_file_declares_none(tmp_path: Path) -> None:
    values = np.full((1, *BOX.shape), 1000, np.uint16)
    values[:, :100] = 0
    path = raster.write(tmp_path / "m.tif", values, BOX)
    out = align(view(path, S2), shift(0.5, 0.5), tmp_path / "a.tif")
    got, valid = raster.read(out)
    assert raster.inspect(out).nodata == 0
    assert not valid[:98].any()
    assert (got[0][valid] == 1000).all()


@pytest.mark.parametrize("displacement", [shift(2.4, -3.7), shift(4, 7), wave()], ids=["shift", "whole", "field"])
def test_one_and_four_workers_make_the_same_file(
    tmp_path: Path, displacement: Displacement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "WINDOW_PX", 64)
    monkeypatch.setattr(apply, "STRIP_PX", 32)
    path = raster.write(tmp_path / "m.tif", (texture(BOX, 3) * 50 + 100).astype(np.uint8), BOX)
    one, four = (align(view(path), displacement, tmp_path / f"{n}.tif", workers=n) for n in (1, 4))
    assert one.read_bytes() == four.read_bytes()


def test_windows_leave_no_seams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = raster.write(tmp_path / "m.tif", texture(BOX), BOX, nodata=np.nan)
    whole = raster.read(align(view(path), wave(), tmp_path / "whole.tif"))[0]
    monkeypatch.setattr(apply, "WINDOW_PX", 50)
    monkeypatch.setattr(apply, "STRIP_PX", 40)
    pieces = raster.read(align(view(path), wave(), tmp_path / "pieces.tif"))[0]
    assert (np.isnan(pieces) == np.isnan(whole)).mean() > 0.9999
    assert np.nanmax(np.abs(pieces - whole)) < 0.02


def test_another_crs_resolution_and_a_rotated_reference_are_met(tmp_path: Path) -> None:
    moving = BOX.pad(30).to_crs("EPSG:4326", resolution=1e-4)
    col, row = np.meshgrid(np.arange(moving.shape.x) + 0.5, np.arange(moving.shape.y) + 0.5)
    turned = GeoBox(
        (120, 90), BOX.affine * Affine.translation(150, 60) * Affine.rotation(30) * Affine.scale(1.5, 1.2), BOX.crs
    )
    path = raster.write(tmp_path / "m.tif", np.stack([col, row]).astype(np.float32), moving, nodata=np.nan)
    moved = Displacement(turned, "affine", (2.0, 0.01, 0, -1.0, 0, 0.02), 0.1, 0.9, True, 30)
    out = align(view(path), moved, tmp_path / "a.tif")
    got, valid = raster.read(out)
    assert raster.inspect(out).geobox.crs == turned.crs
    here_row, here_col = np.indices(turned.shape, dtype=np.float64)
    dx, dy = moved.at(here_col, here_row)
    expected = np.stack(pixels_in(moving, turned, here_col + dx + 0.5, here_row + dy + 0.5))
    assert valid.all()
    np.testing.assert_allclose(got, expected, atol=0.02)


def test_a_raster_in_degrees_is_aligned_across_180_degrees(tmp_path: Path) -> None:
    reference = GeoBox((100, 120), Affine(1000, 0, 760000, 0, -1000, 200000), "EPSG:32660")
    moving = GeoBox((220, 250), Affine(0.01, 0, -181, 0, -0.01, 2), "EPSG:4326")
    row, col = np.indices(moving.shape, dtype=np.float32) + 0.5
    path = raster.write(tmp_path / "m.tif", np.stack([col, row]), moving, nodata=np.nan)
    moved = Displacement(reference, "shift", (2.5, 0, 0, -1.5, 0, 0), 0.1, 0.9, True, 30)
    got, valid = raster.read(align(view(path), moved, tmp_path / "a.tif"))
    here_row, here_col = np.indices(reference.shape) + 0.5
    expected = np.stack(pixels_in(moving, reference, here_col + 2.5, here_row - 1.5))
    assert expected[0].min() < 50  # Column 100 lies at 180 degrees.
    assert expected[0].max() > 140
    assert valid.mean() > 0.95
    np.testing.assert_allclose(got[:, valid], expected[:, valid], atol=0.1)


def test_a_file_with_a_mask_of_its_own_keeps_one(tmp_path: Path) -> None:
    hole = np.ones(BOX.shape, bool)
    hole[100:150, 100:150] = False
    path = raster.write(tmp_path / "m.tif", np.full((1, *BOX.shape), 7, np.uint8), BOX, valid=hole)
    for moved, step in ((shift(10, 0), 0), (shift(10.5, 0), 1)):
        out = align(view(path), moved, tmp_path / "a.tif")
        got, valid = raster.read(out)
        assert raster.inspect(out).masked
        assert (got[0][valid] == 7).all()
        assert not valid[102:148, 90 + step : 138].any()
        assert valid[:98, :240].all()


def test_memory_is_asked_for_in_small_strips_of_wide_rasters() -> None:
    wide = GeoBox((1000, 200_000), BOX.affine, BOX.crs)
    strips = apply._strips(wide, 13 * 2)
    height = strips[0].stop
    assert height * 200_000 * 26 <= apply.FLIGHT_BYTES * 1.3
    assert [strips[0].start, strips[-1].stop] == [0, 1000]


def test_what_cannot_be_aligned_is_refused_in_words(tmp_path: Path) -> None:
    path = raster.write(tmp_path / "m.tif", texture(BOX), BOX)
    far = GeoBox(BOX.shape, Affine.translation(500_000, 0) * BOX.affine, BOX.crs)
    with pytest.raises(CoregistrationError, match="lies nowhere on the reference's grid"):
        align(view(path), replace(shift(1, 1), geobox=far), tmp_path / "a.tif")
    with pytest.raises(ProductError, match="is the moving raster itself"):
        align(view(path), shift(1, 1), path)
    with pytest.raises(SourceError, match="There is no file"):
        align(view(tmp_path / "none.tif"), shift(1, 1), tmp_path / "a.tif")
    with rasterio.open(
        tmp_path / "slc.tif", "w", driver="GTiff", count=1, dtype="complex64", height=300, width=260, crs="EPSG:32632",
        transform=BOX.affine,
    ) as slc:  # fmt: skip
        slc.write(np.zeros((1, 300, 260), np.complex64))
    with pytest.raises(SourceError, match="complex numbers"):
        align(view(tmp_path / "slc.tif"), shift(1, 1), tmp_path / "a.tif")
    assert not (tmp_path / "a.tif").exists()


MEASURE = """
import sys
from pathlib import Path
from affine import Affine
from rsgeo_gan import raster
from rsgeo_gan.coregister.apply import align
from rsgeo_gan.coregister.views import View
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.sensors import get_sensor

raster.GDAL_CACHE_MIB = 8
path = Path(sys.argv[1])
box = raster.inspect(path).geobox
moved = Displacement(box, "affine", (2.4, 1e-4, 0, -3.7, 0, 1e-4), 0.1, 0.9, True, 30)
align(View(path, get_sensor("sentinel2-l2a"), (1,)), moved, path.with_name("out.tif"), workers=2)
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    peaks = []
    for height in (2048, 12288):
        box = GeoBox((height, 1024), BOX.affine, BOX.crs)
        path = tmp_path / f"{height}.tif"
        with raster.StripWriter(path, box, 1, "uint16", 0, cog=False, masked=False) as writer:
            for row in range(0, height, 512):
                noise = np.random.default_rng(row).integers(1, 4000, (1, 512, 1024), np.uint16)
                writer.write(noise, row)
        done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    # The raster is 20 MiB larger, 40 MiB as float32; GDAL's cache, which keeps blocks of it, is held small here.
    assert peaks[1] < peaks[0] + 15, peaks
