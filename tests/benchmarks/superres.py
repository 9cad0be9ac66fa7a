"""Which rung of super-resolution to choose, and what a reference is worth: real scenes under Wald's protocol.

    python tests/benchmarks/superres.py --folder DATA --work out/superres --minutes 40
    python tests/benchmarks/superres.py --work out/superres --show --figures docs/images

Scenes, rungs and scores are described in `sharp/`; DATA is the folder of the public samples. One row is appended to
`rows.jsonl` in the work folder for every network, and a rerun goes on where the last one stopped; two runs with
different `--scenes` may share a work folder. Networks of the first seed are also judged on the cross-sensor pair. Times
are of one thread: set OMP_NUM_THREADS=1. `--full` trains standard networks on a GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from runs import Ledger, chosen, parser, study

if TYPE_CHECKING:
    from sharp.judge import Judge
    from sharp.systems import Scaled, Size
    from torch import nn

LEARNT = ("boadella", "brandenburg", "landsat", "rotterdam")
ALIEN, ORIGIN = "satellogic", "boadella"
"""The cross-sensor pair, and the scene whose networks it is given to."""


def main() -> None:
    args = _arguments()
    study(args, _run, _show)


def _show(args: argparse.Namespace, ledger: Ledger) -> None:
    from sharp.tables import draw, summary

    rows = ledger.rows()
    sys.stdout.write(summary(rows) + "\n")
    if args.figures:
        draw(rows, args.work, args.figures)


def _run(args: argparse.Namespace, ledger: Ledger) -> None:
    import torch
    from sharp.data import load
    from sharp.judge import Judge
    from sharp.systems import CONTROLS, FULL, RUNGS, Size, scaled

    torch.set_num_threads(1)
    size = FULL if args.full else Size(steps=args.steps)
    data = {name: scaled(load(name, args.folder, args.work)) for name in args.scenes}
    judges = {name: Judge(found) for name, found in data.items()}
    if ORIGIN in args.scenes:
        alien = scaled(load(ALIEN, args.folder, args.work))
        data[ALIEN] = alien
        judges[ALIEN] = Judge(alien)
    # Seeds outermost, so that a run that is stopped leaves whole comparisons.
    cells = (
        {"scene": scene, "rung": name, "seed": seed, "size": asdict(size)}
        for seed in range(args.seeds)
        for scene in args.scenes
        for name in chosen(args.rungs, [*RUNGS, *CONTROLS])
        if name != "bicubic" or seed == 0
    )
    for cell, _ in ledger.missing(cells, dict):
        _cell(cell, data, judges, size, ledger)


def _cell(cell: dict[str, Any], data: dict[str, Scaled], judges: dict[str, Judge], size: Size, ledger: Ledger) -> None:
    """Train and judge one network; keep its pictures where it is the first of its kind."""
    import torch
    from sharp.systems import train

    scene, name, seed, work = cell["scene"], cell["rung"], cell["seed"], ledger.work
    network, seconds = train(name, data[scene], seed, size, _content(name, scene, seed, data, size, work))
    judge = judges[scene]
    row = cell | {"scores": judge(name, network), "seconds": round(seconds, 1), "notes": data[scene].scene.notes}
    row |= {"range": judge.range, "backend": judge.backend.name, "tiles": len(judge.corners)}
    row |= {"parameters": sum(p.numel() for p in network.parameters())}
    ledger.append(row)
    first = row["scores"].get("", row["scores"].get("other"))
    sys.stderr.write(f"{scene} {name} {seed} {seconds:.0f} s: {first['psnr_db']:.2f} dB\n")
    if name == "SRResNet":
        torch.save(network.state_dict(), work / f"srresnet-{scene}-{seed}-{size.steps}.pt")
    if seed == 0:
        torch.save(judge.pictures(name, network), work / f"strip-{scene}-{name}.pt".replace(" ", "_"))
    if scene == ORIGIN:
        other = judges[ALIEN]
        row |= {"scene": ALIEN, "scores": other(name, network), "notes": data[ALIEN].scene.notes, "range": other.range}
        ledger.append(row | {"tiles": len(other.corners)})
        if seed == 0:
            torch.save(other.pictures(name, network), work / f"strip-{ALIEN}-{name}.pt".replace(" ", "_"))


def _content(name: str, scene: str, seed: int, data: dict[str, Scaled], size: Size, work: Path) -> nn.Module | None:
    """Take the SRResNet of this scene and seed from the work folder, or train it again."""
    import torch
    from sharp.systems import PLAIN, empty, train

    if name == "bicubic" or name in PLAIN:
        return None
    path = work / f"srresnet-{scene}-{seed}-{size.steps}.pt"
    if not path.is_file():
        network, _ = train("SRResNet", data[scene], seed, size, None)
        torch.save(network.state_dict(), path)
    found = empty(data[scene], size)
    found.load_state_dict(torch.load(path, weights_only=True))
    return found.eval()


def _arguments() -> argparse.Namespace:
    made = parser(__doc__, steps=600, minutes=40.0)
    made.add_argument("--scenes", nargs="*", default=LEARNT, choices=LEARNT)
    made.add_argument("--rungs", nargs="*", help="default: all rungs and controls")
    found = made.parse_args()
    if not found.show and found.folder is None:
        made.error("--folder is needed to run: the folder of the public samples")
    return found


if __name__ == "__main__":
    main()
