"""A series of scenes: consistent displacements, a bad scene exposed by its neighbours, files that tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from coregister_scenes import CRS, NORTH, OPTICAL, SAR, WEST, World, metres, north_up, optical, radar, texture
from matplotlib import image
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from rsgeo_gan import raster
from rsgeo_gan.coregister import series, series_measure
from rsgeo_gan.coregister.composing import expected_errors
from rsgeo_gan.coregister.fit import TiePoints
from rsgeo_gan.coregister.network import CONTRADICTED, NOT_CONNECTED
from rsgeo_gan.coregister.registration import Registration, view
from rsgeo_gan.coregister.series import SeriesResult, align_series, names_of
from rsgeo_gan.coregister.series_measure import measure_series
from rsgeo_gan.coregister.views import View
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.errors import CoregistrationError, SourceError
from rsgeo_gan.sensors import SENSORS

BOX = north_up((288, 288))
SHIFTS = [(2.3, -1.6), (-4.2, 3.1), (0.4, 0.7), (5.5, -6.25), (-1.3, -2.8)]
KINDS = [OPTICAL, SAR, OPTICAL, SAR, OPTICAL]
OTHER_PLACE, GOOD = 2, (0, 1, 3, 4)


def photograph(folder: Path, worlds: list[World], shifts: list[tuple[float, float]]) -> tuple[Path, list[Path]]:
    """The reference, and one scene a shift, optical and SAR as in `KINDS`."""
    reference = optical(folder / "reference.tif", worlds[-1].on(BOX), BOX)
    scenes = []
    for number, (world, shift) in enumerate(zip(worlds, shifts, strict=False)):
        brightness = world.on(BOX, metres(BOX, shift))
        name = folder / f"2024-0{number + 1}.tif"
        scenes.append(
            optical(name, brightness, BOX) if KINDS[number] is OPTICAL else radar(name, brightness, BOX, seed=number)
        )
    return reference, scenes


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[SeriesResult, Path]:
    """Five scenes, the third of which shows another place."""
    folder = tmp_path_factory.mktemp("series")
    here, elsewhere = World(texture(3)), World(texture(99))
    reference, scenes = photograph(folder, [here, here, elsewhere, here, here], SHIFTS)
    out = folder / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "write_pair", lambda *_, **__: None)
        return align_series(reference, scenes, out, reference_sensor=OPTICAL, sensors=KINDS), out


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Registration]]:
    """Scenes are not written; folder and registration of those that would be."""
    calls: list[tuple[str, Registration]] = []

    def write(folder: Path, _: object, __: object, found: Registration, *___: object, **____: object) -> None:
        calls.append((folder.name, found))

    monkeypatch.setattr(series, "write_pair", write)
    return calls


def error(displacement: Displacement, shift: tuple[float, float]) -> float:
    return float(np.hypot(displacement.dx_px - shift[0], displacement.dy_px - shift[1]))


def test_optical_and_sar_scenes_are_placed_within_a_fifth_of_a_pixel(mixed: tuple[SeriesResult, Path]) -> None:
    for number in GOOD:
        scene = mixed[0].scenes[number]
        assert scene.displacement.reliable, scene.displacement.reason
        assert error(scene.displacement, SHIFTS[number]) < 0.2
        assert error(scene.displacement, SHIFTS[number]) < 2 * scene.displacement.sigma_px + 0.05


def test_all_pairs_together_are_no_worse_than_the_direct_ones(mixed: tuple[SeriesResult, Path]) -> None:
    together = [error(mixed[0].scenes[n].displacement, SHIFTS[n]) for n in GOOD]
    direct = [
        error(found.displacement, SHIFTS[n]) for n in GOOD if (found := mixed[0].scenes[n].direct) and found.overlap
    ]
    assert len(direct) == len(GOOD)
    assert np.mean(together) <= 1.1 * np.mean(direct) + 0.005


def test_a_scene_of_another_place_is_exposed(mixed: tuple[SeriesResult, Path]) -> None:
    scene = mixed[0].scenes[OTHER_PLACE]
    assert not scene.displacement.reliable
    # Not one of its pairs is believed, so its reason is theirs when they agree, else the network's.
    reasons = {e.reason for e in mixed[0].edges if OTHER_PLACE + 1 in (e.start, e.stop)}
    assert scene.displacement.reason in (reasons if len(reasons) == 1 else {NOT_CONNECTED, CONTRADICTED})
    assert scene.displacement.model == "none"
    assert scene.n_edges == 0
    touching = [e for e in mixed[0].edges if OTHER_PLACE + 1 in (e.start, e.stop)]
    assert len(touching) == 5
    assert not any(e.used for e in touching)
    assert all(e.reason for e in touching)


def test_the_record_tells_scenes_and_edges(mixed: tuple[SeriesResult, Path]) -> None:
    record = json.loads((mixed[1] / "series.json").read_text())
    assert [entry["name"] for entry in record["scenes"]] == [f"2024-0{n}" for n in range(1, 6)]
    assert [entry["reliable"] for entry in record["scenes"]] == [True, True, False, True, True]
    assert [entry["status"] for entry in record["scenes"]] == ["aligned", "aligned", "declined", "aligned", "aligned"]
    first = record["scenes"][0]
    assert first["dx_px"] == pytest.approx(2.3, abs=0.2)
    assert first["direct"]["dx_px"] == pytest.approx(2.3, abs=0.3)
    # Five scenes with the reference, and all of them with each other.
    assert len(record["edges"]) == 15
    edge = next(e for e in record["edges"] if (e["from"], e["to"]) == ("2024-01", "2024-02"))
    assert edge["used"]
    assert edge["measured_px"] == pytest.approx([-6.5, 4.7], abs=0.3)
    assert edge["residual_px"] < 0.3
    lost = next(e for e in record["edges"] if (e["from"], e["to"]) == ("reference", "2024-03"))
    assert lost["measured_px"] == [None, None]
    assert lost["reason"]


def test_the_picture_is_drawn(mixed: tuple[SeriesResult, Path]) -> None:
    drawn = image.imread(mixed[1] / "series.png")
    assert min(drawn.shape[:2]) > 300
    assert len(np.unique(drawn[::7, ::7].reshape(-1, drawn.shape[2]), axis=0)) > 20


@pytest.mark.usefixtures("unwritten")
def test_a_scene_displaced_beyond_the_search_is_declined_and_the_others_stay(tmp_path: Path) -> None:
    world = World(texture(4))
    shifts = [(1.5, 2.5), (-60.0, 45.0), (-3.0, 0.5)]
    reference, scenes = photograph(tmp_path, [world] * 3, shifts)
    found = align_series(
        reference, scenes, tmp_path / "out", reference_sensor=OPTICAL, sensors=KINDS[:3], max_shift_px=8, workers=2
    )
    assert [scene.displacement.reliable for scene in found.scenes] == [True, False, True]
    assert error(found.scenes[0].displacement, shifts[0]) < 0.2
    assert error(found.scenes[2].displacement, shifts[2]) < 0.2


@pytest.mark.usefixtures("unwritten")
def test_scenes_on_other_grids_agree_with_each_other(tmp_path: Path) -> None:
    world = World(texture(6))
    reference = optical(tmp_path / "reference.tif", world.on(BOX), BOX)
    ground = metres(BOX, (3.0, -2.0))
    turned = GeoBox(
        (260, 240), Affine.translation(WEST + 2100, NORTH - 2000) * Affine.rotation(4) * Affine.scale(12, -12), CRS
    )
    east, north = Transformer.from_crs(CRS, "EPSG:32634", always_xy=True).transform(WEST + 2000, NORTH - 2000)
    west = GeoBox((300, 320), Affine(10, 0, east - 100, 0, -10, north + 100), "EPSG:32634")
    scenes = []
    for name, box in (("plain", BOX), ("turned", turned), ("zone", west)):
        scenes.append(optical(tmp_path / f"{name}.tif", world.on(box, ground), box))
    found = align_series(reference, scenes, tmp_path / "out", reference_sensor=OPTICAL, sensors=OPTICAL)
    for scene in found.scenes:
        assert scene.displacement.reliable, (scene.name, scene.displacement.reason)
        assert error(scene.displacement, (3.0, -2.0)) < 0.1, scene.name
    between = [e for e in found.edges if e.start]
    assert len(between) == 3
    for edge in between:
        # All scenes are displaced by the same metres, so relative to each other by none.
        assert np.hypot(*edge.measured_px) < 0.1


def test_every_scene_gets_the_files_of_a_pair_by_the_common_solution(tmp_path: Path) -> None:
    here, elsewhere = World(texture(5)), World(texture(98))
    reference, scenes = photograph(tmp_path, [elsewhere, here, here], [(1.0, 1.0), (-2.0, 3.0)])
    reference = optical(tmp_path / "reference.tif", here.on(BOX), BOX)
    found = align_series(reference, scenes, tmp_path / "out", reference_sensor=OPTICAL, sensors=[OPTICAL, SAR])
    other, good = (json.loads((tmp_path / "out" / s.name / "coregistration.json").read_text()) for s in found.scenes)
    assert (other["status"], good["status"]) == ("declined", "aligned")
    assert (good["dx_px"], good["dy_px"]) == pytest.approx((-2, 3), abs=0.2)
    assert good["series"]["n_edges"] == 1
    assert good["series"]["direct"]["reliable"]
    for name in ("aligned.tif", "displacement.tif", "tie_points.gpkg", "checkerboard.png"):
        assert (tmp_path / "out" / found.scenes[1].name / name).is_file(), name
    aligned = raster.inspect(tmp_path / "out" / found.scenes[1].name / "aligned.tif")
    assert aligned.geobox == BOX
    left = raster.inspect(tmp_path / "out" / found.scenes[0].name / "aligned.tif")
    assert left.tags["COREG_STATUS"] == "declined"


@pytest.mark.usefixtures("unwritten")
def test_the_number_of_workers_does_not_change_the_answer(tmp_path: Path) -> None:
    world = World(texture(5))
    reference, scenes = photograph(tmp_path, [world] * 2, SHIFTS[:2])
    one, three = (
        align_series(
            reference, scenes, tmp_path / str(n), reference_sensor=OPTICAL, sensors=[OPTICAL, SAR], workers=n
        )
        for n in (1, 3)
    )  # fmt: skip
    assert [s.displacement for s in one.scenes] == [s.displacement for s in three.scenes]
    assert one.edges == three.edges


@dataclass
class Points:
    """What of tie points a network looks at."""

    found: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.found)


Answer = Callable[[str, str], Displacement]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, unwritten: object) -> Callable[[Answer], None]:
    """Let pairs be answered by a function of their two names instead of being measured."""

    def install(answer: Answer) -> None:
        def survey(reference: View, moving: View, **_: object) -> Registration:
            box = raster.inspect(reference.path).geobox
            found = answer(Path(reference.path).stem, Path(moving.path).stem)
            return Registration(found, TiePoints.none(), box)

        monkeypatch.setattr(series_measure, "survey", survey)

    monkeypatch.setattr(series, "draw_series", lambda *_: None)
    return install


def flat(folder: Path, names: str) -> list[Path]:
    values = np.full((1, 60, 80), 7, np.uint16)
    box = north_up((60, 80))
    return [raster.write(folder / f"{name}.tif", values, box, nodata=0, cog=False) for name in names]


def shift(dx: float, dy: float, sigma: float = 0.1) -> Displacement:
    return Displacement(north_up((60, 80)), "shift", (dx, 0.0, 0.0, dy, 0.0, 0.0), sigma, 0.9, True, 12)


def run(folder: Path, paths: list[Path], **more: int) -> SeriesResult:
    return align_series(paths[0], paths[1:], folder / "out", reference_sensor=OPTICAL, sensors=OPTICAL, **more)


PLACES = {"r": (0.0, 0.0), "a": (1.0, 2.0), "b": (-3.0, 1.0), "c": (4.0, -2.0), "d": (0.5, 0.5)}


def between(first: str, second: str) -> Displacement:
    return shift(PLACES[second][0] - PLACES[first][0], PLACES[second][1] - PLACES[first][1])


def test_a_wrong_direct_pair_is_outvoted_by_the_neighbours(tmp_path: Path, answers: Callable[[Answer], None]) -> None:
    answers(lambda a, b: shift(9.0, 9.0) if (a, b) == ("r", "c") else between(a, b))
    found = run(tmp_path, flat(tmp_path, "rabcd"))
    assert [round(s.displacement.dx_px, 4) for s in found.scenes] == [1.0, -3.0, 4.0, 0.5]
    assert all(s.displacement.reliable for s in found.scenes)
    wrong = [e for e in found.edges if not e.used]
    assert [(e.start, e.stop, e.reason) for e in wrong] == [(0, 3, "contradicted by the other pairs")]
    assert wrong[0].residual_px == pytest.approx(np.hypot(5, 11))


def test_a_scene_that_only_chance_matched_is_contradicted(tmp_path: Path, answers: Callable[[Answer], None]) -> None:
    chance = {"r": (8.0, 1.0), "a": (-7.0, 4.0), "b": (2.0, -9.0), "d": (-1.0, 10.0)}
    answers(lambda a, b: shift(*chance[a if b == "c" else b]) if "c" in (a, b) else between(a, b))
    found = run(tmp_path, flat(tmp_path, "rabcd"))
    assert [s.displacement.reason for s in found.scenes] == ["", "", CONTRADICTED, ""]
    assert found.scenes[2].displacement == Displacement.none(found.geobox, reason=CONTRADICTED)
    assert found.scenes[2].residual_px > 3


def test_a_scene_is_reached_through_its_neighbours(
    tmp_path: Path, answers: Callable[[Answer], None], unwritten: list[tuple[str, Registration]]
) -> None:
    declined = Displacement.none(north_up((60, 80)), reason="no texture")
    answers(lambda a, b: declined if (a, b) == ("r", "c") else between(a, b))
    found = run(tmp_path, flat(tmp_path, "rabcd"))
    scene = found.scenes[2]
    assert scene.displacement.reliable
    assert unwritten[2] == ("c", Registration(scene.displacement, scene.direct.points, scene.direct.overlap))
    assert (scene.displacement.dx_px, scene.displacement.dy_px) == pytest.approx((4, -2))
    # Two links of trust 0.9.
    assert scene.displacement.confidence == pytest.approx(0.81)
    assert next(e for e in found.edges if (e.start, e.stop) == (0, 3)).fitted_px == pytest.approx((4, -2))


def test_only_following_neighbours_are_compared_in_a_long_series(
    tmp_path: Path, answers: Callable[[Answer], None]
) -> None:
    answers(lambda a, b: shift(ord(b) - ord(a), 0.0))
    found = run(tmp_path, flat(tmp_path, "abcdefgh"), neighbours=2)
    assert [(e.start, e.stop) for e in found.edges if e.start == 3] == [(3, 4), (3, 5)]
    assert [round(s.displacement.dx_px, 6) for s in found.scenes] == [1, 2, 3, 4, 5, 6, 7]
    alone = run(tmp_path, flat(tmp_path, "abcdefgh"), neighbours=0)
    assert len(alone.edges) == 7


def test_a_field_survives_the_network(tmp_path: Path, answers: Callable[[Answer], None]) -> None:
    box = north_up((60, 80))
    nodes = GeoBox((12, 16), box.affine * Affine.scale(5, 5), CRS)
    bump = 1.5 * np.sin(np.linspace(0, np.pi, 16))[None, :] * np.ones((12, 1))
    values = np.stack([bump, -bump]).astype(np.float32)
    sigma, trust = np.full((12, 16), 0.1, np.float32), np.full((12, 16), 0.9, np.float32)
    bent = Displacement(
        box, "field", (1.0, 0.0, 0.0, -1.0, 0.0, 0.0), 0.1, 0.9, True, 9, "", Field(nodes, values, sigma, trust)
    )
    answers(lambda a, b: bent if (a, b) == ("r", "b") else shift(0.0, 0.0) if b == "a" else bent)
    found = run(tmp_path, flat(tmp_path, "rab"))
    displacement = found.scenes[1].displacement
    assert displacement.model == "field"
    col, row = np.meshgrid(np.arange(4, 76, 9), np.arange(4, 56, 9))
    assert np.allclose(displacement.at(col, row), bent.at(col, row), atol=0.03)


def test_displacements_too_small_for_one_pair_are_not_cut_off_in_a_network(
    tmp_path: Path, answers: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each pair of neighbours is 0.4 px apart and was called "none"; their tie points tell.
    points = Points(np.array([[0.4, 0.0], [0.41, 0.02], [5.0, 5.0]]), np.ones(3))
    still = Displacement(north_up((60, 80)), "none", sigma_px=0.5, confidence=0.9, reliable=True)
    far = Displacement.none(north_up((60, 80)), reason="no texture")
    answers(lambda a, b: still if ord(b) - ord(a) == 1 else far)
    plain = series_measure.survey

    def survey(reference: View, moving: View, **more: object) -> Registration:
        return replace(plain(reference, moving, **more), points=points)  # type: ignore[arg-type]

    monkeypatch.setattr(series_measure, "survey", survey)
    found = run(tmp_path, flat(tmp_path, "abcd"))
    assert [s.displacement.dx_px for s in found.scenes] == pytest.approx([0.41, 0.82, 1.23], abs=0.01)


def test_what_is_smaller_than_its_error_is_not_worth_a_resampling(
    tmp_path: Path, answers: Callable[[Answer], None]
) -> None:
    answers(lambda a, b: shift(0.06, -0.05, sigma=0.2))
    assert run(tmp_path, flat(tmp_path, "ra")).scenes[0].displacement.model == "none"
    answers(lambda a, b: shift(0.06, -0.05, sigma=0.01))
    assert run(tmp_path, flat(tmp_path, "ra")).scenes[0].displacement.model == "shift"


def test_beyond_the_overlap_of_a_pair_its_error_grows() -> None:
    box = north_up((100, 200))
    pair = Registration(replace(shift(1.0, 0.0), geobox=box), TiePoints.none(), box[:, :100])
    at = np.array([[50.0, 50.0], [99.0, 10.0], [150.0, 50.0], [199.0, 50.0]])
    sigma = expected_errors(pair, box, at)
    assert sigma[:2] == pytest.approx(0.1)
    assert 0.15 < sigma[2] < sigma[3] < 0.4


def test_a_scene_that_cannot_be_read_is_left_out_and_named(
    tmp_path: Path, unwritten: list[tuple[str, Registration]]
) -> None:
    world = World(texture(5))
    reference, scenes = photograph(tmp_path, [world], SHIFTS[:1])
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"no raster")
    found = align_series(reference, [broken, *scenes], tmp_path / "out", reference_sensor=OPTICAL, sensors=OPTICAL)
    assert [s.displacement.reason for s in found.scenes] == ["unreadable", ""]
    assert [name for name, _ in unwritten] == ["2024-01"]
    assert "broken.tif" in json.loads((tmp_path / "out/series.json").read_text())["scenes"][0]["error"]
    with pytest.raises(SourceError, match=r"broken\.tif"):
        align_series(reference, [broken], tmp_path / "out", reference_sensor=OPTICAL, sensors=OPTICAL)


def test_settings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    paths = flat(tmp_path, "ab")
    with pytest.raises(CoregistrationError, match="as many sensors as files"):
        align_series(paths[0], paths[1:], tmp_path, reference_sensor=OPTICAL, sensors=[OPTICAL, SAR])
    with pytest.raises(CoregistrationError, match="neighbours of at least 0"):
        run(tmp_path, paths, neighbours=-1)


def test_names_are_without_doubles_and_fit_for_folders() -> None:
    paths = ["/a/S2 é.tif", "/b/x.tif", "/c/x.tif", "https://host/y.tif?sig=1/2"]
    assert names_of(paths) == ["S2__", "x", "x_3", "y"]
    assert names_of(["x/a.tif", "a_3.tif", "y/a.tif"]) == ["a", "a_3", "a_4"]


def test_two_dates_and_their_bands_close_on_a_real_scene(shared_data: Path) -> None:
    january, june = sorted((shared_data / "s2-timeseries-boadella").glob("*.tif"))
    sensor = SENSORS["sentinel2-l2a"]
    scenes = [view(june, sensor, [4]), view(june, sensor, [8]), view(june, sensor, [3])]
    found = measure_series(view(january, sensor, [4]), scenes, ["red", "near infrared", "green"])
    assert all(scene.displacement.reliable for scene in found.scenes)
    # Three bands of one acquisition lie in one place.
    places = np.array([[s.displacement.dx_px, s.displacement.dy_px] for s in found.scenes])
    assert np.hypot(*(places - places.mean(axis=0)).T).max() < 0.3
    assert np.hypot(*places.T).max() < 1.0
    assert max(e.residual_px for e in found.edges) < 0.5


def test_optical_and_radar_products_of_one_place_close(shared_data: Path) -> None:
    files = {key: shared_data / "s1s2-terramesh" / f"38D_378R_2_3_{key}.tif" for key in ("S2L2A", "S2L1C", "S1RTC")}
    radar_db = SENSORS["sentinel1-rtc-db"]
    scenes = [view(files["S2L1C"], SENSORS["sentinel2-l1c"], [4])]
    scenes += [view(files["S1RTC"], radar_db, [band]) for band in (1, 2)]
    found = measure_series(view(files["S2L2A"], SENSORS["sentinel2-l2a"], [4]), scenes, ["L1C", "VV", "VH"])
    optical_scene, vv, vh = (scene.displacement for scene in found.scenes)
    assert optical_scene.reliable
    assert np.hypot(optical_scene.dx_px, optical_scene.dy_px) < 0.3
    assert vv.reliable
    assert vh.reliable
    assert np.hypot(vv.dx_px - vh.dx_px, vv.dy_px - vh.dy_px) < 0.6
