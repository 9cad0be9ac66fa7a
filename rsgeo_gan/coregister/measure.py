"""From descriptors of two rasters on one grid to a displacement with its quality, coarse to fine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rsgeo_gan.coregister.field import Smooth, smooth
from rsgeo_gan.coregister.fit import Kind, Model, TiePoints, choose, fit
from rsgeo_gan.coregister.lattice import MIN_GATHERED, Cells, Cut
from rsgeo_gan.coregister.matching import Block, centres, correlate, halve, peaks
from rsgeo_gan.coregister.quality import MUTUAL_PX, Evidence, confidence, judged, stiff_error, verdict

__all__ = ["Measurement", "cell_px", "measure", "search_radius"]

Points = NDArray[np.float64]

_CELL_PX = (24, 64)
_CELLS_A_SIDE = 5
_MIN_TEXTURE = 1e-3
_SLACK_PX = 5

_SPREAD = 1.0
_COARSE_REACH_PX = (8.0, 6.0, 5.0)
_FINE_REACH_PX = (4.0, 3.0)
_LAST_REACH_PX = 3.0
_FINE_RADIUS_PX = 8
_WORTHWHILE_PX = 0.35
_STIFF: tuple[Kind, ...] = ("none", "shift", "affine")


class Mapper(Protocol):
    """Applies a function to every block of a scene, in order; a sample of blocks may be all that is held."""

    def __call__(self, function: Callable[[Block], Cut]) -> Iterable[Cut]:
        """Return what the function makes of each block."""
        ...


@dataclass(frozen=True)
class Measurement:
    """A displacement in pixels of the common grid, and how far it is to be believed.

    Attributes:
        model: The displacement, or its affine part when there is a field.
        points: Tie points at full resolution, from windows that overlap by half.
        sigma_px: Expected error of the displacement, pixels; infinite when there is none.
        confidence: Probability that the error is below one pixel, 0..1; 0 when it must not be used.
        reliable: Whether the displacement should be used.
        reason: Why not, a code word; empty when it should.
        evidence: What the judgement rests on; None when nothing could be compared.
        field: What is added to the model, when the tie points carry a smooth field.
        cells: Centres of the field's cells x, y, pixels, shape (ny, nx, 2).
    """

    model: Model
    points: TiePoints
    sigma_px: float
    confidence: float
    reliable: bool
    reason: str
    evidence: Evidence | None = None
    field: Smooth | None = None
    cells: Points | None = None

    @property
    def kind(self) -> str:
        """Family of the displacement."""
        return "field" if self.field is not None else self.model.kind

    @property
    def support(self) -> int:
        """Number of tie points that agree with the displacement."""
        return int((self.points.reason == "").sum())

    @property
    def step_px(self) -> float:
        """Distance of the field's cells, pixels of the common grid."""
        assert self.cells is not None
        along = [np.diff(self.cells[0, :, 0]), np.diff(self.cells[:, 0, 1])]
        steps = np.concatenate(along)
        return float(steps[0]) if len(steps) else 1.0

    def __call__(self, at: Points) -> Points:
        """Displacement x, y at positions of the common grid, shape (N, 2)."""
        found = self.model(at)
        if self.field is None or self.cells is None:
            return found
        place = (at - self.cells[0, 0])[:, ::-1].T / self.step_px
        parts = np.moveaxis(self.field.values, -1, 0)
        return found + np.stack([ndimage.map_coordinates(v, place, order=3, mode="nearest") for v in parts], 1)


def search_radius(max_shift_px: float) -> int:
    """Room around each window for a mean displacement of at most max_shift_px, pixels."""
    return int(np.ceil(max_shift_px)) + _SLACK_PX


