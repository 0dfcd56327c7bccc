"""The race over recorded curves: the oracle of the racing pruner. Loaded by `conftest.py`."""

from collections.abc import Callable, Mapping, Sequence

from numpy.typing import ArrayLike

from cgn_platform.search.racing import Curve, Floats, is_behind
from cgn_platform.search.replay import ReplayResult, evaluate_stops

Rule = Callable[[Floats, Sequence[Curve]], bool]
"""Decides from a trial's scores so far `(epochs so far, cases)` and the complete trials before it."""


def race(y: ArrayLike, folds: ArrayLike, groups: ArrayLike | None, errors: Mapping[int, float]) -> Rule:
    """Stops a trial that is behind the best complete one at a look of its `budget`.

    If the incumbent ended before the look, the trial continues.
    """

    def rule(so_far: Floats, complete: Sequence[Curve]) -> bool:
        epoch = len(so_far)
        if epoch not in errors or not complete:
            return False
        incumbent = max(complete, key=lambda curve: curve.value)
        if len(incumbent.scores) < epoch:
            return False
        return is_behind(y, folds, groups, so_far[-1], incumbent.scores[epoch - 1], 1 - errors[epoch])

    return rule


def run_race(curves: Sequence[Curve], rule: Rule) -> ReplayResult:
    """Recorded complete trials under a rule, in the order in which they ran, one at a time.

    The first runs to its end. The rule sees no epoch after a stop and no later trial.
    """
    complete: list[Curve] = []
    stopped: list[int | None] = []
    for curve in curves:
        looks = range(1, len(curve.scores)) if complete else ()
        stop = next((epoch for epoch in looks if rule(curve.scores[:epoch], tuple(complete))), None)
        stopped.append(stop)
        if stop is None:
            complete.append(curve)
    return evaluate_stops(curves, stopped)
