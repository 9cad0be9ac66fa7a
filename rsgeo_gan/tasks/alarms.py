"""Watches a training for the three ways in which adversarial training goes wrong, and says so once."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

__all__ = ["Alarms"]

log = logging.getLogger(__name__)

_ADVICE = {
    "collapse": "generated images have almost no contrast left, or are all alike; lower the learning rates, or raise "
    "the weights of the other terms (cycle, or r1 and r2)",
    "discriminator": "the discriminator is never wrong any more; lower its learning rate, or narrow it",
    "divergence": "the generator's loss has left the range it began in; lower the learning rates",
}


class Alarms:
    """Counts consecutive bad observations and warns when there were enough of them.

    Args:
        patience: Observations in a row before an alarm.
        contrast: Least standard deviation of fakes, as a share of that of reals.
        pinned: Discriminator losses below this count as zero.
        growth: Largest generator loss, in multiples of its mean over the first observations.
    """

    def __init__(self, patience: int = 10, contrast: float = 0.1, pinned: float = 1e-3, growth: float = 20.0) -> None:
        self.patience = patience
        self.contrast = contrast
        self.pinned = pinned
        self.growth = growth
        self._runs = dict.fromkeys(_ADVICE, 0)
        self._first: list[float] = []

    def observe(self, step: int, contrast: float, discriminator: float, generator: float) -> dict[str, float]:
        """Take in one observation.

        Args:
            step: Batches seen, for the message.
            contrast: Standard deviation of fakes over that of reals; NaN when unknown.
            discriminator: Weighted sum of the discriminator's terms.
            generator: Weighted sum of the generator's terms.

        Returns:
            1 for every alarm that is on, else 0, by name.
        """
        if len(self._first) < self.patience:
            self._first.append(abs(generator))
        usual = sum(self._first) / len(self._first)
        bad = {
            "collapse": not math.isnan(contrast) and contrast < self.contrast,
            "discriminator": discriminator < self.pinned,
            "divergence": usual > 0 and generator > self.growth * usual,
        }
        for name, is_bad in bad.items():
            self._runs[name] = self._runs[name] + 1 if is_bad else 0
            if self._runs[name] == self.patience:
                log.warning("training alarm %r after %d batches: %s", name, step, _ADVICE[name])
        return {name: float(run >= self.patience) for name, run in self._runs.items()}

    def state(self) -> dict[str, list[float]]:
        """Return what has been counted, as plain types."""
        return {"first": list(self._first), "runs": [float(self._runs[name]) for name in sorted(self._runs)]}

    def load(self, state: Mapping[str, list[float]]) -> None:
        """Take over what `state` returned."""
        self._first = list(state["first"])
        self._runs = {name: int(run) for name, run in zip(sorted(_ADVICE), state["runs"], strict=True)}
