"""Turns checkpoints and scenes into georeferenced products: the only room where tensors become files.

`rsgeo_gan.inference.callbacks`, which `rsgeo-gan predict` uses, is not imported here: it needs Lightning.
"""

from __future__ import annotations

from rsgeo_gan.inference.baseline import untrained
from rsgeo_gan.inference.checkpoints import Facts
from rsgeo_gan.inference.registration import learned_displacement
from rsgeo_gan.inference.scenes import generate
from rsgeo_gan.inference.translator import Translator

__all__ = ["Facts", "Translator", "generate", "learned_displacement", "untrained"]
