import time

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


def mammograms(rng, patients=48, films=91, malignant=0.6, folds=5):
    """As INBreast falls: some two films a patient, one label each, folds by patient and label."""
    of_patient = np.concatenate([np.arange(patients), rng.integers(0, patients, films - patients)])
    label = np.zeros(patients, int)
    label[rng.permutation(patients)[: round(malignant * patients)]] = 1
    fold = np.empty(patients, int)
    for value in (0, 1):
        members = rng.permutation(np.flatnonzero(label == value))
        fold[members] = (np.arange(len(members)) + 2 * value) % folds
    return label[of_patient], of_patient, fold[of_patient]


def readings(rng, y, patient, folds, auc, rows, shared=0.5):
    """Scores `(rows, cases)` of that AUC (one, or one a row), as of networks that look at the same films.

    Rows share part of their noise, so do films of a patient; each fold's network has a scale of its own.
    """

    def noise(count):
        own = rng.normal(size=(count, len(y)))
        return np.sqrt(0.5) * (own + rng.normal(size=(count, patient.max() + 1))[:, patient])

    score = np.sqrt(2) * stats.norm.ppf(np.broadcast_to(auc, rows))[:, None] * y
    score = score + np.sqrt(shared) * noise(1) + np.sqrt(1 - shared) * noise(rows)
    offset, scale = rng.normal(size=(rows, 5)), np.exp(0.3 * rng.normal(size=(rows, 5)))
    return offset[:, folds] + scale[:, folds] * score


def plain_fold_auc(y, score, folds):
    """Mean over the folds that hold both classes, or None."""
    aucs = [
        metrics.auc(y[folds == k], score[folds == k])
        for k in np.unique(folds)
        if len(np.unique(y[folds == k])) == 2
    ]
    return np.mean(aucs) if aucs else None


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
    result = statistics.paired_bootstrap(y, a, b, patient, folds, n=40, seed=5)
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(plain, [0.025, 0.975])))
    tail = min(np.sum(np.array(plain) <= 0), np.sum(np.array(plain) >= 0))
    assert result.p_value == pytest.approx(min(2 * (1 + tail) / 41, 1))
    means = [np.mean([plain_fold_auc(y, seed, folds) for seed in scores]) for scores in (a, b)]
    assert result.estimate == pytest.approx(means[0] - means[1])


def test_a_score_does_not_differ_from_itself():
    y, a = cases(9)
    assert statistics.paired_bootstrap(y, a, a, n=50) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_p_is_small_where_the_interval_leaves_zero_out(seed):
    y, a = cases(seed, shift=1.5)
    result = statistics.paired_bootstrap(y, a, cases(seed + 50, shift=0.7)[1])
    assert (result.p_value < 0.05) == (result.low > 0 or result.high < 0)


@pytest.mark.parametrize(
    ("patients", "malignant", "auc"), [(91, 0.5, 0.75), (48, 0.6, 0.75), (48, 0.7, 0.85), (48, 0.6, 0.93)]
)
def test_intervals_on_91_films_hold_the_truth(patients, malignant, auc):
    """Mean over five folds, and difference of two rows, where folds hold as few as three benign patients.

    Of 400 runs, 92 to 98 % leave room for a standard error of 1.1 %.
    """
    rng, hits, runs = np.random.default_rng(10), np.zeros(2), 400
    for run in range(runs):
        y, patient, folds = mammograms(rng, patients, malignant=malignant)
        a, b = readings(rng, y, patient, folds, auc, 2)
        alone = statistics.bootstrap_auc(y, a, patient, folds, n=500, seed=run)
        paired = statistics.paired_bootstrap(y, a, b, patient, folds, n=500, seed=run)
        hits += alone.low <= auc <= alone.high, paired.low <= 0 <= paired.high
    assert (hits / runs >= 0.92).all()
    assert (hits / runs <= 0.98).all()


def test_a_table_without_a_difference_seldom_claims_one():
    """Ten rows of equal worth. Of 400 tables, under 7 %: 5 % would have a standard error of 1.1 %."""
    rng, claims, runs = np.random.default_rng(12), 0, 400
    for run in range(runs):
        y, patient, folds = mammograms(rng)
        rows = dict(zip("abcdefghij", readings(rng, y, patient, folds, 0.78, 10), strict=True))
        table = statistics.compare(y, rows, "a", folds, patient, n=1000, seed=run)
        claims += any(row.auc_versus.words != statistics.UNCLEAR for row in table.rows[1:])
    assert claims / runs < 0.07


