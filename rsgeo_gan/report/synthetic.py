"""Pictures of synthetic images: a contact sheet of every class beside the real thing, and rows of changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pystac
from affine import Affine
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.manifest import Manifest, asset_path, item_box
from rsgeo_gan.provenance import true_colour
from rsgeo_gan.report.drawing import INK
from rsgeo_gan.report.scoring import analysis, units_of

__all__ = ["Look", "contact_sheet", "look_of", "walk_figure"]

_QUANTILES = (0.02, 0.98)
_PANEL_IN, _PITCH_IN, _TEXT_IN, _HEAD_IN, _EDGE_IN = 0.86, 0.93, 0.4, 0.3, 0.1
_DPI = 110
_NOTHING = (0.945, 0.96, 0.976)


@dataclass(frozen=True)
class Look:
    """How bands become a picture: which, and from which value to which.

    Attributes:
        indexes: One band in grey, or three as red, green and blue.
        low: Value shown in black, per band shown.
        high: Value shown in white.
        label: What is shown, for people.
    """

    indexes: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    label: str

    @classmethod
    def of(cls, images: Sequence[np.ndarray], names: Sequence[str], unit: str) -> Look:
        """Choose bands by their names and limits by the 2nd and 98th percentile of valid pixels.

        Args:
            images: Each of shape (C, H, W), analysis units, NaN where invalid.
            names: Band names.
            unit: Analysis unit, for the label.
        """
        chosen = true_colour(names)
        what = "true colour" if chosen is not None else ", ".join(names[: 3 if len(names) >= 3 else 1])
        indexes = chosen or ((0, 1, 2) if len(names) >= 3 else (0,))
        limits = []
        for index in indexes:
            values = np.concatenate([image[index].ravel() for image in images])
            values = values[np.isfinite(values)]
            low, high = np.quantile(values, _QUANTILES) if values.size else (0.0, 1.0)
            limits.append((float(low), max(float(high), float(low) + 1e-6)))
        if chosen is not None and unit == "reflectance":
            # One stretch for all three, so that grey stays grey.
            limits = [(min(low for low, _ in limits), max(high for _, high in limits))] * 3
        lows, highs = zip(*limits, strict=True)
        span = f"{min(lows):.3g} to {max(highs):.3g} {unit}"
        return cls(tuple(indexes), lows, highs, f"{what}, {span}")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Draw an image of shape (C, H, W) as RGB of shape (H, W, 3) in [0, 1]; pale where invalid."""
        shown = image[list(self.indexes)]
        low, high = (np.array(part)[:, None, None] for part in (self.low, self.high))
        colour = np.clip((shown - low) / (high - low), 0, 1)
        colour = np.broadcast_to(np.moveaxis(colour, 0, -1), (*image.shape[1:], 3)).copy()
        colour[~np.isfinite(shown).all(axis=0)] = _NOTHING
        return colour


def look_of(items: Manifest, asset: str, *, most: int = 60) -> Look:
    """Choose the look of a set of images from some of them, evenly out of all.

    Args:
        items: Images of the same bands.
        asset: Asset that holds the image.
        most: Images looked at.

    Raises:
        SourceError: If one cannot be read.
    """
    info = raster.inspect(asset_path(items.items[0], asset))
    images = [analysis(asset_path(item, asset), item_box(item)) for item in _some(items.items, most)]
    return Look.of(images, info.names, units_of(info))


def contact_sheet(
    products: Manifest, look: Look, tiles: Manifest | None = None, *, side: str = "image", columns: int = 6
) -> Figure:
    """Draw some images of each class, real ones beside synthetic ones.

    Args:
        products: Synthetic images of one size.
        look: How bands become a picture.
        tiles: Real tiles of the same bands; synthetic images alone when None.
        side: Asset of the tiles that holds the image.
        columns: Most images of each kind in a row.

    Returns:
        The figure, one row a class.

    Raises:
        SourceError: If a raster cannot be read.
    """
    rows: dict[str, list[list[np.ndarray]]] = {}
    for label in dict.fromkeys(_label(item) for item in products):
        made = [item for item in products if _label(item) == label][:columns]
        shape = item_box(made[0]).shape.yx
        real = [] if tiles is None else _some([item for item in tiles if not label or _label(item) == label], columns)
        rows[label] = [
            [look(_middle(item, side, shape)) for item in real],
            [look(_middle(item, "data", shape)) for item in made],
        ]
    kinds = ["real", "synthetic"]
    if not any(real for real, _ in rows.values()):
        kinds, rows = kinds[1:], {label: groups[1:] for label, groups in rows.items()}
    title = f"{' and '.join(kinds).capitalize()} images: {look.label}"
    return _sheet(list(rows.values()), list(rows), kinds, title)


