"""Co-registration under known displacements: ours beside other tools, with what each declines and states.

    python tests/benchmarks/coregistration.py --data DIR --tie-points DIR --methods ours --json rows.jsonl

Pairs, cases and truth are described in `coreg/pairs.py`, `coreg/cases.py` and `coreg/judge.py`. Rows are appended to
the JSON Lines file, and a rerun goes on where the last one stopped; a method that has changed needs a new file. Times
are CPU seconds of one thread: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from coreg import own, tables
from coreg.judge import BLOCKS, Settings, Store, run, run_strangers
from coreg.pairs import Pair, find, find_tie_points, samples
from coreg.rivals import Method, rivals

QUICK = ("no change", "phase, intensity", "phase, gradient", "ECC gradient, shift", "ECC gradient, affine", "MI, shift",
         "MI, affine")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    args = _arguments(arguments)
    store = Store(args.json)
    if args.job:
        from coreg.scale import work

        _say(json.dumps(work(json.loads(args.job))))
        return
    if args.memory:
        from coreg.scale import memory

        names = [name for word in args.methods for name in (QUICK if word == "rivals" else (word,))]
        _say(memory(args.data, names, args.arosics))
        return
    if args.scale is not None:
        from coreg.scale import report as cost

        _say(cost(args.data, args.scale))
        return
    if not args.show:
        pairs = _pairs(args)
        known: dict[str, Method] = {"ours": own.files, "ours, arrays": own.on_arrays} | rivals(args.arosics)
        names = [n for word in args.methods for n in (QUICK if word == "rivals" else (word,))]
        unknown = sorted(set(names) - set(known))
        if unknown:
            raise SystemExit(f"Unknown methods {unknown}: expected some of {', '.join(known)}, or rivals.")
        methods = {name: known[name] for name in names}
        settings = Settings(args.tile, args.max_shift, args.draws, tuple(args.cases or ()), args.strangers)
        deadline = time.monotonic() + 60 * args.minutes
        done = run([p for p in pairs if p.block in args.blocks], methods, settings, store, deadline=deadline, say=_log)
        if done and "unrelated" in args.blocks:
            done = run_strangers(pairs, methods, settings, store, part=args.part, deadline=deadline, say=_log)
        if not done:
            _log("stopped by --minutes; run again to go on")
    rows = [row for row in store.rows if args.part in ("all", row.part)]
    for more in args.also:
        rows += [row for row in Store(more).rows if args.part in ("all", row.part)]
    rows = [row for row in rows if not args.show or args.methods == ["ours"] or row.method in args.methods]
    _say(tables.summary(tables.shared(rows) if args.shared else rows))
    if args.by_set:
        _say(tables.summary(rows, group=True))
    if args.by_case:
        for block in BLOCKS[:5]:
            _say(f"**{block}**\n\n{tables.by_case(rows, block)}")
    for part in (tables.refusal, tables.still, tables.calibration, tables.reliability, tables.reasons):
        _say(part(rows))
    if args.report:
        from coreg.figure import draw

        draw(rows, args.report / "coregistration.png")
        (args.report / "coregistration-tables.md").write_text(tables.report(rows))


def _pairs(args: argparse.Namespace) -> list[Pair]:
    pairs = find(args.data) if args.data else []
    if args.tie_points:
        pairs += find_tie_points(args.tie_points)
    elif "tie points" in args.blocks:
        _log("no --tie-points: the block with manual points is left out")
    if "sample" in args.blocks:
        pairs += samples(args.samples)
    if args.part != "all":
        pairs = [pair for pair in pairs if pair.part == args.part]
    if args.only:
        pairs = [pair for pair in pairs if any(word in pair.name for word in args.only)]
    return pairs


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = {"type": lambda text: [word.strip() for word in text.split(";") if word.strip()], "metavar": "A;B;…"}
    parser.add_argument("--data", type=Path, help="folder of pairs, see coreg/pairs.py")
    parser.add_argument(
        "--tie-points", type=Path, help="checkout of yeyuanxin110/CFOG, or NAME/{ref,mov}.tif, points.csv"
    )
    parser.add_argument("--methods", default=["ours"], help="methods, or `rivals` for the quick ones", **words)
    parser.add_argument("--blocks", default=list(BLOCKS), help=", ".join(BLOCKS), **words)
    parser.add_argument("--part", default="report", choices=("tune", "report", "all"), help="half of the places")
    parser.add_argument("--only", help="parts of pair names", **words)
    parser.add_argument("--cases", help="names of cases", **words)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--tile", type=int, default=512, help="largest side of a tile, px")
    parser.add_argument("--max-shift", type=float, default=12.0, help="px")
    parser.add_argument("--strangers", type=int, default=240, help="unrelated combinations")
    parser.add_argument("--samples", type=int, default=12, help="pairs of the package's sample generator")
    parser.add_argument("--arosics", metavar="PYTHON", help="interpreter that can import AROSICS")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after this")
    parser.add_argument("--json", type=Path, help="rows, JSON Lines; read first, appended to")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="more stored rows for the tables")
    parser.add_argument("--show", action="store_true", help="only tables of the stored rows")
    parser.add_argument("--shared", action="store_true", help="only cases that every method in a block ran")
    parser.add_argument("--by-set", action="store_true")
    parser.add_argument("--by-case", action="store_true")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write all tables and the figure")
    parser.add_argument(
        "--scale", nargs="?", const="", metavar="WORD", help="cost of scenes instead, or of one of them"
    )
    parser.add_argument("--memory", action="store_true", help="peak memory of the methods instead")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n\n")
    sys.stdout.flush()


def _log(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
