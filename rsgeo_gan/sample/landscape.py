"""What the ground is: relief, land cover, parcels and buildings of an invented valley, on a fine master grid.

Coordinates are local: x metres east and y metres south of the upper-left corner of the optical scene. Optical
and radar scenes are both sampled from this one landscape, so they show the same things.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rsgeo_gan.sample.noise import FloatArray, Mosaic, fractal, hashed, mosaic

__all__ = ["MASTER_M", "Cover", "Landscape", "build_landscape"]

MASTER_M = 5.0
"""Pixel size of the master grid, metres."""

BoolArray = NDArray[np.bool_]


class Cover(IntEnum):
    """Land cover; the values of `truth/classes.tif`, where 0 means no data."""

    WATER = 1
    BROADLEAF = 2
    CONIFER = 3
    GRASS = 4
    CEREAL = 5
    MAIZE = 6
    RAPESEED = 7
    BARE = 8
    ROAD = 9
    TRACK = 10
    GARDEN = 11
    BUILDING = 12
    HALL = 13


CROPS = (
    (Cover.GRASS, 0.27),
    (Cover.CEREAL, 0.29),
    (Cover.MAIZE, 0.17),
    (Cover.RAPESEED, 0.12),
    (Cover.BARE, 0.13),
    (Cover.BROADLEAF, 0.02),
)
"""Shares of what grows on parcels; the last ones are small woods."""


@dataclass(frozen=True)
class Landscape:
    """One piece of land on the master grid; all arrays have the same shape.

    Attributes:
        margin_m: How far the master grid reaches beyond the optical scene on each side, metres.
        cover: Land cover, uint8, values of `Cover`.
        height_m: Terrain height, metres.
        parcel: Random number in [0, 1) per parcel or building, constant inside it.
        furrow: Direction of furrows, or of a building's long axis, radians as in `Mosaic`.
        across_m: Distance across the furrows within the parcel's block, metres; the phase of row patterns.
        wetness: Slowly varying soil moisture, 0..1.
        texture: Fine fractal texture, mean 0, standard deviation 1.
        shore_m: Distance from the nearest shore on water, 0 on land, metres.
    """

    margin_m: float
    cover: NDArray[np.uint8]
    height_m: FloatArray
    parcel: FloatArray
    furrow: FloatArray
    across_m: FloatArray
    wetness: FloatArray
    texture: FloatArray
    shore_m: FloatArray


def build_landscape(extent_m: float, margin_m: float, seed: int) -> Landscape:
    """Invent a valley with river, lake, fields, forests, villages and roads.

    Args:
        extent_m: Side of the optical scene, metres.
        margin_m: Land made beyond it on each side, metres, a multiple of `MASTER_M`.
        seed: Which landscape; same arguments, same landscape to the last bit.

    Returns:
        The landscape.
    """
    rng = np.random.default_rng([seed, 1])
    n = round((extent_m + 2 * margin_m) / MASTER_M)
    shape = (n, n)
    axis = ((np.arange(n, dtype=np.float32) + 0.5) * MASTER_M - margin_m).astype(np.float32)
    x, y = (np.ascontiguousarray(a) for a in np.broadcast_arrays(axis[None, :], axis[:, None]))
    size = float(np.clip(extent_m / 10_240, 0.18, 1.5))

    bends = [fractal(shape, MASTER_M, rng, longest_m=2600, shortest_m=250, slope=3.2) for _ in range(2)]
    broad = fractal(shape, MASTER_M, rng, longest_m=4200 * size, shortest_m=300, slope=3.4)
    gullies = fractal(shape, MASTER_M, rng, longest_m=1300, shortest_m=170, slope=3.0)
    patchy = fractal(shape, MASTER_M, rng, longest_m=1500, shortest_m=60, slope=2.4)

    valley = _valley_axis(x, extent_m, size, seed)
    height = _relief(x, y, valley, size, broad, bends[0], gullies)
    steep = np.hypot(*np.gradient(ndimage.gaussian_filter(height, 8), MASTER_M)).astype(np.float32)
    lake, river = _water(x, y, valley, extent_m, size, bends, seed)
    water = lake | river
    height = np.where(water, height - 3, height).astype(np.float32)

    warped_x, warped_y = x + 45 * bends[0], y + 45 * bends[1]
    blocks = mosaic(warped_x, warped_y, 620, seed + 100)
    cover, parcel, furrow, across = _fields(blocks, seed)

    townness = _settlements(x, y, extent_m, size, water | (steep > 0.12), patchy, rng)
    built = townness > 0
    wooded = 4.2 * steep + 0.62 * patchy + 0.2 * (height - 440) / 100 - 0.3 * gullies
    forest = (wooded > 1.3) & ~built
    near_river = ndimage.distance_transform_edt(~river).astype(np.float32) * MASTER_M
    forest |= (near_river < 70 + 45 * patchy) & ~built
    conifer = 1.3 * patchy + 1.1 * gullies + (height - 600) / 120 > 0.4
    cover[(steep > 0.13) & (cover != Cover.BROADLEAF)] = Cover.GRASS
    cover[forest] = np.where(conifer[forest], Cover.CONIFER, Cover.BROADLEAF)

    # Borders of blocks are tracks, some of them roads; only tracks end in forests.
    paved = blocks.border_key < 0.36
    cover[(blocks.border_m < 4.5) & ~paved & ~forest] = Cover.TRACK
    cover[(blocks.border_m < 6.5) & (blocks.border_key < np.where(forest, 0.12, 0.36))] = Cover.ROAD
    _build_up(cover, parcel, furrow, townness, warped_x, warped_y, x, y, seed)
    cover[water] = Cover.WATER
    highway = np.abs(y - valley - 620 * size - 90 * np.sin(x / 1500)) / np.float32(1.05)
    cover[(blocks.border_m < 7) & (blocks.border_key < 0.14) & river] = Cover.ROAD
    cover[(highway < 14) & ~lake] = Cover.ROAD
    cover[(highway < 2.6) & ~lake] = Cover.GRASS

    wetness = 0.45 + 0.16 * patchy + 0.2 * np.exp(-near_river / 500) - 0.6 * steep
    wetness += 0.3 * (hashed(seed + 7, (parcel * 65536).astype(np.int64)) - 0.5)
    shore = ndimage.distance_transform_edt(cover == Cover.WATER).astype(np.float32) * MASTER_M
    return Landscape(
        margin_m=margin_m,
        cover=cover,
        height_m=height,
        parcel=parcel,
        furrow=furrow,
        across_m=across,
        wetness=np.clip(wetness, 0, 1).astype(np.float32),
        texture=fractal(shape, MASTER_M, rng, longest_m=240, shortest_m=8, slope=1.2),
        shore_m=shore,
    )


def _valley_axis(x: FloatArray, extent_m: float, size: float, seed: int) -> FloatArray:
    """Southward position of the valley's middle at each x, metres."""
    phase = float(hashed(seed + 5, np.zeros(1, np.int64))[0]) * 2 * np.pi
    wave = np.sin(2 * np.pi * x / (9000 * size) + phase)
    axis: FloatArray = (0.47 * extent_m + 520 * size * wave + 0.09 * (x - extent_m / 2)).astype(np.float32)
    return axis


