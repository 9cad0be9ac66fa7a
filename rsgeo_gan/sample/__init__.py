"""The embedded scene pair: procedural optical and radar scenes of one landscape, with known displacement."""

from __future__ import annotations

from rsgeo_gan.sample.landscape import Cover
from rsgeo_gan.sample.pan import PAN_SENSOR, PAN_SHIFT_PX, make_pan
from rsgeo_gan.sample.scenes import make

__all__ = ["PAN_SENSOR", "PAN_SHIFT_PX", "Cover", "make", "make_pan"]
