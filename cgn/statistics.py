"""What small data allows one to say: intervals, paired tests, corrections, tables. Pure NumPy and SciPy.

Scores are of test cases alone, one a case (out of fold), never used to choose anything: `(cases,)`, or
`(seeds, cases)` where the same folds were trained several times. AUC in [0, 1].

What an interval speaks of: other patients, the networks as they were trained. Patients are drawn, not
trainings; several seeds average the noise of training out, they do not enter it into the interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]


class DeLong(NamedTuple):
    """AUC of two scores on the same cases, their difference, its standard error, two-sided p."""

    auc_a: float
    auc_b: float
    difference: float
    standard_error: float
    p_value: float


def delong(y: ArrayLike, a: ArrayLike, b: ArrayLike | None = None) -> DeLong:
    """DeLong et al. 1988. Paired comparison of two AUCs.

    Args:
        y: `(n,)` labels, 1 malignant.
        a, b: `(n,)` scores of the same cases. Without `b`, `a` is compared with chance (0.5).

    Raises:
        ValueError: fewer than two cases of a class, or scores that are no numbers.
    """
    labels, scores = _checked(y, [a] if b is None else [a, b])
    m, n = int((labels == 1).sum()), int((labels == 0).sum())
    if min(m, n) < 2:
        raise ValueError(f"DeLong needs at least two cases of each class but got {n} benign, {m} malignant")
    placed = _placements(labels, scores)
    of_positive, of_negative = placed[:, labels == 1], placed[:, labels == 0]
    aucs = of_positive.mean(1)
    covariance = np.atleast_2d(np.cov(of_positive)) / m + np.atleast_2d(np.cov(of_negative)) / n
    contrast = np.array([1.0]) if b is None else np.array([1.0, -1.0])
    other = 0.5 if b is None else float(aucs[1])
    difference = float(aucs[0]) - other
    error = float(np.sqrt(max(contrast @ covariance @ contrast, 0.0)))
    deviations = abs(difference) / error if error else (np.inf if difference else 0.0)
    return DeLong(float(aucs[0]), other, difference, error, float(2 * stats.norm.sf(deviations)))


class FoldDeLong(NamedTuple):
    """Difference of two mean AUCs, its standard error, degrees of freedom of that error (0: unknown)."""

    difference: float
    standard_error: float
    freedom: float


def fold_delong(
    y: ArrayLike, a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, folds: ArrayLike | None = None
) -> FoldDeLong:
    """DeLong et al. 1988 for the mean over folds, patients as Obuchowski 1997. Exact, no draws.

    Folds share no case, so their variances add up. A patient's cases are summed before they are squared.
    The correction for estimated means pools the folds, `g / (g - folds)` for the `g` patients of a class,
    so that a fold with a single patient of a class is no obstacle; with one fold, or as many patients in
    each, it is the sum of the folds' own DeLong variances. Freedom is Welch's over the two classes.

    Args:
        y: `(n,)` labels, 1 malignant.
        a, b: `(n,)` scores of the same cases.
        groups: `(n,)` patients; each case by itself where not given. No patient is in two folds.
        folds: `(n,)` fold of each case; one fold where None. Those without both classes are left out.
    """
    labels, scores = _checked(y, [a, b])
    parts = _parts(labels, folds)
    share = np.zeros((2, len(labels)))  # of each case in the mean AUC's deviation
    aucs = np.zeros(2)
    for part in parts:
        placed = _placements(labels[part], scores[:, part])
        auc = placed[:, labels[part] == 1].mean(1)
        size = np.where(labels[part] == 1, (labels[part] == 1).sum(), (labels[part] == 0).sum())
        share[:, part] = (placed - auc[:, None]) / size / len(parts)
        aucs += auc / len(parts)
    _, member = np.unique(
        np.arange(len(labels)) if groups is None else np.asarray(groups), return_inverse=True
    )
    kept = np.concatenate(parts)
    sums, patients = [], []
    for of_class in (kept[labels[kept] == 0], kept[labels[kept] == 1]):
        sums.append(np.bincount(member[of_class], (share[0] - share[1])[of_class], member.max() + 1))
        patients.append(len(np.unique(member[of_class])))
    freedom = np.array(patients) - len(parts)
    difference = float(aucs[0] - aucs[1])
    if freedom.min() < 1:
        return FoldDeLong(difference, float("nan"), 0.0)
    variances = np.square(sums).sum(1) * patients / freedom
    everybody = len(np.unique(member[kept]))
    both = 2 * float(sums[0] @ sums[1]) * everybody / (everybody - len(parts))
    apart = float(np.square(variances) @ (1 / freedom))
    return FoldDeLong(
        difference,
        float(np.sqrt(max(variances.sum() + both, 0.0))),
        float(variances.sum() ** 2 / apart) if apart else float(freedom.sum()),
    )


class Interval(NamedTuple):
    """An estimate and its bounds."""

    estimate: float
    low: float
    high: float


def bootstrap_auc(
    y: ArrayLike,
    score: ArrayLike,
    groups: ArrayLike | None = None,
    folds: ArrayLike | None = None,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Efron's percentile interval of an AUC, drawing whole groups (Field & Welsh 2007).

    Args:
        y: `(cases,)` labels.
        score: `(cases,)` or `(seeds, cases)`; then the mean over seeds.
        groups: `(cases,)` what is drawn together, e.g. patients; each case by itself where None.
        folds: `(cases,)` fold of each case: then the mean over folds of their AUCs (reading 21), else the
            pooled AUC, which also asks that the folds' scores have one scale.
        n: draws. A fold that has lost a class in a draw is left out of that draw's mean; a draw in which
            no fold holds both classes is left out.
        seed, level: of the draws; of the interval.

    Raises:
        ValueError: a class is missing, or scores that are no numbers.
    """
    labels, scores = _checked(y, np.atleast_2d(np.asarray(score, np.float64)))
    drawn = _draws(groups, len(labels), n, seed)
    return _interval(_mean_aucs(labels, scores, folds, drawn).mean(0), level)


