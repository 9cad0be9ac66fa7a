"""Pictures of products beside the real thing, with one stretch for real and generated, and of their difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pystac
from affine import Affine
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.manifest import asset_path, item_box
from rsgeo_gan.report.drawing import INK, rounded
from rsgeo_gan.report.places import affine_apply, outline
from rsgeo_gan.report.scoring import analysis, resembled, units_of
from rsgeo_gan.sensors import POWER_FLOOR

__all__ = ["detail", "overview"]

_SIDE_PX, _STRIP_PX = 640, 64
_PANEL_IN, _GAP_IN, _BAR_IN, _TITLE_IN = 2.95, 0.08, 0.68, 0.3
_NOTHING = "#f1f5f9"
_TRUE = "true colour"
_RGB = (("B04", "B03", "B02"), ("B4", "B3", "B2"), ("red", "green", "blue"))
_FALSE = (("B08", "B04", "B03"), ("B8", "B4", "B3"), ("nir", "red", "green"))
_LABEL = {"dB": "dB", "reflectance": "refl.", "display": "display"}


def detail(product: pystac.Item, tile: pystac.Item) -> Figure:
    """Show one tile at full resolution: what was read, the real image, the generated one, their difference.

    Args:
        product: The product.
        tile: A tile cut from the same scene.

    Returns:
        The figure.

    Raises:
        SourceError: If a raster cannot be read.
    """
    other, side = _sides(product)
    box = item_box(tile)
    return _compared(
        _Picture(analysis(asset_path(tile, other), box), asset_path(tile, other)),
        _Picture(analysis(asset_path(tile, side), box), asset_path(tile, side)),
        analysis(asset_path(product, "data"), box),
        box,
    )


def overview(product: pystac.Item, tiles: Sequence[pystac.Item]) -> Figure:
    """Show a whole product beside the real image put together from its aligned tiles, both shrunk.

    Args:
        product: The product.
        tiles: All tiles cut from the same scene.

    Returns:
        The figure.

    Raises:
        SourceError: If a raster cannot be read.
    """
    other, side = _sides(product)
    box, factor = _shrunk(item_box(product))
    layers = {
        which: _Picture(_mosaic([asset_path(tile, which) for tile in tiles], box, factor), asset_path(tiles[0], which))
        for which in (other, side)
    }
    made = _mosaic([asset_path(product, "data")], box, factor)
    return _compared(layers[other], layers[side], made, box)


def _sides(product: pystac.Item) -> tuple[str, str]:
    """The side that was read and the side that the product resembles."""
    side = resembled(product.properties["rsgeo:direction"])
    return ("source" if side == "target" else "target"), side


def _shrunk(box: GeoBox) -> tuple[GeoBox, int]:
    """A box of the same corner with pixels a whole number of times larger, and that number."""
    factor = max(1, -(-max(box.shape) // _SIDE_PX))
    return _scaled(box, (-(-box.shape.y // factor), -(-box.shape.x // factor)), factor), factor


def _scaled(box: GeoBox, shape: tuple[int, int], factor: float) -> GeoBox:
    a = box.affine
    return GeoBox(shape, Affine(a.a * factor, a.b * factor, a.c, a.d * factor, a.e * factor, a.f), box.crs)


def _mosaic(paths: Sequence[str], box: GeoBox, factor: int) -> np.ndarray:
    """Put rasters together on a box, shrunk by a whole factor, in strips; NaN where none has valid pixels."""
    whole = np.full((raster.inspect(paths[0]).count, *box.shape), np.nan, np.float32)
    for path in paths:
        info = raster.inspect(path)
        window = _window(info.geobox, box)
        if window is None:
            continue
        rows, columns = window
        for top in range(rows.start, rows.stop, _STRIP_PX):
            strip = (slice(top, min(top + _STRIP_PX, rows.stop)), columns)
            part = box[strip]
            fine = _scaled(part, (part.shape.y * factor, part.shape.x * factor), 1 / factor)
            here = whole[:, strip[0], strip[1]]
            np.copyto(here, _averaged(analysis(path, fine), factor, units_of(info)), where=~np.isfinite(here))
    return whole


def _averaged(values: np.ndarray, factor: int, unit: str) -> np.ndarray:
    """Mean of valid pixels in blocks, dB in linear power."""
    if factor == 1:
        return values
    bands, height, width = values.shape
    blocks = values.reshape(bands, height // factor, factor, width // factor, factor)
    valid = np.isfinite(blocks)
    power = np.power(np.float32(10), blocks / np.float32(10)) if unit == "dB" else blocks
    count = valid.sum(axis=(2, 4))
    mean = np.where(valid, power, 0).sum(axis=(2, 4)) / np.maximum(count, 1)
    if unit == "dB":
        mean = 10 * np.log10(np.maximum(mean, POWER_FLOOR))
    mean[count == 0] = np.nan
    averaged: np.ndarray = mean.astype(np.float32)
    return averaged


def _window(part: GeoBox, box: GeoBox) -> tuple[slice, slice] | None:
    """Rows and columns of a box that another box may touch; None where they do not meet."""
    x, y = outline(part, str(box.crs), per_side=8)
    column, row = affine_apply(~box.affine, x, y)
    limits = []
    for values, size in ((row, box.shape.y), (column, box.shape.x)):
        first, last = max(0, int(np.floor(values.min() + 1e-6))), min(size, int(np.ceil(values.max() - 1e-6)))
        if first >= last:
            return None
        limits.append(slice(first, last))
    return limits[0], limits[1]


class _Picture:
    """Values with the names and unit of their bands."""

    def __init__(self, values: np.ndarray, path: str) -> None:
        info = raster.inspect(path)
        self.values = values
        self.unit = units_of(info)
        self.names = tuple(name or f"band {i}" for i, name in enumerate(info.names, start=1))

    def colour(self, choices: Sequence[Sequence[str]]) -> list[int] | None:
        for names in choices:
            if all(name in self.names for name in names):
                return [self.names.index(name) for name in names]
        return None


def _stretch(values: np.ndarray, unit: str) -> tuple[float, float]:
    valid = values[np.isfinite(values)]
    if not valid.size:
        return 0.0, 1.0
    low, high = (float(q) for q in np.quantile(valid, (0.01, 0.99)))
    if unit == "reflectance":
        low = min(low, 0.0) if low < 0.05 else low
    return low, max(high, low + 1e-6)


def _compared(read: _Picture, real: _Picture, made: np.ndarray, box: GeoBox) -> Figure:
    rows = _rows(real)
    height = min(_PANEL_IN * box.shape.y / box.shape.x, 2 * _PANEL_IN)
    sheet = _Sheet(len(rows), height)
    for number, (label, indexes) in enumerate(rows):
        panel = sheet.panel(number, 0)
        _show_read(panel, read, number)
        if number == len(rows) - 1:
            _scale_bar(panel, box)
        truth, fake = real.values[indexes], made[indexes]
        pair = [(sheet.panel(number, 1), truth, "real"), (sheet.panel(number, 2), fake, "generated")]
        if len(indexes) == 3:
            limits = _limits(truth, real.unit, label)
            for axes, image, what in pair:
                axes.imshow(_rgb(image, limits), interpolation="nearest", aspect="auto")
                _name(axes, f"{what}, {label}")
            apart, name = (fake - truth).mean(axis=0), "mean difference"
        else:
            low, high = _stretch(truth[0], real.unit)
            for axes, image, what in pair:
                _grey(axes, image[0], low, high)
                _name(axes, f"{what}, {label}")
            sheet.bar(number, 2, low, high, "gray", _LABEL[real.unit])
            apart, name = fake[0] - truth[0], "difference"
        span = float(np.nanquantile(np.abs(apart), 0.98)) if np.isfinite(apart).any() else 1.0
        span = max(span, 1e-6)
        axes = sheet.panel(number, 3)
        axes.set_facecolor(_NOTHING)
        axes.imshow(apart, cmap="RdBu_r", vmin=-span, vmax=span, interpolation="nearest", aspect="auto")
        _name(axes, f"{name}, generated − real")
        sheet.bar(number, 3, -span, span, "RdBu_r", _LABEL[real.unit])
    return sheet.figure


class _Sheet:
    """A figure of four panels a row, placed by hand: constrained layouts draw everything twice."""

    def __init__(self, rows: int, height_in: float) -> None:
        self.rows, self.height_in = rows, height_in
        self.size = (4 * _PANEL_IN + 2 * _BAR_IN + 2 * _GAP_IN + 0.08, rows * (height_in + _TITLE_IN))
        self.figure = Figure(figsize=self.size)

    def panel(self, row: int, column: int) -> Axes:
        axes = self._axes(row, self._left(column), _PANEL_IN, self.height_in)
        axes.set(xticks=[], yticks=[])
        return axes

    def bar(self, row: int, column: int, low: float, high: float, colours: str, label: str) -> None:
        """Add a colour bar to the right of a panel."""
        axes = self._axes(row, self._left(column) + _PANEL_IN + 0.06, 0.09, self.height_in)
        axes.imshow(np.linspace(1, 0, 128)[:, None], cmap=colours, aspect="auto", extent=(0, 1, low, high))
        axes.set_xticks([])
        axes.yaxis.tick_right()
        axes.tick_params(labelsize=7, colors=INK, length=2)
        axes.set_title(label, loc="left", fontsize=8, color=INK, pad=4)

    @staticmethod
    def _left(column: int) -> float:
        """Where a column of panels begins; before the last one there is room for a bar."""
        return column * (_PANEL_IN + _GAP_IN) + (_BAR_IN - _GAP_IN if column == 3 else 0)

    def _axes(self, row: int, left: float, width: float, height: float) -> Axes:
        width_in, height_in = self.size
        bottom = height_in - (row + 1) * (self.height_in + _TITLE_IN)
        axes: Axes = self.figure.add_axes(
            (left / width_in, bottom / height_in + 0.001, width / width_in, height / height_in - 0.002)
        )
        axes.spines[:].set_visible(False)
        return axes


def _rows(real: _Picture) -> list[tuple[str, list[int]]]:
    natural = real.colour(_RGB)
    if natural is not None:
        rows = [(_TRUE, natural)]
        false = real.colour(_FALSE)
        return rows + ([("false colour (NIR, red, green)", false)] if false else [])
    if len(real.names) >= 3:
        return [(f"{', '.join(real.names[:3])} as colour", [0, 1, 2])]
    return [(name, [index]) for index, name in enumerate(real.names)]


def _show_read(axes: Axes, read: _Picture, number: int) -> None:
    """The image that was read: in true, then in false colour; or its bands one after the other."""
    choices = _rows(read)
    label, indexes = choices[min(number, len(choices) - 1)]
    image = read.values[indexes]
    if len(indexes) == 3:
        axes.imshow(_rgb(image, _limits(image, read.unit, label)), interpolation="nearest", aspect="auto")
    else:
        _grey(axes, image[0], *_stretch(image[0], read.unit))
    _name(axes, f"input, {label}")


def _limits(image: np.ndarray, unit: str, label: str) -> list[tuple[float, float]]:
    """Stretch of three bands: the same for all in true colour, so that grey stays grey; else one each."""
    if label == _TRUE and unit == "reflectance":
        return [_stretch(image, unit)] * 3
    return [_stretch(band, unit) for band in image]


def _name(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=9, color=INK, pad=4)


def _rgb(image: np.ndarray, limits: Sequence[tuple[float, float]]) -> np.ndarray:
    """Stretch three bands to colour; white-grey where invalid."""
    stretched = [(band - low) / (high - low) for band, (low, high) in zip(image, limits, strict=True)]
    colour = np.clip(np.stack(stretched, axis=-1), 0, 1) ** 0.7
    colour[~np.isfinite(image).all(axis=0)] = (0.945, 0.96, 0.976)
    return colour


def _grey(axes: Axes, image: np.ndarray, low: float, high: float) -> None:
    axes.set_facecolor(_NOTHING)
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest", aspect="auto")


def _scale_bar(axes: Axes, box: GeoBox) -> None:
    """Draw a bar of a round length; only where the reference system is in metres."""
    if box.crs is None or not box.crs.projected:
        return
    pixel_m = float(np.hypot(box.affine.a, box.affine.d))
    target = 0.28 * box.shape.x * pixel_m
    length = rounded(target)
    pixels = length / pixel_m
    x, y = 0.04 * box.shape.x, 0.95 * box.shape.y
    for width, colour in ((5.0, "white"), (2.4, "black")):
        axes.plot([x, x + pixels], [y, y], color=colour, linewidth=width, solid_capstyle="butt")
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.annotate(
        text,
        (x + pixels / 2, y),
        (0, 4),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
    )
    axes.set_xlim(-0.5, box.shape.x - 0.5)
    axes.set_ylim(box.shape.y - 0.5, -0.5)
