"""`coregister`: who is paired with whom, what is written, what is repeated, what is dropped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import geopandas
import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from coregister_scenes import World, metres, north_up, optical, radar, texture
from odc.geo.geobox import GeoBox

from rsgeo_gan.catalog import Pairing
from rsgeo_gan.coregister import coregister, stage
from rsgeo_gan.coregister.pairing import choose_pairs
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.errors import CoregistrationError, ProductError, SourceError
from rsgeo_gan.manifest import Manifest, displacement_of, make_item

DAY = datetime(2024, 5, 1, tzinfo=UTC)


def scene(
    name: str,
    side: str,
    *,
    day: float = 0.0,
    sar: bool | None = None,
    at: float = 2000.0,
    path: str = "/nowhere.tif",
    **more: object,
) -> pystac.Item:
    """A scene item; the source side is optical unless said otherwise."""
    radar_side = side == "target" if sar is None else sar
    unit, band = ("linear", "VV") if radar_side else ("dn", "red")
    sensor = {"name": name, "modality": "sar" if radar_side else "optical", "unit": unit, "bands": [band]}
    properties = {"rsgeo:side": side, "rsgeo:sensor": sensor, "rsgeo:bands": [band], "rsgeo:band_indexes": [1], **more}
    return make_item(
        name, north_up(at=at), when=DAY + timedelta(days=day), properties=properties, assets={"data": path}
    )


def pairs_of(scenes: list[pystac.Item], **rules: object) -> list[tuple[str, str]]:
    chosen, _ = choose_pairs(scenes, Pairing(**rules))  # type: ignore[arg-type]
    return [(c.source.item.id, c.target.item.id) for c in chosen]


def reasons(scenes: list[pystac.Item], **rules: object) -> dict[str, str]:
    _, dropped = choose_pairs(scenes, Pairing(**rules))  # type: ignore[arg-type]
    return {entry.id: entry.code for entry in dropped}


def test_each_source_takes_the_target_closest_in_time() -> None:
    scenes = [
        scene("a", "source"),
        scene("b", "source", day=2),
        scene("x", "target", day=-1),
        scene("y", "target", day=1.5),
    ]
    assert pairs_of(scenes) == [("a", "x"), ("b", "y")]


def test_scenes_further_apart_than_the_gap_are_not_paired() -> None:
    scenes = [scene("a", "source"), scene("x", "target", day=4)]
    assert pairs_of(scenes, max_gap_days=3) == []
    _, dropped = choose_pairs(scenes, Pairing(max_gap_days=3))
    assert [entry.id for entry in dropped] == ["a"]
    assert "4.0 days away, more than max_gap_days 3" in dropped[0].reason


def test_footprints_must_share_enough() -> None:
    # Boxes of 3200 m, 2800 m apart along both axes: an eighth of the side, a 64th of the area.
    scenes = [scene("a", "source"), scene("x", "target", at=4800.0)]
    assert pairs_of(scenes, min_overlap_share=0.01) == [("a", "x")]
    assert pairs_of(scenes, min_overlap_share=0.05) == []
    assert reasons(scenes, min_overlap_share=0.05) == {"a": "no partner"}


def test_clouded_optical_scenes_are_left_out_on_whichever_side() -> None:
    cloudy = {"eo:cloud_cover": 80.0}
    scenes = [scene("a", "source", **cloudy), scene("x", "target")]
    assert reasons(scenes, max_cloud_pct=20) == {"a": "cloud"}
    turned = [scene("s", "source", sar=True), scene("o", "target", sar=False, **cloudy)]
    assert reasons(turned, max_cloud_pct=20) == {"o": "cloud", "s": "no partner"}


def look(state: str, orbit: int) -> dict[str, object]:
    return {"rsgeo:orbit_state": state, "rsgeo:relative_orbit": orbit}


def test_looks_are_not_mixed_unasked() -> None:
    scenes = [
        scene("a", "source"),
        scene("b", "source", day=10),
        scene("c", "source", day=20),
        scene("x", "target", day=0.1, **look("ascending", 8)),
        scene("y", "target", day=1, **look("descending", 95)),
        scene("z", "target", day=11, **look("descending", 95)),
        scene("w", "target", day=20.5, **look("ascending", 8)),
        scene("v", "target", day=21, **look("descending", 95)),
    ]
    assert pairs_of(scenes) == [("a", "y"), ("b", "z"), ("c", "v")]
    assert reasons(scenes) == {"x": "other look", "w": "other look"}
    assert pairs_of(scenes, mix_orbits=True) == [("a", "x"), ("b", "z"), ("c", "w")]
    assert pairs_of(scenes, orbit_state="ascending") == [("a", "x"), ("c", "w")]
    assert pairs_of(scenes, relative_orbit=8) == [("a", "x"), ("c", "w")]


def test_a_source_seen_only_from_another_look_is_dropped_with_that_reason() -> None:
    scenes = [
        scene("a", "source"),
        scene("b", "source", day=10),
        scene("c", "source", day=20),
        scene("x", "target", **look("ascending", 8)),
        scene("y", "target", day=10, **look("ascending", 8)),
        scene("z", "target", day=20, **look("descending", 95)),
    ]
    assert pairs_of(scenes) == [("a", "x"), ("b", "y")]
    assert reasons(scenes) == {"c": "other look", "z": "other look"}


def test_areas_apart_keep_their_own_looks() -> None:
    scenes = [
        scene("a", "source", at=0.0),
        scene("b", "source", at=6000.0),
        scene("x", "target", at=0.0, **look("ascending", 8)),
        scene("y", "target", at=6000.0, **look("descending", 95)),
    ]
    assert pairs_of(scenes) == [("a", "x"), ("b", "y")]


@pytest.fixture(scope="module")
def world() -> World:
    return World(texture(11))


Collection = Callable[..., Manifest]


@pytest.fixture
def collection(tmp_path: Path, world: World) -> Collection:
    """Scene manifests with rasters behind them: source optical, target SAR moved by (3, -2) px."""

    def build(n: int = 1, *, flipped: bool = False) -> Manifest:
        scenes = Manifest(tmp_path / "run" / "scenes" / "scenes.json")
        box = north_up()
        for i in range(n):
            eye = optical(tmp_path / f"eye{i}.tif", world.on(box), box)
            sar = radar(tmp_path / f"sar{i}.tif", world.on(box, metres(box, (3.0, -2.0))), box, seed=i)
            sides = ("target", "source") if flipped else ("source", "target")
            scenes.add(scene(f"eye{i}", sides[0], day=10 * i, sar=False, path=str(eye)))
            scenes.add(scene(f"sar{i}", sides[1], day=10 * i + 1, sar=True, path=str(sar)))
        return scenes

    return build


@pytest.mark.parametrize("flipped", [False, True])
def test_the_optical_scene_is_the_reference_on_either_side(
    collection: Collection, tmp_path: Path, flipped: bool
) -> None:
    pairs = coregister(collection(flipped=flipped), Pairing(), tmp_path / "pairs")
    (pair,) = pairs
    found = Displacement.from_dict(pair.properties["rsgeo:displacement"])
    assert pair.properties["rsgeo:reference"] == ("target" if flipped else "source")
    assert pair.properties["rsgeo:reliable"] is True
    assert np.allclose(found.at(160, 160), (3.0, -2.0), atol=0.1)
    assert found.geobox == north_up()
    assert pair.properties["rsgeo:source_item"] == ("sar0" if flipped else "eye0")
    assert pair.properties["rsgeo:gap_days"] == pytest.approx(1.0)
    assert 0 <= pair.properties["rsgeo:residual_px"] < 0.5


def test_displacement_and_tie_points_are_written_for_a_gis(collection: Collection, tmp_path: Path) -> None:
    pairs = coregister(collection(), Pairing(), tmp_path / "pairs")
    again = Manifest.read(tmp_path / "pairs" / "pairs.json")
    assert again.ids() == pairs.ids() == ["eye0__sar0"]
    with rasterio.open(again.items[0].assets["displacement"].href) as field:
        assert field.descriptions == ("dx", "dy", "confidence", "sigma_px")
        assert field.crs == "EPSG:32633"
        assert field.bounds == pytest.approx(tuple(north_up().boundingbox))
        assert field.read(1).mean() == pytest.approx(3.0, abs=0.1)
        assert field.read(2).mean() == pytest.approx(-2.0, abs=0.1)
    points = geopandas.read_file(again.items[0].assets["tie_points"].href)
    assert points.crs == "EPSG:32633"
    assert len(points) >= 9
    used = points[points.used]
    assert used.dx_px.median() == pytest.approx(3.0, abs=0.2)
    west, south, east, north = north_up().boundingbox
    start = points.geometry.get_coordinates().groupby(level=0).first()
    assert start.x.between(west, east).all()
    assert start.y.between(south, north).all()
    end = used.geometry.get_coordinates().groupby(level=0).last()
    assert (end.x - start.x[used.index]).median() == pytest.approx(30, abs=2)
    assert (end.y - start.y[used.index]).median() == pytest.approx(20, abs=2)


def test_a_field_travels_through_the_pairs_of_the_stage(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = north_up()
    nodes = GeoBox((6, 6), box.affine * Affine.scale(64) * Affine.translation(-0.5, -0.5), box.crs)
    row, col = np.indices(nodes.shape).astype(np.float32)
    bent = Field(nodes, np.stack([col * row / 9, -row / 4]), 0.2 + col / 50, np.float32(1) - row / 10)
    inner = stage.survey

    def survey(*args: object, **settings: object) -> object:
        found = inner(*args, **settings)  # type: ignore[arg-type]
        return replace(found, displacement=Displacement(box, "field", (1, 0, 0, 0, 0, 0), 0.3, 0.9, True, 25, "", bent))

    monkeypatch.setattr(stage, "survey", survey)
    coregister(collection(), Pairing(), tmp_path / "pairs")
    (pair,) = Manifest.read(tmp_path / "pairs" / "pairs.json")
    back = displacement_of(pair)
    assert back.field is not None
    assert back.field.digest == bent.digest
    assert np.array_equal(back.field.confidence, bent.confidence)


def test_a_finished_pair_is_not_measured_again(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = collection()
    coregister(scenes, Pairing(), tmp_path / "pairs")
    written = (tmp_path / "pairs" / "pairs.json").read_bytes()
    calls: list[object] = []
    inner = stage.survey
    monkeypatch.setattr(stage, "survey", lambda *a, **k: calls.append(a) or inner(*a, **k))
    coregister(scenes, Pairing(), tmp_path / "pairs")
    assert calls == []
    assert (tmp_path / "pairs" / "pairs.json").read_bytes() == written
    coregister(scenes, Pairing(max_shift_px=8), tmp_path / "pairs")
    assert len(calls) == 1


def test_an_interrupted_run_keeps_the_pairs_that_were_finished(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = collection(2)
    inner = stage.survey
    calls: list[object] = []

    def pull_the_plug(*args: object, **settings: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return inner(*args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "survey", pull_the_plug)
    with pytest.raises(KeyboardInterrupt):
        coregister(scenes, Pairing(), tmp_path / "pairs")
    assert Manifest.read(tmp_path / "pairs" / "pairs.json").ids() == ["eye0__sar0"]
    assert coregister(scenes, Pairing(), tmp_path / "pairs").ids() == ["eye0__sar0", "eye1__sar1"]
    assert len(calls) == 3


def test_one_unreadable_scene_does_not_stop_the_others(collection: Collection, tmp_path: Path) -> None:
    scenes = collection(2)
    (tmp_path / "sar1.tif").write_bytes(b"not a raster")
    pairs = coregister(scenes, Pairing(), tmp_path / "pairs")
    assert pairs.ids() == ["eye0__sar0"]
    assert [(entry.id, entry.code) for entry in pairs.dropped] == [("eye1__sar1", "unreadable")]
    with pytest.raises(SourceError, match="1 of 2 items failed"):
        coregister(scenes, Pairing(), tmp_path / "pairs", max_failed_share=0.4)


def test_a_raster_that_lies_elsewhere_than_its_item_says_is_dropped(
    collection: Collection, tmp_path: Path, world: World
) -> None:
    scenes = collection(2)
    elsewhere = GeoBox((320, 320), Affine(10, 0, 600_000, 0, -10, 5_400_000), "EPSG:32633")
    radar(tmp_path / "sar1.tif", world.on(north_up()), elsewhere)
    pairs = coregister(scenes, Pairing(), tmp_path / "pairs")
    assert [(entry.id, entry.code) for entry in pairs.dropped] == [("eye1__sar1", "no overlap")]
    assert "check the georeference" in pairs.dropped[0].reason


def test_a_folder_that_cannot_be_written_is_named(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text("a file where the folder should be")
    with pytest.raises(ProductError, match=r"Cannot write .*pairs"):
        coregister(collection(), Pairing(), tmp_path / "pairs")


def test_a_pair_that_cannot_be_judged_stays_and_says_so(collection: Collection, tmp_path: Path) -> None:
    scenes = collection()
    box: GeoBox = north_up()
    radar(tmp_path / "sar0.tif", World(texture(99)).on(box), box)
    (pair,) = coregister(scenes, Pairing(), tmp_path / "pairs")
    assert pair.properties["rsgeo:reliable"] is False
    assert pair.properties["rsgeo:reason"]
    assert pair.properties["rsgeo:confidence"] == 0
    assert pair.properties["rsgeo:residual_px"] is None
    assert pair.properties["rsgeo:displacement"]["model"] == "none"


def test_no_pair_at_all_is_an_error_that_gives_the_first_reason(tmp_path: Path) -> None:
    scenes = Manifest(tmp_path / "scenes.json", [scene("a", "source"), scene("x", "target", day=30)])
    with pytest.raises(CoregistrationError, match=r"1 source and 1 target.*30\.0 days away"):
        coregister(scenes, Pairing(), tmp_path / "pairs")
    assert [entry.code for entry in Manifest.read(tmp_path / "pairs" / "pairs.json").dropped] == ["no partner"]


def test_an_unknown_method_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(CoregistrationError, match="no method 'magic'"):
        coregister(Manifest(tmp_path / "scenes.json"), Pairing(method="magic"), tmp_path / "pairs")


def test_progress_is_told_about_every_pair(collection: Collection, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    coregister(collection(2), Pairing(), tmp_path / "pairs", progress=lambda *step: told.append(step))
    assert told == [("co-registering", 0, 2), ("co-registering", 1, 2), ("co-registering", 2, 2)]
