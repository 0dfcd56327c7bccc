"""What all pruning rules have in common, and what the paired ones compare."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError
from cgn.results import lockstep
from cgn_platform.run.site import TrainingSpec
from cgn_platform.run.worker import Trainer
from cgn_platform.search.controller import TrialController
from cgn_platform.search.pruning import MEAN_PRUNERS, PAIRED_PRUNERS, Cases, Scores, is_audited, make_pruner
from cgn_platform.search.racing import Curve, Floats, budget, fold_aucs
from cgn_platform.search.records import EpochUpdate, TrialRecord
from cgn_platform.search.study import Study, open_study
from cgn_platform.space import PRUNE_RULES, Float, Prune, PruneRule, Space
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

EPOCHS, TRIALS, WARMUP = 12, 9, 3
RULES = [rule for rule in PRUNE_RULES if rule != "none"]
CASES = Cases(np.arange(90) % 2, np.arange(90) // 18, np.array([f"p{i // 2}" for i in range(90)]))
DIFFICULTY = np.random.default_rng(0).normal(size=90)  # of each case, for every network


def scores(strength: float, seed: int, epochs: int = EPOCHS) -> Floats:
    """`(epochs, cases)`: the higher the strength, the better malignant cases are separated."""
    noise = np.random.default_rng(seed).normal(size=(epochs, 90))
    return strength * CASES.y + DIFFICULTY + 0.5 * noise


RECORDED = [scores(2.5 - 0.3 * number, seed=number) for number in range(TRIALS)]  # each worse than the last


def mean_auc(case_scores: Floats) -> float:
    return float(fold_aucs(CASES.y, CASES.folds, case_scores).mean())


def space_of(rule: PruneRule) -> Space:
    prune = Prune(rule, startup_trials=4, warmup_epochs=WARMUP)
    return Space(Config(epochs=EPOCHS), {"alpha": Float(0, 1)}, TRIALS, prune)


def opened(space: Space, store: Store) -> Study:
    """As a driver opens it: scores of an earlier driver's trials come from the recorded curves alone."""
    scores = Scores(CASES, lambda units: RECORDED[int(units[0])])
    return open_study("s", space, store=store, identity={}, scores=scores)


def run(study: Study, recorded: list[Floats] = RECORDED) -> tuple[int, int | None]:
    """The next trial with its recorded curve: its number, and the epoch after which it was stopped."""
    trial = study.ask()
    assert trial is not None
    curve = recorded[trial.number]
    for epoch, case_scores in enumerate(curve):
        study.report(trial.number, epoch, mean_auc(case_scores), case_scores)
        if epoch + 1 < len(curve) and study.should_prune(trial.number):
            study.tell(trial.number, "pruned")
            return trial.number, epoch + 1
    study.tell(trial.number, "complete", mean_auc(curve[-1]), units=[str(trial.number)])
    return trial.number, None


def test_there_is_one_pruner_for_each_rule() -> None:
    assert sorted([*MEAN_PRUNERS, *PAIRED_PRUNERS]) == sorted(PRUNE_RULES)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_stops_hopeless_trials_after_the_warm_up_whether_resumed_or_not(
    store: Store, rule: PruneRule
) -> None:
    space = space_of(rule)
    with opened(space, store) as study:
        whole = dict(run(study) for _ in range(TRIALS))
    resumed = {}
    for _ in range(TRIALS):
        with opened(space, Store(store.root / "resumed")) as study:
            resumed.update([run(study)])
    assert resumed == whole
    stopped = [epoch for epoch in whole.values() if epoch is not None]
    assert stopped
    assert min(stopped) >= WARMUP
    assert whole[0] is None


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_stops_the_default(store: Store, rule: PruneRule) -> None:
    space = space_of(rule)
    with opened(space, store) as study:
        default = study.ask()
        assert default is not None
        for _ in range(5):
            run(study, [scores(3, seed) for seed in range(6)])
        for epoch in range(EPOCHS):
            study.report(default.number, epoch, 0.1, -RECORDED[0][epoch])
            assert not study.should_prune(default.number)


