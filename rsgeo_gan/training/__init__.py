"""Training as a process of its own: resumed when killed, published by digest, pinned by name.

`import rsgeo_gan.training` stays light; only `rsgeo_gan.training.callbacks`, which runs inside the training
process, imports Lightning.
"""

from __future__ import annotations

from rsgeo_gan.training.pins import Published, publish, read_pin
from rsgeo_gan.training.process import MODES, Mode, train
from rsgeo_gan.training.recipes import find_recipe, read_recipe, recipe_directions

__all__ = [
    "MODES",
    "Mode",
    "Published",
    "find_recipe",
    "publish",
    "read_pin",
    "read_recipe",
    "recipe_directions",
    "train",
]
