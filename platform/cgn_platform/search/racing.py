"""Racing (Maron & Moore 1994): stop a trial once a paired test shows that it is behind the incumbent.

A trial is compared with the incumbent, the best complete trial so far, on the validation scores of the same
cases at the same epoch. Three design decisions:

- It is not compared with the incumbent's best or final score. That score is a maximum over epochs that the
  trial has not reached, and would make every trial look behind at first.
- It is compared on all folds together, since the 18 cases of one fold have no power. All folds are at the
  same epoch (lockstep), and each case is validated once.
- The test says nothing about the end. Learning curves cross: a trial that is behind at epoch 8 may lead at
  epoch 40, and no statistic at epoch 8 can predict that. A late first look and a budget that is spent late
  (`power`) limit the damage; `cgn replay` measures it on recorded curves.

The error budget holds for one trial against an incumbent fixed beforehand. An incumbent that is the best of
many trials looks better than it is, so equally good trials are stopped more often (8 instead of 5 of 100
among 20 equal trials). The search loses little by that: it selects by the score in which they are behind.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cgn.errors import ConfigError
from cgn.statistics import fold_delong

Floats = NDArray[np.float64]


class Curve(NamedTuple):
    """A complete trial.

    Attributes:
        scores: `(epochs, cases)` validation scores.
        value: mean validation AUC that the search ranks by.
        test: test AUC.
    """

    scores: Floats
    value: float
    test: float


def lag_p_value(
    y: ArrayLike, folds: ArrayLike, groups: ArrayLike | None, trial: ArrayLike, incumbent: ArrayLike
) -> float:
    """One-sided p-value of the trial's lag, if it were as good as the incumbent.

    By `cgn.statistics.fold_delong` and Student's t, without resampling; it takes a few milliseconds.

    Args:
        y, folds, groups: `(cases,)` labels, validation folds, patients.
        trial, incumbent: `(cases,)` validation scores at the same epoch.

    Returns:
        In [0, 1]; 1 if the standard error cannot be estimated (one patient of a class in each fold).
    """
    difference, error, freedom = fold_delong(y, trial, incumbent, groups, folds)
    if freedom == 0 or difference >= 0:
        return 1.0
    return float(stats.t.cdf(difference / error, freedom)) if error else 0.0


def is_behind(
    y: ArrayLike,
    folds: ArrayLike,
    groups: ArrayLike | None,
    trial: ArrayLike,
    incumbent: ArrayLike,
    confidence: float,
) -> bool:
    """Whether the trial's mean AUC over folds is below the incumbent's with this confidence."""
    return lag_p_value(y, folds, groups, trial, incumbent) < 1 - confidence


def fold_aucs(y: ArrayLike, folds: ArrayLike, scores: ArrayLike) -> Floats:
    """`(folds,)` AUC of each fold, in order of first appearance; ties count half."""
    labels, fold_of, values = np.asarray(y), np.asarray(folds), np.asarray(scores)

    def auc(in_fold: NDArray[np.bool_]) -> float:
        above = values[in_fold & (labels == 1)][:, None] - values[in_fold & (labels == 0)]
        return float(np.mean((np.sign(above) + 1) / 2))

    return np.array([auc(fold_of == fold) for fold in dict.fromkeys(fold_of.tolist())])


def budget(
    epochs: int, first: int, every: int, confidence: float = 0.95, power: float = 3.0
) -> dict[int, float]:
    """Kim & DeMets 1987. Error probability of each look, by its epoch (counted from 1).

    Looks are at `first`, `first + every`, ..., before the last epoch, where nothing is left to save. Up to
    the look at epoch t, the share `(t / last look) ** power` of `1 - confidence` is spent: 1 spends evenly,
    3 late, similar to O'Brien & Fleming. The probabilities add up, however the looks depend on each other.

    Args:
        epochs: of a complete trial.
        first: epoch of the first look.
        every: epochs between looks.
        confidence: over all looks together.
        power: how late the budget is spent.

    Raises:
        ConfigError: a number is out of its range.
    """
    if min(first, every) < 1:
        raise ConfigError(f"first look and step must be at least 1 epoch but are {first} and {every}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1 but got {confidence}")
    if not power > 0:
        raise ConfigError(f"power must be above 0 (1 spends evenly, 3 late) but got {power}")
    looks = np.arange(first, epochs, every)
    spent = (1 - confidence) * (looks / looks[-1]) ** power if len(looks) else np.zeros(0)
    return {int(look): float(share) for look, share in zip(looks, np.diff(spent, prepend=0.0), strict=True)}
