"""One resampling for every way between grids, judged by splines at dense positions computed apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy import ndimage

from rsgeo_gan import raster, warping
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.errors import GridError
from rsgeo_gan.grid import pixels_in, turned_to
from rsgeo_gan.warping import Mesh, Straight, way

REF = GeoBox((200, 260), Affine(10, 0, 600000, 0, -10, 5300040), "EPSG:32632")
LAEA = "+proj=laea +lat_0=47 +lon_0=11 +ellps=bessel +units=m"
SOURCES = {
    "same grid": REF.pad(50),
    "rotated, not square": GeoBox(
        (420, 440),
        REF.affine
        * Affine.translation(130, 100)
        * Affine.rotation(33)
        * Affine.scale(1, 0.9)
        * Affine.translation(-220, -210),
        REF.crs,
    ),
    "next zone": REF.pad(60).to_crs("EPSG:32633", resolution=10),
    "degrees": REF.pad(60).to_crs("EPSG:4326", resolution=1e-4),
    "no code": REF.pad(60).to_crs(LAEA, resolution=10),
}


def texture(shape: tuple[int, ...], sigma: float) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=shape), sigma)
    return (noise / noise.std()).astype(np.float32)


def wave(box: GeoBox = REF) -> Displacement:
    lattice = GeoBox((16, 19), box.affine * Affine.translation(-40, -40) * Affine.scale(20), box.crs)
    row, col = np.indices(lattice.shape)
    values = np.stack([3.4 + 2 * np.sin(row / 2.5 + col / 4), -2.2 + 2 * np.cos(col / 3)]).astype(np.float32)
    flat = np.ones(lattice.shape, np.float32)
    return Displacement(
        box, "field", (3.4, 0, 0, -2.2, 0, 0), 0.2, 0.8, True, 60, "", Field(lattice, values, flat, flat)
    )


def affine(box: GeoBox = REF) -> Displacement:
    return Displacement(box, "affine", (3.4, 0.01, -0.01, -2.2, 0.02, 0.005), 0.1, 0.9, True, 30)


def positions(source: GeoBox, box: GeoBox, displacement: Displacement) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of a box lies in the source, pixel centres whole."""
    row, col = np.indices(box.shape) + 0.5
    col, row = pixels_in(displacement.geobox, box, col, row)
    dx, dy = displacement.at(col - 0.5, row - 0.5)
    col, row = pixels_in(source, displacement.geobox, col + dx, row + dy)
    return col - 0.5, row - 0.5


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("make", [wave, affine], ids=["field", "affine"])
def test_every_displacement_composes_with_every_grid(tmp_path: Path, name: str, make) -> None:
    source, displacement = SOURCES[name], make()
    values = texture(source.shape, 2.5)
    path = raster.write(tmp_path / "x.tif", values, source, nodata=np.nan, cog=False)
    for box in (REF, REF.crop((90, 120)).to_crs("EPSG:32633", resolution=10)):
        got = raster.warp(path, box, resampling="cubic", displacement=displacement)[0]
        col, row = positions(source, box, displacement)
        expected = ndimage.map_coordinates(values, [row, col], order=3, mode="constant", cval=np.nan)
        inside = ~np.isnan(expected)
        assert inside.mean() > 0.9
        assert np.isnan(got[inside]).mean() < 1e-3
        assert np.sqrt(np.nanmean((got - expected)[inside] ** 2)) < 0.01


@pytest.mark.parametrize("make", [wave, affine], ids=["field", "affine"])
def test_positions_are_as_exact_as_promised(make) -> None:
    for source in SOURCES.values():
        displacement = make()
        found = way(source, REF, displacement)
        row, col = np.indices(REF.shape) + 0.5
        expected = np.stack(positions(source, REF, displacement)) + 0.5
        if isinstance(found, Straight):
            got = np.stack(found.affine * (col, row))
        else:
            places = [row / found.step, col / found.step]
            got = np.stack([ndimage.map_coordinates(part, places, order=1) for part in found.nodes])
        assert np.abs(got - expected).max() < 2 * warping.TOLERANCE_PX


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (7, 130), (130, 7), (64, 64), (65, 63)])
def test_boxes_of_any_size_are_filled_to_their_last_pixel(tmp_path: Path, shape: tuple[int, int]) -> None:
    source = SOURCES["same grid"]
    row, col = np.indices(source.shape, dtype=np.float32)
    path = raster.write(tmp_path / "x.tif", np.stack([col, row]), source, cog=False)
    box = REF[40 : 40 + shape[0], 50 : 50 + shape[1]]
    got = raster.warp(path, box, displacement=wave())
    np.testing.assert_allclose(got, np.stack(positions(source, box, wave())), atol=0.02)


