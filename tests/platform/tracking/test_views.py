"""The view that a printed address opens: what is ranked comes first, folds come last."""

from dataclasses import replace
from typing import Any, Literal

import pytest

from cgn_platform.tracking.views import shared_view


@pytest.mark.parametrize(("kind", "ranked_by"), [("sweep", "best_val_auc"), ("table", "test_auc")])
def test_the_first_chart_shows_what_runs_are_ranked_by(
    kind: Literal["sweep", "table"], ranked_by: str, sweep: Any
) -> None:
    view = shared_view(replace(sweep.INFO, kind=kind, folds=3), "ab")
    assert view["orderByKey"] == f"metrics.`{ranked_by}`"
    assert view["compareRunCharts"][0]["metricKey"] == ranked_by
    assert view["selectedColumns"][:2] == ["tags.`cgn.state`", f"metrics.`{ranked_by}`"]


def test_means_and_losses_come_before_the_folds(sweep: Any) -> None:
    view = shared_view(replace(sweep.INFO, folds=3), "ab")
    sections = view["compareRunSections"]
    assert [section["name"] for section in sections] == [
        "Results",
        "Model metrics",
        "fold_0",
        "fold_1",
        "fold_2",
    ]
    assert [section["display"] for section in sections] == [True, True, False, False, False]
    assert view["isAccordionReordered"]
    places = {section["uuid"] for section in sections}
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} <= places
    assert "val_auc" in {chart["metricKey"] for chart in view["compareRunCharts"]}