def _relief(
    x: FloatArray,
    y: FloatArray,
    valley: FloatArray,
    size: float,
    broad: FloatArray,
    bend: FloatArray,
    gullies: FloatArray,
) -> FloatArray:
    """Valley floor, foothills and ridges with gullies, metres."""
    outside = np.abs(y - valley + 140 * size * bend) / size
    climb = np.clip((outside - 1350) / 3100, 0, 1.15)
    climb = climb * climb * (3 - 1.6 * climb)
    ridges = 1 - np.abs(broad + 0.25 * bend)
    height = 432 - 0.0016 * x + 1.5 * gullies
    height += climb * size**0.5 * (170 + 170 * ridges + 30 * (1 - np.abs(gullies)))
    relief: FloatArray = (height + 5 * broad * (1 - np.clip(climb, 0, 1))).astype(np.float32)
    return relief


def _water(
    x: FloatArray,
    y: FloatArray,
    valley: FloatArray,
    extent_m: float,
    size: float,
    bends: list[FloatArray],
    seed: int,
) -> tuple[BoolArray, BoolArray]:
    """Lake with gravel pits, and the meandering river."""
    # The centre line is a sine-generated curve: its direction, not its position, oscillates.
    s = np.arange(-0.6 * extent_m, 3.2 * extent_m, 4.0)
    swing = 1.25 + 0.35 * np.sin(s / 2700 + seed)
    direction = swing * np.sin(2 * np.pi * s / (1750 * max(size, 0.45)) + seed)
    advance, sideways = np.cumsum(4.0 * np.cos(direction)), np.cumsum(4.0 * np.sin(direction))
    path_x = advance - advance[0] - 0.25 * extent_m
    trend = np.convolve(np.pad(sideways, 450, mode="edge"), np.full(901, 1 / 901), mode="valid")
    keep = (path_x > x.min() - 200) & (path_x < x.max() + 200)
    path_x, path_y = path_x[keep], (sideways - trend)[keep]
    path_y = path_y + _valley_axis(path_x.astype(np.float32), extent_m, size, seed)
    n = x.shape[0]
    off_line = np.ones(x.shape, bool)
    columns = np.round((path_x - x[0, 0]) / MASTER_M).astype(int)
    rows = np.round((path_y - y[0, 0]) / MASTER_M).astype(int)
    inside = (columns >= 0) & (columns < n) & (rows >= 0) & (rows < n)
    off_line[rows[inside], columns[inside]] = False
    distance = ndimage.distance_transform_edt(off_line) * MASTER_M
    river = distance < (26 + 9 * size) + 7 * bends[0]
    lake = np.zeros(x.shape, bool)
    pools = ((0.73, 0.70, 560.0, 330.0, 0.5), (0.235, 0.33, 150.0, 105.0, 1.1), (0.262, 0.357, 120.0, 70.0, 0.2))
    for along, down, a, b, turn in pools:
        dx, dy = x - along * extent_m, y - down * extent_m
        u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        ragged = 1 + (0.22 if a > 300 else 0.07) * bends[1]
        lake |= np.hypot(u / (a * size), v / (b * size)) < ragged
    return lake, river