@pytest.mark.parametrize(
    ("displacement", "calls"),
    [
        (None, 0),
        (Displacement(REF, "shift", (2, 0, 0, -3, 0, 0), 0.1, 0.9, True), 0),
        (Displacement(REF, "shift", (2.5, 0, 0, -3, 0, 0), 0.1, 0.9, True), 1),
        (affine(), 1),
        (wave(), 1),
    ],
    ids=["none", "whole pixels", "shift", "affine", "field"],
)
def test_a_read_resamples_once_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, displacement: Displacement | None, calls: int
) -> None:
    made = []
    real = warping.reproject
    monkeypatch.setattr(warping, "reproject", lambda *a, **k: (made.append(1), real(*a, **k))[1])
    values = texture((3, *REF.shape), 1)
    path = raster.write(tmp_path / "x.tif", values, REF, cog=False)
    got = raster.warp(path, REF[50:100, 60:150], displacement=displacement)
    assert len(made) == calls
    if displacement is not None and not calls:
        np.testing.assert_array_equal(got, values[:, 47:97, 62:152])


def energy(values: np.ndarray) -> float:
    """Power of the upper half of the frequencies."""
    window = np.hanning(values.shape[0])[:, None] * np.hanning(values.shape[1])
    power = np.abs(np.fft.fftshift(np.fft.fft2(values * window))) ** 2
    row, col = (np.abs(np.linspace(-1, 1, length)) for length in values.shape)
    return float(power[np.maximum(row[:, None], col) > 0.5].sum())


@pytest.mark.parametrize("angle", [0, 2, 30])
def test_fine_detail_is_kept_as_by_one_direct_cubic_warp(tmp_path: Path, angle: float) -> None:
    source = GeoBox(
        (500, 500),
        REF.affine * Affine.translation(130, 100) * Affine.rotation(angle) * Affine.translation(-250, -250),
        REF.crs,
    )
    values = texture(source.shape, 0.7)
    path = raster.write(tmp_path / "x.tif", values, source, cog=False)
    for displacement in (wave(), affine()):
        got = raster.warp(path, REF, resampling="cubic", displacement=displacement)[0]
        col, row = positions(source, REF, displacement)
        assert energy(got[10:-10, 10:-10]) >= 0.97 * energy(cubic(values, row, col)[10:-10, 10:-10])


