"""Charts of trials draw the trials of the facts."""

from typing import Any

import pytest

from cgn_platform.report.page import render
from cgn_platform.report.trial_charts import history, parallel, pruning
from cgn_platform.search.summary import IMPORTANCE_TRIALS
from cgn_platform.store.ledger import Ledger


def trial(number: int, state: str, value: float | None, curve: dict[str, float], **params: Any) -> dict:
    return {"number": number, "state": state, "value": value, "curve": curve, "params": params}


TRIALS = [
    trial(0, "complete", 0.7, {"0": 0.5, "1": 0.7}, rate=1e-4, kind="a"),
    trial(1, "pruned", None, {"1": 0.45, "0": 0.4}, rate=1e-2, kind="b"),
    trial(2, "complete", 0.8, {"0": 0.6, "1": 0.8}, rate=1e-2),
    trial(3, "failed", None, {}),
]


def test_a_page_draws_pruning_parallel_coordinates_and_importances(
    sweep: dict[str, Any], ledger: Ledger, spec: Any, trace: Any
) -> None:
    page = render(sweep, ledger)
    pruned = trace(spec(page, "pruning"), "pruned")
    assert (pruned["x"], pruned["y"]) == ([1, 2, None], [0.4, 0.45, None])
    lines = [part for part in spec(page, "parallel")["data"] if part["mode"] == "lines+markers"]
    assert len(lines) == 3
    assert sorted(line["y"][-1] for line in lines)[:: len(lines) - 1] == [0.0, 1.0]
    assert 'id="importances"' not in page  # facts of earlier versions have shares of few trials
    assert f"they need {IMPORTANCE_TRIALS} complete trials, but only " in page
    many = [{**sweep["trials"][0], "number": n} for n in range(10, 10 + IMPORTANCE_TRIALS)]
    page = render({**sweep, "trials": [*sweep["trials"], *many]}, ledger)
    assert spec(page, "importances")["data"][0]["x"] == [0.75, 0.25]
    assert "Shares of importance are not shown" not in page


def test_a_pruned_trial_ends_in_a_cross_and_two_are_emphasised() -> None:
    by_name = {drawn.name: drawn for drawn in pruning(TRIALS, default=0, best=2).data}
    stopped = by_name["stopped"]
    assert (list(stopped.x), list(stopped.y), list(stopped.text)) == ([2], [0.45], ["trial 1"])
    assert list(by_name["default (trial 0)"].y) == [0.5, 0.7]
    assert list(by_name["chosen (trial 2)"].y) == [0.6, 0.8]
    assert "pruned" not in {drawn.name for drawn in pruning(TRIALS[:1], default=0, best=None).data}


def test_the_history_has_the_best_value_so_far() -> None:
    by_name = {drawn.name: drawn for drawn in history([TRIALS[2], *TRIALS[:2]]).data}
    assert list(by_name["best so far"].y) == [0.8, 0.8]
    assert list(by_name["pruned, when it was stopped"].y) == [0.45]
    assert [drawn.name for drawn in history(TRIALS[3:]).data] == [None]  # the line of chance alone


def test_axes_are_linear_logarithmic_or_categorical_and_absent_values_leave_a_gap() -> None:
    dimensions = {
        "rate": {"low": 1e-4, "high": 1.0, "log": True},
        "kind": {"values": ["a", "b", "c"]},
    }
    figure = parallel(TRIALS, dimensions, best=2)
    lines = {drawn.hovertemplate.partition(":")[0]: list(drawn.y) for drawn in figure.data}
    assert lines["trial 0"] == [0.0, 0.0, 0.0]
    assert lines["trial 2"] == [pytest.approx(0.5), None, 1.0]
    assert [drawn.line.width for drawn in figure.data] == [1.6, 3.5]
    texts = [note.text for note in figure.layout.annotations]
    assert texts[:4] == ["<b>rate</b>", "0.0001", "0.01", "1"]
    assert texts[4:8] == ["<b>kind</b>", "a", "b", "c"]
