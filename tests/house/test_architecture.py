"""The house rules that no single module can keep alone."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rsgeo_gan

ROOT = Path(__file__).parents[2]
LIGHT = [
    "errors",
    "progress",
    "sensors",
    "grid",
    "raster",
    "manifest",
    "catalog",
    "ingest",
    "coregister",
    "tiling",
    "sample",
]
MODULES = sorted(
    name for _, name, _ in pkgutil.walk_packages(rsgeo_gan.__path__, "rsgeo_gan.") if not name.endswith("__main__")
)


def test_imports_go_downwards_only() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout


def test_stages_start_without_torch() -> None:
    names = ", ".join(f"rsgeo_gan.{name}" for name in LIGHT)
    heavy = "{'torch', 'torchgeo', 'lightning', 'prefect'} & set(sys.modules)"
    code = f"import sys, {names}; loaded = {heavy}; sys.exit(', '.join(sorted(loaded)) or 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"loaded: {run.stderr}"


def test_the_command_line_and_the_flows_start_without_torch() -> None:
    for module in ("rsgeo_gan.cli", "flows.stages", "flows.eo2sar", "flows.synthesis"):
        code = f"import sys, {module}; sys.exit('torch' if 'torch' in sys.modules else 0)"
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"{module}: {run.stderr[-500:]}"


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist_and_are_described(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} does not say what it is responsible for"
    public = getattr(module, "__all__", [])
    for entry in public:
        thing = getattr(module, entry)
        assert not (inspect.isclass(thing) or inspect.isroutine(thing)) or thing.__doc__, (
            f"{name}.{entry} has no docstring"
        )


def test_the_repository_names_no_machine_and_no_package_index() -> None:
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not files:
        pytest.skip("not a git checkout")
    places = "|".join(rf"/{folder}/\w" for folder in ("root", "home", "work", "Users"))
    told = re.compile(rf"({places}|index[-]url|https?://[^\s]+\.(whl|tar[.]gz)\b)")
    here = Path(__file__).relative_to(ROOT).as_posix()
    found = [
        f"{file}:{number}: {line.strip()[:80]}"
        for file in files
        if file != here
        and (ROOT / file).suffix in {".py", ".toml", ".yaml", ".yml", ".md", ".txt", ".cfg", ""}
        and (ROOT / file).is_file()
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), start=1)
        if told.search(line)
    ]
    assert found == []
