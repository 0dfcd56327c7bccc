import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cgn import metrics, statistics

SIMULATION = runpy.run_path(str(Path(__file__).with_name("simulation.py")))
cases = SIMULATION["cases"]


def plain_delong(y, a, b):
    """By the definition of the structural components, one pair of cases at a time."""
    parts = []
    for score in (a, b):
        positive, negative = score[y == 1], score[y == 0]
        wins = np.array([[(p > q) + 0.5 * (p == q) for q in negative] for p in positive])
        parts.append((wins.mean(), wins.mean(1), wins.mean(0)))
    (auc_a, pos_a, neg_a), (auc_b, pos_b, neg_b) = parts
    variance = np.var(pos_a - pos_b, ddof=1) / len(pos_a) + np.var(neg_a - neg_b, ddof=1) / len(neg_a)
    return auc_a - auc_b, np.sqrt(variance)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_delong_agrees_with_its_definition(seed, ties):
    y, a = cases(seed, ties=ties)
    _, b = cases(seed + 1, shift=0.5, ties=ties)
    result = statistics.delong(y, a, b)
    difference, error = plain_delong(y, a, b)
    assert result.difference == pytest.approx(difference)
    assert result.standard_error == pytest.approx(error)
    assert (result.auc_a, result.auc_b) == pytest.approx((metrics.auc(y, a), metrics.auc(y, b)))
    assert result.p_value == pytest.approx(2 * stats.norm.sf(abs(difference) / error))


def test_delong_of_a_score_with_itself_finds_no_difference():
    y, a = cases(0)
    assert statistics.delong(y, a, a)[2:] == (0.0, 0.0, 1.0)
    assert statistics.delong(y, a, 3 * a + 1).p_value == 1.0


def test_delong_without_a_second_score_compares_with_chance():
    y, a = cases(0, n=200, shift=2.0)
    result = statistics.delong(y, a)
    assert result.auc_b == 0.5
    assert result.p_value < 1e-6


def test_delong_has_its_nominal_error_rate():
    """Two scores of equal worth: p below 0.05 in about one of twenty."""
    rng = np.random.default_rng(1)
    y = np.arange(100) % 2
    p = [
        statistics.delong(y, rng.normal(size=100) + 0.8 * y, rng.normal(size=100) + 0.8 * y).p_value
        for _ in range(800)
    ]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.075


def test_fold_delong_of_one_fold_is_delong():
    y, a = cases(19)
    _, b = cases(20)
    assert statistics.fold_delong(y, a, b)[:2] == pytest.approx(statistics.delong(y, a, b)[2:4])


def test_fold_delong_adds_the_variances_of_folds():
    y, a = cases(21)
    _, b = cases(22, shift=0.5)
    folds = np.arange(60) // 12
    single = [statistics.delong(y[folds == k], a[folds == k], b[folds == k]) for k in range(5)]
    result = statistics.fold_delong(y, a, b, folds=folds)
    assert result.difference == pytest.approx(np.mean([fold.difference for fold in single]))
    assert result.standard_error == pytest.approx(np.sqrt(sum(f.standard_error**2 for f in single)) / 5)


def test_repeated_films_of_a_patient_do_not_change_fold_delong():
    y, a = cases(23)
    _, b = cases(24)
    folds = np.arange(60) // 20
    once = statistics.fold_delong(y, a, b, np.arange(60), folds)
    twice = statistics.fold_delong(*(np.repeat(x, 2) for x in (y, a, b, np.arange(60), folds)))
    assert twice == pytest.approx(once)


def test_fold_delong_of_single_patients_has_no_standard_error():
    result = statistics.fold_delong([0, 1, 0, 1], [1, 2, 3, 4], [2, 1, 3, 4], folds=[0, 0, 1, 1])
    assert result.difference == 0.5
    assert np.isnan(result.standard_error)
    assert result.freedom == 0
