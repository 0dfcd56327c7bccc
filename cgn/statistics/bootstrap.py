"""Percentile intervals of AUCs, resampling whole patients."""

import numpy as np
from numpy.typing import ArrayLike

from cgn.statistics._aucs import mean_aucs
from cgn.statistics._checks import checked_scores
from cgn.statistics._resampling import (
    DEFAULT,
    Difference,
    Interval,
    Resampling,
    draw,
    percentile_difference,
    percentile_interval,
)


def bootstrap_auc(
    y: ArrayLike,
    score: ArrayLike,
    groups: ArrayLike | None = None,
    folds: ArrayLike | None = None,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Efron's percentile interval of an AUC, resampling whole groups (Field & Welsh 2007).

    Args:
        y: `(cases,)` labels.
        score: `(cases,)`, or `(seeds, cases)` for the mean over seeds.
        groups: `(cases,)` what is drawn together, e.g. patients; each case by itself if None.
        folds: `(cases,)` fold of each case, for the mean of the folds' AUCs (reading 21). If None, the AUC is
            pooled, which assumes that the scores of all folds have one scale.
        n: draws. A fold that lacks a class in a draw is left out of that draw's mean; a draw in which no fold
            has both classes is left out.
        seed, level: of the draws; of the interval.

    Raises:
        StatisticsError: a class is missing, or a score is not finite.
    """
    labels, scores = checked_scores(y, np.atleast_2d(np.asarray(score, np.float64)))
    drawn = draw(groups, len(labels), n, seed)
    return percentile_interval(mean_aucs(labels, scores, folds, drawn).mean(0), level)


def paired_bootstrap(
    y: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    groups: ArrayLike | None = None,
    folds: ArrayLike | None = None,
    resampling: Resampling = DEFAULT,
) -> Difference:
    """Efron & Tibshirani 1993, ch. 13. Mean AUC of `a` minus that of `b`, on the same draws of patients.

    Both scores lose the same folds in a draw (see `bootstrap_auc`), so they stay paired. The p-value belongs
    to the percentile interval: it is twice the smaller share of draws on either side of zero, where the data
    itself counts as one draw. It is below `1 - level` where the interval excludes zero, and never below
    `2 / (n + 1)`.

    Args:
        y: `(cases,)` labels.
        a, b: `(cases,)` or `(seeds, cases)` scores of the same cases; the numbers of seeds may differ.
        groups, folds: as in `bootstrap_auc`.
        resampling: number and seed of the draws, level of the interval.

    Raises:
        StatisticsError: a class is missing, or a score is not finite.
    """
    labels, first = checked_scores(y, np.atleast_2d(np.asarray(a, np.float64)))
    _, second = checked_scores(y, np.atleast_2d(np.asarray(b, np.float64)))
    drawn = draw(groups, len(labels), resampling.n, resampling.seed)
    means = [mean_aucs(labels, scores, folds, drawn).mean(0) for scores in (first, second)]
    return percentile_difference(means[0] - means[1], resampling.level)
