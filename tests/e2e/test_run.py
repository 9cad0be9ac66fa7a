"""The whole chain through the command line: what it leaves, a second night, and being killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import rasterio

from rsgeo_gan.manifest import Manifest, asset_path
from tests.toy import CLI, QUIET, ROOT, TOY, run_cli

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def _times(out: Path, pattern: str = "**/*") -> dict[str, int]:
    """When each file was written."""
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for path in out.glob(pattern)
        if path.is_file() and not path.name.startswith(".")
    }


def test_a_run_leaves_products_with_item_and_style_and_a_report(toy_run: Path) -> None:
    products = Manifest.read(toy_run / "products" / "products.json")
    assert {item.properties["rsgeo:direction"] for item in products} == {"source_to_target", "target_to_source"}
    for item in products:
        raster = Path(asset_path(item, "data"))
        assert raster.is_file()
        assert raster.with_suffix(".json").is_file()
        assert raster.with_suffix(".qml").is_file()
    assert (toy_run / "report" / "index.html").is_file()


def test_a_product_lies_exactly_on_its_source_scene(toy_run: Path) -> None:
    scenes = Manifest.read(toy_run / "scenes" / "scenes.json")
    products = Manifest.read(toy_run / "products" / "products.json")
    product = next(item for item in products if item.properties["rsgeo:direction"] == "source_to_target")
    source = scenes.get(product.properties["rsgeo:from"][0])
    with rasterio.open(asset_path(source, "data")) as of, rasterio.open(asset_path(product, "data")) as made:
        assert (made.crs, made.transform, made.shape) == (of.crs, of.transform, of.shape)
        assert made.descriptions == ("VV", "VH")


def test_a_run_ends_with_a_table_of_scores_and_the_way_to_the_report(toy_run: Path) -> None:
    screen = (toy_run.parent / "screen.txt").read_text()
    assert "Scores, sentinel2-l2a → sentinel1-rtc" in screen
    assert screen.splitlines()[-1] == f"Report: {toy_run / 'report' / 'index.html'}"


def test_products_name_the_published_checkpoint(toy_run: Path) -> None:
    pin = json.loads((toy_run / "models" / "current.json").read_text())
    assert (toy_run / "models" / pin["path"]).is_file()
    for item in Manifest.read(toy_run / "products" / "products.json"):
        assert item.properties["rsgeo:checkpoint"] == pin["sha256"]


def test_a_second_night_does_nothing_and_says_so(toy_run: Path) -> None:
    before = _times(toy_run)
    done = run_cli("run", "--catalog", str(TOY), "--out", str(toy_run))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Nothing new: everything was done already." in done.stdout, done.stderr
    changed = {name for name, when in _times(toy_run).items() if before.get(name) != when}
    collections = {f"{stage}/{stage}.json" for stage in ("scenes", "pairs", "tiles", "products")}
    assert changed <= collections


def _start(out: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [*CLI, "run", "--catalog", str(TOY), "--out", str(out), *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **QUIET},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait_for(pattern: str, out: Path, process: subprocess.Popen[bytes]) -> Path:
    _wait_until(lambda: any(out.glob(pattern)), process)
    return min(out.glob(pattern))


def _wait_until(come: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not come():
        assert process.poll() is None, f"ended with {process.returncode} too early"
        assert time.monotonic() < deadline, "waited for four minutes"
        time.sleep(0.05)


def test_a_run_killed_while_training_continues_without_repeating_finished_work(tmp_path: Path) -> None:
    out = tmp_path / "out"
    longer = ("--set", "training.overrides.trainer.max_epochs=3")
    process = _start(out, *longer)
    try:
        last = _wait_for("training/*/checkpoints/last.ckpt", out, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the run and its training process, as a power cut would
        process.wait()
    assert not (out / "models" / "current.json").exists()
    before = _times(out, "*/**/*.tif")

    done = run_cli("train", "--catalog", str(TOY), "--out", str(out), *longer)
    assert done.returncode == 0, done.stderr[-3000:]
    log = (last.parents[1] / "train.log").read_text()
    assert f"Restored all states from the checkpoint at {last}" in log
    assert len(list((out / "training").iterdir())) == 1
    assert len(before) > 10
    assert before.items() <= _times(out, "*/**/*.tif").items()
    assert (out / "models" / "current.json").is_file()


def test_a_training_that_outlives_its_run_is_taken_over(tmp_path: Path) -> None:
    out, screen = tmp_path / "out", tmp_path / "screen.txt"
    process = _start(out)
    log = _wait_for("training/*/train.log", out, process)
    process.kill()  # only the run; its training process goes on
    process.wait()
    os.killpg(process.pid, signal.SIGSTOP)  # but not to its end before the next run begins
    try:
        with screen.open("w") as file:
            again = subprocess.Popen(
                [*CLI, "train", "--catalog", str(TOY), "--out", str(out)],
                cwd=ROOT,
                env={**os.environ, **QUIET},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        _wait_until(lambda: "running in another process; waiting for it" in screen.read_text(), again)
    finally:
        os.killpg(process.pid, signal.SIGCONT)
    assert again.wait(240) == 0, screen.read_text()[-3000:]
    assert log.read_text().count("Seed set to") == 1
    assert (out / "models" / "current.json").is_file()
