"""Writes the model card: what a person should know before using an exported model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from jinja2 import Environment, StrictUndefined

import rsgeo_gan
from rsgeo_gan.export import deepness
from rsgeo_gan.export.evidence import Evidence
from rsgeo_gan.export.graph import min_size_px
from rsgeo_gan.export.physical import StoredValues
from rsgeo_gan.inference import Translator
from rsgeo_gan.inference.checkpoints import Stored

__all__ = ["card"]


def card(
    name: str,
    stored: Stored,
    translators: Sequence[Translator],
    inputs: Sequence[StoredValues],
    evidence: Evidence,
    cuts: Sequence[deepness.Tiling],
    origin: str,
    difference: float,
) -> str:
    """Write the card.

    Args:
        name: Name of the model.
        stored: The checkpoint.
        translators: Exported generators.
        inputs: What each of them reads.
        evidence: What is known about the training.
        cuts: How each of them is cut in QGIS; empty without ONNX.
        origin: Where the frozen normalisation comes from; empty without ONNX.
        difference: Largest difference between ONNX and PyTorch.

    Returns:
        Markdown.
    """
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = (resources.files("rsgeo_gan") / "templates" / "model-card.md.j2").read_text(encoding="utf-8")
    generators = [
        {
            "direction": translator.direction,
            "network": type(translator.generator).__name__,
            "millions": sum(p.numel() for p in translator.generator.parameters()) / 1e6,
            "reads": read.sentence(),
            "source": translator.source_scaler,
            "target": translator.target_scaler,
            "halo_px": translator.halo_px,
            "stride_px": translator.stride,
            "least_px": min_size_px(translator),
            "noise": translator.noise_channels,
            "layers": deepness.names(translator),
        }
        for translator, read in zip(translators, inputs, strict=True)
    ]
    return environment.from_string(text).render(
        name=name,
        task=stored.task.rpartition(".")[2],
        version=rsgeo_gan.__version__,
        facts=stored.facts,
        digest=stored.digest,
        evidence=evidence,
        generators=generators,
        cuts=cuts,
        origin=origin,
        difference=difference,
        noisy=any(generator["noise"] for generator in generators),
    )
