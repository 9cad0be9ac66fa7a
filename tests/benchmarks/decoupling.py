"""Does decoupled learning take the adversarial weight out of the game: tied and decoupled over weights and rates.

    python tests/benchmarks/decoupling.py --work out/decoupling --minutes 60
    python tests/benchmarks/decoupling.py --work out/decoupling --show

Adam steps alike whatever a gradient's size, so it would hide the weight of a term that has parameters to itself; all is
therefore trained under plain gradient descent as well, and over learning rates. A second part switches the two
discriminators of the tied system on and off. Data, systems and scores are described in `branches/`. One row is
appended to `rows.jsonl` for every training, one to `pools.jsonl` for every pool judged by NRDS; a rerun goes on where
the last one stopped. A folder is for trainings of one size. Times are of one thread: set OMP_NUM_THREADS=1. `--full`
trains standard sizes on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from runs import Ledger, parser, study

WEIGHTS = (0.001, 0.01, 0.1, 1.0)
CAAE_IMAGE, CAAE_CODE = 0.01, 0.01
"""Weights of the tied system's adversarial terms where they are on."""


def main() -> None:
    args = _arguments()
    study(args, _run, _show)


def _show(args: argparse.Namespace, ledger: Ledger) -> None:
    from branches.tables import draw, summary

    rows, pools = ledger.rows(), ledger.rows("pools")
    sys.stdout.write(summary(rows, pools) + "\n")
    if args.figures:
        draw(rows, pools, args.work, args.figures)


def _run(args: argparse.Namespace, ledger: Ledger) -> None:
    import torch
    from branches.data import real, sample
    from branches.judge import SHOWN, Judge
    from branches.systems import FULL, Size, train

    torch.set_num_threads(1)
    size = FULL if args.full else Size(steps=args.steps, side_px=args.side)
    if args.data == "sample":
        data = sample(args.work, size.side_px, args.scene)
    else:
        data = real(args.work, args.folder, size.side_px)
    judge = Judge(data, args.judge_epochs)
    (args.work / "made").mkdir(exist_ok=True)

    def key(of: tuple[str, Any]) -> dict[str, Any]:
        part, cell = of
        return {"data": args.data, "part": part, **asdict(cell), "name": _name(cell), "size": asdict(size)}

    for (part, cell), wanted in ledger.missing(_cells(args), key):
        try:
            task, seconds = train(cell, data, size)
        except Exception as error:
            ledger.append(wanted | {"error": str(error)[:300]}, "failed")
            sys.stderr.write(f"{part} {wanted['name']} {cell.optimizer} {cell.lr:g}: {error}\n")
            continue
        scores, made = judge(task)
        ledger.append(wanted | scores | {"seconds": round(seconds)})
        torch.save(made, _made(args.work, wanted))
        if cell.seed == 0 and part == "weights":
            torch.save(
                {"real": judge.real[:SHOWN].clone(), "made": made[:SHOWN].clone()},
                args.work / f"strip-{args.data}-{cell.optimizer} {cell.lr:g} {wanted['name']}.pt",
            )
        sys.stderr.write(
            f"{part} {wanted['name']} {cell.optimizer} {cell.lr:g} seed {cell.seed}, {seconds:.0f} s: "
            f"L1 {scores['l1']:.4f}, FD {scores['fd']:.2f}\n"
        )
        _judge_pools(args, ledger, judge, asdict(size))


def _judge_pools(args: argparse.Namespace, ledger: Ledger, judge: Any, size: dict[str, Any]) -> None:
    """Judge every pool whose trainings are all there."""
    import torch

    rows = [row for row in ledger.rows() if row["part"] == "weights" and row["size"] == size]
    cells = [cell for part, cell in _cells(args) if part == "weights"]
    judged = {json.dumps([pool["data"], *pool["pool"]]) for pool in ledger.rows("pools")}
    for pool in dict.fromkeys(cell.pool for cell in cells):
        names = {_name(cell) for cell in cells if cell.pool == pool}
        mine = [
            row
            for row in rows
            if (row["data"], row["optimizer"], row["lr"], row["adversarial_z"], row["seed"]) == (args.data, *pool)
        ]
        if {row["name"] for row in mine} != names or json.dumps([args.data, *pool]) in judged:
            continue
        sets = [torch.load(_made(args.work, row), weights_only=True) for row in mine]
        found = judge.together([row["name"] for row in mine], sets, [row["fd"] for row in mine])
        ledger.append({"data": args.data, "pool": list(pool), **found}, "pools")


def _cells(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Seeds outermost, so that a run that is stopped leaves whole comparisons; the middle rates first."""
    from branches.systems import RATES, Cell

    for seed in range(args.seeds):
        for turn in (1, 0, 2)[: args.rates]:
            for optimizer in args.optimizers:
                lr = RATES[optimizer][turn]
                yield "weights", Cell("none", 0.0, 0.0, optimizer, lr, seed)
                for weight in args.weights:
                    yield "weights", Cell("tied", weight, 0.0, optimizer, lr, seed)
                    yield "weights", Cell("decoupled", weight, 0.0, optimizer, lr, seed)
            if turn == 1 and args.data == "sample":
                lr = RATES["adam"][1]
                for image in (0.0, CAAE_IMAGE):
                    for code in (0.0, CAAE_CODE):
                        yield "caae", Cell("tied", image, code, "adam", lr, seed)


def _name(cell: Any) -> str:
    return cell.mode if cell.mode == "none" else f"{cell.mode} {cell.adversarial:g}"


def _made(work: Path, row: dict[str, Any]) -> Path:
    parts = (row["data"], row["part"], row["optimizer"], f"{row['lr']:g}", row["name"], f"{row['adversarial_z']:g}")
    side, steps = row["size"]["side_px"], row["size"]["steps"]
    return work / "made" / f"{'-'.join(parts)}-{row['seed']}-{side}px-{steps}.pt".replace(" ", "_")


def _arguments() -> argparse.Namespace:
    found = parser(__doc__, steps=800)
    found.add_argument("--data", choices=("sample", "real"), default="sample")
    found.add_argument("--weights", nargs="*", type=float, default=WEIGHTS, help="adversarial weights")
    found.add_argument("--optimizers", nargs="*", choices=("adam", "sgd"), default=["adam", "sgd"])
    found.add_argument("--rates", type=int, choices=(1, 2, 3), default=3, help="learning rates; 1: the middle one")
    found.add_argument("--side", type=int, choices=(32, 64, 128), default=32, help="side of the chips, pixels")
    found.add_argument("--scene", type=int, default=1024, help="side of the invented scenes, pixels")
    found.add_argument("--judge-epochs", type=int, default=20, help="epochs of the judge behind NRDS")
    return found.parse_args()


if __name__ == "__main__":
    main()
