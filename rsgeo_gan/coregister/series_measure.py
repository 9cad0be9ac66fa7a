"""Many scenes against one reference: pairs measured among all of them, solved together, each scene judged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox

from rsgeo_gan import raster
from rsgeo_gan.coregister.composing import (
    carried,
    expected_errors,
    lattice_of,
    likeness,
    pixel_ratio,
    positions,
    unshrunk,
)
from rsgeo_gan.coregister.network import Edge, Network, compose
from rsgeo_gan.coregister.registration import Freedom, Registration, survey
from rsgeo_gan.coregister.series_result import SeriesEdge, SeriesResult, SeriesScene
from rsgeo_gan.coregister.views import View
from rsgeo_gan.displacement import Displacement
from rsgeo_gan.errors import CoregistrationError, GridError, RSGeoGANError, SourceError
from rsgeo_gan.progress import Progress, silent

__all__ = ["measure_series"]

_log = logging.getLogger(__name__)

_ALL_PAIRS_UP_TO = 5
_LARGEST_SEARCH_PX = 256.0


def measure_series(
    reference: View,
    scenes: Sequence[View | RSGeoGANError],
    names: Sequence[str],
    *,
    max_shift_px: float = 12.0,
    model: Freedom = "auto",
    method: str = "structure",
    neighbours: int = 3,
    workers: int = 1,
    progress: Progress = silent,
) -> SeriesResult:
    """Measure where the content of every scene lies relative to a reference, consistently.

    Every scene is compared with the reference and with its next neighbours in the order given (best the order
    of time); up to five scenes are all compared with each other. One least-squares solution over all reliable
    pairs gives the displacements: a scene that the reference cannot be matched to directly is reached through
    its neighbours, and one whose pairs contradict each other is exposed and declined.

    Args:
        reference: The raster that gives the geometry.
        scenes: The rasters whose content may lie elsewhere, or why one cannot be read.
        names: Their names.
        max_shift_px: Largest mean displacement looked for, reference pixels; two scenes may lie twice as far apart.
        model: Freedom allowed.
        method: Name of the descriptor.
        neighbours: How many of its followers each scene is compared with.
        workers: Pairs measured at the same time; the result does not depend on it.
        progress: Told about every pair.

    Returns:
        The scenes with their displacements, and the pairs.

    Raises:
        SourceError: If the reference or none of the scenes can be read.
        GridError: If the reference has no usable georeference.
        CoregistrationError: If the settings are not understood.
    """
    if neighbours < 0 or workers < 1:
        raise CoregistrationError(
            f"Series of {len(scenes)} scenes: expected neighbours of at least 0 and workers of at least 1, "
            f"got {neighbours} and {workers}. Correct the settings."
        )
    box = raster.inspect(reference.path).geobox
    views: list[View | RSGeoGANError] = [reference]
    ratios = [1.0]
    for scene, name in zip(scenes, names, strict=True):
        known, ratio = scene, 1.0
        if isinstance(scene, View):
            try:
                ratio = pixel_ratio(box, raster.inspect(scene.path).geobox)
            except (SourceError, GridError) as error:
                known = error
        if isinstance(known, RSGeoGANError):
            _log.warning("series: %s is left out: %s", name, known)
        views.append(known)
        ratios.append(ratio)
    failed = [entry for entry in views if isinstance(entry, RSGeoGANError)]
    if failed and len(failed) == len(scenes):
        raise failed[0]
    pairs = [p for p in _pairs(len(scenes), neighbours) if not any(isinstance(views[n], RSGeoGANError) for n in p)]

    def measured(pair: tuple[int, int]) -> Registration:
        start, stop = pair
        here, there = views[start], views[stop]
        assert isinstance(here, View)
        assert isinstance(there, View)
        room = max_shift_px
        if start and np.isfinite(ratios[start]):
            room = min(2.0 * max_shift_px / ratios[start], _LARGEST_SEARCH_PX)
        return survey(here, there, max_shift_px=room, model=model, method=method)

    found: dict[tuple[int, int], Registration | RSGeoGANError] = {}
    progress("measuring pairs", 0, len(pairs))
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(measured, pair): pair for pair in pairs}
        for done, future in enumerate(as_completed(waiting), start=1):
            try:
                found[waiting[future]] = future.result()
            except (SourceError, GridError) as problem:
                found[waiting[future]] = problem
            progress("measuring pairs", done, len(pairs))
    return _Solving(box, views, {p: found[p] for p in pairs}, model).result(names)


def _pairs(count: int, neighbours: int) -> list[tuple[int, int]]:
    """The reference with every scene, and every scene with its followers."""
    reach = count if neighbours and count <= _ALL_PAIRS_UP_TO else neighbours
    between = [(i, j) for i in range(1, count + 1) for j in range(i + 1, min(i + reach, count) + 1)]
    return [(0, n) for n in range(1, count + 1)] + between


class _Solving:
    """From measured pairs to one displacement a scene."""

    def __init__(
        self,
        box: GeoBox,
        views: Sequence[View | RSGeoGANError],
        found: dict[tuple[int, int], Registration | RSGeoGANError],
        model: Freedom,
    ) -> None:
        self.box, self.views, self.found, self.model = box, views, found, model
        held = {p: r for p, r in found.items() if isinstance(r, Registration) and r.displacement.reliable}
        self.pairs, self.registrations = list(held), list(held.values())
        fields = [r.displacement.field for r in self.registrations if r.displacement.field is not None]
        self.lattice = lattice_of(box, fields)
        self.at = positions(box, self.lattice)

    def result(self, names: Sequence[str]) -> SeriesResult:
        network = compose(len(self.views), self._sampled, len(self.at))
        return SeriesResult(
            self.box,
            tuple(self._scene(number, name, network) for number, name in enumerate(names, start=1)),
            tuple(self._edges(network)),
        )

    def _sampled(self, so_far: NDArray[np.float64]) -> list[Edge]:
        """Every pair, read where its first scene holds what the reference shows at the lattice."""
        edges = []
        for (start, stop), found in zip(self.pairs, self.registrations, strict=True):
            at = self.at + so_far[start]
            edges.append(
                Edge(start, stop, carried(unshrunk(found), self.box, at), expected_errors(found, self.box, at))
            )
        return edges

    def _scene(self, number: int, name: str, network: Network) -> SeriesScene:
        direct = self.found.get((0, number))
        registration = direct if isinstance(direct, Registration) else None
        problem = self.views[number]
        reason = "unreadable" if isinstance(problem, RSGeoGANError) else self._reason(number, network)
        if reason:
            _log.info("series: %s is left alone, %s", name, reason)
            displacement = Displacement.none(self.box, reason=reason)
        else:
            mine = [n for n, pair in enumerate(self.pairs) if number in pair and network.used[n]]
            displacement = likeness(
                self.box,
                self.lattice,
                network.displacement[number],
                self._sigma(number, mine, network),
                confidence=self._confidence(network)[number],
                n_tie_points=sum(self.registrations[n].displacement.n_tie_points for n in mine),
                freest="field" if self.model == "auto" else self.model,
            )
        return SeriesScene(
            name,
            displacement,
            int(network.n_edges[number]),
            float(network.scene_residual[number]),
            registration,
            str(problem) if isinstance(problem, RSGeoGANError) else "",
        )

    def _sigma(self, number: int, mine: Sequence[int], network: Network) -> NDArray[np.float64]:
        """Errors of a scene: the network's, but no better than its best pair, for its pairs share its own noise."""
        pairs = [expected_errors(self.registrations[n], self.box, self.at) for n in mine]
        found: NDArray[np.float64] = np.maximum(network.sigma[number], np.min(pairs, axis=0))
        return found

    def _reason(self, number: int, network: Network) -> str:
        """The network's reason; for a scene that no pair holds, what its pairs say if they say one thing."""
        reason = network.reasons[number]
        held = {scene for pair in self.pairs for scene in pair}
        if not reason or number in held:
            return reason
        said = {
            entry.displacement.reason if isinstance(entry, Registration) else "unreadable"
            for pair, entry in self.found.items()
            if number in pair
        }
        return said.pop() if len(said) == 1 else reason

    def _confidence(self, network: Network) -> list[float]:
        """Trust in each scene: that of the most trusted chain of used pairs, the product of its links."""
        trust = np.zeros(len(self.views))
        trust[0] = 1.0
        for _ in self.views:
            for (a, b), found, used in zip(self.pairs, self.registrations, network.used, strict=True):
                if used:
                    link = found.displacement.confidence
                    trust[a], trust[b] = max(trust[a], trust[b] * link), max(trust[b], trust[a] * link)
        return [float(value) for value in trust]

    def _edges(self, network: Network) -> list[SeriesEdge]:
        nowhere = (float("nan"), float("nan"))
        solved = {pair: n for n, pair in enumerate(self.pairs)}
        sampled = self._sampled(np.nan_to_num(network.displacement))
        edges = []
        for pair, entry in self.found.items():
            n = solved.get(pair)
            if n is None:
                reason = entry.displacement.reason if isinstance(entry, Registration) else str(entry)
                known = network.displacement[pair[1]] - network.displacement[pair[0]]
                fitted = _mean(known) if not (network.reasons[pair[0]] or network.reasons[pair[1]]) else nowhere
                edges.append(SeriesEdge(*pair, nowhere, fitted, float("nan"), float("inf"), False, reason))
                continue
            sigma = float(np.sqrt((sampled[n].sigma ** 2).mean()))
            used = bool(network.used[n])
            edges.append(
                SeriesEdge(
                    *pair,
                    _mean(sampled[n].measured),
                    _mean(network.fitted[n]),
                    float(network.residual[n]),
                    sigma,
                    used,
                    "" if used else self._unused(pair, network),
                )
            )
        return edges

    @staticmethod
    def _unused(pair: tuple[int, int], network: Network) -> str:
        said = [network.reasons[n] for n in pair if network.reasons[n]]
        return f"its scene is {said[0]}" if said else "contradicted by the other pairs"


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    dx, dy = values.mean(axis=0)
    return float(dx), float(dy)
