"""Finer scenes: place, seams, radiometry, side products, references, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import torch
from affine import Affine
from odc.geo.geobox import GeoBox
from typer.testing import CliRunner

from rsgeo_gan import cli, raster
from rsgeo_gan.collect.pictures import NO_DATE
from rsgeo_gan.coregister import remembered
from rsgeo_gan.errors import CheckpointError, ProductError, RSGeoGANError, SourceError
from rsgeo_gan.grid import divided
from rsgeo_gan.inference.references import References, file_side, registered
from rsgeo_gan.inference.superres import superres
from rsgeo_gan.inference.superresolver import SuperResolver, turned
from rsgeo_gan.models import Constrained, RandomFeatures, SRResNet, TextureTransfer
from tests.generation import EO_BANDS, box, optical
from tests.sharpening import EO_SCALER, HERE, REFERENCE_SCALER, SCALE, Toy, ToyTransfer, checkpoint

TRUSTED = (HERE, "rsgeo_gan.models")
HEIGHT, WIDTH = 61, 75
CONTENT = {"in_channels": 3, "out_channels": 3, "scale": SCALE, "width": 4, "blocks": 1}


def _scene(path: Path, at: GeoBox | None = None, array: np.ndarray | None = None, names=EO_BANDS) -> Path:
    array = optical(HEIGHT, WIDTH) if array is None else array
    return raster.write(path, array, at or box(HEIGHT, WIDTH), nodata=0, names=names)


def _reference(path: Path, at: GeoBox) -> Path:
    row, col = np.indices(at.shape)
    first = 128 + 60 * np.sin(row / 5) + 60 * np.cos(col / 7)
    second = 128 + 100 * np.sin((row + col) / 6)
    return raster.write(path, np.stack([first, second]).astype(np.uint8), at, names=("red", "green"))


def _model(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A scene in model units, 0 where invalid, and its validity."""
    raw, valid = raster.read(path)
    model = raw * 1e-4 * EO_SCALER.gain[:, None, None] + EO_SCALER.bias[:, None, None]
    return np.where(valid, model, 0).astype(np.float32), valid


def _run(tmp_path: Path, scene: Path, network=None, **options):
    found = {name: options.pop(name) for name in ("facts",) if name in options}.get("facts", {})
    given = {"trusted": TRUSTED, "device": "cpu", "uncertainty": 0, "window_px": 16} | options
    return superres(scene, checkpoint(tmp_path / "toy.ckpt", network, **found), tmp_path / "out" / "fine.tif", **given)


def test_windows_meet_without_seams_and_nodata_stays(tmp_path):
    array = optical(HEIGHT, WIDTH)
    array[:, :20, :20] = 0
    scene = _scene(tmp_path / "scene.tif", array=array)
    made = _run(tmp_path, scene)
    model, valid = _model(scene)
    network = SuperResolver.load(tmp_path / "toy.ckpt", trusted=TRUSTED)
    whole = network(torch.from_numpy(model)[None], torch.from_numpy(valid[None, None].astype(np.float32))).image[0]
    wanted = EO_SCALER.inverse(whole.numpy()) / 1e-4
    got, fine = raster.read(made.path)
    assert np.array_equal(fine, valid.repeat(SCALE, 0).repeat(SCALE, 1))
    assert np.abs(got - np.clip(wanted, 1, 65535))[:, fine].max() <= 0.51
    assert not got[:, ~fine].any()


@pytest.mark.parametrize("scale", [2, 3])
def test_the_corner_stays_and_the_pixel_is_divided_exactly(tmp_path, scale):
    at = GeoBox(
        (HEIGHT, WIDTH),
        Affine.translation(600000.3, 5300040.7) * Affine.rotation(7) * Affine.scale(10, -10),
        "EPSG:32632",
    )
    made = _run(tmp_path, _scene(tmp_path / "scene.tif", at), Toy(scale=scale))
    with rasterio.open(made.path) as file, rasterio.open(tmp_path / "scene.tif") as given:
        assert (file.transform.c, file.transform.f) == (given.transform.c, given.transform.f)
        assert file.transform[:2] == tuple(value / scale for value in given.transform[:2])
        assert file.shape == (scale * HEIGHT, scale * WIDTH)
        ends = [
            transform * (size[1], size[0])
            for transform, size in ((file.transform, file.shape), (given.transform, given.shape))
        ]
        assert np.abs(np.subtract(*ends)).max() < 1e-9
        assert file.crs == given.crs


