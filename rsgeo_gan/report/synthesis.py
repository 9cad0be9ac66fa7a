"""The page of a synthesis: what was collected, what was made of each class, pictures, and scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rsgeo_gan
from rsgeo_gan.manifest import Manifest, write_json, write_text
from rsgeo_gan.report.templating import template

__all__ = ["class_rows", "synthesis_headline", "synthesis_report"]

_SPLITS = ("train", "val", "test")
_PICTURES = (
    ("contact-sheet.png", "Real tiles beside synthetic images, all with one stretch."),
    ("walks.png", "Truncation, from one latent to another, and each condition over all its values."),
    ("scores/scores.png", "The scores behind the table, spectra and values."),
)


def synthesis_report(root: Path, *, scores: Sequence[Mapping[str, str]] = (), notes: Sequence[str] = ()) -> Path:
    """Write `report/index.html` and `report/report.json` from what lies in an output folder.

    Args:
        root: Output folder with tiles and products.
        scores: Rows of a table of scores, text by heading.
        notes: What a reader should know beside it.

    Returns:
        Path of `index.html`.

    Raises:
        SourceError: If a manifest is missing or damaged.
        ProductError: If the folder cannot be written.
    """
    tiles, products = (Manifest.read(root / name / f"{name}.json") for name in ("tiles", "products"))
    folder = root / "report"
    classes = class_rows(tiles, products)
    write_json(folder / "report.json", {"format": 1, "classes": classes, "scores": list(scores), "notes": list(notes)})
    first = products.items[0].properties if products.items else {}
    told = ("recipe", "checkpoint", "sensor", "truncation", "latent", "grid")
    context = {
        "name": root.resolve().name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": rsgeo_gan.__version__,
        "tiles": len(tiles),
        "products": len(products),
        "dropped": [*tiles.dropped, *products.dropped],
        "facts": [(name, str(first[f"rsgeo:{name}"])) for name in told if f"rsgeo:{name}" in first],
        "classes": classes,
        "scores": list(scores),
        "notes": list(notes),
        "pictures": [(name, text) for name, text in _PICTURES if (folder / name).is_file()],
    }
    return write_text(folder / "index.html", template("synthesis.html.j2").render(context))


def synthesis_headline(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the tables of the report as it was written: `classes` and `scores`; empty where there is none."""
    path = root / "report" / "report.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: list(stored.get(name, [])) for name in ("classes", "scores")}


def class_rows(tiles: Manifest | None, products: Manifest) -> list[dict[str, Any]]:
    """Count real tiles by split and synthetic images, one row a class."""
    if tiles is None:
        made = Counter(_label(item) for item in products)
        return [{"class": label, "synthetic": made[label]} for label in sorted(made)]
    real = Counter((_label(item), item.properties.get("rsgeo:split", "train")) for item in tiles)
    made = Counter(_label(item) for item in products)
    return [
        {
            "class": label,
            **{f"real, {split}": real[label, split] for split in _SPLITS},
            "synthetic": made[label],
        }
        for label in sorted({label for label, _ in real} | set(made))
    ]


def _label(item: Any) -> str:
    return str(item.properties.get("rsgeo:label") or "all")
