"""Progress as data: stages report how far they are, the command line and the flows draw it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

__all__ = ["Progress", "silent", "track"]

Progress = Callable[[str, int, int], None]
"""Called with a label, the number of finished steps and the number of all steps."""


def silent(label: str, done: int, total: int) -> None:
    """Report nothing; the default of every stage."""


def track[T](items: Sequence[T], label: str, progress: Progress) -> Iterator[T]:
    """Yield the items, reporting before the first and after each one.

    Args:
        items: What is worked through.
        label: What the work is called, a short noun phrase.
        progress: Receives the label, finished steps and all steps.

    Yields:
        The items, in order.
    """
    total = len(items)
    progress(label, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        progress(label, done, total)
