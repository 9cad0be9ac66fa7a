"""The flow of a super-resolution under Prefect's test server, then its checkpoint on a scene by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from typer.testing import CliRunner

from flows.superres import SUPERRES_TASKS, main, superres
from rsgeo_gan import cli, raster
from rsgeo_gan.chain import SUPERRES
from rsgeo_gan.errors import CatalogError
from rsgeo_gan.manifest import Manifest, asset_path, item_box
from rsgeo_gan.training import read_pin
from tests.toy import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.late, pytest.mark.timeout(600), pytest.mark.usefixtures("prefect_server")]

TOY = ROOT / "tests" / "conf" / "toy-superres.yaml"


def test_the_flow_sharpens_held_out_tiles_once_and_its_checkpoint_a_scene(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = superres(catalog=str(TOY), out=str(out))
    assert first.startswith("New: collect ")
    assert "train 1, superres 2" in first
    tiles, products = (Manifest.read(out / name) for name in ("tiles", "products"))
    assert len(products) == 2
    for item in products:
        tile = tiles.get(item.properties["rsgeo:tile"])
        assert tile.properties["rsgeo:split"] == "test"
        assert item_box(item) == item_box(tile)
        _keeps_the_means(asset_path(item, "low"), asset_path(item, "data"))
    told = json.loads((out / "report" / "report.json").read_text())
    assert [row["method"] for row in told["scores"]] == ["bicubic", "product"]
    assert 'src="strips.png"' in (out / "report" / "index.html").read_text()

    second = superres(catalog=str(TOY), out=str(out))
    assert second == f"Nothing new: everything was done already. Report: {out / 'report' / 'index.html'}"

    pin = read_pin(out / "models")
    assert pin is not None
    scene = asset_path(products.items[0], "low")
    fine = tmp_path / "fine.tif"
    chosen = ["superres", scene, "--checkpoint", str(pin.path), "--out", str(fine), "--uncertainty", "0"]
    result = CliRunner().invoke(cli.app, chosen)
    assert result.exit_code == 0, result.output
    assert f"32 x 32 pixels in {fine}" in result.output
    assert np.array_equal(raster.read(fine)[0], raster.read(asset_path(products.items[0], "data"))[0])
    result = CliRunner().invoke(cli.app, [*chosen, "--reference", scene])
    assert result.exit_code == 1
    assert "its network takes no reference" in result.output


def _keeps_the_means(low: str, fine: str) -> None:
    """Averaged over coarse pixels, the product is its input in reflectance, to the rounding of the files."""
    with rasterio.open(low) as coarse, rasterio.open(fine) as made:
        assert (made.tags()["SYNTHETIC"], made.dtypes[0]) == ("YES", "uint16")
        wanted, got = (file.read() * file.scales[0] + file.offsets[0] for file in (coarse, made))
    blocks = got.reshape(len(got), wanted.shape[1], 2, wanted.shape[2], 2).mean(axis=(2, 4))
    assert np.abs(blocks - wanted).max() <= 1.01e-4


def test_the_flow_refuses_an_unknown_catalogue_key_before_any_stage(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"key `products\.amount`"):
        superres(catalog=str(TOY), out=str(tmp_path), settings={"products.amount": 1})
    assert not list(tmp_path.iterdir())


def test_the_script_says_what_is_wrong_without_a_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    synthesis = ROOT / "catalogs" / "synthesis.yaml"
    assert main(["--catalog", str(synthesis), "--out", str(tmp_path)]) == 1
    assert "expected `kind: superres`" in capsys.readouterr().err


def test_every_stage_is_a_task_and_the_deployment_names_the_flow() -> None:
    assert list(SUPERRES_TASKS) == [stage.name for stage in SUPERRES]
    assert {name for name, task in SUPERRES_TASKS.items() if "gpu" in task.tags} == {"train", "superres"}
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    entry = next(entry for entry in entries if entry["entrypoint"] == "flows/superres.py:superres")
    assert (ROOT / entry["parameters"]["catalog"]).is_file()
    assert set(entry["parameters"]) <= set(superres.parameters.properties)
