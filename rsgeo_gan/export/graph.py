"""Writes a generator as ONNX with free batch and size, and proves that it computes what PyTorch computes."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsgeo_gan.errors import ExportError
from rsgeo_gan.export.physical import Physical, StoredValues
from rsgeo_gan.export.windows import Windows
from rsgeo_gan.inference import Translator

__all__ = ["INPUT", "OUTPUT", "TOLERANCE", "assert_parity", "min_size_px", "need", "save", "session", "traced"]

INPUT, OUTPUT = "image", "translated"
"""Names of the graph's input and output."""

TOLERANCE = 1e-4
"""Largest difference to PyTorch, in model units of [-1, 1]."""

_OPSET = 18
_IR_VERSION = 8
"""Both are read by onnxruntime from 1.14 on; Deepness installs at most 1.17."""


def need(*packages: str) -> None:
    """See that the packages of the `export` extra are there.

    Raises:
        ExportError: If one is missing.
    """
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"Writing ONNX needs {', '.join(missing)}, which is not installed: pip install 'rsgeo-gan[export]', or "
            "leave ONNX out (--no-onnx)."
        )


def min_size_px(translator: Translator) -> int:
    """Return the smallest height and width for which the graph holds: two cells of the coarsest level."""
    return max(16, 2 * translator.stride)


def traced(translator: Translator, stored: StoredValues) -> Any:
    """Turn a generator with frozen normalisation into an ONNX graph.

    Args:
        translator: The generator.
        stored: What its input holds.

    Returns:
        An `onnx.ModelProto`; input `image`, stored values (batch, bands, height, width), output `translated` in
        analysis units, NaN where nodata.

    Raises:
        ExportError: If the network has no form in ONNX.
    """
    least = min_size_px(translator)
    size = {name: torch.export.Dim(name, min=least) for name in ("height", "width")}
    example = torch.full((2, len(translator.source_scaler.bands), least + translator.stride + 1, 2 * least), 0.5)
    try:
        program: Any = torch.onnx.export(
            Physical(translator, stored).eval(),
            (example,),
            dynamo=True,
            verbose=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=_OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch"), 2: size["height"], 3: size["width"]},),
        )
        model = program.model_proto
    except Exception as error:  # the exporter fails in many ways, each with its own class
        raise ExportError(
            f"{translator.direction}: {type(translator.generator).__name__} has no form in ONNX ({_reason(error)}). "
            "Use operators that torch.onnx knows and no branches on the size, or leave ONNX out (--no-onnx)."
        ) from error
    _strip(model)
    model.ir_version = _IR_VERSION
    return model


def _reason(error: BaseException) -> str:
    """Return the first line of what an error goes back to; the exporter wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _strip(model: Any) -> None:
    """Remove what tracing left in the graph: stack traces with paths of this machine."""
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph, model):
        del part.metadata_props[:]
        part.ClearField("doc_string")


def save(model: Any, path: Path) -> None:
    """Write a graph after checking it.

    Raises:
        ExportError: If it is not valid ONNX.
    """
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ExportError(
            f"{path.name}: not valid ONNX ({str(error).splitlines()[0][:200]}); use --no-onnx."
        ) from error
    onnx.save(model, path)


def session(path: Path) -> Any:
    """Open a graph in onnxruntime, on the CPU.

    Raises:
        ExportError: If onnxruntime does not accept it.
    """
    import onnxruntime  # type: ignore[import-untyped]

    onnxruntime.set_default_logger_severity(3)
    try:
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes are not public
        raise ExportError(f"{path.name}: onnxruntime does not open it ({str(error)[:200]}); use --no-onnx.") from error


def assert_parity(path: Path, translator: Translator, stored: StoredValues, windows: Windows) -> float:
    """Compare a graph with the generator in PyTorch on several sizes and batches, with and without nodata.

    Args:
        path: The graph.
        translator: The generator, which reads model units directly.
        stored: What the graph's input holds.
        windows: Images to compare on.

    Returns:
        Largest difference in model units.

    Raises:
        ExportError: If it exceeds `TOLERANCE`, or nodata differs.
    """
    opened = session(path)
    gain, bias = (part[None, :, None, None] for part in (translator.target_scaler.gain, translator.target_scaler.bias))
    worst = 0.0
    for values, valid in _cuts(windows, min_size_px(translator)):
        expected = translator(values, valid).numpy()
        analysis = np.stack([translator.source_scaler.inverse(image) for image in values.numpy()])
        given = np.where(valid.numpy() > 0, analysis, np.nan)
        answer = opened.run([OUTPUT], {INPUT: stored.from_analysis(given)})[0]
        shape = tuple(values.shape)
        known = np.broadcast_to(valid.numpy() > 0, expected.shape)
        if answer.shape != expected.shape or (np.isnan(answer) == known).any():
            raise ExportError(
                f"{path.name}: for an input of {shape} expected an output of {expected.shape} with nodata where the "
                f"input has it, got {answer.shape}; the network depends on the size in a way ONNX does not carry: "
                "use --no-onnx."
            )
        worst = max(worst, float(np.abs(answer * gain + bias - expected)[known].max(initial=0.0)))
        if not worst <= TOLERANCE:
            raise ExportError(
                f"{path.name}: differs from PyTorch by {worst:.2g} in model units for an input of {shape}, expected "
                f"at most {TOLERANCE:g}; nothing was exported. Use --no-onnx, and report the network."
            )
    return worst


def _cuts(windows: Windows, least: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield parts of the windows in several sizes, the second one with a hole; small windows are repeated."""
    for batch, height, width in ((1, least, least), (2, least + 5, 2 * least + 3), (3, 2 * least + 1, least + 2)):
        parts = []
        for part in (windows.values, windows.valid):
            for axis, length in ((0, batch), (2, height), (3, width)):
                part = part.index_select(axis, torch.arange(length) % part.shape[axis])
            parts.append(part)
        values, valid = parts
        if batch == 2:
            valid[:, :, height // 3 : height // 2, : width // 2] = 0
        yield values * valid, valid
