import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cgn import metrics, statistics


def cases(seed, n=60, shift=1.0, ties=False):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    score = rng.normal(size=n) + shift * y
    return y, np.round(score) if ties else score


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


def test_delong_of_a_score_with_itself_sees_nothing():
    y, a = cases(0)
    assert statistics.delong(y, a, a)[2:] == (0.0, 0.0, 1.0)
    assert statistics.delong(y, a, 3 * a + 1).p_value == 1.0


def test_delong_without_a_second_score_compares_with_chance():
    y, a = cases(0, n=200, shift=2.0)
    result = statistics.delong(y, a)
    assert result.auc_b == 0.5
    assert result.p_value < 1e-6


def test_delong_errs_as_often_as_it_says():
    """Two scores of equal worth: p below 0.05 in about one of twenty."""
    rng = np.random.default_rng(1)
    y = np.arange(100) % 2
    p = [
        statistics.delong(y, rng.normal(size=100) + 0.8 * y, rng.normal(size=100) + 0.8 * y).p_value
        for _ in range(800)
    ]
    assert 0.03 < np.mean(np.array(p) < 0.05) < 0.075


def test_bootstrap_estimates_are_the_plain_figures():
    y, score = cases(2)
    folds = np.arange(60) // 20
    assert statistics.bootstrap_auc(y, score, n=50).estimate == pytest.approx(metrics.auc(y, score))
    mean = np.mean([metrics.auc(y[folds == k], score[folds == k]) for k in range(3)])
    assert statistics.bootstrap_auc(y, score, folds=folds, n=50).estimate == pytest.approx(mean)


@pytest.mark.parametrize("per_patient", [1, 2])
def test_bootstrap_intervals_hold_the_truth_as_often_as_they_say(per_patient):
    """Known truth: two normals a deviation apart. Two films of a woman share half of their noise."""
    truth, hits, runs = stats.norm.cdf(1 / np.sqrt(2)), 0, 300
    rng = np.random.default_rng(3)
    for run in range(runs):
        women = 100 // per_patient
        patient = np.repeat(np.arange(women), per_patient)
        y = patient % 2
        own, shared = rng.normal(size=100), rng.normal(size=women)[patient]
        noise = own if per_patient == 1 else np.sqrt(0.5) * (own + shared)
        interval = statistics.bootstrap_auc(y, noise + y, groups=patient, n=400, seed=run)
        hits += interval.low <= truth <= interval.high
    assert 0.91 <= hits / runs <= 0.98


def test_drawing_women_gives_wider_intervals_than_drawing_their_films():
    rng = np.random.default_rng(4)
    patient = np.repeat(np.arange(50), 2)
    y, score = patient % 2, rng.normal(size=50)[patient] + patient % 2
    films, women = (statistics.bootstrap_auc(y, score, groups=g) for g in (None, patient))
    assert women.high - women.low > 1.2 * (films.high - films.low)


def test_bootstrap_repeats():
    y, score = cases(5)
    assert statistics.bootstrap_auc(y, score, seed=1) == statistics.bootstrap_auc(y, score, seed=1)
    assert statistics.bootstrap_auc(y, score, seed=1) != statistics.bootstrap_auc(y, score, seed=2)


def test_holm():
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(statistics.holm([0.9, 0.8]), [1.0, 1.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p):
    adjusted = statistics.holm(p)
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


@pytest.mark.parametrize(("folds", "deviations"), [(5, 1.86), (50, 1.04)])
def test_smallest_difference_of_five_folds_and_of_ten_times_five(folds, deviations):
    """In deviations of the fold differences, with a fifth of the cases in the test fold."""
    differences = stats.zscore(np.random.default_rng(0).normal(size=folds), ddof=1)
    assert statistics.smallest_detectable_difference(differences, 80, 20) == pytest.approx(
        deviations, abs=0.01
    )


def test_the_best_of_fifty_guesses_is_no_better_than_a_guess():
    rng = np.random.default_rng(6)
    y = np.arange(90) % 2
    raw, corrected = [], []
    for run in range(20):
        scores = rng.normal(size=(50, 90))
        raw.append(max(metrics.auc(y, row) for row in scores))
        corrected.append(statistics.bbc(y, scores, n=200, seed=run))
    assert np.mean(raw) > 0.6
    assert np.mean(corrected) == pytest.approx(0.5, abs=0.02)


def test_a_true_winner_keeps_its_score():
    rng = np.random.default_rng(7)
    y = np.arange(400) % 2
    scores = rng.normal(size=(10, 400))
    scores[3] += 2 * y
    assert statistics.bbc(y, scores, n=200) == pytest.approx(metrics.auc(y, scores[3]), abs=0.01)


@pytest.mark.parametrize(
    ("y", "score", "message"),
    [
        ([0, 1], [0.1, np.nan], "finite"),
        ([1, 1], [0.1, 0.2], "both of them"),
        ([0, 1], [0.1], "a score a case"),
    ],
)
def test_what_cannot_be_scored_is_said(y, score, message):
    with pytest.raises(ValueError, match=message):
        statistics.bootstrap_auc(y, score)
