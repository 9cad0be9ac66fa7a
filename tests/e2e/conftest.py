"""One finished toy run for all end-to-end tests, made by the real command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy import TOY, run_cli


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a whole run on the toy catalogue; not to be changed by tests."""
    out = tmp_path_factory.mktemp("toy") / "out"
    done = run_cli("run", "--catalog", str(TOY), "--out", str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    (out.parent / "screen.txt").write_text(done.stdout)
    return out
