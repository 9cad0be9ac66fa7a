"""The flow of a synthesis under Prefect's test server: everything once, then a rest; errors before any stage."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import rasterio
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from typer.testing import CliRunner

from flows.synthesis import SYNTHESIS_TASKS, main, synthesis
from rsgeo_gan import cli, raster
from rsgeo_gan.chain import SYNTHESIS
from rsgeo_gan.datasets import SyntheticDataset
from rsgeo_gan.errors import CatalogError
from rsgeo_gan.manifest import Manifest, asset_path, item_box
from tests.toy import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.late, pytest.mark.timeout(600), pytest.mark.usefixtures("prefect_server")]

TOY = ROOT / "tests" / "conf" / "toy-synthesis.yaml"


def _written(key: str) -> list[str]:
    async def read() -> list[str]:
        async with get_client() as client:
            found = await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
            return [str(artifact.data) for artifact in found]

    return asyncio.run(read())


def test_the_flow_makes_labelled_images_once_and_rests_the_second_time(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = synthesis(catalog=str(TOY), out=str(out))
    assert first.startswith("New: collect ")
    assert "train 1, synthesize" in first

    tiles, products = (Manifest.read(out / name) for name in ("tiles", "products"))
    classes = {item.properties["rsgeo:label"] for item in tiles if item.properties["rsgeo:split"] == "train"}
    assert {item.properties["rsgeo:label"] for item in products} == classes
    assert len(products) == 2 * len(classes)
    for item in products:
        (place,) = item.properties["rsgeo:from"]
        assert item_box(item) == item_box(tiles.get(place))
        with rasterio.open(asset_path(item, "data")) as file:
            assert (file.count, file.dtypes[0], file.tags()["SYNTHETIC"]) == (4, "uint16", "YES")
    sample = SyntheticDataset(out / "products")[0]
    assert (sample["synthetic"], sample["image"].shape) == (1, (4, 16, 16))

    report = out / "report"
    told = json.loads((report / "report.json").read_text())
    assert {row["class"]: row["synthetic"] for row in told["classes"]} == dict.fromkeys(classes, 2)
    assert [row["set"] for row in told["scores"]] == ["real (halves)", "products"]
    page = (report / "index.html").read_text()
    pictures = ("contact-sheet.png", "walks.png", "scores/scores.png")
    assert all(f'src="{name}"' in page and (report / name).stat().st_size > 5000 for name in pictures)

    checkpoint = next((out / "models").glob("*.ckpt"))
    more = ["--out", str(tmp_path / "more"), "--count", "1", "--classes", next(iter(classes)), "--psi", "0.7"]
    asked = CliRunner().invoke(
        cli.app, ["synthesize", str(checkpoint), "--tiles", str(out / "tiles"), *more, "--device", "cpu"]
    )
    assert asked.exit_code == 0, asked.output
    (made,) = Manifest.read(tmp_path / "more" / "products")
    assert (made.properties["rsgeo:truncation"], made.properties["rsgeo:label"]) == (0.7, next(iter(classes)))
    assert raster.inspect(asset_path(made, "data")).geobox == item_box(tiles.get(made.properties["rsgeo:from"][0]))
    assert (tmp_path / "more" / "report" / "walks.png").stat().st_size > 5000

    second = synthesis(catalog=str(TOY), out=str(out))
    assert second == f"Nothing new: everything was done already. Report: {report / 'index.html'}"
    assert any("| class | real, train |" in text for text in _written("synthesis-report"))
    assert _written("synthesis-stages")


def test_the_flow_refuses_an_unknown_catalogue_key_before_any_stage(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"key `products\.amount`.*Did you mean `count`"):
        synthesis(catalog=str(TOY), out=str(tmp_path), settings={"products.amount": 1})
    assert not list(tmp_path.iterdir())


def test_the_script_says_what_is_wrong_without_a_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    translation = ROOT / "catalogs" / "sample.yaml"
    assert main(["--catalog", str(translation), "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"Error: Catalogue {translation} has the sides of a translation")
    assert "`rsgeo-gan run`" in shown


def test_every_stage_is_a_task_and_the_deployment_names_the_flow() -> None:
    assert list(SYNTHESIS_TASKS) == [stage.name for stage in SYNTHESIS]
    assert {name for name, task in SYNTHESIS_TASKS.items() if "gpu" in task.tags} == {"train", "synthesize"}
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    entry = next(entry for entry in entries if entry["entrypoint"] == "flows/synthesis.py:synthesis")
    assert (ROOT / entry["parameters"]["catalog"]).is_file()
    assert set(entry["parameters"]) <= set(synthesis.parameters.properties)
