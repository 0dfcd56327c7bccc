"""DeLong's standard errors of AUCs: exact, without resampling."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from cgn.statistics._aucs import fold_cases, placements
from cgn.statistics._checks import StatisticsError, checked_scores, patient_numbers


class DeLong(NamedTuple):
    """AUCs of two scores on the same cases, their difference, its standard error, the two-sided p-value."""

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
        StatisticsError: a class has fewer than two cases, or a score is not finite.
    """
    labels, scores = checked_scores(y, [a] if b is None else [a, b])
    m, n = int((labels == 1).sum()), int((labels == 0).sum())
    if min(m, n) < 2:
        raise StatisticsError(
            f"DeLong needs at least two cases of each class but got {n} benign, {m} malignant"
        )
    components = placements(labels, scores)
    positive, negative = components[:, labels == 1], components[:, labels == 0]
    aucs = positive.mean(1)
    covariance = np.atleast_2d(np.cov(positive)) / m + np.atleast_2d(np.cov(negative)) / n
    contrast = np.array([1.0]) if b is None else np.array([1.0, -1.0])
    reference = 0.5 if b is None else float(aucs[1])
    difference = float(aucs[0]) - reference
    error = float(np.sqrt(max(contrast @ covariance @ contrast, 0.0)))
    z = abs(difference) / error if error else (np.inf if difference else 0.0)
    return DeLong(float(aucs[0]), reference, difference, error, float(2 * stats.norm.sf(z)))


class FoldDeLong(NamedTuple):
    """Difference of two mean AUCs, its standard error, and that error's degrees of freedom (0: unknown)."""

    difference: float
    standard_error: float
    freedom: float


def fold_delong(
    y: ArrayLike, a: ArrayLike, b: ArrayLike, groups: ArrayLike | None = None, folds: ArrayLike | None = None
) -> FoldDeLong:
    """DeLong et al. 1988 for the mean over folds, with patients as clusters (Obuchowski 1997).

    Folds share no case, so their variances add up. The components of a patient's cases are summed before they
    are squared. Bessel's correction is applied once per class, g / (g - folds) for the g patients of a class,
    not per fold, so folds with one patient of a class are allowed. With equal fold sizes this equals the sum
    of per-fold DeLong variances. The degrees of freedom are Welch's, over the two classes.

    Args:
        y: `(n,)` labels, 1 malignant.
        a, b: `(n,)` scores of the same cases.
        groups: `(n,)` patients; each case is its own patient if None. No patient may be in two folds.
        folds: `(n,)` fold of each case; one fold if None. Folds without both classes are left out.
    """
    labels, scores = checked_scores(y, [a, b])
    parts = fold_cases(labels, folds)
    share = np.zeros((2, len(labels)))  # each case's contribution to the deviation of the mean AUC
    aucs = np.zeros(2)
    for part in parts:
        components = placements(labels[part], scores[:, part])
        auc = components[:, labels[part] == 1].mean(1)
        size = np.where(labels[part] == 1, (labels[part] == 1).sum(), (labels[part] == 0).sum())
        share[:, part] = (components - auc[:, None]) / size / len(parts)
        aucs += auc / len(parts)
    member = patient_numbers(groups, len(labels))
    kept = np.concatenate(parts)
    sums, patients = [], []
    for cases in (kept[labels[kept] == 0], kept[labels[kept] == 1]):
        sums.append(np.bincount(member[cases], (share[0] - share[1])[cases], member.max() + 1))
        patients.append(len(np.unique(member[cases])))
    freedom = np.array(patients) - len(parts)
    difference = float(aucs[0] - aucs[1])
    if freedom.min() < 1:
        return FoldDeLong(difference, float("nan"), 0.0)
    variances = np.square(sums).sum(1) * patients / freedom
    total = len(np.unique(member[kept]))
    covariance = 2 * float(sums[0] @ sums[1]) * total / (total - len(parts))
    welch = float(np.square(variances) @ (1 / freedom))
    return FoldDeLong(
        difference,
        float(np.sqrt(max(variances.sum() + covariance, 0.0))),
        float(variances.sum() ** 2 / welch) if welch else float(freedom.sum()),
    )
