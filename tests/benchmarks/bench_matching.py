"""Memory and time of matching an image with a reference: by tile, by window, and against one table of all scores.

    python tests/benchmarks/bench_matching.py --channels 32

Memory is the largest sum of tensors alive at once, counted at every operation; what was given does not count.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import arguments, table
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rsgeo_gan.models import match


class Alive(TorchDispatchMode):
    """Counts the bytes of tensors made under it that are still referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and (key := x.untyped_storage()._cdata) not in given | self.known:
                size = x.untyped_storage().nbytes()
                self.known.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(x.untyped_storage(), self._gone, key, size)
        return out

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peak_bytes(work: Callable[[], object]) -> int:
    with Alive() as alive:
        work()
    return alive.peak


def sides(size: int, channels: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, size, size, generator=draw), torch.randn(1, 1, channels, size, size, generator=draw)


def all_scores(query: Tensor, keys: Tensor) -> Tensor:
    """One table: every patch against every patch."""
    one, other = (F.normalize(F.unfold(x, 3), dim=1)[0] for x in (query, keys[:, 0]))
    return (one.T @ other).max(dim=1).values


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Memory, MiB, and CPU seconds."""
    start = time.process_time()
    work()
    spent = time.process_time() - start
    return peak_bytes(work) / 2**20, spent


def main() -> None:
    options = arguments(__doc__ or "", channels=32, largest=96)
    rows = []
    for size in [n for n in (24, 48, 96, 192) if n <= options.largest]:
        given = sides(size, options.channels)
        cases = {f"window {n}": partial(match, *given, window=n) for n in (2, 4, 8, 16)}
        cases |= {"whole reference, in chunks": partial(match, *given, window=None)}
        cases |= {"one table": partial(all_scores, *given)}
        for name, case in cases.items():
            memory, spent = measured(case)
            rows.append([size, name, f"{memory:.1f}", f"{spent:.2f}"])
    table("Matching", ["cells a side", "search", "MiB", "CPU s"], rows)


if __name__ == "__main__":
    main()
