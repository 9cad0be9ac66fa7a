"""Images from noise as products: where they lie, what they say of themselves, what decides their pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import torch

from rsgeo_gan import models, raster
from rsgeo_gan.catalog import SyntheticProducts
from rsgeo_gan.errors import CatalogError, CheckpointError, SourceError
from rsgeo_gan.grid import same_lattice
from rsgeo_gan.inference import synthesis
from rsgeo_gan.inference.devices import device_of
from rsgeo_gan.inference.synthesis import plan, read_model, synthesize
from rsgeo_gan.inference.synthesizer import Synthesizer
from rsgeo_gan.inference.walks import walks
from rsgeo_gan.manifest import Manifest, asset_path, item_box
from tests.generation import checkpoint as translation
from tests.synthesis import AUTOENCODER, CLASSES, CONDITIONS, EO_SCALER, SIZE_PX, autoencoder, checkpoint, tiles

GRID = {"crs": "EPSG:32632", "origin": (500000, 5200000), "columns": 2}


def wanted(**settings) -> SyntheticProducts:
    return SyntheticProducts.model_validate({"count": 2, **settings})


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "synthesis-small.ckpt")


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> Manifest:
    return tiles(tmp_path_factory.mktemp("places"))


@pytest.fixture(scope="module")
def made(model: Path, places: Manifest, tmp_path_factory) -> Manifest:
    """Two images of each class on the cells of tiles; not to be changed by tests."""
    return synthesize(model, tmp_path_factory.mktemp("made"), wanted(), tiles=places)


def pixels(item: pystac.Item) -> np.ndarray:
    return raster.read(asset_path(item, "data"))[0]


def test_images_lie_on_the_cells_of_tiles_of_their_class(made: Manifest, places: Manifest) -> None:
    assert [item.properties["rsgeo:label"] for item in made] == [name for name in CLASSES for _ in range(2)]
    for item in made:
        (source,) = item.properties["rsgeo:from"]
        tile = places.get(source)
        assert raster.inspect(asset_path(item, "data")).geobox == item_box(item) == item_box(tile)
        assert tile.properties["rsgeo:label"] == item.properties["rsgeo:label"]
        assert item.properties["rsgeo:conditions"] == {
            "label": tile.properties["rsgeo:label"],
            "day": tile.properties["rsgeo:day"],
        }
        assert item.datetime == tile.datetime


def test_products_have_the_sensor_s_form_and_say_that_they_are_synthetic(made: Manifest, model: Path) -> None:
    item = made.items[2]
    with rasterio.open(asset_path(item, "data")) as file:
        tags, image = file.tags(), file.read()
        assert (file.dtypes[0], file.nodata, file.scales[0], file.units[0]) == ("uint16", 0, 1e-4, "reflectance")
        assert file.descriptions == EO_SCALER.bands
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert image.min() >= 1
    assert np.ptp(image) > 100
    found = item.properties
    assert (tags["SYNTHETIC"], tags["RSGEO_LABEL"], tags["RSGEO_SEED"]) == ("YES", "forest", str(found["rsgeo:seed"]))
    assert json.loads(tags["RSGEO_CONDITIONS"]) == found["rsgeo:conditions"]
    assert tags["RSGEO_CHECKPOINT"] == found["rsgeo:checkpoint"] == Synthesizer.load(model).digest
    assert found["rsgeo:synthetic"] is True
    assert not {"RSGEO_DIRECTION", "RADIUS_PX"} & tags.keys()
    style = Path(asset_path(item, "style")).read_text()
    assert 'redBand="3"' in style
    assert f"<maxValue>{EO_SCALER.high[2]:.6g}</maxValue>" in style


def test_the_values_are_the_generator_s_own_in_the_sensor_s_unit(made: Manifest, model: Path) -> None:
    item = made.items[0]
    synthesizer = Synthesizer.load(model)
    z = torch.randn(1, 8, generator=torch.Generator().manual_seed(item.properties["rsgeo:seed"]))
    code = torch.from_numpy(CONDITIONS.encode(item.properties["rsgeo:conditions"]))[None]
    with torch.no_grad():
        image = synthesizer.generator(z, code)[0].clamp(-1, 1).numpy()
    low, high = (np.array(part)[:, None, None] for part in (EO_SCALER.low, EO_SCALER.high))
    reflectance = (image + 1) / 2 * (high - low) + low
    assert np.abs(pixels(item) - np.clip(reflectance * 1e4, 1, 65535)).max() <= 0.51


def test_an_image_does_not_depend_on_those_made_beside_it(
    made: Manifest, model: Path, places: Manifest, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    alone = synthesize(model, tmp_path, wanted(count=1, classes=["forest"]), tiles=places)
    (item,) = alone
    assert np.array_equal(pixels(item), pixels(made.get(item.id)))


def test_finished_images_are_kept_and_more_are_added(model: Path, places: Manifest, tmp_path: Path) -> None:
    def state() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.tif")}

    first = synthesize(model, tmp_path, wanted(count=1, classes=["field"]), tiles=places)
    before, told = state(), (tmp_path / "products.json").read_bytes()
    synthesize(model, tmp_path, wanted(count=1, classes=["field"]), tiles=places)
    assert state() == before
    assert (tmp_path / "products.json").read_bytes() == told
    more = synthesize(model, tmp_path, wanted(count=2, classes=["forest"]), tiles=places)
    assert len(more) == 3
    assert {name: time for name, time in state().items() if name in before} == before
    other = synthesize(model, tmp_path, wanted(count=1, classes=["field"], truncation=0.5), tiles=places)
    assert other.ids() == first.ids()
    assert state()[f"{first.ids()[0]}.tif"] != before[f"{first.ids()[0]}.tif"]


def test_what_was_made_before_an_interruption_is_listed_and_kept(
    model: Path, places: Manifest, made: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of an image: its raster is there, its item is not."""
    write, written = synthesis.write_item, []

    def interrupted(item: pystac.Item, path: Path) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        write(item, path)

    monkeypatch.setattr(synthesis, "write_item", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthesize(model, tmp_path, wanted(), tiles=places)
    assert len(list(tmp_path.glob("*.tif"))) == 3
    assert Manifest.read(tmp_path / "products.json").ids() == made.ids()[:2]
    before = {path: path.stat().st_mtime_ns for path in written}
    monkeypatch.setattr(synthesis, "write_item", write)
    again = synthesize(model, tmp_path, wanted(), tiles=places)
    assert again.ids() == made.ids()
    assert {path: path.stat().st_mtime_ns for path in written} == before
    assert all(np.array_equal(pixels(again.get(name)), pixels(made.get(name))) for name in made.ids())
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_device_is_taken_by_name(model: Path, places: Manifest, tmp_path: Path) -> None:
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert Synthesizer.load(model, device="auto").device == device_of("auto")
    for name in ("cuda:63", "abacus"):
        with pytest.raises(CatalogError, match=f"Device '{name}' cannot be used here"):
            synthesize(model, tmp_path / "b", wanted(), tiles=places, device=name)
    assert not (tmp_path / "b").exists()


def test_a_damaged_image_is_made_again(model: Path, places: Manifest, tmp_path: Path) -> None:
    (item,) = synthesize(model, tmp_path, wanted(count=1, classes=["field"]), tiles=places)
    expected = pixels(item)
    (tmp_path / f"{item.id}.json").write_text("{")
    Path(asset_path(item, "data")).unlink()
    (again,) = synthesize(model, tmp_path, wanted(count=1, classes=["field"]), tiles=places)
    assert np.array_equal(pixels(again), expected)


def test_on_a_declared_grid_images_lie_side_by_side(model: Path, tmp_path: Path) -> None:
    found = synthesize(model, tmp_path, wanted(count=3, grid=GRID, conditions={"day": 172}))
    boxes = [item_box(item) for item in found]
    places = [same_lattice(boxes[0], box) for box in boxes]
    assert all(place is not None and not (place[0] % SIZE_PX or place[1] % SIZE_PX) for place in places)
    assert len(set(places)) == len(places) == 9
    assert places[:4] == [(0, 0), (SIZE_PX, 0), (0, SIZE_PX), (2 * SIZE_PX, 0)]
    assert (boxes[0].affine.c, boxes[0].affine.f, str(boxes[0].crs)) == (500000, 5200000, "EPSG:32632")
    assert {item.properties["rsgeo:grid"] for item in found} == {"declared"}


def test_names_stay_in_the_folder_and_apart(made: Manifest, places: Manifest, tmp_path: Path) -> None:
    odd = ("../../etc", "..", "a b", "a/b")
    conditions = type(CONDITIONS)((type(CONDITIONS.parts[0])("label", odd),))
    path = checkpoint(tmp_path / "m" / "odd.ckpt", conditions)
    out = tmp_path / "out"
    found = synthesize(path, out, wanted(count=1, grid=GRID))
    assert len({item.id for item in found}) == len(odd)
    assert [item.properties["rsgeo:label"] for item in found] == list(odd)
    assert all(Path(asset_path(item, "data")).parent == out.resolve() for item in found)
    assert {path.name for path in tmp_path.iterdir()} == {"m", "out"}


def test_a_class_without_a_tile_is_left_out_unless_it_was_asked_for(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places = tiles(tmp_path, 4)
    for item in places:
        if item.properties["rsgeo:label"] == "field":
            item.properties["rsgeo:split"] = "test"
    cells = plan(Synthesizer.load(model), wanted(count=2), places)
    assert {cell.label for cell in cells} == set(CLASSES) - {"field"}
    assert "class field left out" in caplog.text


def test_a_smaller_or_larger_tile_gives_its_middle(model: Path, tmp_path: Path) -> None:
    for size in (12, 21):
        places = tiles(tmp_path / str(size), 3, size_px=size)
        (cell,) = plan(Synthesizer.load(model), wanted(count=1, classes=["field"]), places)
        assert cell.tile is not None
        assert same_lattice(item_box(cell.tile), cell.box) == ((size - SIZE_PX) // 2,) * 2
        image, valid = read_model(cell.tile, cell.box, Synthesizer.load(model))
        assert image.shape == (3, SIZE_PX, SIZE_PX)
        assert valid.sum() == min(size, SIZE_PX) ** 2 - (size < SIZE_PX)
        assert not image[:, ~valid].any()


def test_without_conditions_every_tile_is_a_place(places: Manifest, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "plain.ckpt", None)
    found = synthesize(path, tmp_path / "out", wanted(count=7), tiles=places)
    assert {item.properties["rsgeo:from"][0] for item in found} == set(places.ids())
    assert len({item.properties["rsgeo:seed"] for item in found}) == 7
    assert all("rsgeo:label" not in item.properties for item in found)


def test_truncation_draws_images_towards_one(model: Path) -> None:
    synthesizer = Synthesizer.load(model)
    asked = {"label": "forest", "day": 172}

    def spread(psi: float) -> float:
        images = [synthesizer(synthesizer.latent(seed), asked, truncation=psi) for seed in range(4)]
        return float(np.std(images, axis=0).mean())

    assert spread(0) < 0.7 * spread(1)
    assert synthesizer.generator.truncation == 1


def test_an_encoded_tile_keeps_its_place_and_its_nodata_under_another_condition(tmp_path: Path) -> None:
    places = tiles(tmp_path / "tiles", 3, size_px=2 * SIZE_PX)
    path = autoencoder(tmp_path / "auto.ckpt")
    settings = wanted(count=1, classes=["forest"], latent="tile", conditions={"day": 172, "label": "field"})
    (item,) = synthesize(path, tmp_path / "out", settings, tiles=places)
    tile = places.get(item.properties["rsgeo:from"][0])
    assert tile.properties["rsgeo:label"] == "forest"
    assert item.properties["rsgeo:label"] == "field"
    assert "rsgeo:seed" not in item.properties
    values, valid = raster.read(asset_path(item, "data"))
    assert not values[:, 0, 0].any()
    assert valid.sum() == (2 * SIZE_PX) ** 2 - 1

    synthesizer = Synthesizer.load(path)
    image, known = read_model(tile, item_box(tile), synthesizer)
    networks = {name: getattr(models, kind)(**given) for name, (kind, given) in AUTOENCODER.items()}
    stored = torch.load(path, weights_only=True)["state_dict"]
    for name, network in networks.items():
        network.load_state_dict({key.partition(".")[2]: part for key, part in stored.items() if key.startswith(name)})
        network.eval()
    code = torch.from_numpy(CONDITIONS.encode({"day": 172, "label": "field"}))[None]
    with torch.no_grad():
        z = networks["encoder"](torch.from_numpy(image)[None])
        expected = (networks["generator"](z, code) + networks["residual"](z, code)).clamp(-1, 1)[0].numpy()
    reflectance = synthesizer.scaler.inverse(expected) * 1e4
    assert np.abs(values - np.clip(reflectance, 1, 65535))[:, known].max() <= 0.51


def test_walks_of_an_encoded_tile_begin_with_the_tile(tmp_path: Path) -> None:
    places = tiles(tmp_path / "tiles", 3, size_px=2 * SIZE_PX)
    synthesizer = Synthesizer.load(autoencoder(tmp_path / "auto.ckpt"))
    rows = walks(synthesizer, wanted(conditions={"day": 100}), places, steps=3, most_classes=1)
    day = rows[-1]
    assert (day.title, day.captions[0], len(day.images)) == ("field: day, the same place", "real", 4)
    assert np.isnan(day.images[0][:, 0, 0]).all()
    assert np.isfinite(day.images[1:]).all()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"classes": ["desert"]}, CatalogError, "there is no class 'desert'; expected one of field, forest"),
        ({"split": "test"}, SourceError, "No class of the model has a tile in the split 'test'"),
        ({"split": "test", "classes": ["field"]}, SourceError, "has no tile of class field in the split 'test'"),
        ({"conditions": {"cloud": 1}}, CatalogError, "no condition 'cloud'; expected one of label, day"),
        ({"grid": GRID}, CatalogError, "Conditions day have no value"),
        ({"latent": "tile", "grid": GRID}, CatalogError, "leave one of the two out"),
        ({"latent": "tile"}, CheckpointError, "has no encoder"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_made(
    settings: dict, error: type[Exception], message: str, model: Path, places: Manifest, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        synthesize(model, tmp_path, wanted(**settings), tiles=places)
    assert not list(tmp_path.glob("*.tif"))


def test_other_checkpoints_are_refused_with_what_to_do(tmp_path: Path, places: Manifest) -> None:
    with pytest.raises(CheckpointError, match="Translate scenes with `rsgeo-gan generate`"):
        Synthesizer.load(translation(tmp_path / "t.ckpt"))
    coarse = checkpoint(tmp_path / "c.ckpt", gsd=20.0)
    with pytest.raises(CheckpointError, match="has pixels of 10, the model was trained on 20"):
        synthesize(coarse, tmp_path / "out", wanted(), tiles=places)
    with pytest.raises(CheckpointError, match="takes 5 numbers of conditions, the checkpoint describes 0"):
        Synthesizer.load(checkpoint(tmp_path / "d.ckpt", conditions={}))
