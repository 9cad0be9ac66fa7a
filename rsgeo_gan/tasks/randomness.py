"""The state of every global random generator, as plain types that a weights-only checkpoint may hold.

Processes that train together have a state each.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import distributed

__all__ = ["Stream", "capture", "of_all_ranks", "restore"]

_OWN = 0x5EED
"""Sets a stream's seed apart from that of the run."""


def capture() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's generators."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(words), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(state: dict[str, Any]) -> None:
    """Put the generators into a state that `capture` returned; CUDA only where the devices are as many."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    _set_torch_state(state)


def of_all_ranks(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of all processes, by rank; all of them must call this."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states


class Stream:
    """Random numbers of a branch, so that the rest draws the same ones whether the branch runs or not.

    Its seed follows from that of the run when it is first used.

    Args:
        number: Sets several streams of a run apart.
    """

    def __init__(self, number: int = 0) -> None:
        self._own = _OWN + number
        self._state: dict[str, Any] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Draw torch's random numbers from this stream inside the context."""
        outside = _torch_state()
        if self._state is None:
            torch.manual_seed((torch.initial_seed() ^ self._own) & 0xFFFF_FFFF_FFFF)
        else:
            _set_torch_state(self._state)
        try:
            yield
        finally:
            self._state = _torch_state()
            _set_torch_state(outside)

    def state(self) -> dict[str, Any] | None:
        """Return where the stream is, as plain types; None when it was never used."""
        return self._state

    def load(self, state: dict[str, Any] | None) -> None:
        """Go on where `state` was."""
        self._state = state


def _torch_state() -> dict[str, Any]:
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if used else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def _set_torch_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
