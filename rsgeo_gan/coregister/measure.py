"""From descriptors of two rasters on one grid to a displacement with its quality, coarse to fine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rsgeo_gan.coregister.fit import Kind, Model, TiePoints, choose, fit
from rsgeo_gan.coregister.matching import Block, Surfaces, correlate, halve, peaks, pool, stack

__all__ = ["Measurement", "measure", "search_radius"]

Points = NDArray[np.float64]

_CELL_PX = 64
_MIN_COMMON = 0.35


@dataclass(frozen=True)
class Measurement:
    """A displacement in pixels of the common grid, and how far it is to be believed.

    Attributes:
        model: The displacement.
        points: Tie points at full resolution, windows that overlap by half.
        sigma_px: Expected error of the displacement, pixels.
        confidence: 0..1.
        reliable: Whether the displacement should be used.
        reason: Why not, a code word; empty when it should.
    """

    model: Model
    points: TiePoints
    sigma_px: float
    confidence: float
    reliable: bool
    reason: str
    facts: dict[str, float]

    @property
    def support(self) -> int:
        """Number of tie points that agree with the displacement."""
        return int((self.model.inliers > 0.1).sum()) if len(self.points) else 0


def search_radius(max_shift_px: float) -> int:
    """Room around each window for a mean displacement of at most max_shift_px, pixels."""
    return int(np.ceil(max_shift_px)) + 5


def _empty(reason: str) -> Measurement:
    points = TiePoints.none()
    return Measurement(fit(points, "none"), points, float("inf"), 0.0, False, reason, {})


def measure(blocks: list[Block], max_shift_px: float, allowed: tuple[Kind, ...]) -> Measurement:
    """Measure the displacement of a set of blocks."""
    if not blocks:
        return _empty("too little valid data")
    least = min(min(b.core[2:]) for b in blocks)
    cell = int(np.clip(least // 5, 24, _CELL_PX)) // 4 * 4
    radius = search_radius(max_shift_px)
    times = 2 if radius <= 32 else 4
    reach = -(-radius // times)
    coarse = stack([correlate(halve(b, times), i, cell // times, reach) for i, b in enumerate(blocks)])
    seen = coarse.common > _MIN_COMMON
    if seen.sum() < 4:
        return _empty("too little valid data")
    cells = _take(coarse, seen)
    if not np.isfinite(cells.score).all() or cells.score.max() < 1e-6:
        return _empty("no texture")
    total, _ = _total(cells)
    first, top, ratio, z = _summit(total)
    colour = (cells.places[:, 1] + cells.places[:, 2]) % 2
    sides = [_summit(_total(_take(cells, colour == c))[0])[0] for c in (0, 1)]
    agree = float(np.linalg.norm(sides[0] - sides[1])) * times
    facts = dict(ratio=ratio, z=z, agree=agree, top=top, first=float(np.abs(first).max() * times))
    windows = pool(coarse, 2)
    windows = _take(windows, windows.common > _MIN_COMMON)
    model = Model("shift", np.zeros(2), np.stack([first * times, np.zeros(2), np.zeros(2)]), np.ones(0))
    for reach_px in (8.0, 6.0, 5.0):
        near = model(windows.centres) / times
        model = fit(_points(windows, near, reach_px / times, times), _freest(allowed))
    fine = []
    for i, block in enumerate(blocks):
        corners = _corners(block)
        spread = model(corners)
        middle = np.round(spread.mean(0)).astype(int)
        room = int(np.ceil(np.abs(spread - middle).max())) + 4
        fine.append(correlate(block, i, cell, min(room, 20), (int(middle[0]), int(middle[1]))))
    surfaces = stack(fine)
    windows = pool(surfaces, 2)
    windows = _take(windows, windows.common > _MIN_COMMON)
    if len(windows.centres) < 4:
        return _empty("too little valid data")
    for reach_px in (4.0, 3.0, 2.5):
        points = _points(windows, model(windows.centres), reach_px, 1)
        model = fit(points, _freest(allowed))
    points = _points(windows, model(windows.centres), 3.0, 1)
    model = choose(points, allowed)
    # disjoint halves
    apart = pool(surfaces, 2, step=2) if cell >= 40 else surfaces
    apart = _take(apart, apart.common > _MIN_COMMON)
    colour = (apart.places[:, 1] + apart.places[:, 2] + apart.places[:, 0]) % 2
    each = _points(apart, model(apart.centres), 3.0, 1)
    grid = np.concatenate([_corners(b) for b in blocks])
    sides = [fit(each.take(colour == c), model.kind)(grid) for c in (0, 1)]
    halves = float(np.sqrt(((sides[0] - sides[1]) ** 2).sum(1).mean()))
    share = float(np.average(np.linalg.norm(points.found - model(points.at), axis=1) < 1.5, weights=points.weight))
    facts |= dict(
        halves=halves,
        share=share,
        n=float(len(points)),
        score=float(points.score.mean()),
        kind=("none", "shift", "affine").index(model.kind),
    )
    reason = ""
    shift = model(grid).mean(0)
    if max(np.abs(first).max() * times, np.abs(shift).max()) > max_shift_px + 2.0:
        reason = "peak at the edge of the search"
    elif ratio < 1.2:
        reason = "two peaks"
    elif halves > 1.2:
        reason = "halves disagree"
    return Measurement(model, points, halves / 2, 0.5, not reason, reason, facts)


def _freest(allowed: tuple[Kind, ...]) -> Kind:
    return "affine" if "affine" in allowed else "shift"


def _take(s: Surfaces, keep: NDArray[np.bool_]) -> Surfaces:
    return Surfaces(s.sums[keep], s.centres[keep], s.places[keep], s.offset[keep], s.area)


def _total(cells: Surfaces) -> tuple[NDArray[np.float64], float]:
    weight = cells.common / max(float(cells.common.sum()), 1e-6)
    total = (cells.score * weight[:, None, None]).sum(0)
    return ndimage.gaussian_filter(total.astype(np.float64), 0.75, mode="nearest"), 0.0


def _summit(total: NDArray[np.float64]) -> tuple[Points, float, float, float]:
    k = total.shape[0]
    place, height, _ = peaks(total[None].astype(np.float32), np.zeros((1, 2)), 2.0 * k)
    axis = np.arange(k) - k // 2
    far = (axis[None] - place[0, 0]) ** 2 + (axis[:, None] - place[0, 1]) ** 2 > 2.5**2
    level = float(np.median(total))
    second = float(total[far].max())
    spread = 1.4826 * float(np.median(np.abs(total[far] - level))) + 1e-9
    top = float(height[0])
    return place[0], top, (top - level) / max(second - level, 1e-9), (top - level) / spread


def _points(windows: Surfaces, about: Points, reach: float, times: int) -> TiePoints:
    """Peaks of windows near the expected displacement (in surface pixels), in full-resolution pixels."""
    place, height, curve = peaks(windows.score, about - windows.offset, reach)
    sharp = curve[:, 0] + curve[:, 2]
    weight = np.clip(height, 0, None) * np.clip(windows.common, 0, 1) * (sharp > 0)
    sharp = np.where(sharp > 0, sharp, 1.0)
    return TiePoints(windows.centres, (place + windows.offset) * times, curve, height, weight)


def _corners(block: Block) -> Points:
    col, row, width, height = block.core
    x = np.linspace(col, col + width - 1, 5) + block.origin[0]
    y = np.linspace(row, row + height - 1, 5) + block.origin[1]
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
