"""Displacements of different grids brought to common points of the reference, and back to one displacement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from rsgeo_gan.coregister.registration import Registration
from rsgeo_gan.displacement import Displacement, Field
from rsgeo_gan.grid import pixels_in, transformed

__all__ = ["carried", "expected_errors", "lattice_of", "likeness", "pixel_ratio", "positions", "unshrunk"]

_SIDE, _MOST = 9, 33
_IDLE_PX = 0.15
_STRAIGHT_PX = 0.02
_FLAT_PX = 0.05
_LEAST_PX, _MOST_PX = 0.02, 50.0
_GROWTH = 2.0

Array = NDArray[np.float64]


def lattice_of(box: GeoBox, fields: list[Field]) -> GeoBox:
    """Lay a lattice over a grid, as fine as the finest field, 9 to 33 nodes a side.

    Args:
        box: The reference grid.
        fields: Fields whose detail should survive.

    Returns:
        A box whose pixel centres are the nodes.
    """
    height, width = box.shape
    most = [_SIDE, *(int(max(field.box.shape)) for field in fields)]
    side = min(_MOST, max(most))
    rows, cols = min(side, height), min(side, width)
    return GeoBox((rows, cols), box.affine * Affine.scale(width / cols, height / rows), box.crs)


def positions(box: GeoBox, lattice: GeoBox) -> Array:
    """Columns and rows (pixel centres whole) of a lattice's nodes in a grid, row by row, shape (P, 2)."""
    row, col = (part.ravel() for part in np.mgrid[: lattice.shape.y, : lattice.shape.x])
    x, y = transformed(~box.affine * lattice.affine, col + 0.5, row + 0.5)
    return np.stack([x, y], axis=1) - 0.5


def unshrunk(found: Registration) -> Displacement:
    """Say what a pair measured, where its model is none the middle of its tie points.

    Model choice turns a displacement that is no larger than its error into none. That is right for one pair, but
    a network that takes such zeros at their word adds up what was cut off.

    Args:
        found: A reliable pair.

    Returns:
        Its displacement, or a shift by the weighted median of its tie points.
    """
    displacement, points = found.displacement, found.points
    if displacement.model != "none" or not len(points) or not points.weight.sum() > 0:
        return displacement
    dx, dy = (_median(values, points.weight) for values in points.found.T)
    return replace(displacement, model="shift", matrix=(dx, 0.0, 0.0, dy, 0.0, 0.0))


def carried(displacement: Displacement, box: GeoBox, at: Array) -> Array:
    """Read a displacement, which may be stated on another grid, at positions of the reference.

    Args:
        displacement: Where content lies relative to another scene, in that scene's pixels.
        box: The reference grid.
        at: Where that scene holds the content: columns and rows of the reference grid, shape (P, 2).

    Returns:
        dx, dy in pixels of the reference, shape (P, 2); NaN where the two systems of coordinates do not meet.
    """
    own = displacement.geobox
    if own == box:
        return np.stack(displacement.at(*at.T), axis=1)
    here = _moved(at, box, own)
    there = here + np.stack(displacement.at(*here.T), axis=1)
    found = _moved(there, own, box) - at
    found[~np.isfinite(found).all(axis=1)] = np.nan
    return found


def pixel_ratio(box: GeoBox, other: GeoBox) -> float:
    """Size of another grid's pixel in pixels of a grid, at the other's middle; NaN where that is not defined."""
    height, width = other.shape
    probe = np.array([width / 2, height / 2]) + np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) - 0.5
    middle, right, down = _moved(probe, other, box)
    return float(np.sqrt(abs(np.linalg.det(np.stack([right - middle, down - middle])))))