def cubic(values: np.ndarray, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Cubic convolution with a = -1/2 at dense positions, 16 pixels each."""

    def weights(t: np.ndarray) -> list[np.ndarray]:
        far, near = lambda d: -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, lambda d: 1.5 * d**3 - 2.5 * d**2 + 1
        return [far(1 + t), near(t), near(1 - t), far(2 - t)]

    first_row, first_col = np.floor(row).astype(int), np.floor(col).astype(int)
    total = np.zeros(row.shape)
    for i, down in enumerate(weights(row - first_row)):
        for j, across in enumerate(weights(col - first_col)):
            total += down * across * values[first_row + i - 1, first_col + j - 1]
    return total


def test_the_kernel_is_cubic_convolution(tmp_path: Path) -> None:
    source = SOURCES["same grid"]
    values = texture(source.shape, 0.7)
    path = raster.write(tmp_path / "x.tif", values, source, cog=False)
    moved = Displacement(REF, "shift", (2.4, 0, 0, -3.3, 0, 0), 0.1, 0.9, True)
    got = raster.warp(path, REF, resampling="cubic", displacement=moved)[0]
    col, row = positions(source, REF, moved)
    np.testing.assert_allclose(got, cubic(values, row, col), atol=1e-4)


def test_shrinking_through_a_field_is_low_passed_as_without_one(tmp_path: Path) -> None:
    source = GeoBox((800, 1040), REF.affine * Affine.scale(0.25), REF.crs)
    noise = np.random.default_rng(4).normal(size=source.shape).astype(np.float32)
    path = raster.write(tmp_path / "x.tif", noise, source, cog=False)
    part = REF[20:-20, 20:-20]
    bent = raster.warp(path, part, resampling="cubic", displacement=wave())[0]
    straight = raster.warp(path, part.translate_pix(0.3, 0.4), resampling="cubic")[0]
    assert bent.std() == pytest.approx(straight.std(), rel=0.1)
    assert bent.std() < 0.35


def test_invalid_pixels_have_no_weight_in_a_field(tmp_path: Path) -> None:
    source = SOURCES["same grid"]
    values = np.ones((1, *source.shape), np.float32)
    values[0, 100:130, 100:130] = -9999
    path = raster.write(tmp_path / "x.tif", values, source, nodata=-9999, cog=False)
    got = raster.warp(path, REF, resampling="cubic", displacement=wave())[0]
    np.testing.assert_allclose(got[np.isfinite(got)], 1, atol=1e-5)
    assert 700 < np.isnan(got).sum() < 1000


def test_categories_come_from_the_nearest_pixel_of_the_field(tmp_path: Path) -> None:
    source = SOURCES["same grid"]
    values = np.random.default_rng(6).integers(0, 9, source.shape).astype(np.uint8)
    path = raster.write(tmp_path / "x.tif", values, source, cog=False)
    got = raster.warp(path, REF, resampling="nearest", displacement=wave())[0]
    col, row = positions(source, REF, wave())
    expected = values[np.rint(row).astype(int), np.rint(col).astype(int)]
    undecided = (np.abs(row % 1 - 0.5) < 0.02) | (np.abs(col % 1 - 0.5) < 0.02)
    np.testing.assert_array_equal(got[~undecided], expected[~undecided])


def test_a_field_far_from_the_raster_reads_nothing(tmp_path: Path) -> None:
    path = raster.write(tmp_path / "x.tif", np.ones((2, *REF.shape), np.float32), REF.translate_pix(5000, 0), cog=False)
    got = raster.warp(path, REF, displacement=wave())
    assert got.shape == (2, *REF.shape)
    assert np.isnan(got).all()


UTM60 = GeoBox((200, 240), Affine(1000, 0, 700000, 0, -1000, 200000), "EPSG:32660")
"""From 178.8° to 181° east."""


def degrees(west: float) -> GeoBox:
    return GeoBox((300, 400), Affine(0.01, 0, west, 0, -0.01, 2), "EPSG:4326")


@pytest.mark.parametrize("west", [178.5, -181.5])
def test_rasters_across_180_degrees_are_read_whole_in_either_count(tmp_path: Path, west: float) -> None:
    source = degrees(west)
    row, col = np.indices(source.shape, dtype=np.float32) + 0.5
    path = raster.write(tmp_path / "x.tif", np.stack([col, row]), source, cog=False)
    moved = Displacement(UTM60, "shift", (1.5, 0, 0, 0.5, 0, 0), 0.1, 0.9, True)
    for displacement in (moved, wave(UTM60)):
        got = raster.warp(path, UTM60, displacement=displacement)
        expected = np.stack(positions(source, UTM60, displacement)) + 0.5
        seen = np.isfinite(got[0])
        assert seen.mean() > 0.95
        np.testing.assert_allclose(got[:, seen], expected[:, seen], atol=0.6)
        assert np.median(np.abs(got - expected)[:, seen]) < 0.01
    again = raster.warp(path, degrees(178.5))
    np.testing.assert_array_equal(again, np.stack([col, row]))


def test_a_box_in_degrees_beyond_180_is_filled_from_a_projected_raster(tmp_path: Path) -> None:
    row, col = np.indices(UTM60.shape, dtype=np.float32) + 0.5
    path = raster.write(tmp_path / "x.tif", np.stack([col, row]), UTM60, cog=False)
    east, west = (raster.warp(path, degrees(first)) for first in (178.5, -181.5))
    np.testing.assert_allclose(east, west, atol=1e-3)
    seen = np.isfinite(east[0])
    assert 0.2 < seen.mean() < 0.5
    box = degrees(178.5)
    expected = np.stack(pixels_in(UTM60, box, *np.meshgrid(np.arange(400) + 0.5, np.arange(300) + 0.5)))
    np.testing.assert_allclose(east[:, seen], expected[:, seen], atol=0.6)


def test_the_seam_of_a_raster_around_the_world_is_refused_in_words(tmp_path: Path) -> None:
    world = GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326")
    path = raster.write(tmp_path / "x.tif", np.indices(world.shape)[1].astype(np.float32), world, cog=False)
    with pytest.raises(GridError, match=r"crosses the seam.*EPSG:4326"):
        raster.warp(path, UTM60)
    beside = UTM60.translate_pix(-200, 0)
    got = raster.warp(path, beside)[0]
    assert np.isfinite(got).all()
    assert 350 < got.min() < got.max() <= 359


def test_boxes_turn_by_whole_circles_only() -> None:
    assert turned_to(degrees(-181.5), degrees(178.5)) == degrees(178.5)
    assert turned_to(REF, REF.translate_pix(10**6, 0)) == REF


def test_a_way_with_nothing_to_bend_is_straight() -> None:
    assert isinstance(way(REF, REF, affine()), Straight)
    assert isinstance(way(REF, REF, wave()), Mesh)
    assert isinstance(way(SOURCES["next zone"], REF), Mesh)


def test_the_mesh_is_handed_over_without_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = raster.write(tmp_path / "x.tif", texture(REF.shape, 1), REF, cog=False)
    raster.warp(path, REF, displacement=wave())
    assert not caplog.records