class Difference(NamedTuple):
    """An estimated difference, its bounds, two-sided p."""

    estimate: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike | None = None,
    folds: ArrayLike | None = None,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Efron & Tibshirani 1993, ch. 13. Mean AUC of `a` less that of `b`, on the same draws of patients.

    Both scores lose the same folds in a draw (see `bootstrap_auc`), so that they stay paired. The p-value
    is the one that belongs to the percentile interval: twice the smaller share of draws, the data itself
    counted as one, on either side of zero. It is below `1 - level` where the interval leaves zero out, and
    never below `2 / (n + 1)`.

    Args:
        y: `(cases,)` labels.
        a, b: `(cases,)` or `(seeds, cases)` scores of the same cases; the numbers of seeds may differ.
        groups, folds, n, seed, level: as in `bootstrap_auc`.
    """
    labels, of_a = _checked(y, np.atleast_2d(np.asarray(a, np.float64)))
    _, of_b = _checked(y, np.atleast_2d(np.asarray(b, np.float64)))
    drawn = _draws(groups, len(labels), n, seed)
    means = [_mean_aucs(labels, scores, folds, drawn).mean(0) for scores in (of_a, of_b)]
    return _difference(means[0] - means[1], level)


def proportion(share: ArrayLike, groups: ArrayLike | None = None, level: float = 0.95) -> Interval:
    """Wilson 1927 on the effective number of cases (Dean & Pagano 2015). Interval of a mean of shares.

    The cases of a patient tell less than as many of other women: the effective number is the one whose
    binomial variance is that of the patients' sums, at most the cases; at a proportion of 0 or 1, where
    nothing varies, the number of patients.

    Args:
        share: `(cases,)` or `(seeds, cases)` of 0 or 1; NaN where a case does not count.
        groups: `(cases,)` patients; each case by itself where None.
    """
    means, member = _counted(share, groups)
    cases, patients, estimate = len(means), int(member.max()) + 1, float(means.mean())
    variance = float(np.square(np.bincount(member, means - estimate)).sum()) / cases**2
    variance *= patients / max(patients - 1, 1)
    binomial = estimate * (1 - estimate)
    effective = float(patients) if binomial == 0 else min(binomial / variance, cases) if variance else cases
    z = stats.norm.ppf((1 + level) / 2)
    middle = (estimate + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z * np.sqrt(binomial / effective + z**2 / (4 * effective**2)) / (1 + z**2 / effective)
    return Interval(estimate, float(max(middle - half, 0.0)), float(min(middle + half, 1.0)))


def mcnemar(a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None) -> float:
    """McNemar 1947, exact; Pitman 1937 over patients. Two-sided p of two paired rates of 0 and 1.

    Were `a` and `b` worth the same, they could change names in any patient: the p-value is the share of
    all such exchanges whose total differs by as much or more. A patient's cases change together. With one
    case a patient this is the binomial test of the discordant pairs.

    Args:
        a, b: `(cases,)` or `(seeds, cases)` of 0 or 1, on the same cases; NaN where a case does not count.
        groups: `(cases,)` patients; each case by itself where None.
    """
    of_a, of_b = (np.atleast_2d(np.asarray(x, np.float64)) for x in (a, b))
    if of_a.shape[1] != of_b.shape[1] or (np.isnan(of_a).any(0) != np.isnan(of_b).any(0)).any():
        raise ValueError("a paired test needs the same cases: NaN must stand at the same ones in both")
    # Whole numbers, whatever the numbers of seeds, so that totals can be told apart exactly.
    leads = len(of_b) * of_a.sum(0) - len(of_a) * of_b.sum(0)
    counted, member = _counted(leads, groups)
    steps = np.rint(np.bincount(member, counted)).astype(np.int64)
    reach = int(np.abs(steps).sum())
    chances = np.zeros(2 * reach + 1)  # of each total, from -reach to reach
    chances[reach] = 1.0
    for step in np.abs(steps[steps != 0]):
        chances = (np.roll(chances, step) + np.roll(chances, -step)) / 2
    totals = np.abs(np.arange(-reach, reach + 1))
    return float(min(chances[totals >= abs(int(steps.sum()))].sum(), 1.0))


def paired_rates(
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike | None = None,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Efron & Tibshirani 1993, ch. 13. Mean of `a` less that of `b`, on the same draws of patients.

    The interval that `mcnemar` has none of. Interval and p are made as those of `paired_bootstrap`; a draw
    without a case that counts is left out.

    Args:
        a, b: `(cases,)` or `(seeds, cases)` of 0 or 1, on the same cases; NaN where a case does not count.
        groups, n, seed, level: as in `bootstrap_auc`.
    """
    of_a, of_b = (np.atleast_2d(np.asarray(x, np.float64)).mean(0) for x in (a, b))
    if of_a.shape != of_b.shape or (np.isnan(of_a) != np.isnan(of_b)).any():
        raise ValueError("a paired interval needs the same cases: NaN must stand at the same ones in both")
    leads = of_a - of_b
    drawn = _draws(groups, len(leads), n, seed)[:, ~np.isnan(leads)]
    counts = drawn.sum(1)
    if not counts[0]:
        raise ValueError("no case counts: all are NaN")
    sums = drawn @ leads[~np.isnan(leads)]
    return _difference(np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0), level)


