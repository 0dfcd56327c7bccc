"""The facts of a table are what the ledger has."""

from typing import Any

import pytest

from cgn_platform.store import out_of_fold
from cgn_platform.store.ledger import Ledger


def test_figures_of_a_row_are_those_of_its_units(table: dict[str, Any], ledger: Ledger) -> None:
    complete = [row for row in table["rows"] if row["complete"]]
    assert [row["name"] for row in complete] == ["SBF / ×", "AdaIN-GAN / ✓"]
    for row in complete:
        units = [[ledger.open(unit_id) for unit_id in seed] for seed in row["units"]]
        assert [[unit.result.test_auc for unit in seed] for seed in units] == row["fold_auc"]
        assert [[unit.result.val_auc for unit in seed] for seed in units] == row["val_auc"]
        seconds = [unit.result.seconds for seed in units for unit in seed]
        assert row["seconds"] == pytest.approx(sum(seconds))
        joined = out_of_fold.read(ledger, row["units"])
        assert joined is not None
        assert row["auc"] == joined.auc()._asdict()


def test_a_row_that_was_never_run_has_a_reason_and_no_figures(table: dict[str, Any]) -> None:
    row = table["rows"][1]
    assert not row["complete"]
    assert row["why"] == "6 of 6 units are missing: not trained yet"
    assert "fold_auc" not in row
    assert "auc" not in row


def test_the_run_is_part_of_the_facts(table: dict[str, Any]) -> None:
    run = table["run"]
    assert (table["kind"], table["name"], run["seeds"], run["mode"]) == ("table", "three", [0, 1], "frozen")
    assert run["cpu_hours"] == pytest.approx(sum(row.get("seconds", 0) for row in table["rows"]) / 3600)
