from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsgeo_gan.conditions import Classes, Conditions, Cyclic, Ordinal
from rsgeo_gan.errors import CatalogError

LABEL = Classes("label", ("crop", "forest", "water"))
DEPTH = Ordinal("depth", -2, 6, "m")
DAY = Cyclic("day", 365, "d")
ALL = Conditions((LABEL, DEPTH, DAY))


def test_codes_follow_one_another_in_the_order_of_the_parts() -> None:
    assert ALL.width == 6
    assert ALL.slices == {"label": slice(0, 3), "depth": slice(3, 4), "day": slice(4, 6)}
    code = ALL.encode({"day": 365 / 4, "label": "forest", "depth": 0})
    assert code.dtype == np.float32
    np.testing.assert_allclose(code, [-1, 1, -1, -0.5, 1, 0], atol=1e-6)


def test_new_years_eve_is_beside_new_year() -> None:
    gap = np.linalg.norm(DAY.encode(364.5) - DAY.encode(0.5))
    assert gap == pytest.approx(2 * math.sin(math.pi / 365), rel=1e-4)


@given(
    st.sampled_from(LABEL.classes),
    st.floats(-2, 6),
    st.floats(0, 364.99),
)
def test_values_come_back_from_their_code(label: str, depth: float, day: float) -> None:
    code = ALL.encode({"label": label, "depth": depth, "day": day})
    assert np.abs(code).max() <= 1
    found = ALL.decode(code)
    assert found["label"] == label
    assert found["depth"] == pytest.approx(depth, abs=1e-5)
    assert math.remainder(found["day"] - day, 365) == pytest.approx(0, abs=1e-3)


def test_conditions_survive_json() -> None:
    again = Conditions.from_dict(json.loads(json.dumps(ALL.to_dict())))
    assert again == ALL
    assert Conditions.from_dict({}) == Conditions()
    assert Conditions().encode({}).shape == (0,)


def test_a_walk_changes_one_condition_only() -> None:
    days = [0, 90, 180]
    walk = ALL.walk("day", days, {"label": "water", "depth": 2})
    assert walk.shape == (3, 6)
    assert (walk[:, :4] == walk[0, :4]).all()
    np.testing.assert_array_equal(walk[:, 4:], np.stack([DAY.encode(day) for day in days]))
    assert Conditions((LABEL,)).walk("label", ["crop", "water"]).tolist() == [[1, -1, -1], [-1, -1, 1]]


def test_labels_are_positions_among_the_classes() -> None:
    assert ALL.classes is LABEL
    assert LABEL.index("water") == 2
    # Class names that are numbers may come as such.
    assert Classes("cover", ("10", "20")).encode(20).tolist() == [-1, 1]
    assert Conditions((DAY,)).classes is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label": "desert", "depth": 0, "day": 1}, "no class 'desert'; expected one of crop, forest, water"),
        ({"label": "crop", "depth": 7, "day": 1}, "depth: expected -2 to 6 m, got 7"),
        ({"label": "crop", "depth": "deep", "day": 1}, "depth: expected a number, got 'deep'"),
        ({"label": "crop", "depth": 0, "day": math.nan}, "day: expected a number, got nan"),
        ({"label": "crop", "depth": 0}, "Conditions day have no value"),
        ({"label": "crop", "depth": 0, "day": 1, "hour": 3}, "no condition 'hour'; expected one of label, depth, day"),
    ],
)
def test_values_that_are_not_the_conditions_own_are_explained(values: dict[str, object], message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        ALL.encode(values)


def test_conditions_that_do_not_hold_together_are_refused() -> None:
    with pytest.raises(CatalogError, match="different classes"):
        Classes("label", ("a", "a"))
    with pytest.raises(CatalogError, match="low < high"):
        Ordinal("depth", 1, 1)
    with pytest.raises(CatalogError, match="period above 0"):
        Cyclic("day", 0)
    with pytest.raises(CatalogError, match="different names"):
        Conditions((DAY, DAY))
    with pytest.raises(CatalogError, match="describes no condition"):
        Conditions.from_dict({"parts": [{"kind": "colour", "name": "label"}]})
    with pytest.raises(CatalogError, match="6 entries, got 2"):
        ALL.decode([0, 1])
