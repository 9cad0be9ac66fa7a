"""Describes an exported model as a STAC item of the Machine Learning Model extension.

Reference: stac-extensions/mlm, v1.4.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import torch
from shapely.geometry import shape

import rsgeo_gan
from rsgeo_gan.export.evidence import Evidence
from rsgeo_gan.export.physical import StoredValues
from rsgeo_gan.inference import Translator
from rsgeo_gan.inference.checkpoints import Stored

__all__ = ["EO", "MLM", "model_item"]

MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
"""The newest version that pystac reads as an extension."""
EO = "https://stac-extensions.github.io/eo/v1.1.0/schema.json"
"""Gives the item its `eo:bands`, which the bands of inputs and outputs refer to."""

_FREE = -1
"""Size of an axis of any length."""

_ROLES: dict[str, tuple[list[str], dict[str, str], str]] = {
    ".safetensors": (
        ["mlm:model", "mlm:weights"],
        {"mlm:artifact_type": "safetensors.torch.save_file"},
        "application/octet-stream",
    ),
    ".onnx": (["mlm:model", "mlm:compiled"], {"mlm:artifact_type": "torch.onnx.export"}, "application/octet-stream"),
    ".json": (["metadata"], {}, "application/json"),
    ".yaml": (["metadata", "mlm:hyperparameters"], {}, "application/yaml"),
    ".md": (["metadata", "overview"], {}, "text/markdown"),
}


def model_item(
    name: str,
    stored: Stored,
    translators: Sequence[Translator],
    inputs: Sequence[StoredValues],
    evidence: Evidence,
    files: Mapping[str, str],
) -> dict[str, Any]:
    """Describe a model.

    Args:
        name: Id of the item: a letter, then letters, digits and `_.-`.
        stored: The checkpoint.
        translators: Exported generators.
        inputs: What each of them reads.
        evidence: What is known about the training.
        files: Titles of the folder's files by name.

    Returns:
        The item as plain JSON types; footprint and period are those of the training tiles where these are known.
    """
    networks = [type(translator.generator).__name__ for translator in translators]
    parameters = sum(p.numel() for translator in translators for p in translator.generator.parameters())
    start, end = evidence.period or (None, None)
    properties: dict[str, Any] = {
        "description": f"Translates between {stored.facts.source.sensor} and {stored.facts.target.sensor}; every "
        "output is synthetic and no measurement. Trained with rsgeo-gan.",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "gsd": stored.facts.gsd,
        "mlm:name": name,
        "mlm:architecture": " and ".join(dict.fromkeys(networks)),
        "mlm:tasks": ["generative"],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": torch.__version__.partition("+")[0],
        "mlm:total_parameters": parameters,
        "mlm:memory_size": 4 * parameters,
        "mlm:pretrained": True,
        "mlm:pretrained_source": f"tiles {', '.join(evidence.scenes) or 'of ' + stored.facts.recipe}",
        "mlm:batch_size_suggestion": 1,
        "mlm:input": [_input(*pair) for pair in zip(translators, inputs, strict=True)],
        "mlm:output": [_output(translator) for translator in translators],
        "mlm:hyperparameters": {
            "task": stored.task,
            "recipe": stored.facts.recipe,
            "radius_px": stored.facts.radius_px,
            "checkpoint_sha256": stored.digest,
            "halo_px": {translator.direction: translator.halo_px for translator in translators},
            "normalisation": {
                side: {
                    "bands": list(scaler.bands),
                    "low": list(scaler.low),
                    "high": list(scaler.high),
                    "unit": scaler.unit,
                }
                for side in ("source", "target")
                for scaler in [stored.facts.scaler(side)]
            },
        },
        "eo:bands": [
            {"name": band, "description": f"{scaler.sensor}, {scaler.unit}"}
            for scaler in (stored.facts.source, stored.facts.target)
            for band in scaler.bands
        ],
        "rsgeo:synthetic": True,
        "rsgeo:version": rsgeo_gan.__version__,
    }
    item = pystac.Item(
        id=name,
        geometry=dict(evidence.geometry) if evidence.geometry else None,
        bbox=list(shape(evidence.geometry).bounds) if evidence.geometry else None,
        datetime=None if start else datetime.now(UTC),
        start_datetime=start,
        end_datetime=end,
        properties=properties,
        stac_extensions=[MLM, EO],
    )
    for file, title in files.items():
        roles, fields, media_type = _ROLES[Path(file).suffix]
        item.add_asset(file, pystac.Asset(f"./{file}", title, media_type=media_type, roles=roles, extra_fields=fields))
    return item.to_dict(include_self_link=False, transform_hrefs=False)


def _input(translator: Translator, stored: StoredValues) -> dict[str, Any]:
    scaler = translator.source_scaler
    return {
        "name": translator.direction,
        "description": f"ONNX: {stored.sentence()}, scaled inside. Safetensors: model units, where -1 and 1 are the "
        "ends of `normalisation`.",
        "bands": list(scaler.bands),
        "input": _axes(len(scaler.bands)),
        "value_scaling": None,
        "resize_type": None,
        "pre_processing_function": None,
    }


def _output(translator: Translator) -> dict[str, Any]:
    scaler = translator.target_scaler
    return {
        "name": translator.direction,
        "description": f"Synthetic {scaler.sensor}, {scaler.unit}; NaN where the input is nodata.",
        "tasks": ["generative"],
        "bands": list(scaler.bands),
        "result": _axes(len(scaler.bands)),
    }


def _axes(bands: int) -> dict[str, Any]:
    return {
        "shape": [_FREE, bands, _FREE, _FREE],
        "dim_order": ["batch", "bands", "height", "width"],
        "data_type": "float32",
    }
