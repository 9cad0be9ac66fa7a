"""Seeded randomness over the plane: hashed numbers per cell, band-limited fractal noise, cell mosaics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["Mosaic", "fractal", "hashed", "mosaic"]

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def hashed(seed: int, *keys: NDArray[np.integer]) -> FloatArray:
    """Return a number in [0, 1) that depends on the seed and the integer keys only.

    Args:
        seed: Which sequence; different seeds give unrelated numbers.
        *keys: Integer arrays that broadcast together, such as cell column and row.

    Returns:
        Float32 array of the broadcast shape.

    Reference: Steele, Lea, Flood, 2014, doi:10.1145/2660193.2660195 (the finaliser of SplitMix64).
    """
    state: NDArray[np.uint64] = np.zeros((), np.uint64) + np.uint64(seed & 0xFFFFFFFF)
    with np.errstate(over="ignore"):
        for key in keys:
            state = (state ^ key.astype(np.int64).view(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    number: FloatArray = ((state >> np.uint64(40)).astype(np.float32)) / np.float32(2**24)
    return number


def fractal(
    shape: tuple[int, int],
    pixel_m: float,
    rng: np.random.Generator,
    *,
    longest_m: float,
    shortest_m: float,
    slope: float = 2.0,
) -> FloatArray:
    """Draw noise whose power falls as frequency**-slope between two wavelengths.

    Args:
        shape: Rows and columns.
        pixel_m: Pixel size, metres.
        rng: Source of randomness; consumed by one draw of the padded shape.
        longest_m: Wavelength above which there is no power, metres.
        shortest_m: Wavelength below which the power fades out, metres.
        slope: Spectral exponent of the two-dimensional power; 0 is white within the band.

    Returns:
        Float32 array with mean 0 and standard deviation 1.
    """
    padded = [scipy.fft.next_fast_len(n + round(0.5 * longest_m / pixel_m), real=True) for n in shape]
    spectrum = scipy.fft.rfft2(rng.standard_normal(padded, dtype=np.float32))
    rows = scipy.fft.fftfreq(padded[0], pixel_m)[:, None]
    columns = scipy.fft.rfftfreq(padded[1], pixel_m)[None, :]
    frequency = np.hypot(rows, columns).astype(np.float32)
    lowest = np.float32(1.0 / longest_m)
    gain = np.maximum(frequency, lowest) ** np.float32(-slope / 2)
    gain *= np.exp(-((frequency * np.float32(shortest_m)) ** 2) / 2)
    gain *= 1 - np.exp(-((frequency / lowest) ** 4))
    spectrum *= gain
    field = scipy.fft.irfft2(spectrum, padded)[: shape[0], : shape[1]].astype(np.float32)
    centred: FloatArray = field - field.mean()
    spread = float(centred.std())
    return centred / np.float32(spread if spread > 0 else 1.0)


@dataclass(frozen=True)
class Mosaic:
    """Irregular cells around jittered grid points, one value per asked point.

    Attributes:
        column: Integer column of the nearest cell's seed.
        row: Integer row of the nearest cell's seed.
        border_m: Distance to the border with the second nearest cell, metres, approximate.
        border_key: Number in [0, 1) that both cells of a border share.
        along: Distance from the cell's seed along its orientation, metres.
        across: Distance from the cell's seed across its orientation, metres.
        orientation: Orientation of the cell, radians, 0 along x, positive towards y, in [0, pi).
    """

    column: IntArray
    row: IntArray
    border_m: FloatArray
    border_key: FloatArray
    along: FloatArray
    across: FloatArray
    orientation: FloatArray


def mosaic(x: FloatArray, y: FloatArray, spacing_m: float, seed: int, *, jitter: float = 0.8) -> Mosaic:
    """Say in which irregular cell each point lies.

    Args:
        x: Eastward coordinates, metres, any shape.
        y: Southward coordinates, metres, same shape.
        spacing_m: Mean distance between cells, metres.
        seed: Which mosaic.
        jitter: How far a cell's seed may leave its grid position, share of the spacing, 0..1.

    Returns:
        The cells, arrays of the shape of `x`.
    """
    base_column = np.floor(x / spacing_m).astype(np.int64)
    base_row = np.floor(y / spacing_m).astype(np.int64)
    first = np.full(x.shape, np.inf, np.float32)
    second = first.copy()
    near = [np.zeros(x.shape, np.int64) for _ in range(2)]
    next_near = [np.zeros(x.shape, np.int64) for _ in range(2)]
    offset = [np.zeros(x.shape, np.float32) for _ in range(2)]
    for step_row in (-1, 0, 1):
        for step_column in (-1, 0, 1):
            column, row = base_column + step_column, base_row + step_row
            dx = x - (column + 0.5 + jitter * (hashed(seed, column, row) - 0.5)).astype(np.float32) * spacing_m
            dy = y - (row + 0.5 + jitter * (hashed(seed + 1, column, row) - 0.5)).astype(np.float32) * spacing_m
            distance = np.hypot(dx, dy).astype(np.float32)
            closest = distance < first
            runner_up = ~closest & (distance < second)
            second = np.where(closest, first, np.where(runner_up, distance, second))
            for old, new, runner in zip(near, (column, row), next_near, strict=True):
                runner[closest] = old[closest]
                runner[runner_up] = new[runner_up]
                old[closest] = new[closest]
            for kept, value in zip(offset, (dx, dy), strict=True):
                kept[closest] = value[closest]
            first = np.where(closest, distance, first)
    # Symmetric in the two cells, so that both sides of a border agree about it.
    border_key = hashed(seed + 2, near[0] + next_near[0], near[1] + next_near[1])
    orientation = (hashed(seed + 3, near[0], near[1]) * np.pi).astype(np.float32)
    cosine, sine = np.cos(orientation), np.sin(orientation)
    return Mosaic(
        column=near[0],
        row=near[1],
        border_m=((second - first) / 2).astype(np.float32),
        border_key=border_key,
        along=(offset[0] * cosine + offset[1] * sine).astype(np.float32),
        across=(offset[1] * cosine - offset[0] * sine).astype(np.float32),
        orientation=orientation,
    )
