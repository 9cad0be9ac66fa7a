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
import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

CHIPS = (64, 8)
CLASSES = (2,)
FULL_CHIPS = (0, 64, 16, 4)


def main() -> None:
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.show:
        warnings.filterwarnings("ignore")
        _run(args)
        return
    from few.tables import summary

    rows = _rows(args.work)
    if rows:
        sys.stdout.write(summary(rows) + "\n")
        if args.figures:
            from few.pictures import draw

            draw(rows, args.work, args.figures)


def _run(args: argparse.Namespace) -> None:
    import torch
    from few.data import sample, terramesh
    from few.judge import Judge
    from few.systems import FULL, Size, train

    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "rsgeo_gan"):  # set by Lightning when it is imported
        logging.getLogger(name).setLevel(logging.ERROR)
    size = FULL if args.full else Size(steps=args.steps)
    scene = 4096 if args.full else 1024
    data = (
        sample(args.work, size.side_px, scene)
        if args.data == "sample"
        else terramesh(args.work, args.folder, size.side_px)
    )
    judge = Judge(data)
    deadline = time.monotonic() + 60 * args.minutes
    for cell in _cells(args):
        if 0 < len(data.classes) <= cell.classes:
            continue  # that is all of them
        wanted = {"data": args.data, **asdict(cell), "size": asdict(size)}
        if any(all(row[key] == wanted[key] for key in wanted) for row in _rows(args.work)):
            continue
        if time.monotonic() > deadline:
            sys.stderr.write("stopped by --minutes; run again to go on\n")
            return
        task, seconds = train(cell, judge.split(cell), size)
        start = time.process_time()
        scores, shown = judge(task, cell)
        row = wanted | scores | {"seconds": round(seconds), "judged_seconds": round(time.process_time() - start)}
        with (args.work / "rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
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


def _rows(work: Path) -> list[dict[str, Any]]:
    path = work / "rows.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of chips and rows")
    parser.add_argument("--data", choices=("sample", "terramesh"), default="sample")
    parser.add_argument("--folder", type=Path, help="folder of the TerraMesh tiles, with --data terramesh")
    parser.add_argument("--architectures", nargs="*", default=("style", "relativistic"))
    parser.add_argument("--chips", nargs="*", type=int, help="most training chips of a class; 0 for all")
    parser.add_argument("--classes", nargs="*", type=int, default=CLASSES, help="fewer classes, after all of them")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600, help="batches of every training")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no further training after this time")
    parser.add_argument("--full", action="store_true", help="standard sizes, for a GPU")
    parser.add_argument("--show", action="store_true", help="train nothing, show what there is")
    parser.add_argument("--figures", type=Path, help="folder for the figures, with --show")
    return parser.parse_args()


if __name__ == "__main__":
    main()
