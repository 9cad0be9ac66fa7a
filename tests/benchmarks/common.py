"""Shared pieces of the benchmarks: synthetic scenes, rounds in turn, a process of its own, tables.

Believe the ratios: they are medians over rounds in which every case ran once, so that other work on the machine
hits all cases alike.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

EO_BANDS = ("B02", "B03", "B04", "B08")
SAR_BANDS = ("VV", "VH")
WHEN = datetime(2024, 6, 1, tzinfo=UTC)


def arguments(description: str, **defaults: Any) -> argparse.Namespace:
    """Read the command line; every default is an option of its own type."""
    parser = argparse.ArgumentParser(description=description)
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args()


def box(size: int, crs: str = "EPSG:32632") -> GeoBox:
    if crs == "EPSG:4326":
        return GeoBox((size, size), Affine(1.2e-4, 0, 10.345, 0, -0.9e-4, 47.835), crs)
    return GeoBox((size, size), Affine(10, 0, 600000, 0, -10, 5300040), crs)


def land(size: int, seed: int = 0) -> np.ndarray:
    """Parcels on smooth relief, 0 to 1, float32."""
    rng = np.random.default_rng(seed)

    def parcels(cell: int) -> np.ndarray:
        coarse = rng.random((-(-size // cell), -(-size // cell)), dtype=np.float32)
        return np.kron(coarse, np.ones((cell, cell), np.float32))[:size, :size]

    return 0.5 * parcels(24) + 0.3 * parcels(128) + 0.2 * parcels(512)


def optical(size: int) -> np.ndarray:
    base, rng = land(size), np.random.default_rng(1)
    levels = ((1400, 250), (1700, 350), (2100, 300), (3800, 900))
    return np.stack([(low + gain * base + rng.normal(0, 20, base.shape)).astype(np.uint16) for gain, low in levels])


def radar(size: int) -> np.ndarray:
    base, rng = land(size), np.random.default_rng(2)
    speckle = [10 * np.log10(rng.gamma(4.0, 0.25, base.shape) + 1e-3) for _ in SAR_BANDS]
    return np.stack([low + 13 * base + noise for low, noise in zip((-18, -25), speckle, strict=True)]).astype(
        np.float32
    )


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rsgeo-bench-") as name:
        yield Path(name)


def interleave(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Run every case once a round, after one round to warm up; seconds by case.

    A case that returns a number has timed itself.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-1, rounds):
        for name, case in cases.items():
            gc.collect()
            start = time.perf_counter()
            timed = case()
            took = timed if isinstance(timed, float) else time.perf_counter() - start
            if turn >= 0:
                seconds[name].append(took)
    return seconds


def ratios(seconds: dict[str, list[float]], baseline: str) -> dict[str, str]:
    """How many times faster than the baseline: median over rounds, and range."""
    out = {}
    for name, values in seconds.items():
        each = [slow / fast for slow, fast in zip(seconds[baseline], values, strict=True)]
        out[name] = f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})"
    return out


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    lines = [f"\n### {title}\n", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def isolated(script: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run `script --job JSON` in a fresh interpreter; its last line is the answer."""
    done = subprocess.run(
        [sys.executable, script, "--job", json.dumps(job)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{job}: {done.stderr.strip()[-500:]}")
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def peak_mib() -> float:
    """Largest resident memory of this process so far, MiB.

    Linux tells it per address space; `ru_maxrss` would begin with that of the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def quiet() -> None:
    warnings.filterwarnings("ignore")
