"""QGIS styles of what co-registration writes: tie points as arrows, the displacement by its length.

A style lies beside its file under the same stem, so that QGIS shows it as soon as the file is opened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as Xml

import numpy as np
from numpy.typing import ArrayLike

from rsgeo_gan.manifest import write_text

__all__ = ["arrow_scale", "displacement_style", "style_path", "tie_point_style"]

RESIDUAL_LIMITS_PX = (0.5, 1.0, 2.0)
"""Limits between the colours of tie points that support the displacement."""

_ARROW_COLOURS = ("255,241,64", "255,160,0", "240,50,40", "200,0,150")
_REJECTED_COLOUR = "158,158,158"
_LENGTH_COLOURS = ("#f7fbff", "#c6dbef", "#6baed6", "#2171b5", "#08306b")
_HEADER = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
_VERSION = "3.22"


def style_path(path: Path) -> Path:
    """Return where QGIS looks for the style of a file."""
    return path.with_suffix(".qml")


def arrow_scale(lengths: ArrayLike, spacing: float) -> int:
    """Choose how much longer than true arrows are drawn, so that they are seen and do not overlap much.

    Args:
        lengths: True lengths, any unit.
        spacing: Typical distance of neighbouring arrows, same unit.

    Returns:
        1, 2, 5, 10 … 500: the largest at which nine of ten arrows are shorter than the spacing.
    """
    known = np.asarray(lengths, np.float64)
    long = float(np.quantile(known, 0.9)) if known.size else 0.0
    if long <= 0 or not math.isfinite(spacing / long):
        return 1
    steps = [step * 10**power for power in range(3) for step in (1, 2, 5)]
    return max((step for step in steps if step * long <= spacing), default=1)


def tie_point_style(path: Path, scale: int = 1) -> Path:
    """Write the style of a layer of arrows: by residual where they are used, grey where not.

    Args:
        path: The GeoPackage; its layer has the fields `used` and `residual_px`.
        scale: How much longer than true the arrows are drawn; the legend says so.

    Returns:
        Path of the style.

    Raises:
        ProductError: If it cannot be written.
    """
    longer = f", drawn {scale} × their length" if scale != 1 else ""
    root = Xml.Element("qgis", version=_VERSION, styleCategories="Symbology")
    renderer = _add(root, "renderer-v2", type="RuleRenderer", symbollevels="0", enableorderby="0", forceraster="0")
    rules = _add(renderer, "rules", key="{tie-points}")
    symbols = _add(renderer, "symbols")
    # What is drawn first lies below.
    _add(rules, "rule", key="{rejected}", symbol="0", filter='NOT "used"', label=f"not used{longer}")
    _arrow(symbols, "0", _REJECTED_COLOUR, scale, 0.45)
    group = _add(rules, "rule", key="{used}", filter='"used"', label=f"used{longer}")
    limits = (0.0, *RESIDUAL_LIMITS_PX, math.inf)
    for number, (low, high) in enumerate(pairwise(limits), start=1):
        upper = f' AND "residual_px" <= {high}' if math.isfinite(high) else ""
        lower = f'"residual_px" > {low}' if low else "TRUE"
        label = f"residual up to {high} px" if math.isfinite(high) else f"residual above {low} px"
        _add(group, "rule", key=f"{{used-{number}}}", symbol=str(number), filter=lower + upper, label=label)
        _arrow(symbols, str(number), _ARROW_COLOURS[number - 1], scale, 0.75)
    _add(root, "layerGeometryType").text = "1"
    return _write(path, root)


def displacement_style(path: Path, band: int, longest_px: float) -> Path:
    """Write the style of a displacement raster: the length of the displacement in colours.

    Args:
        path: The raster.
        band: Band that holds the length, counted from 1.
        longest_px: Greatest length in the raster, reference pixels.

    Returns:
        Path of the style.

    Raises:
        ProductError: If it cannot be written.
    """
    top = max(1.0, math.ceil(2 * longest_px) / 2) if math.isfinite(longest_px) else 1.0
    root = Xml.Element("qgis", version=_VERSION, styleCategories="Symbology")
    pipe = _add(root, "pipe")
    limits = {"classificationMin": "0", "classificationMax": f"{top:g}"}
    kind = {"type": "singlebandpseudocolor", "band": str(band), "alphaBand": "-1", "opacity": "1", "nodataColor": ""}
    renderer = _add(pipe, "rasterrenderer", **kind, **limits)
    shader = _add(
        _add(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue="0",
        maximumValue=f"{top:g}",
    )
    for share, colour in zip(np.linspace(0, 1, len(_LENGTH_COLOURS)), _LENGTH_COLOURS, strict=True):
        value = f"{top * share:g}"
        _add(shader, "item", value=value, color=colour, alpha="255", label=f"{value} px")
    return _write(path, root)


def _arrow(symbols: Xml.Element, name: str, colour: str, scale: int, width_mm: float) -> None:
    """Add an arrow symbol that is drawn `scale` times as long as its line."""
    start, end = "start_point($geometry)", "end_point($geometry)"
    longer = ", ".join(f"({axis}({end}) - {axis}({start})) * {scale}" for axis in "xy")
    shape = f"make_line({start}, translate({start}, {longer}))"
    fill = {"color": f"{colour},255", "outline_color": "0,0,0,255", "outline_width": "0.08", "style": "solid"}
    arrow = {
        "arrow_width": f"{width_mm}",
        "arrow_start_width": f"{width_mm}",
        "head_length": f"{3 * width_mm:g}",
        "head_thickness": f"{1.6 * width_mm:g}",
        "head_type": "0",
        "arrow_type": "0",
        "is_curved": "0",
        "is_repeated": "0",
    }
    generator = _symbol(
        symbols, name, "line", "GeometryGenerator",
        {"SymbolType": "Line", "geometryModifier": shape, "units": "MapUnit"},
    )  # fmt: skip
    head = _symbol(generator, f"@{name}@0", "line", "ArrowLine", arrow)
    _symbol(head, f"@@{name}@0@0", "fill", "SimpleFill", fill)


def _symbol(parent: Xml.Element, name: str, kind: str, layer: str, properties: Mapping[str, str]) -> Xml.Element:
    """Add a symbol of one layer and return the layer; both spellings of properties, for QGIS before and since 3.26."""
    symbol = _add(parent, "symbol", name=name, type=kind, alpha="1", force_rhr="0", clip_to_extent="1")
    inner = _add(symbol, "layer", **{"class": layer}, enabled="1", locked="0")
    inner.set("pass", "0")
    options = _add(inner, "Option", type="Map")
    for key, value in properties.items():
        _add(options, "Option", name=key, value=value, type="QString")
        _add(inner, "prop", k=key, v=value)
    return inner


def _add(parent: Xml.Element, tag: str, **attributes: str) -> Xml.Element:
    return Xml.SubElement(parent, tag, attributes)


def _write(path: Path, root: Xml.Element) -> Path:
    Xml.indent(root, " ")
    return write_text(style_path(path), _HEADER + Xml.tostring(root, encoding="unicode") + "\n")
