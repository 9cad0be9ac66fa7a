"""A made-up landscape that can be photographed on any grid, displaced by a known amount."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from scipy import ndimage

from rsgeo_gan import raster
from rsgeo_gan.sensors import Sensor

CRS = "EPSG:32633"
WEST, NORTH, SIDE_M = 500_000.0, 5_500_000.0, 8_000.0
OPTICAL = Sensor.generic("eye", modality="optical", unit="dn", bands=["red"], scale=1e-4, nodata=0)
SAR = Sensor.generic("radar", modality="sar", unit="linear", bands=["VV"])
SAR_DB = Sensor.generic("radar-db", modality="sar", unit="dB", bands=["VV"])


def texture(seed: int, size: int = 800) -> NDArray[np.float32]:
    """Blobs, fields with sharp borders and fine grain, between 0 and 1, 10 m a pixel."""
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.normal(size=(size, size)), 3.0)
    fields = ndimage.gaussian_filter(rng.normal(size=(size, size)), 9.0) > 0
    image = blobs / blobs.std() + 2.0 * ndimage.gaussian_filter(fields.astype(float), 0.7)
    low, high = image.min(), image.max()
    return ((image - low) / (high - low)).astype(np.float32)


@dataclass(frozen=True)
class World:
    """Brightness between 0 and 1 as a function of place in EPSG:32633."""

    image: NDArray[np.float32]

    def on(self, box: GeoBox, shift_m: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
        """Photograph the landscape; its content is displaced by `shift_m` metres east and north."""
        height, width = box.shape
        col, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        a = box.affine
        x, y = a.a * col + a.b * row + a.c, a.d * col + a.e * row + a.f
        if box.crs != CRS:
            x, y = Transformer.from_crs(str(box.crs), CRS, always_xy=True).transform(x, y)
        at_col, at_row = (x - shift_m[0] - WEST) / 10.0 - 0.5, (NORTH - y + shift_m[1]) / 10.0 - 0.5
        return ndimage.map_coordinates(self.image, [at_row, at_col], order=3, mode="reflect")


def north_up(size: tuple[int, int] = (320, 320), gsd: tuple[float, float] = (10.0, 10.0), at: float = 2000.0) -> GeoBox:
    """A box of rows x columns in the landscape's CRS."""
    return GeoBox(size, Affine(gsd[0], 0, WEST + at, 0, -gsd[1], NORTH - at), CRS)


def metres(box: GeoBox, shift_px: tuple[float, float]) -> tuple[float, float]:
    """A displacement in pixels of a box, in metres east and north."""
    a = box.affine
    return a.a * shift_px[0] + a.b * shift_px[1], a.d * shift_px[0] + a.e * shift_px[1]


def optical(path: Path, brightness: NDArray[np.float64], box: GeoBox) -> Path:
    """Write an optical scene, uint16 with nodata 0."""
    dn = (500 + 3000 * brightness.clip(0, 1)).astype(np.uint16)
    return raster.write(path, dn, box, nodata=0, cog=False)


def power(brightness: NDArray[np.float64], looks: int, seed: int) -> NDArray[np.float32]:
    """Backscatter of the same ground: contrast turned round, speckled."""
    rng = np.random.default_rng(seed)
    speckle = rng.gamma(looks, 1.0 / looks, brightness.shape)
    return (0.02 * 10.0 ** (1.2 * (1.0 - brightness.clip(0, 1))) * speckle).astype(np.float32)


def radar(
    path: Path, brightness: NDArray[np.float64], box: GeoBox, looks: int = 4, seed: int = 1, db: bool = False
) -> Path:
    """Write a SAR scene, float32 with nodata NaN."""
    values = power(brightness, looks, seed)
    return raster.write(path, 10 * np.log10(values) if db else values, box, nodata=float("nan"), cog=False)
