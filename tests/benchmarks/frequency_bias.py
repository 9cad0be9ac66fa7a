"""Which frequencies a generator meets, and whether moving its easy band helps: shifts and branches against controls.

    python tests/benchmarks/frequency_bias.py --work out/frequency --minutes 60
    python tests/benchmarks/frequency_bias.py --work out/frequency --data optical --folder DIR
    python tests/benchmarks/frequency_bias.py --work out/frequency --show --figures docs/results

Data, systems and scores are described in `bands/`; DIR holds 8 bit scenes of the optical data, at any depth. One row is
appended to `rows.jsonl` in the work folder for every training, and a rerun goes on where the last one stopped; two runs
with different `--systems` may share a work folder. Times are of one thread: set OMP_NUM_THREADS=1. `--full` trains 64
px networks on a GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from runs import Ledger, chosen, parser, study


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    study(args, _run, _show)


def _show(args: argparse.Namespace, ledger: Ledger) -> None:
    from bands.tables import draw, summary

    rows = ledger.rows()
    sys.stdout.write(summary(rows) + "\n")
    if args.figures:
        draw(rows, args.work, args.figures)


def _run(args: argparse.Namespace, ledger: Ledger) -> None:
    import torch
    from bands.data import optical, toy
    from bands.judge import Judge
    from bands.systems import FULL, Size, train

    torch.set_num_threads(1)
    size = FULL if args.full else Size(steps=args.steps)
    for name in args.data:
        data = toy(size.side_px) if name == "toy" else optical(args.folder, size.side_px)
        if data is None:
            sys.stderr.write(f"skipped {name}: no scenes in {args.folder}; say where they are by --folder\n")
            continue
        judge: Judge | None = None
        about = {"data": name, "size": asdict(size)}
        for cell, wanted in ledger.missing(_cells(args), lambda cell, about=about: cell | about):  # type: ignore[misc]
            judge = judge or Judge(data)
            draw, seconds = train(cell["system"], data, cell["seed"], size)
            row = wanted | judge(draw) | {"floor": judge.floor(), "seconds": round(seconds)}
            ledger.append(row)
            if cell["seed"] == 0:
                path = args.work / f"strip-{name}-{cell['system']}.pt"
                torch.save({"fake": draw(8), "real": data.test[:8], "spectrum": judge.shares(draw)}, path)
            sys.stderr.write(
                f"{name} {cell} {seconds:.0f} s: leakage {row['leakage']:.3f}, {row['spectrum_db']:.2f} dB, "
                f"FD {row['level_fd'][0]:.2f}\n"
            )


def _cells(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seeds outermost, so that a run that is stopped leaves whole comparisons."""
    from bands.systems import SYSTEMS

    names = chosen(args.systems, SYSTEMS)
    for seed in range(args.seeds):
        yield from ({"system": name, "seed": seed} for name in names)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    found = parser(__doc__, steps=1000)
    found.add_argument("--data", nargs="*", choices=("toy", "optical"), default=["toy", "optical"])
    found.add_argument("--systems", nargs="*", help="default: all")
    return found.parse_args(argv)


if __name__ == "__main__":
    main()
