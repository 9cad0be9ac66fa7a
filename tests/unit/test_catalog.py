from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from sources import BOX, catalogue, decibel, dn, write

from rsgeo_gan.catalog import Area, Catalog, FolderSide, Period, StacSide, load
from rsgeo_gan.catalog.guess import match_bands
from rsgeo_gan.errors import CatalogError, GridError, SourceError
from rsgeo_gan.sensors import SENSORS, get_sensor

EO = {"kind": "folder", "path": "eo", "sensor": "sentinel2-l2a", "bands": ["B02", "B03", "B04", "B08"]}
SAR = {"kind": "folder", "path": "sar", "sensor": "sentinel1-rtc-db"}


def loaded(folder: Path, source: dict[str, Any] = EO, target: dict[str, Any] = SAR, **more: Any) -> Catalog:
    return load(catalogue(folder / "toy.yaml", source, target, **more))


def test_a_folder_catalogue_loads_with_defaults_and_absolute_paths(tmp_path: Path) -> None:
    made = loaded(tmp_path)
    assert isinstance(made.source, FolderSide)
    assert made.source.path == tmp_path / "eo"
    assert made.source.band_names == ("B02", "B03", "B04", "B08")
    assert made.target.band_names == ("VV", "VH")
    assert made.grid.crs == made.grid.gsd_m == "auto"
    assert made.pairing.orbit_state is None
    assert made.products.directions == ("source_to_target",)


def test_a_catalogue_cannot_be_changed_after_loading(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        loaded(tmp_path).pairing.max_gap_days = 5  # type: ignore[misc]


def test_relative_paths_start_from_root_when_it_is_given(tmp_path: Path) -> None:
    made = loaded(tmp_path, root="deeper/data")
    assert isinstance(made.source, FolderSide)
    assert made.source.path == tmp_path / "deeper/data/eo"


def test_overrides_replace_values_and_start_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = catalogue(tmp_path / "a" / "toy.yaml", EO, SAR)
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    made = load(
        path, overrides={"source.path": "mine", "training.overrides.trainer.max_epochs": 3, "grid.tile_px": 128}
    )
    assert isinstance(made.source, FolderSide)
    assert made.source.path == tmp_path / "b/mine"
    assert made.training.overrides == {"trainer.max_epochs": 3}
    assert made.grid.tile_px == 128


def test_an_override_of_root_moves_both_sides(tmp_path: Path) -> None:
    path = catalogue(tmp_path / "toy.yaml", EO, SAR)
    made = load(path, overrides={"root": str(tmp_path / "elsewhere")})
    assert isinstance(made.source, FolderSide)
    assert isinstance(made.target, FolderSide)
    assert made.source.path == tmp_path / "elsewhere/eo"
    assert made.target.path == tmp_path / "elsewhere/sar"


def test_an_override_through_a_plain_value_is_refused(tmp_path: Path) -> None:
    path = catalogue(tmp_path / "toy.yaml", EO, SAR)
    with pytest.raises(CatalogError, match=r"key `name.x` cannot be set, `name` is 'toy'"):
        load(path, overrides={"name.x": 1})


def test_a_bare_name_is_found_in_the_working_directory_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load("sample").name == "sample"
    catalogue(tmp_path / "catalogs" / "sample.yaml", EO, SAR)
    assert load("sample").name == "toy"


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = (
        "Catalogue nope: expected a YAML file or one of sample, superres, superres-reference, synthesis, found none of"
    )
    with pytest.raises(CatalogError, match=expected):
        load("nope")


def test_an_unknown_key_names_file_key_choices_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CatalogError) as caught:
        loaded(tmp_path, pairing={"max_gap": 3})
    text = str(caught.value)
    assert str(tmp_path / "toy.yaml") in text
    assert "key `pairing.max_gap`: expected one of max_cloud_pct, max_gap_days" in text
    assert "Did you mean `max_gap_days`?" in text
    assert "Mend the catalogue" in text


def test_an_unknown_key_of_a_side_lists_the_keys_of_its_kind(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"key `source.collection`: expected one of bands, .*glob.*; got an unknown"):
        loaded(tmp_path, {**EO, "collection": "x"})


def test_a_wrong_value_is_shown(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"key `pairing.max_gap_days`: expected .*number.*; got 'many'"):
        loaded(tmp_path, pairing={"max_gap_days": "many"})