def _fields(blocks: Mosaic, seed: int) -> tuple[NDArray[np.uint8], FloatArray, FloatArray, FloatArray]:
    """Cut each block into strips along its orientation and give every parcel a crop."""
    width = 45 + 150 * blocks.number(seed + 11) ** 2
    length = 160 + 420 * blocks.number(seed + 12)
    # Strips of one block differ in width: the across coordinate is stretched unevenly.
    stretched = blocks.across + 0.28 * width * np.sin(blocks.across / width * 2.1)
    strip = np.floor(stretched / width).astype(np.int64)
    stagger = hashed(seed + 13, blocks.cell, strip) * length
    part = np.floor((blocks.along + stagger) / length).astype(np.int64)
    parcel = hashed(seed + 14, blocks.cell, strip, part)
    choice = hashed(seed + 15, blocks.cell, strip, part)
    edges = np.cumsum([share for _, share in CROPS])
    kinds = np.array([int(crop) for crop, _ in CROPS], np.uint8)
    cover = kinds[np.minimum(np.searchsorted(edges, choice, side="right"), len(kinds) - 1)]
    return cover, parcel, blocks.orientation.copy(), blocks.across


def _settlements(
    x: FloatArray,
    y: FloatArray,
    extent_m: float,
    size: float,
    unsuitable: BoolArray,
    patchy: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:
    """How far inside a settlement a point lies: 0 outside, 1 in the centre of the town."""
    radii = [880.0, 520.0, *rng.uniform(170, 330, 9)]
    placed: list[tuple[float, float, float]] = []
    inside = np.zeros(x.shape, np.float32)
    margin = round((0.0 - float(x[0, 0])) / MASTER_M)
    for radius in (r * size for r in radii):
        for _ in range(60):
            cx, cy = rng.uniform(0.07, 0.93, 2) * extent_m
            row, column = (round(value / MASTER_M) + margin for value in (cy, cx))
            reach = max(int(0.7 * radius / MASTER_M), 1)
            window = unsuitable[max(row - reach, 0) : row + reach, max(column - reach, 0) : column + reach]
            clear = all(np.hypot(cx - ox, cy - oy) > 1.25 * (radius + r) + 500 * size for ox, oy, r in placed)
            if clear and window.mean() < 0.12:
                placed.append((cx, cy, radius))
                reach = int(2.2 * radius / MASTER_M)
                near = np.s_[max(row - reach, 0) : row + reach, max(column - reach, 0) : column + reach]
                ragged = np.hypot(x[near] - cx, y[near] - cy) / radius + 0.24 * patchy[near]
                peak = min(radius / (880 * size), 1.0)
                depth = np.clip(1 - ragged, 0, 1) * peak + 0.001 * (ragged < 1)
                np.maximum(inside[near], depth, out=inside[near])
                break
    return inside


def _build_up(
    cover: NDArray[np.uint8],
    parcel: FloatArray,
    furrow: FloatArray,
    townness: FloatArray,
    warped_x: FloatArray,
    warped_y: FloatArray,
    x: FloatArray,
    y: FloatArray,
    seed: int,
) -> None:
    """Put streets, gardens, houses, town blocks and halls into settlements, and farms between the fields."""
    rows, columns = np.nonzero(townness > 0)
    if rows.size:
        quarter = mosaic(warped_x[rows, columns], warped_y[rows, columns], 150, seed + 200, jitter=0.55)
        # Neighbouring quarters have similar directions; inside a quarter streets are straight.
        common = 0.9 * np.sin(quarter.columns / 9.0 + seed) + 0.5 * np.cos(quarter.rows / 11.0)
        turns = (common + 0.35 * (hashed(seed + 21, quarter.columns, quarter.rows) - 0.5)).astype(np.float32)
        turn = turns[quarter.cell]
        rotation = turn - quarter.orientation
        u = quarter.along * np.cos(rotation) + quarter.across * np.sin(rotation)
        v = quarter.across * np.cos(rotation) - quarter.along * np.sin(rotation)
        depth = townness[rows, columns]
        kind = quarter.number(seed + 22)
        industry = (kind < 0.13) & (depth > 0.02) & (depth < 0.4)
        dense = (depth > 0.48) & ~industry
        plot_u = np.where(industry, 95, np.where(dense, 38, 27)).astype(np.float32)
        plot_v = np.where(industry, 70, np.where(dense, 30, 24)).astype(np.float32)
        fill = np.where(industry, 0.66, np.where(dense, 0.62, 0.47)).astype(np.float32)
        iu, iv = np.floor(u / plot_u).astype(np.int64), np.floor(v / plot_v).astype(np.int64)
        number = hashed(seed + 23, quarter.cell, iu, iv)
        inside = (np.abs(u / plot_u - iu - 0.5) < fill / 2) & (np.abs(v / plot_v - iv - 0.5) < fill / 2)
        empty = number < np.where(dense, 0.12, 0.24)
        street = quarter.border_m < np.where(dense, 5.5, 4.0)
        value = np.full(rows.shape, int(Cover.GARDEN), np.uint8)
        value[inside & ~empty] = Cover.BUILDING
        value[inside & ~empty & industry] = Cover.HALL
        value[industry & ~inside & (number > 0.5)] = Cover.ROAD
        value[(kind > 0.95) & ~dense] = Cover.GRASS
        value[street] = Cover.ROAD
        cover[rows, columns] = value
        parcel[rows, columns] = number
        furrow[rows, columns] = np.mod(turn, np.pi)
    cell = 480.0
    farm_column, farm_row = np.floor(x / cell).astype(np.int64), np.floor(y / cell).astype(np.int64)
    dx = x - (farm_column + 0.2 + 0.6 * hashed(seed + 31, farm_column, farm_row)) * cell
    dy = y - (farm_row + 0.2 + 0.6 * hashed(seed + 32, farm_column, farm_row)) * cell
    number = hashed(seed + 33, farm_column, farm_row)
    farmland = (cover >= Cover.GRASS) & (cover <= Cover.BARE) & (number < 0.13)
    reach = np.hypot(dx, dy)
    cover[farmland & (reach < 45)] = Cover.GARDEN
    house = (np.abs(dx) < 16) & (np.abs(dy - 12) < 8) | (np.abs(dx - 18) < 8) & (np.abs(dy + 10) < 14)
    cover[farmland & house] = Cover.BUILDING
    furrow[farmland & house] = 0.0