def holm(p: ArrayLike) -> Floats:
    """Holm 1979. Adjusted p-values of a family, in the order given."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values)
    steps = np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values))))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def smallest_detectable_difference(
    fold_differences: ArrayLike, n_train: float, n_test: float, level: float = 0.95
) -> float:
    """Nadeau & Bengio 2003. The mean difference over folds from which on this design can see one.

    Training sets overlap, so that fold differences are correlated: their variance counts
    `1/k + n_test/n_train` times, not `1/k`.

    Args:
        fold_differences: `(k,)` paired differences, one a fold (and repeat).
        n_train, n_test: cases in a fold's training and test part.
        level: one minus the two-sided error.
    """
    differences = np.asarray(fold_differences, np.float64)
    k = len(differences)
    if k < 2:
        raise ValueError(f"at least two folds are needed but got {k}")
    t = stats.t.ppf((1 + level) / 2, k - 1)
    return float(t * differences.std(ddof=1) * np.sqrt(1 / k + n_test / n_train))


def bbc(
    y: ArrayLike,
    scores: Sequence[ArrayLike] | NDArray[np.floating],
    groups: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
    folds: ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """BBC-CV (Tsamardinos et al. 2018). AUC of a search's winner, corrected for having been chosen.

    In each draw the best configuration by the cases drawn is measured on those that were not: the estimate
    is the mean of these figures. They vary more than one of all cases would, since a draw leaves out a good
    third; the interval takes their quantiles, drawn in to the mean by the root of that share (as subsampling
    does: Politis, Romano & Wolf 1999). It is cautious: in simulations 95 % covered 94 to 100 %.

    Args:
        y: `(n,)` labels.
        scores: `(configurations, n)` out-of-fold scores of all that were tried.
        groups: `(n,)` what is drawn together, e.g. patients.
        n, seed: of the draws.
        folds: `(n,)` fold of each case: the mean over folds is what was chosen by; else the pooled AUC.
        level: of the interval.
    """
    labels, table = _checked(y, scores)
    drawn = _draws(groups, len(labels), n, seed)[1:]
    inside = _mean_aucs(labels, table, folds, drawn)
    outside = _mean_aucs(labels, table, folds, (drawn == 0).astype(np.float64))
    usable = ~(np.isnan(inside[0]) | np.isnan(outside[0]))
    if not usable.any():
        raise ValueError("no draw holds both classes inside and outside: there are too few groups")
    winner = inside[:, usable].argmax(0)
    found = outside[:, usable][winner, np.arange(len(winner))]
    share = np.sqrt((drawn == 0).mean())
    return _interval(np.append(found.mean(), found.mean() + share * (found - found.mean())), level)


class Winner(NamedTuple):
    """The best of a search: its name, its AUC as it was chosen by, and that AUC corrected for the choice."""

    name: str
    raw: float
    corrected: Interval


def winner(
    y: ArrayLike,
    rows: Mapping[str, ArrayLike],
    groups: ArrayLike | None = None,
    folds: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
) -> Winner:
    """BBC-CV (`bbc`). The row of the highest AUC, as it looks and as it may be expected to be.

    Args:
        y: `(cases,)` labels.
        rows: name to `(cases,)` scores, of all that were tried: those that the choice was made by.
        groups, folds, n, seed: as in `bbc`.
    """
    table = [np.asarray(scores, np.float64) for scores in rows.values()]
    labels, checked = _checked(y, table)
    raw = _mean_aucs(labels, checked, folds, np.ones((1, len(labels))))[:, 0]
    best = int(raw.argmax())
    return Winner(list(rows)[best], float(raw[best]), bbc(labels, checked, groups, n, seed, folds))


BETTER, WORSE = "better than the baseline", "worse than the baseline"
UNCLEAR = "not distinguishable from the baseline with this data"


@dataclass(frozen=True)
class Versus:
    """A row against the baseline: p among the rows by Holm, and what may be said."""

    p_value: float
    p_adjusted: float
    words: str


@dataclass(frozen=True)
class RowFacts:
    """What one row of a table allows one to say. What compares is None for the baseline itself."""

    name: str
    auc: Interval  # mean over folds and seeds
    pooled_auc: Interval
    difference: Difference | None
    auc_versus: Versus | None
    localization_error: Interval | None  # None where nothing was localised
    localization_versus: Versus | None

    def plain(self) -> dict[str, Any]:
        """As JSON holds it, by the names that tables and reports have."""
        auc, place, error = self.auc_versus, self.localization_versus, self.localization_error
        return {
            "auc": self.auc._asdict(),
            "pooled_auc": self.pooled_auc._asdict(),
            "difference": self.difference and self.difference._asdict(),
            "p_adjusted": auc and auc.p_adjusted,
            "words": auc and auc.words,
            "localization_error": error and error._asdict(),
            "localization_p_adjusted": place and place.p_adjusted,
            "localization_words": place and place.words,
        }


@dataclass(frozen=True)
class Comparison:
    """A table in facts.

    Its words speak of networks as they were trained, on other patients. `detectable` is the difference of
    mean AUC from on which its folds could show that trainings on other patients would differ, too.
    """

    baseline: str
    rows: tuple[RowFacts, ...]
    detectable: float | None  # None where the baseline stands alone


def compare(
    y: ArrayLike,
    rows: Mapping[str, ArrayLike],
    baseline: str,
    folds: ArrayLike,
    groups: ArrayLike | None = None,
    localized: Mapping[str, ArrayLike] | None = None,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Comparison:
    """Reading 21. Every row of a table against its baseline, on the same cases and the same draws.

    Intervals and p of the AUC are those of `bootstrap_auc` and `paired_bootstrap`, of localisation those of
    `proportion` and `mcnemar`; Holm 1979 over the rows, for each of the two outcomes by itself. A row is
    better or worse where its adjusted p is below `1 - level`. The detectable difference is Nadeau & Bengio's
    (`smallest_detectable_difference`) with the variance pooled over the rows, on the folds' means over
    seeds (seeds share their test cases); test and validation fold are not trained on (reading 18).

    Args:
        y: `(cases,)` labels.
        rows: name to scores, `(cases,)` or `(seeds, cases)`, of the same cases in the same order.
        baseline: name of the row that the others are measured by.
        folds: `(cases,)` test fold of each case.
        groups: `(cases,)` patients.
        localized: name to 1 found, 0 missed, NaN nothing annotated; shaped as the scores.
        n, seed, level: of the draws; of intervals and decisions.

    Raises:
        ValueError: no such baseline, fewer than three folds, rows of other cases.
    """
    if baseline not in rows:
        raise ValueError(f"the baseline must be one of {', '.join(rows)} but is {baseline}")
    if localized is not None and set(localized) != set(rows):
        raise ValueError(f"localisation is needed of all rows or of none but came for {', '.join(localized)}")
    tables = {name: _checked(y, np.atleast_2d(np.asarray(x, np.float64))) for name, x in rows.items()}
    labels = tables[baseline][0]
    drawn = _draws(groups, len(labels), n, seed)
    means = {name: _mean_aucs(labels, x, folds, drawn).mean(0) for name, (_, x) in tables.items()}
    pooled = {name: _mean_aucs(labels, x, None, drawn).mean(0) for name, (_, x) in tables.items()}
    others = [name for name in rows if name != baseline]
    differences = {name: _difference(means[name] - means[baseline], level) for name in others}
    by_auc = _versus({m: (d.estimate, d.p_value) for m, d in differences.items()}, level)
    errors, by_place = {}, {}
    if localized is not None:
        missed = {name: 1 - np.asarray(x, np.float64) for name, x in localized.items()}
        errors = {name: proportion(x, groups, level) for name, x in missed.items()}
        gains = {m: errors[baseline].estimate - errors[m].estimate for m in others}
        by_place = _versus(
            {m: (gains[m], mcnemar(missed[m], missed[baseline], groups)) for m in others}, level
        )
    facts = [
        RowFacts(
            name,
            _interval(means[name], level),
            _interval(pooled[name], level),
            differences.get(name),
            by_auc.get(name),
            errors.get(name),
            by_place.get(name),
        )
        for name in rows
    ]
    of_folds = {name: _fold_aucs(labels, x, folds, drawn[:1]).mean((1, 2)) for name, (_, x) in tables.items()}
    k = len(of_folds[baseline])
    if k < 3:
        raise ValueError(f"at least three folds with both classes are needed (reading 18) but there are {k}")
    test = len(labels) / k
    seen = [
        smallest_detectable_difference(of_folds[m] - of_folds[baseline], (k - 2) * test, test, level)
        for m in others
    ]
    return Comparison(baseline, tuple(facts), float(np.sqrt(np.square(seen).mean())) if seen else None)


def _versus(gains: Mapping[str, tuple[float, float]], level: float) -> dict[str, Versus]:
    """Rows by name, from their gain over the baseline (positive: better) and its p."""
    adjusted = holm([p for _, p in gains.values()])
    return {
        name: Versus(p, float(q), UNCLEAR if q > 1 - level else BETTER if gain > 0 else WORSE)
        for (name, (gain, p)), q in zip(gains.items(), adjusted, strict=True)
    }


def _checked(
    y: ArrayLike, scores: Sequence[ArrayLike] | NDArray[np.floating]
) -> tuple[NDArray[np.int64], Floats]:
    labels, table = np.asarray(y).astype(np.int64), np.asarray(scores, np.float64)
    if table.ndim != 2 or table.shape[1:] != labels.shape:
        raise ValueError(f"a score a case is needed: {labels.shape} labels but {table.shape} scores")
    if set(np.unique(labels)) != {0, 1}:
        raise ValueError(f"labels must be 0 and 1, both of them, but are {np.unique(labels).tolist()}")
    if not np.isfinite(table).all():
        raise ValueError("scores must be finite but some are not")
    return labels, table


def _counted(values: ArrayLike, groups: ArrayLike | None) -> tuple[Floats, NDArray[np.intp]]:
    """Means over seeds of the cases that count, and the number of each one's patient."""
    means = np.atleast_2d(np.asarray(values, np.float64)).mean(0)
    there = ~np.isnan(means)
    if not there.any():
        raise ValueError("no case counts: all are NaN")
    names = np.arange(len(means)) if groups is None else np.asarray(groups)
    return means[there], np.unique(names[there], return_inverse=True)[1]


