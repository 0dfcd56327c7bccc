"""The winner of a search, and its AUC corrected for having been selected."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cgn.statistics._aucs import mean_aucs
from cgn.statistics._checks import StatisticsError, checked_scores
from cgn.statistics._resampling import Interval, draw, percentile_interval


def bbc(
    y: ArrayLike,
    scores: Sequence[ArrayLike] | NDArray[np.floating],
    groups: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
    folds: ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """BBC-CV (Tsamardinos et al. 2018). AUC of a search's winner, corrected for having been selected.

    In each draw, the configuration that is best on the cases drawn is scored on the cases left out (bootstrap
    out-of-bag); the estimate is the mean of these scores. Each draw is scored on the roughly 37 % of patients
    left out, so its AUC varies more than one on all patients. Deviations from the mean are scaled by
    sqrt(share left out), as in subsampling (Politis, Romano & Wolf 1999). The interval is conservative: in
    simulations, nominal 95 % covered 94 to 100 %.

    Args:
        y: `(n,)` labels.
        scores: `(configurations, n)` out-of-fold scores of all configurations that were tried.
        groups: `(n,)` what is drawn together, e.g. patients.
        n, seed: of the draws.
        folds: `(n,)` fold of each case, if the search selects by the mean over folds; None if by the pooled
            AUC.
        level: of the interval.

    Raises:
        StatisticsError: there are too few groups to have both classes drawn and left out.
    """
    labels, table = checked_scores(y, scores)
    drawn = draw(groups, len(labels), n, seed)[1:]
    inside = mean_aucs(labels, table, folds, drawn)
    outside = mean_aucs(labels, table, folds, (drawn == 0).astype(np.float64))
    usable = ~(np.isnan(inside[0]) | np.isnan(outside[0]))
    if not usable.any():
        raise StatisticsError(
            "at least one draw must have both classes among the cases drawn and those left out but none has: "
            "there are too few groups"
        )
    best = inside[:, usable].argmax(0)
    out_of_bag = outside[:, usable][best, np.arange(len(best))]
    scale = np.sqrt((drawn == 0).mean())
    mean = out_of_bag.mean()
    return percentile_interval(np.append(mean, mean + scale * (out_of_bag - mean)), level)


class Winner(NamedTuple):
    """The best row of a search: its name, the AUC that it was selected by, and that AUC corrected."""

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
    """BBC-CV (`bbc`). The row with the highest AUC, with that AUC before and after correction.

    Args:
        y: `(cases,)` labels.
        rows: name to `(cases,)` scores, of all rows that were tried: the scores that the search selected by.
        groups, folds, n, seed: as in `bbc`.
    """
    table = [np.asarray(scores, np.float64) for scores in rows.values()]
    labels, checked = checked_scores(y, table)
    raw = mean_aucs(labels, checked, folds, np.ones((1, len(labels))))[:, 0]
    best = int(raw.argmax())
    return Winner(list(rows)[best], float(raw[best]), bbc(labels, checked, groups, n, seed, folds))
