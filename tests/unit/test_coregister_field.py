"""A smooth displacement is followed where the data carry it, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coregister_scenes import OPTICAL, SAR, World, metres, north_up, optical, power, radar, texture
from numpy.typing import NDArray
from scipy import ndimage

from rsgeo_gan.coregister import register, views
from rsgeo_gan.coregister.features import METHODS
from rsgeo_gan.coregister.field import smooth
from rsgeo_gan.coregister.fit import TiePoints
from rsgeo_gan.coregister.lattice import Cells, Cut
from rsgeo_gan.coregister.matching import Block, centres, correlate
from rsgeo_gan.coregister.measure import Measurement, measure
from rsgeo_gan.coregister.quality import judged
from rsgeo_gan.coregister.registration import survey, view

SIZE = 512
LAND = texture(11, SIZE + 64)
FREE = ("none", "shift", "affine", "field")

Image = NDArray[np.float32]


def waves(at: NDArray[np.float64], strength: tuple[float, float] = (2.0, 1.5)) -> NDArray[np.float64]:
    """A smooth displacement x, y at positions, shape (N, 2)."""
    x, y = at.T
    dx = strength[0] * np.sin(2 * np.pi * y / 230.0 + 0.4) + 1.3
    dy = strength[1] * np.cos(2 * np.pi * x / 260.0) - 0.7
    return np.stack([dx, dy], 1)


def pixels() -> NDArray[np.float64]:
    row, col = np.mgrid[0:SIZE, 0:SIZE].astype(float)
    return np.stack([col.ravel(), row.ravel()], 1)


def moving(strength: tuple[float, float] = (2.0, 1.5)) -> Image:
    """The land with its content displaced by `waves`: what the reference shows at p lies at p + d(p)."""
    at = pixels()
    back = at.copy()
    for _ in range(20):
        back = at - waves(back, strength)
    values = ndimage.map_coordinates(LAND, [back[:, 1] + 32, back[:, 0] + 32], order=3, mode="reflect")
    return values.reshape(SIZE, SIZE).clip(0, 1).astype(np.float32)


def still() -> Image:
    return LAND[32 : 32 + SIZE, 32 : 32 + SIZE]


def block(reference: Image, there: Image, valid: NDArray[np.bool_] | None = None) -> Block:
    everything = np.ones((SIZE, SIZE), bool)
    a, a_mask = METHODS["structure"](reference[None], everything)
    b, b_mask = METHODS["structure"](there[None], everything if valid is None else valid)
    return Block(a, b, a_mask.astype(np.float32), b_mask.astype(np.float32), (0, 0), (0, 0, SIZE, SIZE))


def error(found: Measurement, strength: tuple[float, float] = (2.0, 1.5)) -> float:
    at = np.stack(np.meshgrid(*[np.linspace(20, SIZE - 21, 12)] * 2), -1).reshape(-1, 2)
    return float(np.sqrt(((found(at) - waves(at, strength)) ** 2).sum(1).mean()))


def test_a_smooth_field_is_followed_within_one_sensor() -> None:
    found = measure([block(1 + 4 * still(), 2 + 3 * moving())], 12, FREE)
    assert (found.reliable, found.kind) == (True, "field"), found.reason
    assert error(found) < 0.4


def test_a_smooth_field_is_followed_through_speckle_and_reversed_contrast() -> None:
    there = power(moving().astype(float), 4, 3)
    found = measure([block(1 + 4 * still(), there)], 12, FREE)
    stiff = measure([block(1 + 4 * still(), there)], 12, FREE[:3])
    assert (found.reliable, found.kind) == (True, "field"), found.reason
    assert error(found) < 0.9 < error(stiff)
    assert error(found) < 2 * found.sigma_px + 0.3


@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.3, -5.8)])
def test_a_shift_gets_no_field(shift: tuple[float, float]) -> None:
    row, col = np.mgrid[0:SIZE, 0:SIZE].astype(float)
    there = ndimage.map_coordinates(LAND, [row + 32 - shift[1], col + 32 - shift[0]], order=3).clip(0, 1)
    found = measure([block(1 + 4 * still(), (2 + 3 * there).astype(np.float32))], 12, FREE)
    assert found.kind in ("none", "shift")
    assert np.allclose(found(np.array([[255.0, 255.0]])), shift, atol=0.03)


def test_a_stiffer_model_is_kept_when_only_that_is_allowed() -> None:
    found = measure([block(1 + 4 * still(), 2 + 3 * moving())], 12, ("none", "shift"))
    assert found.kind == "shift"
    assert found.sigma_px > 1.0, "what the shift cannot follow belongs to its stated error"


def lattice(there: Image, valid: NDArray[np.bool_] | None = None) -> Cells:
    whole = block(1 + 4 * still(), there, valid)
    around = np.zeros((len(centres(whole, 32)), 2), np.int64)
    return Cells.assemble([Cut.of(correlate(whole, 32, 8, around), (0, 0))], 32, (0.0, 0.0))


def test_the_error_grows_where_nothing_is_seen() -> None:
    valid = np.ones((SIZE, SIZE), bool)
    valid[160:352, 160:352] = False
    cells = lattice((2 + 3 * moving()).astype(np.float32), valid)
    found = smooth(cells, np.zeros((*cells.weight.shape, 2)))
    assert found.sigma_px[8, 8] > 2 * found.sigma_px[3, 3]


def test_a_displacement_along_one_axis_is_told_from_one_along_both() -> None:
    cells = lattice((2 + 3 * moving((2.5, 0.0))).astype(np.float32))
    mean = np.broadcast_to([1.3, -0.7], (*cells.weight.shape, 2))
    along, across = smooth(cells, mean).signal_px
    assert along > 1.5 * across


def test_content_that_only_one_raster_shows_is_not_used() -> None:
    there = (2 + 3 * moving((0.0, 0.0))).astype(np.float32)
    there[140:380, 140:380] = 2 + 3 * texture(5, 400)[:240, :240]
    found = measure([block(1 + 4 * still(), there)], 12, FREE)
    inside = (np.abs(found.points.at - 260) < 60).all(1)
    assert inside.sum() >= 2
    assert (found.points.reason[inside] != "").all(), found.points.reason[inside]
    assert (found.points.reason[~(np.abs(found.points.at - 260) < 170).all(1)] == "").mean() > 0.9


def test_a_tie_point_that_is_not_found_back_is_one_sided() -> None:
    at = np.zeros((4, 2))
    points = TiePoints(
        at, np.array([[0.0, 0], [0, 0], [3, 0], [0, 0]]), np.ones((4, 3)), np.array([0.5, 0.5, 0.5, 0.01]), np.ones(4)
    )
    told = judged(points, at, 0.3, np.array([0.1, 9.0, 0.1, 0.1]))
    assert told.reason.tolist() == ["", "one-sided", "outlier", "weak"]
    assert told.confidence[0] > 0.8 > 0.01 > told.confidence[1:].max()


def test_the_answer_does_not_depend_on_the_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, box = World(texture(3)), north_up((512, 512), at=1000.0)
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    other = radar(tmp_path / "sar.tif", world.on(box, metres(box, (2.5, 4.0))), box)
    monkeypatch.setattr(views, "BLOCK_PX", 192)
    sides = view(reference, OPTICAL), view(other, SAR)
    one, four = (survey(*sides, workers=n) for n in (1, 4))
    assert one.displacement.to_dict() == four.displacement.to_dict()
    assert np.array_equal(one.points.found, four.points.found)


def test_a_field_comes_back_in_pixels_of_the_reference(tmp_path: Path) -> None:
    box = north_up((SIZE, SIZE), at=0.0)
    reference = optical(tmp_path / "eo.tif", still().astype(float), box)
    there = radar(tmp_path / "sar.tif", moving().astype(float), box, looks=16)
    found = register(reference, there, reference_sensor=OPTICAL, moving_sensor=SAR, model="field")
    assert found.model == "field"
    assert found.field is not None
    at = pixels()[:: SIZE * 16 + 16]
    got = np.stack(found.at(*at.T), 1)
    assert np.sqrt(((got - waves(at)) ** 2).sum(1).mean()) < 0.6
    assert found.field.box.crs == box.crs
    assert (found.dx_px, found.dy_px) == pytest.approx((found.matrix[0], found.matrix[3]))
