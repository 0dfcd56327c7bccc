"""What is stopped early: each rule of `space.Prune` is a pruner of Optuna. With `study`, the door to Optuna.

Three rules are paired: they compare a trial with the incumbent, the best complete trial, *on the validation
scores of the same cases at the same epoch*. Nothing is written for that. A running trial's worker tells its
scores with each epoch; the incumbent's are read from the ledger, whoever was the driver that saw it run.
"""

import functools
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError, LedgerError
from cgn.racing import Floats, budget, fold_aucs, loses
from cgn_platform.space import Prune, PruneRule
from cgn_platform.store.ledger import Ledger

FACTS = "facts"  # the user attribute of what was told at a trial's end


Units = tuple[str, ...]  # of a complete trial, a fold each, in the order of the splits


@dataclass(frozen=True)
class Cases:
    """The validated cases `(n,)`, fold after fold in the order of the splits."""

    y: NDArray[np.int64]
    folds: NDArray[np.int64]
    groups: NDArray[np.str_]

    @classmethod
    def of(cls, pairs: Pairs, splits: Sequence[Split]) -> "Cases":
        """Of these pairs and folds."""
        index = np.concatenate([split.val for split in splits])
        folds = np.repeat([split.fold for split in splits], [len(split.val) for split in splits])
        return cls(pairs.label[index], folds, pairs.patient_id[index])


class Scores:
    """Where paired rules find scores.

    Args:
        cases: what is scored.
        read: the scores `(epochs, cases)` of a complete trial; None where they cannot be had.
    """

    def __init__(self, cases: Cases, read: Callable[[Units], Floats | None]) -> None:
        self.cases = cases
        self._now: dict[int, Floats] = {}
        self._complete = functools.lru_cache(maxsize=2)(read)  # the incumbent and the one before it

    @classmethod
    def of(cls, pairs: Pairs, splits: Sequence[Split], ledger: Ledger) -> "Scores":
        """Of a search over these pairs whose finished folds are in this ledger."""
        return cls(Cases.of(pairs, splits), lambda units: curves(ledger, units))

    def tell(self, number: int, scores: Floats) -> None:
        """What a running trial scored `(cases,)` at the epoch that it ended last."""
        if len(scores) != len(self.cases.y):
            raise ValueError(f"{len(self.cases.y)} cases are validated but {len(scores)} scores came")
        self._now[number] = scores

    def forget(self, number: int) -> None:
        """It has ended."""
        self._now.pop(number, None)

    def pair(self, trial: FrozenTrial, incumbent: FrozenTrial) -> tuple[Floats, Floats] | None:
        """The scores of both at the epoch where the trial stands; None where one of them has none."""
        now, epoch = self._now.get(trial.number), trial.last_step
        then = self._complete(tuple(facts_of(incumbent).get("units", ())))
        if now is None or epoch is None or then is None or len(then) <= epoch:
            return None
        return now, then[epoch]


def facts_of(trial: FrozenTrial) -> dict[str, Any]:
    """The trial's user attributes, and what was told at its end, which is one of them: one write."""
    facts: dict[str, Any] = dict(trial.user_attrs)
    facts |= facts.pop(FACTS, {})
    return facts


def curves(ledger: Ledger, units: Units) -> Floats | None:
    """Validation scores `(epochs, cases)` of a complete trial; None where a unit is not there or damaged."""
    if not units:
        return None
    try:
        found = [ledger.open(unit, verify=False).reports for unit in units]
    except LedgerError:
        return None
    return np.concatenate([[report.val_scores for report in reports] for reports in found], axis=1)


