"""Displacements: which way x and y point, where pixels are counted from, and what a field says between nodes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.errors import GridError
from rsgeo_gan.grid import pixels_in

BOX = GeoBox((200, 320), Affine(10, 0, 600000, 0, -10, 5300040), "EPSG:32632")
OBLONG = GeoBox((150, 90), Affine(12, 0, 600000, 0, -7, 5300040), "EPSG:32632")
ROTATED = GeoBox(
    (140, 100), Affine.translation(600000, 5300000) * Affine.rotation(37) * Affine.scale(10, -6), "EPSG:32632"
)
GRIDS = pytest.mark.parametrize("box", [BOX, OBLONG, ROTATED], ids=["square", "oblong", "rotated"])


def lattice(box: GeoBox, step: float = 16, rim: int = 2) -> GeoBox:
    """Nodes over a box and `rim` nodes beyond, the first node of the box in the middle of its first cell."""
    rows, cols = (int(np.ceil(length / step)) + 2 * rim for length in box.shape)
    return GeoBox((rows, cols), box.affine * Affine.translation(-rim * step, -rim * step) * Affine.scale(step), box.crs)


def node_positions(box: GeoBox, nodes: GeoBox) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows of nodes in pixels of a box, pixel centres whole."""
    row, col = np.indices(nodes.shape) + 0.5
    x, y = (~box.affine * nodes.affine) * (col, row)
    return x - 0.5, y - 0.5


def field_of(box: GeoBox, dx, dy, step: float = 16, sigma=0.2, confidence=0.9) -> Displacement:
    """A field whose nodes follow two functions of column and row."""
    nodes = lattice(box, step)
    col, row = node_positions(box, nodes)
    values = np.stack([dx(col, row) + 0 * col, dy(col, row) + 0 * col]).astype(np.float32)
    field = Field(nodes, values, *(np.full(nodes.shape, part, np.float32) for part in (sigma, confidence)))
    return Displacement(box, "field", (0, 0, 0, 0, 0, 0), 0.2, 0.9, True, 40, "", field)


def bowl(box: GeoBox, step: float = 16) -> Displacement:
    return field_of(
        box,
        lambda col, row: 2 + 1.5 * np.sin(col / 40) * np.cos(row / 50),
        lambda col, row: -3 + 1.5 * np.cos(col / 45 + row / 60),
        step,
    )


@GRIDS
def test_a_field_counts_columns_and_rows_from_pixel_centres(box: GeoBox) -> None:
    # A plane is its own cubic spline, so any half pixel or swapped axis shows.
    plane = field_of(box, lambda col, row: 0.01 * col, lambda col, row: 0.02 * row)
    height, width = box.shape
    col, row = np.meshgrid(np.linspace(0, width - 1, 7), np.linspace(0, height - 1, 5))
    dx, dy = plane.at(col, row)
    np.testing.assert_allclose(dx, 0.01 * col, atol=2e-3)
    np.testing.assert_allclose(dy, 0.02 * row, atol=2e-3)


@GRIDS
def test_a_field_is_exact_at_its_nodes_and_smooth_between(box: GeoBox) -> None:
    moved = bowl(box)
    assert moved.field is not None
    col, row = node_positions(box, moved.field.box)
    np.testing.assert_allclose(np.stack(moved.at(col, row)), moved.field.values, atol=1e-5)
    between = moved.at(col[2:-2, 2:-2] + 5.3, row[2:-2, 2:-2] - 4.1)[0]
    col, row = col[2:-2, 2:-2] + 5.3, row[2:-2, 2:-2] - 4.1
    np.testing.assert_allclose(between, 2 + 1.5 * np.sin(col / 40) * np.cos(row / 50), atol=5e-3)


def test_beyond_its_nodes_a_field_stays_as_it_is_there() -> None:
    moved = bowl(BOX)
    assert moved.field is not None
    col, _ = node_positions(BOX, moved.field.box)
    edge = moved.at(col.min(), 100.0)[0]
    np.testing.assert_allclose(moved.at(np.array([-500.0, -5000.0]), np.array([100.0, 100.0]))[0], edge, atol=1e-6)


def test_a_field_reaches_beyond_the_reference_as_far_as_its_nodes_do() -> None:
    moved = bowl(BOX)
    col, row = np.array([-20.0, 335.0]), np.array([-20.0, 215.0])
    np.testing.assert_allclose(moved.at(col, row)[0], 2 + 1.5 * np.sin(col / 40) * np.cos(row / 50), atol=0.02)


@GRIDS
def test_a_field_and_its_inverse_cancel(box: GeoBox) -> None:
    there = bowl(box)
    back = there.inverse()
    height, width = box.shape
    col, row = np.meshgrid(np.linspace(5, width - 6, 20), np.linspace(5, height - 6, 20))
    dx, dy = there.at(col, row)
    back_x, back_y = back.at(col + dx, row + dy)
    assert np.hypot(dx + back_x, dy + back_y).max() < 0.02
    assert back.model == "field"


