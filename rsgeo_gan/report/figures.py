"""The report's charts: map with displacement arrows, spectra, distributions of values, training curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pystac
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox

from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import ProductError
from rsgeo_gan.manifest import Manifest, item_box
from rsgeo_gan.report.places import outline
from rsgeo_gan.report.scoring import GENERATED, Scored

__all__ = ["COLOURS", "INK", "distributions", "map_of", "plain", "save", "spectra"]

COLOURS = {
    "real": "#1b1b1b",
    "generated": "#c2410c",
    "untrained": "#94a3b8",
    "mean value": "#64748b",
    "source": "#2563eb",
    "target": "#b45309",
    "train": "#cbd5e1",
    "val": "#fde68a",
    "test": "#86efac",
}
INK = "#334155"
_UNITS = {"dB": "dB", "reflectance": "reflectance", "display": "display value"}
_ARROWS = 7
_MOST_PAIRS = 6


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all.

    Raises:
        ProductError: If the folder cannot be written.
    """
    staged = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(staged, format="png", dpi=110, facecolor="white", pil_kwargs={"compress_level": 2})
        staged.replace(path)
    except OSError as error:
        raise ProductError(
            f"Cannot write {path}: {error.strerror or error}. Choose an output folder that you may write to."
        ) from error
    finally:
        staged.unlink(missing_ok=True)
    return path


