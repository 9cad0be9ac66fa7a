"""What a C-band radar sees of the landscape: γ⁰ in linear power by cover, moisture, furrows and local incidence."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from rsgeo_gan.sample.landscape import MASTER_M, Cover, Landscape
from rsgeo_gan.sample.noise import FloatArray
from rsgeo_gan.sample.optical import GREEN_SHARE, crop_state

__all__ = ["INCIDENCE_DEG", "LEVELS_DB", "LOOK_AZIMUTH_DEG", "gamma0", "speckle"]

INCIDENCE_DEG = 39.0
LOOK_AZIMUTH_DEG = 281.0
"""Direction in which the radar looks: a descending orbit looks to its right, westward."""

LEVELS_DB: dict[Cover, tuple[float, float]] = {
    Cover.WATER: (-20.0, -27.0),
    Cover.BROADLEAF: (-9.3, -14.7),
    Cover.CONIFER: (-8.7, -14.3),
    Cover.GRASS: (-12.6, -18.8),
    Cover.CEREAL: (-14.6, -20.4),
    Cover.MAIZE: (-11.3, -18.8),
    Cover.RAPESEED: (-9.9, -15.2),
    Cover.BARE: (-11.3, -20.3),
    Cover.ROAD: (-16.0, -23.0),
    Cover.TRACK: (-13.2, -20.2),
    Cover.GARDEN: (-9.6, -16.0),
    Cover.BUILDING: (-6.5, -13.5),
    Cover.HALL: (-10.5, -19.0),
}
"""Levels of VV and VH on flat, moderately moist ground, dB; bare soil seen along its furrows."""


def gamma0(land: Landscape, day_of_year: int) -> FloatArray:
    """Render speckle-free γ⁰ on the master grid.

    Fields brighten with soil moisture where no canopy hides it, and where the furrows run across the look
    direction. Walls that face the radar answer with a bright double bounce in front of them, walls along the
    look direction hardly do; behind buildings and forest edges lies shadow. Slopes towards the radar are
    brighter: a part of the relief remains, as after an imperfect terrain flattening.

    Args:
        land: The landscape.
        day_of_year: Season, 1..366.

    Returns:
        VV and VH in linear power, shape (2, H, W), float32, positive.
    """
    cover = land.cover
    level = np.zeros((2, 256), np.float32)
    soil_share = np.zeros(256, np.float32)
    for kind, values in LEVELS_DB.items():
        level[:, kind] = values
    for kind in GREEN_SHARE:
        soil_share[kind] = 1 - crop_state(kind, day_of_year)[0]
    if day_of_year > 180:
        level[:, Cover.MAIZE] += (1.0, 2.2)
        level[:, Cover.CEREAL] += (1.6, 0.6)
        level[:, Cover.RAPESEED] += (-1.5, -2.0)
    soil_share[Cover.GRASS] = 0.35
    decibel = np.stack([level[0][cover], level[1][cover]])

    own, soil = land.parcel - 0.5, soil_share[cover]
    look = np.deg2rad(LOOK_AZIMUTH_DEG)
    # Furrow direction is counted from east towards south, azimuth from north towards east.
    facing = np.abs(np.sin(land.furrow - (look - np.pi / 2)))
    moist = 6.0 * (land.wetness - 0.45)
    fields = (cover >= Cover.GRASS) & (cover <= Cover.BARE)
    decibel[0] += np.where(fields, soil * (moist + 3.2 * facing**8) + 1.6 * own, 0)
    decibel[1] += np.where(fields, soil * (0.6 * moist + 0.8 * facing**8) + 1.6 * own, 0)
    forest = (cover == Cover.BROADLEAF) | (cover == Cover.CONIFER)
    water = cover == Cover.WATER
    rough = np.where(forest, 0.7, np.where(fields, 0.35, np.where(water, 0.25, 0.8))).astype(np.float32)
    decibel += rough * land.texture
    decibel[:, water] += 1.2 * np.clip(land.shore_m[water] / 160, 0, 1) * (land.wetness[water] - 0.3) * 3

    decibel += np.where(water, 0, _relief_db(land.height_m, look))
    _walls(decibel, land, look, facing)
    power: FloatArray = np.power(np.float32(10), np.clip(decibel, -30, 6) / np.float32(10)).astype(np.float32)
    return power


def _relief_db(height_m: FloatArray, look: float) -> FloatArray:
    """Brightness left by the relief, dB, from the local incidence angle in the plane of incidence."""
    south, east = np.gradient(ndimage.gaussian_filter(height_m, 1.5), MASTER_M)
    # The look vector is (sin, cos) of the azimuth in east and north; ground rising along it faces the radar.
    rise = east * np.sin(look) - south * np.cos(look)
    local = np.rad2deg(np.arctan(rise))
    incidence = np.clip(INCIDENCE_DEG - local, 8, 86)
    gain = 10 * np.log10(np.tan(np.deg2rad(INCIDENCE_DEG)) / np.tan(np.deg2rad(incidence)))
    return np.clip(0.4 * gain, -3, 3).astype(np.float32)


def _walls(decibel: FloatArray, land: Landscape, look: float, facing: FloatArray) -> None:
    """Add double bounce in front of walls and forest edges, and shadow behind them, in place."""
    step = (-np.cos(look), np.sin(look))  # rows, columns of one pixel along the look direction
    building = np.isin(land.cover, (Cover.BUILDING, Cover.HALL))
    forest = np.isin(land.cover, (Cover.BROADLEAF, Cover.CONIFER))

    def moved(mask: np.ndarray, pixels: float) -> np.ndarray:
        shift = (round(step[0] * pixels), round(step[1] * pixels))
        return np.asarray(np.roll(mask, shift, axis=(0, 1)))

    front = moved(building, -1) & ~building | building & ~moved(building, 1)
    behind = moved(building, 2) & ~building & ~front
    # The two pairs of walls of a block: the one closer to facing the radar answers.
    square = np.maximum(facing, np.sqrt(np.clip(1 - facing**2, 0, 1)))
    aligned = ((square - 0.7071) / 0.2929) ** 2
    gain = 6.0 * aligned + 6.0 * (land.parcel - 0.5)
    hall = moved(land.cover == Cover.HALL, -1) | moved(land.cover == Cover.HALL, -2)
    base = np.where(hall, 1.5, -3.0)
    near_gain = np.maximum(gain, moved(gain, -1))
    for band, offset in enumerate((0.0, -7.0)):
        bright = np.clip(base + near_gain + offset, -20, 9 + offset)
        decibel[band] = np.where(front, np.maximum(bright, decibel[band]), decibel[band])
        decibel[band] -= np.where(behind, 4.0, 0)
        edge = moved(forest, -2) & ~forest & ~building
        shadow = (moved(forest, 2) | moved(forest, 4)) & ~forest & ~front
        decibel[band] += np.where(edge, 2.0, 0) - np.where(shadow, 3.2, 0)


def speckle(shape: tuple[int, ...], looks: float, rng: np.random.Generator) -> FloatArray:
    """Draw multiplicative speckle of multi-looked intensity: gamma distributed, mean 1, variance 1/looks.

    Args:
        shape: Shape wanted; every sample is independent.
        looks: Number of looks, > 0.
        rng: Source of randomness.

    Returns:
        float32 factors.
    """
    drawn: FloatArray = rng.standard_gamma(looks, shape, dtype=np.float32)
    return drawn / np.float32(looks)
