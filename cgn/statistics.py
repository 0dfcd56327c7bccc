"""What small data allows one to say: intervals, paired tests, corrections. Pure NumPy and SciPy.

Scores are of test cases alone, one a case (out of fold), never used to choose anything. AUC in [0, 1].
"""

from collections.abc import Sequence
from typing import NamedTuple

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
    """DeLong et al. 1988, by midranks (Sun & Xu 2014). Paired comparison of two AUCs.

    Args:
        y: `(n,)` labels, 1 malignant.
        a, b: `(n,)` scores of the same cases. Without `b`, `a` is compared with chance (0.5).

    Raises:
        ValueError: fewer than two cases of a class, or scores that are no numbers.
    """
    labels, scores = _checked(y, [a] if b is None else [a, b])
    positive, negative = scores[:, labels == 1], scores[:, labels == 0]
    m, n = positive.shape[1], negative.shape[1]
    if min(m, n) < 2:
        raise ValueError(f"DeLong needs at least two cases of each class but got {n} benign, {m} malignant")
    together = stats.rankdata(np.concatenate([positive, negative], 1), axis=1)
    # Share of the other class that each case stands on the right side of.
    of_positive = (together[:, :m] - stats.rankdata(positive, axis=1)) / n
    of_negative = 1 - (together[:, m:] - stats.rankdata(negative, axis=1)) / m
    aucs = of_positive.mean(1)
    covariance = np.atleast_2d(np.cov(of_positive)) / m + np.atleast_2d(np.cov(of_negative)) / n
    contrast = np.array([1.0]) if b is None else np.array([1.0, -1.0])
    other = 0.5 if b is None else float(aucs[1])
    difference = float(aucs[0]) - other
    error = float(np.sqrt(max(contrast @ covariance @ contrast, 0.0)))
    deviations = abs(difference) / error if error else (np.inf if difference else 0.0)
    return DeLong(float(aucs[0]), other, difference, error, float(2 * stats.norm.sf(deviations)))


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
        y, score: `(n,)` labels and scores.
        groups: `(n,)` what is drawn together, e.g. patients; each case by itself where None.
        folds: `(n,)` fold of each case: then the mean over folds of their AUCs (reading 21), else the
            pooled AUC.
        n: draws; those in which no fold holds both classes are left out.
        seed, level: of the draws; of the interval.

    Raises:
        ValueError: a class is missing, or scores that are no numbers.
    """
    labels, scores = _checked(y, [score])
    parts = np.zeros(len(labels), np.int64) if folds is None else np.asarray(folds)
    drawn = np.concatenate([np.ones((1, len(labels))), _draws(groups, len(labels), n, seed)])
    by_fold = [
        _weighted_auc(labels[part], scores[0, part], drawn[:, part])
        for part in (np.flatnonzero(parts == fold) for fold in np.unique(parts))
    ]
    figures = _mean_of_present(np.stack(by_fold))
    tail = (1 - level) / 2
    low, high = np.nanquantile(figures[1:], [tail, 1 - tail])
    return Interval(float(figures[0]), float(low), float(high))


def holm(p: ArrayLike) -> Floats:
    """Holm 1979. Adjusted p-values of a family, in the order given."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values)
    steps = np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values))))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def smallest_detectable_difference(
    fold_differences: ArrayLike, n_train: int, n_test: int, level: float = 0.95
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
) -> float:
    """BBC-CV (Tsamardinos et al. 2018). AUC of a search's winner, corrected for having been chosen.

    In each draw the best configuration by the cases drawn is measured on those that were not.

    Args:
        y: `(n,)` labels.
        scores: `(configurations, n)` out-of-fold scores of all that were tried.
        groups: `(n,)` what is drawn together, e.g. patients.
        n, seed: of the draws.
    """
    labels, table = _checked(y, scores)
    drawn = _draws(groups, len(labels), n, seed)
    inside = np.stack([_weighted_auc(labels, row, drawn) for row in table])
    outside = np.stack([_weighted_auc(labels, row, (drawn == 0).astype(np.float64)) for row in table])
    usable = ~(np.isnan(inside[0]) | np.isnan(outside[0]))
    if not usable.any():
        raise ValueError("no draw holds both classes inside and outside: there are too few groups")
    winner = inside[:, usable].argmax(0)
    return float(outside[:, usable][winner, np.arange(len(winner))].mean())


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


def _draws(groups: ArrayLike | None, cases: int, n: int, seed: int) -> Floats:
    """How often each case is drawn, `(n, cases)`: groups with replacement, as many as there are."""
    _, member = np.unique(np.arange(cases) if groups is None else np.asarray(groups), return_inverse=True)
    count = int(member.max()) + 1
    picks = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n)
    return picks[:, member].astype(np.float64)


def _weighted_auc(labels: NDArray[np.int64], score: Floats, weights: Floats) -> Floats:
    """AUC `(n,)` under each row of case weights `(n, cases)`; NaN where a class has none."""
    positive, negative = labels == 1, labels == 0
    above = np.subtract.outer(score[positive], score[negative])
    wins = (above > 0) + 0.5 * (above == 0)
    of_positive, of_negative = weights[:, positive], weights[:, negative]
    pairs = of_positive.sum(1) * of_negative.sum(1)
    won = ((of_positive @ wins) * of_negative).sum(1)
    shares: Floats = np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return shares


def _mean_of_present(by_fold: Floats) -> Floats:
    there = ~np.isnan(by_fold)
    total = np.where(there, by_fold, 0.0).sum(0)
    means: Floats = np.divide(total, there.sum(0), out=np.full(by_fold.shape[1], np.nan), where=there.any(0))
    return means
