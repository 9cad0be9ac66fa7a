from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import GridError
from rsgeo_gan.grid import Grid, box_from_dict, box_to_dict, same_lattice

BOX = GeoBox((60, 100), Affine(10, 0, 600000, 0, -10, 5300040), "EPSG:32632")
MOVED = Displacement(BOX, "affine", (2.3, 1e-3, -5e-4, -1.6, 2e-4, 1e-3), 0.2, 0.9, True, 40, "")


def test_a_tile_is_north_up_and_lies_where_its_index_says() -> None:
    grid = Grid("EPSG:32632", 10, 64, origin=(600000, 5300040))
    box = grid.box((1, -1))
    assert tuple(box.affine[:6]) == (10, 0, 600640, 0, -10, 5300040)
    assert box.shape == (64, 64)


def test_tiles_of_a_footprint_come_in_reading_order_and_cover_it_once() -> None:
    grid = Grid("EPSG:32632", 10, 32, origin=(600000, 5300040))
    indices = grid.indices(BOX.footprint("EPSG:32632"))
    assert indices == [(0, -1), (1, -1), (2, -1), (3, -1), (0, -2), (1, -2), (2, -2), (3, -2)]


def test_a_grid_without_pixels_is_refused() -> None:
    with pytest.raises(GridError, match="pixel size above 0"):
        Grid("EPSG:32632", 0, 64)


def test_one_lattice_gives_the_whole_pixel_offset() -> None:
    assert same_lattice(BOX, BOX.translate_pix(-3, 7)) == (-3, 7)


@pytest.mark.parametrize(
    "other",
    [
        BOX.translate_pix(0.01, 0),
        BOX * Affine.scale(1.001),
        BOX * Affine.rotation(0.01),
        GeoBox(BOX.shape, BOX.affine, "EPSG:32633"),
    ],
    ids=["half a hair off", "other pixel size", "rotated", "other CRS"],
)
def test_other_lattices_are_told_apart(other: GeoBox) -> None:
    assert same_lattice(BOX, other) is None


def test_a_displacement_is_evaluated_at_pixel_centres_about_the_grid_centre() -> None:
    dx, dy = MOVED.at([49.5, 59.5], [29.5, 9.5])
    np.testing.assert_allclose(dx, [2.3, 2.3 + 10 * 1e-3 + 20 * 5e-4])
    np.testing.assert_allclose(dy, [-1.6, -1.6 + 10 * 2e-4 - 20 * 1e-3])
    assert (MOVED.dx_px, MOVED.dy_px) == (2.3, -1.6)


def test_applying_a_shift_moves_the_box_right_and_down() -> None:
    shift = Displacement(BOX, "shift", (2.0, 0, 0, 3.0, 0, 0))
    part = GeoBox((8, 8), Affine(10, 0, 600100, 0, -10, 5300000), "EPSG:32632")
    assert tuple(shift.apply(part).affine[:6]) == (10, 0, 600120, 0, -10, 5299970)


def test_an_applied_displacement_agrees_with_its_values_in_another_crs() -> None:
    part = GeoBox((32, 32), Affine(10, 0, 600100, 0, -10, 5300000), "EPSG:32632")
    there = part.to_crs("EPSG:32633", resolution=10)
    moved = MOVED.apply(there)
    from pyproj import Transformer

    back = Transformer.from_crs("EPSG:32633", "EPSG:32632", always_xy=True)
    before = ~BOX.affine * back.transform(*(there.affine * (10.5, 12.5)))
    after = ~BOX.affine * back.transform(*(moved.affine * (10.5, 12.5)))
    dx, dy = MOVED.at(before[0] - 0.5, before[1] - 0.5)
    np.testing.assert_allclose(np.subtract(after, before), [dx, dy], atol=1e-4)


def test_no_displacement_leaves_the_very_box() -> None:
    assert Displacement.none(BOX, reason="no texture").apply(BOX) is BOX


def test_the_inverse_undoes_a_displacement() -> None:
    there = MOVED.apply(BOX)
    back = MOVED.inverse().apply(BOX)
    np.testing.assert_allclose((there.affine * ~BOX.affine * back.affine)[:6], BOX.affine[:6], atol=1e-6)


def test_boxes_and_displacements_survive_json() -> None:
    assert box_from_dict(box_to_dict(BOX)) == BOX
    assert Displacement.from_dict(MOVED.to_dict()) == MOVED
    unknown = Displacement.none(BOX, reason="no overlap")
    assert unknown.to_dict()["sigma_px"] is None
    assert Displacement.from_dict(unknown.to_dict()) == unknown
