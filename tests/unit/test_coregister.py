"""`register`: what comes out when the true displacement is known, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from coregister_scenes import (
    CRS,
    NORTH,
    OPTICAL,
    SAR,
    SAR_DB,
    WEST,
    World,
    metres,
    north_up,
    optical,
    power,
    radar,
    texture,
)
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.coregister import METHODS, register, views
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import CoregistrationError, GridError, SourceError


@pytest.fixture(scope="module")
def world() -> World:
    return World(texture(7))


@pytest.fixture(scope="module")
def elsewhere() -> World:
    return World(texture(8))


def measure(reference: Path, moving: Path, **settings: object) -> Displacement:
    given = {"reference_sensor": OPTICAL, "moving_sensor": SAR, **settings}
    return register(reference, moving, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [(0.4, 0.0), (3.3, -1.7), (-9.6, 11.2)])
def test_shift_between_inverted_speckled_images_is_recovered_within_a_tenth_of_a_pixel(
    world: World, tmp_path: Path, shift: tuple[float, float]
) -> None:
    box = north_up()
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    moving = radar(tmp_path / "sar.tif", world.on(box, metres(box, shift)), box)
    found = measure(reference, moving)
    assert found.reliable, found.reason
    assert np.allclose(found.at(160, 160), shift, atol=0.1)
    assert found.sigma_px < 0.3
    assert found.confidence > 0.5
    assert found.n_tie_points > 10


def test_warping_by_the_displacement_brings_the_contents_together(world: World, tmp_path: Path) -> None:
    box = north_up()
    brightness = world.on(box)
    reference = optical(tmp_path / "eo.tif", brightness, box)
    moving = optical(tmp_path / "moved.tif", world.on(box, metres(box, (4.6, 2.3))), box)
    found = measure(reference, moving, moving_sensor=OPTICAL)
    aligned = raster.warp(moving, found.apply(box), resampling="cubic")[0]
    inside = np.s_[20:-20, 20:-20]
    wanted = 500 + 3000 * brightness.clip(0, 1)
    untouched = raster.warp(moving, box)[0]
    assert np.abs(aligned - wanted)[inside].mean() < 0.15 * np.abs(untouched - wanted)[inside].mean()


def test_identical_rasters_are_confirmed_as_aligned_without_any_displacement(world: World, tmp_path: Path) -> None:
    box = north_up()
    path = optical(tmp_path / "eo.tif", world.on(box), box)
    found = measure(path, path, moving_sensor=OPTICAL)
    assert (found.model, found.reliable, found.dx_px, found.dy_px) == ("none", True, 0.0, 0.0)
    assert found.sigma_px < 0.05


def test_x_and_y_keep_their_places_with_non_square_pixels_and_rasters(world: World, tmp_path: Path) -> None:
    box = north_up((260, 200), gsd=(16.0, 8.0), at=1500.0)
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    moving = radar(tmp_path / "sar.tif", world.on(box, metres(box, (2.4, -4.1))), box)
    found = measure(reference, moving)
    assert found.reliable, found.reason
    assert np.allclose(found.at(100, 130), (2.4, -4.1), atol=0.15)


def test_displacement_is_stated_in_pixels_of_a_rotated_reference(world: World, tmp_path: Path) -> None:
    affine = Affine.translation(WEST + 4000, NORTH - 2000) * Affine.rotation(-40) * Affine.scale(10, -10)
    turned = GeoBox((300, 300), affine, CRS)
    plain = north_up((420, 420), at=1800.0)
    reference = optical(tmp_path / "eo.tif", world.on(turned), turned)
    moving = radar(tmp_path / "sar.tif", world.on(plain, metres(turned, (5.2, 1.4))), plain)
    found = measure(reference, moving)
    assert found.reliable, found.reason
    assert np.allclose(found.at(150, 150), (5.2, 1.4), atol=0.2)


@pytest.mark.parametrize(
    ("crs", "affine", "shape"),
    [
        ("EPSG:32632", Affine(20, 0, 930_000, 0, -20, 5_515_000), (600, 700)),
        ("EPSG:4326", Affine(1.4e-4, 0, 15.0, 0, -9e-5, 49.655), (560, 520)),
    ],
)
def test_moving_raster_may_have_another_crs_and_pixel_size(
    world: World, tmp_path: Path, crs: str, affine: Affine, shape: tuple[int, int]
) -> None:
    box = north_up((400, 400), at=1000.0)
    other = GeoBox(shape, affine, crs)
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    moving = radar(tmp_path / "sar.tif", world.on(other, metres(box, (3.5, -2.2))), other)
    found = measure(reference, moving)
    assert found.reliable, found.reason
    error = np.linalg.norm(np.subtract(found.at(200, 200), (3.5, -2.2)))
    assert error < min(0.6, 2 * found.sigma_px + 0.1)


def test_a_finer_moving_raster_is_compared_at_the_reference_pixel_size(world: World, tmp_path: Path) -> None:
    box = north_up((160, 160), gsd=(20.0, 20.0))
    fine = north_up((700, 700), gsd=(5.0, 5.0), at=1900.0)
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    moving = radar(tmp_path / "sar.tif", world.on(fine, metres(box, (-1.3, 2.1))), fine, looks=1)
    found = measure(reference, moving)
    assert found.reliable, found.reason
    assert np.allclose(found.at(80, 80), (-1.3, 2.1), atol=0.2)


def test_rotation_and_scale_are_followed_by_an_affine(world: World, tmp_path: Path) -> None:
    box = north_up((448, 448), at=1500.0)
    # Content of reference pixel p lies at p + d(p), with d growing by 1 % to the right.
    truth = Displacement(box, "affine", (1.5, 0.010, 0.004, -2.0, -0.003, 0.008), reliable=True)
    seen_from = truth.inverse().apply(box)
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    moving = radar(tmp_path / "sar.tif", world.on(seen_from), box)
    found = measure(reference, moving)
    col, row = np.meshgrid([40, 224, 408], [40, 224, 408])
    assert found.model == "affine"
    assert np.allclose(found.at(col, row), truth.at(col, row), atol=0.3)


def test_freedom_is_kept_to_a_shift_when_asked(world: World, tmp_path: Path) -> None:
    box = north_up()
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    moving = radar(tmp_path / "sar.tif", world.on(box, metres(box, (2.0, 1.0))), box)
    found = measure(reference, moving, model="shift")
    assert found.model == "shift"
    assert found.matrix[1:3] == found.matrix[4:] == (0.0, 0.0)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_descriptor_recovers_the_shift(world: World, tmp_path: Path, method: str) -> None:
    box = north_up()
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    moving = radar(tmp_path / "sar.tif", world.on(box, metres(box, (-2.6, 3.1))), box)
    found = measure(reference, moving, method=method)
    assert found.reliable, found.reason
    assert np.allclose(found.at(160, 160), (-2.6, 3.1), atol=0.2)


def test_swapping_the_roles_gives_the_inverse(world: World, tmp_path: Path) -> None:
    box = north_up()
    eye = optical(tmp_path / "eo.tif", world.on(box), box)
    sar = radar(tmp_path / "sar.tif", world.on(box, metres(box, (3.7, -2.9))), box)
    there = measure(eye, sar)
    back = register(sar, eye, reference_sensor=SAR, moving_sensor=OPTICAL)
    assert np.allclose(back.at(160, 160), there.inverse().at(160, 160), atol=0.1)


def test_garbage_under_the_mask_changes_nothing(world: World, tmp_path: Path) -> None:
    box = north_up()
    rng = np.random.default_rng(3)
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    values = power(world.on(box, metres(box, (2.2, 1.6))), 4, 1)
    valid = np.ones(box.shape, bool)
    valid[100:220, 60:200] = False
    results = []
    for name, garbage in (("calm", 0.0), ("wild", 1e6)):
        filled = np.where(valid, values, garbage * rng.random(values.shape)).astype(np.float32)
        moving = raster.write(tmp_path / f"{name}.tif", filled, box, valid=valid, cog=False)
        results.append(measure(reference, moving))
    assert results[0] == results[1]
    assert np.allclose(results[0].at(160, 160), (2.2, 1.6), atol=0.15)


def test_classes_that_hide_the_ground_are_not_compared(world: World, elsewhere: World, tmp_path: Path) -> None:
    box = north_up()
    cloud = np.zeros(box.shape, bool)
    cloud[:, 150:] = True
    # What looks like ground under the cloud class belongs to another displacement.
    lure = world.on(box, metres(box, (-6.0, -6.0)))
    reference = optical(tmp_path / "eo.tif", np.where(cloud, lure, world.on(box)), box)
    classes = raster.write(tmp_path / "scl.tif", np.where(cloud, 9, 4).astype(np.uint8), box, cog=False)
    moving = radar(tmp_path / "sar.tif", world.on(box, metres(box, (2.0, 1.0))), box)
    found = measure(reference, moving, reference_classes=(classes, [8, 9]))
    assert found.reliable, found.reason
    assert np.allclose(found.at(75, 160), (2.0, 1.0), atol=0.2)


def test_an_undeclared_border_of_zeros_does_not_hold_the_images_in_place(world: World, tmp_path: Path) -> None:
    box = north_up()
    border = np.s_[:, :110]
    pair = []
    for name, shift in (("a", (0.0, 0.0)), ("b", (4.2, 2.4))):
        dn = (500 + 3000 * world.on(box, metres(box, shift)).clip(0, 1)).astype(np.uint16)
        dn[border] = 0
        pair.append(raster.write(tmp_path / f"{name}.tif", dn, box, cog=False))
    found = measure(*pair, moving_sensor=OPTICAL)
    assert found.reliable, found.reason
    assert np.allclose(found.at(200, 160), (4.2, 2.4), atol=0.1)


def test_decibels_and_linear_power_of_one_scene_give_the_same_answer(world: World, tmp_path: Path) -> None:
    box = north_up()
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    brightness = world.on(box, metres(box, (1.8, -3.4)))
    linear = measure(reference, radar(tmp_path / "lin.tif", brightness, box))
    decibel = measure(reference, radar(tmp_path / "db.tif", brightness, box, db=True), moving_sensor=SAR_DB)
    assert np.allclose(linear.matrix, decibel.matrix, atol=1e-3)


def test_blocks_give_what_the_whole_scene_gives(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = north_up((512, 512), at=1200.0)
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    moving = radar(tmp_path / "sar.tif", world.on(box, metres(box, (3.4, -5.2))), box)
    whole = measure(reference, moving)
    monkeypatch.setattr(views, "BLOCK_PX", 256)
    blocked = measure(reference, moving)
    assert np.allclose(whole.at(256, 256), blocked.at(256, 256), atol=0.05)


def test_a_scene_of_many_blocks_is_sampled_then_streamed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = north_up((640, 640), at=600.0)
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    moving = radar(tmp_path / "sar.tif", world.on(box, metres(box, (3.4, -5.2))), box)
    monkeypatch.setattr(views, "BLOCK_PX", 160)
    monkeypatch.setattr(views, "MAX_BLOCKS_A_SIDE", 2)
    read = []
    monkeypatch.setattr(views.View, "on", lambda self, to, inner=views.View.on: read.append(to) or inner(self, to))
    found = measure(reference, moving)
    sample, blocks = 2 * 2, 5 * 5
    assert len(read) == 2 * (sample + blocks)
    assert np.allclose(found.at(320, 320), (3.4, -5.2), atol=0.15)


def test_unrelated_places_are_declined_and_left_alone(world: World, elsewhere: World, tmp_path: Path) -> None:
    box = north_up()
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    found = measure(reference, radar(tmp_path / "sar.tif", elsewhere.on(box), box))
    assert not found.reliable
    assert found.reason in {
        "halves disagree",
        "two peaks",
        "peak at the edge of the search",
        "windows disagree",
        "weak match",
    }
    assert found.model == "none"
    assert found.matrix == (0.0,) * 6
    assert found.apply(box) == box


def test_a_shift_beyond_the_search_is_declined(world: World, tmp_path: Path) -> None:
    box = north_up()
    reference = optical(tmp_path / "eo.tif", world.on(box), box)
    moving = radar(tmp_path / "sar.tif", world.on(box, metres(box, (16.0, 0.0))), box)
    found = measure(reference, moving, max_shift_px=6)
    assert not found.reliable


def test_a_pattern_that_repeats_is_declined(tmp_path: Path) -> None:
    box = north_up()
    col, row = np.meshgrid(np.arange(320), np.arange(320))
    checks = 0.5 + 0.4 * np.sin(2 * np.pi * col / 12) * np.sin(2 * np.pi * row / 12)
    found = measure(optical(tmp_path / "eo.tif", checks, box), radar(tmp_path / "sar.tif", checks, box))
    assert not found.reliable
    assert found.reason == "two peaks"


def test_a_constant_raster_has_no_texture(world: World, tmp_path: Path) -> None:
    box = north_up()
    flat = raster.write(tmp_path / "flat.tif", np.full(box.shape, 0.1, np.float32), box, cog=False)
    found = measure(optical(tmp_path / "eo.tif", world.on(box), box), flat)
    assert (found.reliable, found.reason) == (False, "no texture")


def test_rasters_apart_from_each_other_do_not_overlap(world: World, tmp_path: Path) -> None:
    here, there = north_up(at=0.0), north_up(at=4000.0)
    found = measure(
        optical(tmp_path / "eo.tif", world.on(here), here), radar(tmp_path / "sar.tif", world.on(there), there)
    )
    assert (found.reliable, found.reason) == (False, "no overlap")
    assert found.geobox == here


def test_a_scene_without_data_is_too_little(world: World, tmp_path: Path) -> None:
    box = north_up()
    empty = raster.write(tmp_path / "nan.tif", np.full(box.shape, np.nan, np.float32), box, cog=False)
    found = measure(optical(tmp_path / "eo.tif", world.on(box), box), empty)
    assert (found.reliable, found.reason) == (False, "too little valid data")


def test_an_overlap_of_a_few_pixels_is_too_little(world: World, tmp_path: Path) -> None:
    box = north_up()
    sliver = GeoBox(box.shape, box.affine * Affine.translation(310, 0), CRS)
    found = measure(
        optical(tmp_path / "eo.tif", world.on(box), box), radar(tmp_path / "sar.tif", world.on(sliver), sliver)
    )
    assert (found.reliable, found.reason) == (False, "too little valid data")


def test_unknown_settings_are_refused_in_words(world: World, tmp_path: Path) -> None:
    box = north_up((64, 64))
    path = optical(tmp_path / "eo.tif", world.on(box), box)
    with pytest.raises(CoregistrationError, match=r"no method 'magic'; expected one of structure"):
        measure(path, path, method="magic")
    with pytest.raises(CoregistrationError, match="expected a model of auto"):
        measure(path, path, model="spline")
    with pytest.raises(CoregistrationError, match="max_shift_px"):
        measure(path, path, max_shift_px=0)


def test_missing_files_and_bands_are_named(world: World, tmp_path: Path) -> None:
    box = north_up((64, 64))
    path = optical(tmp_path / "eo.tif", world.on(box), box)
    with pytest.raises(SourceError, match=r"gone\.tif"):
        measure(path, tmp_path / "gone.tif")
    with pytest.raises(SourceError, match=r"has 1 bands: expected bands \[3\]"):
        measure(path, path, moving_bands=[3])


def test_scenes_of_two_planets_are_refused_in_words(world: World, tmp_path: Path) -> None:
    box = north_up((64, 64))
    mars = GeoBox((64, 64), Affine(100, 0, 0, 0, -100, 0), "+proj=eqc +R=3396190 +units=m +no_defs +type=crs")
    with pytest.raises(GridError, match=r"no transformation from .* of one body"):
        measure(
            optical(tmp_path / "earth.tif", world.on(box), box),
            optical(tmp_path / "mars.tif", np.full((64, 64), 0.5), mars),
            moving_sensor=OPTICAL,
        )


@pytest.mark.parametrize(
    ("shape", "valid"),
    [
        ((640, 640), [np.s_[160:, 100:], np.s_[160:320, 60:160]]),
        ((384, 640), [np.s_[:, 200:460]]),
    ],
    ids=["first blocks empty", "valid between the sampled blocks"],
)
def test_a_streamed_scene_is_found_wherever_it_is_valid(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int],
    valid: list[tuple[slice, slice]],
) -> None:
    box = north_up(shape, at=600.0)
    dn = np.zeros(shape, np.uint16)
    for part in valid:
        dn[part] = (500 + 3000 * world.on(box).clip(0, 1))[part]
    reference = raster.write(tmp_path / "eo.tif", dn, box, nodata=0, cog=False)
    moving = radar(tmp_path / "sar.tif", world.on(box, metres(box, (3.4, -5.2))), box)
    monkeypatch.setattr(views, "BLOCK_PX", 128)
    monkeypatch.setattr(views, "MAX_BLOCKS_A_SIDE", 2)
    found = measure(reference, moving)
    assert found.reliable, found.reason
    assert np.allclose(found.at(320, shape[0] // 2), (3.4, -5.2), atol=0.2)
