"""Where SAR content really lies relative to the optical scene: measured, judged, refused when unknown.

`register` compares two rasters and returns a `Displacement`; `coregister` pairs scenes and does so for each
pair. Nothing here moves a pixel: the displacement is applied together with reprojection, in one warp.
"""

from __future__ import annotations

from rsgeo_gan.coregister.features import METHODS
from rsgeo_gan.coregister.registration import register
from rsgeo_gan.coregister.stage import coregister

__all__ = ["METHODS", "coregister", "register"]
