import json
import math

import numpy as np
import pytest

from cgn.results import (
    CrossReport,
    CrossResult,
    EpochReport,
    FoldResult,
    Predictions,
    epoch_facts,
    facts_of,
    last,
    lockstep,
    mean_losses,
)


def report(fold: int, epoch: int = 0, **losses: float) -> EpochReport:
    return EpochReport(fold, epoch, 0.5 + fold / 10, losses, 1.0 + fold / 8, np.zeros(2))


def result(fold: int, error: float = 0.5) -> FoldResult:
    nothing = np.zeros(0)
    predictions = Predictions(nothing, nothing, nothing, nothing, nothing, nothing)
    return FoldResult(fold, 1, 0.6 + fold / 10, 0.5 + fold / 10, error, error, predictions, 2.0, {})


def fold(number: int, epochs: int):
    for epoch in range(epochs):
        yield report(number, epoch, l_cls=float(epoch))
    return result(number)


def test_lockstep_reports_the_mean_of_all_folds_at_each_epoch():
    run, reports = lockstep([fold(0, 2), fold(1, 2), fold(2, 2)], 2), []
    while True:
        try:
            reports.append(next(run))
        except StopIteration as end:
            finished = end.value
            break
    assert [r.epoch for r in reports] == [0, 1]
    assert [r.val_auc for r in reports] == pytest.approx([0.6, 0.6])
    assert [f.fold for f in finished.folds] == [0, 1, 2]
    assert finished.val_auc == pytest.approx(0.7)
    assert finished.test_auc == pytest.approx(0.6)


def test_lockstep_calls_the_folds_through_the_given_map():
    calls = []

    def together(function, folds):
        calls.append(function)
        return list(map(function, folds))

    assert len(last(lockstep([fold(0, 3), fold(1, 3)], 3, together)).folds) == 2
    assert calls == [next, next, next, last]


def test_losses_and_seconds_of_a_cross_report():
    cross = CrossReport(4, 0.55, (report(0, 4, l_cls=1.0, l_ne=2.0), report(1, 4, l_cls=3.0, l_ne=4.0)))
    assert cross.losses == {"l_cls": 2.0, "l_ne": 3.0}
    assert cross.seconds == 2.125


def test_the_facts_of_an_epoch_keep_the_format_of_stored_studies():
    cross = CrossReport(4, 0.55, (report(0, 4, l_cls=1.0), report(1, 4, l_cls=3.0)))
    facts = cross.facts()
    assert facts == {
        "epoch": 4,
        "val_auc": 0.55,
        "folds": {"0": 0.5, "1": 0.6},
        "losses": {"l_cls": 2.0},
        "seconds": 2.125,
    }
    assert list(facts) == ["epoch", "val_auc", "folds", "losses", "seconds"]
    assert json.loads(json.dumps(facts)) == facts
    assert epoch_facts(4, 0.55, {0: 0.5, 1: 0.6}, {"l_cls": 2.0}, 2.12512) == facts


def test_a_term_that_a_fold_lacks_has_no_mean():
    means = mean_losses([{"l_cls": 1.0, "l_ne": 2.0}, {"l_cls": 3.0}])
    assert means["l_cls"] == 2.0
    assert math.isnan(means["l_ne"])


def test_a_result_as_plain_json_has_none_for_figures_that_are_not_finite():
    facts = facts_of(CrossResult((result(0), result(1, math.nan))))
    assert facts["localization_error"] is None
    assert [f["localization_error"] for f in facts["folds"]] == [0.5, None]
    assert facts["test_auc"] == pytest.approx(0.55)
    json.dumps(facts, allow_nan=False)
