"""What holds for any network of pairs: consistent edges are reproduced, one liar changes nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rsgeo_gan.coregister.network import CONTRADICTED, Edge, Network, solve

examples = settings(max_examples=40, deadline=None, derandomize=True)
POINTS = 3
SIGMA = np.full(POINTS, 0.2)


@st.composite
def truths(draw: st.DrawFn, least: int = 2, most: int = 8) -> np.ndarray:
    """Displacements of scenes at three points, the reference at zero."""
    count = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    truth = rng.uniform(-12, 12, (count, POINTS, 2))
    truth[0] = 0
    return truth


@st.composite
def connected(draw: st.DrawFn) -> tuple[np.ndarray, list[Edge]]:
    """A truth and consistent edges that reach every scene."""
    truth = draw(truths())
    count = len(truth)
    pairs = [(draw(st.integers(0, n - 1)), n) for n in range(1, count)]
    others = [(i, j) for i in range(count) for j in range(count) if i != j]
    pairs += draw(st.lists(st.sampled_from(others), max_size=8))
    return truth, [edge(truth, i, j) for i, j in pairs]


def edge(truth: np.ndarray, start: int, stop: int, wrong: np.ndarray | float = 0.0) -> Edge:
    return Edge(start, stop, truth[stop] - truth[start] + wrong, SIGMA)


def everyone(truth: np.ndarray) -> list[Edge]:
    return [edge(truth, i, j) for i in range(len(truth)) for j in range(i + 1, len(truth))]


def same(a: Network, b: Network) -> None:
    assert a.reasons == b.reasons
    assert np.allclose(a.displacement, b.displacement, atol=1e-6, equal_nan=True)
    assert np.allclose(a.sigma, b.sigma, rtol=1e-6)


@examples
@given(case=connected())
def test_consistent_edges_are_reproduced_exactly_on_any_connected_graph(case: tuple[np.ndarray, list[Edge]]) -> None:
    truth, edges = case
    found = solve(len(truth), edges)
    assert np.allclose(found.displacement, truth, atol=1e-8)
    assert found.used.all()
    assert set(found.reasons) == {""}
    assert np.nanmax(found.scene_residual) < 1e-7
    assert (found.sigma[1:] > 0).all()


@examples
@given(
    truth=truths(least=4),
    which=st.integers(0, 1000),
    angle=st.floats(0, 2 * np.pi),
    length=st.floats(2.0, 30.0),
)
def test_one_corrupted_edge_among_redundant_ones_moves_nothing_and_is_flagged(
    truth: np.ndarray, which: int, angle: float, length: float
) -> None:
    edges = everyone(truth)
    which %= len(edges)
    wrong = length * np.array([np.cos(angle), np.sin(angle)])
    edges[which] = edge(truth, edges[which].start, edges[which].stop, wrong)
    found = solve(len(truth), edges)
    assert np.allclose(found.displacement, truth, atol=1e-6)
    assert np.flatnonzero(~found.used).tolist() == [which]
    assert set(found.reasons) == {""}
    assert np.isclose(found.residual[which], length, atol=1e-6)


@examples
@given(truth=truths(least=4, most=7), node=st.integers(1, 100), seed=st.integers(0, 2**32 - 1))
def test_a_scene_of_another_place_is_exposed_and_the_others_stay(truth: np.ndarray, node: int, seed: int) -> None:
    node = 1 + node % (len(truth) - 1)
    rng = np.random.default_rng(seed)
    edges = []
    for number, plain in enumerate(everyone(truth)):
        # Answers of chance, far apart from each other.
        chance = 10.0 * number * np.array([np.cos(number), np.sin(number)]) + rng.uniform(2, 4, 2)
        edges.append(edge(truth, plain.start, plain.stop, chance if node in (plain.start, plain.stop) else 0.0))
    found = solve(len(truth), edges)
    assert [n for n, reason in enumerate(found.reasons) if reason] == [node]
    assert found.reasons[node] == CONTRADICTED
    rest = [n for n in range(len(truth)) if n != node]
    assert np.allclose(found.displacement[rest], truth[rest], atol=1e-6)


@examples
@given(case=connected(), seed=st.integers(0, 2**32 - 1))
def test_order_and_direction_of_edges_do_not_matter(case: tuple[np.ndarray, list[Edge]], seed: int) -> None:
    truth, plain = case
    rng = np.random.default_rng(seed)
    noisy = [Edge(e.start, e.stop, e.measured + rng.normal(0, 0.1, 2), SIGMA) for e in plain]
    turned = [Edge(e.stop, e.start, -e.measured, SIGMA) if rng.random() < 0.5 else e for e in noisy]
    order = rng.permutation(len(turned))
    same(solve(len(truth), noisy), solve(len(truth), [turned[n] for n in order]))
