"""Least squares over a network of measured pairs: every scene's displacement from all pairs at once.

Displacements that follow each other add up: with D_i the displacement of scene i relative to the reference and
d_ij the one of scene j relative to scene i, D_j(p) = D_i(p) + d_ij(p + D_i(p)). `solve` is linear in the
displacements; whoever samples d_ij at p + D_i(p), and solves again, has the exact composition (see `compose`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsgeo_gan.coregister.graph import Array, Graph

__all__ = ["CONTRADICTED", "NOT_CONNECTED", "Edge", "Network", "compose", "solve"]

CONTRADICTED = "contradicted by its neighbours"
"""Reason of a scene whose pairs do not agree with each other or with the rest."""
NOT_CONNECTED = "not connected"
"""Reason of a scene that no chain of reliable pairs joins to the reference."""

_FLOOR_PX = 0.05
_STILL_PX = 1e-3


@dataclass(frozen=True, eq=False)
class Edge:
    """A measured pair.

    Attributes:
        start: Number of the scene that the measurement is relative to; 0 is the reference.
        stop: Number of the scene whose content was looked for.
        measured: dx, dy at the common lattice's points, reference pixels, shape (P, 2).
        sigma: Expected error of each, both components together, reference pixels, shape (P,).
    """

    start: int
    stop: int
    measured: Array
    sigma: Array


@dataclass(frozen=True, eq=False)
class Network:
    """The solved network of N scenes, E edges, P lattice points.

    Attributes:
        displacement: dx, dy of each scene relative to the reference, shape (N, P, 2); NaN where not connected.
        sigma: Expected error, both components together, from the normal matrix, shape (N, P); 0 for the
            reference, infinite where not connected.
        n_edges: Edges of each scene that were used, shape (N,).
        scene_residual: Root mean square residual of the edges of each scene that were used, of all where
            none was, pixels, shape (N,); NaN without edges that can be judged.
        reasons: Why a scene is not reliable, empty when it is.
        fitted: dx, dy of each edge by the network, shape (E, P, 2); NaN where one end is not connected.
        residual: Root mean square distance of each edge from the fitted, pixels, shape (E,).
        weight: Trust in each edge relative to the others by the last re-weighting, 0 to 1, shape (E,).
        used: Whether the edge holds, shape (E,).
    """

    displacement: Array
    sigma: Array
    n_edges: NDArray[np.int64]
    scene_residual: Array
    reasons: tuple[str, ...]
    fitted: Array
    residual: Array
    weight: Array
    used: NDArray[np.bool_]


def compose(
    count: int,
    sample: Callable[[Array], Sequence[Edge]],
    points: int,
    *,
    rounds: int = 4,
    floor_px: float = _FLOOR_PX,
) -> Network:
    """Solve a network in which displacements change from place to place.

    Args:
        count: Number of scenes, the reference included.
        sample: Gives the edges, each read at p + D_start(p); receives the displacements so far, shape (N, P, 2).
        points: Number of lattice points P.
        rounds: Most repetitions; they end when no displacement moves by more than a thousandth of a pixel.
        floor_px: See `solve`.

    Returns:
        The network of the last repetition.
    """
    at = np.zeros((count, points, 2))
    for _ in range(rounds):
        network = solve(count, sample(at), floor_px=floor_px)
        before, at = at, np.nan_to_num(network.displacement)
        if not at.size or np.abs(at - before).max() < _STILL_PX:
            break
    return network


def solve(count: int, edges: Sequence[Edge], *, floor_px: float = _FLOOR_PX) -> Network:
    """Find every scene's displacement relative to scene 0 from all edges, and the edges and scenes that lie.

    Iteratively re-weighted least squares, one weight an edge: first with weights that lead to the least sum of
    absolute residuals, which a minority of wrong edges does not move, then with Tukey's biweight, which ignores
    them. A scene is exposed when half of its edges or more do not hold, or when it hangs on a single chain that
    another edge contradicts, so that nobody can say which of the two is wrong. Its edges are then left out for
    the others.

    Args:
        count: Number of scenes N, the reference included.
        edges: The measured pairs, all sampled at the same P points; order and direction do not matter.
        floor_px: Error that no stated sigma contains (the blind spots that pairs share), pixels.

    Returns:
        The solved network.

    Raises:
        ValueError: If an edge names a scene that does not exist, joins a scene with itself, or has another
            number of points than the first.
    """
    _check(count, edges)
    points = edges[0].measured.shape[0] if edges else 0
    start = np.array([e.start for e in edges], int)
    stop = np.array([e.stop for e in edges], int)
    measured = np.stack([e.measured for e in edges]) if edges else np.zeros((0, points, 2))
    sigma = np.stack([e.sigma for e in edges]) if edges else np.zeros((0, points))
    known = np.isfinite(measured).all(axis=(1, 2)) & np.isfinite(sigma).all(axis=1)
    spread = np.hypot(np.where(known[:, None], sigma, 1.0), floor_px)
    measured = np.where(known[:, None, None], measured, 0.0)
    graph = Graph(count, start, stop, measured, spread)

    reasons = [""] * count
    alive = known.copy()
    # One weight an edge: some points show it as well as all.
    rough = graph.thinned()
    first: Array | None = None
    while True:
        joined = graph.reached(alive)
        active = alive & joined[start] & joined[stop]
        least, weight = rough.robust(active, joined)
        first = graph.linear(least, joined) if first is None else first
        used = active & (weight > 0)
        exposed = graph.exposed(active, used, joined)
        if not exposed:
            break
        for node in exposed:
            reasons[node] = CONTRADICTED
            alive &= (start != node) & (stop != node)
    solution = graph.linear(weight, joined)
    displacement = np.where(joined[:, None, None], solution, np.nan)
    error = graph.errors(used, weight, joined, solution)
    for node in range(1, count):
        if reasons[node]:
            displacement[node] = first[node]
        elif not joined[node]:
            reasons[node] = NOT_CONNECTED
    fitted = displacement[stop] - displacement[start]
    residual = np.sqrt(((measured - fitted) ** 2).sum(axis=2).mean(axis=1)) if points else np.full(len(edges), np.nan)
    residual[~known] = np.nan
    return Network(
        displacement,
        error,
        np.array([int((used & ((start == n) | (stop == n))).sum()) for n in range(count)]),
        np.array([_closure(residual, used, (start == n) | (stop == n)) for n in range(count)]),
        tuple(reasons),
        fitted,
        residual,
        np.where(used, weight, 0.0),
        used,
    )


def _check(count: int, edges: Sequence[Edge]) -> None:
    for edge in edges:
        ends = (edge.start, edge.stop)
        if not (min(ends) >= 0 and max(ends) < count and edge.start != edge.stop):
            raise ValueError(f"edge {edge.start}-{edge.stop}: expected two different scenes of 0 to {count - 1}")
        shape = (edges[0].measured.shape[0], 2)
        if edge.measured.shape != shape or edge.sigma.shape != shape[:1]:
            raise ValueError(
                f"edge {edge.start}-{edge.stop}: expected values {shape} and sigma {shape[:1]}, "
                f"got {edge.measured.shape} and {edge.sigma.shape}"
            )


def _closure(residual: Array, used: NDArray[np.bool_], here: NDArray[np.bool_]) -> float:
    values = residual[here & used] if (here & used).any() else residual[here]
    known = values[np.isfinite(values)]
    return float(np.sqrt((known**2).mean())) if known.size else float("nan")
