"""Masked FFT correlation of descriptor channels over a grid of windows, and its sub-pixel peaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = ["Block", "Surfaces", "centres", "correlate", "halve", "peaks"]

Array = NDArray[np.float32]
Points = NDArray[np.float64]

_MIN_COMMON = 0.15
_BATCH = 64


@dataclass(frozen=True)
class Block:
    """Descriptors of one part of the two rasters, on one common grid.

    Attributes:
        reference: Channels of the reference, shape (C, H, W), zero where masked.
        moving: Channels of the moving raster on the same grid, shape (C, H, W).
        reference_mask: Where the reference channels are defined, float32 in 0..1, shape (H, W).
        moving_mask: The same for the moving channels.
        origin: Column and row of the block's first pixel in the common grid, at full resolution.
        core: First column, first row, width and height of the part to be covered by windows, in pixels
            of this block; the rim around it only gives the search room.
        scale: Pixels of the common grid per pixel of this block, a side.
    """

    reference: Array
    moving: Array
    reference_mask: Array
    moving_mask: Array
    origin: tuple[float, float]
    core: tuple[int, int, int, int]
    scale: int = 1


@dataclass(frozen=True)
class Surfaces:
    """Sums behind the normalised correlation, one surface of offsets per cell.

    Attributes:
        sums: Shape (N, 4, K, K): products, reference energy, moving energy, common pixels.
        places: Column and row of each cell in its block, shape (N, 2).
        offset: Displacement x, y at the middle of the surfaces, pixels of the common grid, shape (N, 2).
        area: Pixels of one cell.
    """

    sums: Array
    places: NDArray[np.int64]
    offset: Points
    area: float

    def __len__(self) -> int:
        return len(self.sums)

    @property
    def radius(self) -> int:
        """Largest offset on either side, pixels."""
        return int(self.sums.shape[-1] // 2)

    @property
    def score(self) -> Array:
        """Normalised correlation, shape (N, K, K); zero where too little is seen by both."""
        products, left, right, common = np.moveaxis(self.sums, 1, 0)
        floor = 1e-6 * self.area
        score = products / np.sqrt(np.maximum(left, floor) * np.maximum(right, floor))
        return np.where(common > _MIN_COMMON * self.area, score, np.float32(0.0))

    @property
    def texture(self) -> Array:
        """Energy of the channels a pixel at the middle offset, of the poorer raster, shape (N,)."""
        middle = self.sums[:, :, self.radius, self.radius]
        poorer = np.minimum(middle[:, 1], middle[:, 2]) / np.maximum(middle[:, 3], np.float32(1.0))
        return np.asarray(poorer, np.float32)

    @property
    def common(self) -> Array:
        """Share of each window seen by both rasters at the middle offset, shape (N,)."""
        middle: Array = self.sums[:, 3, self.radius, self.radius] / np.float32(self.area)
        return middle


def halve(block: Block, times: int) -> Block:
    """Reduce a block by a whole factor; channels are averaged over their valid pixels."""
    if times == 1:
        return block
    reference, reference_mask = _reduce(block.reference, block.reference_mask, times)
    moving, moving_mask = _reduce(block.moving, block.moving_mask, times)
    col, row, width, height = block.core
    core = (col // times, row // times, max(1, width // times), max(1, height // times))
    return Block(reference, moving, reference_mask, moving_mask, block.origin, core, block.scale * times)


def centres(block: Block, cell: int) -> Points:
    """Centres of a block's cells x, y, row by row, in pixels of the common grid, shape (N, 2)."""
    col, row, width, height = block.core
    nx, ny = max(1, round(width / cell)), max(1, round(height / cell))
    x, y = col + (np.arange(nx) + 0.5) * cell, row + (np.arange(ny) + 0.5) * cell
    inside = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    return np.array(block.origin, float) + inside * block.scale - 0.5


def correlate(block: Block, cell: int, radius: int, offset: NDArray[np.int64] | None = None) -> Surfaces:
    """Correlate every cell of a block with the moving raster at all offsets within the radius.

    Args:
        block: Descriptors of both rasters.
        cell: Side of a cell in pixels.
        radius: Largest offset looked at around `offset`, pixels.
        offset: Displacement x, y around which to look, whole pixels of the block, one per cell in the order of
            `centres`, shape (N, 2); none when None.

    Returns:
        One surface per cell, row by row.
    """
    col, row, width, height = block.core
    nx, ny = max(1, round(width / cell)), max(1, round(height / cell))
    about = np.zeros((nx * ny, 2), np.int64) if offset is None else offset
    span = cell + 2 * radius
    size = fft.next_fast_len(span, real=True)
    right = max(0, col + nx * cell - block.reference.shape[-1])
    below = max(0, row + ny * cell - block.reference.shape[-2])
    near = ((0, below), (0, right))
    reach = radius + int(np.abs(about).max())
    far = ((reach, below + reach), (reach, right + reach))
    a, wa = np.pad(block.reference, ((0, 0), *near)), np.pad(block.reference_mask, near)
    b, wb = np.pad(block.moving, ((0, 0), *far)), np.pad(block.moving_mask, far)
    ea, eb = (a * a).sum(0), (b * b).sum(0)
    places = np.array([(i, j) for j in range(ny) for i in range(nx)], np.int64)
    corner = np.array([col, row]) + places * cell
    wide = corner + reach - radius + about
    sums = np.empty((len(places), 4, 2 * radius + 1, 2 * radius + 1), np.float32)
    for start in range(0, len(places), _BATCH):
        part = np.s_[start : start + _BATCH]
        near_part, far_part = corner[part].tolist(), wide[part].tolist()
        sums[part] = _sums(
            _cut(a, near_part, cell), _cut(wa, near_part, cell), _cut(ea, near_part, cell),
            _cut(b, far_part, span), _cut(wb, far_part, span), _cut(eb, far_part, span), size, 2 * radius + 1,
        )  # fmt: skip
    return Surfaces(sums, places, about.astype(float) * block.scale, float(cell**2))