def test_a_product_says_what_it_is_and_is_left_alone_the_second_time(tmp_path):
    scene = _scene(tmp_path / "S2_20240601T101010.tif")
    made = _run(tmp_path, scene, uncertainty=4)
    stamp = made.path.stat().st_mtime_ns
    with rasterio.open(made.path) as file:
        tags, profile = file.tags(), file.profile
        assert file.descriptions == EO_BANDS
        assert (file.scales[0], profile["dtype"], profile["nodata"]) == (1e-4, "uint16", 0)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert (tags["SYNTHETIC"], tags["RSGEO_SCALE"], tags["RSGEO_GRID"]) == ("YES", "2", "divided source")
    item = json.loads(made.path.with_suffix(".json").read_text())
    assert item["properties"]["datetime"] == "2024-06-01T10:10:10Z"
    core = pystac.Item.from_file(str(made.path.with_suffix(".json")))
    core.stac_extensions = []  # Their schemas lie on the network, that of the core comes with pystac.
    assert core.validate()
    assert {name: asset["href"] for name, asset in item["assets"].items()} == {
        "data": "./fine.tif",
        "style": "./fine.qml",
        "uncertainty": "./fine_uncertainty.tif",
    }
    assert made.path.with_name("fine_uncertainty.qml").is_file()
    again = _run(tmp_path, scene, uncertainty=4)
    assert (made.new, again.new, again.path.stat().st_mtime_ns) == (True, False, stamp)
    less = _run(tmp_path, scene)
    assert less.new
    assert not made.path.with_name("fine_uncertainty.tif").exists()


class _Blind(Toy):
    """Gives the same whichever way up it looks."""

    def forward(self, low, mask=None):
        return torch.nn.functional.interpolate(low, scale_factor=self.scale, mode="nearest")


def test_the_spread_is_that_over_copies_and_nothing_for_a_network_without_direction(tmp_path):
    low = torch.randn(1, 3, 12, 9, generator=torch.Generator().manual_seed(1))
    network = SuperResolver.load(checkpoint(tmp_path / "toy.ckpt"), trusted=TRUSTED)
    answers = []
    for turn in range(4):
        for mirrored in (False, True):
            answer = torch.rot90(network(turned(low, turn, mirrored)).image, -turn, (2, 3))
            answers.append(answer.flip(3) if mirrored else answer)
    found = network.spread(answers[0], low, copies=8)
    assert torch.allclose(found, torch.stack(answers).std(dim=0, correction=0), atol=1e-6)
    network.network = _Blind()
    assert not network.spread(network(low).image, low, copies=8).any()


def test_the_uncertainty_is_in_the_unit_of_the_image_and_seamless(tmp_path):
    scene = _scene(tmp_path / "scene.tif")
    made = _run(tmp_path, scene, uncertainty=3)
    network = SuperResolver.load(tmp_path / "toy.ckpt", trusted=TRUSTED)
    low = torch.from_numpy(_model(scene)[0])[None]
    wanted = network.spread(network(low).image, low, copies=3)[0].numpy() / EO_SCALER.gain[:, None, None]
    got, _ = raster.read(made.path.with_name("fine_uncertainty.tif"))
    assert np.allclose(got, wanted, atol=1e-6)
    with rasterio.open(made.path.with_name("fine_uncertainty.tif")) as file:
        assert file.units[0] == "reflectance"
        assert "3 turned and mirrored copies" in file.tags()["RSGEO_UNCERTAINTY"]


