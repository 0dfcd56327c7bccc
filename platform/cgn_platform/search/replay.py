"""What each pruning rule would have saved and cost, on trials that all ran to their end.

Every rule is the pruner that a sweep would use (`pruning.make_pruner`), called by an Optuna study in memory
that is fed with the recorded curves, one trial at a time. The default is the first trial and runs to its end,
as in a sweep; the others are replayed in the recorded order and in shuffled ones. A replay cannot show that a
sampler which learns from stopped trials would have suggested other trials.
"""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.errors import StudyError
from cgn_platform.differences import difference
from cgn_platform.search.pruning import Cases, Scores, make_pruner, read_scores
from cgn_platform.search.racing import Curve, fold_aucs
from cgn_platform.search.records import TrialRecord
from cgn_platform.space import PRUNE_RULES, Prune, PruneRule
from cgn_platform.store.ledger import Ledger


@dataclass(frozen=True)
class Recording:
    """The complete trials of a study, in the order in which they ran; the default is the first.

    Attributes:
        study: its name.
        cases: the validated cases.
        curves: one for each trial whose units are all in the ledger.
        unreadable: number of complete trials without a curve, because a unit is missing or damaged.
    """

    study: str
    cases: Cases
    curves: Sequence[Curve]
    unreadable: int = 0


class ReplayResult(NamedTuple):
    """What a rule does to recorded trials in one order.

    Attributes:
        epochs_used, epochs_saved: of all trials.
        stopped: epoch after which each trial is stopped; None for those that run to their end.
        winner: index of the best trial that is not stopped.
        regret: value of the best of all trials minus that of the winner.
        test_regret: the same difference of test AUC; may be negative.
        wrong: indices of the stopped trials whose value exceeds the winner's.
    """

    epochs_used: int
    epochs_saved: int
    stopped: tuple[int | None, ...]
    winner: int
    regret: float
    test_regret: float
    wrong: tuple[int, ...]


@dataclass(frozen=True)
class RuleOutcome:
    """What a rule does to a recording, over several orders.

    Attributes:
        unreadable: complete trials that were left out because a unit is missing or damaged.
        times_fewer: epochs of all trials over those used, mean over orders.
        stopped, wrong: trials stopped, and those of them that would have won; means over orders.
        regret, regret_worst: validation AUC lost, mean and maximum over orders.
        orders_with_regret: share of the orders in which any was lost.
        test_regret: test AUC lost, with its standard deviation over orders; may be negative.
    """

    study: str
    rule: PruneRule
    trials: int
    unreadable: int
    orders: int
    epochs: float
    times_fewer: float
    stopped: float
    wrong: float
    regret: float
    regret_worst: float
    orders_with_regret: float
    test_regret: float
    test_regret_sd: float


def read_recording(
    name: str,
    declaration: Mapping[str, Any],
    records: Sequence[TrialRecord],
    pairs: Pairs,
    splits: Sequence[Split],
    ledger: Ledger,
) -> Recording:
    """The complete trials of a study, with their curves from the ledger.

    Raises:
        StudyError: the study ran on other data, or the ledger has fewer than two complete trials.
    """
    data = {"cache": pairs.fingerprint, "splits": splits_fingerprint(pairs.pair_id, splits)}
    declared = {key: declaration.get(key) for key in data}
    if differences := difference(declared, data):
        raise StudyError(f"study {name!r} ran on other data: {differences[0]}: give its cache with --data")
    complete = [r for r in records if r.value is not None and r.facts.get("test_auc") is not None]
    scores = [read_scores(ledger, tuple(record.facts["units"])) for record in complete]
    curves = [
        Curve(of_trial, record.value, record.facts["test_auc"])
        for record, of_trial in zip(complete, scores, strict=True)
        if of_trial is not None and record.value is not None
    ]
    if len(curves) < 2:
        raise StudyError(
            f"a replay needs at least two complete trials but {name!r} has {len(curves)} in {ledger.where}: "
            "record some with prune=Prune('none')"
        )
    return Recording(name, Cases.of(pairs, splits), curves, len(complete) - len(curves))


def orders(trials: int, n: int, seed: int = 0) -> list[list[int]]:
    """The recorded order, then `n - 1` shuffled ones; the default is always first."""
    rng = random.Random(seed)
    return [list(range(trials)), *([0, *rng.sample(range(1, trials), trials - 1)] for _ in range(n - 1))]


