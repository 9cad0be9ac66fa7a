"""The report's charts: map with displacement arrows, spectra, distributions of values, training curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pystac
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from odc.geo.geobox import GeoBox

from rsgeo_gan.manifest import Manifest, item_box
from rsgeo_gan.report.displacements import arrows, told
from rsgeo_gan.report.drawing import INK, plain
from rsgeo_gan.report.places import outline
from rsgeo_gan.report.scoring import GENERATED, Scored

__all__ = ["COLOURS", "distributions", "map_of", "spectra"]

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
_UNITS = {"dB": "dB", "reflectance": "reflectance", "display": "display value"}
_MOST_PAIRS = 6


def map_of(scenes: Manifest, pairs: Manifest, tiles: Manifest) -> Figure | None:
    """Draw footprints of scenes, tiles by split, and the displacement of each pair.

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
    shown = list(pairs)[:_MOST_PAIRS]
    columns = min(len(shown), 3)
    rows = max(1, -(-len(shown) // 3))
    figure = Figure(figsize=(4.6 + 3.1 * columns, max(4.4, 3.3 * rows)), layout="constrained")
    grid = figure.add_gridspec(rows, columns + 1, width_ratios=[1.5] + [1] * columns)
    axes = figure.add_subplot(grid[:, 0])
    _footprints(axes, boxes, tiles, crs)
    for number, pair in enumerate(shown):
        arrows(figure.add_subplot(grid[number // 3, 1 + number % 3]), pair, told(pair))
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


def spectra(scored: Scored) -> Figure | None:
    """Plot radial power spectra of real and made tiles, a panel per band; None when no tile was whole."""
    frequency, _, real = scored.tallies[GENERATED].spectra()
    if not len(frequency):
        return None
    figure, panels = _panels(scored.tallies[GENERATED].bands, 3.1)
    for number, axes in enumerate(panels):
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
        axes.grid(True, color="#e2e8f0", linewidth=0.6)
    panels[0].set_ylabel(f"power spectral density, ({_UNITS[scored.unit]})²")
    panels[-1].legend(fontsize=8, frameon=False)
    return figure


def distributions(scored: Scored) -> Figure | None:
    """Plot how values are distributed in real and made tiles, a panel per band; None without values."""
    tally = scored.tallies[GENERATED]
    made, real = tally.values()
    if not real.size:
        return None
    figure, panels = _panels(tally.bands, 2.7)
    for number, axes in enumerate(panels):
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
        axes.spines["left"].set_visible(False)
    panels[-1].legend(fontsize=8, frameon=False)
    return figure


def _panels(bands: Sequence[str], height: float) -> tuple[Figure, list[Axes]]:
    """A figure with a titled panel per band, at most four a row."""
    columns = min(len(bands), 4)
    rows = -(-len(bands) // columns)
    figure = Figure(figsize=(max(6.0, 3.0 * columns), height * rows), layout="constrained")
    drawn = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for spare in drawn[len(bands) :]:
        spare.set_axis_off()
    for axes, band in zip(drawn, bands, strict=False):
        axes.set_title(band, loc="left", fontsize=10, color=INK)
        plain(axes)
    return figure, list(drawn[: len(bands)])
