"""Robust choice among no change, one shift and an affine displacement from weighted tie points."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Model", "TiePoints", "choose", "cross_validate", "fit"]

Points = NDArray[np.float64]
Kind = Literal["none", "shift", "affine"]

_FOLDS = 6
_FLOOR_PX = 0.25
_CAP_PX = 2.5
_RIDGE = 2e-4
_SETTLED = 1e-3
_MIN_POINTS: dict[Kind, float] = {"none": 0, "shift": 1, "affine": 6}


@dataclass(frozen=True)
class TiePoints:
    """Displacements measured at windows.

    Attributes:
        at: Window centres x, y, pixels, shape (N, 2).
        found: Displacements x, y, pixels, shape (N, 2).
        curvature: Weight matrices xx, xy, yy (how sharp the peak is each way), shape (N, 3).
        score: Height of the peak, shape (N,).
        weight: Non-negative trust before fitting, shape (N,).
        confidence: Probability that the displacement agrees with the fitted one within a pixel, shape (N,).
        reason: Why a point does not support the fitted displacement, empty where it does, shape (N,).
    """

    at: Points
    found: Points
    curvature: Points
    score: Points
    weight: Points
    confidence: Points = field(default_factory=lambda: np.zeros(0))
    reason: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, "<U16"))

    def __post_init__(self) -> None:
        if len(self.confidence) != len(self.at):
            object.__setattr__(self, "confidence", np.zeros(len(self.at)))
        if len(self.reason) != len(self.at):
            object.__setattr__(self, "reason", np.zeros(len(self.at), "<U16"))

    @classmethod
    def none(cls) -> TiePoints:
        """Return no points at all."""
        pairs = np.zeros((0, 2))
        return cls(pairs, pairs, np.zeros((0, 3)), np.zeros(0), np.zeros(0))

    def __len__(self) -> int:
        return len(self.at)

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64]) -> TiePoints:
        """Return some of the points."""
        return TiePoints(
            self.at[index],
            self.found[index],
            self.curvature[index],
            self.score[index],
            self.weight[index],
            self.confidence[index],
            self.reason[index],
        )


@dataclass(frozen=True)
class Model:
    """A displacement that is at most affine in position.

    Attributes:
        kind: Its family.
        centre: Position x, y where the linear part is zero.
        coefficients: Rows constant, per pixel of x, per pixel of y; columns dx, dy. Shape (3, 2).
        inliers: How far each point it was fitted to is trusted, 0..1, shape (N,).
    """

    kind: Kind
    centre: Points
    coefficients: Points
    inliers: Points

    def __call__(self, at: Points) -> Points:
        """Displacement x, y at positions, shape (N, 2)."""
        result: Points = self.coefficients[0] + (at - self.centre) @ self.coefficients[1:]
        return result


def fit(points: TiePoints, kind: Kind, rounds: int = 8) -> Model:
    """Fit one family by iteratively re-weighted least squares with Tukey's weights.

    Each point counts by its curvature matrix, so a window that only shows edges of one direction
    says nothing along them.

    Args:
        points: Tie points; none at all gives a zero displacement.
        kind: Family to fit.
        rounds: Re-weightings.

    Returns:
        The fitted model.
    """
    n = len(points)
    centre = np.average(points.at, axis=0, weights=points.weight + 1e-12) if n else np.zeros(2)
    if kind == "none" or n == 0:
        model = Model("none", centre, np.zeros((3, 2)), np.ones(n))
        return replace(model, inliers=_trust(points, model)) if n else model
    span = max(1.0, float(np.abs(points.at - centre).max()))
    basis = np.ones((n, 1)) if kind == "shift" else np.c_[np.ones(n), (points.at - centre) / span]
    trust = np.ones(n)
    model = Model(kind, centre, np.zeros((3, 2)), trust)
    for _ in range(rounds):
        model = replace(model, coefficients=_solve(points, basis, points.weight * trust, span))
        before, trust = trust, _trust(points, model)
        if np.abs(trust - before).max() < _SETTLED:
            break
    return replace(model, inliers=trust)


def _solve(points: TiePoints, basis: Points, weight: Points, span: float) -> Points:
    """Weighted least squares with a weight matrix per point; coefficients as in `Model`."""
    n = basis.shape[1]
    xx, xy, yy = points.curvature.T * weight
    left = np.empty((2 * n, 2 * n))
    left[:n, :n] = basis.T @ (basis * xx[:, None])
    left[n:, n:] = basis.T @ (basis * yy[:, None])
    left[:n, n:] = basis.T @ (basis * xy[:, None])
    left[n:, :n] = left[:n, n:]
    dx, dy = points.found.T
    right = np.concatenate([basis.T @ (xx * dx + xy * dy), basis.T @ (xy * dx + yy * dy)])
    scale = np.trace(left)
    ridge = np.full(2 * n, 1e-9 * scale + 1e-30)
    ridge[1:n] += _RIDGE * scale / (2 * n)
    ridge[n + 1 :] += _RIDGE * scale / (2 * n)
    coefficients = np.zeros((3, 2))
    coefficients[:n] = np.linalg.solve(left + np.diag(ridge), right).reshape(2, n).T
    coefficients[1:] /= span
    return coefficients


def cross_validate(points: TiePoints, kind: Kind) -> Points:
    """Error of each point under the model fitted without its fold, pixels, capped.

    Args:
        points: Tie points.
        kind: Family to judge.

    Returns:
        Errors, shape (N,), at most 2.5.
    """
    n = len(points)
    fold = np.arange(n) % _FOLDS
    errors = np.empty(n)
    for number in range(min(_FOLDS, n)):
        out = fold == number
        model = fit(points.take(~out), kind, rounds=4)
        errors[out] = np.linalg.norm(points.found[out] - model(points.at[out]), axis=1)
    return np.minimum(errors, _CAP_PX)


def choose(points: TiePoints, allowed: tuple[Kind, ...]) -> Model:
    """Fit the simplest family that predicts left-out points as well as the freer ones do.

    A freer family is taken only when its squared cross-validated error is smaller by more than twice
    the standard error of the difference, and when the points can carry it.

    Args:
        points: Tie points.
        allowed: Families to choose from, from stiff to free.

    Returns:
        The chosen model, fitted to all points.
    """
    usable = [k for k in allowed if points.weight.sum() > 0 and len(points) >= _MIN_POINTS[k]]
    if not usable:
        return fit(points, "none")
    best = usable[0]
    if len(usable) > 1:
        lost = {k: cross_validate(points, k) ** 2 for k in usable}
        for kind in usable[1:]:
            gain = lost[best] - lost[kind]
            mean = float(np.average(gain, weights=points.weight))
            spread = float(np.sqrt(np.average((gain - mean) ** 2, weights=points.weight)))
            effective = points.weight.sum() ** 2 / np.sum(points.weight**2)
            if mean > 0.5 * spread / np.sqrt(max(effective, 1.0)) and mean > 1e-4:
                best = kind
    return fit(points, best)


def _trust(points: TiePoints, model: Model) -> Points:
    """Tukey's weight of each point under a model."""
    residual = np.linalg.norm(points.found - model(points.at), axis=1)
    order = np.argsort(residual)
    share = np.cumsum(points.weight[order])
    middle = residual[order][np.searchsorted(share, 0.5 * share[-1]).clip(0, len(order) - 1)]
    u = residual / (3.0 * max(_FLOOR_PX, 1.4826 * float(middle)))
    trust: Points = np.where(u < 1.0, (1.0 - u * u) ** 2, 1e-6)
    return trust
