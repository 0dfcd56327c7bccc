"""Early stopping: each rule of `space.Prune` is a pruner of Optuna.

Three rules are paired: they compare a trial with the incumbent, the best complete trial, on the validation
scores of the same cases at the same epoch. No extra file is written for that: a running trial's worker sends
its scores with each epoch, and the incumbent's scores are read from the ledger, also after a resume.
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
from cgn_platform.search.racing import Floats, budget, fold_aucs, is_behind
from cgn_platform.search.records import ORPHAN
from cgn_platform.space import Prune, PruneRule
from cgn_platform.store.ledger import Ledger

FACTS = "facts"
"""The user attribute that holds what `Study.tell` stores."""

UnitIds = tuple[str, ...]
"""Of a complete trial, one for each fold, in the order of the splits."""


@dataclass(frozen=True)
class Cases:
    """The validated cases `(n,)`, fold after fold in the order of the splits.

    Attributes:
        y: labels.
        folds: the fold that validates each case.
        groups: patients.
    """

    y: NDArray[np.int64]
    folds: NDArray[np.int64]
    groups: NDArray[np.str_]

    @classmethod
    def of(cls, pairs: Pairs, splits: Sequence[Split]) -> "Cases":
        """The validated cases of these splits."""
        index = np.concatenate([split.val for split in splits])
        folds = np.repeat([split.fold for split in splits], [len(split.val) for split in splits])
        return cls(pairs.label[index], folds, pairs.patient_id[index])


class Scores:
    """Validation scores for paired rules: the last epoch of running trials, all epochs of complete ones."""

    def __init__(self, cases: Cases, read: Callable[[UnitIds], Floats | None]) -> None:
        """No trial has reported yet.

        Args:
            cases: the validated cases.
            read: returns the scores `(epochs, cases)` of a complete trial; None if they are not available.
        """
        self.cases = cases
        self._latest: dict[int, Floats] = {}
        self._complete = functools.lru_cache(maxsize=2)(read)  # the incumbent and its predecessor

    @classmethod
    def of(cls, pairs: Pairs, splits: Sequence[Split], ledger: Ledger) -> "Scores":
        """For a search on these data whose finished folds are in this ledger."""
        return cls(Cases.of(pairs, splits), lambda units: read_scores(ledger, units))

    def update(self, number: int, scores: Floats) -> None:
        """Store the scores `(cases,)` of a running trial at its last epoch.

        Raises:
            ValueError: there is not one score for each case.
        """
        if len(scores) != len(self.cases.y):
            raise ValueError(f"expected a score for each of {len(self.cases.y)} cases but got {len(scores)}")
        self._latest[number] = scores

    def discard(self, number: int) -> None:
        """Drop the scores of a trial that ended."""
        self._latest.pop(number, None)

    def at_same_epoch(self, trial: FrozenTrial, incumbent: FrozenTrial) -> tuple[Floats, Floats] | None:
        """The scores of both at the trial's last epoch; None if one of them has none."""
        latest, epoch = self._latest.get(trial.number), trial.last_step
        complete = self._complete(tuple(facts_of(incumbent).get("units", ())))
        if latest is None or epoch is None or complete is None or len(complete) <= epoch:
            return None
        return latest, complete[epoch]


def facts_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial's user attributes, merged with the facts that were stored at its end.

    The facts are stored before the state. They do not count if the driver ended in between.
    """
    facts: dict[str, Any] = dict(trial.user_attrs)
    final = facts.pop(FACTS, {})
    ended = trial.state.is_finished() and facts.get("reason") != ORPHAN
    return facts | final if ended else facts


def read_scores(ledger: Ledger, units: UnitIds) -> Floats | None:
    """Validation scores `(epochs, cases)` of a complete trial; None if a unit is missing or damaged."""
    if not units:
        return None
    try:
        folds = [ledger.open(unit, verify=False).reports for unit in units]
    except LedgerError:
        return None
    return np.concatenate([[report.val_scores for report in reports] for reports in folds], axis=1)


class PairedPruner(optuna.pruners.BasePruner):
    """Stops a trial that is behind the incumbent at one of the looks.

    If the incumbent ended before the look, or its scores cannot be read, the trial continues.
    """

    def __init__(
        self, scores: Scores, looks: Collection[int], behind: Callable[[int, Floats, Floats], bool]
    ) -> None:
        """Prune by this comparison.

        Args:
            scores: of both trials.
            looks: epochs after which trials are compared, counted from 1.
            behind: called with the epoch and the scores `(cases,)` of the trial and of the incumbent.
        """
        self._scores, self._looks, self._behind = scores, looks, behind

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial, after its last report."""
        epoch = 0 if trial.last_step is None else trial.last_step + 1
        if epoch not in self._looks:
            return False
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete:
            return False
        incumbent = max(complete, key=lambda other: (other.value or 0.0, -other.number))
        scores = self._scores.at_same_epoch(trial, incumbent)
        return scores is not None and self._behind(epoch, *scores)


