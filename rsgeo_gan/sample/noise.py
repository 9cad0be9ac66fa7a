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
        cell: Index of the cell a point lies in, int64.
        columns: Grid column of every cell, by index.
        rows: Grid row of every cell, by index.
        border_m: Distance to the border with the second nearest cell, metres, approximate.
        border_key: Number in [0, 1) that both cells of a border share.
        along: Distance from the cell's seed along its orientation, metres.
        across: Distance from the cell's seed across its orientation, metres.
        orientation: Orientation of the cell, radians, 0 along x, positive towards y, in [0, pi).
    """

    cell: IntArray
    columns: IntArray
    rows: IntArray
    border_m: FloatArray
    border_key: FloatArray
    along: FloatArray
    across: FloatArray
    orientation: FloatArray

    def number(self, seed: int) -> FloatArray:
        """Return a number in [0, 1) per cell, at every point."""
        return hashed(seed, self.columns, self.rows)[self.cell]


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
    left, top = (int(np.floor(a.min() / spacing_m)) - 1 for a in (x, y))
    right, bottom = (int(np.floor(a.max() / spacing_m)) + 1 for a in (x, y))
    width = right - left + 1
    grid_rows, grid_columns = np.mgrid[top : bottom + 1, left : right + 1].astype(np.int64)
    columns, rows = grid_columns.ravel(), grid_rows.ravel()
    seed_x, seed_y = (
        ((position + 0.5 + jitter * (hashed(seed + k, columns, rows) - 0.5)) * spacing_m).astype(np.float32)
        for k, position in enumerate((columns, rows))
    )
    home = np.floor(y / spacing_m).astype(np.int64) - top
    home *= width
    home += np.floor(x / spacing_m).astype(np.int64) - left
    first = np.full(x.shape, np.inf, np.float32)
    second = first.copy()
    near, runner = home.copy(), home.copy()
    for step in (-width - 1, -width, -width + 1, -1, 0, 1, width - 1, width, width + 1):
        cell = home + step
        dx, dy = x - seed_x[cell], y - seed_y[cell]
        distance = dx * dx + dy * dy
        closest = distance < first
        runner = np.where(closest, near, np.where(distance < second, cell, runner))
        second = np.where(closest, first, np.minimum(distance, second))
        near = np.where(closest, cell, near)
        first = np.minimum(distance, first)
    dx, dy = x - seed_x[near], y - seed_y[near]
    orientations = (hashed(seed + 3, columns, rows) * np.pi).astype(np.float32)
    cosine, sine = np.cos(orientations)[near], np.sin(orientations)[near]
    return Mosaic(
        cell=near,
        columns=columns,
        rows=rows,
        border_m=((np.sqrt(second) - np.sqrt(first)) / 2).astype(np.float32),
        # Symmetric in the two cells, so that both sides of a border agree about it.
        border_key=hashed(seed + 2, columns[near] + columns[runner], rows[near] + rows[runner]),
        along=dx * cosine + dy * sine,
        across=dy * cosine - dx * sine,
        orientation=orientations[near],
    )
