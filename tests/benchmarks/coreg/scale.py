"""What scenes and wide searches cost: every measurement in a process of its own, one thread.

Memory is the process' largest resident size; what the interpreter and the packages take before the first pixel is
told beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from common import peak_mib
from rasterio.windows import Window

from coreg.tables import markdown

__all__ = ["memory", "report", "work"]

SCENE_PX = 10980
REACHES_PX = (12.0, 64.0)
_STRIP = 610
_TRUE_SHIFT_PX = (3, -2)


def report(data: Path | None, only: str = "") -> str:
    """Measure everything that the data allow and give a table."""
    jobs: list[tuple[str, dict[str, Any]]] = []
    with tempfile.TemporaryDirectory(prefix="rsgeo-scale-") as name:
        folder = Path(name)
        if data is not None:
            jobs += _real(data, folder)
        if not only or only in "10980":
            paths = synthetic(folder)
            job = {"reference": str(paths[0]), "moving": str(paths[1]), "units": ("dn", "linear"), "times": 1}
            jobs.append((f"{SCENE_PX}² synthetic", job | {"reach": 12.0, "align": str(folder / "aligned.tif")}))
        lines = []
        for title, job in jobs:
            if only and only not in title:
                continue
            found = isolated(job)
            lines.append(_line(title, found))
            if "align" in found:
                lines.append(_line(f"{title}, align after it", found | found["align"]))
    head = ("case", "CPU s", "wall s", "CPU s/MPx", "peak MiB", "of it before", "dx, dy px", "answer")
    return markdown(head, lines)


def memory(data: Path, methods: Sequence[str], arosics: str | None) -> str:
    """Peak memory of each method on one 512 px tile of the Los Angeles scene."""
    lines = []
    for name in methods:
        found = isolated({"method": name, "data": str(data), "arosics": arosics})
        if "failed" in found:
            lines.append((name, "failed", *found["failed"]))
        else:
            lines.append((name, f"{found['before']:.0f}", f"{found['peak'] - found['before']:.0f}"))
    return markdown(("method", "MiB before (packages, tiles)", "MiB more at the peak"), lines)


def _one_method(job: dict[str, Any]) -> dict[str, Any]:
    from coreg import own
    from coreg.cases import CASES
    from coreg.judge import problem
    from coreg.pairs import find
    from coreg.rivals import rivals

    method = ({"ours": own.files, "ours, arrays": own.on_arrays} | rivals(job["arosics"]))[job["method"]]
    pair = next(pair for pair in find(Path(job["data"])) if pair.name == "la-11")
    made = problem(pair, pair.load(), CASES[2], 0)
    small = [replace(tile, values=tile.values[:96, :96]) for tile in (made.reference, made.moving)]
    method(small[0], small[1], 6.0)
    before = peak_mib()
    method(made.reference, made.moving, 12.0)
    own_process = getattr(method, "memory_mib", None)
    return (
        {"before": before, "peak": peak_mib()}
        if own_process is None
        else dict(zip(("before", "peak"), own_process, strict=True))
    )


def isolated(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job in a fresh interpreter."""
    command = [sys.executable, str(Path(__file__).parents[1] / "coregistration.py"), "--job", json.dumps(job)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Survey two files (and align when asked); the median of several times."""
    if "method" in job:
        return _one_method(job)
    from rsgeo_gan.coregister.registration import survey, view
    from rsgeo_gan.sensors import Sensor

    optical, radar = (
        Sensor.generic("scale", modality=modality, unit=unit, bands=("a", "b", "c"))  # type: ignore[arg-type]
        for modality, unit in zip(("optical", "sar"), job["units"], strict=True)
    )
    sides = view(job["reference"], optical, (1,)), view(job["moving"], radar, (1,))
    before = peak_mib()
    if job["times"] > 1:
        survey(*sides, max_shift_px=job["reach"])
    cpu, wall = [], []
    for _ in range(job["times"]):
        start, clock = time.process_time(), time.perf_counter()
        found = survey(*sides, max_shift_px=job["reach"])
        cpu.append(time.process_time() - start)
        wall.append(time.perf_counter() - clock)
    done = found.displacement
    more: dict[str, Any] = {}
    if "align" in job:
        from rsgeo_gan.coregister.apply import align

        surveyed, start, clock = peak_mib(), time.process_time(), time.perf_counter()
        align(sides[1], done, Path(job["align"]))
        more = {"align": {"cpu": time.process_time() - start, "wall": time.perf_counter() - clock, "peak": peak_mib()}}
        more["peak"] = surveyed
    with rasterio.open(job["reference"]) as dataset:
        pixels = dataset.width * dataset.height
    return {
        "cpu": float(np.median(cpu)), "wall": float(np.median(wall)), "peak": peak_mib(), "before": before,
        "megapixels": pixels / 1e6, "shift": [done.dx_px, done.dy_px], "answer": done.reason or done.model, **more,
    }  # fmt: skip


def synthetic(folder: Path) -> tuple[Path, Path]:
    """An optical and a radar scene of 10980 x 10980 px: parcels, relief and speckle, shifted by 3, -2 px."""
    box = {"crs": "EPSG:32632", "transform": Affine(10, 0, 300000, 0, -10, 5000040)}
    common = {"driver": "GTiff", "width": SCENE_PX, "height": SCENE_PX, "count": 1, "tiled": True, "blockxsize": 512,
              "blockysize": 512}  # fmt: skip
    optical, radar = folder / "optical.tif", folder / "radar.tif"
    noise = np.random.default_rng(5)
    with (
        rasterio.open(optical, "w", dtype="uint16", nodata=0, **common, **box) as first,
        rasterio.open(radar, "w", dtype="float32", nodata=float("nan"), **common, **box) as second,
    ):
        for row in range(0, SCENE_PX, _STRIP):
            rows = min(_STRIP, SCENE_PX - row)
            window = Window(0, row, SCENE_PX, rows)
            ground = _ground(row, rows, 0)
            first.write((800 + 3000 * ground + noise.normal(0, 30, ground.shape)).astype(np.uint16), 1, window=window)
            ground = _ground(row - _TRUE_SHIFT_PX[1], rows, -_TRUE_SHIFT_PX[0])
            power = 0.02 + 0.2 * (1.2 - ground) ** 2
            speckle = noise.gamma(4.0, 0.25, ground.shape)
            second.write((power * speckle).astype(np.float32), 1, window=window)
    return optical, radar


def _ground(row: int, rows: int, column: int) -> np.ndarray:
    """Brightness 0 to 1 of rows of an endless ground: parcels of three sizes."""
    total = np.zeros((rows, SCENE_PX), np.float32)
    for number, (width, height, share) in enumerate(((23, 31, 0.5), (97, 71, 0.3), (501, 397, 0.2))):
        y = (np.arange(row, row + rows) + 5000) // height
        x = (np.arange(column, column + SCENE_PX) + 5000) // width
        key = (y[:, None] * 73856093) ^ (x[None] * 19349663) ^ (number * 83492791)
        key = (key ^ (key >> 13)) * 1274126177 & 0x7FFFFFFF
        total += share * ((key >> 8) % 1024 / np.float32(1023)).astype(np.float32)
    return total


def _real(data: Path, folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Jobs on the Los Angeles scene and on a tile cut from it."""
    scene = data / "s1s2-scene-losangeles"
    paths = [scene / "losangeles_3072_s2rgb.tif", scene / "losangeles_3072_s1vh.tif"]
    if not all(path.is_file() for path in paths):
        return []
    tiles = []
    for path in paths:
        with rasterio.open(path) as dataset:
            window = Window(1024, 1536, 512, 512)
            profile = dataset.profile | {"width": 512, "height": 512, "transform": dataset.window_transform(window)}
            with rasterio.open(folder / f"tile-{path.name}", "w", **profile) as out:
                out.write(dataset.read(window=window))
            tiles.append(folder / f"tile-{path.name}")
    units = ("display", "display")
    jobs = []
    for title, pair, times in (("512² tile", tiles, 7), ("3072² scene", paths, 1)):
        for reach in REACHES_PX:
            job = {"reference": str(pair[0]), "moving": str(pair[1]), "units": units, "reach": reach, "times": times}
            jobs.append((f"{title}, ±{reach:g} px", job))
    return jobs


def _line(title: str, found: dict[str, Any]) -> tuple[object, ...]:
    if "failed" in found:
        return (title, "failed", *found["failed"], "", "", "", "", "")
    shift = ", ".join(f"{value:.2f}" for value in found["shift"])
    return (title, f"{found['cpu']:.2f}", f"{found['wall']:.2f}", f"{found['cpu'] / found['megapixels']:.2f}",
            f"{found['peak']:.0f}", f"{found['before']:.0f}", shift, found["answer"])  # fmt: skip
