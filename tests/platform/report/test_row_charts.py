"""Charts of rows draw the numbers of the facts."""

from typing import Any

from cgn.data.pairs import Pairs
from cgn_platform.report.page import render
from cgn_platform.report.row_charts import Mark, bars, forest, spread
from cgn_platform.store.ledger import Ledger


def test_a_page_draws_folds_and_differences_of_its_rows(
    table: dict[str, Any], ledger: Ledger, pairs: Pairs, spec: Any, trace: Any
) -> None:
    page = render(table, ledger, pairs)
    complete = [row for row in table["rows"] if row["complete"]]
    for seed in range(2):
        drawn = trace(spec(page, "spread"), f"seed {seed}")
        assert drawn["x"] == [auc for row in complete for auc in row["fold_auc"][seed]]
    (estimates,) = [part["x"] for part in spec(page, "forest")["data"] if part["x"]]
    assert estimates == [complete[0]["difference"]["estimate"]]


def test_significant_rows_have_a_symbol_of_their_own() -> None:
    figure = forest([Mark("a", 0.1, 0.05, 0.2, True), Mark("b", -0.01, -0.1, 0.1)], "difference", 0.03)
    grey, orange = figure.data
    assert (list(grey.x), list(grey.y), grey.marker.symbol) == ([-0.01], [1], "circle")
    assert (list(orange.x), list(orange.y), orange.marker.symbol) == ([0.1], [0], "diamond")
    assert [note.text for note in figure.layout.annotations] == [
        "+0.100 [+0.050, +0.200]",
        "−0.010 [−0.100, +0.100]",
    ]


def test_rates_are_drawn_between_0_and_1_without_a_sign() -> None:
    figure = forest([Mark("a", 0.4, 0.2, 0.6)], "error", None, None)
    assert tuple(figure.layout.xaxis.range) == (-0.02, 1.02)
    assert figure.layout.annotations[0].text == "0.400 [0.200, 0.600]"


def test_rows_may_have_different_numbers_of_seeds() -> None:
    figure = spread(["a", "b"], [[[0.5, 0.7]], [[0.6, 0.6], [0.8, 0.8]]])
    by_name = {trace.name: list(trace.x) for trace in figure.data}
    assert by_name["seed 1"] == [0.8, 0.8]
    assert by_name["mean"] == [0.6, 0.7]


def test_bars_of_nothing_but_zeros_have_an_axis() -> None:
    assert tuple(bars({"a": 0.0}, "hours", ".2g").layout.xaxis.range) == (0, 1)
    assert bars({}, "hours", ".2g").layout.height > 0