def cell_px(width: int, height: int) -> int:
    """Side of a cell of the coarse search for a scene of that size, pixels; the fine search halves it."""
    return int(np.clip(min(width, height) // _CELLS_A_SIDE, *_CELL_PX)) // 4 * 4


def measure(
    blocks: Sequence[Block],
    max_shift_px: float,
    allowed: tuple[str, ...],
    *,
    cell: int | None = None,
    origin: tuple[float, float] | None = None,
    every_block: Mapper | None = None,
) -> Measurement:
    """Measure the displacement that two rasters show.

    The sum of all correlation surfaces at reduced resolution gives the start; tie points of windows, first
    at reduced and then at full resolution, give the model; what the model leaves gives the field.

    Args:
        blocks: Descriptors of both rasters; a sample of a large scene is enough.
        max_shift_px: Largest mean displacement looked for, pixels.
        allowed: Families of displacement to choose from, from stiff to free: none, shift, affine, field.
        cell: Side of a coarse cell, pixels; by the size of the blocks when None.
        origin: Column and row of the first cell's corner; that of the given blocks when None.
        every_block: Applies a function to all blocks of the scene; to the given ones when None.

    Returns:
        Displacement, tie points and quality.
    """
    if not blocks:
        return _nothing("too little valid data")
    cell = cell or cell_px(min(b.core[2] for b in blocks), min(b.core[3] for b in blocks))
    if origin is None:
        corners = np.array([np.array(b.origin) + b.core[:2] for b in blocks], float)
        origin = (float(corners[:, 0].min()), float(corners[:, 1].min()))
    first = origin
    coarse = _search(blocks, cell, search_radius(max_shift_px), origin)
    seen = coarse.weight > 0
    if seen.sum() < 4:
        return _nothing("too little valid data")
    rich = seen & (coarse.texture > _MIN_TEXTURE)
    if rich.sum() < 4:
        return _nothing("no texture")
    scale = coarse.scale
    start, prominence, ratio = _summit(_total(coarse, rich))
    sides = [_summit(_total(coarse, rich & (coarse.checkers == side)))[0] for side in (0, 1)]
    agreement = float(np.linalg.norm(sides[0] - sides[1])) * scale

    stiff = tuple(kind for kind in _STIFF if kind in allowed) or ("affine",)
    freest: Kind = stiff[-1]
    model = Model("shift", np.zeros(2), np.stack([start * scale, np.zeros(2), np.zeros(2)]), np.ones(0))
    for near in _COARSE_REACH_PX:
        model = fit(coarse.tie_points(model, _SPREAD / 2, near, every=1), freest)

    def refine(block: Block) -> Cut:
        return _refine(block, cell // 2, model, first)

    fine = Cells.assemble(list((every_block or _all(blocks))(refine)), cell // 2, origin)
    if (fine.weight > 0).sum() < 4:
        return _nothing("too little valid data")
    for near in _FINE_REACH_PX:
        model = fit(fine.tie_points(model, _SPREAD, near), freest)
    points = fine.tie_points(model, _SPREAD, _LAST_REACH_PX)
    if not len(points):
        return _nothing("too little valid data")
    free, model = model, choose(points, stiff)

    ny, nx = fine.weight.shape
    rest = smooth(fine, free(fine.at.reshape(-1, 2)).reshape(ny, nx, 2))
    use = "field" in allowed and (allowed == ("field",) or _carried(rest))
    if use:
        model = free
        sigma = rest.error_px
    else:
        sigma = stiff_error(points, model, rest)
    found = Measurement(model, points, sigma, 0.0, False, "", None, rest if use else None, fine.at if use else None)
    apart = _there_and_back(
        coarse, _search([_swapped(b) for b in blocks], cell, search_radius(max_shift_px), origin), free
    )
    column, row = np.round((points.at - np.array(origin) + 0.5) / cell - 0.5).astype(int).T
    inside = (row >= 0) & (row < apart.shape[0]) & (column >= 0) & (column < apart.shape[1])
    mutual = np.zeros(len(points))
    mutual[inside] = apart[row[inside], column[inside]]
    evidence = Evidence.of(
        points,
        found(points.at),
        agreement_px=agreement,
        prominence=prominence,
        peak_ratio=ratio,
        largest_px=float(max(np.abs(start).max() * scale, np.abs(found(fine.at.reshape(-1, 2)).mean(0)).max())),
        sigma_px=sigma,
        significance=rest.significance,
        mutual=float(np.average(mutual < MUTUAL_PX, weights=points.weight + 1e-12)),
    )
    reason = verdict(evidence, max_shift_px)
    trust = 0.0 if reason else confidence(evidence)
    points = judged(points, found(points.at), sigma, mutual)
    return replace(found, points=points, confidence=trust, reliable=not reason, reason=reason, evidence=evidence)


def _carried(rest: Smooth) -> bool:
    """Whether what two halves both see beyond an affine displacement is worth a field."""
    return rest.length_px > _WORTHWHILE_PX


def _nothing(reason: str) -> Measurement:
    points = TiePoints.none()
    return Measurement(fit(points, "none"), points, float("inf"), 0.0, False, reason)


def _all(blocks: Sequence[Block]) -> Mapper:
    """Apply a function to blocks that are held."""

    def apply(function: Callable[[Block], Cut]) -> Iterable[Cut]:
        return map(function, blocks)

    return apply


def _start(block: Block, cell: int, origin: tuple[float, float]) -> tuple[int, int]:
    """Column and row of a block's first cell in the lattice."""
    x, y = (round((block.origin[axis] + block.core[axis] - origin[axis]) / cell) for axis in (0, 1))
    return int(x), int(y)


def _search(blocks: Sequence[Block], cell: int, radius: int, origin: tuple[float, float]) -> Cells:
    """Correlate at reduced resolution for all offsets within the radius."""
    times = 2 if radius <= 32 else 4
    reach = -(-radius // times)
    cuts = [
        Cut.of(correlate(halve(block, times), cell // times, reach), _start(block, cell, origin)) for block in blocks
    ]
    return Cells.assemble(cuts, cell, origin, times)


def _swapped(block: Block) -> Block:
    """The same block with the roles of the rasters exchanged."""
    return replace(
        block,
        reference=block.moving,
        moving=block.reference,
        reference_mask=block.moving_mask,
        moving_mask=block.reference_mask,
    )


def _there_and_back(forward: Cells, backward: Cells, model: Model) -> Points:
    """How far the way back misses the start, for windows around every coarse cell, pixels, shape (ny, nx).

    A window of the reference is looked for in the moving raster, and the window of the moving raster at the same
    place in the reference; content that only one of them shows leads somewhere else. Where no block was searched,
    nothing is known and nothing is held against a window.
    """
    ny, nx = forward.weight.shape
    expected = model(forward.at.reshape(-1, 2)).reshape(ny, nx, 2)
    there = forward.gather(expected, _SPREAD / 2, _COARSE_REACH_PX[0])
    back = backward.gather(-expected, _SPREAD / 2, _COARSE_REACH_PX[0])
    apart = np.linalg.norm(there.found + back.found, axis=-1)
    lost = (there.weight <= 0) | (back.weight <= 0)
    unseen = np.minimum(there.share, back.share) < MIN_GATHERED
    return np.where(unseen, 0.0, np.where(lost, np.inf, apart))


def _refine(block: Block, cell: int, model: Model, origin: tuple[float, float]) -> Cut:
    """Correlate at full resolution around what the model expects in every cell."""
    expected = np.round(model(centres(block, cell))).astype(np.int64)
    return Cut.of(correlate(block, cell, _FINE_RADIUS_PX, expected), _start(block, cell, origin))


def _total(cells: Cells, use: NDArray[np.bool_]) -> Points:
    """Mean surface, smoothed a little so that a slope of the displacement does not split the peak."""
    weight = cells.weight * use
    weight = weight / max(float(weight.sum()), 1e-6)
    total = np.tensordot(weight, cells.score, 2)
    smoothed: Points = ndimage.gaussian_filter(total, 0.75, mode="nearest")
    return smoothed


def _summit(total: Points) -> tuple[Points, float, float]:
    """Place of the highest peak, its height over the usual spread, and over the second peak."""
    k = total.shape[0]
    place, height, _ = peaks(total[None].astype(np.float32), np.zeros((1, 2)), 2.0 * k)
    axis = np.arange(k) - k // 2
    rest = total[(axis[None] - place[0, 0]) ** 2 + (axis[:, None] - place[0, 1]) ** 2 > 2.5**2]
    level = float(np.median(total))
    top = float(height[0]) - level
    spread = 1.4826 * float(np.median(np.abs(rest - level)))
    return place[0], top / max(spread, 1e-9), top / max(float(rest.max()) - level, 1e-9)
