"""A sharper panchromatic image of the invented landscape, of another day and not quite in its place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from rsgeo_gan import raster
from rsgeo_gan.errors import CatalogError
from rsgeo_gan.sample import geometry, optical
from rsgeo_gan.sample.landscape import MASTER_M, build_landscape

__all__ = ["PAN_SENSOR", "PAN_SHIFT_PX", "make_pan"]

PAN_SENSOR: dict[str, Any] = {
    "name": "sample-pan",
    "modality": "optical",
    "unit": "dn",
    "bands": ["pan"],
    "gsd_m": MASTER_M,
    "scale": 1e-4,
    "nodata": 0,
}
"""Facts of the invented camera, as catalogues state them."""

PAN_SHIFT_PX = (2.5, -1.5)
"""Where its content lies relative to the optical scenes, pixels of theirs: right and down; whole pixels of its own."""

FIRST_DAY = datetime(2024, 5, 12, 9, 32, tzinfo=UTC)
_SENSITIVITY = (0.25, 0.35, 0.35, 0.05)
_BLUR_PX = 0.5
_NOISE = (0.0006, 0.004)
_VERSION = 1


def make_pan(out: Path, *, size_px: int = 1024, seed: int = 7, days: int = 36) -> Path:
    """Make the panchromatic image: 5 m, the whole of the optical scene, without clouds, DN = 10000 reflectance.

    Ground at the optical scene's pixel p appears at p + `PAN_SHIFT_PX` in it. What is there already is left alone.

    Args:
        out: Folder; created.
        size_px: Side of the optical scene, its pixels.
        seed: Which landscape.
        days: Days after the first optical scene; crops follow the season.

    Returns:
        The raster.

    Raises:
        CatalogError: If an argument is out of its range.
        ProductError: If the folder cannot be written.
    """
    if size_px < 64 or days < 0:
        raise CatalogError(
            f"Sample pan image in {out}: size_px is {size_px} and days {days}, expected at least 64 and 0."
        )
    when = FIRST_DAY + timedelta(days=days)
    path = Path(out) / f"sample-pan-{when:%Y%m%dT%H%M%S}.tif"
    recipe = f"version {_VERSION}, size_px {size_px}, seed {seed}, days {days}"
    if path.is_file() and raster.inspect(path).tags.get("RSGEO_SAMPLE") == recipe:
        return path
    margin_m = 2 * geometry.OPTICAL_M * round(10 + 0.01 * size_px)  # That of the optical scenes, so the same land.
    land = build_landscape(size_px * geometry.OPTICAL_M, margin_m, seed)
    bands = optical.ground_reflectance(land, when.timetuple().tm_yday)
    ground = ndimage.gaussian_filter(np.tensordot(_SENSITIVITY, bands, axes=1).astype(np.float32), _BLUR_PX)
    box = geometry.optical_box(size_px, MASTER_M)
    across, down = (round(shift * geometry.OPTICAL_M / MASTER_M) for shift in PAN_SHIFT_PX)
    start, side = round(margin_m / MASTER_M), box.shape.x
    image = ground[start - down : start - down + side, start - across : start - across + side]
    rng = np.random.default_rng([seed, 6, days])
    image = image + rng.standard_normal(image.shape, dtype=np.float32) * (_NOISE[0] + _NOISE[1] * image)
    dn = np.clip(np.round(image * 10_000), 1, 65535).astype(np.uint16)
    return raster.write(path, dn, box, nodata=0, names=("pan",), scale=1e-4, tags={"RSGEO_SAMPLE": recipe})
