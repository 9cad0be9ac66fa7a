"""What the items of a tile collection say about each tile: class, day of the year, other quantities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pystac

from rsgeo_gan.conditions import Classes, Conditions, Cyclic, Ordinal, Part
from rsgeo_gan.errors import CatalogError, SourceError
from rsgeo_gan.manifest import Manifest

__all__ = ["DAY", "LABEL", "conditions_of", "of_classes", "values_of"]

LABEL, DAY = "label", "day"
"""Names of conditions that need no description: the class, and the day of the year."""

_YEAR_DAYS = 365.25


def values_of(item: pystac.Item, names: Sequence[str]) -> dict[str, Any]:
    """Look the values of conditions up in a tile's item.

    Args:
        item: The item.
        names: Conditions: "label" is `rsgeo:label`; "day" the day of the year, `rsgeo:day_of_year` or that of the
            time of acquisition; any other name the property `rsgeo:<name>` or `<name>`. What a synthetic image was
            asked to be (`rsgeo:conditions`) comes first.

    Returns:
        Values by name.

    Raises:
        SourceError: If the item does not say.
    """
    properties = item.properties
    asked = properties.get("rsgeo:conditions") or {}
    found: dict[str, Any] = {}
    for name in names:
        value = asked.get(name, properties.get(f"rsgeo:{name}", properties.get(name)))
        if name == DAY and value is None:
            value = properties.get("rsgeo:day_of_year")
            if value is None and item.datetime is not None and properties.get("rsgeo:dated", True):
                value = item.datetime.timetuple().tm_yday
        if value is None:
            raise SourceError(
                f"Tile {item.id} says nothing about the condition {name!r}; expected the property rsgeo:{name}. "
                "Collect the tiles with labels and times, or leave the condition out."
            )
        found[name] = value
    return found


def of_classes(items: Sequence[pystac.Item], classes: Sequence[str] | None) -> list[pystac.Item]:
    """Return the items whose label is one of the classes; all when None.

    Raises:
        SourceError: If a class has no item.
    """
    if classes is None:
        return list(items)
    labels = [str(item.properties.get(f"rsgeo:{LABEL}", "")) for item in items]
    absent = sorted(set(classes) - set(labels))
    if absent:
        present = ", ".join(sorted(set(labels) - {""})) or "none"
        raise SourceError(
            f"No tile has the class {', '.join(absent)}; the tiles have {present}. "
            "Correct `classes`, or collect the tiles with labels."
        )
    return [item for item, label in zip(items, labels, strict=True) if label in classes]


def conditions_of(
    tiles: Manifest, wanted: Sequence[str | Mapping[str, Any]], classes: Sequence[str] | None = None
) -> Conditions:
    """Say which conditions a model of these tiles can be asked for.

    Args:
        tiles: All tiles, of every split.
        wanted: Names, or whole descriptions as `Conditions.to_dict` gives them. By name, "label" has the classes that
            occur (in the collection's order, where it states one), "day" is cyclic over a year, and anything else is
            ordinal between the smallest and the largest value.
        classes: Only tiles of these classes count; all when None.

    Returns:
        The conditions.

    Raises:
        SourceError: If a tile says nothing about one of them.
        CatalogError: If a description is wrong, or an ordinal condition has one value only, or none that is a number.
    """
    parts: list[Part] = []
    for entry in wanted:
        if not isinstance(entry, str):
            parts.extend(Conditions.from_dict({"parts": [entry]}).parts)
        elif entry == DAY:
            parts.append(Cyclic(DAY, _YEAR_DAYS, "d"))
        else:
            values = [values_of(item, [entry])[entry] for item in of_classes(tiles.items, classes)]
            parts.append(_classes(tiles, values) if entry == LABEL else _ordinal(entry, values))
    return Conditions(tuple(parts))


def _classes(tiles: Manifest, values: Sequence[Any]) -> Classes:
    present = {str(value) for value in values}
    known = [str(name) for name in tiles.extra.get("rsgeo:classes", ())]
    return Classes(LABEL, (*(name for name in known if name in present), *sorted(present - set(known))))


def _ordinal(name: str, values: Sequence[Any]) -> Ordinal:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise CatalogError(
            f"Condition {name}: expected a number for every tile, got {values[0]!r} and others; describe it as classes."
        ) from error
    return Ordinal(name, min(numbers), max(numbers))