def _draws(groups: ArrayLike | None, cases: int, n: int, seed: int) -> Floats:
    """How often each case is drawn, `(1 + n, cases)`: groups with replacement, as many as there are.

    The first row is the data itself. Nothing is stratified: strata of a few patients of a class in a fold
    would make the draws vary too little.
    """
    _, member = np.unique(np.arange(cases) if groups is None else np.asarray(groups), return_inverse=True)
    count = int(member.max()) + 1
    picks = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n)
    return np.concatenate([np.ones((1, cases)), picks[:, member]])


def _parts(labels: NDArray[np.int64], folds: ArrayLike | None) -> list[NDArray[np.intp]]:
    """Cases of each fold that holds both classes."""
    names = np.zeros(len(labels), np.int64) if folds is None else np.asarray(folds)
    parts = [np.flatnonzero(names == fold) for fold in np.unique(names)]
    parts = [part for part in parts if len(np.unique(labels[part])) == 2]
    if not parts:
        raise ValueError("no fold holds both classes")
    return parts


def _placements(labels: NDArray[np.int64], scores: Floats) -> Floats:
    """Share of the other class that each case stands on the right side of, `(rows, cases)`; ties half."""
    positive, negative = labels == 1, labels == 0
    placed = np.empty_like(scores)
    for row, score in zip(placed, scores, strict=True):
        row[positive] = _share_below(score[positive], score[negative])
        row[negative] = 1 - _share_below(score[negative], score[positive])
    return placed