def peaks(score: Array, about: Points, radius: float) -> tuple[Points, Points, Points]:
    """Find the best sub-pixel peak of each surface near an expected place.

    Args:
        score: Surfaces, shape (N, K, K).
        about: Expected offsets x, y from the middle of each surface, shape (N, 2).
        radius: How far from there to look, pixels.

    Returns:
        Offsets x, y, shape (N, 2); heights, shape (N,); curvatures xx, xy, yy (positive at a
        peak), shape (N, 3), zero where the maximum is not a peak.
    """
    n, k, _ = score.shape
    middle = k // 2
    axis = np.arange(k) - middle
    far = (axis[None, None, :] - about[:, 0, None, None]) ** 2
    far = far + (axis[None, :, None] - about[:, 1, None, None]) ** 2 > radius**2
    best = np.where(far, -np.inf, score).reshape(n, -1).argmax(1)
    iy, ix = np.clip(best // k, 1, k - 2), np.clip(best % k, 1, k - 2)
    steps = np.arange(-1, 2)
    patch = score[np.arange(n)[:, None, None], iy[:, None, None] + steps[:, None], ix[:, None, None] + steps]
    patch = patch.astype(np.float64)
    gx = (patch[:, :, 2] - patch[:, :, 0]).sum(1) / 6
    gy = (patch[:, 2] - patch[:, 0]).sum(1) / 6
    xx = -(patch[:, :, 2] + patch[:, :, 0] - 2 * patch[:, :, 1]).sum(1) / 3
    yy = -(patch[:, 2] + patch[:, 0] - 2 * patch[:, 1]).sum(1) / 3
    xy = -(patch[:, 2, 2] + patch[:, 0, 0] - patch[:, 0, 2] - patch[:, 2, 0]) / 4
    det = xx * yy - xy * xy
    good = (det > 1e-12) & (xx > 0) & (yy > 0)
    safe = np.where(good, det, 1.0)
    dx = np.where(good, (yy * gx - xy * gy) / safe, 0.0).clip(-1, 1)
    dy = np.where(good, (xx * gy - xy * gx) / safe, 0.0).clip(-1, 1)
    place = np.stack([ix - middle + dx, iy - middle + dy], 1)
    curve = np.where(good[:, None], np.stack([xx, xy, yy], 1), 0.0)
    return place, score[np.arange(n), iy, ix].astype(np.float64), curve


def _cut(array: Array, corners: list[list[int]], size: int) -> Array:
    """Squares of an array, stacked in front."""
    return np.stack([array[..., y : y + size, x : x + size] for x, y in corners])


def _sums(a: Array, wa: Array, ea: Array, b: Array, wb: Array, eb: Array, size: int, keep: int) -> Array:
    """Products, energies and common area of cells against wider squares, shape (N, 4, keep, keep)."""
    products = _back(np.einsum("nchw,nchw->nhw", _forward(a, size).conj(), _forward(b, size)), size, keep)
    out = np.empty((len(a), 4, keep, keep), np.float32)
    out[:, 0] = products
    cell = a.shape[-1]
    whole = (wa.min((1, 2)) > 0.999) & (wb.min((1, 2)) > 0.999)
    if whole.any():
        out[whole, 1] = ea[whole].sum((1, 2))[:, None, None]
        out[whole, 2] = _moving_sum(eb[whole], cell)
        out[whole, 3] = cell * cell
    part = ~whole
    if part.any():
        fwa, fwb = _forward(wa[part], size).conj(), _forward(wb[part], size)
        out[part, 1] = _back(_forward(ea[part], size).conj() * fwb, size, keep)
        out[part, 2] = _back(fwa * _forward(eb[part], size), size, keep)
        out[part, 3] = _back(fwa * fwb, size, keep)
    return out


def _forward(array: Array, size: int) -> NDArray[np.complex64]:
    """Real FFT over the last two axes, zero-padded."""
    spectrum: NDArray[np.complex64] = fft.rfft2(array, s=(size, size), workers=1)
    return spectrum


def _back(spectrum: NDArray[np.complex64], size: int, keep: int) -> Array:
    """Inverse of `_forward`, first offsets only."""
    array: Array = fft.irfft2(spectrum, s=(size, size), workers=1)[..., :keep, :keep]
    return array


def _moving_sum(array: Array, width: int) -> Array:
    """Sum over every square of the given width, in float64 inside."""
    total = np.pad(array.astype(np.float64).cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    total = total[:, width:] - total[:, :-width]
    result: Array = (total[:, :, width:] - total[:, :, :-width]).astype(np.float32)
    return result


def _reduce(channels: Array, mask: Array, times: int) -> tuple[Array, Array]:
    """Mean over squares, weighted by the mask."""
    share = _squares(mask, times) / np.float32(times**2)
    mean = _squares(channels, times) / np.maximum(share * np.float32(times**2), np.float32(1e-3))
    small = (share > 0.5).astype(np.float32)
    return (mean * small).astype(np.float32), small


def _squares(array: Array, times: int) -> Array:
    """Sum over squares of the last two axes; an incomplete rim is left out."""
    height, width = (n - n % times for n in array.shape[-2:])
    parts = [array[..., j:height:times, i:width:times] for j in range(times) for i in range(times)]
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    return total
