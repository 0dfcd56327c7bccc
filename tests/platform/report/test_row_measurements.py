"""What is measured of every row, from its units; and how the page, the terminal and old facts show it."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from cgn import cost
from cgn.config import Config
from cgn_platform.console.tables import table_text
from cgn_platform.report.page import render
from cgn_platform.report.row_measurements import COUNTED, row_measurements, unchanged
from cgn_platform.store.ledger import Ledger
from cgn_platform.tracking.events import row_event

ADDED = (
    *("localization_error_folds", "localization_error_any_class", "epochs_per_second", "before_seconds"),
    *("healthy_films", "made_difference", "note", *COUNTED),
)


def unit(seconds: tuple[float, ...] = (), **result: Any) -> Any:
    reports = [SimpleNamespace(epoch=epoch, seconds=value) for epoch, value in enumerate(seconds)]
    return SimpleNamespace(facts={"result": result}, reports=reports)


def collapsed(table: dict[str, Any], least: float = 2e-4) -> dict[str, Any]:
    """The table, with a first row whose generator changed nothing in a fold."""
    change = {"made_difference": {"least": least, "mean": 0.02}, "note": unchanged(least)}
    return {**table, "rows": [{**table["rows"][0], **change}, *table["rows"][1:]]}


def test_figures_are_those_of_the_units() -> None:
    errors = {"localization_error": 0.5, "localization_error_any_class": 0.25}
    units = [
        [unit((9.0, 0.5, 0.25), before_seconds=3.0, healthy_films=52, made_difference=0.02, **errors)],
        [unit((9.0, 0.25, 0.125), before_seconds=4.0, healthy_films=66, made_difference=0.04, **errors)],
    ]
    measured = row_measurements(units, None, 32)
    assert measured == {
        "localization_error_folds": 0.5,
        "localization_error_any_class": 0.25,
        "epochs_per_second": 4.0,
        "before_seconds": 7.0,
        "healthy_films": {"least": 52, "most": 66},
        "made_difference": {"least": 0.02, "mean": pytest.approx(0.03)},
        "note": None,
        **dict.fromkeys(COUNTED),
    }
    assert set(measured) == set(ADDED)


def test_units_of_earlier_versions_and_single_epochs_have_no_such_figures() -> None:
    measured = row_measurements([[unit((1.0,), test_auc=0.5, localization_error=None)]], None, 32)
    assert measured == {**dict.fromkeys(ADDED), "before_seconds": 0.0}


@pytest.mark.parametrize(("differences", "noted"), [((0.02, 9e-4), True), ((0.02, 1.1e-3), False)])
def test_a_generator_that_changes_nothing_in_one_fold_is_noted(differences: Any, noted: bool) -> None:
    units = [[unit((1.0, 1.0), made_difference=value) for value in differences]]
    note = row_measurements(units, None, 32)["note"]
    assert (note is not None) == noted
    if noted:
        assert note == (
            "the generator changes nothing: mean |X_T - X_C| 9.0e-04 is below 1e-03; "
            "this row is a one-view network"
        )


def test_a_method_that_cannot_be_counted_has_no_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_config: Config, _size: int) -> None:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(cost, "count", broken)
    measured = row_measurements([[unit((1.0, 0.5))]], Config(), 32)
    assert [measured[name] for name in COUNTED] == [None] * 4
    assert measured["epochs_per_second"] == 2.0


def test_rows_of_tables_and_sweeps_are_measured(facts: dict[str, Any], ledger: Ledger) -> None:
    for row in facts["rows"]:
        if not row["complete"]:
            assert not set(ADDED) & set(row)
            continue
        counted = cost.count(Config.of(row["config"]), facts["data"]["size"])
        assert [row[name] for name in COUNTED] == [getattr(counted, name) for name in COUNTED]
        results = [ledger.open(name).result for seed in row["units"] for name in seed]
        errors = [result.localization_error_any_class for result in results]
        assert row["localization_error_any_class"] == pytest.approx(sum(errors) / len(errors))
        assert row["epochs_per_second"] > 0
        assert (row["before_seconds"], row["healthy_films"], row["note"]) == (0.0, None, None)


def test_the_page_has_the_cost_of_every_complete_row(page: str, facts: dict[str, Any]) -> None:
    costs = page.partition('id="costs"')[2].partition("</table>")[0]
    complete = [number for number, row in enumerate(facts["rows"]) if row["complete"]]
    shown = ("parameters", "parameters_training", "gflop_predicted", "gflop_trained", "epochs_per_second")
    for name in (*shown, "before_seconds", "localization_error_folds", "localization_error_any_class"):
        assert re.findall(rf'data-at="rows\.(\d)\.{name}"', costs) == [str(number) for number in complete]
    assert 'class="warning"' not in page


def test_a_collapsed_row_is_noted_wherever_it_is_shown(table: dict[str, Any], ledger: Ledger) -> None:
    facts = collapsed(table)
    page = render(facts, ledger)
    warning = re.sub(r"<[^>]+>", "", page.partition('<p class="warning">')[2].partition("</p>")[0])
    assert "SBF / ×: the generator changes nothing." in warning
    assert "is 2.0e−04; this row is a one-view network." in warning
    note = f"# SBF / ×: {facts['rows'][0]['note']}"
    assert note in table_text(facts).splitlines()
    event = row_event(0, facts["rows"][0], {}, now=0)
    assert event["tags"]["cgn.remark"] == event["tags"]["mlflow.note.content"] == facts["rows"][0]["note"]
    assert event["metrics"]["made_difference"] == 2e-4


def test_mlflow_has_the_figures_as_metrics_of_the_row(table: dict[str, Any]) -> None:
    row = table["rows"][0]
    event = row_event(0, {**row, "healthy_films": {"least": 52, "most": 66}}, {}, now=0)
    names = [name for name in ADDED if isinstance(row[name], int | float)]
    assert {"parameters", "gflop_trained", "before_seconds", "localization_error_any_class"} <= set(names)
    assert {name: event["metrics"][name] for name in names} == {name: row[name] for name in names}
    assert event["metrics"]["healthy_films"] == 52
    assert event["tags"]["cgn.remark"] == ""


def test_facts_of_earlier_versions_are_shown_as_before(facts: dict[str, Any], ledger: Ledger) -> None:
    rows = [{name: value for name, value in row.items() if name not in ADDED} for row in facts["rows"]]
    page = render({**facts, "rows": rows}, ledger)
    assert 'id="costs"' not in page
    assert 'class="warning"' not in page
    assert 'id="table"' in page
    old = row_event(0, {**rows[0], "published": {}}, {}, now=0)
    assert not set(ADDED) & set(old["metrics"])
    if facts["kind"] == "table":
        assert "SBF" in table_text({**facts, "rows": rows})
