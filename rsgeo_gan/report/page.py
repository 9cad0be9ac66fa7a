"""Gathers what the stages left in an output folder and writes it as one page a person wants to read."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
from matplotlib.figure import Figure

import rsgeo_gan
from rsgeo_gan import raster
from rsgeo_gan.errors import RSGeoGANError
from rsgeo_gan.manifest import Manifest, asset_path, write_json, write_text
from rsgeo_gan.progress import Progress, silent
from rsgeo_gan.report import figures, quicklooks
from rsgeo_gan.report.curves import curves, read_curves
from rsgeo_gan.report.drawing import save
from rsgeo_gan.report.measures import DATA_RANGE, MEASURES
from rsgeo_gan.report.scoring import GENERATED, Scored, headline, held_out, product_tiles, score
from rsgeo_gan.report.tables import all_dropped, pair_row, scene_row, score_rows, split_counts, verdicts
from rsgeo_gan.report.templating import template

__all__ = ["report"]

log = logging.getLogger(__name__)

_STAGES = ("scenes", "pairs", "tiles", "products")
_DETAILS = 2
_MOST_CURVES = 3
_MOST_PICTURED = 12


@dataclass
class _Picture:
    """An image on the page."""

    href: str
    alt: str
    caption: str = ""


@dataclass
class _Product:
    """What the page says about one product."""

    id: str
    direction: str
    facts: list[tuple[str, str]]
    links: list[tuple[str, str]]
    table: list[dict[str, str]]
    note: str
    pictures: list[_Picture] = field(default_factory=list)


def report(root: Path, *, radius_px: int = 3, progress: Progress = silent) -> Path:
    """Write `report/index.html` and `report/scores.json` from what lies in an output folder.

    Scores are computed on tiles held out of training (test, else validation) against the real image of the
    tile, masks respected, beside a mean-value raster and, where `baseline/untrained` holds it, an untrained
    generator. What is missing (no training, no products, everything dropped) is said on the page.

    Args:
        root: Output folder with scenes, pairs, tiles, training and products, any of which may be missing.
        radius_px: Largest shift the shift-tolerant scores forgive, in pixels.
        progress: Receives finished and all steps.

    Returns:
        Path of `index.html`.

    Raises:
        SourceError: If a manifest is damaged.
        ProductError: If the folder cannot be written.
    """
    root = Path(root)
    stages = {name: Manifest.open(root / name / f"{name}.json") for name in _STAGES}
    # Files may have been removed by hand.
    products = [item for item in stages["products"] if Path(asset_path(item, "data")).is_file()]
    total = 2 * len(products) + 3
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress("report", done, total)

    progress("report", 0, total)
    single, pooled = score(products, stages["tiles"], root, radius_px, step)
    scores: dict[str, Any] = {
        "format": 1,
        "version": rsgeo_gan.__version__,
        "radius_px": radius_px,
        "measures": {m.key: {"label": m.label, "better": m.better, "meaning": m.meaning} for m in MEASURES},
        "directions": [entry.to_dict() for entry in pooled],
        "products": [entry.to_dict() for entry in single],
    }
    folder = root / "report"
    write_json(folder / "scores.json", scores)
    step()

    pictures = _Pictures(folder)
    overview = pictures.add("map.png", figures.map_of(stages["scenes"], stages["pairs"], stages["tiles"]), "Footprints")
    described = []
    for number, (product, scored) in enumerate(zip(products, single, strict=True)):
        described.append(
            _describe(product, scored, stages["tiles"], folder, pictures if number < _MOST_PICTURED else None)
        )
        step()
    directions = [_direction(entry, scores["directions"], pictures) for entry in pooled]
    training = _curves(root / "training", pictures)
    step()
    context = {
        "name": root.resolve().name,
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": rsgeo_gan.__version__,
        "radius_px": radius_px,
        "counts": [(name, len(stages[name]), len(stages[name].dropped)) for name in _STAGES],
        "headline": headline(scores),
        "verdicts": verdicts(scores["directions"]),
        "measures": MEASURES,
        "data_range": DATA_RANGE,
        "map": overview,
        "scenes": [scene_row(item) for item in stages["scenes"]],
        "pairs": [pair_row(item) for item in stages["pairs"]],
        "splits": split_counts(stages["tiles"]),
        "products": described,
        "pictured": _MOST_PICTURED,
        "directions": directions,
        "curves": training,
        "dropped": all_dropped(stages.values()),
        "skipped": stages["tiles"].extra.get("rsgeo:skipped") or {},
        "trained": (root / "training").is_dir(),
        "untrained": any("untrained" in entry["scores"] for entry in scores["directions"]),
    }
    page = write_text(folder / "index.html", template("report.html.j2").render(context))
    pictures.forget_others()
    step()
    return page


class _Pictures:
    """The image files of the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()

    def add(self, name: str, figure: Figure | None, alt: str, caption: str = "") -> _Picture | None:
        if figure is None:
            return None
        save(figure, self.folder / "images" / name)
        self.names.add(name)
        return _Picture(f"images/{name}", alt, caption)

    def forget_others(self) -> None:
        """Remove images that an earlier page showed and this one does not."""
        for path in (self.folder / "images").glob("*.png"):
            if path.name not in self.names:
                path.unlink(missing_ok=True)