@pytest.mark.parametrize("rule", PAIRED_PRUNERS)
def test_paired_rules_need_the_scores_of_all_cases(store: Store, rule: PruneRule) -> None:
    with pytest.raises(ConfigError, match=f"prune.rule {rule} compares scores of cases.*take one of none"):
        open_study("s", space_of(rule), store=store, identity={})
    with pytest.raises(ValueError, match="expected a score for each of 90 cases but got 3"):
        Scores(CASES, lambda _units: None).update(0, np.zeros(3))


def test_the_racing_pruner_decides_as_the_race_does(race: Callable[..., Any]) -> None:
    """At every look of every trial, for trials of different strengths."""
    rng = np.random.default_rng(3)
    prune = Prune("racing", warmup_epochs=2, every=2, confidence=0.9)
    rule = race(CASES.y, CASES.folds, CASES.groups, budget(EPOCHS, 2, 2, 0.9))
    recorded = [scores(rng.uniform(0.5, 2), seed) for seed in range(10)]
    case_scores = Scores(CASES, lambda units: recorded[int(units[0])])
    study = optuna.create_study(direction="maximize", pruner=make_pruner(prune, EPOCHS, case_scores))
    complete: list[Curve] = []
    decisions = []
    for number, curve in enumerate(recorded):
        trial = study.ask()
        for epoch, epoch_scores in enumerate(curve[:-1]):
            case_scores.update(number, epoch_scores)
            trial.report(mean_auc(epoch_scores), epoch)
            decisions.append(trial.should_prune())
            assert decisions[-1] == rule(curve[: epoch + 1], complete)
        trial.set_user_attr("units", [str(number)])  # all trials run to their end
        study.tell(trial, mean_auc(curve[-1]))
        complete.append(Curve(curve, mean_auc(curve[-1]), 0.5))
    assert 0 < sum(decisions) < len(decisions)


def decide(rule: PruneRule, incumbent: Floats | None, trial: Floats, **settings: Any) -> bool:
    """Whether the trial is stopped after the last epoch of its curve."""
    case_scores = Scores(CASES, lambda _units: incumbent)
    pruner = make_pruner(Prune(rule, warmup_epochs=1, **settings), EPOCHS, case_scores)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    best = study.ask()
    best.set_user_attr("units", ["0"])
    study.tell(best, 0.9)
    running = study.ask()
    for epoch, epoch_scores in enumerate(trial):
        running.report(0.5, epoch)
        case_scores.update(running.number, epoch_scores)
    return running.should_prune()


def with_folds(wrong: Mapping[int, int]) -> Floats:
    """One epoch in which so many malignant cases of a fold are below all others; all else is right."""
    case_scores = CASES.y.astype(float)
    for fold, count in wrong.items():
        case_scores[np.flatnonzero((CASES.folds == fold) & (CASES.y == 1))[:count]] = -1
    return case_scores[None]


def test_forgiving_compares_the_mean_with_the_incumbents_worst_fold() -> None:
    best = with_folds({0: 3})  # AUC 2/3 in fold 0 and 1 elsewhere
    assert not decide("forgiving", best, with_folds(dict.fromkeys(range(5), 2)))  # 7/9 in each
    assert not decide("forgiving", best, with_folds(dict.fromkeys(range(5), 3)))  # equal is not worse
    assert decide("forgiving", best, with_folds(dict.fromkeys(range(5), 4)))


def test_wilcoxon_at_95_per_cent_requires_all_five_folds_to_be_behind() -> None:
    best = with_folds({})
    assert decide("wilcoxon", best, with_folds({0: 1, 1: 2, 2: 3, 3: 4, 4: 5}))
    assert not decide("wilcoxon", best, with_folds({0: 1, 1: 2, 2: 3, 3: 4}))
    assert decide("wilcoxon", best, with_folds({0: 1, 1: 2, 2: 3, 3: 4}), confidence=0.9)