def test_a_reference_in_another_crs_is_warped_once_where_it_covers_the_scene(tmp_path):
    scene = _scene(tmp_path / "scene.tif")
    fine = divided(box(HEIGHT, WIDTH), SCALE)
    degrees = fine[:, : WIDTH // 3 * SCALE].to_crs("EPSG:4326", resolution="auto")
    reference = _reference(tmp_path / "reference.tif", degrees)
    plain = raster.read(_run(tmp_path, scene, Toy()).path)[0].astype(float)
    made = raster.read(_run(tmp_path, scene, ToyTransfer(), references=[reference], align=False).path)[0]
    gate, _ = raster.read(tmp_path / "out" / "fine_similarity.tif")
    assert gate[1, 2:-2, 2 : WIDTH // 3 - 2].min() == 1
    assert gate[1, :, WIDTH // 3 + 2 :].max() == 0
    shown = raster.warp(reference, fine, resampling="cubic")
    seen = np.isfinite(shown).all(axis=0)
    added = ((made - plain) * 1e-4 * EO_SCALER.gain[:, None, None])[0]
    unclipped = seen & (made[0] > 1) & (plain[0] > 1)
    wanted = np.clip(shown / 127.5 - 1, -1, 1).mean(axis=0)
    assert np.std((added - wanted)[unclipped]) < 2e-3
    assert not added[~seen].any()


def test_windows_agree_on_the_radiometry_of_a_reference(tmp_path):
    scene = _scene(tmp_path / "scene.tif")
    reference = _reference(tmp_path / "reference.tif", divided(box(HEIGHT, WIDTH), SCALE))
    made = _run(tmp_path, scene, ToyTransfer(), references=[reference], align=False, window_px=16)
    small, _ = raster.read(made.path)
    gate, _ = raster.read(made.path.with_name("fine_similarity.tif"))
    assert gate.shape == (2, HEIGHT, WIDTH)
    assert np.all(gate[1] == 1)
    made.path.unlink()
    large, _ = raster.read(
        _run(tmp_path, scene, ToyTransfer(), references=[reference], align=False, window_px=200).path
    )
    assert np.abs(small.astype(int) - large).max() <= 1


def test_a_shifted_reference_is_found_and_moved_back(tmp_path):
    rng = np.random.default_rng(5)
    side = 192
    world = np.kron(rng.uniform(300, 2800, (side // 8 + 8, side // 8 + 8)), np.ones((16, 16)))
    world = world + rng.normal(0, 60, world.shape)
    fine = world[: 2 * side, : 2 * side]
    low = fine.reshape(side, 2, side, 2).mean(axis=(1, 3))
    scene = _scene(tmp_path / "scene.tif", box(side, side), np.stack([low] * 3).astype(np.uint16))
    moved = np.clip(world[8 : 2 * side + 8, 12 : 2 * side + 12] / 12, 1, 255).astype(np.uint8)
    reference = raster.write(
        tmp_path / "moved.tif", np.stack([moved] * 2), divided(box(side, side), 2), names=("red", "green")
    )
    made = _run(tmp_path, scene, ToyTransfer(), references=[reference], window_px=96)
    (told,) = made.item.properties["rsgeo:references"]
    assert told["applied"]
    assert (told["dx_px"], told["dy_px"]) == (pytest.approx(-6, abs=0.1), pytest.approx(-4, abs=0.1))
    gate, _ = raster.read(made.path.with_name("fine_similarity.tif"))
    assert gate[1, 5:, 7:].min() == 1
    assert max(gate[1, :3].max(), gate[1, :, :5].max()) == 0
    assert made.notes == ()


def test_references_that_resemble_nothing_are_said_to(tmp_path):
    scene = _scene(tmp_path / "scene.tif")
    reference = _reference(tmp_path / "reference.tif", divided(box(HEIGHT, WIDTH), SCALE))
    made = _run(tmp_path, scene, ToyTransfer(gate=0.0), references=[reference])
    assert any("mean gate 0.000" in note for note in made.notes)
    assert made.item.properties["rsgeo:reference_share"] == 1
    assert any("its own georeference was trusted" in note for note in made.notes)
    assert made.item.properties["rsgeo:notes"] == list(made.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"references": ["there.tif"], "network": ToyTransfer()}, "there.tif has no overlap with the scene"),
        ({"references": ["there.tif"]}, "takes no reference, got 1"),
        ({"network": ToyTransfer()}, "was trained with a reference, got none.*--reference.*--alone"),
        (
            {"facts": {"gsd": 20.0}},
            "pixels of 10 x 10 m do not fit: the network was trained to divide pixels of 20 by 2",
        ),
        ({"references": ["there.tif"], "network": ToyTransfer(), "alone": True}, "references or --alone, got both"),
        ({"device": "abacus"}, "Device 'abacus' cannot be used here"),
        ({"facts": {"scale": 4}}, "divides pixels by 2, the checkpoint's data by 4"),
        ({"facts": {"scale": None}}, "lacks facts"),
        ({"bands": [1, 2]}, "expected 3 numbers from 1 to 3"),
        ({"sensor": "sentinel1-rtc-db"}, "trained on reflectance.*given as dB"),
        ({"uncertainty": 1}, "expected 0 for none, or 2 to 8"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(tmp_path, change, message):
    scene = _scene(tmp_path / "scene.tif")
    _reference(tmp_path / "there.tif", box(20, 20, origin=(700000.0, 5300000.0)))
    change = dict(change)
    if "references" in change:
        change["references"] = [tmp_path / name for name in change["references"]]
    with pytest.raises(RSGeoGANError, match=message):
        _run(tmp_path, scene, **change)


def test_more_bands_than_the_checkpoint_knows_are_chosen_by_name_or_number(tmp_path):
    array = np.concatenate([optical(HEIGHT, WIDTH), optical(HEIGHT, WIDTH, 1)[:1]])
    unnamed = _scene(tmp_path / "unnamed.tif", array=array, names=())
    with pytest.raises(
        CheckpointError, match="more bands than the checkpoint knows: expected the 3 bands B02, B03, B04, got 4"
    ):
        _run(tmp_path, unnamed)
    chosen, _ = raster.read(_run(tmp_path, unnamed, bands=[1, 2, 3]).path)
    named = _scene(tmp_path / "named.tif", array=array[[3, 2, 1, 0]], names=("B08", "B04", "B03", "B02"))
    assert np.array_equal(raster.read(_run(tmp_path, named).path)[0], chosen)
    with pytest.raises(CheckpointError, match="missing B02"):
        _run(tmp_path, _scene(tmp_path / "lacks.tif", array=array, names=("B03", "B04", "B05", "B06")))


def test_other_checkpoints_and_outputs_are_refused(tmp_path):
    from tests.generation import checkpoint as translation

    scene = _scene(tmp_path / "scene.tif")
    with pytest.raises(
        CheckpointError, match=r"expected a checkpoint of a super-resolution, got one of .*CycleTranslation"
    ):
        superres(scene, translation(tmp_path / "t.ckpt"), tmp_path / "o.tif")
    with pytest.raises(ProductError, match="both an input and a result"):
        superres(scene, tmp_path / "toy.ckpt", scene)
    with pytest.raises(ProductError, match=r"ends in \.tif"):
        superres(scene, tmp_path / "toy.ckpt", tmp_path / "o.png")


@pytest.mark.parametrize("kind", ["constrained", "texture"])
def test_windows_of_the_networks_of_this_package_meet_without_seams(tmp_path, kind):
    plain = {"class_path": "rsgeo_gan.models.SRResNet", "init_args": dict(CONTENT)}
    content = SRResNet(**CONTENT)
    if kind == "constrained":
        network, name, given, facts = Constrained(content), "Constrained", {"network": plain}, {}
    else:
        taken = {"in_channels": 2, "width": 4}
        network = TextureTransfer(content, RandomFeatures(**taken), common=[[2, 0], [1, 1]], window_px=2, floor=0.0)
        features = {"class_path": "rsgeo_gan.models.RandomFeatures", "init_args": taken}
        given = {"content": plain, "features": features, "common": [[2, 0], [1, 1]], "window_px": 2, "floor": 0.0}
        name = "TextureTransfer"
        facts = {"reference": REFERENCE_SCALER.to_dict(), "references": 1, "common": [[2, 0], [1, 1]]}
    draw = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0, 0.04, generator=draw)
    path = checkpoint(tmp_path / "real.ckpt", network, spec=(f"rsgeo_gan.models.{name}", given), **facts)
    array = optical(HEIGHT, WIDTH) // 4 + 1500  # No answer ends at the lowest number of the file.
    array[:, :9, :20] = 0
    scene = _scene(tmp_path / "scene.tif", array=array)
    half = divided(box(HEIGHT, WIDTH), SCALE)[:, : WIDTH // 2 * SCALE]
    options = {"references": [_reference(tmp_path / "r.tif", half)] if kind == "texture" else [], "align": False}
    made = [
        superres(scene, path, tmp_path / f"{window}.tif", uncertainty=0, window_px=window, device="cpu", **options)
        for window in (16, 500)
    ]
    small, large = (raster.read(one.path)[0].astype(int) for one in made)
    assert np.abs(small - large).max() <= 1
    if kind == "constrained":
        valid = array[0] > 0
        blocks = small.reshape(3, HEIGHT, SCALE, WIDTH, SCALE).mean(axis=(2, 4))
        assert np.abs(blocks - array)[:, valid].max() <= 0.51
    else:
        gate = raster.read(tmp_path / "16_similarity.tif")[0][1]
        assert np.nanmax(gate[:, : WIDTH // 2 - 6]) > 0
        assert np.nanmax(gate[:, WIDTH // 2 + 6 :]) == 0


def test_what_lies_where_a_product_is_wanted_is_kept_unless_it_is_one(tmp_path):
    scene = _scene(tmp_path / "fine_uncertainty.tif")
    before = scene.read_bytes()
    with pytest.raises(ProductError, match="both an input and a result"):
        superres(scene, tmp_path / "toy.ckpt", tmp_path / "fine.tif")
    for name in ("mine.tif", "other_similarity.tif"):
        mine = _scene(tmp_path / name)
        with pytest.raises(ProductError, match="is there already and no earlier product"):
            superres(scene, tmp_path / "toy.ckpt", tmp_path / f"{name.removesuffix('.tif').split('_')[0]}.tif")
        assert mine.read_bytes() == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "fine.json").write_text('{"type": "FeatureCollection"}')
    assert _run(tmp_path, scene).new
    with pytest.raises(ProductError, match="Cannot write"):
        superres(scene, tmp_path / "toy.ckpt", scene / "fine.tif")


def test_a_product_with_a_file_lost_or_cut_off_is_made_again(tmp_path):
    scene = _scene(tmp_path / "scene.tif")
    made = _run(tmp_path, scene, uncertainty=2)
    side = made.path.with_name("fine_uncertainty.tif")
    side.unlink()
    assert _run(tmp_path, scene, uncertainty=2).new
    assert side.is_file()
    whole = made.path.read_bytes()
    made.path.write_bytes(whole[: len(whole) // 2])
    assert _run(tmp_path, scene, uncertainty=2).new
    assert abs(made.path.stat().st_size - len(whole)) < 64


def test_interrupted_halfway_the_earlier_product_stays_and_nothing_unfinished_does(tmp_path, monkeypatch):
    scene = _scene(tmp_path / "scene.tif")
    first = _run(tmp_path, scene)
    kept = {path.name: path.read_bytes() for path in first.path.parent.iterdir()}
    calls = []

    def stopped(self, *given):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return ask(self, *given)

    ask = SuperResolver.__call__
    monkeypatch.setattr(SuperResolver, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, scene, uncertainty=2)
    assert {path.name: path.read_bytes() for path in first.path.parent.iterdir()} == kept
    (first.path.parent / ".fine.0123abcd.stage.tif").write_bytes(b"left by a killed process")
    assert _run(tmp_path, scene, uncertainty=2).new
    assert sorted(path.name for path in first.path.parent.iterdir()) == [
        *("fine.json", "fine.qml", "fine.tif", "fine_uncertainty.qml", "fine_uncertainty.tif")
    ]


def test_a_displacement_is_measured_once_for_all_products_of_a_scene(tmp_path, monkeypatch):
    scene = _scene(tmp_path / "scene.tif")
    reference = _reference(tmp_path / "reference.tif", divided(box(HEIGHT, WIDTH), SCALE))
    measured = []

    def counted(*given, **options):
        measured.append(given)
        return survey(*given, **options)

    survey = remembered.survey
    monkeypatch.setattr(remembered, "survey", counted)
    first = _run(tmp_path, scene, ToyTransfer(), references=[reference])
    again = _run(tmp_path, scene, ToyTransfer(gate=0.5), references=[reference])
    assert again.new
    assert again.item.properties["rsgeo:references"] == first.item.properties["rsgeo:references"]
    assert len(measured) == 1
    _run(tmp_path, scene, ToyTransfer(), references=[reference], max_shift_px=8)
    _reference(reference, divided(box(HEIGHT, WIDTH), SCALE))
    _run(tmp_path, scene, ToyTransfer(), references=[reference])
    assert len(measured) == 3


def test_one_band_files_are_a_scene_and_say_when_they_do_not_go_together(tmp_path):
    array = optical(HEIGHT, WIDTH)
    wanted, _ = raster.read(_run(tmp_path, _scene(tmp_path / "scene.tif", array=array)).path)
    files = [
        raster.write(tmp_path / f"S2_{name}_10m.tif", band, box(HEIGHT, WIDTH), nodata=0)
        for name, band in zip(EO_BANDS[::-1], array[::-1], strict=True)
    ]
    made = _run(tmp_path, files)
    assert np.array_equal(raster.read(made.path)[0], wanted)
    assert not _run(tmp_path, files).new
    raster.write(files[0], array[0], box(HEIGHT, WIDTH), nodata=0)
    assert _run(tmp_path, files).new
    text = ",".join(map(str, files))
    (tmp_path / "out" / "fine.json").unlink()
    result = CliRunner().invoke(cli.app, ["superres", text, "--checkpoint", "none.ckpt", "--out", str(made.path)])
    assert "none.ckpt: no such checkpoint" in result.output
    other = raster.write(tmp_path / "S2_B02_20m.tif", array[0, ::2], box(31, WIDTH), nodata=0)
    with pytest.raises(SourceError, match=r"S2_B02_20m\.tif has 75 x 31 pixels of 10; expected the grid of"):
        _run(tmp_path, [files[0], other])
    with pytest.raises(SourceError, match=r"scene\.tif has 3 bands: expected one band"):
        _run(tmp_path, [files[0], tmp_path / "scene.tif"])


def test_fractions_offsets_and_other_units_of_length_lead_to_the_same_image(tmp_path):
    array = optical(HEIGHT, WIDTH)
    array[:, :5, :5] = 0
    wanted, valid = raster.read(_run(tmp_path, _scene(tmp_path / "scene.tif", array=array)).path)
    fractions = np.where(array == 0, np.nan, array * 1e-4).astype(np.float32)
    told = raster.write(tmp_path / "told.tif", fractions, box(HEIGHT, WIDTH), nodata=float("nan"), names=EO_BANDS)
    shifted = _scene(tmp_path / "shifted.tif", array=np.where(array == 0, 0, array + 1000).astype(np.uint16))
    foot = 0.3048006096012192
    feet = GeoBox((HEIGHT, WIDTH), Affine(10 / foot, 0, 6e6, 0, -10 / foot, 2e6), "EPSG:2225")
    for scene, options in (
        (told, {}),
        (shifted, {"offset_dn": -1000}),
        (_scene(tmp_path / "feet.tif", feet, array), {}),
    ):
        got, seen = raster.read(_run(tmp_path, scene, **options).path)
        assert np.array_equal(seen, valid)
        assert np.abs(got.astype(int) - wanted).max() <= 1
    strange = _run(tmp_path, _scene(tmp_path / "strange.tif", array=np.maximum(array, 1) + 9000))
    assert any("lie outside what the network was trained on" in note for note in strange.notes)


def test_a_time_that_is_not_known_is_not_made_up(tmp_path):
    made = _run(tmp_path, _scene(tmp_path / "scene.tif"))
    assert (made.item.properties["rsgeo:dated"], made.item.datetime) == (False, NO_DATE)


def test_a_scene_too_small_for_patches_and_references_too_coarse_are_told(tmp_path):
    scene = _scene(tmp_path / "scene.tif")
    with pytest.raises(SourceError, match="has 75 x 2 pixels; expected at least 3"):
        _run(
            tmp_path,
            _scene(tmp_path / "flat.tif", box(2, WIDTH), optical(2, WIDTH)),
            ToyTransfer(),
            references=[scene],
        )
    coarse = _reference(tmp_path / "coarse.tif", box(HEIGHT, WIDTH))
    half = _reference(tmp_path / "half.tif", divided(box(HEIGHT, WIDTH), 2)[:, :20])
    made = _run(tmp_path, scene, ToyTransfer(scale=4), references=[coarse, half], align=False)
    assert made.notes == (
        "Reference coarse.tif: its pixels are no finer than the scene's, so it can add no detail.",
        "Reference half.tif: its pixels are 2.0 times as wide as the product's, so it cannot add all the detail that "
        "there is room for.",
    )


def test_references_finer_than_the_product_are_blurred_as_in_training(tmp_path):
    finer = divided(box(24, 24), 4)  # Twice as fine as the product.
    wave = np.cos(np.pi / 2 * (np.arange(96) - 0.5))  # The product's Nyquist frequency, crests at its pixels' centres.
    array = np.broadcast_to(128 + 100 * wave, (2, 96, 96)).astype(np.uint8)
    reference = raster.write(tmp_path / "wave.tif", array, finer, names=("red", "green"))
    side = file_side(reference, REFERENCE_SCALER, None, "scene")
    found = registered(reference, side, REFERENCE_SCALER, None, align=False)
    read = References([found], box(24, 24), REFERENCE_SCALER, 2, 0.25)
    crests = np.where(np.arange(48) % 2 == 0, 1, -1)
    whole = read.read(0, 0, 24, 24)[0][0, 0]
    assert np.mean(whole[20] * crests) == pytest.approx(0.25 * 100 / 127.5, rel=0.05)
    part = read.read(8, 4, 6, 9)[0][0, 0]
    assert np.allclose(part, whole[16:28, 8:26], atol=1e-6)


def test_clouds_do_not_decide_over_the_radiometry_of_a_reference(tmp_path):
    network = SuperResolver.load(checkpoint(tmp_path / "toy.ckpt", ToyTransfer()), trusted=TRUSTED)
    draw = torch.Generator().manual_seed(2)
    low = torch.rand(2, 3, 8, 8, generator=draw) - 0.5
    sharp, seen = torch.rand(2, 1, 2, 16, 16, generator=draw), torch.ones(2, 1, 16, 16)
    given = []
    network.network.radiometry = lambda *parts: given.append(parts) or torch.zeros(1)
    low[1, 0, 2:4, :] = 3.0
    sharp[0, 0, 1, 5] = 1.5
    network.freeze(low, None, sharp, seen)
    _, _, mask, mask_reference = given[0]
    assert (mask.shape, mask_reference.shape) == ((1, 1, 16, 8), (1, 1, 32, 16))
    clouds = torch.zeros(16, 8, dtype=torch.bool)
    clouds[10:12] = True
    assert torch.equal(mask[0, 0] == 0, clouds)
    assert torch.equal((mask_reference[0, 0] == 0).nonzero()[:, 0], torch.full((16,), 5))
    network.freeze(low + 9, torch.ones(2, 1, 8, 8), sharp, seen)
    assert given[1][2].min() == 1
