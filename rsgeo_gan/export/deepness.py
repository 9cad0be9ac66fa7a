"""Fits an ONNX graph to Deepness, the QGIS plugin that runs networks on layers.

What Deepness 0.6 does decides the form. It divides every input value by 255, subtracts a mean and divides by a
deviation; it wants a fixed tile size; of a regressor it keeps one channel per output, crops half the overlap
on each side, and stores the result as 8-bit integers, 0 where it is NaN. So the graph has a fixed size and one output
a band with values 1 to 255 across the scaler's range, and the metadata undo the division.

Reference: PUTvision/qgis-plugin-deepness 0.6.5, "Adding metadata to ONNX model" and its `model_base.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsgeo_gan.errors import ExportError
from rsgeo_gan.export.graph import INPUT, OUTPUT
from rsgeo_gan.inference import Translator

__all__ = ["LEVELS", "Tiling", "fitted", "tiling"]

LEVELS = 254
"""Steps between the ends of a band's range; 0 is nodata, 1 the lower and 255 the upper end."""

_LARGEST_TILE_PX = 4096


@dataclass(frozen=True)
class Tiling:
    """How Deepness should cut a layer.

    Attributes:
        tile_px: Side of a tile.
        overlap_pct: Overlap of neighbours, percent of the tile.
        overlap_px: The same in pixels, as the plugin computes it.
    """

    tile_px: int
    overlap_pct: int
    overlap_px: int


def tiling(translator: Translator, tile_px: int = 512) -> Tiling:
    """Choose tiles without seams: half the overlap covers the halo, and tiles begin at multiples of the stride.

    Args:
        translator: The generator.
        tile_px: Wanted side; larger when less than a third of a tile's side would be kept.

    Raises:
        ExportError: If no tile of reasonable size does.
    """
    stride = translator.stride
    doubled = [tile_px * 2**n for n in range(7)]
    for wanted in (*(side for side in doubled if side < _LARGEST_TILE_PX), _LARGEST_TILE_PX):
        side = -(-wanted // stride) * stride
        for percent in range(67):
            overlap = int(side * percent / 100 * 2) // 2
            if overlap // 2 >= translator.halo_px and (side - overlap) % stride == 0:
                return Tiling(side, percent, overlap)
    raise ExportError(
        f"{translator.direction}: no tile of {tile_px} to {_LARGEST_TILE_PX} px holds a halo of {translator.halo_px} "
        "px on each side; the network sees too far for Deepness. Use rsgeo-gan generate, or export with --no-onnx."
    )


def fitted(model: Any, translator: Translator, cut: Tiling) -> Any:
    """Return a copy of a graph in the form Deepness runs.

    Args:
        model: What `rsgeo_gan.export.graph.traced` returned.
        translator: Its generator.
        cut: How layers are cut.

    Returns:
        An `onnx.ModelProto` with metadata.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    scaler = translator.target_scaler
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    for axis in (2, 3):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_value = cut.tile_px
    del graph.output[:], graph.value_info[:]
    per_unit = LEVELS / (np.asarray(scaler.high) - np.asarray(scaler.low))
    # Half a level more, because the plugin cuts decimals off.
    constants = {
        "level_gain": per_unit[None, :, None, None],
        "level_offset": (1.5 - np.asarray(scaler.low) * per_unit)[None, :, None, None],
        "level_least": np.asarray(1.0),
        "level_most": np.asarray(255.0),
        "level_none": np.asarray(0.0),
    }
    for name, value in constants.items():
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), name))
    outputs = [f"band_{number}" for number in range(len(scaler.bands))]
    graph.initializer.append(numpy_helper.from_array(np.ones(len(outputs), np.int64), "one_each"))
    graph.node.extend(
        [
            helper.make_node("Mul", [OUTPUT, "level_gain"], ["level_scaled"]),
            helper.make_node("Add", ["level_scaled", "level_offset"], ["level_moved"]),
            helper.make_node("Floor", ["level_moved"], ["level_whole"]),
            helper.make_node("Clip", ["level_whole", "level_least", "level_most"], ["level_kept"]),
            helper.make_node("IsNaN", [OUTPUT], ["level_missing"]),
            helper.make_node("Where", ["level_missing", "level_none", "level_kept"], ["levels"]),
            helper.make_node("Split", ["levels", "one_each"], outputs, axis=1),
        ]
    )
    shape: list[str | int | None] = ["batch", 1, cut.tile_px, cut.tile_px]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs)
    assert graph.input[0].name == INPUT
    for key, value in _metadata(translator, cut).items():
        entry = made.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    return made


def _metadata(translator: Translator, cut: Tiling) -> dict[str, Any]:
    """Return what Deepness reads, by its keys; the plugin decodes every value as JSON."""
    inputs = len(translator.source_scaler.bands)
    return {
        "model_type": "Regressor",
        "class_names": [{"0": name} for name in names(translator)],
        "resolution": round(100 * translator.facts.gsd, 2),
        "tile_size": cut.tile_px,
        "tiles_overlap": cut.overlap_pct,
        "standardization_mean": [0.0] * inputs,
        "standardization_std": [1 / 255] * inputs,
        "reg_output_scaling": 1.0,
    }


def names(translator: Translator) -> list[str]:
    """Name the layers that Deepness makes, so that a reader can turn levels into units."""
    scaler = translator.target_scaler
    return [
        f"Synthetic {band}, 1 to 255 is {low:.6g} to {high:.6g} {scaler.unit}"
        for band, low, high in zip(scaler.bands, scaler.low, scaler.high, strict=True)
    ]