def _none(_prune: Prune, _epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.NopPruner()


def _median(prune: Prune, _epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.MedianPruner(
        n_startup_trials=prune.startup_trials, n_warmup_steps=_warmup_steps(prune)
    )


def _percentile(prune: Prune, _epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.PercentilePruner(
        prune.percentile, n_startup_trials=prune.startup_trials, n_warmup_steps=_warmup_steps(prune)
    )


def _successive_halving(prune: Prune, _epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.SuccessiveHalvingPruner(
        min_resource=max(1, _warmup_steps(prune)), reduction_factor=prune.reduction_factor
    )


def _hyperband(prune: Prune, epochs: int) -> optuna.pruners.BasePruner:
    return optuna.pruners.HyperbandPruner(
        min_resource=max(1, _warmup_steps(prune)),
        max_resource=epochs,
        reduction_factor=prune.reduction_factor,
    )


def _warmup_steps(prune: Prune) -> int:
    """Optuna counts steps from 0 and may prune once step >= n_warmup_steps.

    After `warmup_epochs` epochs the step is `warmup_epochs - 1`.
    """
    return max(0, prune.warmup_epochs - 1)


def _racing(prune: Prune, epochs: int, scores: Scores) -> optuna.pruners.BasePruner:
    """`racing`, with the error probability of each look fixed beforehand."""
    errors = budget(epochs, max(1, prune.warmup_epochs), prune.every, prune.confidence, prune.power)
    cases = scores.cases

    def behind(epoch: int, trial: Floats, incumbent: Floats) -> bool:
        return is_behind(cases.y, cases.folds, cases.groups, trial, incumbent, 1 - errors[epoch])

    return PairedPruner(scores, errors, behind)


def _forgiving(prune: Prune, epochs: int, scores: Scores) -> optuna.pruners.BasePruner:
    """Bergman et al. 2024: the mean over folds is below the AUC of the incumbent's worst fold.

    They stop a cross-validation that runs one fold after the other; here all folds are at the same epoch.
    """
    cases = scores.cases

    def behind(_epoch: int, trial: Floats, incumbent: Floats) -> bool:
        trial_aucs = fold_aucs(cases.y, cases.folds, trial)
        incumbent_aucs = fold_aucs(cases.y, cases.folds, incumbent)
        return bool(trial_aucs.mean() < incumbent_aucs.min())

    return PairedPruner(scores, range(max(1, prune.warmup_epochs), epochs), behind)


def _wilcoxon(prune: Prune, epochs: int, scores: Scores) -> optuna.pruners.BasePruner:
    """Optuna's `WilcoxonPruner`, with the folds' AUCs at this epoch as its instances.

    With five folds the smallest p-value is 1/32: at a confidence of 0.95 a trial must be behind in all five.
    """
    cases, pruner = scores.cases, optuna.pruners.WilcoxonPruner(p_threshold=1 - prune.confidence)

    def instances(case_scores: Floats) -> dict[int, float]:
        return dict(enumerate(fold_aucs(cases.y, cases.folds, case_scores).tolist()))

    def behind(_epoch: int, trial: Floats, incumbent: Floats) -> bool:
        best = optuna.trial.create_trial(value=0.0, intermediate_values=instances(incumbent))
        study = optuna.create_study(direction="maximize")
        study.add_trial(best)
        running = optuna.trial.create_trial(state=TrialState.RUNNING, intermediate_values=instances(trial))
        return pruner.prune(study, running)

    return PairedPruner(scores, range(max(1, prune.warmup_epochs), epochs), behind)


MEAN_PRUNERS: Mapping[PruneRule, Callable[[Prune, int], optuna.pruners.BasePruner]] = {
    "none": _none,
    "median": _median,
    "percentile": _percentile,
    "successive_halving": _successive_halving,
    "hyperband": _hyperband,
}
"""Rules that compare mean validation AUCs."""

PAIRED_PRUNERS: Mapping[PruneRule, Callable[[Prune, int, Scores], optuna.pruners.BasePruner]] = {
    "racing": _racing,
    "forgiving": _forgiving,
    "wilcoxon": _wilcoxon,
}
"""Rules that compare the scores of cases."""


def make_pruner(prune: Prune, epochs: int, scores: Scores | None = None) -> optuna.pruners.BasePruner:
    """The pruner of a rule, for trials of so many epochs.

    Raises:
        ConfigError: the rule is paired and there are no scores.
    """
    if prune.rule in MEAN_PRUNERS:
        return MEAN_PRUNERS[prune.rule](prune, epochs)
    if scores is None:
        raise ConfigError(
            f"prune.rule {prune.rule} compares scores of cases, which this search does not report: "
            f"take one of {', '.join(MEAN_PRUNERS)}"
        )
    return PAIRED_PRUNERS[prune.rule](prune, epochs, scores)


def is_audited(seed: int, number: int, share: float) -> bool:
    """Whether this trial runs to its end although the pruner would stop it.

    A share of all trials, drawn from seed and number alone, so that a resumed sweep audits the same trials.
    """
    digest = hashlib.sha256(f"audit/{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