def expected_errors(found: Registration, box: GeoBox, at: Array) -> Array:
    """Expected error of a measured pair at positions of the reference, shape (P,), reference pixels.

    Beyond the overlap of the two scenes, where nothing was measured, it grows with the distance.
    """
    displacement = found.displacement
    ratio = pixel_ratio(box, displacement.geobox)
    own = at if displacement.geobox == box else _moved(at, box, displacement.geobox)
    sigma = displacement.quality(*own.T)[0]
    result: Array = np.clip(np.nan_to_num(sigma * ratio, nan=_MOST_PX, posinf=_MOST_PX), _LEAST_PX, _MOST_PX)
    if found.overlap is None:
        return result
    height, width = found.overlap.shape
    size = np.array([width, height], float)
    inside = _moved(at, box, found.overlap) + 0.5
    outside = np.maximum(np.maximum(-inside, inside - size), 0.0) / size
    return np.minimum(result * (1.0 + _GROWTH * np.nan_to_num(np.hypot(*outside.T), nan=1.0)), _MOST_PX)


def likeness(
    box: GeoBox,
    lattice: GeoBox,
    values: Array,
    sigma: Array,
    *,
    confidence: float,
    n_tie_points: int,
    freest: str = "field",
) -> Displacement:
    """Turn values at a lattice's nodes into the stiffest displacement that follows them.

    Args:
        box: The reference grid.
        lattice: The nodes.
        values: dx, dy at the nodes, reference pixels, shape (P, 2).
        sigma: Expected errors there, shape (P,).
        confidence: Trust in the displacement, 0 to 1.
        n_tie_points: Tie points behind it.
        freest: The freest model allowed: "none", "shift", "affine" or "field".

    Returns:
        A reliable displacement: none where the values are smaller than 0.15 px and than their error, which is not
        worth a resampling; a shift where they differ by less than 0.02 px (root mean square), an affine where they
        leave less than 0.05 px, else a field.
    """
    height, width = box.shape
    at = positions(box, lattice) - np.array([(width - 1) / 2, (height - 1) / 2])
    span = max(width, height)
    design = np.column_stack([np.ones(len(at)), at / span])
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    left = values - design @ coefficients
    coefficients[1:] /= span
    (a, d), (b, e), (c, f) = (tuple(float(v) for v in row) for row in coefficients)
    mean_sigma = float(np.sqrt((sigma**2).mean()))
    known = {"sigma_px": mean_sigma, "confidence": confidence, "reliable": True, "n_tie_points": n_tie_points}
    if freest == "none" or _rms(values) <= min(_IDLE_PX, mean_sigma):
        return Displacement(box, "none", **known)  # type: ignore[arg-type]
    middle = values.mean(axis=0)
    if freest == "shift" or _rms(values - middle) < _STRAIGHT_PX:
        return Displacement(box, "shift", (float(middle[0]), 0.0, 0.0, float(middle[1]), 0.0, 0.0), **known)  # type: ignore[arg-type]
    if freest == "affine" or _rms(left) < _FLAT_PX:
        return Displacement(box, "affine", (a, b, c, d, e, f), **known)  # type: ignore[arg-type]
    shape = tuple(lattice.shape)
    field = Field(
        lattice,
        values.T.reshape(2, *shape).astype(np.float32),
        sigma.reshape(shape).astype(np.float32),
        np.full(shape, confidence, np.float32),
    )
    return Displacement(box, "field", (a, b, c, d, e, f), field=field, **known)  # type: ignore[arg-type]


def _moved(at: Array, source: GeoBox, target: GeoBox) -> Array:
    """Pixel positions (centres whole) of one box in another; NaN where no place corresponds."""
    found = np.stack(pixels_in(target, source, at[:, 0] + 0.5, at[:, 1] + 0.5), axis=1) - 0.5
    found[~np.isfinite(found).all(axis=1)] = np.nan
    return found


def _median(values: Array, weights: Array) -> float:
    """Value at which half of the weight lies below."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(below, 0.5 * below[-1]).clip(0, len(order) - 1)])


def _rms(apart: Array) -> float:
    return float(np.sqrt((apart**2).sum(axis=1).mean()))
