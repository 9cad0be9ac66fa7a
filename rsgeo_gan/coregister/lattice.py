"""Correlation surfaces of cells on one regular lattice over a scene, and tie points from them.

A displacement is followed from cell to cell before neighbouring surfaces are added up, so that rotation, scale
or relief inside a window do not blur its peak.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rsgeo_gan.coregister.fit import TiePoints
from rsgeo_gan.coregister.matching import Surfaces, peaks

__all__ = ["MIN_GATHERED", "Cells", "Cut", "Gathered"]

Array = NDArray[np.float32]
Points = NDArray[np.float64]

_MIN_COMMON = 0.3
MIN_GATHERED = 0.35
"""Least share of a gathered neighbourhood that both rasters show."""
_ROWS = 16
"""Rows of cells that are cut at a time, which bounds memory."""


@dataclass(frozen=True)
class Cut:
    """What one block contributes to a lattice.

    Attributes:
        score: Normalised correlation of every cell, shape (n, m, K, K), rows first.
        common: Share of every cell that both rasters show, shape (n, m).
        texture: Energy of the channels in every cell, of the poorer raster, shape (n, m).
        offset: Displacement x, y at the middle of every surface, pixels, shape (n, m, 2).
        start: Column and row of the first cell in the lattice.
    """

    score: Array
    common: Points
    texture: Points
    offset: Points
    start: tuple[int, int]

    @classmethod
    def of(cls, surfaces: Surfaces, start: tuple[int, int]) -> Cut:
        """Reduce the surfaces of a block, row by row, to what the lattice keeps."""
        columns, rows = surfaces.places.max(0) + 1
        shape = (int(rows), int(columns))
        return cls(
            surfaces.score.reshape(*shape, *surfaces.sums.shape[-2:]),
            surfaces.common.reshape(shape).astype(np.float64),
            surfaces.texture.reshape(shape).astype(np.float64),
            surfaces.offset.reshape(*shape, 2),
            start,
        )


@dataclass(frozen=True)
class Gathered:
    """Peaks of the surfaces gathered around every cell.

    Attributes:
        found: Displacement x, y, pixels, shape (ny, nx, 2).
        height: Height of the peak, shape (ny, nx).
        curvature: Weight matrices xx, xy, yy per square pixel, shape (ny, nx, 3); zero where there is no peak.
        share: How much of the gathered area both rasters show, shape (ny, nx).
    """

    found: Points
    height: Points
    curvature: Points
    share: Points

    @property
    def weight(self) -> Points:
        """Trust in each peak before it is compared with others, shape (ny, nx)."""
        peak = (self.curvature[..., 0] > 0) & (self.share > MIN_GATHERED)
        weight: Points = np.clip(self.height, 0, None) * np.clip(self.share, 0, 1) * peak
        return weight


@dataclass(frozen=True)
class Cells:
    """Surfaces of all cells of a scene.

    Attributes:
        score: Normalised correlation, shape (ny, nx, K, K).
        weight: Share of each cell that both rasters show, zero where it is too little, shape (ny, nx).
        texture: Energy of the channels in each cell, of the poorer raster, shape (ny, nx).
        offset: Displacement x, y at the middle of each surface, pixels, shape (ny, nx, 2).
        at: Centres of the cells x, y, pixels, shape (ny, nx, 2).
        scale: Pixels per step of a surface.
    """

    score: Array
    weight: Points
    texture: Points
    offset: Points
    at: Points
    scale: int = 1

    @classmethod
    def assemble(cls, cuts: Sequence[Cut], cell: int, origin: tuple[float, float], scale: int = 1) -> Cells:
        """Put the cuts of all blocks in their places; cells that no block covers have no weight.

        Args:
            cuts: What the blocks contribute; at least one.
            cell: Side of a cell, pixels at full resolution.
            origin: Column and row of the lattice's corner, corner based.
            scale: Pixels per step of a surface.

        Returns:
            The lattice.
        """
        nx = max(cut.start[0] + cut.common.shape[1] for cut in cuts)
        ny = max(cut.start[1] + cut.common.shape[0] for cut in cuts)
        k = min(cut.score.shape[-1] for cut in cuts)
        score = np.zeros((ny, nx, k, k), np.float32)
        common, texture, offset = np.zeros((ny, nx)), np.zeros((ny, nx)), np.zeros((ny, nx, 2))
        for cut in cuts:
            rim = (cut.score.shape[-1] - k) // 2
            rows, columns = cut.common.shape
            place = np.s_[cut.start[1] : cut.start[1] + rows, cut.start[0] : cut.start[0] + columns]
            score[place] = cut.score[..., rim : rim + k, rim : rim + k]
            common[place], texture[place], offset[place] = cut.common, cut.texture, cut.offset
        x, y = (origin[axis] + (np.arange(n) + 0.5) * cell - 0.5 for axis, n in enumerate((nx, ny)))
        weight = np.where(common > _MIN_COMMON, common, 0.0)
        return cls(score, weight, texture, offset, np.stack(np.meshgrid(x, y), -1), scale)

    @property
    def radius(self) -> int:
        """Largest offset of a surface from its middle, steps."""
        return int(self.score.shape[-1] // 2)

    @property
    def checkers(self) -> NDArray[np.int64]:
        """0 and 1 like a chessboard: two halves that share no pixel, shape (ny, nx)."""
        ny, nx = self.weight.shape
        return (np.arange(nx) + np.arange(ny)[:, None]) % 2

    def follow(self, expected: Points, reach: int) -> tuple[Array, Points]:
        """Cut every surface around an expected displacement, between its samples.

        Args:
            expected: Displacement x, y at every cell, pixels, shape (ny, nx, 2).
            reach: Steps to either side.

        Returns:
            Surfaces, shape (ny, nx, 2 reach + 1, 2 reach + 1), and the displacement at their middles, which
            is the expected one unless that lies at the rim of what was correlated.
        """
        ny, nx, k, _ = self.score.shape
        room = max(self.radius - reach, 0)
        about = np.clip((expected - self.offset) / self.scale, -room, room)
        steps = np.arange(-reach, reach + 1) + k // 2
        samples = np.arange(k, dtype=np.float32)
        cut = np.empty((ny, nx, len(steps), len(steps)), np.float32)
        for row in range(0, ny, _ROWS):
            part = np.s_[row : row + _ROWS]
            place = (about[part].reshape(-1, 2)[:, :, None] + steps).astype(np.float32)
            across, down = (_kernel(place[:, axis, :, None] - samples) for axis in (0, 1))
            found = down @ self.score[part].reshape(-1, k, k) @ across.transpose(0, 2, 1)
            cut[part] = found.reshape(cut[part].shape)
        return cut, self.offset + about * self.scale

    def gather(
        self, expected: Points, spread: float, reach_px: float, half: NDArray[np.bool_] | None = None
    ) -> Gathered:
        """Add up the surfaces around every cell along an expected displacement, and find their peaks.

        Args:
            expected: Displacement x, y at every cell, pixels, shape (ny, nx, 2).
            spread: Standard deviation of the Gaussian neighbourhood, cells.
            reach_px: How far from the expected displacement a peak may lie, pixels.
            half: Cells to use, shape (ny, nx); all when None.

        Returns:
            Peaks for every cell.
        """
        reach = int(np.ceil(reach_px / self.scale)) + 1
        return self.gather_cut(*self.follow(expected, reach), spread, reach_px, half)

    def gather_cut(
        self, cut: Array, middle: Points, spread: float, reach_px: float, half: NDArray[np.bool_] | None = None
    ) -> Gathered:
        """Do what `gather` does with surfaces that `follow` has cut already."""
        weight = self.weight if half is None else self.weight * half
        share = _spread(weight, spread)
        full = _spread(np.ones_like(weight), spread) * (1.0 if half is None else 0.5)
        safe = np.maximum(share, 1e-6)
        total = _spread(cut * weight[..., None, None].astype(np.float32), spread) / safe[..., None, None]
        n = total.shape[-1]
        flat = total.reshape(-1, n, n).astype(np.float32)
        place, height, curve = peaks(flat, np.zeros((len(flat), 2)), reach_px / self.scale)
        ny, nx = weight.shape
        return Gathered(
            middle + place.reshape(ny, nx, 2) * self.scale,
            height.reshape(ny, nx),
            curve.reshape(ny, nx, 3) / self.scale**2,
            share / full,
        )

    def tie_points(
        self, expected: Callable[[Points], Points], spread: float, reach_px: float, every: int = 2
    ) -> TiePoints:
        """Measure tie points at some of the cells, near an expected displacement.

        Args:
            expected: Displacement x, y at positions, shape (N, 2) to (N, 2), pixels.
            spread: Size of the neighbourhoods, cells.
            reach_px: How far from the expected displacement to look, pixels.
            every: Cells from one tie point to the next.

        Returns:
            Tie points with some weight, in pixels.
        """
        ny, nx = self.weight.shape
        found = self.gather(expected(self.at.reshape(-1, 2)).reshape(ny, nx, 2), spread, reach_px)
        rows, columns = (slice((n - 1) % every // 2, None, every) for n in (ny, nx))
        some = np.s_[rows, columns]
        usable = (found.share[some] > MIN_GATHERED).ravel()
        return TiePoints(
            self.at[some].reshape(-1, 2)[usable],
            found.found[some].reshape(-1, 2)[usable],
            found.curvature[some].reshape(-1, 3)[usable],
            found.height[some].ravel()[usable],
            found.weight[some].ravel()[usable],
        )


def _spread(values: NDArray[np.floating], cells: float) -> NDArray[np.floating]:
    """Gaussian sums over the lattice, with nothing outside it."""
    if cells <= 0:
        return values
    sigma = (cells, cells) + (0,) * (values.ndim - 2)
    blurred: NDArray[np.floating] = ndimage.gaussian_filter(values, sigma, mode="constant", truncate=3.0)
    return blurred


def _kernel(distance: Array) -> Array:
    """Cubic convolution (Keys 1981, a = -1/2)."""
    t = np.abs(distance)
    near, far = (1.5 * t - 2.5) * t * t + 1.0, ((2.5 - 0.5 * t) * t - 4.0) * t + 2.0
    weight: Array = np.where(t < 1, near, np.where(t < 2, far, np.float32(0.0)))
    return weight
