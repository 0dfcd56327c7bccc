"""Multiple comparisons, and what the number of folds can show at all."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from cgn.statistics._checks import Floats, StatisticsError


def holm(p: ArrayLike) -> Floats:
    """Holm 1979. Adjusted p-values of a family of tests, in the given order."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values)
    steps = np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values))))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def smallest_detectable_difference(
    fold_differences: ArrayLike, n_train: float, n_test: float, level: float = 0.95
) -> float:
    """Nadeau & Bengio 2003. Minimum detectable difference of the mean over folds, under retraining.

    Training sets overlap, so the differences of the folds are correlated: their variance is multiplied by
    `1/k + n_test/n_train`, not by `1/k`.

    Args:
        fold_differences: `(k,)` paired differences, one for each fold (and repeat).
        n_train, n_test: cases in a fold's training and test part.
        level: one minus the two-sided error.

    Raises:
        StatisticsError: fewer than two folds.
    """
    differences = np.asarray(fold_differences, np.float64)
    k = len(differences)
    if k < 2:
        raise StatisticsError(f"at least two folds are needed but got {k}")
    t = stats.t.ppf((1 + level) / 2, k - 1)
    return float(t * differences.std(ddof=1) * np.sqrt(1 / k + n_test / n_train))
