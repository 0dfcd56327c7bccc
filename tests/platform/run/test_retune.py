"""Retuned tables: equal budgets, equal rows share a search, rows train the winners."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cgn.ablation import Bilateral, Triplet
from cgn.config import Config
from cgn.errors import ConfigError
from cgn_platform.run.retune import retune, searches
from cgn_platform.search.load import load_table
from cgn_platform.search.records import TrialRecord
from cgn_platform.space import Row, Space, Table

ROWS = (
    Row(("one view",), {"bilateral": Bilateral.NONE, "negative_embedding": False, "triplet": Triplet.NONE}),
    Row(("no triplet",), {"triplet": Triplet.NONE}),
    Row(("proposed",), {}),
    Row(("proposed again",), {}),
)
TABLES = Path(__file__).parents[3] / "search_spaces"
TABLE = Table("Mine", ("row",), ROWS, Config(epochs=2))


class Searches:
    """Every trial is complete; the second is the best of each search."""

    def __init__(self, states: Sequence[str] = ("complete", "complete", "complete")) -> None:
        self.requests: list[tuple[str, Space]] = []
        self._states = states

    def __call__(self, study: str, space: Space) -> list[TrialRecord]:
        self.requests.append((study, space))
        params = next(iter(space.queued()))
        return [
            TrialRecord(
                number,
                state,  # type: ignore[arg-type]
                0.6 + 0.1 * (number == 1) if state == "complete" else None,
                {**params, "learning_rate": 1e-4 * (number + 1)},
                {},
                facts={"seconds": 10.0},
            )
            for number, state in enumerate(self._states)
        ]


def test_every_row_has_the_same_budget_over_the_fields_that_it_uses() -> None:
    by_row = searches(TABLE, "t", 5)
    assert {space.trials for _, space in by_row.values()} == {5}
    assert {space.seed for _, space in by_row.values()} == {0}
    assert {space.prune.rule for _, space in by_row.values()} == {"none"}
    dimensions = {name: set(next(space.queued())) for name, (_, space) in by_row.items()}
    assert dimensions["one view"] == {"learning_rate"}
    assert dimensions["no triplet"] == {"learning_rate", "alpha"}
    assert dimensions["proposed"] == {"learning_rate", "alpha", "beta"}


def test_a_row_is_tuned_only_over_what_its_method_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a method that ignores alpha and beta would spend its trials on them."""
    monkeypatch.setattr("cgn.provenance.fields_read", lambda _method: frozenset({"learning_rate", "beta"}))
    _, space = searches(TABLE, "t", 5)["proposed"]
    assert set(space.dimensions) == {"learning_rate", "beta"}


def test_rows_that_are_equal_share_a_search_and_train_its_winner() -> None:
    sweep = Searches()
    tuned = retune(TABLE, "t", 3, sweep)
    assert [study for study, _ in sweep.requests] == [
        "t-row1-one-view",
        "t-row2-no-triplet",
        "t-row3-proposed",
    ]
    assert {tuned.config(row).learning_rate for row in tuned.rows} == {2e-4}
    assert tuned.config(tuned.rows[2], seed=4).seed == 4
    first = tuned.rows[0].tuned
    assert first is not None
    assert (first.trials, first.seconds) == (3, 20.0)
    assert tuned.tuned
    assert not TABLE.tuned
    assert tuned.declaration() != TABLE.declaration()  # so that neither is resumed under the other's name


def test_more_trials_leave_the_declaration_as_it_was() -> None:
    few, many = (retune(TABLE, "t", n, Searches()).declaration() for n in (3, 30))
    assert few == many


def test_a_row_without_a_complete_trial_keeps_its_own_settings() -> None:
    tuned = retune(TABLE, "t", 2, Searches(("failed", "failed")))
    assert [tuned.config(row) for row in tuned.rows] == [TABLE.config(row) for row in ROWS]


def test_what_a_row_sets_itself_is_not_searched() -> None:
    table = Table("T", ("row",), (Row(("own alpha",), {"alpha": 0.25}), Row(("base",), {})))
    assert "alpha" not in searches(table, "t", 2)["own alpha"][1].dimensions


def test_a_base_outside_the_ranges_is_refused() -> None:
    with pytest.raises(ConfigError, match="learning_rate must be in its range"):
        searches(TABLE.edit(learning_rate=0.5), "t", 2)


@pytest.mark.parametrize("number", [3, 4, 5])
def test_the_papers_tables_can_be_retuned(number: int) -> None:
    table: Any = load_table(TABLES / f"table_{number}.py")
    assert set(searches(table, "t", 2)) == {row.name for row in table.rows}
