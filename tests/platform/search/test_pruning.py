"""What every rule of pruning must hold to, and what the paired ones compare."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from cgn.config import Config
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError
from cgn.racing import Curve, Floats, budget, fold_aucs, race
from cgn.results import CrossReport, lockstep
from cgn_platform.cluster.resources import Resources
from cgn_platform.run.site import TrainingSpec
from cgn_platform.run.worker import Trainer
from cgn_platform.search.controller import TrialController
from cgn_platform.search.pruning import BY_MEAN, BY_PAIRS, Cases, Scores, audited, make_pruner
from cgn_platform.search.records import EpochUpdate, TrialSpec
from cgn_platform.search.study import Study, open_study
from cgn_platform.space import PRUNE_RULES, Float, Prune, PruneRule, Space
from cgn_platform.store.ledger import Ledger

EPOCHS, TRIALS, WARMUP = 12, 9, 3
RULES = [rule for rule in PRUNE_RULES if rule != "none"]
CASES = Cases(np.arange(90) % 2, np.arange(90) // 18, np.array([f"p{i // 2}" for i in range(90)]))
HARD = np.random.default_rng(0).normal(size=90)  # what makes a case hard for every network


def scores(strength: float, seed: int, epochs: int = EPOCHS) -> Floats:
    """`(epochs, cases)`: the higher the strength, the further malignant cases lie above."""
    own = np.random.default_rng(seed).normal(size=(epochs, 90))
    return strength * CASES.y + HARD + 0.5 * own


RECORDED = [scores(2.5 - 0.3 * number, seed=number) for number in range(TRIALS)]  # each worse than the last


def mean_auc(of_epoch: Floats) -> float:
    return float(fold_aucs(CASES.y, CASES.folds, of_epoch).mean())


def a_space(rule: PruneRule, **settings: Any) -> Space:
    prune = Prune(rule, startup_trials=4, warmup_epochs=WARMUP, **settings)
    return Space(Config(epochs=EPOCHS), {"alpha": Float(0, 1)}, TRIALS, prune)


def opened(space: Space, store: Path) -> Study:
    """As a driver opens it: what an earlier one was told is nowhere but in the study and the ledger."""
    told = Scores(CASES, lambda units: RECORDED[int(units[0])])
    return open_study("s", space, store=store, identity={}, scores=told)


def run(study: Study, recorded: list[Floats] = RECORDED) -> tuple[int, int | None]:
    """The next trial with its recorded curve: its number, and the epoch after which it was stopped."""
    asked = study.ask()
    assert isinstance(asked, TrialSpec)
    curve = recorded[asked.number]
    for epoch, now in enumerate(curve):
        study.report(asked.number, epoch, mean_auc(now), now)
        if epoch + 1 < len(curve) and study.should_prune(asked.number):
            study.tell(asked.number, "pruned")
            return asked.number, epoch + 1
    study.tell(asked.number, "complete", mean_auc(curve[-1]), units=[str(asked.number)])
    return asked.number, None


def test_the_table_has_every_rule_once() -> None:
    assert sorted([*BY_MEAN, *BY_PAIRS]) == sorted(PRUNE_RULES)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_stops_hopeless_trials_after_their_warm_up_alike_by_any_driver(
    store: Path, rule: PruneRule
) -> None:
    space = a_space(rule)
    with opened(space, store) as study:
        whole = dict(run(study) for _ in range(TRIALS))
    in_pieces = {}
    for _ in range(TRIALS):
        with opened(space, store.root / "pieces") as study:
            in_pieces.update([run(study)])
    assert in_pieces == whole
    stopped = [epoch for epoch in whole.values() if epoch is not None]
    assert stopped
    assert min(stopped) >= WARMUP
    assert whole[0] is None


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_stops_the_default(store: Path, rule: PruneRule) -> None:
    space = a_space(rule)
    with opened(space, store) as study:
        default = study.ask()
        assert isinstance(default, TrialSpec)
        for _ in range(5):
            run(study, [scores(3, seed) for seed in range(6)])
        for epoch in range(EPOCHS):
            study.report(default.number, epoch, 0.1, -RECORDED[0][epoch])
            assert not study.should_prune(default.number)


@pytest.mark.parametrize("rule", BY_PAIRS)
def test_rules_that_compare_cases_want_scores(store: Path, rule: PruneRule) -> None:
    with pytest.raises(ConfigError, match=f"prune.rule {rule} compares scores of cases.*take one of none"):
        open_study("s", a_space(rule), store=store, identity={})
    told = Scores(CASES, lambda units: None)
    with pytest.raises(ValueError, match="90 cases are validated but 3 scores came"):
        told.tell(0, np.zeros(3))


def test_the_racing_pruner_decides_as_the_race_does() -> None:
    """Trial by trial and look by look, on trials of every strength."""
    rng = np.random.default_rng(3)
    prune = Prune("racing", warmup_epochs=2, every=2, confidence=0.9)
    rule = race(CASES.y, CASES.folds, CASES.groups, budget(EPOCHS, 2, 2, 0.9))
    recorded = [scores(rng.uniform(0.5, 2), seed) for seed in range(10)]
    told = Scores(CASES, lambda units: recorded[int(units[0])])
    study = optuna.create_study(direction="maximize", pruner=make_pruner(prune, EPOCHS, told))
    complete: list[Curve] = []
    decisions = []
    for number, curve in enumerate(recorded):
        trial = study.ask()
        for epoch, now in enumerate(curve[:-1]):
            told.tell(number, now)
            trial.report(mean_auc(now), epoch)
            decisions.append(trial.should_prune())
            assert decisions[-1] == rule(curve[: epoch + 1], complete)
        trial.set_user_attr("units", [str(number)])  # every one of them runs to its end
        study.tell(trial, mean_auc(curve[-1]))
        complete.append(Curve(curve, mean_auc(curve[-1]), 0.5))
    assert 0 < sum(decisions) < len(decisions)


def decide(rule: PruneRule, incumbent: Floats | None, trial: Floats, **settings: Any) -> bool:
    """Whether the trial is stopped after the last epoch of its curve."""
    told = Scores(CASES, lambda units: incumbent)
    pruner = make_pruner(Prune(rule, warmup_epochs=1, **settings), EPOCHS, told)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    best = study.ask()
    best.set_user_attr("units", ["0"])
    study.tell(best, 0.9)
    running = study.ask()
    for epoch, now in enumerate(trial):
        running.report(0.5, epoch)
        told.tell(running.number, now)
    return running.should_prune()


def with_folds(wrong: Mapping[int, int]) -> Floats:
    """One epoch in which so many malignant cases of a fold lie below all others; the rest is right."""
    scored = CASES.y.astype(float)
    for fold, count in wrong.items():
        scored[np.flatnonzero((CASES.folds == fold) & (CASES.y == 1))[:count]] = -1
    return scored[None]


def test_forgiving_asks_whether_the_mean_lies_below_the_incumbents_worst_fold() -> None:
    best = with_folds({0: 3})  # AUC 2/3 in fold 0 and 1 elsewhere
    assert not decide("forgiving", best, with_folds(dict.fromkeys(range(5), 2)))  # 7/9 in each
    assert not decide("forgiving", best, with_folds(dict.fromkeys(range(5), 3)))  # as bad is not worse
    assert decide("forgiving", best, with_folds(dict.fromkeys(range(5), 4)))


def test_wilcoxon_at_95_per_cent_wants_all_five_folds_behind() -> None:
    best = with_folds({})
    assert decide("wilcoxon", best, with_folds({0: 1, 1: 2, 2: 3, 3: 4, 4: 5}))
    assert not decide("wilcoxon", best, with_folds({0: 1, 1: 2, 2: 3, 3: 4}))
    assert decide("wilcoxon", best, with_folds({0: 1, 1: 2, 2: 3, 3: 4}), confidence=0.9)


@pytest.mark.parametrize("rule", BY_PAIRS)
def test_an_incumbent_that_cannot_be_read_or_ended_earlier_is_no_measure(rule: PruneRule) -> None:
    best, worst = scores(4, 1), -scores(4, 2)
    assert decide(rule, best, worst[:5])
    assert not decide(rule, None, worst[:5])
    assert not decide(rule, best[:4], worst[:5])


class TestLedger:
    """A trainer that costs nothing writes units; a new driver finds the incumbent's scores in them."""

    @pytest.fixture
    def work(self, pairs: Pairs, splits: tuple[Split, ...], store: Path, simulate: Any) -> TrainingSpec:
        return TrainingSpec(pairs, splits, Resources(), str(store.root / "units"), runner=simulate)

    @staticmethod
    def drive(work: TrainingSpec, store: Path, trials: int, audit: float = 0.0) -> list[Any]:
        """A driver, without Ray, until so many trials have ended."""
        base = Config(epochs=6, beta=0, alpha=1.0)
        edits = [{"alpha": 0.0}, {"alpha": 0.01}]
        prune = Prune("racing", warmup_epochs=2, every=1, confidence=0.9, power=1)
        space = Space(base, {"alpha": Float(0, 1)}, trials, prune, first=edits)
        told = Scores.of(work.pairs, work.splits, Ledger(work.ledger))
        trainer = Trainer(work)
        with open_study("s", space, store=store, identity={}, scores=told) as study:
            desk = TrialController(study, audit=audit)
            while (asked := desk.next()) is not None:
                reports = lockstep([trainer.fold(asked.config, split) for split in work.splits], 6)
                report: CrossReport
                for report in reports:
                    now = np.concatenate([fold.val_scores for fold in report.folds])
                    result = None
                    if report.epoch == 5:
                        list(reports)  # the folds are written
                        units = [work.identity(asked.config, split).id for split in work.splits]
                        result = {"val_auc": report.val_auc, "test_auc": 0.5, "units": units}
                    if desk.tell(
                        asked.number, EpochUpdate(report.epoch, report.val_auc, scores=now, result=result)
                    ):
                        break
            return [record for record in study.trials() if record.state != "waiting"]

    def test_a_resumed_search_races_against_the_incumbent_of_the_earlier_driver(
        self, work: TrainingSpec, store: Path
    ) -> None:
        assert [record.state for record in self.drive(work, store, 1)] == ["complete"]
        records = self.drive(work, store, 2)
        assert [record.state for record in records] == ["complete", "pruned"]
        assert "racing pruner after" in records[1].facts["reason"]
        assert len(records[1].curve) < 6

    def test_without_the_incumbents_units_nothing_is_stopped(self, work: TrainingSpec, store: Path) -> None:
        (best,) = self.drive(work, store, 1)
        for unit in best.facts["units"]:
            (store.root / "units" / unit / "curve.parquet").write_bytes(b"damaged")
        assert [record.state for record in self.drive(work, store, 2)] == ["complete"] * 2

    def test_an_audited_trial_is_complete_and_tells_when_it_would_have_been_stopped(
        self, work: TrainingSpec, store: Path
    ) -> None:
        _, second, third = self.drive(work, store, 3, audit=1.0)
        assert (second.state, third.state) == ("complete", "complete")
        assert 2 <= second.facts["would_prune_at"] < 6
        assert len(second.curve) == 6


def test_the_audited_share_is_drawn_by_seed_and_number_alone() -> None:
    drawn = [number for number in range(10_000) if audited(0, number, 0.1)]
    assert 900 < len(drawn) < 1100
    assert drawn == [number for number in range(10_000) if audited(0, number, 0.1)]
    assert drawn != [number for number in range(10_000) if audited(1, number, 0.1)]
    assert set(drawn) < {number for number in range(10_000) if audited(0, number, 0.5)}
    assert not any(audited(0, number, 0.0) for number in range(100))
    assert all(audited(0, number, 1.0) for number in range(100))