def _share_below(values: Floats, others: Floats) -> Floats:
    """Share of the others below each value, ties half: by sorting, as Sun & Xu 2014 do by ranks."""
    line = np.sort(others)
    below, up_to = (np.searchsorted(line, values, side) for side in ("left", "right"))
    shares: Floats = (below + up_to) / (2 * len(others))
    return shares


def _fold_aucs(labels: NDArray[np.int64], table: Floats, folds: ArrayLike | None, weights: Floats) -> Floats:
    """AUC `(folds, rows, draws)` of scores `(rows, cases)` under case weights `(draws, cases)`."""
    return np.stack(
        [_weighted_aucs(labels[part], table[:, part], weights[:, part]) for part in _parts(labels, folds)]
    )


def _mean_aucs(labels: NDArray[np.int64], table: Floats, folds: ArrayLike | None, weights: Floats) -> Floats:
    """Mean over the folds that have both classes, `(rows, draws)`; NaN where none has."""
    by_fold = _fold_aucs(labels, table, folds, weights)
    there = ~np.isnan(by_fold)
    total, count = np.where(there, by_fold, 0.0).sum(0), there.sum(0)
    means: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means


def _weighted_aucs(labels: NDArray[np.int64], table: Floats, weights: Floats) -> Floats:
    """AUC `(rows, draws)` under each row of case weights `(draws, cases)`; NaN where a class has none."""
    positive, negative = labels == 1, labels == 0
    of_positive, of_negative = weights[:, positive], weights[:, negative]
    pairs = of_positive.sum(1) * of_negative.sum(1)
    won = np.empty((len(table), len(weights)))
    for row, score in enumerate(table):
        above = np.subtract.outer(score[positive], score[negative])
        wins = (above > 0) + 0.5 * (above == 0)
        won[row] = np.einsum("dn,dn->d", of_positive @ wins, of_negative)
    shares: Floats = np.divide(won, pairs, out=np.full(won.shape, np.nan), where=pairs > 0)
    return shares


def _interval(figures: Floats, level: float) -> Interval:
    """Percentile interval of the first figure, by the others."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(figures[1:], [tail, 1 - tail])
    return Interval(float(figures[0]), float(low), float(high))


def _difference(figures: Floats, level: float) -> Difference:
    """Percentile interval of the first figure by the others, and the p-value that belongs to it."""
    drawn = figures[1:][~np.isnan(figures[1:])]
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(2 * (1 + int(tail)) / (1 + len(drawn)), 1.0)
    return Difference(*_interval(figures, level), p)
