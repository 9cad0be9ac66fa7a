"""The flow under Prefect's test server: tasks, artifacts, a second night, errors."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact, TaskRun
from prefect.states import Completed, Running

from flows import recover
from flows.eo2sar import eo2sar, main
from flows.stages import TASKS, is_remote, network_retries
from rsgeo_gan.catalog import load
from rsgeo_gan.chain import STAGES
from rsgeo_gan.errors import CatalogError, CheckpointError
from tests.toy import ROOT, TOY

pytestmark = [pytest.mark.e2e, pytest.mark.late, pytest.mark.timeout(600), pytest.mark.usefixtures("prefect_server")]


async def _task_runs() -> list[TaskRun]:
    async with get_client() as client:
        return list(await client.read_task_runs())


async def _artifacts(key: str) -> list[Artifact]:
    async with get_client() as client:
        return list(await client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key]))))


def test_the_flow_makes_products_of_new_scenes_with_the_published_checkpoint_and_rests_the_second_night(
    toy_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(toy_run / "models", out / "models")

    first = eo2sar(catalog=str(TOY), out=str(out), directions=["source_to_target"])
    assert first.startswith("New: ingest 2, coregister 1, tile ")
    assert "train" not in first
    assert len(list((out / "products").glob("*.tif"))) == 1
    assert (out / "report" / "index.html").is_file()

    second = eo2sar(catalog=str(TOY), out=str(out), directions=["source_to_target"])
    assert second == f"Nothing new: everything was done already. Report: {out / 'report' / 'index.html'}"

    names = {run.name.rsplit("-", 1)[0] for run in asyncio.run(_task_runs())}
    assert names >= {stage.name for stage in STAGES}
    tables = asyncio.run(_artifacts("eo2sar-stages"))
    assert {table.description for table in tables} == {first, second}
    pages = asyncio.run(_artifacts("eo2sar-report"))
    assert all(str(page.data).startswith("# eo2sar: toy") for page in pages)
    assert asyncio.run(_artifacts("generate-out"))


def test_the_flow_fails_with_the_stage_s_own_message(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="training is switched off"):
        eo2sar(catalog=str(TOY), out=str(tmp_path / "out"), train="never")


def test_the_flow_refuses_an_unknown_catalogue_key_before_any_stage(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"pairing\.max_gap"):
        eo2sar(catalog=str(TOY), out=str(tmp_path), settings={"pairing.max_gap": 1})
    assert not (tmp_path / "scenes").exists()


def test_a_lost_run_is_marked_as_crashed_and_a_finished_one_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    async def lost_and_finished() -> list[str]:
        async with get_client() as client:
            runs = [await client.create_flow_run(eo2sar, state=state()) for state in (Running, Completed)]
            return [run.name for run in runs]

    lost, finished = asyncio.run(lost_and_finished())
    assert recover.main([lost]) == 0
    assert f"prefect flow-run retry {lost}" in capsys.readouterr().out
    assert recover.main([lost, finished]) == 1
    assert f"No unfinished run called {', '.join(sorted([lost, finished]))}." in capsys.readouterr().err


def test_only_sides_on_the_network_are_tried_again() -> None:
    assert not is_remote(load(TOY))
    assert is_remote(load(ROOT / "catalogs" / "earth-search.yaml"))
    again = network_retries(TASKS["ingest"])
    assert again.retries == 3
    assert again.retry_jitter_factor
    assert all(task.retries == 0 for task in TASKS.values())


def test_tasks_are_not_cached_because_the_disk_says_what_is_done() -> None:
    assert {type(task.cache_policy).__name__ for task in TASKS.values()} == {"_None"}
    assert list(TASKS) == [stage.name for stage in STAGES]


def test_the_flows_do_not_import_torch() -> None:
    code = (
        "import sys, flows.eo2sar, flows.serve, flows.recover\n"
        "print({'torch', 'torchgeo', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_script_says_what_is_wrong_without_a_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--catalog", "nix.yaml", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("Error: Catalogue nix.yaml")
    assert "Traceback" not in shown.err
