import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cgn import metrics, statistics
from cgn.errors import DataError
from cgn.statistics import Resampling

SIMULATION = runpy.run_path(str(Path(__file__).with_name("simulation.py")))
cases, mammograms, readings, plain_fold_auc = (
    SIMULATION[name] for name in ("cases", "mammograms", "readings", "plain_fold_auc")
)


def test_bootstrap_estimates_are_the_plain_figures():
    y, score = cases(2)
    folds = np.arange(60) // 20
    assert statistics.bootstrap_auc(y, score, n=50).estimate == pytest.approx(metrics.auc(y, score))
    mean = np.mean([metrics.auc(y[folds == k], score[folds == k]) for k in range(3)])
    assert statistics.bootstrap_auc(y, score, folds=folds, n=50).estimate == pytest.approx(mean)


@pytest.mark.parametrize("per_patient", [1, 2])
def test_bootstrap_intervals_have_their_nominal_coverage(per_patient):
    """The true AUC is known: two normals one deviation apart. Films of a patient share half their noise."""
    truth, hits, runs = stats.norm.cdf(1 / np.sqrt(2)), 0, 300
    rng = np.random.default_rng(3)
    for run in range(runs):
        patients = 100 // per_patient
        patient = np.repeat(np.arange(patients), per_patient)
        y = patient % 2
        own, shared = rng.normal(size=100), rng.normal(size=patients)[patient]
        noise = own if per_patient == 1 else np.sqrt(0.5) * (own + shared)
        interval = statistics.bootstrap_auc(y, noise + y, groups=patient, n=400, seed=run)
        hits += interval.low <= truth <= interval.high
    assert 0.91 <= hits / runs <= 0.98


def test_resampling_patients_gives_wider_intervals_than_resampling_films():
    rng = np.random.default_rng(4)
    patient = np.repeat(np.arange(50), 2)
    y, score = patient % 2, rng.normal(size=50)[patient] + patient % 2
    films, patients = (statistics.bootstrap_auc(y, score, groups=g) for g in (None, patient))
    assert patients.high - patients.low > 1.2 * (films.high - films.low)


def test_the_same_seed_gives_the_same_draws():
    y, score = cases(5)
    assert statistics.bootstrap_auc(y, score, seed=1) == statistics.bootstrap_auc(y, score, seed=1)
    assert statistics.bootstrap_auc(y, score, seed=1) != statistics.bootstrap_auc(y, score, seed=2)


def test_the_paired_bootstrap_agrees_with_a_plain_loop():
    """Patient by patient, film by film, over three seeds of `a` and two of `b`."""
    rng = np.random.default_rng(8)
    patient = np.repeat(np.arange(12), 2)
    y, folds = (patient // 2) % 2, patient % 2
    a, b = rng.normal(size=(3, 24)) + y, rng.normal(size=(2, 24))
    draws = np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), size=40)
    plain = []
    for draw in draws:
        films = np.concatenate(
            [np.repeat(np.flatnonzero(patient == p), times) for p, times in enumerate(draw)]
        )
        means = [
            np.mean([plain_fold_auc(y[films], seed[films], folds[films]) for seed in scores])
            for scores in (a, b)
        ]
        plain.append(means[0] - means[1])
    result = statistics.paired_bootstrap(y, a, b, patient, folds, Resampling(n=40, seed=5))
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])))
    tail = min(np.sum(np.array(plain) <= 0), np.sum(np.array(plain) >= 0))
    assert result.p_value == pytest.approx(min(2 * (1 + tail) / 41, 1))
    means = [np.mean([plain_fold_auc(y, seed, folds) for seed in scores]) for scores in (a, b)]
    assert result.estimate == pytest.approx(means[0] - means[1])


def test_a_score_does_not_differ_from_itself():
    y, a = cases(9)
    assert statistics.paired_bootstrap(y, a, a, resampling=Resampling(n=50)) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_p_is_below_5_percent_where_the_interval_excludes_zero(seed):
    y, a = cases(seed, shift=1.5)
    result = statistics.paired_bootstrap(y, a, cases(seed + 50, shift=0.7)[1])
    assert (result.p_value < 0.05) == (result.low > 0 or result.high < 0)


@pytest.mark.parametrize(
    ("patients", "malignant", "auc"), [(91, 0.5, 0.75), (48, 0.6, 0.75), (48, 0.7, 0.85), (48, 0.6, 0.93)]
)
def test_intervals_on_91_films_have_their_nominal_coverage(patients, malignant, auc):
    """Mean over five folds, and difference of two rows, where folds have as few as three benign patients.

    With 400 runs the standard error of the coverage is 1.1 %, so 92 to 98 % are allowed.
    """
    rng, hits, runs = np.random.default_rng(10), np.zeros(2), 400
    for run in range(runs):
        y, patient, folds = mammograms(rng, patients, malignant=malignant)
        a, b = readings(rng, y, patient, folds, auc, 2)
        alone = statistics.bootstrap_auc(y, a, patient, folds, n=500, seed=run)
        paired = statistics.paired_bootstrap(y, a, b, patient, folds, Resampling(n=500, seed=run))
        hits += alone.low <= auc <= alone.high, paired.low <= 0 <= paired.high
    assert (hits / runs >= 0.92).all()
    assert (hits / runs <= 0.98).all()


@pytest.mark.parametrize(
    ("y", "score", "message"),
    [
        ([0, 1], [0.1, np.nan], "finite"),
        ([1, 1], [0.1, 0.2], "both must occur"),
        ([0, 1], [0.1], "one value per case"),
    ],
)
def test_scores_that_cannot_be_used_are_refused(y, score, message):
    with pytest.raises(DataError, match=message) as error:
        statistics.bootstrap_auc(y, score)
    assert isinstance(error.value, ValueError)
