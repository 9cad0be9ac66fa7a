"""Least squares over a network of measured pairs: every scene's displacement from all pairs at once.

Displacements that follow each other add up: with D_i the displacement of scene i relative to the reference and
d_ij the one of scene j relative to scene i, D_j(p) = D_i(p) + d_ij(p + D_i(p)). `solve` is linear in the
displacements; whoever samples d_ij at p + D_i(p), and solves again, has the exact composition (see `compose`).

Reference: Baarda 1968, A testing procedure for use in geodetic networks (normal equations and reliability);
Beaton and Tukey 1974 (biweight).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONTRADICTED", "NOT_CONNECTED", "Edge", "Network", "compose", "solve"]

CONTRADICTED = "contradicted by its neighbours"
"""Reason of a scene whose pairs do not agree with each other or with the rest."""
NOT_CONNECTED = "not connected"
"""Reason of a scene that no chain of reliable pairs joins to the reference."""

_FLOOR_PX = 0.05
_TUKEY = 4.685
_TOLERANCE_PX = 1.0
_ROUNDS = 60
_LEAST = 1e-3
_IGNORED = 0.01
_SETTLED = 1e-4
_ENOUGH = 100

Array = NDArray[np.float64]


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
        if not at.size or np.abs(at - before).max() < _LEAST:
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
    graph = _Graph(count, start, stop, measured, spread)

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


class _Graph:
    """The edges as arrays, and what is computed on them again and again."""

    def __init__(self, count: int, start: NDArray[np.int64], stop: NDArray[np.int64], measured: Array, spread: Array):
        self.count, self.start, self.stop = count, start, stop
        self.measured, self.spread = measured, spread
        self.design = np.zeros((len(start), count))
        self.design[np.arange(len(start)), stop] += 1.0
        self.design[np.arange(len(start)), start] -= 1.0

    def reached(self, mask: NDArray[np.bool_], without: int = -1) -> NDArray[np.bool_]:
        """Scenes that chains of the masked edges join to the reference; one edge may be left out."""
        found = np.zeros(self.count, bool)
        found[0] = True
        links = [e for e in np.flatnonzero(mask) if e != without]
        grown = True
        while grown:
            grown = False
            for e in links:
                if found[self.start[e]] != found[self.stop[e]]:
                    found[self.start[e]] = found[self.stop[e]] = grown = True
        return found

    def thinned(self) -> _Graph:
        """The same edges at no more than about a hundred of the points."""
        step = max(1, -(-self.measured.shape[1] // _ENOUGH))
        return _Graph(self.count, self.start, self.stop, self.measured[:, ::step], self.spread[:, ::step])

    def robust(self, active: NDArray[np.bool_], joined: NDArray[np.bool_]) -> tuple[Array, Array]:
        """Weights (E,) of the least sum of absolute residuals, and the trust in each edge (E,)."""
        weight = active.astype(float)
        solution = self.linear(weight, joined)
        ratio = self._ratio(solution)
        for _ in range(_ROUNDS):
            weight = active / np.maximum(ratio, _LEAST)
            solution = self.linear(weight, joined)
            before, ratio = ratio, self._ratio(solution)
            if not active.any() or np.abs(ratio - before)[active].max() < _SETTLED:
                break
        least = weight
        # Disagreement below the tolerance is never called a contradiction, however small the stated errors are.
        limit = np.maximum(_TUKEY, _TOLERANCE_PX / self.spread.mean(axis=1)) if self.spread.size else ratio + 1.0
        kept = active.copy()
        while True:
            solution, weight = self._biweight(kept, solution, limit)
            ratio = self._ratio(solution)
            # An edge with little control shows little of its error as a residual.
            shown = np.where(weight > 0, ratio / np.sqrt(self._redundancy(weight)) / limit, 0.0)
            if shown.max(initial=0.0) <= 1.0:
                return least, weight
            kept &= shown < shown.max() * (1.0 - 1e-6)

    def _biweight(self, active: NDArray[np.bool_], solution: Array, limit: Array) -> tuple[Array, Array]:
        """Re-weight by Tukey's biweight until nothing changes."""
        weight = np.zeros(len(active))
        for _ in range(_ROUNDS):
            before = weight
            weight = active * (1.0 - np.minimum(self._ratio(solution) / limit, 1.0) ** 2) ** 2
            weight[weight < _IGNORED] = 0.0
            held = self.reached(weight > 0)
            # A scene whose edges are all refused keeps the place that their least absolute sum gave it.
            solution = np.where(held[:, None, None], self.linear(weight, held), solution)
            if np.abs(weight - before).max(initial=0.0) < _SETTLED:
                break
        return solution, weight

    def _redundancy(self, weight: Array) -> Array:
        """Share of an edge's own error that its residual shows, (E,), 0.02 to 1."""
        nodes = np.flatnonzero(self.reached(weight > 0))[1:]
        if not len(nodes) or not self.spread.shape[1]:
            return np.ones(len(weight))
        design = self.design[:, nodes]
        normal = np.linalg.inv(self._normals(weight, nodes))
        per_point = weight[:, None] / self.spread[:, : len(normal)] ** 2
        taken = np.einsum("en,pnm,em,ep->ep", design, normal, design, per_point, optimize=True).mean(axis=1)
        return np.clip(1.0 - taken, 0.02, 1.0)

    def exposed(self, active: NDArray[np.bool_], used: NDArray[np.bool_], joined: NDArray[np.bool_]) -> list[int]:
        """Scenes that are contradicted; of several, those that are contradicted most."""
        refused = active & ~used
        if not refused.any():
            return []
        share = np.zeros(self.count)
        for node in range(1, self.count):
            here = (self.start == node) | (self.stop == node)
            bad, good = int((here & refused).sum()), int((here & used).sum())
            share[node] = bad / (bad + good) if bad >= max(good, 1) else 0.0
        share[joined & ~self.reached(used)] = 1.0
        if not share.any():
            share = self._hanging(used, refused)
        worst = share.max()
        return [int(node) for node in np.flatnonzero(share == worst)] if worst > 0 else []

    def _hanging(self, used: NDArray[np.bool_], refused: NDArray[np.bool_]) -> Array:
        """1 for scenes beyond the only link of a chain that a refused edge contradicts."""
        found = np.zeros(self.count)
        whole = self.reached(used)
        for link in np.flatnonzero(used):
            beyond = whole & ~self.reached(used, without=int(link))
            if beyond.any() and (refused & (beyond[self.start] != beyond[self.stop])).any():
                found[beyond] = 1.0
        return found

    def errors(self, used: NDArray[np.bool_], weight: Array, joined: NDArray[np.bool_], solution: Array) -> Array:
        """Standard errors (N, P) from the inverse normal matrix, never better than the residuals allow."""
        points = self.spread.shape[1]
        result = np.where(joined[:, None], 0.0, np.inf) * np.ones((1, points))
        nodes = np.flatnonzero(joined)[1:]
        if not len(nodes):
            return result
        freedom = float(used.sum() - len(nodes))
        squared = float((weight * self._ratio(solution) ** 2)[used].sum())
        factor = max(1.0, squared / freedom) if freedom > 0 else 1.0
        variance = np.diagonal(np.linalg.inv(self._normals(used.astype(float), nodes)), axis1=1, axis2=2)
        result[nodes] = np.sqrt(variance * factor).T
        return result

    def linear(self, weight: Array, joined: NDArray[np.bool_]) -> Array:
        """Weighted least squares at every point."""
        points = self.measured.shape[1]
        solution = np.zeros((self.count, points, 2))
        nodes = np.flatnonzero(joined)[1:]
        if not len(nodes):
            return solution
        loaded = (weight[:, None] / self.spread**2)[..., None] * self.measured
        right = np.einsum("en,epk->pnk", self.design[:, nodes], loaded)
        normal = self._normals(weight, nodes)
        if len(normal) == 1:
            solved = np.linalg.solve(normal[0], right.transpose(1, 0, 2).reshape(len(nodes), -1))
            solution[nodes] = solved.reshape(len(nodes), points, 2)
        else:
            solution[nodes] = np.linalg.solve(normal, right).transpose(1, 0, 2)
        return solution

    def _normals(self, weight: Array, nodes: NDArray[np.int64]) -> Array:
        """Normal matrices (P, n, n); one for all points where no sigma changes from place to place."""
        design = self.design[:, nodes]
        same = self.spread.shape[1] > 0 and bool((self.spread == self.spread[:, :1]).all())
        per_point = weight[:, None] / (self.spread[:, :1] if same else self.spread) ** 2
        return np.einsum("en,ep,em->pnm", design, per_point, design, optimize=True)

    def _ratio(self, solution: Array) -> Array:
        """Residual of each edge in units of its expected error, root mean square over the points, (E,)."""
        if not self.measured.shape[1]:
            return np.zeros(len(self.start))
        apart = self.measured - (solution[self.stop] - solution[self.start])
        found: Array = np.sqrt(((apart**2).sum(axis=2) / self.spread**2).mean(axis=1))
        return found


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
