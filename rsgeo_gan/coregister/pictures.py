"""The checkerboard: reference and moving raster in alternating squares, before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling
from rasterio.warp import reproject
from rasterio.windows import Window
from scipy import ndimage

from rsgeo_gan import raster
from rsgeo_gan.coregister.files import stored_whole
from rsgeo_gan.coregister.views import View
from rsgeo_gan.grid import crs_of, pixels_in

__all__ = ["Layer", "checkerboard"]

Image = NDArray[np.float32]

_WHOLE_PX = 900
_DETAIL_PX = 128
_SQUARES = 8
_BORDER_SHARE = 0.005
_PANEL = 5.5
_INK, _ALERT = "#1e293b", "#b91c1c"
_GREY = (0.55, 0.55, 0.55)
_NODATA = (0.80, 0.84, 0.92)
_MIDDLE = 0.38
"""Brightness that half of an image should reach."""
_TINT = (1.0, 0.82, 0.55)
"""Colour of the moving raster's brightest values; the reference is grey."""


@dataclass(frozen=True)
class Layer:
    """One raster of the picture.

    Attributes:
        view: How it is read; its first band is shown.
        decibel: Whether values are linear power, which is shown in dB.
    """

    view: View
    decibel: bool = False

    def on(self, box: GeoBox) -> Image:
        """Read onto a box, shrunk first where the box is coarser; NaN where invalid. Shape (H, W)."""
        sensor = self.view.sensor
        out = _small(self.view, box)
        if out is None:
            out = raster.warp(
                self.view.path, box, bands=self.view.bands[:1], nodata=sensor.nodata, prepare=sensor.to_linear
            )[0]
        out[_border(out == 0)] = np.nan
        if not self.decibel:
            return out
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(out > 0, 10 * np.log10(out), np.float32(np.nan)).astype(np.float32)


def checkerboard(
    path: Path,
    reference: Layer,
    before: Layer,
    after: Layer | None,
    *,
    box: GeoBox | None,
    detail: tuple[float, float] | None,
    title: str,
    lines: Sequence[str] = (),
    alert: bool = False,
) -> Path:
    """Write the picture: the whole overlap and a detail at full resolution, before and after.

    Args:
        path: PNG to write.
        reference: The raster that gives the geometry.
        before: The moving raster by its own georeference.
        after: The aligned raster; None when the content was not moved, which leaves one state to show.
        box: The overlap on the reference's axes; None when there is none, which leaves words.
        detail: Column and row of the box about which the detail lies; its middle when None.
        title: One line on top.
        lines: Two more lines of words and numbers.
        alert: Whether the title is a warning.

    Returns:
        The path.

    Raises:
        ProductError: If it cannot be written.
    """
    figure = Figure(figsize=(9.0, 1.2)) if box is None else _drawn(reference, before, after, box, detail)
    height = figure.get_figheight()
    for text, down, size, weight, colour in zip(
        (title, *lines), (0.12, 0.46, 0.74), (13, 10, 10), ("bold", "normal", "normal"),
        (_ALERT if alert else _INK, _INK, _INK), strict=False,
    ):  # fmt: skip
        figure.text(0.012, 1 - down / height, text, fontsize=size, color=colour, va="top", weight=weight)
    return stored_whole(path, lambda staged: figure.savefig(staged, format="png", dpi=110, facecolor="white"))


def _drawn(
    reference: Layer, before: Layer, after: Layer | None, box: GeoBox, detail: tuple[float, float] | None
) -> Figure:
    """Draw the panels: states side by side and detail below, or the only state and its detail side by side."""
    whole, near = _shrunk(box), _cut(box, detail)
    places = [whole] if tuple(near.shape) == tuple(box.shape) else [whole, near]
    layers = {"as delivered": before} if after is None else {"before": before, "after": after}
    tall, wide = box.shape
    share = min(1.4, max(0.5, tall / wide))
    if after is None:
        figure = Figure(figsize=(11.2, 1.7 + _PANEL * max(share, 1.0)))
        panels = figure.subplots(1, 2, squeeze=False).T
    else:
        shares = [share, 1.0][: len(places)]
        figure = Figure(figsize=(11.2, 1.7 + _PANEL * sum(shares) + 0.3 * (len(places) - 1)))
        panels = figure.subplots(len(places), 2, squeeze=False, gridspec_kw={"height_ratios": shares})
    for axes in panels.flat:
        axes.set_axis_off()
    for row, place in zip(panels, places, strict=False):
        ground = _stretched(reference.on(place))
        for axes, (name, layer) in zip(row, layers.items(), strict=False):
            _panel(axes, _mixed(ground, _stretched(layer.on(place))))
            if place is near:
                name = f"{name}, detail of {near.shape.x} × {near.shape.y} px"
            elif len(places) > 1:
                _frame(axes, whole, near)
            axes.set_title(name, color=_INK, fontsize=11, loc="left")
    keys = {"reference": _GREY, "moving": _TINT, "no data": _NODATA}
    handles = [Patch(color=colour, label=name) for name, colour in keys.items()]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=9, labelcolor=_INK)
    height = figure.get_figheight()
    figure.subplots_adjust(0.012, 0.45 / height, 0.988, 1 - 1.3 / height, wspace=0.03, hspace=0.1)
    return figure