def plain(axes: Axes) -> None:
    """Take the weight out of an axes: no box, quiet ticks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#94a3b8")
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def map_of(scenes: Manifest, pairs: Manifest, tiles: Manifest) -> Figure | None:
    """Draw footprints of scenes, tiles by split, and the displacement field of each pair.

    Args:
        scenes: The scenes.
        pairs: The pairs; at most six get a panel of arrows.
        tiles: The tiles.

    Returns:
        The figure, or None when there are no scenes.
    """
    boxes = [(item, item_box(item)) for item in scenes]
    if not boxes:
        return None
    crs = _metric([box for _, box in boxes])
    fields = [(pair, Displacement.from_dict(pair.properties["rsgeo:displacement"])) for pair in pairs][:_MOST_PAIRS]
    columns = min(len(fields), 3)
    rows = max(1, -(-len(fields) // 3))
    figure = Figure(figsize=(4.6 + 3.1 * columns, max(4.4, 3.3 * rows)), layout="constrained")
    grid = figure.add_gridspec(rows, columns + 1, width_ratios=[1.5] + [1] * columns)
    axes = figure.add_subplot(grid[:, 0])
    _footprints(axes, boxes, tiles, crs)
    for number, (pair, field) in enumerate(fields):
        _arrows(figure.add_subplot(grid[number // 3, 1 + number % 3]), pair, field)
    return figure


def _kilometres(box: GeoBox, crs: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = outline(box, crs)
    return x / 1000, y / 1000


def _metric(boxes: Sequence[GeoBox]) -> str:
    """A projected reference system that one of the boxes has, else the UTM zone of the first."""
    for box in boxes:
        if box.crs is not None and box.crs.projected:
            return str(box.crs)
    west, south, east, north = boxes[0].footprint("EPSG:4326").boundingbox
    zone = int(((west + east) / 2 + 180) // 6) + 1
    return f"EPSG:{(32600 if south + north >= 0 else 32700) + zone}"


def _footprints(axes: Axes, boxes: Sequence[tuple[pystac.Item, GeoBox]], tiles: Manifest, crs: str) -> None:
    named: dict[str, Any] = {}
    for tile in tiles:
        split = tile.properties.get("rsgeo:split", "train")
        x, y = _kilometres(item_box(tile), crs)
        (patch,) = axes.fill(x, y, facecolor=COLOURS.get(split, "#e2e8f0"), edgecolor="white", linewidth=0.8)
        named[f"tiles: {split}"] = patch
    for item, box in boxes:
        side = item.properties.get("rsgeo:side", "source")
        x, y = _kilometres(box, crs)
        (line,) = axes.plot(
            x, y, color=COLOURS[side], linewidth=1.6, linestyle="-" if side == "source" else (0, (5, 2))
        )
        named[f"scene: {side}"] = line
    axes.set_aspect("equal")
    axes.set_xlabel(f"east, km ({crs})")
    axes.set_ylabel("north, km")
    axes.ticklabel_format(useOffset=False, style="plain")
    axes.set_title("Footprints", loc="left", fontsize=10, color=INK)
    plain(axes)
    axes.legend(
        named.values(),
        named.keys(),
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
        ncols=3,
        fontsize=8,
        frameon=False,
    )


def _arrows(axes: Axes, pair: pystac.Item, field: Displacement) -> None:
    height, width = field.geobox.shape
    column, row = np.meshgrid(
        (np.arange(_ARROWS) + 0.5) / _ARROWS * width, (np.arange(_ARROWS) + 0.5) / _ARROWS * height
    )
    dx, dy = (np.broadcast_to(part, column.shape) for part in field.at(column, row))
    reliable = bool(pair.properties.get("rsgeo:reliable", field.reliable))
    colour = COLOURS["generated"] if reliable else "#94a3b8"
    longest = float(np.hypot(dx, dy).max())
    if longest > 0:
        step = max(width, height) / _ARROWS
        arrows = axes.quiver(
            column,
            row,
            dx,
            dy,
            angles="xy",
            scale_units="xy",
            scale=longest / (0.85 * step),
            color=colour,
            width=0.009,
            pivot="mid",
        )
        key = _round(longest)
        axes.quiverkey(arrows, 0.12, -0.09, key, f"{key:g} px", labelpos="E", fontproperties={"size": 8})
    else:
        axes.plot(column.ravel(), row.ravel(), ".", color=colour)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#cbd5e1")
    verdict = f"{field.model}: dx {field.dx_px:+.2f}, dy {field.dy_px:+.2f} px" if reliable else "not sure: left alone"
    axes.set_title(f"{_short(pair.id)}\n{verdict}", loc="left", fontsize=8, color=INK)


def _round(value: float) -> float:
    digits = 10.0 ** np.floor(np.log10(value))
    return float(max(step for step in (1, 2, 5) if step * digits <= value) * digits)


def _short(name: str, longest: int = 44) -> str:
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-(longest // 2) :]}"


def spectra(scored: Scored) -> Figure | None:
    """Plot radial power spectra of real and made tiles, a panel per band; None when no tile was whole."""
    frequency, _, real = scored.tallies[GENERATED].spectra()
    if not len(frequency):
        return None
    bands = scored.tallies[GENERATED].bands
    figure, panels = _panels(len(bands), 3.1)
    for number, (axes, band) in enumerate(zip(panels, bands, strict=True)):
        for kind, tally in scored.tallies.items():
            shown = tally.spectra()[1]
            # A constant image has no spectrum to draw.
            if len(shown) and kind != "mean value":
                axes.loglog(frequency, shown[number], color=COLOURS[kind], linewidth=1.6, label=kind)
        axes.loglog(frequency, real[number], color=COLOURS["real"], linewidth=1.6, linestyle=(0, (4, 2)), label="real")
        axes.set_xticks([0.01, 0.02, 0.05, 0.1, 0.2, 0.5], ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5"])
        axes.minorticks_off()
        axes.set_xlim(frequency[0], 0.5)
        axes.set_xlabel("cycles per pixel")
        axes.set_title(band, loc="left", fontsize=10, color=INK)
        axes.grid(True, color="#e2e8f0", linewidth=0.6)
        plain(axes)
    panels[0].set_ylabel(f"power spectral density, ({_UNITS[scored.unit]})²")
    panels[-1].legend(fontsize=8, frameon=False)
    return figure


def distributions(scored: Scored) -> Figure | None:
    """Plot how values are distributed in real and made tiles, a panel per band; None without values."""
    tally = scored.tallies[GENERATED]
    made, real = tally.values()
    if not real.size:
        return None
    figure, panels = _panels(len(tally.bands), 2.7)
    for number, (axes, band) in enumerate(zip(panels, tally.bands, strict=True)):
        low, high = np.quantile(np.concatenate([made[number], real[number]]), [0.001, 0.999])
        edges = np.linspace(low, max(high, low + 1e-6), 80).tolist()
        axes.hist(real[number], edges, density=True, color="#cbd5e1", label="real")
        axes.hist(
            made[number],
            edges,
            density=True,
            histtype="step",
            color=COLOURS["generated"],
            linewidth=1.6,
            label="generated",
        )
        axes.set_yticks([])
        axes.set_xlabel(_UNITS[scored.unit])
        axes.set_title(band, loc="left", fontsize=10, color=INK)
        plain(axes)
        axes.spines["left"].set_visible(False)
    panels[-1].legend(fontsize=8, frameon=False)
    return figure


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(6.0, 3.0 * columns), height * rows), layout="constrained")
    drawn = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for spare in drawn[count:]:
        spare.set_axis_off()
    return figure, list(drawn[:count])
