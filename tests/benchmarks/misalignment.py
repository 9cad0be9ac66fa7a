"""Which translation to choose for how much misalignment: every system on pairs put crooked by a known displacement.

    python tests/benchmarks/misalignment.py --work out/misalignment --minutes 60
    python tests/benchmarks/misalignment.py --work out/misalignment --show

Tiles, displacements, systems and scores are described in `crooked/`. One row is appended to `rows.jsonl` in the work
folder for every training, and a rerun goes on where the last one stopped; two runs with different `--systems` may
share a work folder. Times are of one thread: set OMP_NUM_THREADS=1. `--full` trains standard networks at 256 px on a
GPU, adds the other correspondence terms, 1 and 8 px, and smooth fields.
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

LEVELS = (0.0, 2.0, 4.0)


def main() -> None:
    args = _arguments()
    study(args, _run, _show)


def _show(args: argparse.Namespace, ledger: Ledger) -> None:
    from crooked.tables import draw, summary

    rows = ledger.rows()
    sys.stdout.write(summary(rows) + "\n")
    if args.figures:
        draw(rows, args.work, args.figures)


def _run(args: argparse.Namespace, ledger: Ledger) -> None:
    import torch
    from crooked.data import real, sample
    from crooked.judge import Judge
    from crooked.systems import FULL, Size, train

    torch.set_num_threads(1)
    size = FULL if args.full else Size(steps=args.steps)
    data = sample(args.work) if args.data == "sample" else real(args.work, args.folder)
    judge: Judge | None = None
    for cell, wanted in ledger.missing(_cells(args), lambda cell: cell | {"data": args.data, "size": asdict(size)}):
        task, seconds = train(cell["system"], data.train, cell["level_px"], cell["smooth"], cell["seed"], size)
        judge = judge or Judge(data.train, data.test, task.facts)
        row = wanted | judge(task) | {"seconds": round(seconds), "residual_px": data.residual_px}
        ledger.append(row)
        if cell["seed"] == 0 and not cell["smooth"]:
            kept = {"fake": judge.strip(task), **judge.shown()}
            torch.save(
                kept, args.work / f"strip-{args.data}-{cell['system']}-{cell['level_px']:g}.pt".replace(" ", "_")
            )
        sys.stderr.write(
            f"{cell} {seconds:.0f} s: {row['correlation']:.3f} {row['ssim']:.3f} {row['psnr_db']:.2f} dB\n"
        )


def _cells(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seeds outermost, so that a run that is stopped leaves whole comparisons."""
    from crooked.systems import MORE, SYSTEMS

    names = chosen(args.systems, [*SYSTEMS, *MORE], [*SYSTEMS, *(MORE if args.full else ())])
    for seed in range(args.seeds):
        for level in args.levels:
            for name in names:
                yield {"system": name, "level_px": level, "smooth": False, "seed": seed}
        if args.full:
            for level in (1.0, 8.0):
                yield from ({"system": name, "level_px": level, "smooth": False, "seed": seed} for name in names)
            yield from ({"system": name, "level_px": 2.0, "smooth": True, "seed": seed} for name in names)


def _arguments() -> argparse.Namespace:
    found = parser(__doc__, steps=450)
    found.add_argument("--data", choices=("sample", "real"), default="sample")
    found.add_argument("--systems", nargs="*", help="default: all of the default run")
    found.add_argument("--levels", nargs="*", type=float, default=LEVELS, help="displacements, pixels")
    return found.parse_args()


if __name__ == "__main__":
    main()
