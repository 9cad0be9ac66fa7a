from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy import ndimage

from rsgeo_gan import raster
from rsgeo_gan.catalog import SuperresCollect, load, load_superres
from rsgeo_gan.collect import collect_superres
from rsgeo_gan.coregister import remembered
from rsgeo_gan.datamodules import SuperResolutionDataModule
from rsgeo_gan.errors import CatalogError, SourceError
from rsgeo_gan.grid import sharpness
from rsgeo_gan.manifest import Manifest, asset_path
from rsgeo_gan.sample import PAN_SHIFT_PX

SIDE = 128
BOX = GeoBox((SIDE, SIDE), Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32632")
SENSOR = {"name": "camera", "modality": "optical", "unit": "reflectance", "bands": ["red", "nir"]}


def scenery(seed: int = 0) -> np.ndarray:
    """Two bands of a smooth random field, so that a cubic kernel loses nothing."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal((2, 2 * SIDE, 2 * SIDE)), (0, 5, 5))
    return (0.2 + 0.04 * field / field.std()).astype(np.float32)


def write(path: Path, values: np.ndarray, box: GeoBox, names: tuple[str, ...] = ("red", "nir")) -> Path:
    return raster.write(path, values, box, nodata=float("nan"), names=names, unit="reflectance", cog=False)


def folder(path: Path, sensor: dict[str, Any] = SENSOR, **more: Any) -> dict[str, Any]:
    return {"kind": "folder", "path": path, "sensor": sensor, **more}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image; the same 3 columns and -2 rows off on the same grid, over its western half only; a finer one."""
    root = tmp_path_factory.mktemp("places")
    ground = scenery()
    fine = GeoBox((2 * SIDE, 2 * SIDE), BOX.affine * Affine.scale(0.5), BOX.crs)
    write(root / "fine" / "fine.tif", ground, fine)
    image = ground.reshape(2, SIDE, 2, SIDE, 2).mean(axis=(2, 4))
    write(root / "image" / "image.tif", image, BOX)
    moved = np.roll(image, (-2, 3), axis=(1, 2))
    write(root / "moved" / "moved.tif", moved[:, :, : SIDE // 2 + 8], BOX[:, : SIDE // 2 + 8])
    coarse = image.reshape(2, SIDE // 4, 4, SIDE // 4, 4).mean(axis=(2, 4))
    write(root / "low" / "low.tif", coarse, GeoBox((SIDE // 4,) * 2, BOX.affine * Affine.scale(4), BOX.crs))
    return root


def settings(places: Path, **more: Any) -> SuperresCollect:
    raw = {"images": folder(places / "image"), "tile_px": 32, "min_tiles": 1, "block_tiles": 1, "max_failed_share": 0.9}
    return SuperresCollect.model_validate({**raw, **more})


def read(manifest: Manifest, number: int, asset: str) -> np.ndarray:
    return raster.read(asset_path(manifest.items[number], asset))[0]


def test_reference_is_moved_back_and_missing_ones_are_said(places: Path, tmp_path: Path) -> None:
    source = {"images": folder(places / "moved"), "mtf": None}
    manifest = collect_superres(settings(places, references=[source]), tmp_path / "tiles", workers=1)
    assert len(manifest) == 16
    entries = [item.properties["rsgeo:beside_images"]["reference"] for item in manifest]
    there = [number for number, entry in enumerate(entries) if "scene" in entry]
    assert 8 <= len(there) < 16
    first = entries[there[0]]
    assert (first["place"], first["applied"]) == ("measured", True)
    assert first["dx_px"] == pytest.approx(3, abs=0.2)
    assert first["dy_px"] == pytest.approx(-2, abs=0.2)
    for number in (there[0], there[-1]):
        image, reference = read(manifest, number, "image"), read(manifest, number, "reference")
        inside = np.s_[:, 6:-6, 6:18]
        unmoved = np.roll(image, (-2, 3), axis=(1, 2))[inside]
        assert np.abs(reference - image)[inside].mean() < 0.2 * np.abs(unmoved - image[inside]).mean()
    gone = next(entry for entry in entries if "scene" not in entry)
    assert "expected 50%" in gone["reason"] or gone["reason"] == "nothing overlaps the tile"
    module = SuperResolutionDataModule(str(tmp_path / "tiles"), patch_size=8, batch_size=2, references=1, length=2)
    module.setup("predict")
    shown = [sample["mask_reference"].any() for sample in module.predict_dataset]
    assert sum(map(bool, shown)) == len(there)


def test_what_is_finished_is_not_made_again(places: Path, tmp_path: Path) -> None:
    source = {"images": folder(places / "fine"), "align": False}
    spec = settings(places, references=[source], tile_px=64)
    first = collect_superres(spec, tmp_path / "tiles", workers=1)
    path = Path(asset_path(first.items[3], "reference"))
    before = path.stat().st_mtime_ns
    again = collect_superres(spec, tmp_path / "tiles", workers=1)
    assert path.stat().st_mtime_ns == before
    assert again.items[3].properties["rsgeo:beside_images"] == first.items[3].properties["rsgeo:beside_images"]
    path.unlink()
    collect_superres(spec, tmp_path / "tiles", workers=1)
    assert path.is_file()


def test_finer_references_are_blurred_as_by_the_optics(places: Path, tmp_path: Path) -> None:
    wave = np.cos(np.pi / 2 * (np.arange(2 * SIDE) - 0.5))  # Nyquist of the image, crests at its pixels' centres
    ground = np.broadcast_to(0.3 + 0.1 * wave, (2, 2 * SIDE, 2 * SIDE)).astype(np.float32)
    write(tmp_path / "wave" / "wave.tif", ground, GeoBox((2 * SIDE,) * 2, BOX.affine * Affine.scale(0.5), BOX.crs))
    source = {"images": folder(tmp_path / "wave"), "align": False, "mtf": 0.25}
    manifest = collect_superres(settings(places, references=[source]), tmp_path / "tiles", workers=1)
    made = read(manifest, 5, "reference")[0, 16]
    crests = np.where(np.arange(32) % 2 == 0, 1, -1)
    assert np.mean((made - 0.3) * crests) == pytest.approx(0.25 * 0.1, rel=0.02)
    assert sharpness(BOX, GeoBox((9, 9), BOX.affine * Affine.scale(0.5), BOX.crs)) == 2
    assert sharpness(BOX, BOX) == 1


def test_real_coarse_images_lie_on_the_coarser_grid_of_the_tile(places: Path, tmp_path: Path) -> None:
    low = {"images": folder(places / "low"), "align": False}
    manifest = collect_superres(settings(places, low=low, scale=4, tile_px=64), tmp_path / "tiles", workers=1)
    info = raster.inspect(asset_path(manifest.items[3], "low"))
    fine = raster.inspect(asset_path(manifest.items[3], "image")).geobox
    assert info.geobox.affine * (0, 0) == fine.affine * (0, 0)
    assert tuple(info.geobox.shape) == (16, 16)
    expected = read(manifest, 3, "image").reshape(2, 16, 4, 16, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(read(manifest, 3, "low"), expected, atol=1e-6)
    module = SuperResolutionDataModule(str(tmp_path / "tiles"), scale=4, patch_size=4, batch_size=2, length=2)
    module.setup("fit")
    assert "degradation" not in module.facts


def test_a_known_displacement_is_taken_as_it_is(places: Path, tmp_path: Path) -> None:
    source = {"images": folder(places / "moved"), "shift_m": (30.0, 20.0), "mtf": None}
    manifest = collect_superres(settings(places, references=[source]), tmp_path / "tiles", workers=1)
    entry = manifest.items[0].properties["rsgeo:beside_images"]["reference"]
    assert (entry["place"], entry["dx_px"], entry["dy_px"]) == ("given", 3.0, -2.0)
    image, reference = read(manifest, 5, "image"), read(manifest, 5, "reference")
    np.testing.assert_allclose(reference, image, atol=1e-6)


def test_what_cannot_be_is_told(places: Path, tmp_path: Path) -> None:
    far = GeoBox((SIDE, SIDE), Affine(10, 0, 700_000, 0, -10, 5_000_000), "EPSG:32632")
    write(tmp_path / "far" / "far.tif", scenery()[:, :SIDE, :SIDE], far)
    with pytest.raises(SourceError, match="no tile has a reference \\(nothing overlaps the tile\\)"):
        collect_superres(settings(places, references=[{"images": folder(tmp_path / "far")}]), tmp_path / "t", workers=1)
    nowhere = settings(places, references=[{"images": folder(tmp_path / "nowhere")}])
    with pytest.raises(SourceError, match="There is no folder"):
        collect_superres(nowhere, tmp_path / "t", workers=1)
    both, one = ({"images": folder(places / "fine", bands=bands)} for bands in (("red", "nir"), ("red",)))
    with pytest.raises(SourceError, match=r"expected red, nir .* as in the first source of references"):
        collect_superres(settings(places, references=[both, one]), tmp_path / "t", workers=1)


def test_a_catalogue_finds_its_folders_and_says_what_is_wrong(tmp_path: Path) -> None:
    text = """
kind: superres
name: here
collect:
  images: {kind: folder, path: fine}
  scale: 2
  references: [{images: {kind: folder, path: other}}, {images: {kind: dates}, count: 2}]
  low: {images: {kind: folder, path: coarse}}
"""
    path = tmp_path / "here.yaml"
    path.write_text(text)
    made = load_superres(path, overrides={"products.most": 3})
    assert made.collect.references[0].images.path == tmp_path / "other"
    assert made.collect.low is not None
    assert made.collect.low.images.path == tmp_path / "coarse"
    assert (made.products.most, made.training.recipe) == (3, "superres-small")
    with pytest.raises(CatalogError, match=r"kind: superres.*rsgeo-gan superres"):
        load(path)
    path.write_text(text.replace("count: 2", "count: 4, algn: 1").replace("scale: 2", "scale: 3"))
    with pytest.raises(CatalogError, match=r"collect.references.1.algn.*Did you mean `align`"):
        load_superres(path)
    path.write_text(text.replace("count: 2", "count: 4"))
    with pytest.raises(CatalogError, match="at most 4 references"):
        load_superres(path)
    path.write_text(text.replace("scale: 2", "scale: 3"))
    with pytest.raises(CatalogError, match=r"tile_px \(128\) to be a whole multiple of scale \(3\)"):
        load_superres(path)


def test_a_displacement_is_measured_once_and_read_back_by_the_next_call(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    survey = remembered.survey

    def counted(*given: Any, **options: Any) -> Any:
        measured.append(given)
        return survey(*given, **options)

    monkeypatch.setattr(remembered, "survey", counted)
    spec = settings(places, references=[{"images": folder(places / "moved")}], low={"images": folder(places / "low")})
    first, again = (collect_superres(spec, tmp_path / "tiles", workers=2) for _ in range(2))
    assert len(measured) == 2
    assert [item.properties for item in again] == [item.properties for item in first]


def test_one_band_files_are_images_and_references(places: Path, tmp_path: Path) -> None:
    image, _ = raster.read(places / "image" / "image.tif")
    for number, name in enumerate(("nir", "red", "swir")):
        band = image[{"red": 0, "nir": 1, "swir": 0}[name]]
        raster.write(tmp_path / "bands" / f"a_20240601_{name}.tif", band, BOX, nodata=float("nan"), cog=False)
        raster.write(tmp_path / "bands" / f"b_20240701_{name}.tif", band + number, BOX, nodata=float("nan"), cog=False)
    bands = folder(tmp_path / "bands", name_regex=r"^(?P<scene>._\d{8})_(?P<band>\w+)\.tif$", bands=["red", "nir"])
    spec = settings(places, images=bands, references=[{"images": {"kind": "dates"}, "align": False, "mtf": None}])
    manifest = collect_superres(spec, tmp_path / "tiles", workers=1)
    assert {item.properties["rsgeo:image"] for item in manifest} == {"a_20240601", "b_20240701"}
    tile = next(item for item in manifest if item.properties["rsgeo:image"] == "a_20240601")
    box = raster.inspect(asset_path(tile, "image")).geobox
    col, row = (round(length) for length in ~BOX.affine * (box.affine.c, box.affine.f))
    wanted = image[:, row : row + 32, col : col + 32]
    assert np.array_equal(raster.read(asset_path(tile, "image"))[0], wanted)
    assert raster.inspect(asset_path(tile, "image")).names == ("red", "nir")
    assert np.array_equal(raster.read(asset_path(tile, "reference"))[0], wanted + np.float32([[[1]], [[0]]]))
    for change, message in (
        ({"name_regex": r"(?P<scene>.)_(?P<band>[a-z]+)x"}, "expected files that `name_regex`.*fits"),
        ({"name_regex": r"(?P<scene>_).*_(?P<band>[a-z]+)"}, "are both band nir of image"),
    ):
        with pytest.raises(SourceError, match=message):
            collect_superres(settings(places, images={**bands, **change}), tmp_path / "none", workers=1)
    for change in ({"name_regex": "("}, {"name_regex": "(?P<scene>.)"}):
        with pytest.raises(ValueError, match=r"expression|groups"):
            settings(places, images={**bands, **change})


def test_the_samples_panchromatic_image_is_found_where_it_lies(tmp_path: Path) -> None:
    raw = {"images": {"kind": "sample", "size_px": 256}, "references": [{"images": {"kind": "sample", "days": 0}}]}
    spec = SuperresCollect.model_validate({**raw, "tile_px": 64, "block_tiles": 1, "min_tiles": 1})
    manifest = collect_superres(spec, tmp_path / "tiles", workers=1)
    entry = manifest.items[0].properties["rsgeo:beside_images"]["reference"]
    assert entry["applied"]
    assert (entry["dx_px"], entry["dy_px"]) == (
        pytest.approx(PAN_SHIFT_PX[0], abs=0.15),
        pytest.approx(PAN_SHIFT_PX[1], abs=0.15),
    )
    related = []
    for item in manifest:
        image, seen = raster.read(asset_path(item, "image"))
        pan, there = raster.read(asset_path(item, "reference"))
        both = seen & there
        related.append(np.corrcoef(image[2][both], pan[0][both])[0, 1])
    assert np.median(related) > 0.9
    assert manifest.extra["rsgeo:reference_mtf"] == [0.2]
    with pytest.raises(ValueError, match="only beside the optical images of the sample"):
        SuperresCollect.model_validate({**raw, "images": {"kind": "sample", "side": "target"}})