@pytest.mark.parametrize("rule", PAIRED_PRUNERS)
def test_without_the_incumbents_scores_at_the_same_epoch_the_trial_continues(rule: PruneRule) -> None:
    best, worst = scores(4, 1), -scores(4, 2)
    assert decide(rule, best, worst[:5])
    assert not decide(rule, None, worst[:5])
    assert not decide(rule, best[:4], worst[:5])


class TestLedger:
    """A simulated trainer writes units; a resumed search finds the incumbent's scores in them."""

    @pytest.fixture
    def spec(self, pairs: Pairs, splits: tuple[Split, ...], store: Store, simulate: Any) -> TrainingSpec:
        return TrainingSpec(pairs, splits, Ledger(store.units), runner=simulate)

    @staticmethod
    def sweep(spec: TrainingSpec, store: Store, trials: int, audit: float = 0.0) -> list[TrialRecord]:
        """A sweep without Ray, until so many trials have ended."""
        prune = Prune("racing", warmup_epochs=2, every=1, confidence=0.9, power=1)
        base, first = Config(epochs=6, beta=0, alpha=1.0), [{"alpha": 0.0}, {"alpha": 0.01}]
        space = Space(base, {"alpha": Float(0, 1)}, trials, prune, first=first)
        scores = Scores.of(spec.pairs, spec.splits, spec.ledger)
        trainer = Trainer(spec)
        with open_study("s", space, store=store, identity={}, scores=scores) as study:
            controller = TrialController(study, audit=audit)
            while (trial := controller.next()) is not None:
                reports = lockstep([trainer.fold(trial.config, split) for split in spec.splits], 6)
                for report in reports:
                    result = None
                    if report.epoch == 5:
                        list(reports)  # writes the units
                        units = [spec.identity(trial.config, split).id for split in spec.splits]
                        result = {"val_auc": report.val_auc, "test_auc": 0.5, "units": units}
                    update = EpochUpdate(
                        report.epoch,
                        report.val_auc,
                        scores=np.concatenate([fold.val_scores for fold in report.folds]),
                        result=result,
                    )
                    if controller.report(trial.number, update):
                        break
            return [record for record in study.trials() if record.state != "waiting"]

    def test_a_resumed_search_races_against_the_incumbent_of_the_earlier_driver(
        self, spec: TrainingSpec, store: Store
    ) -> None:
        assert [record.state for record in self.sweep(spec, store, 1)] == ["complete"]
        records = self.sweep(spec, store, 2)
        assert [record.state for record in records] == ["complete", "pruned"]
        assert "racing pruner after" in records[1].facts["reason"]
        assert len(records[1].curve) < 6

    def test_without_the_incumbents_units_nothing_is_stopped(self, spec: TrainingSpec, store: Store) -> None:
        (best,) = self.sweep(spec, store, 1)
        for unit in best.facts["units"]:
            (store.units / unit / "curve.parquet").write_bytes(b"damaged")
        assert [record.state for record in self.sweep(spec, store, 2)] == ["complete"] * 2

    def test_an_audited_trial_is_complete_and_records_when_it_would_have_been_stopped(
        self, spec: TrainingSpec, store: Store
    ) -> None:
        _, second, third = self.sweep(spec, store, 3, audit=1.0)
        assert (second.state, third.state) == ("complete", "complete")
        assert 2 <= second.facts["would_prune_at"] < 6
        assert len(second.curve) == 6


def test_audited_trials_are_drawn_from_seed_and_number_alone() -> None:
    drawn = [number for number in range(10_000) if is_audited(0, number, 0.1)]
    assert 900 < len(drawn) < 1100
    assert drawn == [number for number in range(10_000) if is_audited(0, number, 0.1)]
    assert drawn != [number for number in range(10_000) if is_audited(1, number, 0.1)]
    assert set(drawn) < {number for number in range(10_000) if is_audited(0, number, 0.5)}
    assert not any(is_audited(0, number, 0.0) for number in range(100))
    assert all(is_audited(0, number, 1.0) for number in range(100))
