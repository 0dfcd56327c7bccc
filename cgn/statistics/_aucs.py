"""AUCs of many scores on many resamples, and the placements that DeLong's variance is made of."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgn.statistics._checks import Floats, Labels, StatisticsError


def fold_cases(labels: Labels, folds: ArrayLike | None) -> list[NDArray[np.intp]]:
    """Cases of each fold that has both classes; all cases are one fold if `folds` is None.

    Raises:
        StatisticsError: no fold has both classes.
    """
    names = np.zeros(len(labels), np.int64) if folds is None else np.asarray(folds)
    parts = [np.flatnonzero(names == fold) for fold in np.unique(names)]
    parts = [part for part in parts if len(np.unique(labels[part])) == 2]
    if not parts:
        raise StatisticsError("at least one fold must have both classes but none has")
    return parts


def placements(labels: Labels, scores: Floats) -> Floats:
    """Share of the other class against which each case ranks correctly, `(rows, cases)`; ties count half."""
    positive, negative = labels == 1, labels == 0
    shares = np.empty_like(scores)
    for row, score in zip(shares, scores, strict=True):
        row[positive] = _share_below(score[positive], score[negative])
        row[negative] = 1 - _share_below(score[negative], score[positive])
    return shares


def _share_below(values: Floats, others: Floats) -> Floats:
    """Share of the others below each value; ties count half. By sorting (Sun & Xu 2014 use ranks)."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    shares: Floats = (below + up_to) / (2 * len(others))
    return shares


def fold_aucs(labels: Labels, table: Floats, folds: ArrayLike | None, weights: Floats) -> Floats:
    """AUC `(folds, rows, draws)` of scores `(rows, cases)` with case weights `(draws, cases)`."""
    return np.stack(
        [_weighted_aucs(labels[part], table[:, part], weights[:, part]) for part in fold_cases(labels, folds)]
    )


def mean_aucs(labels: Labels, table: Floats, folds: ArrayLike | None, weights: Floats) -> Floats:
    """Mean over the folds that have both classes in a draw, `(rows, draws)`; NaN where no fold has."""
    by_fold = fold_aucs(labels, table, folds, weights)
    defined = ~np.isnan(by_fold)
    total, count = np.where(defined, by_fold, 0.0).sum(0), defined.sum(0)
    means: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return means


def _weighted_aucs(labels: Labels, table: Floats, weights: Floats) -> Floats:
    """AUC `(rows, draws)` with each row of case weights `(draws, cases)`; NaN where a class has weight 0."""
    positive, negative = labels == 1, labels == 0
    positive_weights, negative_weights = weights[:, positive], weights[:, negative]
    pairs = positive_weights.sum(1) * negative_weights.sum(1)
    won = np.empty((len(table), len(weights)))
    for row, score in enumerate(table):
        above = np.subtract.outer(score[positive], score[negative])
        wins = (above > 0) + 0.5 * (above == 0)
        won[row] = np.einsum("dn,dn->d", positive_weights @ wins, negative_weights)
    shares: Floats = np.divide(won, pairs, out=np.full(won.shape, np.nan), where=pairs > 0)
    return shares
