"""From descriptors of two rasters on one grid to a displacement with its quality, coarse to fine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rsgeo_gan.coregister.fit import Kind, Model, TiePoints, choose, fit
from rsgeo_gan.coregister.matching import Block, Surfaces, correlate, halve, peaks, pool, stack
from rsgeo_gan.coregister.quality import Evidence, confidence, expected_error, verdict

__all__ = ["Measurement", "measure", "search_radius"]

Points = NDArray[np.float64]

_CELL_PX = (24, 64)
_CELLS_A_SIDE = 5
_MIN_COMMON = 0.35
_MIN_TEXTURE = 1e-3
_SLACK_PX = 5
_COARSE_REACH_PX = (8.0, 6.0, 5.0)
_FINE_REACH_PX = (4.0, 3.0, 2.5)
_LAST_REACH_PX = 3.0
_FINE_SLACK_PX = 4
_MAX_FINE_RADIUS_PX = 24


@dataclass(frozen=True)
class Measurement:
    """A displacement in pixels of the common grid, and how far it is to be believed.

    Attributes:
        model: The displacement.
        points: Tie points at full resolution, from windows that overlap by half.
        sigma_px: Expected error of the displacement, pixels; infinite when there is none.
        confidence: Probability that the error is below one pixel, 0..1; 0 when it must not be used.
        reliable: Whether the displacement should be used.
        reason: Why not, a code word; empty when it should.
        evidence: What the judgement rests on; None when nothing could be compared.
    """

    model: Model
    points: TiePoints
    sigma_px: float
    confidence: float
    reliable: bool
    reason: str
    evidence: Evidence | None = None

    @property
    def support(self) -> int:
        """Number of tie points that agree with the displacement."""
        return int((self.model.inliers > 0.1).sum()) if len(self.points) else 0


def search_radius(max_shift_px: float) -> int:
    """Room around each window for a mean displacement of at most max_shift_px, pixels."""
    return int(np.ceil(max_shift_px)) + _SLACK_PX


def measure(blocks: list[Block], max_shift_px: float, allowed: tuple[Kind, ...]) -> Measurement:
    """Measure the displacement that a set of blocks shows.

    The sum of all correlation surfaces at reduced resolution gives the start; tie points of windows, first
    at reduced and then at full resolution, give the model.

    Args:
        blocks: Descriptors of both rasters; a sample of the scene is enough.
        max_shift_px: Largest mean displacement looked for, pixels.
        allowed: Families of displacement to choose from, from stiff to free.

    Returns:
        Displacement, tie points and quality.
    """
    if not blocks:
        return _nothing("too little valid data")
    cell = int(np.clip(min(min(b.core[2:]) for b in blocks) // _CELLS_A_SIDE, *_CELL_PX)) // 4 * 4
    radius = search_radius(max_shift_px)
    times = 2 if radius <= 32 else 4
    reach = -(-radius // times)
    coarse = stack([correlate(halve(b, times), i, cell // times, reach) for i, b in enumerate(blocks)])
    cells = coarse.take(coarse.common > _MIN_COMMON)
    if len(cells) < 4:
        return _nothing("too little valid data")
    cells = cells.take(cells.texture > _MIN_TEXTURE)
    if len(cells) < 4:
        return _nothing("no texture")
    start, prominence, ratio = _summit(_total(cells))
    colour = cells.places.sum(1) % 2
    sides = [_summit(_total(cells.take(colour == side)))[0] for side in (0, 1)]
    agreement = float(np.linalg.norm(sides[0] - sides[1])) * times

    freest: Kind = allowed[-1]
    constant = np.stack([start * times, np.zeros(2), np.zeros(2)])
    model = Model("shift", np.zeros(2), constant, np.ones(0))
    windows = pool(coarse, 2)
    windows = windows.take(windows.common > _MIN_COMMON)
    for near in _COARSE_REACH_PX:
        model = fit(_tie_points(windows, model, near, times), freest)
    fine = stack([_refine(block, i, cell, model) for i, block in enumerate(blocks)])
    windows = pool(fine, 2)
    windows = windows.take(windows.common > _MIN_COMMON)
    if len(windows) < 4:
        return _nothing("too little valid data")
    for near in _FINE_REACH_PX:
        model = fit(_tie_points(windows, model, near, 1), freest)
    points = _tie_points(windows, model, _LAST_REACH_PX, 1)
    model = choose(points, allowed)

    single = fine.take(fine.common > _MIN_COMMON)
    sigma = expected_error(points, _tie_points(single, model, _LAST_REACH_PX, 1), single.places, model)
    evidence = Evidence.of(
        points,
        model,
        agreement_px=agreement,
        prominence=prominence,
        peak_ratio=ratio,
        largest_px=float(max(np.abs(start).max() * times, np.abs(model(_middle(blocks))).max())),
        sigma_px=sigma,
    )
    reason = verdict(evidence, max_shift_px)
    trust = 0.0 if reason else confidence(evidence)
    return Measurement(model, points, sigma, trust, not reason, reason, evidence)


def _nothing(reason: str) -> Measurement:
    points = TiePoints.none()
    return Measurement(fit(points, "none"), points, float("inf"), 0.0, False, reason)


def _refine(block: Block, number: int, cell: int, model: Model) -> Surfaces:
    """Correlate at full resolution around what the model expects in this block."""
    expected = model(_spread(block))
    middle = np.round(expected.mean(0)).astype(int)
    room = int(np.ceil(np.abs(expected - middle).max())) + _FINE_SLACK_PX
    return correlate(block, number, cell, min(room, _MAX_FINE_RADIUS_PX), (int(middle[0]), int(middle[1])))


def _total(cells: Surfaces) -> NDArray[np.float64]:
    """Mean surface, smoothed a little so that a slope of the displacement does not split the peak."""
    weight = cells.common / max(float(cells.common.sum()), 1e-6)
    total = (cells.score * weight[:, None, None]).sum(0, dtype=np.float64)
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(total, 0.75, mode="nearest")
    return smooth


def _summit(total: NDArray[np.float64]) -> tuple[Points, float, float]:
    """Place of the highest peak, its height over the usual spread, and over the second peak."""
    k = total.shape[0]
    place, height, _ = peaks(total[None].astype(np.float32), np.zeros((1, 2)), 2.0 * k)
    axis = np.arange(k) - k // 2
    rest = total[(axis[None] - place[0, 0]) ** 2 + (axis[:, None] - place[0, 1]) ** 2 > 2.5**2]
    level = float(np.median(total))
    top = float(height[0]) - level
    spread = 1.4826 * float(np.median(np.abs(rest - level)))
    return place[0], top / max(spread, 1e-9), top / max(float(rest.max()) - level, 1e-9)


def _tie_points(windows: Surfaces, model: Model, reach_px: float, times: int) -> TiePoints:
    """Peaks within reach of the model, everything in pixels of full resolution."""
    near = model(windows.centres) / times - windows.offset
    place, height, curve = peaks(windows.score, near, reach_px / times)
    weight = np.clip(height, 0, None) * np.clip(windows.common, 0, 1) * (curve[:, 0] > 0)
    return TiePoints(windows.centres, (place + windows.offset) * times, curve, height, weight)


def _spread(block: Block) -> Points:
    """Positions spread over a block's core."""
    col, row, width, height = block.core
    x = np.linspace(col, col + width - 1, 5) + block.origin[0]
    y = np.linspace(row, row + height - 1, 5) + block.origin[1]
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def _middle(blocks: list[Block]) -> Points:
    """Mean position of all blocks."""
    return np.concatenate([_spread(block) for block in blocks]).mean(0, keepdims=True)