def walk_figure(rows: Sequence[tuple[str, Sequence[str], np.ndarray]], look: Look) -> Figure:
    """Draw rows of images between which one thing changes.

    Args:
        rows: Title, captions and images of shape (N, C, H, W) in analysis units, of each row.
        look: How bands become a picture.
    """
    most = max(len(images) for _, _, images in rows)
    width, height = max(most * _PITCH_IN + 2 * _EDGE_IN, 4.5), len(rows) * (_PANEL_IN + _TEXT_IN) + _HEAD_IN
    figure = Figure(figsize=(width, height), dpi=_DPI)
    for number, (title, captions, images) in enumerate(rows):
        bottom = height - _HEAD_IN - (number + 1) * (_PANEL_IN + _TEXT_IN)
        axes = _row(figure, _EDGE_IN, bottom, [look(image) for image in images])
        axes.set_title(title, loc="left", fontsize=9, color=INK, pad=13)
        pitch = images.shape[-1] + _gap(images.shape[-1])
        for place, caption in enumerate(captions):
            at = (place * pitch, -0.5)
            axes.annotate(caption, at, (0, 2), textcoords="offset points", fontsize=6.5, color=INK, va="bottom")
    _headline(figure, f"Synthetic images: {look.label}")
    return figure


def _sheet(
    rows: Sequence[Sequence[Sequence[np.ndarray]]], labels: Sequence[str], kinds: Sequence[str], title: str
) -> Figure:
    """Rows of groups of pictures, the name of the row before them, the kind of a group above the first row."""
    names_in = 0.0 if labels == [""] else 0.25 + 0.075 * min(max(len(label) for label in labels), 24)
    starts, left = [], _EDGE_IN + names_in
    for place in range(len(kinds)):
        starts.append(left)
        left += max(len(row[place]) for row in rows) * _PITCH_IN + 0.2
    width, height = max(left, 4.5), len(labels) * _PITCH_IN + _HEAD_IN + 0.25
    figure = Figure(figsize=(width, height), dpi=_DPI)
    for number, (label, row) in enumerate(zip(labels, rows, strict=True)):
        bottom = height - _HEAD_IN - 0.2 - number * _PITCH_IN - _PANEL_IN
        for kind, start, pictures in zip(kinds, starts, row, strict=True):
            if pictures:
                _row(figure, start, bottom, pictures)
            if number == 0:
                figure.text(start / width, (bottom + _PANEL_IN + 0.05) / height, kind, fontsize=10, color=INK)
        name = label if len(label) <= 24 else f"{label[:23]}…"
        figure.text(_EDGE_IN / width, (bottom + _PANEL_IN / 2) / height, name, fontsize=9, color=INK, va="center")
    _headline(figure, title)
    return figure


def _headline(figure: Figure, text: str) -> None:
    height = figure.get_figheight()
    figure.text(_EDGE_IN / figure.get_figwidth(), 1 - 0.08 / height, text, fontsize=10, color=INK, va="top")


def _row(figure: Figure, left: float, bottom: float, pictures: Sequence[np.ndarray]) -> Axes:
    """Pictures side by side in one axes, placed in inches, each `_PANEL_IN` wide."""
    size = pictures[0].shape[1]
    pitch = size + _gap(size)
    strip = np.ones((pictures[0].shape[0], len(pictures) * pitch - _gap(size), 3))
    for place, picture in enumerate(pictures):
        strip[:, place * pitch : place * pitch + size] = picture
    width, height = figure.get_size_inches()
    across = _PANEL_IN * strip.shape[1] / size
    axes: Axes = figure.add_axes((left / width, bottom / height, across / width, _PANEL_IN / height))
    axes.imshow(strip, interpolation="nearest", aspect="auto")
    axes.set_axis_off()
    return axes


def _gap(size: int) -> int:
    return max(1, size // 16)


def _label(item: pystac.Item) -> str:
    return str(item.properties.get("rsgeo:label") or "")


def _some[T](items: Sequence[T], most: int) -> list[T]:
    """At most so many items, evenly out of all."""
    count = min(most, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def _middle(item: pystac.Item, asset: str, shape: tuple[int, int]) -> np.ndarray:
    """Read the middle of an image, analysis units."""
    box = item_box(item)
    down, right = ((have - want) // 2 for have, want in zip(box.shape, shape, strict=True))
    return analysis(asset_path(item, asset), GeoBox(shape, box.affine * Affine.translation(right, down), box.crs))
