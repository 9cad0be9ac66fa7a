"""How the displacement of a pair is told: a map of arrows with its tie points and errors, and its numbers."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import geopandas
import numpy as np
import pystac
import shapely
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.quiver import Quiver
from odc.geo.geobox import GeoBox

from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import SourceError
from rsgeo_gan.grid import crs_of, transformed
from rsgeo_gan.manifest import asset_path, displacement_of, item_box
from rsgeo_gan.report.drawing import INK, rounded

__all__ = ["Told", "arrows", "told"]

_QUIET, _MEASURED = "#94a3b8", "#c2410c"
_ARROWS, _NODES = 7, 96
_MOST_POINTS = 2000


@dataclass(frozen=True)
class Told:
    """A pair's displacement as far as it can be read.

    Attributes:
        displacement: The displacement; None when the pair describes none that can be read.
        reliable: Whether it may be applied.
        reason: Why not, or a remark.
        dx_px: Mean displacement to the right over the overlap, reference pixels.
        dy_px: The same downwards.
        metres: Width and height of a reference pixel in metres.
    """

    displacement: Displacement | None
    reliable: bool
    reason: str
    dx_px: float
    dy_px: float
    metres: tuple[float, float]


def told(pair: pystac.Item) -> Told:
    """Read what a pair says about its displacement; a field that is gone becomes the reason."""
    try:
        found = displacement_of(pair)
    except SourceError as error:
        return Told(None, False, str(error), 0.0, 0.0, (float("nan"), float("nan")))
    reliable = bool(pair.properties.get("rsgeo:reliable", found.reliable))
    reason = str(pair.properties.get("rsgeo:reason") or found.reason)
    dx, dy = (float(value) for value in found.mean(item_box(pair)))
    return Told(found, reliable, reason, dx, dy, _pixel_m(found.geobox))


def arrows(axes: Axes, pair: pystac.Item, entry: Told) -> None:
    """Draw the arrows of a pair over its tie points and, where it has a field, over its expected error.

    Args:
        axes: Where to draw; x and y become columns and rows of the reference grid.
        pair: The pair; its asset `tie_points` is drawn when it is there.
        entry: What `told` said.
    """
    displacement = entry.displacement
    box = displacement.geobox if displacement is not None else item_box(pair)
    height, width = box.shape
    drawn = displacement is not None and entry.reliable
    if displacement is not None and drawn:
        if displacement.field is not None:
            _errors(axes, displacement)
        _tie_points(axes, pair, box)
        _quiver(axes, displacement, entry)
    else:
        axes.set_facecolor("#f1f5f9")
        axes.text(
            0.5, 0.5, _wrapped(entry.reason or "not reliable"), transform=axes.transAxes, ha="center", va="center",
            fontsize=8, color="#64748b",
        )  # fmt: skip
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect(entry.metres[1] / entry.metres[0] if np.isfinite(entry.metres).all() else "equal")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#cbd5e1")
    verdict = f"{displacement.model}: dx {entry.dx_px:+.2f}, dy {entry.dy_px:+.2f} px" if drawn else "left alone"  # type: ignore[union-attr]
    axes.set_title(f"{_short(pair.id)}\n{verdict}", loc="left", fontsize=8, color=INK if drawn else _QUIET)


def _quiver(axes: Axes, displacement: Displacement, entry: Told) -> None:
    """Arrows on a lattice of places, with a key of their length; dots where nothing moves."""
    height, width = displacement.geobox.shape
    column, row = np.meshgrid(
        (np.arange(_ARROWS) + 0.5) / _ARROWS * width, (np.arange(_ARROWS) + 0.5) / _ARROWS * height
    )
    dx, dy = (np.broadcast_to(part, column.shape) for part in displacement.at(column - 0.5, row - 0.5))
    longest = float(np.hypot(dx, dy).max())
    if longest <= 0:
        axes.plot(column.ravel(), row.ravel(), ".", color=_MEASURED)
        return
    step = min(max(width, height) / _ARROWS, 1.6 * min(width, height) / _ARROWS)
    found = axes.quiver(
        column, row, dx, dy, angles="xy", scale_units="xy", scale=longest / (0.85 * step), color=_MEASURED,
        width=0.009, pivot="mid", zorder=4,
    )  # fmt: skip
    _key(axes, found, longest, entry.metres[0])


def _key(axes: Axes, found: Quiver, longest: float, metres: float) -> None:
    length = rounded(longest)
    text = f"{length:g} px" + (f" = {length * metres:.3g} m" if np.isfinite(metres) else "")
    axes.quiverkey(found, 0.12, -0.07, length, text, labelpos="E", fontproperties={"size": 8})


def _errors(axes: Axes, displacement: Displacement) -> None:
    """Expected error as a tint with its scale; only a field changes it from place to place."""
    assert displacement.field is not None
    box = displacement.geobox
    height, width = box.shape
    column, row = np.meshgrid((np.arange(_NODES) + 0.5) / _NODES * width, (np.arange(_NODES) + 0.5) / _NODES * height)
    sigma = displacement.field.quality(box, column - 0.5, row - 0.5)[0]
    sigma[~np.isfinite(sigma)] = np.nan
    if not np.isfinite(sigma).any():
        return
    top = float(np.nanmax(sigma))
    # The darker half of the colours is left out, so that arrows stay in front.
    tint = Normalize(0.0, 1.6 * top)
    axes.imshow(sigma, "Blues", tint, aspect="auto", extent=(0, width, height, 0), interpolation="bilinear")
    bar = axes.inset_axes((0.62, -0.085, 0.38, 0.03))
    bar.set(yticks=[])
    bar.spines[:].set_visible(False)
    bar.imshow(np.linspace(0, top, 64)[None], "Blues", tint, aspect="auto", extent=(0, top, 0, 1))
    bar.set_xticks([0, top], ["0", f"{top:.2g}"])
    bar.tick_params(labelsize=7, colors=INK, length=2, pad=1)
    bar.text(-0.06, 0.5, "σ, px", transform=bar.transAxes, ha="right", va="center", fontsize=7, color=INK)


def _tie_points(axes: Axes, pair: pystac.Item, box: GeoBox) -> None:
    """Dots where tie points support the displacement, crosses where they were rejected."""
    if "tie_points" not in pair.assets:
        return
    try:
        layer = geopandas.read_file(asset_path(pair, "tie_points"))
    except (OSError, RuntimeError, ValueError):
        return
    layer = layer.iloc[:: max(1, -(-len(layer) // _MOST_POINTS))]
    if not len(layer):
        return
    first = shapely.get_point(layer.geometry, 0) if (layer.geom_type == "LineString").all() else layer.geometry
    column, row = transformed(~box.affine, shapely.get_x(first), shapely.get_y(first))
    used = layer["used"].to_numpy(bool) if "used" in layer else np.ones(len(layer), bool)
    axes.plot(column[used], row[used], ".", color="#1d4ed8", markersize=2.5, zorder=3)
    axes.plot(column[~used], row[~used], "x", color="#64748b", markersize=3, markeredgewidth=0.8, zorder=3)


def _pixel_m(box: GeoBox) -> tuple[float, float]:
    """Width and height of a pixel in metres: of the map, or on the ground in a geographic reference system."""
    a, crs = box.affine, crs_of(box).proj
    if not crs.is_geographic:
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        return float(np.hypot(a.a, a.d)) * unit, float(np.hypot(a.b, a.e)) * unit
    height, width = box.shape
    x, y = transformed(a, width / 2 + np.array([0.0, 1.0, 0.0]), height / 2 + np.array([0.0, 0.0, 1.0]))
    # A globe that is not the Earth has no way to EPSG:4326; its own ellipsoid measures it.
    globe = crs.get_geod()
    if globe is None:
        return float("nan"), float("nan")
    degrees = np.rad2deg(crs.axis_info[0].unit_conversion_factor)
    _, _, across = globe.inv(x[0] * degrees, y[0] * degrees, x[1] * degrees, y[1] * degrees)
    _, _, down = globe.inv(x[0] * degrees, y[0] * degrees, x[2] * degrees, y[2] * degrees)
    return float(across), float(down)


def _short(name: str, longest: int = 44) -> str:
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-(longest // 2) :]}"


def _wrapped(text: str, width: int = 30, lines: int = 6) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
