"""Serves the deployments of prefect.yaml from one machine: `python -m flows.serve`.

Starts a Prefect server where none answers, and stops it again. Not to be used beside a worker that has
the same deployments: the last one applied wins.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import yaml

__all__ = ["answers", "deployments", "main", "server"]

logger = logging.getLogger(__name__)

_START_S = 180.0
_STOP_S = 20.0
_HERE = {"127.0.0.1", "localhost", "::1"}


def answers(api_url: str) -> bool:
    """Tell whether a Prefect API answers at this address."""
    try:
        with urlopen(f"{api_url.rstrip('/')}/health", timeout=5) as reply:
            return bool(reply.status == 200)
    except (URLError, OSError, ValueError):
        return False


@contextmanager
def server(api_url: str, log: Path) -> Iterator[None]:
    """Make sure a server answers; one that was started here ends here.

    Args:
        api_url: Address of the API, such as http://127.0.0.1:4200/api.
        log: File that takes the output of a server started here.

    Raises:
        RuntimeError: If the address is not on this machine, or no server comes up.
    """
    if answers(api_url):
        yield
        return
    where = urlsplit(api_url)
    if where.hostname not in _HERE:
        raise RuntimeError(f"No Prefect server answers at {api_url}, and only one on this machine can be started.")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", where.hostname or "127.0.0.1"]
    command += ["--port", str(where.port or 4200)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_for(api_url, process, log)
        yield
    finally:
        _stop(process)


def _wait_for(api_url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not answers(api_url):
        if process.poll() is not None:
            raise RuntimeError(f"The Prefect server ended at once (status {process.returncode}); see {log}.")
        if time.monotonic() > deadline:
            raise RuntimeError(f"No Prefect server answers at {api_url} after {_START_S:.0f} s; see {log}.")
        time.sleep(0.5)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and what it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
            return


def deployments(path: Path = Path("prefect.yaml")) -> list[Any]:
    """Build the deployments that prefect.yaml lists, for serving."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.schedules import Cron

    entries = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
    return [
        load_flow_from_entrypoint(entry["entrypoint"]).to_deployment(
            name=entry["name"],
            description=entry.get("description"),
            parameters=entry.get("parameters", {}),
            schedules=[
                Cron(each["cron"], timezone=each.get("timezone", "UTC"), active=each.get("active", True))
                for each in entry.get("schedules", [])
            ],
            concurrency_limit=entry.get("concurrency_limit"),
        )
        for entry in entries
    ]


def main() -> int:
    """Serve until interrupted; returns the exit code."""
    from prefect import serve
    from prefect.settings import get_current_settings

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = get_current_settings()
    api_url = settings.api.url or "http://127.0.0.1:4200/api"
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with server(api_url, settings.home / "server.log"):
            logger.info("Prefect server at %s; run with: prefect deployment run eo2sar/nightly --watch", api_url)
            serve(*deployments(), pause_on_shutdown=True, limit=1)
    except KeyboardInterrupt:
        pass
    except RuntimeError as error:
        sys.stderr.write(f"Error: {error}\n")
        return 1
    return 0


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
