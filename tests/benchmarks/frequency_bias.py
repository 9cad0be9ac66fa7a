"""Which frequencies a generator meets, and whether moving its easy band helps: shifts and branches against controls.

    python tests/benchmarks/frequency_bias.py --work out/frequency --minutes 60
    python tests/benchmarks/frequency_bias.py --work out/frequency --data optical --folder path/to/scenes
    python tests/benchmarks/frequency_bias.py --work out/frequency --show --figures docs/results

Data, systems and scores are described in `bands/`. One row is appended to `rows.jsonl` in the work folder for every
training, and a rerun goes on where the last one stopped; two runs with different `--systems` may share a work folder.
Times are of one thread: set OMP_NUM_THREADS=1. `--full` trains 64 px networks on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))


def main(argv: list[str] | None = None) -> None:
    args = _arguments(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    if not args.show:
        _run(args)
        return
    from bands.tables import draw, summary

    rows = _rows(args.work)
    if rows:
        sys.stdout.write(summary(rows) + "\n")
        if args.figures:
            draw(rows, args.work, args.figures)


def _run(args: argparse.Namespace) -> None:
    import torch
    from bands.data import optical, toy
    from bands.judge import Judge
    from bands.systems import FULL, Size, train

    torch.set_num_threads(1)
    size = FULL if args.full else Size(steps=args.steps)
    deadline = time.monotonic() + 60 * args.minutes
    for name in args.data:
        data = toy(size.side_px) if name == "toy" else optical(args.folder, size.side_px)
        if data is None:
            sys.stderr.write(f"skipped {name}: no scenes in {args.folder}; say where they are by --folder\n")
            continue
        judge: Judge | None = None
        for cell in _cells(args):
            wanted = cell | {"data": name, "size": asdict(size)}
            if any(all(row[key] == wanted[key] for key in wanted) for row in _rows(args.work)):
                continue
            if time.monotonic() > deadline:
                sys.stderr.write("stopped by --minutes; run again to go on\n")
                return
            judge = judge or Judge(data)
            draw, seconds = train(cell["system"], data, cell["seed"], size)
            row = wanted | judge(draw) | {"floor": judge.floor(), "seconds": round(seconds)}
            with (args.work / "rows.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
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

    names = args.systems or list(SYSTEMS)
    unknown = sorted(set(names) - set(SYSTEMS))
    if unknown:
        raise SystemExit(f"Unknown systems {unknown}: expected some of {', '.join(SYSTEMS)}.")
    for seed in range(args.seeds):
        yield from ({"system": name, "seed": seed} for name in names)


def _rows(work: Path) -> list[dict[str, Any]]:
    path = work / "rows.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of rows and strips")
    parser.add_argument("--data", nargs="*", choices=("toy", "optical"), default=["toy", "optical"])
    parser.add_argument("--folder", type=Path, help="scenes of the optical data, 8 bit, any depth of folders")
    parser.add_argument("--systems", nargs="*", help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000, help="batches of every training")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no further training after this time")
    parser.add_argument("--full", action="store_true", help="64 px and more steps, for a GPU")
    parser.add_argument("--show", action="store_true", help="train nothing, show what there is")
    parser.add_argument("--figures", type=Path, help="folder for the figures, with --show")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
