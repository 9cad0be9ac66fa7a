"""Do uniformity and entropy regularisation help when training data are few: on and off over ever fewer chips.

    python tests/benchmarks/scarcity.py --work out/scarcity --minutes 60
    python tests/benchmarks/scarcity.py --work out/scarcity --show

Chips, networks and scores are described in `few/`. Every generator also feeds a small classifier, so that one training
answers whether generated chips help where real ones are few. One row is appended to `rows.jsonl` for every training;
a rerun goes on where the last one stopped. The settings off and both come first, for all sizes and seeds, then fewer
classes, then each kind of term by itself. Times are processor seconds of one thread: set OMP_NUM_THREADS=1. `--full`
trains standard sizes on a GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from runs import Ledger, parser, study

CHIPS = (64, 8)
CLASSES = (2,)
FULL_CHIPS = (0, 64, 16, 4)


def main() -> None:
    args = _arguments()
    study(args, _run, _show)


def _show(args: argparse.Namespace, ledger: Ledger) -> None:
    from few.tables import summary

    rows = ledger.rows()
    sys.stdout.write(summary(rows) + "\n")
    if args.figures:
        from few.pictures import draw

        draw(rows, args.work, args.figures)


def _run(args: argparse.Namespace, ledger: Ledger) -> None:
    import torch
    from few.data import sample, terramesh
    from few.judge import Judge
    from few.systems import FULL, Size, train

    torch.set_num_threads(1)
    size = FULL if args.full else Size(steps=args.steps)
    scene = 4096 if args.full else 1024
    data = (
        sample(args.work, size.side_px, scene)
        if args.data == "sample"
        else terramesh(args.work, args.folder, size.side_px)
    )
    judge = Judge(data)
    # As many classes as there are, or more, are all of them.
    cells = (cell for cell in _cells(args) if not 0 < len(data.classes) <= cell.classes)
    about = {"data": args.data, "size": asdict(size)}
    for cell, wanted in ledger.missing(cells, lambda cell: about | asdict(cell)):
        task, seconds = train(cell, judge.split(cell), size)
        start = time.process_time()
        scores, shown = judge(task, cell)
        row = wanted | scores | {"seconds": round(seconds), "judged_seconds": round(time.process_time() - start)}
        ledger.append(row)
        if cell.seed == 0:
            part = f"{cell.architecture} {cell.classes or 'all'} classes {cell.per_class or 'all'} chips"
            content = {"part": part, "setting": cell.setting, "potential": row["potential_g"], **shown}
            torch.save(content, args.work / f"shown-{args.data}-{part}-{cell.setting}.pt".replace(" ", "_"))
        sys.stderr.write(
            f"{cell} {seconds:.0f} s: FD {row['fd']:.3f} (real {row['fd_real']:.3f}), G2 {row['potential_g']:.3f}, "
            f"accuracy {row['accuracy_real']:.3f} -> {row['accuracy_both']:.3f}\n"
        )


def _cells(args: argparse.Namespace) -> Iterator[Any]:
    """Whole comparisons first: in every part seeds are outermost, and a part begins when the one before is done."""
    from few.systems import Cell

    def part(classes: int, settings: tuple[str, ...]) -> Iterator[Cell]:
        for seed in range(args.seeds):
            for architecture in args.architectures:
                for chips in args.chips or (FULL_CHIPS if args.full else CHIPS):
                    for setting in settings:
                        yield Cell(architecture, setting, classes, chips, seed)

    yield from part(0, ("off", "both"))
    for classes in args.classes:
        yield from part(classes, ("off", "both"))
    yield from part(0, ("UR only", "ER only"))


def _arguments() -> argparse.Namespace:
    found = parser(__doc__, steps=600)
    found.add_argument("--data", choices=("sample", "terramesh"), default="sample")
    found.add_argument("--architectures", nargs="*", default=("style", "relativistic"))
    found.add_argument("--chips", nargs="*", type=int, help="most training chips of a class; 0 for all")
    found.add_argument("--classes", nargs="*", type=int, default=CLASSES, help="fewer classes, after all of them")
    return found.parse_args()


if __name__ == "__main__":
    main()
