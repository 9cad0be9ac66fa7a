"""Every catalogue that is shipped loads, and the packaged default is the one in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rsgeo_gan.catalog import load, load_superres, load_synthesis
from rsgeo_gan.catalog.loading import EMBEDDED
from rsgeo_gan.training import find_recipe

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "catalogs").glob("*.yaml"))
SYNTHESES = [path for path in FILES if "kind: synthesis" in path.read_text(encoding="utf-8").splitlines()]
SHARPENINGS = [path for path in FILES if "kind: superres" in path.read_text(encoding="utf-8").splitlines()]
CATALOGUES = [path for path in FILES if path not in SYNTHESES + SHARPENINGS]


@pytest.mark.parametrize("path", SYNTHESES, ids=lambda path: path.stem)
def test_every_catalogue_of_a_synthesis_loads_and_names_a_recipe_that_is_there(path: Path) -> None:
    made = load_synthesis(path)
    assert made.description
    assert made.conditions == ("label",)
    assert find_recipe(made.training.recipe).is_file()


@pytest.mark.parametrize("path", SHARPENINGS, ids=lambda path: path.stem)
def test_every_catalogue_of_a_super_resolution_loads_and_names_a_recipe_that_is_there(path: Path) -> None:
    made = load_superres(path)
    assert made.description
    assert made.collect.tile_px % made.collect.scale == 0
    assert find_recipe(made.training.recipe).is_file()


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_every_catalogue_loads_and_says_what_it_holds(path: Path) -> None:
    made = load(path)
    assert made.description
    assert {made.source.instrument.modality, made.target.instrument.modality} == {"optical", "sar"}


def test_the_wanted_catalogues_are_there() -> None:
    assert {"sample", "folder", "planetary-computer", "earth-search"} <= {path.stem for path in CATALOGUES}
    assert {"synthesis", "synthesis-folder"} <= {path.stem for path in SYNTHESES}
    assert {"superres", "superres-folder", "superres-reference"} <= {path.stem for path in SHARPENINGS}


@pytest.mark.parametrize("name", ["sample.yaml", "superres.yaml", "superres-reference.yaml", "synthesis.yaml"])
def test_an_embedded_catalogue_exists_once(name: str) -> None:
    assert (ROOT / "catalogs" / name).resolve() == (EMBEDDED / name).resolve()


def test_no_catalogue_holds_a_secret() -> None:
    for path in CATALOGUES:
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
        for side in (text["source"], text["target"]):
            assert "@" not in side.get("url", ""), path
            assert "?" not in side.get("url", ""), path


def test_remote_catalogues_say_that_they_were_not_run_live() -> None:
    for path in CATALOGUES:
        text = path.read_text(encoding="utf-8")
        if "https://" in text:
            assert "Not run against the live service" in text, path