def _small(view: View, box: GeoBox) -> Image | None:
    """Read the first band from the raster's overviews onto a box; None where the box is not coarser.

    Good enough to look at: values are shrunk as they are in the file, and resampled a second time.
    """
    with raster.opened(view.path) as dataset:
        source = GeoBox.from_rio(dataset)
        height, width = box.shape
        across, down = np.meshgrid(np.linspace(0, width, 21), np.linspace(0, height, 21))
        col, row = pixels_in(source, box, across, down)
        seen = np.isfinite(col)
        if not seen.any():
            return np.full((height, width), np.nan, np.float32)
        low = np.maximum(np.floor([col[seen].min(), row[seen].min()]), 0)
        high = np.minimum(np.ceil([col[seen].max(), row[seen].max()]), [source.shape.x, source.shape.y])
        size = high - low
        factor = math.floor(min(size) / max(1, min(height, width)))
        if factor < 2 or (size <= 0).any():
            return None
        window = Window(int(low[0]), int(low[1]), int(size[0]), int(size[1]))
        shape = max(1, round(size[1] / factor)), max(1, round(size[0] / factor))
        read = dataset.read(view.bands[0], window=window, out_shape=shape, resampling=Resampling.average, masked=True)
    values = np.ma.filled(read.astype(np.float32), np.nan)
    if view.sensor.nodata is not None:
        values[values == view.sensor.nodata] = np.nan
    out = np.full((height, width), np.nan, np.float32)
    corner = Affine.translation(window.col_off, window.row_off)
    zoom = Affine.scale(window.width / shape[1], window.height / shape[0])
    reproject(
        view.sensor.to_linear(values), out,
        src_transform=source.affine * corner * zoom, src_crs=crs_of(source).to_wkt(), src_nodata=np.nan,
        dst_transform=box.affine, dst_crs=crs_of(box).to_wkt(), dst_nodata=np.nan,
        resampling=Resampling.bilinear, num_threads=1,
    )  # fmt: skip
    return out


def _shrunk(box: GeoBox) -> GeoBox:
    """The box in pixels large enough for a picture."""
    height, width = box.shape
    factor = max(1.0, max(height, width) / _WHOLE_PX)
    shape = max(1, round(height / factor)), max(1, round(width / factor))
    return GeoBox(shape, box.affine * Affine.scale(width / shape[1], height / shape[0]), box.crs)


def _cut(box: GeoBox, centre: tuple[float, float] | None) -> GeoBox:
    """A window of the box about a place, at full resolution."""
    height, width = box.shape
    rows, cols = min(_DETAIL_PX, height), min(_DETAIL_PX, width)
    col, row = centre if centre is not None else (width / 2, height / 2)
    left = int(np.clip(round(col - cols / 2), 0, width - cols))
    top = int(np.clip(round(row - rows / 2), 0, height - rows))
    return GeoBox((rows, cols), box.affine * Affine.translation(left, top), box.crs)


def _frame(axes: Axes, whole: GeoBox, near: GeoBox) -> None:
    """Mark the detail on the whole."""
    to_whole = ~whole.affine * near.affine
    left, top = to_whole * (0, 0)
    right, bottom = to_whole * (near.shape.x, near.shape.y)
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, ec="#ef4444", lw=1.4))


def _stretched(image: Image) -> Image:
    """Values between their 2nd and 98th percentile as 0 to 1, dark images brightened; NaN where invalid."""
    known = image[np.isfinite(image)]
    if not known.size:
        return image
    low, high = (float(q) for q in np.quantile(known, (0.02, 0.98)))
    if not high > low:
        low, high = float(known.min()), float(known.max())
    if not high > low:
        return np.where(np.isfinite(image), np.float32(0.5), image).astype(np.float32)
    shown = np.clip((image - low) / (high - low), 0, 1)
    middle = float(np.nanmedian(shown))
    power = np.clip(np.log(_MIDDLE) / np.log(middle), 0.45, 1.0) if 0 < middle < _MIDDLE else 1.0
    return (shown**power).astype(np.float32)


def _mixed(reference: Image, moving: Image) -> NDArray[np.float32]:
    """Alternating squares, reference grey and moving tinted. Shape (H, W, 3)."""
    height, width = reference.shape
    side = max(1, math.ceil(max(height, width) / _SQUARES))
    row, col = np.indices((height, width)) // side
    shows_moving = ((row + col) % 2 == 1)[..., None]
    grey = np.repeat(reference[..., None], 3, axis=2)
    tinted = moving[..., None] * np.array(_TINT, np.float32)
    picture = np.where(shows_moving, tinted, grey)
    return np.where(np.isfinite(picture), picture, np.array(_NODATA, np.float32)).astype(np.float32)


def _border(zero: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Large areas of exact zeros that touch the edge, which are the undeclared border of a product."""
    areas, count = ndimage.label(zero)
    if not count:
        return zero
    edge = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
    large = np.flatnonzero(np.bincount(areas.ravel()) >= _BORDER_SHARE * zero.size)
    found: NDArray[np.bool_] = np.isin(areas, np.intersect1d(edge, large)) & zero
    return found


def _panel(axes: Axes, picture: NDArray[np.float32]) -> None:
    axes.set_axis_on()
    axes.imshow(picture, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#94a3b8")