def test_a_table_finds_a_large_difference_and_its_direction():
    """0.95 and 0.45 among eight rows of 0.75, three seeds: what 91 films can show in a table of ten."""
    rng, right = np.random.default_rng(13), []
    names = [f"like {n}" for n in range(8)] + ["best", "worst"]
    for run in range(20):
        y, patient, folds = mammograms(rng)
        aucs = np.repeat([0.75] * 8 + [0.95, 0.45], 3)
        scores = readings(rng, y, patient, folds, aucs, 30).reshape(10, 3, 91)
        rows = dict(zip(names, scores, strict=True))
        table = statistics.compare(y, rows, "like 0", folds, patient, n=1000, seed=run)
        words = {row.name: row.auc_versus.words for row in table.rows if row.auc_versus}
        right.append((words["best"] == statistics.BETTER, words["worst"] == statistics.WORSE))
    assert (np.mean(right, 0) > 0.9).all()


def test_a_table_is_made_of_the_single_tests():
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
    seen = [statistics.smallest_detectable_difference(by_fold[n] - by_fold["b"], 3, 1) for n in "ac"]
    assert table.detectable == pytest.approx(np.sqrt(np.mean(np.square(seen))))


def test_a_localisation_that_is_much_better_is_said_to_be():
    rng = np.random.default_rng(15)
    y, patient, folds = mammograms(rng)
    same = readings(rng, y, patient, folds, 0.8, 1)
    found = {"base": np.arange(91) % 3 == 0, "good": np.arange(91) >= 5, "bad": np.zeros(91)}
    table = statistics.compare(y, dict.fromkeys(found, same), "base", folds, patient, found)
    assert [row.localization_versus.words for row in table.rows[1:]] == [statistics.BETTER, statistics.WORSE]
    assert [row.auc_versus.words for row in table.rows[1:]] == [statistics.UNCLEAR] * 2
    assert table.detectable == 0