def test_the_inverse_carries_the_quality_of_the_place_it_leads_back_to() -> None:
    moved = field_of(BOX, lambda col, row: 32.0, lambda col, row: 0.0)
    assert moved.field is not None
    moved.field.confidence[:] = np.linspace(0, 1, moved.field.box.shape[1])[None]
    col = np.array([100.0, 200.0])
    here = moved.quality(col, 100.0 + 0 * col)[1]
    np.testing.assert_allclose(moved.inverse().quality(col + 32, 100.0 + 0 * col)[1], here, atol=1e-5)


def test_a_field_that_folds_has_no_inverse() -> None:
    folded = field_of(BOX, lambda col, row: 60 * np.sin(col / 20), lambda col, row: 0 * col)
    with pytest.raises(GridError, match="folds"):
        folded.inverse()


def test_quality_is_that_of_the_place_for_a_field_and_one_for_stiffer_models() -> None:
    moved = bowl(BOX)
    assert moved.field is not None
    col, row = node_positions(BOX, moved.field.box)
    moved.field.confidence[:] = (col > 160).astype(np.float32)
    moved.field.sigma_px[:] = np.where(row > 100, 2.0, 0.5)
    sigma, confidence = moved.quality(np.array([20.0, 300.0]), np.array([20.0, 180.0]))
    np.testing.assert_allclose(sigma, [0.5, 2.0])
    np.testing.assert_allclose(confidence, [0, 1])
    assert moved.mean_quality(BOX[:60, :100]) == pytest.approx((0.5, 0.0))
    assert moved.mean_quality(BOX[140:, 220:]) == pytest.approx((2.0, 1.0))
    stiff = Displacement(BOX, "shift", (1, 0, 0, 2, 0, 0), 0.3, 0.7, True)
    np.testing.assert_allclose(stiff.quality(np.zeros((2, 3)), 0.0), np.stack([np.full((2, 3), v) for v in (0.3, 0.7)]))
    assert stiff.mean_quality(BOX) == pytest.approx((0.3, 0.7))


def test_the_mean_over_a_box_is_that_of_the_box_and_not_of_the_grid() -> None:
    tilted = Displacement(BOX, "affine", (1, 0.01, 0, 2, 0, 0.02), 0.1, 0.9, True)
    assert tilted.mean(BOX) == pytest.approx((1, 2))
    assert tilted.mean(BOX[:100, :160]) == pytest.approx((1 - 0.8, 2 - 1.0))
    elsewhere = BOX[:100, :160].to_crs("EPSG:32633", resolution=10)
    assert tilted.mean(elsewhere) == pytest.approx((0.2, 1.0), abs=0.05)


def test_json_names_the_field_and_a_changed_node_changes_the_name() -> None:
    moved = bowl(BOX)
    data = json.loads(json.dumps(moved.to_dict()))
    again = Displacement.from_dict(data, moved.field)
    assert again.to_dict() == moved.to_dict()
    other = bowl(BOX)
    assert other.field is not None
    assert other.to_dict() == moved.to_dict()
    other.field.values[0, 3, 4] += 0.01
    assert other.to_dict() != moved.to_dict()
    with pytest.raises(GridError, match="lacks its field"):
        Displacement.from_dict(data)


@GRIDS
def test_a_box_in_another_crs_is_displaced_as_the_reference_says(box: GeoBox) -> None:
    moved = Displacement(box, "affine", (3, 0.01, -0.02, -2, 0.015, 0.01), 0.1, 0.9, True)
    there = box.to_crs("EPSG:32633", resolution=10)
    row, col = (part.astype(float).ravel()[::97] for part in np.indices(there.shape) + 0.5)
    here_col, here_row = pixels_in(box, there, col, row)
    dx, dy = moved.at(here_col - 0.5, here_row - 0.5)
    expected = pixels_in(there, box, here_col + dx, here_row + dy)
    x, y = (~there.affine * moved.apply(there).affine) * (col, row)
    np.testing.assert_allclose(np.stack([x, y]), np.stack(expected), atol=0.02)


def test_longitudes_on_both_sides_of_180_degrees_are_one_place() -> None:
    utm = GeoBox((200, 240), Affine(1000, 0, 700000, 0, -1000, 200000), "EPSG:32660")
    moved = Displacement(utm, "shift", (1.5, 0, 0, 0.5, 0, 0), 0.1, 0.9, True)
    east, west = (GeoBox((300, 400), Affine(0.01, 0, lon, 0, -0.01, 2), "EPSG:4326") for lon in (178.5, -181.5))
    offset = ~east.affine * moved.apply(east).affine
    assert (offset.c, offset.f) == pytest.approx((1.35, 0.45), abs=0.01)
    assert moved.apply(west).affine.c == pytest.approx(moved.apply(east).affine.c - 360)
    assert moved.mean(west) == pytest.approx(moved.mean(east))
    same = Displacement(east, "affine", (1, 0.01, 0, 0, 0, 0.01), 0.1, 0.9, True)
    assert same.apply(west).affine == pytest.approx(same.apply(east).affine)


def test_an_unknown_error_at_a_node_is_unknown_around_it() -> None:
    moved = bowl(BOX)
    assert moved.field is not None
    moved.field.sigma_px[5, 5] = np.inf
    col, row = node_positions(BOX, moved.field.box)
    assert np.isinf(moved.quality(col[5, 5] + 3, row[5, 5] - 3)[0])
    assert moved.quality(col[5, 8], row[5, 8])[0] == pytest.approx(0.2)
