"""Marks flow runs as crashed whose process and worker both died: `python -m flows.recover NAME…`.

Such a run stays RUNNING and holds its deployment's slot. Afterwards `prefect flow-run retry NAME` continues
it; finished work lies on disk and is not repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.states import Crashed

__all__ = ["main", "recover"]


async def recover(names: list[str]) -> list[str]:
    """Force the runs of these names that have not ended into the state Crashed.

    Args:
        names: Names of flow runs, as the UI and `prefect flow-run ls` show them.

    Returns:
        The names of the runs that were changed.
    """
    changed = []
    async with get_client() as client:
        runs = await client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=names)))
        for run in runs:
            if run.state is not None and not run.state.is_final():
                await client.set_flow_run_state(run.id, Crashed(message="marked as lost by hand"), force=True)
                changed.append(run.name)
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Mark the named runs; returns 0 when each of them was found unfinished."""
    parser = argparse.ArgumentParser(prog="python -m flows.recover", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", help="names of the lost flow runs")
    names = parser.parse_args(arguments).names
    changed = asyncio.run(recover(names))
    for name in changed:
        sys.stdout.write(f"{name}: marked as crashed; continue with: prefect flow-run retry {name}\n")
    missing = sorted(set(names) - set(changed))
    if missing:
        sys.stderr.write(f"No unfinished run called {', '.join(missing)}.\n")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
