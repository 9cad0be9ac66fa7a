"""The page of a super-resolution: what was collected and made, strips of pictures, and scores beside interpolation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import rsgeo_gan
from rsgeo_gan import raster
from rsgeo_gan.manifest import Manifest, asset_path, item_box, write_json, write_text
from rsgeo_gan.models import Bicubic
from rsgeo_gan.report.drawing import save
from rsgeo_gan.report.scoring import analysis, units_of
from rsgeo_gan.report.synthetic import Look
from rsgeo_gan.report.templating import template

__all__ = ["interpolated", "sharp_strips", "superres_headline", "superres_report"]

_SPLITS = ("train", "val", "test")
_STRIPS = "strips.png"
_MOST = 6
_PANEL_IN = 1.9
_BRIGHT = 0.995


def superres_report(root: Path, *, scores: Sequence[Mapping[str, str]] = (), notes: Sequence[str] = ()) -> Path:
    """Write `report/index.html` and `report/report.json` from what lies in an output folder.

    Args:
        root: Output folder with tiles and products.
        scores: Rows of a table of scores, text by heading.
        notes: What a reader should know beside it.

    Returns:
        Path of `index.html`.

    Raises:
        SourceError: If a manifest or an image is missing or damaged.
        ProductError: If the folder cannot be written.
    """
    tiles, products = (Manifest.read(root / name / f"{name}.json") for name in ("tiles", "products"))
    folder = root / "report"
    if products.items:
        save(sharp_strips(tiles, products), folder / _STRIPS)
    counted = Counter(str(item.properties.get("rsgeo:split", "train")) for item in tiles)
    rows = [{"split": split, "tiles": counted[split]} for split in _SPLITS]
    write_json(folder / "report.json", {"format": 1, "tiles": rows, "scores": list(scores), "notes": list(notes)})
    first = products.items[0].properties if products.items else {}
    told = ("recipe", "checkpoint", "scale", "low", "grid")
    said = [note for item in products for note in item.properties.get("rsgeo:notes", ())]
    context = {
        "name": root.resolve().name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": rsgeo_gan.__version__,
        "tiles": len(tiles),
        "products": len(products),
        "scale": first.get("rsgeo:scale", ""),
        "dropped": [*tiles.dropped, *products.dropped],
        "facts": [(name, str(first[f"rsgeo:{name}"])) for name in told if f"rsgeo:{name}" in first],
        "splits": rows,
        "scores": list(scores),
        "notes": [*notes, *sorted(set(said))],
        "pictures": [
            (
                _STRIPS,
                "Some tiles: input, interpolation, product, truth, references, and what lies beside the product.",
            )
        ]
        if (folder / _STRIPS).is_file()
        else [],
    }
    return write_text(folder / "index.html", template("superres.html.j2").render(context))


def superres_headline(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the tables of the report as it was written: `tiles` and `scores`; empty where there is none."""
    path = root / "report" / "report.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: list(stored.get(name, [])) for name in ("tiles", "scores")}


def interpolated(low: np.ndarray, scale: int) -> np.ndarray:
    """Interpolate an image (C, h, w) bicubically, as networks do before they add to it; NaN where invalid."""
    valid = np.isfinite(low).all(axis=0)
    mask = torch.from_numpy(valid[None, None].astype(np.float32))
    with torch.inference_mode():
        image = torch.from_numpy(np.where(valid, low, np.float32(0)))[None]
        made: np.ndarray = Bicubic(len(low), len(low), scale)(image, mask)[0].numpy()
    made[:, ~valid.repeat(scale, axis=0).repeat(scale, axis=1)] = np.nan
    return made


def sharp_strips(tiles: Manifest, products: Manifest, *, most: int = _MOST) -> Figure:
    """Draw some tiles, a row each: input, interpolation, product, truth, references, gate and uncertainty.

    Args:
        tiles: Tiles, with the asset `image` and perhaps references.
        products: Products, with the property `rsgeo:tile` and the asset `low`.
        most: Most rows.

    Raises:
        SourceError: If an image cannot be read.
    """
    count = min(most, len(products))
    chosen = [products.items[number * len(products) // count] for number in range(count)]
    rows = [_pictures(tiles.get(str(item.properties["rsgeo:tile"])), item) for item in chosen]
    names = list(dict.fromkeys(name for row in rows for name in row))
    tops = {"gate": 1.0, "uncertainty": _top([row["uncertainty"] for row in rows if "uncertainty" in row])}
    figure = Figure(figsize=(_PANEL_IN * len(names), _PANEL_IN * count + 0.4))
    axes = figure.subplots(count, len(names), squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        for cell, name in zip(line, names, strict=True):
            cell.set_axis_off()
            if name in row:
                cell.imshow(row[name], cmap="viridis", vmin=0, vmax=tops.get(name), interpolation="nearest")
    for cell, name in zip(axes[0], names, strict=True):
        cell.set_title(f"{name}, 0 to {tops[name]:.2g}" if name in tops else name, fontsize=9)
    figure.subplots_adjust(
        left=0.005, right=0.995, bottom=0.005, top=1 - 0.35 / figure.get_figheight(), wspace=0.02, hspace=0.02
    )
    return figure


def _top(layers: Sequence[np.ndarray]) -> float:
    """The value that is shown brightest in all layers of one kind."""
    values = np.concatenate([layer[np.isfinite(layer)] for layer in layers]) if layers else np.empty(0)
    return max(float(np.quantile(values, _BRIGHT)), 1e-9) if values.size else 1.0


def _pictures(tile: Any, item: Any) -> dict[str, np.ndarray]:
    """Pictures of one product by name: colours, or one layer."""
    paths = {"input": asset_path(item, "low"), "product": asset_path(item, "data"), "truth": asset_path(tile, "image")}
    images = {name: analysis(path, raster.inspect(path).geobox) for name, path in paths.items()}
    info = raster.inspect(paths["truth"])
    look = Look.of([images["truth"]], info.names, units_of(info))
    low = images.pop("input")
    smooth = interpolated(low, item.properties["rsgeo:scale"])
    drawn = {name: look(image) for name, image in {"input": low, "bicubic": smooth, **images}.items()}
    shown = item.properties.get("rsgeo:references") or ()
    for name in [name for name in sorted(tile.assets) if name.startswith("reference")][: len(shown)]:
        path = asset_path(tile, name)
        about = raster.inspect(path)
        image = analysis(path, item_box(tile))
        drawn[name] = Look.of([image], about.names, units_of(about))(image)
    for name, band in (("similarity", 1), ("uncertainty", 0)):
        if name in item.assets:
            layer = raster.warp(asset_path(item, name), raster.inspect(asset_path(item, name)).geobox)
            drawn["gate" if name == "similarity" else name] = (
                layer[band] if name == "similarity" else layer.mean(axis=0)
            )
    return drawn
