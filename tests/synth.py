"""Tiny georeferenced tiles with known answers, written as the tile stage writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.manifest import Manifest, make_item

__all__ = ["CRS", "RES", "ULX", "ULY", "ramp", "speckled", "write_tiles"]

RES = 10.0
ULX, ULY = 500_000.0, 4_999_910.0
CRS = "EPSG:32632"

Values = Callable[[int, int, int], np.ndarray]


def ramp(bands: int = 2, start: int = 1) -> Values:
    """Make DN that name their own place: band b, column c, row r of the whole area is start + b + 3c + 7r."""

    def values(col: int, row: int, size: int) -> np.ndarray:
        r, c = np.mgrid[row : row + size, col : col + size]
        return np.stack([start + b + 3 * c + 7 * r for b in range(bands)]).astype(np.uint16)

    return values


def speckled(bands: int = 2, low: float = -20.0, high: float = -5.0, seed: int = 0) -> Values:
    """Make dB values between two limits; stripes with noise, the same for a place at every call."""

    def values(col: int, row: int, size: int) -> np.ndarray:
        rng = np.random.default_rng([seed, col, row])
        r, c = np.mgrid[row : row + size, col : col + size]
        base = 0.5 + 0.3 * np.sin(c / 7.0) + 0.2 * np.cos(r / 5.0)
        noise = rng.uniform(-0.05, 0.05, (bands, size, size))
        return (low + (high - low) * np.clip(base[None] + noise, 0, 1)).astype(np.float32)

    return values


def write_tiles(
    folder: Path,
    *,
    cells: tuple[int, int] = (3, 2),
    size: int = 32,
    source: Values | None = None,
    target: Values | None = None,
    splits: Sequence[str] = ("train",),
    usable: tuple[int, int, int, int] | None = None,
    hole: Mapping[int, np.ndarray] | None = None,
    pairs: Sequence[str] = ("pair-a",),
    scale: int = 1,
    properties: Mapping[int, Mapping[str, Any]] | None = None,
) -> Path:
    """Write the tiles of a small area and their manifest.

    Args:
        folder: Run folder; tiles go to `folder/tiles`.
        cells: Columns and rows of tiles.
        size: Side of a tile, pixels.
        source: Raw source values of a window, uint16, DN of reflectance x 10000; the ramp by default.
        target: Raw target values of a window, float32 dB.
        splits: Split by tile, repeated as needed; tiles run along rows.
        usable: Usable part of every tile, left, top, width, height; all by default.
        hole: Pixels without source data by tile number, bool (size, size).
        pairs: Pairs, each of which gets all tiles.
        scale: Target pixels per source pixel along one axis.
        properties: Changes to the properties of single tiles, by number.

    Returns:
        The folder of the tiles.
    """
    source, target = source or ramp(), target or speckled()
    manifest = Manifest(folder / "tiles" / "tiles.json")
    number = 0
    for turn, pair in enumerate(pairs):
        for row in range(cells[1]):
            for col in range(cells[0]):
                name = f"{pair}-{col}-{row}"
                here = folder / "tiles" / name
                box = GeoBox((size, size), Affine(RES, 0, ULX + col * size * RES, 0, -RES, ULY - row * size * RES), CRS)
                valid = np.ones((size, size), bool)
                if hole and number in hole:
                    valid &= ~hole[number]
                dn = source(col * size, row * size, size)
                raster.write(
                    here / "source.tif", np.where(valid, dn, 0).astype(dn.dtype), box, valid=valid, nodata=0,
                    names=[f"B{k + 2:02d}" for k in range(len(dn))], unit="reflectance", scale=1e-4, offset=-0.1,
                    cog=False,
                )  # fmt: skip
                db = target(col * size * scale, row * size * scale, size * scale)
                raster.write(
                    here / "target.tif", db, box.zoom_to((size * scale, size * scale)), nodata=float("nan"),
                    valid=np.isfinite(db).all(axis=0), names=["VV", "VH", "HV"][: len(db)], unit="dB", cog=False,
                )  # fmt: skip
                facts = {
                    "rsgeo:pair": pair,
                    "rsgeo:source_item": f"{pair}-s2",
                    "rsgeo:target_item": f"{pair}-s1",
                    "rsgeo:source_sensor": "sentinel2-l2a",
                    "rsgeo:target_sensor": "sentinel1-rtc",
                    "rsgeo:index": [col, row],
                    "rsgeo:split": splits[number % len(splits)],
                    "rsgeo:usable": list(usable or (0, 0, size, size)),
                    "rsgeo:valid_share": float(valid.mean()),
                    "rsgeo:residual_px": 0.25,
                    "rsgeo:confidence": 0.75,
                    **((properties or {}).get(number) or {}),
                }
                manifest.add(
                    make_item(
                        name,
                        box,
                        when=datetime(2024, 6, 1 + turn, 10, tzinfo=UTC),
                        properties=facts,
                        assets={side: here / f"{side}.tif" for side in ("source", "target")},
                    )
                )
                number += 1
    manifest.save()
    return manifest.path.parent
