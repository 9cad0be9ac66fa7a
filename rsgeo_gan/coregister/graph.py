"""The graph of measured pairs as arrays: robust weights, least squares, errors, and which scenes are exposed.

Reference: Baarda 1968, A testing procedure for use in geodetic networks (normal equations and reliability);
Beaton and Tukey 1974 (biweight).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Graph"]

_TUKEY = 4.685
"""Residual over expected error at which the biweight is zero: 95 % efficient for normal errors."""
_TOLERANCE_PX = 1.0
_ROUNDS = 60
_LEAST = 1e-3
_IGNORED = 0.01
_SETTLED = 1e-4
_ENOUGH = 100

Array = NDArray[np.float64]


class Graph:
    """E edges between N scenes, of which scene 0 is the reference, measured at P points.

    Args:
        count: Number of scenes.
        start: Scene that each edge is relative to, shape (E,).
        stop: Scene whose displacement relative to that was measured, shape (E,).
        measured: dx, dy, pixels, shape (E, P, 2).
        spread: Expected error, both components together, pixels, above 0, shape (E, P).
    """

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

    def thinned(self) -> Graph:
        """The same edges at no more than about a hundred of the points."""
        step = max(1, -(-self.measured.shape[1] // _ENOUGH))
        return Graph(self.count, self.start, self.stop, self.measured[:, ::step], self.spread[:, ::step])

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
