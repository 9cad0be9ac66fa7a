"""Writes a trained model for others: safetensors, ONNX, a STAC item and a card, in one folder without pickle."""

from __future__ import annotations

from rsgeo_gan.export.folder import Exported, export

__all__ = ["Exported", "export"]
