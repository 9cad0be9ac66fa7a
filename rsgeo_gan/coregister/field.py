"""A smooth displacement field from correlation surfaces: how smooth, and how sure, the data say themselves.

The field is the mean of a Gaussian process given the gathered peaks. Its strength, along x and along y, and the
noise of the peaks are not settings: two halves of the cells that share no pixel are measured apart; what they have
in common is displacement, what they have not is noise. Relief moves SAR content in range only, so one component may
be strong and the other nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from rsgeo_gan.coregister.lattice import Cells, Gathered

__all__ = ["Smooth", "smooth"]

Points = NDArray[np.float64]

_ROUNDS = ((1.0, 3.0), (1.0, 2.0), (0.7, 2.0))
"""Spread of the gathering, cells, and reach of the peak search, pixels."""
_LENGTH_CELLS = 1.9
_POWER = 2.0
_FIRST_SIGNAL_PX, _FIRST_NOISE_PX = 1.5, 1.0
_LEAST_SIGNAL_PX, _LEAST_NOISE_PX = 0.02, 0.02
_SHARED = 0.4
"""Share of the noise that neighbouring gathered peaks have in common, of what their overlap alone would give."""
_CAUTION = 0.25
"""Standard errors that are taken off the displacement both halves see."""
_ISOTROPIC_CELLS = 20.0
"""Independent peaks at which the strengths of x and y are believed half."""
_FLOOR_PX = 0.25
_STEPS = 8
_LEVELS = 24


@dataclass(frozen=True)
class Smooth:
    """A field over the cells of a lattice, with what it rests on.

    Attributes:
        values: Displacement beyond the expected one x, y, pixels, shape (ny, nx, 2).
        sigma_px: Expected error, both components together, shape (ny, nx).
        signal_px: Root mean square of the displacement that both halves see, x and y, shape (2,).
        noise_px: Noise of one peak, one component, as the fit counts it.
        significance: How clearly the halves agree: their mean product over its standard error.
    """

    values: Points
    sigma_px: Points
    signal_px: Points
    noise_px: float
    significance: float

    @property
    def length_px(self) -> float:
        """Root mean square length of the displacement that both halves see."""
        return float(np.hypot(*self.signal_px))

    @property
    def error_px(self) -> float:
        """Root mean square of the expected error over the lattice."""
        return float(np.sqrt(np.mean(self.sigma_px**2)))


def smooth(cells: Cells, expected: Points) -> Smooth:
    """Estimate the smooth displacement that an expected one leaves.

    Args:
        cells: Correlation surfaces.
        expected: Displacement x, y that is known already, pixels, shape (ny, nx, 2).

    Returns:
        The rest, shrunk towards zero where the peaks are noisy or missing.
    """
    ny, nx = cells.weight.shape
    shape = _prior(ny, nx)[..., None]
    first_half = cells.checkers == 0
    values = np.zeros((ny, nx, 2))
    signal, noise, significance = np.full(2, _FIRST_SIGNAL_PX), _FIRST_NOISE_PX, 0.0
    precision = np.zeros((ny, nx))
    for number, (spread, reach) in enumerate(_ROUNDS):
        cut, middle = cells.follow(expected + values, int(np.ceil(reach)) + 1)
        found = cells.gather_cut(cut, middle, spread, reach)
        matrix = found.curvature * found.weight[..., None]
        level = float(np.average(_trace(matrix), weights=found.weight + 1e-12))
        matrix = matrix / max(level, 1e-12)
        rest = found.found - expected
        if number:
            halves = [cells.gather_cut(cut, middle, spread, reach, half) for half in (first_half, ~first_half)]
            signal, noise, significance = _variances(halves, expected, _trace(matrix), spread)
        prior = shape / signal**2
        usable = found.weight > 0
        trust = np.ones((ny, nx))
        for _ in range(2):
            values = _solve(matrix * (trust / noise**2)[..., None], rest, prior, values)
            distance = np.linalg.norm(rest - values, axis=-1)
            typical = float(np.median(distance[usable])) if usable.any() else 1.0
            ratio = distance / (3.0 * max(_FLOOR_PX, 1.4826 * typical))
            trust = np.where(ratio < 1.0, (1.0 - ratio**2) ** 2, 1e-6)
        precision = _trace(matrix) * trust / noise**2
    near = ndimage.gaussian_filter(precision, 1.5, mode="constant")
    return Smooth(values, _posterior(near, shape / signal**2), signal, noise, significance)


def _prior(ny: int, nx: int) -> Points:
    """Inverse spectrum of a field of unit variance over the cosine modes of a lattice, shape (ny, nx)."""
    x, y = (np.pi * np.arange(n) / n * _LENGTH_CELLS for n in (nx, ny))
    rough: Points = (1.0 + x**2 + y[:, None] ** 2) ** _POWER
    return rough * np.mean(1.0 / rough)


def _trace(matrix: Points) -> Points:
    """Mean of the two diagonal parts of weight matrices, shape (..., 3) to (...)."""
    half: Points = (matrix[..., 0] + matrix[..., 2]) / 2
    return half


def _variances(halves: list[Gathered], expected: Points, weight: Points, spread: float) -> tuple[Points, float, float]:
    """Signal of x and y and noise of one component, pixels, and how significant the signal is."""
    one, other = (half.found - expected for half in halves)
    both = (halves[0].weight > 0) & (halves[1].weight > 0)
    apart = np.linalg.norm(one - other, axis=-1)
    typical = float(np.median(apart[both])) if both.any() else 1.0
    ratio = apart / (3.0 * max(_FLOOR_PX, 1.4826 * typical))
    weight = weight * both * np.where(ratio < 1.0, (1.0 - ratio**2) ** 2, 0.0)
    weight = weight / max(float(weight.sum()), 1e-9)
    noise = float((weight * apart**2).sum()) / 8
    overlap = max(4 * np.pi * spread**2, 1.0)
    independent = max(1.0 / max(float((weight**2).sum()), 1e-9) / (2 * overlap), 1.0)
    product = one * other
    each = (weight[..., None] * product).sum((0, 1))
    together = product.mean(-1)
    common = float((weight * together).sum())
    error = float(np.sqrt((weight * (together - common) ** 2).sum() / independent))
    # Few cells cannot tell the strengths of x and y apart.
    own = independent / (independent + _ISOTROPIC_CELLS)
    strength = own * each + (1.0 - own) * common - _CAUTION * error
    return (
        np.sqrt(np.maximum(strength, _LEAST_SIGNAL_PX**2)),
        float(np.sqrt(max(noise, _LEAST_NOISE_PX**2) * overlap * _SHARED)),
        common / max(error, 1e-9),
    )


def _solve(matrix: Points, found: Points, prior: Points, start: Points) -> Points:
    """Minimise peaks' misfit plus roughness by conjugate gradients, preconditioned over the cosine modes.

    Args:
        matrix: Weight matrices xx, xy, yy of the peaks, shape (ny, nx, 3).
        found: Peaks x, y, shape (ny, nx, 2).
        prior: Weight of each mode for x and y, shape (ny, nx, 2).
        start: First guess, shape (ny, nx, 2).

    Returns:
        The field, shape (ny, nx, 2).
    """
    typical = float(_trace(matrix).mean())

    def weighted(x: Points) -> Points:
        xx, xy, yy = np.moveaxis(matrix, -1, 0)
        return np.stack([xx * x[..., 0] + xy * x[..., 1], xy * x[..., 0] + yy * x[..., 1]], -1)

    def filtered(x: Points, by: Points) -> Points:
        modes = fft.dctn(x, axes=(0, 1), norm="ortho") * by
        result: Points = fft.idctn(modes, axes=(0, 1), norm="ortho")
        return result

    inverse = 1.0 / (prior + typical)
    values = start
    left = weighted(found - values) - filtered(values, prior)
    turned = filtered(left, inverse)
    direction, product = turned, float((left * turned).sum())
    for _ in range(_STEPS):
        image = weighted(direction) + filtered(direction, prior)
        length = product / max(float((direction * image).sum()), 1e-30)
        values = values + length * direction
        left = left - length * image
        turned = filtered(left, inverse)
        before, product = product, float((left * turned).sum())
        direction = turned + product / max(before, 1e-30) * direction
    return values


def _posterior(precision: Points, prior: Points) -> Points:
    """Expected error of the field where the peaks have a given precision, as if it were so everywhere near."""
    top = max(float(precision.max()), 1e-6)
    levels = np.concatenate([[0.0], np.geomspace(top * 1e-5, top, _LEVELS)])
    variance = np.array([np.mean(1.0 / (prior + level), axis=(0, 1)).sum() for level in levels])
    sigma: Points = np.sqrt(np.interp(precision, levels, variance))
    return sigma
