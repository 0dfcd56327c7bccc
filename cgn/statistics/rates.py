"""Intervals and paired tests of rates of 0 and 1, such as localisation, where patients have several cases."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from cgn.statistics._checks import StatisticsError, annotated_means
from cgn.statistics._resampling import (
    DEFAULT,
    Difference,
    Interval,
    Resampling,
    draw,
    percentile_difference,
)


def proportion(share: ArrayLike, groups: ArrayLike | None = None, level: float = 0.95) -> Interval:
    """Wilson 1927 with the effective number of cases (Dean & Pagano 2015). Interval of a proportion.

    Several cases of one patient carry less information than cases of different patients. The effective number
    of cases is the one whose binomial variance equals the variance of the patients' sums, and at most the
    number of cases. At a proportion of 0 or 1, where nothing varies, it is the number of patients.

    Args:
        share: `(cases,)` or `(seeds, cases)` of 0 or 1; NaN for a case that is not counted.
        groups: `(cases,)` patients; each case is its own patient if None.
        level: of the interval.

    Raises:
        StatisticsError: all cases are NaN.
    """
    means, member = annotated_means(share, groups)
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
    """McNemar 1947, exact; with patients as Pitman 1937. Two-sided p-value of two paired rates of 0 and 1.

    Under the null hypothesis `a` and `b` may be exchanged in any patient: the p-value is the share of all
    such exchanges whose total difference is at least as large. All cases of a patient are exchanged together.
    With one case per patient this is the binomial test of the discordant pairs.

    Args:
        a, b: `(cases,)` or `(seeds, cases)` of 0 or 1, on the same cases; NaN for a case that is not counted.
        groups: `(cases,)` patients; each case is its own patient if None.

    Raises:
        StatisticsError: NaN at different cases, or everywhere.
    """
    first, second = (np.atleast_2d(np.asarray(x, np.float64)) for x in (a, b))
    if first.shape[1] != second.shape[1] or (np.isnan(first).any(0) != np.isnan(second).any(0)).any():
        raise StatisticsError(
            "a paired test needs the same cases in both samples but NaN occurs at different cases"
        )
    # Integers for any numbers of seeds, so that totals compare exactly.
    leads = len(second) * first.sum(0) - len(first) * second.sum(0)
    counted, member = annotated_means(leads, groups)
    steps = np.rint(np.bincount(member, counted)).astype(np.int64)
    reach = int(np.abs(steps).sum())
    chances = np.zeros(2 * reach + 1)  # of each total, from -reach to reach
    chances[reach] = 1.0
    for step in np.abs(steps[steps != 0]):
        chances = (np.roll(chances, step) + np.roll(chances, -step)) / 2
    totals = np.abs(np.arange(-reach, reach + 1))
    return float(min(chances[totals >= abs(int(steps.sum()))].sum(), 1.0))


def paired_rates(
    a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, resampling: Resampling = DEFAULT
) -> Difference:
    """Efron & Tibshirani 1993, ch. 13. Mean of `a` minus that of `b`, on the same draws of patients.

    Gives the interval that `mcnemar` lacks. Interval and p-value are computed as in `paired_bootstrap`; a
    draw in which no case counts is left out.

    Args:
        a, b: `(cases,)` or `(seeds, cases)` of 0 or 1, on the same cases; NaN for a case that is not counted.
        groups: `(cases,)` patients; each case is its own patient if None.
        resampling: number and seed of the draws, level of the interval.

    Raises:
        StatisticsError: NaN at different cases, or everywhere.
    """
    first, second = (np.atleast_2d(np.asarray(x, np.float64)).mean(0) for x in (a, b))
    if first.shape != second.shape or (np.isnan(first) != np.isnan(second)).any():
        raise StatisticsError(
            "a paired interval needs the same cases in both samples but NaN occurs at different cases"
        )
    leads = first - second
    counted = ~np.isnan(leads)
    if not counted.any():
        raise StatisticsError("at least one case must have a value but all are NaN")
    drawn = draw(groups, len(leads), resampling.n, resampling.seed)[:, counted]
    counts = drawn.sum(1)
    sums = drawn @ leads[counted]
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return percentile_difference(means, resampling.level)
