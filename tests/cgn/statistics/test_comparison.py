import runpy
from pathlib import Path

import numpy as np
import pytest

from cgn import metrics, statistics
from cgn.errors import DataError
from cgn.statistics import Resampling

SIMULATION = runpy.run_path(str(Path(__file__).with_name("simulation.py")))
cases, mammograms, readings = (SIMULATION[name] for name in ("cases", "mammograms", "readings"))


def test_a_table_without_differences_seldom_finds_one():
    """Ten rows of equal AUC. Under 7 % of 400 tables: the nominal 5 % has a standard error of 1.1 %."""
    rng, claims, runs = np.random.default_rng(12), 0, 400
    for run in range(runs):
        y, patient, folds = mammograms(rng)
        rows = dict(zip("abcdefghij", readings(rng, y, patient, folds, 0.78, 10), strict=True))
        table = statistics.compare(y, rows, "a", folds, patient, resampling=Resampling(1000, run))
        claims += any(row.auc_versus.verdict != statistics.UNCLEAR for row in table.rows[1:])
    assert claims / runs < 0.07


def test_a_table_finds_a_large_difference_and_its_direction():
    """AUCs of 0.95 and 0.45 among eight of 0.75, three seeds: what 91 films can show in a table of ten."""
    rng, right = np.random.default_rng(13), []
    names = [f"like {n}" for n in range(8)] + ["best", "worst"]
    for run in range(20):
        y, patient, folds = mammograms(rng)
        aucs = np.repeat([0.75] * 8 + [0.95, 0.45], 3)
        scores = readings(rng, y, patient, folds, aucs, 30).reshape(10, 3, 91)
        rows = dict(zip(names, scores, strict=True))
        table = statistics.compare(y, rows, "like 0", folds, patient, resampling=Resampling(1000, run))
        verdicts = {row.name: row.auc_versus.verdict for row in table.rows if row.auc_versus}
        right.append((verdicts["best"] == statistics.BETTER, verdicts["worst"] == statistics.WORSE))
    assert (np.mean(right, 0) > 0.9).all()


def test_a_table_has_the_figures_of_the_single_tests():
    rng = np.random.default_rng(14)
    y, patient, folds = mammograms(rng)
    rows = {
        name: readings(rng, y, patient, folds, auc, 2) for name, auc in (("a", 0.7), ("b", 0.9), ("c", 0.7))
    }
    found = {name: (rng.random((2, 91)) < 0.7).astype(float) for name in rows}
    for values in found.values():
        values[:, ::10] = np.nan
    table = statistics.compare(y, rows, "b", folds, patient, found)
    a, b, c = table.rows
    assert [row.name for row in table.rows] == ["a", "b", "c"]
    assert (b.difference, b.auc_versus, b.localization_versus) == (None, None, None)
    assert a.auc == statistics.bootstrap_auc(y, rows["a"], patient, folds)
    assert a.pooled_auc == statistics.bootstrap_auc(y, rows["a"], patient)
    assert a.difference == statistics.paired_bootstrap(y, rows["a"], rows["b"], patient, folds)
    raw = [row.auc_versus.p_value for row in (a, c)]
    assert [row.auc_versus.p_adjusted for row in (a, c)] == list(statistics.holm(raw))
    assert a.localization_error == statistics.proportion(1 - found["a"], patient)
    assert a.localization_error.estimate == pytest.approx(1 - np.nanmean(found["a"]))
    assert a.localization_versus.p_value == statistics.mcnemar(found["a"], found["b"], patient)
    by_fold = {
        name: np.array(
            [np.mean([metrics.auc(y[folds == k], s[folds == k]) for s in rows[name]]) for k in range(5)]
        )
        for name in rows
    }
    single = [statistics.smallest_detectable_difference(by_fold[n] - by_fold["b"], 3, 1) for n in "ac"]
    assert table.detectable == pytest.approx(np.sqrt(np.mean(np.square(single))))


def test_a_much_better_localisation_is_found():
    rng = np.random.default_rng(15)
    y, patient, folds = mammograms(rng)
    same = readings(rng, y, patient, folds, 0.8, 1)
    found = {"base": np.arange(91) % 3 == 0, "good": np.arange(91) >= 5, "bad": np.zeros(91)}
    table = statistics.compare(y, dict.fromkeys(found, same), "base", folds, patient, found)
    assert [row.localization_versus.verdict for row in table.rows[1:]] == [
        statistics.BETTER,
        statistics.WORSE,
    ]
    assert [row.auc_versus.verdict for row in table.rows[1:]] == [statistics.UNCLEAR] * 2
    assert table.detectable == 0


def test_a_table_may_have_only_its_baseline():
    y, score = cases(16)
    table = statistics.compare(y, {"only": score}, "only", np.arange(60) // 20)
    assert table.detectable is None
    assert table.rows[0].difference is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "c"}, "one of a, b but is c"),
        ({"folds": np.arange(60) // 30}, "three folds"),
        ({"folds": np.arange(60) % 2}, "at least one fold must have both"),
        ({"localized": {"a": np.ones(60)}}, "for all rows or for none"),
        ({"localized": {"a": np.ones(60), "b": np.r_[np.nan, np.ones(59)]}}, "same cases"),
        ({"localized": dict.fromkeys("ab", np.full(60, np.nan))}, "at least one case must have a value"),
    ],
)
def test_a_table_that_cannot_be_compared_is_refused(change, message):
    y, a = cases(17)
    arguments = {"rows": {"a": a, "b": -a}, "baseline": "a", "folds": np.arange(60) // 20}
    with pytest.raises(DataError, match=message):
        statistics.compare(y, **{**arguments, **change}, resampling=Resampling(n=20))


def test_the_keys_of_stored_facts_stay_as_they_are():
    y, score = cases(16)
    found = np.r_[np.ones(30), np.zeros(30)]
    rows, localized = {"a": score, "b": -score}, {"a": found, "b": found}
    plain = [
        row.plain() for row in statistics.compare(y, rows, "a", np.arange(60) // 20, None, localized).rows
    ]
    keys = ["auc", "pooled_auc", "difference", "p_adjusted", "words"]
    keys += ["localization_error", "localization_p_adjusted", "localization_words"]
    assert [list(row) for row in plain] == [keys, keys]
    assert (plain[0]["words"], plain[0]["difference"], plain[0]["p_adjusted"]) == (None, None, None)
    assert (plain[1]["words"], plain[1]["localization_words"]) == (statistics.WORSE, statistics.UNCLEAR)
    assert list(plain[1]["difference"]) == ["estimate", "low", "high", "p_value"]