def test_several_problems_are_listed_together(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="has 2 problems") as caught:
        loaded(tmp_path, {"kind": "folder", "sensor": "sentinel2-l2a"}, {**SAR, "kind": "ftp"})
    assert "key `source.path`: expected a value, got nothing" in str(caught.value)
    assert "key `target.kind`: expected one of sample, folder, stac; got ftp" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"sensor": "sentinel9"}, r"key `source.sensor`: expected one of sentinel1-display, .*; got 'sentinel9'"),
        ({"bands": ["B02", "B99"]}, r"key `source.bands`: expected bands of sentinel2-l2a, which are B01, .*B99"),
        ({"bands": ["B02", "blue"]}, r"key `source.bands`: expected each band once"),
        ({"sensor": {"name": "x", "unit": "dn"}, "bands": []}, r"`source.sensor`: .*is not complete.*modality"),
        ({"name_regex": "("}, r"key `source.name_regex`: expected a regular expression"),
        ({"name_regex": "(?P<band>B..)"}, r"key `source.name_regex`: expected a group `scene`"),
        ({"datetime": "yesterday"}, r"key `source.datetime`: expected an ISO 8601 date or time; got 'yesterday'"),
    ],
)
def test_a_wrong_side_is_refused_by_key(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    with pytest.raises(CatalogError, match=match):
        loaded(tmp_path, {**EO, **change})


@pytest.mark.parametrize(
    ("bbox", "match"),
    [
        ([11, 46, 10, 47], "west < east"),
        ([10, 47, 11, 46], "south < north"),
        ([10, 46, 11, 91], "within -180..180"),
        ([10, 46, 11], r"aoi.bbox"),
    ],
)
def test_an_impossible_area_is_refused(tmp_path: Path, bbox: list[float], match: str) -> None:
    with pytest.raises(CatalogError, match=match):
        loaded(tmp_path, aoi={"bbox": bbox})


def test_a_secret_in_place_of_its_name_is_refused_and_not_shown(tmp_path: Path) -> None:
    side = {"kind": "stac", "url": "https://x.invalid", "sensor": "sentinel1-rtc", "token_env": "abc-123-secret"}
    with pytest.raises(
        CatalogError, match=r"target.token_env`: expected the NAME of an environment variable"
    ) as caught:
        loaded(tmp_path, EO, side)
    assert "abc-123-secret" not in str(caught.value)


def test_an_unknown_operator_of_a_query_is_refused(tmp_path: Path) -> None:
    side = {"kind": "stac", "url": "https://x.invalid", "sensor": "sentinel1-rtc", "query": {"a": {"below": 3}}}
    with pytest.raises(CatalogError, match=r"target.query`: expected operators out of eq, neq, lt"):
        loaded(tmp_path, EO, side)


def test_text_that_is_no_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: toy\nsource: [\n")
    with pytest.raises(CatalogError, match=r"bad.yaml, line 3: expected YAML"):
        load(path)


def test_yaml_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- a\n")
    with pytest.raises(CatalogError, match=r"expected a mapping with the keys name, .*got list"):
        load(path)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(CatalogError, match="expected YAML"):
        load(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(CatalogError, match="cannot be read"):
        load(path)


def test_period_includes_both_days() -> None:
    first, last = Period(start="2024-05-01", end="2024-05-02").bounds  # type: ignore[arg-type]
    assert first == datetime(2024, 5, 1, tzinfo=UTC)
    assert last.date().isoformat() == "2024-05-02"
    assert last.hour == 23
    assert Period(start="2024-05-01", end="2024-05-02").interval == "2024-05-01T00:00:00Z/2024-05-02T23:59:59Z"  # type: ignore[arg-type]


def test_period_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValidationError, match="start <= end"):
        Period(start="2024-05-03", end="2024-05-02")  # type: ignore[arg-type]


def test_addresses_are_left_as_they_are(tmp_path: Path) -> None:
    side = {"kind": "stac", "url": "https://stac.invalid/v1", "sensor": "sentinel1-rtc"}
    made = loaded(tmp_path, EO, side)
    assert isinstance(made.target, StacSide)
    assert made.target.url == "https://stac.invalid/v1"
    assert made.target.is_remote


def test_every_key_has_a_description() -> None:
    def models(model: Any) -> list[Any]:
        nested = [
            part
            for field in model.model_fields.values()
            for part in (field.annotation, *getattr(field.annotation, "__args__", ()))
            if hasattr(part, "model_fields")
        ]
        return [model, *(deeper for part in nested for deeper in models(part))]

    found = models(Catalog)
    assert {StacSide, FolderSide, Area} <= set(found)
    for model in found:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_band_names_are_matched_the_way_files_write_them() -> None:
    s2, s1 = SENSORS["sentinel2-l2a"], SENSORS["sentinel1-rtc"]
    assert match_bands(s2, ["B2", "b8a", "red", "B04 red", "", "DEM"]) == ["B02", "B8A", "B04", "B04", None, None]
    assert match_bands(s1, ["Gamma0_VV", "vh", "VV_VH ratio"]) == ["VV", "VH", None]


def test_two_files_make_a_catalogue_that_survives_yaml(tmp_path: Path) -> None:
    eo = write(tmp_path / "eo.tif", dn(4), names=("B02", "B03", "B04", "B08"), nodata=0)
    sar = write(tmp_path / "sar.tif", decibel(), names=("VV", "VH"), unit="dB", nodata=float("nan"))
    made = Catalog.for_files(eo, sar, settings={"training.overrides.trainer.max_epochs": 1, "training.radius_px": 3})
    assert made.source.sensor == "sentinel2-l2a"
    assert made.source.band_names == ("B02", "B03", "B04", "B08")
    assert made.target.sensor == "sentinel1-rtc-db"
    assert made.training.radius_px == 3
    text = yaml.safe_dump(made.model_dump(mode="json", exclude_unset=True))
    (tmp_path / "again.yaml").write_text(text)
    assert load(tmp_path / "again.yaml") == made


def test_sensor_of_a_file_is_told_from_dtype_names_and_values(tmp_path: Path) -> None:
    rgb = write(tmp_path / "rgb.tif", dn(3, low=0, high=255).astype("uint8"))
    one = write(tmp_path / "one.tif", dn(1, low=0, high=255).astype("uint8"))
    linear = write(tmp_path / "linear.tif", (10 ** (decibel() / 10)), names=("VV", "VH"))
    many = write(tmp_path / "many.tif", dn(12))
    assert Catalog.for_files(rgb, one).source.sensor == "sentinel2-display"
    assert Catalog.for_files(rgb, one).target.sensor == "sentinel1-display"
    assert Catalog.for_files(many, linear).target.sensor == "sentinel1-rtc"
    assert Catalog.for_files(many, linear).source.sensor == "sentinel2-l2a"


def test_display_files_of_any_band_count_get_a_sensor_of_their_own(tmp_path: Path) -> None:
    five = write(tmp_path / "five.tif", dn(5, low=0, high=255).astype("uint8"))
    one = write(tmp_path / "one.tif", dn(1, low=0, high=255).astype("uint8"))
    made = Catalog.for_files(five, one)
    assert made.source.instrument.unit == "display"
    assert made.source.band_names == ("band1", "band2", "band3", "band4", "band5")


def test_a_file_that_does_not_tell_its_sensor_lists_the_options(tmp_path: Path) -> None:
    vague = write(tmp_path / "vague.tif", decibel(3))
    sar = write(tmp_path / "sar.tif", decibel(), names=("VV", "VH"))
    with pytest.raises(CatalogError, match=r"--source .*vague.tif: .*got 3 float32 band\(s\).*--source-sensor, one of"):
        Catalog.for_files(vague, sar)


def test_a_given_sensor_with_too_few_bands_for_the_file_is_refused(tmp_path: Path) -> None:
    vague = write(tmp_path / "vague.tif", decibel(3))
    sar = write(tmp_path / "sar.tif", decibel(), names=("VV", "VH"))
    with pytest.raises(CatalogError, match=r"at most 2 bands of sentinel1-rtc-db \(VV, VH\), got 3"):
        Catalog.for_files(sar, vague, target_sensor="sentinel1-rtc-db")


def test_an_unknown_sensor_for_a_file_is_a_catalogue_error(tmp_path: Path) -> None:
    eo = write(tmp_path / "eo.tif", dn(12))
    with pytest.raises(CatalogError, match=r"--source-sensor: .*'sentinel9'"):
        Catalog.for_files(eo, eo, source_sensor="sentinel9")


def test_a_missing_file_and_one_without_crs_are_named(tmp_path: Path) -> None:
    import rasterio

    eo = write(tmp_path / "eo.tif", dn(12))
    with pytest.raises(SourceError, match=r"no file .*gone.tif"):
        Catalog.for_files(eo, tmp_path / "gone.tif")
    bare = tmp_path / "bare.tif"
    with rasterio.open(
        bare, "w", driver="GTiff", height=8, width=8, count=1, dtype="uint8", transform=BOX.affine
    ) as out:
        out.write(dn(1, shape=(8, 8)).astype("uint8"))
    with pytest.raises(GridError, match="no CRS"):
        Catalog.for_files(eo, bare)


def test_inline_sensor_is_understood(tmp_path: Path) -> None:
    drone = {"name": "drone", "modality": "optical", "unit": "dn", "bands": ["r", "g"], "scale": 0.01, "nodata": 0}
    made = loaded(tmp_path, {"kind": "folder", "path": "eo", "sensor": drone})
    assert made.source.band_names == ("r", "g")
    assert made.source.instrument == get_sensor(drone)
    assert made.source.instrument.nodata == 0
