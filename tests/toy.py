"""Runs the real command line on the toy catalogue of tests/conf."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["CLI", "QUIET", "ROOT", "TOY", "run_cli"]

ROOT = Path(__file__).resolve().parents[1]
TOY = ROOT / "tests" / "conf" / "toy.yaml"
CLI = (sys.executable, "-m", "rsgeo_gan.cli")
QUIET = {"NO_COLOR": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in the checkout."""
    return subprocess.run(
        [*CLI, *arguments], cwd=ROOT, env={**os.environ, **QUIET}, capture_output=True, text=True, check=False
    )
