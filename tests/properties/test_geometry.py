"""Invariants of place: boxes survive files, tiles cover once, displacements invert."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from odc.geo.geom import box as rectangle
from scipy import ndimage

from rsgeo_gan import raster
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.grid import Grid, box_from_dict, box_to_dict, pixels_in, same_lattice
from rsgeo_gan.warping import TOLERANCE_PX, Mesh, way

EASTING, NORTHING = st.floats(2e5, 8e5), st.floats(0, 9.3e6)
PIXEL = st.floats(0.3, 300)


@st.composite
def boxes(draw: st.DrawFn) -> GeoBox:
    affine = Affine.translation(draw(EASTING), draw(NORTHING)) * Affine.rotation(draw(st.floats(-180, 180)))
    affine = affine * Affine.scale(draw(PIXEL), -draw(PIXEL))
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return GeoBox(shape, affine, draw(st.sampled_from(["EPSG:32632", "EPSG:32733", "EPSG:3035"])))


@given(boxes())
@settings(max_examples=25, deadline=None)
def test_a_box_survives_json_and_a_file_to_the_last_bit(box: GeoBox) -> None:
    assert box_from_dict(box_to_dict(box)) == box
    with tempfile.TemporaryDirectory() as folder:
        path = raster.write(Path(folder) / "a.tif", np.zeros((1, *box.shape), np.uint8), box, cog=False)
        again = raster.inspect(path).geobox
    assert (again.shape, again.crs) == (box.shape, box.crs)
    np.testing.assert_allclose(again.affine[:6], box.affine[:6], rtol=1e-12, atol=1e-9)


@given(boxes(), st.integers(-5000, 5000), st.integers(-5000, 5000))
@settings(max_examples=50, deadline=None)
def test_whole_pixel_moves_stay_on_the_lattice(box: GeoBox, col: int, row: int) -> None:
    assert same_lattice(box, box.translate_pix(col, row)) == (col, row)


@given(EASTING, NORTHING, st.floats(500, 4000), st.floats(500, 4000), PIXEL)
@settings(max_examples=30, deadline=None)
def test_tiles_cover_an_area_exactly_once(x: float, y: float, width: float, height: float, gsd: float) -> None:
    grid = Grid("EPSG:32632", gsd, max(4, round(1000 / gsd)), origin=(x / 7, y / 3))
    area = rectangle(x, y, x + width, y + height, "EPSG:32632")
    tiles = [grid.box(index).extent for index in grid.indices(area)]
    covered = sum((tile & area).area for tile in tiles)
    assert np.isclose(covered, area.area, rtol=1e-9)


SMALL = st.floats(-0.01, 0.01)
SHIFT = st.floats(-16, 16)


@given(boxes(), st.tuples(SHIFT, SMALL, SMALL, SHIFT, SMALL, SMALL))
@settings(max_examples=50, deadline=None)
def test_a_displacement_and_its_inverse_cancel(
    box: GeoBox, matrix: tuple[float, float, float, float, float, float]
) -> None:
    there = Displacement(box, "affine", matrix)
    col, row = np.array([0.0, 13.0, 39.0]), np.array([0.0, 27.0, 5.0])
    dx, dy = there.at(col, row)
    back_x, back_y = there.inverse().at(col + dx, row + dy)
    np.testing.assert_allclose(np.stack([dx + back_x, dy + back_y]), 0, atol=1e-9)


WAVES = st.tuples(st.floats(0.1, 3), st.floats(150, 400), st.floats(0, 6), SHIFT, SHIFT)


def waving(box: GeoBox, wave: tuple[float, float, float, float, float]) -> Displacement:
    """A smooth field with nodes every 20 px, on the box and three nodes beyond."""
    height, width = box.shape
    shape = (-(-height // 20) + 6, -(-width // 20) + 6)
    lattice = GeoBox(shape, box.affine * Affine.translation(-60, -60) * Affine.scale(20), box.crs)
    row, col = np.indices(shape) * 20.0
    size, length, phase, dx, dy = wave
    turn = 2 * np.pi / length
    values = [dx + size * np.sin(turn * (row + col) + phase), dy + size * np.cos(turn * (row - col))]
    flat = np.full(shape, 0.1, np.float32)
    field = Field(lattice, np.stack(values).astype(np.float32), flat, flat)
    return Displacement(box, "field", (dx, 0, 0, dy, 0, 0), 0.1, 0.9, True, 30, "", field)


@given(boxes(), WAVES)
@settings(max_examples=25, deadline=None)
def test_a_field_and_its_inverse_cancel(box: GeoBox, wave: tuple[float, float, float, float, float]) -> None:
    there = waving(box, wave)
    height, width = box.shape
    col, row = np.linspace(0, width - 1, 9), np.linspace(height - 1, 0, 9)
    dx, dy = there.at(col, row)
    back_x, back_y = there.inverse().at(col + dx, row + dy)
    np.testing.assert_allclose(np.stack([dx + back_x, dy + back_y]), 0, atol=0.03)


@given(boxes(), WAVES, st.sampled_from([None, "EPSG:4326", "EPSG:3857"]))
@settings(max_examples=25, deadline=None)
def test_a_mesh_says_where_every_pixel_lies(
    box: GeoBox, wave: tuple[float, float, float, float, float], crs: str | None
) -> None:
    moved = waving(box, wave)
    source = box.pad(60) if crs is None else box.pad(60).to_crs(crs)
    mesh = way(source, box, moved)
    assert isinstance(mesh, Mesh)
    row, col = np.indices(box.shape, dtype=np.float64)
    dx, dy = moved.at(col, row)
    expected = np.stack(pixels_in(source, box, col + dx + 0.5, row + dy + 0.5))
    places = [(row + 0.5) / mesh.step, (col + 0.5) / mesh.step]
    got = np.stack([ndimage.map_coordinates(part, places, order=1) for part in mesh.nodes])
    assert np.abs(got - expected).max() < 2 * TOLERANCE_PX * max(1, *mesh.zoom())
