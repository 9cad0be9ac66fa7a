"""Every catalogue that is shipped loads, and the packaged default is the one in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rsgeo_gan.catalog import load
from rsgeo_gan.catalog.loading import EMBEDDED

ROOT = Path(__file__).resolve().parents[2]
CATALOGUES = sorted((ROOT / "catalogs").glob("*.yaml"))


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_every_catalogue_loads_and_says_what_it_holds(path: Path) -> None:
    made = load(path)
    assert made.description
    assert {made.source.instrument.modality, made.target.instrument.modality} == {"optical", "sar"}


def test_the_wanted_catalogues_are_there() -> None:
    assert {"sample", "folder", "planetary-computer", "earth-search"} <= {path.stem for path in CATALOGUES}


def test_the_default_exists_once() -> None:
    assert (ROOT / "catalogs" / "sample.yaml").resolve() == (EMBEDDED / "sample.yaml").resolve()


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
