"""When a trial has shown that it loses: races (Maron & Moore 1994) by a paired test, and their replay.

A trial is compared with the incumbent, the best complete trial so far, on the validation scores of the same
cases *at the same epoch*. What the comparison must not be:

- *with the incumbent's best or final score*: that one is a maximum over epochs that the trial has not had,
  and every trial looks behind it at first;
- *of one fold*: its 18 cases tell nothing; all folds stand at the same epoch (lockstep), each case is
  validated once;
- *a promise about the end*: the test speaks of this epoch. Curves cross: a trial truly behind at epoch 8 may
  lead at epoch 40, and no statistic of epoch 8 can know. Against that stand a first look that comes late
  enough and a budget that is spent late (`power`); `replay` measures on recorded curves what both are worth.

The budget holds for one trial against an incumbent fixed beforehand. An incumbent that is the best of many
looked better than it is, so its equals are stopped more often (8 instead of 5 of 100 among 20 equal trials);
the search loses little by that, since it picks by the same score that they are behind in.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from cgn.errors import ConfigError
from cgn.statistics import fold_delong

Floats = NDArray[np.float64]


def chance_of_lag(
    y: ArrayLike, folds: ArrayLike, groups: ArrayLike | None, trial: ArrayLike, incumbent: ArrayLike
) -> float:
    """One-sided p: how often a trial as good as the incumbent would be this far behind, in [0, 1].

    By `cgn.statistics.fold_delong` and Student's t: nothing is drawn, a few milliseconds. 1 where the error
    cannot be known (a single patient of a class in each fold).

    Args:
        y, folds, groups: `(cases,)` labels, validation folds, patients.
        trial, incumbent: `(cases,)` validation scores at the same epoch.
    """
    difference, error, freedom = fold_delong(y, trial, incumbent, groups, folds)
    if freedom == 0 or difference >= 0:
        return 1.0
    return float(stats.t.cdf(difference / error, freedom)) if error else 0.0


def loses(
    y: ArrayLike,
    folds: ArrayLike,
    groups: ArrayLike | None,
    trial: ArrayLike,
    incumbent: ArrayLike,
    confidence: float,
) -> bool:
    """Whether the trial's mean AUC over folds lies below the incumbent's with this confidence."""
    return chance_of_lag(y, folds, groups, trial, incumbent) < 1 - confidence


def fold_aucs(y: ArrayLike, folds: ArrayLike, scores: ArrayLike) -> Floats:
    """The AUC of each fold, in the order in which the folds come; ties count half."""
    labels, member, values = np.asarray(y), np.asarray(folds), np.asarray(scores)

    def auc(fold: NDArray[np.bool_]) -> float:
        above = values[fold & (labels == 1)][:, None] - values[fold & (labels == 0)]
        return float(np.mean((np.sign(above) + 1) / 2))

    return np.array([auc(member == fold) for fold in dict.fromkeys(member.tolist())])


def budget(
    epochs: int, first: int, every: int, confidence: float = 0.95, power: float = 3.0
) -> dict[int, float]:
    """Kim & DeMets 1987. What each look may err: epoch (counted from 1) to its share of `1 - confidence`.

    Looks are at `first`, `first + every`, ... before the last epoch, where nothing is left to save. By the
    look at epoch t the share `(t / last look) ** power` is spent: 1 spends in step with the epochs, 3 late,
    much like O'Brien & Fleming. What looks may err adds up, which holds however they depend on each other.

    Raises:
        ConfigError: a number out of its range.
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


class Curve(NamedTuple):
    """A complete trial: validation scores `(epochs, cases)`, what the search picks by, test AUC."""

    scores: Floats
    value: float
    test: float


# Decides from a trial's scores so far `(epochs so far, cases)` and the complete trials before it.
Rule = Callable[[Floats, Sequence[Curve]], bool]


def race(y: ArrayLike, folds: ArrayLike, groups: ArrayLike | None, allowed: Mapping[int, float]) -> Rule:
    """The rule that stops a trial which `loses` to the best complete one at a look of its `budget`.

    An incumbent that ended before the look is no measure: the trial goes on.
    """

    def rule(so_far: Floats, complete: Sequence[Curve]) -> bool:
        epoch = len(so_far)
        if epoch not in allowed or not complete:
            return False
        incumbent = max(complete, key=lambda curve: curve.value)
        if len(incumbent.scores) < epoch:
            return False
        return loses(y, folds, groups, so_far[-1], incumbent.scores[epoch - 1], 1 - allowed[epoch])

    return rule


class Replay(NamedTuple):
    """What a rule would have done to recorded trials.

    `stopped` is the epoch after which each trial ended early, None for those that ran to their end.
    `regret` and `test_regret` are the value and test AUC of the winner of all trials minus those of the
    winner of the trials left; the second may be negative. `wrong` are the stopped trials whose value
    exceeds that of the winner left.
    """

    epochs_used: int
    epochs_saved: int
    stopped: tuple[int | None, ...]
    winner: int
    regret: float
    test_regret: float
    wrong: tuple[int, ...]


def replay(curves: Sequence[Curve], rule: Rule) -> Replay:
    """Recorded complete trials under a rule, in the order they were run, one at a time.

    The first runs to its end. Nothing after a stop is shown to the rule, nor later trials. The order is kept
    as it was, although a sampler might have asked for others had trials been stopped.
    """
    if not curves:
        raise ValueError("at least one recorded trial is needed but there is none")
    complete: list[Curve] = []
    stopped: list[int | None] = []
    for curve in curves:
        looks = range(1, len(curve.scores)) if complete else ()
        stop = next((epoch for epoch in looks if rule(curve.scores[:epoch], tuple(complete))), None)
        stopped.append(stop)
        if stop is None:
            complete.append(curve)
    return account(curves, stopped)


def account(curves: Sequence[Curve], stopped: Sequence[int | None]) -> Replay:
    """What it saves and costs to stop these trials after these epochs; at least one runs to its end."""
    used = sum(len(c.scores) if stop is None else stop for c, stop in zip(curves, stopped, strict=True))
    best = max(range(len(curves)), key=lambda i: curves[i].value)
    left = max((i for i, stop in enumerate(stopped) if stop is None), key=lambda i: curves[i].value)
    return Replay(
        used,
        sum(len(curve.scores) for curve in curves) - used,
        tuple(stopped),
        left,
        curves[best].value - curves[left].value,
        curves[best].test - curves[left].test,
        tuple(
            i for i, stop in enumerate(stopped) if stop is not None and curves[i].value > curves[left].value
        ),
    )
