"""The study of decoupled learning says what its rows say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from branches.tables import summary


def row(mode: str, weight: float, fd: float, seed: int) -> dict[str, Any]:
    name = mode if mode == "none" else f"{mode} {weight:g}"
    facts = {"data": "sample", "part": "weights", "optimizer": "sgd", "lr": 0.02, "seed": seed, "adversarial_z": 0.0}
    scores = {"fd": fd, "l1": 0.1, "made_l1": 0.1, "spectrum_db": 1.0, "out_of_range": 0.0}
    return {**facts, "mode": mode, "adversarial": weight, "name": name, **scores}


def test_the_summary_says_how_far_a_score_follows_the_weight() -> None:
    rows = [row("none", 0.0, 9.0, 0)]
    for seed in (0, 1):
        rows += [row("tied", 0.01, 2.0, seed), row("tied", 1.0, 8.0, seed)]
        rows += [row("decoupled", 0.01, 3.0, seed), row("decoupled", 1.0, 3.3, seed)]
    names = [one["name"] for one in rows if one["seed"] == 0]
    shares = [0.1, 0.1, 0.2, 0.3, 0.3]
    pools = [
        {"data": "sample", "pool": ["sgd", 0.02, 0.0, 0], "names": names, "nrds": shares, "agreement_fd": 0.5},
    ]
    text = summary(rows, pools)
    assert "| tied | 1 | 0.200 | 8.00 ± 0.00 |" in text
    assert "tied, largest over smallest across weights: NRDS 2.00, FD 4.00, L1 of the reconstruction 1.00" in text
    assert "decoupled, largest over smallest across weights: NRDS 1.00, FD 1.10" in text
    assert "mean of 1 pools: 0.50" in text
