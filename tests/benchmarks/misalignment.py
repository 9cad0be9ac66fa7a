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

LEVELS = (0.0, 2.0, 4.0)


def main() -> None:
    args = _arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.show:
        warnings.filterwarnings("ignore")
        for name in ("lightning.pytorch", "lightning", "rsgeo_gan"):
            logging.getLogger(name).setLevel(logging.ERROR)
        _run(args)
    if not args.show:
        return
    from crooked.tables import draw, summary

    rows = _rows(args.work)
    if rows:
        sys.stdout.write(summary(rows) + "\n")
        if args.figures:
            draw(rows, args.work, args.figures)


def _run(args: argparse.Namespace) -> None:
    import torch
    from crooked.data import real, sample
    from crooked.judge import Judge
    from crooked.systems import FULL, Size, train

    torch.set_num_threads(1)
    size = FULL if args.full else Size(steps=args.steps)
    data = sample(args.work) if args.data == "sample" else real(args.work, args.folder)
    deadline = time.monotonic() + 60 * args.minutes
    judge: Judge | None = None
    for cell in _cells(args):
        wanted = cell | {"data": args.data, "size": asdict(size)}
        if any(all(row[key] == wanted[key] for key in wanted) for row in _rows(args.work)):
            continue
        if time.monotonic() > deadline:
            sys.stderr.write("stopped by --minutes; run again to go on\n")
            return
        task, seconds = train(cell["system"], data.train, cell["level_px"], cell["smooth"], cell["seed"], size)
        judge = judge or Judge(data.train, data.test, task.facts)
        row = wanted | judge(task) | {"seconds": round(seconds), "residual_px": data.residual_px}
        with (args.work / "rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
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

    names = args.systems or [*SYSTEMS, *(MORE if args.full else ())]
    unknown = sorted(set(names) - {*SYSTEMS, *MORE})
    if unknown:
        raise SystemExit(f"Unknown systems {unknown}: expected some of {', '.join([*SYSTEMS, *MORE])}.")
    for seed in range(args.seeds):
        for level in args.levels:
            for name in names:
                yield {"system": name, "level_px": level, "smooth": False, "seed": seed}
        if args.full:
            for level in (1.0, 8.0):
                yield from ({"system": name, "level_px": level, "smooth": False, "seed": seed} for name in names)
            yield from ({"system": name, "level_px": 2.0, "smooth": True, "seed": seed} for name in names)


def _rows(work: Path) -> list[dict[str, Any]]:
    path = work / "rows.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of scenes, tiles and rows")
    parser.add_argument("--data", choices=("sample", "real"), default="sample")
    parser.add_argument("--folder", type=Path, help="folder of the chips, with --data real")
    parser.add_argument("--systems", nargs="*", help="default: all of the default run")
    parser.add_argument("--levels", nargs="*", type=float, default=LEVELS, help="displacements, pixels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=450, help="batches of every training")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no further training after this time")
    parser.add_argument("--full", action="store_true", help="standard sizes, for a GPU")
    parser.add_argument("--show", action="store_true", help="train nothing, show what there is")
    parser.add_argument("--figures", type=Path, help="folder for the figure and the strips")
    return parser.parse_args()


if __name__ == "__main__":
    main()
