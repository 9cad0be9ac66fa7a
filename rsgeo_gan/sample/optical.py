"""What an optical sensor sees of the landscape: surface reflectance by season and sun, clouds and shadows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rsgeo_gan.sample.landscape import MASTER_M, Cover, Landscape
from rsgeo_gan.sample.noise import FloatArray, fractal

__all__ = ["CLOUD", "CLOUD_SHADOW", "clouds", "ground_reflectance", "scene_classes"]

SUN_AZIMUTH_DEG, SUN_ELEVATION_DEG = 152.0, 56.0
CLOUD, CLOUD_SHADOW = 9, 3
"""Scene classification (SCL) values of Sentinel-2 for certain cloud and for cloud shadow."""

# Blue, green, red, near infrared (B02, B03, B04, B08), surface reflectance.
SOIL = (0.062, 0.092, 0.128, 0.205)
CANOPY = (0.026, 0.062, 0.030, 0.430)
COLOURS: dict[Cover, tuple[float, float, float, float]] = {
    Cover.BROADLEAF: (0.022, 0.054, 0.027, 0.375),
    Cover.CONIFER: (0.017, 0.035, 0.021, 0.215),
    Cover.GRASS: (0.033, 0.078, 0.042, 0.395),
    Cover.ROAD: (0.092, 0.102, 0.108, 0.142),
    Cover.TRACK: (0.100, 0.132, 0.165, 0.250),
    Cover.GARDEN: (0.042, 0.070, 0.054, 0.295),
    Cover.BUILDING: (0.080, 0.088, 0.140, 0.200),
    Cover.HALL: (0.250, 0.262, 0.272, 0.300),
}
LAKE_COLOUR, RIVER_COLOUR = (0.024, 0.034, 0.016, 0.008), (0.050, 0.070, 0.052, 0.026)
RIPE: dict[Cover, tuple[float, float, float, float]] = {
    Cover.CEREAL: (0.068, 0.118, 0.165, 0.300),
    Cover.RAPESEED: (0.055, 0.150, 0.142, 0.420),
    Cover.MAIZE: (0.060, 0.095, 0.105, 0.290),
}
SEASON_DAYS = (60, 105, 135, 170, 205, 240, 290)
GREEN_SHARE: dict[Cover, tuple[float, ...]] = {
    Cover.CEREAL: (0.30, 0.75, 0.95, 0.85, 0.20, 0.05, 0.25),
    Cover.RAPESEED: (0.45, 0.85, 0.95, 0.90, 0.35, 0.10, 0.50),
    Cover.MAIZE: (0.02, 0.02, 0.07, 0.55, 0.95, 0.95, 0.20),
    Cover.BARE: (0.03, 0.03, 0.10, 0.30, 0.60, 0.50, 0.05),
}
RIPE_SHARE: dict[Cover, tuple[float, ...]] = {
    Cover.CEREAL: (0.0, 0.0, 0.02, 0.30, 0.95, 0.30, 0.0),
    Cover.RAPESEED: (0.0, 0.30, 0.85, 0.05, 0.10, 0.10, 0.0),
    Cover.MAIZE: (0.0, 0.0, 0.0, 0.0, 0.0, 0.10, 0.6),
}


def crop_state(cover: Cover, day_of_year: int) -> tuple[float, float]:
    """Return the shares of green canopy and of its flowering or ripe part, both 0..1."""
    green = float(np.interp(day_of_year, SEASON_DAYS, GREEN_SHARE[cover]))
    ripe = float(np.interp(day_of_year, SEASON_DAYS, RIPE_SHARE.get(cover, (0.0,) * len(SEASON_DAYS))))
    return green, ripe


def ground_reflectance(land: Landscape, day_of_year: int) -> FloatArray:
    """Render cloudless surface reflectance on the master grid.

    Args:
        land: The landscape.
        day_of_year: Season, 1..366.

    Returns:
        Reflectance of blue, green, red, near infrared, shape (4, H, W), float32.
    """
    cover = land.cover
    image = np.empty((4, *cover.shape), np.float32)
    own = land.parcel - 0.5
    soil_dark = (1.28 - 0.62 * land.wetness).astype(np.float32)
    rows = np.sin(2 * np.pi * land.across_m / 36).astype(np.float32)
    for kind in Cover:
        here = cover == kind
        if not here.any():
            continue
        if kind == Cover.WATER:
            lake = np.clip((land.shore_m[here] - 40) / 90, 0, 1)
            for band in range(4):
                image[band][here] = RIVER_COLOUR[band] + lake * (LAKE_COLOUR[band] - RIVER_COLOUR[band])
            continue
        vigour = 1 + 0.10 * land.texture[here] * (0.55 if kind >= Cover.GRASS else 1.3)
        if kind in GREEN_SHARE:
            green, ripe = crop_state(kind, day_of_year)
            stand = np.clip(green + 0.45 * own[here] * (0.15 + green * (1 - green) * 3), 0, 1)
            stand = np.clip(stand * (1 + 0.07 * land.texture[here] + 0.05 * rows[here]), 0, 1)
            ripe_colour = RIPE.get(kind, CANOPY)
            for band in range(4):
                canopy = CANOPY[band] * (1 - ripe) + ripe_colour[band] * ripe
                soil = SOIL[band] * soil_dark[here] * (1 + 0.05 * land.texture[here])
                image[band][here] = soil + stand * (canopy - soil)
            continue
        tint = 1 + own[here] * (0.9 if kind >= Cover.GARDEN else 0.35)
        for band in range(4):
            # Mown grass loses near infrared and gains red.
            mown = {2: -0.5, 3: 0.4}.get(band, 0.0) * own[here] if kind == Cover.GRASS else 0.0
            image[band][here] = COLOURS[kind][band] * tint * vigour * (1 + mown)
    grey_roof = (cover == Cover.BUILDING) & (land.parcel > 0.62)
    for band, value in enumerate((0.105, 0.112, 0.120, 0.150)):
        image[band][grey_roof] = value * (0.7 + land.parcel[grey_roof] * 0.5)
    image *= _sunlight(land)
    return np.clip(image, 0.001, 1.2)


def _sunlight(land: Landscape) -> FloatArray:
    """Illumination relative to flat ground: direct part by the cosine of the angle to the sun, rest diffuse."""
    south, east = np.gradient(land.height_m, MASTER_M)
    azimuth, elevation = np.deg2rad(SUN_AZIMUTH_DEG), np.deg2rad(SUN_ELEVATION_DEG)
    towards_sun = east * np.sin(azimuth) - south * np.cos(azimuth)
    cosine = (np.sin(elevation) - np.cos(elevation) * towards_sun) / np.sqrt(1 + east**2 + south**2)
    relative = np.clip(cosine, 0.02, None) / np.sin(elevation)
    # Forests and hedges throw shadows of their own height.
    tall = np.isin(land.cover, (Cover.BROADLEAF, Cover.CONIFER)) * np.float32(20)
    tall = np.where((land.cover == Cover.BUILDING) | (land.cover == Cover.HALL), np.float32(9), tall)
    length = MASTER_M * 2 * np.tan(elevation)
    shift = (-2 * np.cos(azimuth) * -1, -2 * np.sin(azimuth))
    thrown = ndimage.shift(tall, shift, order=1, mode="nearest") - length
    shaded = np.clip((thrown - tall) / 10, 0, 1)
    light: FloatArray = ((0.22 + 0.78 * relative) * (1 - 0.45 * shaded)).astype(np.float32)
    return light


def clouds(shape: tuple[int, int], pixel_m: float, seed: int, *, share: float) -> tuple[FloatArray, FloatArray]:
    """Draw small cumulus clouds and the shadows they throw.

    Args:
        shape: Rows and columns of the optical scene.
        pixel_m: Its pixel size, metres.
        seed: Which clouds.
        share: Part of the scene under clouds, 0..1.

    Returns:
        Opacity of clouds and darkness of shadows, both float32 in 0..1.
    """
    if share <= 0:
        nothing = np.zeros(shape, np.float32)
        return nothing, nothing.copy()
    rng = np.random.default_rng([seed, 2])
    field = fractal(shape, pixel_m, rng, longest_m=2600, shortest_m=110, slope=2.6)
    threshold = float(np.quantile(field, 1 - share))
    opacity = np.clip((field - threshold) / 0.5, 0, 1).astype(np.float32)
    base_m = 900.0
    away = base_m / np.tan(np.deg2rad(SUN_ELEVATION_DEG)) / pixel_m
    azimuth = np.deg2rad(SUN_AZIMUTH_DEG)
    shift = (away * np.cos(azimuth), -away * np.sin(azimuth))
    shadow = ndimage.shift(opacity, (shift[0], shift[1]), order=1, mode="constant")
    return opacity, (shadow * (1 - opacity)).astype(np.float32)


def scene_classes(
    cover: NDArray[np.uint8], opacity: FloatArray, shadow: FloatArray, day_of_year: int
) -> NDArray[np.uint8]:
    """Make a scene classification with Sentinel-2's codes.

    Args:
        cover: Land cover at the pixel size wanted, values of `Cover`.
        opacity: Cloud opacity at the same pixels, 0..1.
        shadow: Shadow darkness at the same pixels, 0..1.
        day_of_year: Season; decides which fields count as bare.

    Returns:
        uint8: 3 cloud shadow, 4 vegetation, 5 bare, 6 water, 8 and 9 cloud of medium and high probability.
    """
    table = np.full(256, 4, np.uint8)
    table[[Cover.ROAD, Cover.TRACK, Cover.BUILDING, Cover.HALL]] = 5
    for kind in GREEN_SHARE:
        if crop_state(kind, day_of_year)[0] < 0.3:
            table[kind] = 5
    table[Cover.WATER] = 6
    classes = table[cover]
    near_shadow = ndimage.maximum_filter(shadow, 3)
    near_cloud = ndimage.maximum_filter(opacity, 5)
    classes[near_shadow > 0.08] = CLOUD_SHADOW
    classes[near_cloud > 0.0] = 8
    classes[opacity > 0.6] = CLOUD
    return classes
