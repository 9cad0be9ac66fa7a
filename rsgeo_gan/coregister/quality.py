"""How far a measured displacement is to be believed: expected error, confidence, reasons to decline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rsgeo_gan.coregister.field import Smooth
from rsgeo_gan.coregister.fit import Model, TiePoints

__all__ = ["MUTUAL_PX", "Evidence", "confidence", "judged", "stiff_error", "verdict"]

Points = NDArray[np.float64]

_PARAMETERS = {"none": 1, "shift": 1, "affine": 3}
_OVERLAP = 3.0
_NEAR_PX = 1.5
_EDGE_PX = 2.0
_MIN_RATIO = 1.15
_MIN_PROMINENCE = 3.0
_MAX_DISAGREEMENT_PX = 3.0
_MIN_SHARE = 0.4
_MIN_SCORE = 0.08
_POINT_PX = 0.5
MUTUAL_PX = 2.5
"""A way there and back that misses its start by more is one-sided."""
_LOGISTIC = (-0.2, -1.9, -0.15)
"""Constant, and factors of log expected error and log disagreement."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for a displacement.

    Attributes:
        agreement_px: Distance between the peaks of two halves that share no pixel.
        prominence: Height of the summed peak over the usual spread of the surface.
        peak_ratio: Height of the summed peak over the second one.
        share: Weighted share of windows whose own peak lies within 1.5 px of the displacement.
        score: Mean correlation at the windows' peaks.
        largest_px: Largest component of the mean displacement, before or after refinement.
        sigma_px: Expected error.
        significance: How clearly two halves see the same smooth displacement beyond the affine part.
        mutual: Weighted share of windows from which the way there and back returns to the start, or was not
            looked for.
        n_points: Number of windows.
    """

    agreement_px: float
    prominence: float
    peak_ratio: float
    share: float
    score: float
    largest_px: float
    sigma_px: float
    significance: float
    mutual: float
    n_points: int

    @classmethod
    def of(cls, points: TiePoints, fitted: Points, **given: float) -> Self:
        """Complete the evidence by what the tie points say of a fitted displacement, shape (N, 2)."""
        near = _apart(points, fitted) < _NEAR_PX
        total = float(points.weight.sum())
        share = float((points.weight * near).sum()) / total if total > 0 else 0.0
        return cls(share=share, score=float(points.score.mean()), n_points=len(points), **given)


def stiff_error(points: TiePoints, model: Model, rest: Smooth) -> float:
    """Estimate the error of a displacement without a field at a place chosen by chance, pixels.

    Two parts add up: the standard error of the fitted parameters, and the smooth displacement that two halves of
    the cells both see and the model cannot follow.

    Args:
        points: Tie points the model was fitted to, from windows that overlap by half.
        model: The fitted model.
        rest: The smooth displacement beyond the affine part.

    Returns:
        Root mean square error, both components together.
    """
    fitted = model(points.at)
    trusted = points.weight * (_apart(points, fitted) < 3.0)
    total = float(trusted.sum())
    if total <= 0:
        return float("inf")
    scatter = float((trusted * _apart(points, fitted) ** 2).sum()) / total
    independent = total**2 / float((trusted**2).sum()) / _OVERLAP
    freedom = _PARAMETERS[model.kind]
    return float(np.sqrt(scatter * freedom / max(independent - freedom, 0.5) + rest.length_px**2))


def judged(points: TiePoints, fitted: Points, sigma_px: float, mutual_px: Points) -> TiePoints:
    """Say of every tie point how far it is to be believed, and why it does not support the displacement.

    Args:
        points: Tie points.
        fitted: Displacement x, y at them, shape (N, 2).
        sigma_px: Expected error of the displacement.
        mutual_px: How far the way there and back misses the start around each, shape (N,).

    Returns:
        The points with `confidence` and `reason`: "weak" (no peak, or hardly any), "one-sided" (found
        there, but not back), "outlier" (further than 1.5 px from the displacement).
    """
    apart = _apart(points, fitted)
    weak = (points.weight <= 0) | (points.score < _MIN_SCORE)
    astray = np.where(apart >= _NEAR_PX, "outlier", "")
    reason = np.where(weak, "weak", np.where(mutual_px >= MUTUAL_PX, "one-sided", astray))
    spread = float(np.hypot(sigma_px if np.isfinite(sigma_px) else 3.0, _POINT_PX))
    strength = np.clip(points.score / (2 * _MIN_SCORE), 0, 1)
    trust = np.where(weak | (mutual_px >= MUTUAL_PX), 0.0, strength * np.exp(-0.5 * (apart / spread) ** 2))
    return replace(points, confidence=trust, reason=reason)


def confidence(evidence: Evidence) -> float:
    """Estimate the probability that the error is below one pixel.

    A logistic model of the expected error and of the agreement of the halves, fitted to pairs of one sensor, of
    several sensors and with manual tie points under known distortions, each kind with the same weight.

    Args:
        evidence: What speaks for the displacement.

    Returns:
        A number in 0..1.
    """
    if not np.isfinite(evidence.sigma_px):
        return 0.0
    sigma, agreement = np.clip(evidence.sigma_px, 0.05, 5.0), np.clip(evidence.agreement_px, 0.1, 30.0)
    constant, by_sigma, by_agreement = _LOGISTIC
    odds = constant + by_sigma * np.log(sigma) + by_agreement * np.log(agreement)
    return float(1.0 / (1.0 + np.exp(-odds)))


def verdict(evidence: Evidence, max_shift_px: float) -> str:
    """Say why a displacement must not be used.

    Args:
        evidence: What speaks for the displacement.
        max_shift_px: Largest mean displacement looked for, pixels.

    Returns:
        A reason in a few words, empty when there is none: "two peaks" (a repeating pattern, or chance),
        "peak at the edge of the search", "halves disagree" (parts that share no pixel give different
        answers), "windows disagree" (no common displacement fits most windows), "weak match".
    """
    if evidence.peak_ratio < _MIN_RATIO:
        return "two peaks"
    if evidence.largest_px > max_shift_px + _EDGE_PX:
        return "peak at the edge of the search"
    if evidence.agreement_px > _MAX_DISAGREEMENT_PX:
        return "halves disagree"
    if evidence.share < _MIN_SHARE:
        return "windows disagree"
    if evidence.score < _MIN_SCORE or evidence.prominence < _MIN_PROMINENCE:
        return "weak match"
    return ""


def _apart(points: TiePoints, fitted: Points) -> Points:
    """Distance of each tie point from a fitted displacement, pixels."""
    distance: Points = np.linalg.norm(points.found - fitted, axis=1)
    return distance