class Paired(optuna.pruners.BasePruner):
    """Stops a trial that is `behind` the incumbent at one of the looks.

    An incumbent that ended before the look, or whose scores cannot be read, is no measure: the trial goes on.

    Args:
        looks: epochs, counted from 1.
        behind: of the epoch and both trials' scores `(cases,)`, the trial's first.
    """

    def __init__(
        self, scores: Scores, looks: Collection[int], behind: Callable[[int, Floats, Floats], bool]
    ) -> None:
        self._scores, self._looks, self._behind = scores, looks, behind

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Optuna's question, after the trial's last report."""
        epoch = -1 if trial.last_step is None else trial.last_step + 1
        if epoch not in self._looks:
            return False
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete:
            return False
        pair = self._scores.pair(trial, max(complete, key=lambda each: each.value or 0.0))
        return pair is not None and self._behind(epoch, *pair)


def _none(_prune: Prune, _epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.NopPruner()


def _median(prune: Prune, _epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner(n_startup_trials=prune.startup_trials, n_warmup_steps=_warmup(prune))


def _percentile(prune: Prune, _epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.PercentilePruner(
        prune.percentile, n_startup_trials=prune.startup_trials, n_warmup_steps=_warmup(prune)
    )


def _successive_halving(prune: Prune, _epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=max(1, _warmup(prune)), reduction_factor=prune.reduction_factor
    )


def _hyperband(prune: Prune, epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.HyperbandPruner(
        min_resource=max(1, _warmup(prune)), max_resource=epochs, reduction_factor=prune.reduction_factor
    )


def _warmup(prune: Prune) -> int:
    """Optuna's epochs count from 0: after the last one of the warm-up, its number is one less."""
    return max(0, prune.warmup_epochs - 1)


def _racing(prune: Prune, epochs: int, scores: Scores) -> optuna.pruners.BasePruner:
    """`cgn.racing.race`, with what its looks may err declared beforehand."""
    allowed = budget(epochs, max(1, prune.warmup_epochs), prune.every, prune.confidence, prune.power)
    cases = scores.cases

    def behind(epoch: int, trial: Floats, incumbent: Floats) -> bool:
        return loses(cases.y, cases.folds, cases.groups, trial, incumbent, 1 - allowed[epoch])

    return Paired(scores, allowed, behind)


def _forgiving(prune: Prune, epochs: int, scores: Scores) -> optuna.pruners.BasePruner:
    """Bergman et al. 2024: the mean over folds lies below the incumbent's worst fold.

    They stop cross-validations that take fold after fold; here all folds stand at one epoch.
    """
    cases = scores.cases

    def behind(_epoch: int, trial: Floats, incumbent: Floats) -> bool:
        ours, best = (fold_aucs(cases.y, cases.folds, each) for each in (trial, incumbent))
        return bool(ours.mean() < best.min())

    return Paired(scores, range(max(1, prune.warmup_epochs), epochs), behind)


def _wilcoxon(prune: Prune, epochs: int, scores: Scores) -> optuna.pruners.BasePruner:
    """Optuna's, which wants instances where others want epochs: the folds' AUC at this epoch.

    With five folds the smallest p is 1/32: at a confidence of 0.95 a trial must be behind in each.
    """
    cases, pruner = scores.cases, optuna.pruners.WilcoxonPruner(p_threshold=1 - prune.confidence)

    def behind(_epoch: int, trial: Floats, incumbent: Floats) -> bool:
        ours, best = (
            dict(enumerate(fold_aucs(cases.y, cases.folds, each).tolist())) for each in (trial, incumbent)
        )
        study = optuna.create_study(direction="maximize")
        study.add_trial(optuna.trial.create_trial(value=0.0, intermediate_values=best))
        running = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values=ours)
        return pruner.prune(study, running)

    return Paired(scores, range(max(1, prune.warmup_epochs), epochs), behind)


BY_MEAN: Mapping[PruneRule, Callable[[Prune, int], optuna.pruners.BasePruner]] = {
    "none": _none,
    "median": _median,
    "percentile": _percentile,
    "successive_halving": _successive_halving,
    "hyperband": _hyperband,
}


BY_PAIRS: Mapping[PruneRule, Callable[[Prune, int, Scores], optuna.pruners.BasePruner]] = {
    "racing": _racing,
    "forgiving": _forgiving,
    "wilcoxon": _wilcoxon,
}


def make_pruner(prune: Prune, epochs: int, scores: Scores | None = None) -> optuna.pruners.BasePruner:
    """The pruner of this rule for trials of so many epochs.

    Raises:
        ConfigError: the rule compares scores, and there are none.
    """
    if prune.rule in BY_MEAN:
        return BY_MEAN[prune.rule](prune, epochs)
    if scores is None:
        raise ConfigError(
            f"prune.rule {prune.rule} compares scores of cases, which this search does not tell: "
            f"take one of {', '.join(BY_MEAN)}"
        )
    return BY_PAIRS[prune.rule](prune, epochs, scores)


def audited(seed: int, number: int, share: float) -> bool:
    """Whether this trial of the search runs to its end although its pruner would stop it.

    A share of all trials, drawn by seed and number: another driver draws the same ones.
    """
    digest = hashlib.sha256(f"audit/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
