"""The network of pairs: small graphs whose answer can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rsgeo_gan.coregister.network import CONTRADICTED, NOT_CONNECTED, Edge, compose, solve

TRUTH = np.array([[0.0, 0.0], [3.0, -1.0], [-2.0, 4.0], [0.5, 0.25], [6.0, 6.0]])
POINTS = 4


def edge(start: int, stop: int, *, wrong: tuple[float, float] = (0.0, 0.0), sigma: float = 0.2) -> Edge:
    value = TRUTH[stop] - TRUTH[start] + wrong
    return Edge(start, stop, np.tile(value, (POINTS, 1)), np.full(POINTS, sigma))


def everyone(count: int = 5, **changed: Edge) -> list[Edge]:
    edges = {f"e{i}{j}": edge(i, j) for i in range(count) for j in range(i + 1, count)}
    return list((edges | changed).values())


def test_a_chain_adds_up() -> None:
    found = solve(3, [edge(0, 1), edge(1, 2)], floor_px=0.1)
    assert np.allclose(found.displacement[:, 0], TRUTH[:3])
    assert found.reasons == ("", "", "")
    # Two links of 0.2 px, each with the floor.
    assert found.sigma[2] == pytest.approx(np.sqrt(2 * (0.04 + 0.01)))
    assert found.n_edges.tolist() == [1, 2, 1]


def test_two_ways_to_a_scene_are_weighed_by_their_errors() -> None:
    found = solve(2, [edge(0, 1, sigma=0.1), edge(0, 1, wrong=(0.3, 0), sigma=0.3)], floor_px=0.0)
    assert found.displacement[1, 0] == pytest.approx([3.0 + 0.3 / 10, -1.0], abs=2e-3)


def test_more_pairs_make_the_stated_error_smaller() -> None:
    alone = solve(5, [edge(0, n) for n in range(1, 5)]).sigma[1, 0]
    together = solve(5, everyone()).sigma[1, 0]
    assert together < 0.8 * alone


def test_pairs_that_disagree_make_the_stated_error_larger() -> None:
    calm = solve(5, everyone()).sigma[1, 0]
    torn = solve(5, everyone(e12=edge(1, 2, wrong=(0.6, 0)), e13=edge(1, 3, wrong=(0, 0.6)))).sigma[1, 0]
    assert torn > 1.05 * calm


def test_a_wrong_direct_pair_is_outvoted() -> None:
    found = solve(5, everyone(e03=edge(0, 3, wrong=(5, -4))))
    assert np.allclose(found.displacement[:, 0], TRUTH, atol=1e-6)
    names = [(e.start, e.stop) for e in everyone()]
    assert [name for name, held in zip(names, found.used, strict=True) if not held] == [(0, 3)]
    assert found.residual[names.index((0, 3))] == pytest.approx(np.hypot(5, 4), abs=1e-6)
    assert found.reasons == ("",) * 5


def test_a_scene_all_of_whose_pairs_are_chance_is_exposed() -> None:
    bad = {f"e{n}2": edge(n, 2, wrong=w) for n, w in ((0, (5.0, 0.0)), (1, (-6.0, 3.0)))}
    bad |= {f"e2{n}": edge(2, n, wrong=w) for n, w in ((3, (2.0, 8.0)), (4, (-4.0, -7.0)))}
    found = solve(5, everyone(**bad))
    assert found.reasons == ("", "", CONTRADICTED, "", "")
    good = [0, 1, 3, 4]
    assert np.allclose(found.displacement[good, 0], TRUTH[good], atol=1e-6)
    assert found.scene_residual[2] > 2 > found.scene_residual[1]
    assert found.n_edges[2] == 0


def test_a_triangle_that_does_not_close_convicts_nobody_and_trusts_nobody() -> None:
    found = solve(3, [edge(0, 1), edge(0, 2), edge(1, 2, wrong=(4, 0))])
    assert found.reasons == ("", CONTRADICTED, CONTRADICTED)


def test_a_scene_behind_a_contradicted_one_is_not_connected() -> None:
    edges = [edge(0, 1), edge(0, 2), edge(1, 2, wrong=(4, 0)), edge(2, 3), edge(3, 4)]
    found = solve(5, edges)
    assert found.reasons[2] == CONTRADICTED
    assert set(found.reasons[3:]) <= {NOT_CONNECTED, CONTRADICTED}
    assert not found.used[3:].any()


def test_scenes_apart_from_the_reference_are_not_connected() -> None:
    found = solve(5, [edge(0, 1), edge(2, 3)])
    assert found.reasons == ("", "", NOT_CONNECTED, NOT_CONNECTED, NOT_CONNECTED)
    assert np.isnan(found.displacement[2:]).all()
    assert np.isinf(found.sigma[2:]).all()
    assert found.used.tolist() == [True, False]


def test_without_edges_everything_but_the_reference_is_not_connected() -> None:
    found = solve(3, [])
    assert found.reasons == ("", NOT_CONNECTED, NOT_CONNECTED)


def test_an_edge_that_is_not_a_number_is_not_used() -> None:
    lost = Edge(0, 1, np.full((POINTS, 2), np.nan), np.full(POINTS, np.inf))
    found = solve(3, [lost, edge(0, 2), edge(2, 1)])
    assert np.allclose(found.displacement[1, 0], TRUTH[1])
    assert found.used.tolist() == [False, True, True]
    assert np.isnan(found.residual[0])


def test_every_lattice_point_is_weighed_by_its_own_error() -> None:
    left = Edge(0, 1, np.zeros((2, 2)), np.array([0.1, 1.0]))
    right = Edge(0, 1, np.full((2, 2), 0.2), np.array([1.0, 0.1]))
    found = solve(2, [left, right])
    assert found.displacement[1, 0, 0] < 0.02
    assert found.displacement[1, 1, 0] > 0.18


def test_displacements_with_slopes_are_composed_where_the_content_lies() -> None:
    at = np.array([[-100.0, 0.0], [0.0, 50.0], [100.0, 100.0]])
    turn = np.array([[0.0, 0.02], [-0.02, 0.0]])

    def sample(so_far: np.ndarray) -> list[Edge]:
        first = np.tile([10.0, 0.0], (3, 1))
        # The second scene turns about the first by 0.02: the first's 10 px move its answer by 0.2 px.
        second = (at + so_far[1]) @ turn
        return [Edge(0, 1, first, np.full(3, 0.1)), Edge(1, 2, second, np.full(3, 0.1))]

    found = compose(3, sample, 3)
    assert np.allclose(found.displacement[2], np.array([10.0, 0.0]) + (at + np.array([10.0, 0.0])) @ turn)


def test_stated_errors_hold_and_all_pairs_beat_the_direct_ones(rng: np.random.Generator) -> None:
    # Expected errors are of both components together.
    apart, inside, direct = [], [], []
    for _ in range(60):
        noisy = []
        for plain in everyone():
            noise = rng.normal(0, 0.3 / np.sqrt(2), 2)
            noisy.append(Edge(plain.start, plain.stop, plain.measured + noise, np.full(POINTS, 0.3)))
            if not plain.start:
                direct.append(np.hypot(*noise))
        found = solve(5, noisy, floor_px=0.0)
        error = np.hypot(*(found.displacement[1:, 0] - TRUTH[1:]).T)
        apart += list(error)
        inside += list(error < 2 * found.sigma[1:, 0])
        assert set(found.reasons) == {""}
    assert np.mean(inside) > 0.93
    assert np.median(apart) < 0.75 * np.median(direct)


def test_edges_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match="edge 1-1: expected two different scenes"):
        solve(2, [Edge(1, 1, np.zeros((1, 2)), np.ones(1))])
    with pytest.raises(ValueError, match=r"expected values \(4, 2\)"):
        solve(2, [edge(0, 1), Edge(0, 1, np.zeros((1, 2)), np.ones(1))])
