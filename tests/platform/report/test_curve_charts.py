"""ROC and learning curves draw what the units hold."""

from typing import Any

import numpy as np
import pytest

from cgn import metrics
from cgn.data.pairs import Pairs
from cgn_platform.report.curve_charts import mean_roc
from cgn_platform.report.page import render
from cgn_platform.store.ledger import Ledger


def test_a_page_draws_the_curves_of_every_complete_row(
    table: dict[str, Any], ledger: Ledger, pairs: Pairs, spec: Any, trace: Any
) -> None:
    page = render(table, ledger, pairs)
    for i, row in enumerate(row for row in table["rows"] if row["complete"]):
        units = [ledger.open(name) for seed in row["units"] for name in seed]
        thin = trace(spec(page, f"learning-{i}"), "units")["y"]
        assert [y for y in thin if y is not None] == [r.val_auc for u in units for r in u.reports]
        curve = trace(spec(page, f"roc-{i}"), "row")
        assert np.mean(curve["y"][1:-1]) == pytest.approx(row["auc"]["estimate"], abs=0.01)


def test_the_area_under_a_mean_curve_is_the_mean_auc() -> None:
    rng = np.random.default_rng(0)
    folds = np.arange(90) % 3
    labels = rng.integers(0, 2, 90)
    scores = np.round(rng.normal(size=(2, 90)) + labels, 1)  # with ties
    curve = mean_roc(labels, scores, folds, np.arange(90) // 2, n=50)
    aucs = [metrics.auc(labels[folds == k], score[folds == k]) for k in range(3) for score in scores]
    assert curve.y.mean() == pytest.approx(np.mean(aucs), abs=0.005)
    assert (curve.low <= curve.high).all()
    assert (np.diff(curve.y) >= -1e-12).all()


def test_the_curve_of_a_perfect_score_is_1_everywhere() -> None:
    assert (mean_roc([0, 0, 1, 1], [[0, 0.1, 0.8, 0.9]], [0] * 4, range(4), n=20).y == 1).all()


def test_draws_without_a_class_are_left_out_of_the_band() -> None:
    curve = mean_roc([0, 1], [0.1, 0.9], [0, 0], [0, 1], n=40)  # half of the draws lack a class
    assert np.isfinite([curve.low, curve.high]).all()
