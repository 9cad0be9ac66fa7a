"""Pictures of products beside the real thing, with one stretch for real and generated, and of their difference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pystac
from affine import Affine
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.manifest import asset_path, item_box
from rsgeo_gan.report.scoring import analysis, resembled, units_of

__all__ = ["detail", "overview"]

_SIDE_PX = 700
_RGB = (("B04", "B03", "B02"), ("B4", "B3", "B2"), ("red", "green", "blue"))
_FALSE = (("B08", "B04", "B03"), ("B8", "B4", "B3"), ("nir", "red", "green"))
_INK = "#334155"
_LABEL = {"dB": "dB", "reflectance": "reflectance", "display": "display value"}


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
    side = resembled(product.properties["rsgeo:direction"])
    other = "source" if side == "target" else "target"
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
    side = resembled(product.properties["rsgeo:direction"])
    other = "source" if side == "target" else "target"
    box = _shrunk(item_box(product))
    layers = {}
    for which in (other, side):
        total: np.ndarray | None = None
        for tile in tiles:
            part = analysis(asset_path(tile, which), box)
            total = part if total is None else np.where(np.isfinite(total), total, part)
        assert total is not None
        layers[which] = _Picture(total, asset_path(tiles[0], which))
    return _compared(layers[other], layers[side], analysis(asset_path(product, "data"), box), box)


def _shrunk(box: GeoBox) -> GeoBox:
    factor = max(1.0, max(box.shape) / _SIDE_PX)
    height, width = (max(1, round(n / factor)) for n in box.shape)
    a = box.affine
    x, y = box.shape.x / width, box.shape.y / height
    return GeoBox((height, width), Affine(a.a * x, a.b * y, a.c, a.d * x, a.e * y, a.f), box.crs)


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
    ratio = box.shape.y / box.shape.x
    figure = Figure(figsize=(13.2, len(rows) * (3.0 * ratio + 0.55) + 0.2), layout="constrained")
    grid = figure.subplots(len(rows), 4, squeeze=False)
    for number, (label, indexes) in enumerate(rows):
        panels = grid[number]
        _show_read(panels[0], read, number)
        truth, fake = real.values[indexes], made[indexes]
        if len(indexes) == 3:
            limits = [_stretch(band, real.unit) for band in truth]
            for axes, image, what in ((panels[1], truth, "real"), (panels[2], fake, "generated")):
                axes.imshow(_rgb(image, limits), interpolation="nearest")
                axes.set_title(f"{what}, {label}", loc="left", fontsize=9, color=_INK)
            apart = (fake - truth).mean(axis=0)
            name = "mean difference"
        else:
            low, high = _stretch(truth[0], real.unit)
            for axes, image, what in ((panels[1], truth[0], "real"), (panels[2], fake[0], "generated")):
                _grey(axes, image, low, high)
                axes.set_title(f"{what}, {label}", loc="left", fontsize=9, color=_INK)
            bar = figure.colorbar(
                ScalarMappable(Normalize(low, high), "gray"), ax=list(panels[1:3]), shrink=0.86, aspect=28, pad=0.01
            )
            _describe(bar, f"{label}, {_LABEL[real.unit]}")
            apart, name = fake[0] - truth[0], "difference"
        span = float(np.nanquantile(np.abs(apart), 0.98)) if np.isfinite(apart).any() else 1.0
        span = max(span, 1e-6)
        panels[3].imshow(apart, cmap="RdBu_r", vmin=-span, vmax=span, interpolation="nearest")
        panels[3].set_facecolor("#f1f5f9")
        panels[3].set_title(f"{name}: generated − real", loc="left", fontsize=9, color=_INK)
        bar = figure.colorbar(
            ScalarMappable(Normalize(-span, span), "RdBu_r"), ax=panels[3], shrink=0.86, aspect=28, pad=0.02
        )
        _describe(bar, _LABEL[real.unit])
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_visible(False)
    _scale_bar(grid[-1][0], box)
    return figure


def _rows(real: _Picture) -> list[tuple[str, list[int]]]:
    natural = real.colour(_RGB)
    if natural is not None:
        rows = [("true colour", natural)]
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
        axes.imshow(_rgb(image, [_stretch(band, read.unit) for band in image]), interpolation="nearest")
    else:
        _grey(axes, image[0], *_stretch(image[0], read.unit))
    axes.set_title(f"read, {label}", loc="left", fontsize=9, color=_INK)


def _rgb(image: np.ndarray, limits: Sequence[tuple[float, float]]) -> np.ndarray:
    """Stretch three bands to colour; white-grey where invalid."""
    stretched = [(band - low) / (high - low) for band, (low, high) in zip(image, limits, strict=True)]
    colour = np.clip(np.stack(stretched, axis=-1), 0, 1) ** 0.8
    colour[~np.isfinite(image).all(axis=0)] = (0.945, 0.96, 0.976)
    return colour


def _grey(axes: Axes, image: np.ndarray, low: float, high: float) -> None:
    axes.set_facecolor("#f1f5f9")
    axes.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def _describe(bar: object, label: str) -> None:
    bar.set_label(label, fontsize=8, color=_INK)  # type: ignore[attr-defined]
    bar.ax.tick_params(labelsize=7, colors=_INK)  # type: ignore[attr-defined]
    bar.outline.set_visible(False)  # type: ignore[attr-defined]


def _scale_bar(axes: Axes, box: GeoBox) -> None:
    """Draw a bar of a round length; only where the reference system is in metres."""
    if box.crs is None or not box.crs.projected:
        return
    pixel_m = float(np.hypot(box.affine.a, box.affine.d))
    target = 0.28 * box.shape.x * pixel_m
    digits = 10.0 ** np.floor(np.log10(target))
    length = max(step for step in (1, 2, 5) if step * digits <= target) * digits
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