def test_a_baseline_alone_is_a_table_too():
    y, score = cases(16)
    table = statistics.compare(y, {"only": score}, "only", np.arange(60) // 20)
    assert table.detectable is None
    assert table.rows[0].difference is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "c"}, "one of a, b but is c"),
        ({"folds": np.arange(60) // 30}, "three folds"),
        ({"folds": np.arange(60) % 2}, "no fold holds both"),
        ({"localized": {"a": np.ones(60)}}, "of all rows or of none"),
        ({"localized": {"a": np.ones(60), "b": np.r_[np.nan, np.ones(59)]}}, "same cases"),
        ({"localized": dict.fromkeys("ab", np.full(60, np.nan))}, "no case counts"),
    ],
)
def test_a_table_that_cannot_be_compared_is_said(change, message):
    y, a = cases(17)
    asked = {"rows": {"a": a, "b": -a}, "baseline": "a", "folds": np.arange(60) // 20, "n": 20}
    with pytest.raises(ValueError, match=message):
        statistics.compare(y, **{**asked, **change})


def test_a_table_of_ten_rows_and_three_seeds_takes_about_a_second():
    rng = np.random.default_rng(18)
    y, patient, folds = mammograms(rng)
    rows = {str(n): readings(rng, y, patient, folds, 0.8, 3) for n in range(10)}
    start = time.process_time()
    statistics.compare(y, rows, "0", folds, patient, n=2000)
    assert time.process_time() - start < 3  # 0.4 s on one core; room for a busy machine


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


def test_films_shown_twice_tell_fold_delong_nothing_new():
    y, a = cases(23)
    _, b = cases(24)
    folds = np.arange(60) // 20
    once = statistics.fold_delong(y, a, b, np.arange(60), folds)
    twice = statistics.fold_delong(*(np.repeat(x, 2) for x in (y, a, b, np.arange(60), folds)))
    assert twice == pytest.approx(once)


def test_fold_delong_does_not_guess_from_single_patients():
    result = statistics.fold_delong([0, 1, 0, 1], [1, 2, 3, 4], [2, 1, 3, 4], folds=[0, 0, 1, 1])
    assert result.difference == 0.5
    assert np.isnan(result.standard_error)
    assert result.freedom == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_mcnemar_is_the_binomial_test_of_discordant_pairs(seed):
    a, b = np.random.default_rng(seed).random((2, 30)) < [[0.7], [0.4]]
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b:
        assert statistics.mcnemar(a, b) == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


def test_mcnemar_exchanges_patients_not_their_films():
    """Four patients of three films, all better: 2 of 16 exchanges are as far apart, not 2 of 4096."""
    a, b, patient = np.ones(12), np.zeros(12), np.repeat(np.arange(4), 3)
    assert statistics.mcnemar(a, b) == pytest.approx(2 / 4096)
    assert statistics.mcnemar(a, b, patient) == pytest.approx(2 / 16)
    assert statistics.mcnemar(np.stack([a, a, a]), np.stack([b, b]), patient) == pytest.approx(2 / 16)
    assert statistics.mcnemar(a, a, patient) == 1.0


def test_paired_rates_tell_the_difference_on_shared_draws():
    rng = np.random.default_rng(0)
    b = rng.integers(0, 2, 200).astype(float)
    a = np.where(rng.random(200) < 0.2, 1.0, b)
    a[:20] = b[:20] = np.nan  # nothing was annotated there
    told = statistics.paired_rates(a, b)
    assert told.estimate == pytest.approx(np.nanmean(a) - np.nanmean(b))
    half = 1.96 * np.nanstd(a - b) / np.sqrt(180)
    assert (told.low, told.high) == pytest.approx((told.estimate - half, told.estimate + half), abs=0.01)
    assert statistics.paired_rates(np.stack([a, a]), b) == told
    assert statistics.paired_rates(a, a)[:3] == (0, 0, 0)
    with pytest.raises(ValueError, match="same cases"):
        statistics.paired_rates(a, np.nan_to_num(b))


def test_a_proportion_of_single_cases_is_wilsons():
    wilson = stats.binomtest(12, 40).proportion_ci(method="wilson")
    result = statistics.proportion(np.arange(40) < 12)
    # the patients' variance has n - 1 below it, the binomial one n
    assert result == pytest.approx((0.3, wilson.low, wilson.high), abs=0.003)
    none = statistics.proportion(np.zeros(40), np.arange(40) // 2)
    assert none == pytest.approx((0, *stats.binomtest(0, 20).proportion_ci(method="wilson")), abs=1e-9)


@pytest.mark.parametrize("truth", [0.1, 0.3, 0.6])
def test_proportions_of_patients_hold_the_truth_and_mcnemar_errs_as_it_says(truth):
    """91 films of 48 patients; of 500 runs, standard error 1 %."""
    rng, hits, claims, runs = np.random.default_rng(25), 0, 0, 500
    for _ in range(runs):
        _, patient, _ = mammograms(rng)
        a, b = (
            np.sqrt(0.5) * (rng.normal(size=91) + rng.normal(size=48)[patient]) < stats.norm.ppf(truth)
            for _ in range(2)
        )
        interval = statistics.proportion(a, patient)
        hits += interval.low <= truth <= interval.high
        claims += statistics.mcnemar(a, b, patient) < 0.05
    assert 0.92 <= hits / runs <= 0.98
    assert claims / runs < 0.07


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
        corrected.append(statistics.bbc(y, scores, n=200, seed=run).estimate)
    assert np.mean(raw) > 0.6
    assert np.mean(corrected) == pytest.approx(0.5, abs=0.02)


def test_a_true_winner_keeps_its_score():
    rng = np.random.default_rng(7)
    y = np.arange(400) % 2
    scores = rng.normal(size=(10, 400))
    scores[3] += 2 * y
    assert statistics.bbc(y, scores, n=200).estimate == pytest.approx(metrics.auc(y, scores[3]), abs=0.01)


def test_a_searchs_winner_stands_beside_what_it_may_be_worth():
    rng = np.random.default_rng(26)
    y, patient, folds = mammograms(rng)
    tried = dict(zip(map(str, range(40)), readings(rng, y, patient, folds, 0.7, 40), strict=True))
    best = statistics.winner(y, tried, patient, folds)
    aucs = {name: plain_fold_auc(y, score, folds) for name, score in tried.items()}
    assert best.name == max(aucs, key=aucs.get)
    assert best.raw == pytest.approx(aucs[best.name])
    assert best.corrected.low < best.corrected.estimate < best.raw - 0.03
    assert best.corrected == statistics.bbc(y, list(tried.values()), patient, folds=folds)


@pytest.mark.parametrize(
    "auc",
    [0.7, np.linspace(0.55, 0.8, 12), np.append(np.full(11, 0.6), 0.75)],
    ids=["equal", "unequal", "one is good"],
)
def test_a_winners_interval_covers_what_it_is_worth(auc):
    """Cautious, and yet of some use."""
    rng, runs, hits, width = np.random.default_rng(27), 200, 0, 0.0
    for run in range(runs):
        y, patient, folds = mammograms(rng)
        tried = dict(zip(map(str, range(12)), readings(rng, y, patient, folds, auc, 12), strict=True))
        best = statistics.winner(y, tried, patient, folds, n=300, seed=run)
        worth = np.broadcast_to(auc, 12)[int(best.name)]
        hits += best.corrected.low <= worth <= best.corrected.high
        width += (best.corrected.high - best.corrected.low) / runs
    assert hits >= 0.92 * runs
    assert 0.2 < width < 0.4


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