def replay(
    prune: Prune, cases: Cases, trials: Sequence[Curve], means: Sequence[Sequence[float]]
) -> ReplayResult:
    """Apply a rule to recorded trials, in this order.

    Args:
        prune: the rule, as a search space declares it.
        cases: the validated cases.
        trials: the first runs to its end.
        means: mean validation AUC over folds, of each trial at each epoch.
    """
    scores = Scores(cases, lambda units: trials[int(units[0])].scores)
    epochs = max(len(trial.scores) for trial in trials)
    pruner = make_pruner(prune, epochs, scores)
    study = optuna.create_study(study_name="replay", direction="maximize", pruner=pruner)
    stopped: list[int | None] = []
    for number, curve in enumerate(trials):
        trial = study.ask()
        trial.set_user_attr("units", [str(number)])
        stop = None
        for epoch, epoch_scores, mean in zip(count(), curve.scores, means[number]):
            scores.update(number, epoch_scores)
            trial.report(mean, epoch)
            if number > 0 and epoch + 1 < len(curve.scores) and trial.should_prune():
                stop = epoch + 1
                break
        stopped.append(stop)
        if stop is None:
            study.tell(trial, curve.value)
        else:
            study.tell(trial, state=TrialState.PRUNED)
    return evaluate_stops(trials, stopped)


def evaluate_stops(curves: Sequence[Curve], stopped: Sequence[int | None]) -> ReplayResult:
    """What it saves and costs to stop these trials after these epochs.

    Args:
        curves: at least one trial.
        stopped: an epoch for each trial; None for those that run to their end, at least one.
    """
    used = sum(
        len(curve.scores) if stop is None else stop for curve, stop in zip(curves, stopped, strict=True)
    )
    best = max(range(len(curves)), key=lambda i: curves[i].value)
    winner = max((i for i, stop in enumerate(stopped) if stop is None), key=lambda i: curves[i].value)
    return ReplayResult(
        epochs_used=used,
        epochs_saved=sum(len(curve.scores) for curve in curves) - used,
        stopped=tuple(stopped),
        winner=winner,
        regret=curves[best].value - curves[winner].value,
        test_regret=curves[best].test - curves[winner].test,
        wrong=tuple(
            i for i, stop in enumerate(stopped) if stop is not None and curves[i].value > curves[winner].value
        ),
    )


def outcomes(
    recording: Recording, prune: Prune, n: int = 20, rules: Sequence[PruneRule] = PRUNE_RULES
) -> list[RuleOutcome]:
    """Replay every rule in `n` orders, with the other settings of `prune`."""
    cases, curves = recording.cases, recording.curves
    means = [
        [float(fold_aucs(cases.y, cases.folds, scores).mean()) for scores in curve.scores] for curve in curves
    ]
    shuffled = orders(len(curves), n)

    def outcome(rule: PruneRule) -> RuleOutcome:
        prune_by_rule = replace(prune, rule=rule)
        results = [
            replay(prune_by_rule, cases, [curves[i] for i in order], [means[i] for i in order])
            for order in shuffled
        ]
        return _summarise(recording, rule, results)

    return [outcome(rule) for rule in rules]


def _summarise(recording: Recording, rule: PruneRule, results: Sequence[ReplayResult]) -> RuleOutcome:
    all_epochs = sum(len(curve.scores) for curve in recording.curves)
    test_regrets = [result.test_regret for result in results]
    return RuleOutcome(
        study=recording.study,
        rule=rule,
        trials=len(recording.curves),
        unreadable=recording.unreadable,
        orders=len(results),
        epochs=statistics.fmean(result.epochs_used for result in results),
        times_fewer=statistics.fmean(all_epochs / result.epochs_used for result in results),
        stopped=statistics.fmean(sum(stop is not None for stop in result.stopped) for result in results),
        wrong=statistics.fmean(len(result.wrong) for result in results),
        regret=statistics.fmean(result.regret for result in results),
        regret_worst=max(result.regret for result in results),
        orders_with_regret=statistics.fmean(result.regret > 0 for result in results),
        test_regret=statistics.fmean(test_regrets),
        test_regret_sd=statistics.stdev(test_regrets) if len(test_regrets) > 1 else 0.0,
    )


def as_json(results: Sequence[RuleOutcome], prune: Prune) -> dict[str, Any]:
    """The outcomes and the settings that they share."""
    settings = {name: value for name, value in asdict(prune).items() if name != "rule"}
    return {"settings": settings, "outcomes": [asdict(outcome) for outcome in results]}
