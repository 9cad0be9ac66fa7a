"""What the studies share: a rerun goes on where the last one stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from runs import Ledger, chosen, parser


def key(cell: int) -> dict[str, object]:
    return {"cell": cell, "size": {"steps": 3}}


def test_a_rerun_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "work", minutes=1)
    for cell, wanted in first.missing(range(5), key):
        if cell == 2:
            break
        first.append(wanted | {"score": cell**2})
    again = Ledger(tmp_path / "work", minutes=1)
    assert [cell for cell, _ in again.missing(range(5), key)] == [2, 3, 4]
    assert [row["score"] for row in again.rows()] == [0, 1]
    # Another size is another row.
    assert len(list(again.missing(range(5), lambda cell: key(cell) | {"size": {"steps": 4}}))) == 5


def test_a_cell_done_by_another_process_meanwhile_is_not_repeated(tmp_path: Path) -> None:
    mine, other = Ledger(tmp_path, minutes=1), Ledger(tmp_path, minutes=1)
    going = mine.missing(range(3), key)
    assert next(going)[0] == 0
    other.append(key(1))
    assert [cell for cell, _ in going] == [2]


def test_nothing_begins_after_the_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger(tmp_path, minutes=-1)
    assert not list(ledger.missing(range(3), key))
    assert not list(ledger.missing(range(3), key))
    assert capsys.readouterr().err.count("run again to go on") == 1


def test_rows_of_other_files_stay_apart(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append({"a": 1}, "pools")
    assert ledger.rows() == []
    assert ledger.rows("pools") == [{"a": 1}]


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    assert chosen(None, ["a", "b"], ["a"]) == ["a"]
    assert chosen([], ["a", "b"]) == ["a", "b"]
    with pytest.raises(SystemExit, match="expected some of a, b"):
        chosen(["a", "c"], ["a", "b"])


def test_studies_have_the_same_arguments(tmp_path: Path) -> None:
    found = parser("A study.\n\nMore.", steps=7).parse_args(["--work", str(tmp_path), "--seeds", "2"])
    assert (found.work, found.steps, found.seeds, found.full, found.show) == (tmp_path, 7, 2, False, False)