def _href(path: str, folder: Path) -> str:
    """A link from the page: relative where the file lies on this machine."""
    if "://" in path or path.startswith("/vsi"):
        return path
    return Path(os.path.relpath(path, folder.resolve())).as_posix()


def _describe(
    product: pystac.Item, scored: Scored, tiles: Manifest, folder: Path, pictures: _Pictures | None
) -> _Product:
    path = asset_path(product, "data")
    links = [("GeoTIFF", _href(path, folder))]
    for label, other in (
        ("STAC item", Path(path).with_suffix(".json")),
        ("QGIS style", Path(path).with_suffix(".qml")),
    ):
        if other.is_file():
            links.append((label, _href(str(other), folder)))
    described = _Product(
        id=product.id,
        direction=scored.title,
        facts=_facts(product, path),
        links=links,
        table=score_rows(scored.to_dict()),
        note=scored.note,
    )
    if pictures is not None:
        described.pictures = _quicklooks(product, product_tiles(product, tiles), pictures)
    return described


def _facts(product: pystac.Item, path: str) -> list[tuple[str, str]]:
    try:
        info = raster.inspect(path)
    except RSGeoGANError as error:
        return [("cannot be read", str(error))]
    a = info.geobox.affine
    tags = info.tags
    return [
        ("Synthetic", tags.get("SYNTHETIC", "not tagged").lower()),
        ("Made from", ", ".join(product.properties.get("rsgeo:from", []))),
        ("Date", f"{product.datetime:%Y-%m-%d %H:%M} UTC" if product.datetime else "unknown"),
        ("Bands", f"{', '.join(info.names)} ({info.units[0] or 'no unit'}, {info.dtype})"),
        (
            "Grid",
            f"{info.geobox.shape.x} × {info.geobox.shape.y} px, {info.geobox.crs}, {a.a:g} × {abs(a.e):g}, "
            f"origin {a.c:.2f}, {a.f:.2f}; {tags.get('RSGEO_GRID', product.properties.get('rsgeo:grid', ''))}",
        ),
        ("Checkpoint", tags.get("RSGEO_CHECKPOINT", str(product.properties.get("rsgeo:checkpoint", "")))),
        ("Recipe", tags.get("RSGEO_RECIPE", str(product.properties.get("rsgeo:recipe", "")))),
        ("Code version", tags.get("RSGEO_VERSION", "")),
        ("Forgiven shift", f"{tags.get('RADIUS_PX', product.properties.get('rsgeo:radius_px', ''))} px in training"),
    ]


def _quicklooks(product: pystac.Item, tiles: Sequence[pystac.Item], pictures: _Pictures) -> list[_Picture]:
    """The whole product, then its held-out tiles with the most valid data."""
    if not tiles:
        return []
    _, chosen = held_out(tiles)
    chosen = sorted(chosen or tiles, key=lambda tile: -float(tile.properties.get("rsgeo:valid_share", 0)))[:_DETAILS]
    made: list[_Picture] = []
    try:
        whole = quicklooks.overview(product, tiles)
        made += _some(pictures.add(f"{product.id}.png", whole, f"Overview of {product.id}", "The whole scene, shrunk."))
        for tile in chosen:
            split = tile.properties.get("rsgeo:split", "")
            caption = f"Tile {tile.properties.get('rsgeo:index', tile.id)} ({split}), full resolution."
            figure = quicklooks.detail(product, tile)
            made += _some(pictures.add(f"{product.id}-{len(made)}.png", figure, f"Tile {tile.id}", caption))
    except RSGeoGANError as error:
        log.warning("report: quick-looks of %s stop: %s", product.id, error)
    return made


def _some(picture: _Picture | None) -> list[_Picture]:
    return [] if picture is None else [picture]


def _direction(entry: Scored, described: list[dict[str, Any]], pictures: _Pictures) -> dict[str, Any]:
    name = entry.direction.replace("_", "-")
    values = next(found for found in described if found["direction"] == entry.direction)
    return {
        "title": entry.title,
        "unit": entry.unit,
        "table": score_rows(values),
        "shift": values["scores"][GENERATED].get("shift_px"),
        "spectra": pictures.add(f"spectrum-{name}.png", figures.spectra(entry), f"Radial spectra, {entry.title}"),
        "distributions": pictures.add(
            f"distribution-{name}.png",
            figures.distributions(entry),
            f"Distributions of values, {entry.title}",
        ),
    }


def _curves(folder: Path, pictures: _Pictures) -> list[_Picture]:
    """Curves of the newest training runs."""
    logs = sorted(folder.rglob("metrics.csv"), key=lambda path: path.stat().st_mtime, reverse=True)
    made: list[_Picture] = []
    for path in logs[:_MOST_CURVES]:
        name = path.parent.relative_to(folder).as_posix()
        name = name if name != "." else "training"
        figure = curves(read_curves(path))
        made += _some(pictures.add(f"curves-{len(made)}.png", figure, f"Training curves of {name}", name))
    return made
