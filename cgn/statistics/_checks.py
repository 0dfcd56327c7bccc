"""Checked inputs: labels, scores, and the patient of each case."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgn.errors import DataError

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class StatisticsError(DataError, ValueError):
    """Cases from which a figure cannot be computed, for example because a class is missing."""


def checked_scores(y: ArrayLike, scores: Sequence[ArrayLike] | NDArray[np.floating]) -> tuple[Labels, Floats]:
    """Labels `(cases,)` and a table of scores `(rows, cases)`.

    Raises:
        StatisticsError: the shapes differ, a class is missing, or a score is not finite.
    """
    labels, table = np.asarray(y).astype(np.int64), np.asarray(scores, np.float64)
    if table.ndim != 2 or table.shape[1:] != labels.shape:
        raise StatisticsError(
            f"scores must have one value per case but have shape {table.shape} for {labels.shape} labels"
        )
    if set(np.unique(labels)) != {0, 1}:
        raise StatisticsError(
            f"labels must be 0 and 1, and both must occur, but are {np.unique(labels).tolist()}"
        )
    if not np.isfinite(table).all():
        raise StatisticsError("scores must be finite but some are not")
    return labels, table


def patient_numbers(groups: ArrayLike | None, cases: int) -> NDArray[np.intp]:
    """`(cases,)` number of each case's patient, from 0; each case is its own patient if `groups` is None."""
    names = np.arange(cases) if groups is None else np.asarray(groups)
    return np.unique(names, return_inverse=True)[1]


def annotated_means(values: ArrayLike, groups: ArrayLike | None) -> tuple[Floats, NDArray[np.intp]]:
    """Means over seeds of the cases that are not NaN, and the patient number of each.

    Raises:
        StatisticsError: all cases are NaN.
    """
    means = np.atleast_2d(np.asarray(values, np.float64)).mean(0)
    annotated = ~np.isnan(means)
    if not annotated.any():
        raise StatisticsError("at least one case must have a value but all are NaN")
    names = np.arange(len(means)) if groups is None else np.asarray(groups)
    return means[annotated], patient_numbers(names[annotated], int(annotated.sum()))
