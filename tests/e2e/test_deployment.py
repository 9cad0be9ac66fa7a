"""The real deployment on loopback: server, work pool, worker, schedule; and serving without a worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml

from flows.serve import answers
from tests.toy import QUIET, ROOT, TOY

pytestmark = [pytest.mark.e2e, pytest.mark.late, pytest.mark.timeout(600)]

PREFECT = (sys.executable, "-m", "prefect", "--no-prompt")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(home: Path, port: int) -> dict[str, str]:
    return {
        **os.environ,
        **QUIET,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "RSGEO_GAN_HOME": str(ROOT),
    }


@contextmanager
def _process(command: list[str], env: dict[str, str], cwd: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, number)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    continue


def _until(true: Callable[[], Any], what: str, log: Path, timeout_s: float = 240) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = true()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what} did not happen in {timeout_s:.0f} s:\n{log.read_text()[-3000:]}")


def _ask(env: dict[str, str], path: str, body: dict[str, Any]) -> Any:
    request = Request(
        f"{env['PREFECT_API_URL']}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urlopen(request, timeout=30) as reply:
        return json.load(reply)


def _prefect(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [*PREFECT, *arguments],
        env=env,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def _parameters(out: Path) -> list[str]:
    values = {"catalog": str(TOY), "out": str(out)}
    return [part for name, value in values.items() for part in ("-p", f"{name}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Prefect server of its own with prefect.yaml deployed to the work pool `local`."""
    home, port = tmp_path_factory.mktemp("prefect"), _free_port()
    env, log = _environment(home, port), home / "server.txt"
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with _process(command, env, ROOT, log):
        _until(lambda: answers(env["PREFECT_API_URL"]), "the server answering", log)
        _prefect(env, "work-pool", "create", "local", "--type", "process")
        _prefect(env, "deploy", "--all")
        yield env


def test_a_deployed_run_goes_through_server_and_worker_to_products(
    env: dict[str, str], toy_run: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "worker.txt"
    shutil.copytree(toy_run / "models", out / "models")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with _process([*PREFECT, "worker", "start", "--pool", "local"], env, elsewhere, log):
        _prefect(env, "deployment", "run", "eo2sar/nightly", *_parameters(out), "--watch", "--watch-timeout", "240")
    assert len(list((out / "products").glob("*.tif"))) == 2, log.read_text()[-3000:]
    assert (out / "report" / "index.html").is_file()
    runs = _ask(env, "/flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}})
    assert [run["parameters"]["out"] for run in runs] == [str(out)]


def test_the_schedule_of_the_deployment_produces_scheduled_runs(env: dict[str, str], tmp_path: Path) -> None:
    nightly = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][0]
    hour = int(nightly["schedules"][0]["cron"].split()[1])
    automatic = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    log = Path(env["PREFECT_HOME"]) / "server.txt"
    runs = _until(lambda: _ask(env, "/flow_runs/filter", automatic), "scheduling of runs", log)
    assert len(runs) >= 3
    assert {run["auto_scheduled"] for run in runs} == {True}
    assert {run["expected_start_time"][11:16] for run in runs} == {f"{hour:02d}:00"}
    assert {run["parameters"]["train"] for run in runs} == {nightly["parameters"]["train"]}


def test_serving_starts_a_server_runs_the_deployment_and_stops_it_again(toy_run: Path, tmp_path: Path) -> None:
    log = tmp_path / "serve.txt"
    env = _environment(tmp_path / "prefect", _free_port())
    with _process([sys.executable, "-m", "flows.serve"], env, ROOT, log) as process:

        def served() -> bool:
            assert process.poll() is None, log.read_text()[-3000:]
            return answers(env["PREFECT_API_URL"]) and len(_ask(env, "/deployments/filter", {})) == 3

        _until(served, "serving the deployments", log)
        finer, images, entry = sorted(_ask(env, "/deployments/filter", {}), key=lambda found: found["name"])
        assert (finer["name"], finer["schedules"]) == ("finer", [])
        assert (images["name"], images["schedules"]) == ("images", [])
        assert (entry["name"], entry["work_pool_name"], entry["paused"]) == ("nightly", None, False)
        assert entry["schedules"][0]["schedule"]["cron"] == "0 2 * * *"
        _prefect(env, "deployment", "run", "eo2sar/nightly", *_parameters(toy_run), "--watch", "--watch-timeout", "240")
        assert "Nothing new: everything was done already" in log.read_text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not answers(env["PREFECT_API_URL"])
