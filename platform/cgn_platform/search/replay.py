"""What each rule of pruning would have saved and cost, on trials that all ran to their end.

Every rule is the pruner that a sweep would have (`pruning.make_pruner`), asked by an Optuna study in memory
that is fed with the recorded curves, one trial at a time. The default stays the first trial and runs to its
end, as in a sweep; the others are replayed in the recorded order and in shuffled ones. What a replay cannot
show: a sampler that learns from stopped trials would have asked for others.
"""

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

import optuna
from optuna.trial import TrialState

from cgn.data.folds import splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.errors import StudyError
from cgn.racing import Curve, Replay, account, fold_aucs
from cgn_platform.search.pruning import Cases, Scores, curves, make_pruner
from cgn_platform.search.records import TrialRecord
from cgn_platform.space import PRUNE_RULES, Prune, PruneRule, difference
from cgn_platform.store.ledger import Ledger


@dataclass(frozen=True)
class Recording:
    """The complete trials of a study, in the order in which they ran; the default is the first.

    Attributes:
        study: its name.
        cases: the validated cases.
        curves: one for each trial whose units are all in the ledger.
        unreadable: complete trials without a curve, because a unit is missing or damaged.
    """

    study: str
    cases: Cases
    curves: Sequence[Curve]
    unreadable: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a rule did to a recording, over its orders.

    Attributes:
        unreadable: complete trials that were left out because a unit is missing or damaged.
        times_fewer: epochs of all trials over those used, mean over orders.
        stopped, wrong: trials stopped, and those of them that would have won; means over orders.
        regret: value lost, in validation AUC, and how often there was any.
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


def recording(
    name: str,
    declaration: Mapping[str, Any],
    records: Sequence[TrialRecord],
    pairs: Pairs,
    splits: Sequence[Split],
    ledger: Ledger,
) -> Recording:
    """The complete trials of a study, whose curves the ledger has.

    Raises:
        StudyError: it ran on other data, or fewer than two trials are complete and in the ledger.
    """
    here = {"cache": pairs.fingerprint, "splits": splits_fingerprint(pairs.pair_id, splits)}
    there = {key: declaration.get(key) for key in here}
    if found := difference(there, here):
        raise StudyError(f"study {name!r} ran on other data: {found[0]}: give its cache with --data")
    complete = [r for r in records if r.value is not None and r.facts.get("test_auc") is not None]
    scores = [curves(ledger, tuple(record.facts["units"])) for record in complete]
    kept = [
        Curve(scored, record.value, record.facts["test_auc"])
        for record, scored in zip(complete, scores, strict=True)
        if scored is not None and record.value is not None
    ]
    if len(kept) < 2:
        raise StudyError(
            f"a replay wants two complete trials or more but {name!r} has {len(kept)} in {ledger.where}: "
            "record some with prune=Prune('none')"
        )
    return Recording(name, Cases.of(pairs, splits), kept, len(complete) - len(kept))


def orders(trials: int, n: int, seed: int = 0) -> list[list[int]]:
    """The recorded order, then shuffled ones; the default stays in front."""
    rng = random.Random(seed)
    return [list(range(trials)), *([0, *rng.sample(range(1, trials), trials - 1)] for _ in range(n - 1))]


def replay(prune: Prune, cases: Cases, trials: Sequence[Curve], means: Sequence[Sequence[float]]) -> Replay:
    """Recorded trials under a rule, in this order.

    Args:
        prune: the rule, as a search space declares it.
        cases: what the trials scored.
        trials: the first runs to its end.
        means: mean validation AUC over folds of each trial by epoch.
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
        for epoch, of_epoch, mean in zip(count(), curve.scores, means[number]):
            scores.tell(number, of_epoch)
            trial.report(mean, epoch)
            if number > 0 and epoch + 1 < len(curve.scores) and trial.should_prune():
                stop = epoch + 1
                break
        stopped.append(stop)
        study.tell(trial, curve.value if stop is None else None, state=_state(stop))
    return account(trials, stopped)


def _state(stop: int | None) -> TrialState:
    return TrialState.COMPLETE if stop is None else TrialState.PRUNED


def outcomes(
    recorded: Recording, prune: Prune, n: int = 20, rules: Sequence[PruneRule] = PRUNE_RULES
) -> list[Outcome]:
    """Each rule over so many orders, with the other settings of `prune`."""
    cases = recorded.cases
    means = [
        [float(fold_aucs(cases.y, cases.folds, scores).mean()) for scores in curve.scores]
        for curve in recorded.curves
    ]
    chosen = orders(len(recorded.curves), n)
    return [
        _outcome(
            recorded,
            rule,
            [
                replay(
                    replace(prune, rule=rule),
                    cases,
                    [recorded.curves[i] for i in order],
                    [means[i] for i in order],
                )
                for order in chosen
            ],
        )
        for rule in rules
    ]


def _outcome(recorded: Recording, rule: PruneRule, replays: Sequence[Replay]) -> Outcome:
    whole = sum(len(curve.scores) for curve in recorded.curves)
    test = [each.test_regret for each in replays]
    return Outcome(
        study=recorded.study,
        rule=rule,
        trials=len(recorded.curves),
        unreadable=recorded.unreadable,
        orders=len(replays),
        epochs=statistics.fmean(each.epochs_used for each in replays),
        times_fewer=statistics.fmean(whole / each.epochs_used for each in replays),
        stopped=statistics.fmean(sum(stop is not None for stop in each.stopped) for each in replays),
        wrong=statistics.fmean(len(each.wrong) for each in replays),
        regret=statistics.fmean(each.regret for each in replays),
        regret_worst=max(each.regret for each in replays),
        orders_with_regret=statistics.fmean(each.regret > 0 for each in replays),
        test_regret=statistics.fmean(test),
        test_regret_sd=statistics.stdev(test) if len(test) > 1 else 0.0,
    )


def as_json(found: Sequence[Outcome], prune: Prune) -> dict[str, Any]:
    """What was replayed, and with which settings."""
    settings = {name: value for name, value in asdict(prune).items() if name != "rule"}
    return {"settings": settings, "outcomes": [asdict(outcome) for outcome in found]}
