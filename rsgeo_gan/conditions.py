"""What a generated image is asked to be: classes, ordinal and cyclic quantities, and their coding for networks.

A condition has a value people understand ("forest", day 172, 0.6 m above the water line) and a code that networks
read, a short vector with entries in [-1, 1]. The coding is stored with the weights, so that a checkpoint can be
asked in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rsgeo_gan.errors import CatalogError

__all__ = ["Classes", "Conditions", "Cyclic", "Ordinal", "Part"]

Code = NDArray[np.float32]


@dataclass(frozen=True)
class Classes:
    """One of several classes; its code is 1 at the class and -1 elsewhere.

    Attributes:
        name: Name of the condition.
        classes: Names of the classes, in the order of the code and of integer labels.
    """

    name: str
    classes: tuple[str, ...]
    kind: ClassVar[str] = "classes"

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise CatalogError(f"Condition {self.name}: expected one or more different classes, got {self.classes}.")

    @property
    def width(self) -> int:
        """Entries of the code."""
        return len(self.classes)

    def index(self, value: Any) -> int:
        """Return the integer label of a class; a number stands for the class of that name.

        Raises:
            CatalogError: If there is no such class.
        """
        name = str(value)
        if name not in self.classes:
            raise CatalogError(
                f"Condition {self.name}: there is no class {value!r}; expected one of {', '.join(self.classes)}."
            )
        return self.classes.index(name)

    def encode(self, value: Any) -> Code:
        """Return the code of a class, float32 of shape (classes,)."""
        code = np.full(self.width, -1, np.float32)
        code[self.index(value)] = 1
        return code

    def decode(self, code: Sequence[float] | Code) -> str:
        """Return the class with the largest entry."""
        return self.classes[int(np.argmax(code))]


@dataclass(frozen=True)
class Ordinal:
    """A quantity with an order, between two ends; its code runs from -1 to 1.

    Attributes:
        name: Name of the condition.
        low: Smallest value.
        high: Largest value.
        unit: Unit of the values, for people.
    """

    name: str
    low: float
    high: float
    unit: str = ""
    kind: ClassVar[str] = "ordinal"
    width: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise CatalogError(f"Condition {self.name}: expected low < high, got {self.low} and {self.high}.")

    def encode(self, value: Any) -> Code:
        """Return the code of a value, float32 of shape (1,).

        Raises:
            CatalogError: If the value is no number or lies outside the ends.
        """
        number = _number(self.name, value)
        if not self.low <= number <= self.high:
            raise CatalogError(
                f"Condition {self.name}: expected {self.low:g} to {self.high:g} {self.unit}".rstrip()
                + f", got {number:g}. The model has seen no other values."
            )
        return np.array([2 * (number - self.low) / (self.high - self.low) - 1], np.float32)

    def decode(self, code: Sequence[float] | Code) -> float:
        """Return the value of a code."""
        return self.low + (float(code[0]) + 1) / 2 * (self.high - self.low)


@dataclass(frozen=True)
class Cyclic:
    """A quantity that comes round again, such as the day of the year; its code is sine and cosine.

    Attributes:
        name: Name of the condition.
        period: Where it begins anew.
        unit: Unit of the values, for people.
    """

    name: str
    period: float
    unit: str = ""
    kind: ClassVar[str] = "cyclic"
    width: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.period) and self.period > 0):
            raise CatalogError(f"Condition {self.name}: expected a period above 0, got {self.period}.")

    def encode(self, value: Any) -> Code:
        """Return sine and cosine of the phase, float32 of shape (2,).

        Raises:
            CatalogError: If the value is no number.
        """
        phase = 2 * math.pi * _number(self.name, value) / self.period
        return np.array([math.sin(phase), math.cos(phase)], np.float32)

    def decode(self, code: Sequence[float] | Code) -> float:
        """Return the value of a code, from 0 to the period."""
        return math.atan2(float(code[0]), float(code[1])) / (2 * math.pi) * self.period % self.period


Part = Classes | Ordinal | Cyclic


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise CatalogError(f"Condition {name}: expected a number, got {value!r}.")
    return number


@dataclass(frozen=True)
class Conditions:
    """All conditions of a model; the code is that of its parts, one after the other.

    Attributes:
        parts: The conditions, names unique.
    """

    parts: tuple[Part, ...] = ()

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) != len(names):
            raise CatalogError(f"Conditions need different names, got {', '.join(names)}.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts, in order."""
        return tuple(part.name for part in self.parts)

    @property
    def width(self) -> int:
        """Entries of the whole code; 0 without conditions."""
        return sum(part.width for part in self.parts)

    @property
    def slices(self) -> dict[str, slice]:
        """Where the code of each part lies in the whole code, by name."""
        ends = np.cumsum([0, *(part.width for part in self.parts)]).tolist()
        return {name: slice(*ends[k : k + 2]) for k, name in enumerate(self.names)}

    @property
    def classes(self) -> Classes | None:
        """The first class condition, which integer labels belong to; None when there is none."""
        return next((part for part in self.parts if isinstance(part, Classes)), None)

    def part(self, name: str) -> Part:
        """Return one condition.

        Raises:
            CatalogError: If there is none of this name.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise CatalogError(f"There is no condition {name!r}; expected one of {', '.join(self.names) or 'none'}.")

    def encode(self, values: Mapping[str, Any]) -> Code:
        """Return the code of one image.

        Args:
            values: Value of each condition, by name.

        Returns:
            float32 of shape (width,), entries in [-1, 1].

        Raises:
            CatalogError: If a condition is missing or unknown, or a value is not one of its own.
        """
        for name in values:
            self.part(name)
        missing = [name for name in self.names if name not in values]
        if missing:
            raise CatalogError(
                f"Conditions {', '.join(missing)} have no value; expected one for each of {', '.join(self.names)}."
            )
        codes = [part.encode(values[part.name]) for part in self.parts]
        return np.concatenate(codes) if codes else np.zeros(0, np.float32)

    def decode(self, code: Sequence[float] | Code) -> dict[str, Any]:
        """Return the values that a code of shape (width,) stands for, by name.

        Raises:
            CatalogError: If the code has another width.
        """
        if len(code) != self.width:
            raise CatalogError(f"A code of these conditions has {self.width} entries, got {len(code)}.")
        return {part.name: part.decode(code[self.slices[part.name]]) for part in self.parts}

    def walk(self, name: str, values: Sequence[Any], given: Mapping[str, Any] | None = None) -> Code:
        """Return codes in which one condition changes and the others stay.

        Args:
            name: The condition that changes.
            values: Its values.
            given: Values of the other conditions.

        Returns:
            float32 of shape (N, width), one row a value.

        Raises:
            CatalogError: As `encode`.
        """
        self.part(name)
        rows = [self.encode({**(given or {}), name: value}) for value in values]
        return np.stack(rows) if rows else np.zeros((0, self.width), np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Describe the conditions in plain JSON types."""
        return {"parts": [{"kind": part.kind, **_plain(part)} for part in self.parts]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Conditions:
        """Rebuild the conditions that `to_dict` described.

        Raises:
            CatalogError: If it describes none.
        """
        kinds: dict[str, Any] = {kind.kind: kind for kind in (Classes, Ordinal, Cyclic)}
        parts = []
        for entry in data.get("parts", ()):
            facts = {key: tuple(value) if key == "classes" else value for key, value in entry.items() if key != "kind"}
            try:
                parts.append(kinds[entry["kind"]](**facts))
            except (KeyError, TypeError) as error:
                raise CatalogError(
                    f"{dict(entry)!r} describes no condition: expected a kind out of {', '.join(kinds)} and its facts."
                ) from error
        return cls(tuple(parts))


def _plain(part: Part) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(part).items()}
