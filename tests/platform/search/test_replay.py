"""Rules on recorded trials: the real pruners in a study in memory."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cgn.config import Config
from cgn.data.breast import Preprocessing
from cgn.data.cache import open_cache, open_splits, write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan
from cgn.data.pairs import Pairs, Split
from cgn.errors import StudyError
from cgn.results import lockstep
from cgn_platform.cli.commands import app
from cgn_platform.console.tables import replay_table
from cgn_platform.run.site import TrainingSpec
from cgn_platform.run.worker import Trainer
from cgn_platform.search.pruning import Cases
from cgn_platform.search.racing import Curve, Floats, budget, fold_aucs
from cgn_platform.search.replay import (
    Recording,
    ReplayResult,
    as_json,
    orders,
    outcomes,
    read_recording,
    replay,
)
from cgn_platform.search.study import open_study, read_study
from cgn_platform.space import PRUNE_RULES, Float, Prune, Space
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger

EPOCHS = 10
CASES = Cases(np.arange(90) % 2, np.arange(90) // 18, np.array([f"p{i // 2}" for i in range(90)]))


def curve(strength: float, rng: np.random.Generator, difficulty: Floats) -> Curve:
    scores = strength * CASES.y + difficulty + 0.7 * rng.normal(size=(EPOCHS, 90))
    return Curve(scores, mean_auc(scores[-1]), strength / 4)


def mean_auc(scores: Floats) -> float:
    return float(fold_aucs(CASES.y, CASES.folds, scores).mean())


def means(curves: Sequence[Curve]) -> list[list[float]]:
    return [[mean_auc(scores) for scores in curve.scores] for curve in curves]


@pytest.fixture(scope="module")
def trials() -> list[Curve]:
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=90)
    return [curve(strength, rng, difficulty) for strength in (1, 2.2, 0.2, 1.5, 0.4, 2, 0.1, 2.4)]


@pytest.mark.parametrize(("confidence", "every", "power"), [(0.95, 1, 3.0), (0.8, 2, 1.0), (0.4, 1, 1.0)])
def test_racing_in_a_study_is_the_race_over_curves(
    race: Callable[..., Any],
    run_race: Callable[..., ReplayResult],
    trials: list[Curve],
    confidence: float,
    every: int,
    power: float,
) -> None:
    prune = Prune("racing", warmup_epochs=2, confidence=confidence, every=every, power=power)
    rule = race(CASES.y, CASES.folds, CASES.groups, budget(EPOCHS, 2, every, confidence, power))
    for order in orders(len(trials), 3):
        shuffled = [trials[i] for i in order]
        result = replay(prune, CASES, shuffled, means(shuffled))
        assert result == run_race(shuffled, rule)
        assert result.epochs_saved > 0


def test_equal_trials_are_stopped_within_the_declared_budget() -> None:
    """At most 10 %; the standard error over 120 pairs of trials is 2.7 %."""
    rng, stopped = np.random.default_rng(1), 0
    prune = Prune("racing", warmup_epochs=2, every=4, confidence=0.9)
    for _ in range(120):
        difficulty = rng.normal(size=90)
        both = [curve(1.0, rng, difficulty) for _ in range(2)]
        stopped += replay(prune, CASES, both, means(both)).stopped[1] is not None
    assert 0 < stopped / 120 < 0.16


def test_the_default_stays_first_and_orders_are_reproducible() -> None:
    chosen = orders(6, 5)
    assert chosen == orders(6, 5)
    assert chosen[0] == list(range(6))
    assert all(order[0] == 0 and sorted(order) == list(range(6)) for order in chosen)
    assert len({tuple(order) for order in chosen}) > 1


def test_every_rule_is_replayed_in_all_orders(trials: list[Curve]) -> None:
    prune = Prune(warmup_epochs=2, startup_trials=2)
    results = outcomes(Recording("s", CASES, trials), prune, 3)
    assert [outcome.rule for outcome in results] == list(PRUNE_RULES)
    nothing = results[0]
    assert (nothing.epochs, nothing.times_fewer, nothing.regret, nothing.stopped) == (80, 1, 0, 0)
    assert all(outcome.times_fewer > 1 for outcome in results[1:])
    assert all(outcome.regret <= outcome.regret_worst for outcome in results)
    assert all((outcome.regret > 0) == (outcome.wrong > 0) for outcome in results)
    assert replay_table(results).row_count == len(PRUNE_RULES)
    facts = json.loads(json.dumps(as_json(results, prune)))
    assert facts["settings"]["warmup_epochs"] == 2
    assert facts["outcomes"][0]["rule"] == "none"


class TestRecording:
    """From a study and its ledger, as a sweep writes them."""

    @pytest.fixture
    def spec(self, pairs: Pairs, splits: tuple[Split, ...], store: Store, simulate: Any) -> TrainingSpec:
        return TrainingSpec(pairs, splits, Ledger(store.units), runner=simulate)

    @staticmethod
    def record(spec: TrainingSpec, store: Store, trials: int) -> None:
        """A sweep without Ray."""
        base = Config(epochs=3, beta=0, alpha=0.5)
        space = Space(base, {"alpha": Float(0, 1)}, trials, Prune("none"), first=[{"alpha": 0.9}])
        trainer = Trainer(spec)
        with open_study("s", space, store=store, identity=spec.fingerprints()) as study:
            while (trial := study.ask()) is not None:
                for report in lockstep([trainer.fold(trial.config, split) for split in spec.splits], 3):
                    study.report(trial.number, report.epoch, report.val_auc)
                units = [spec.identity(trial.config, split).id for split in spec.splits]
                study.tell(trial.number, "complete", trial.config.alpha, test_auc=0.5, units=units)

    def test_the_complete_trials_of_a_study_with_their_scores(self, spec: TrainingSpec, store: Store) -> None:
        self.record(spec, store, 3)
        recording = read_recording("s", *read_study("s", store), spec.pairs, spec.splits, spec.ledger)
        assert [curve.value for curve in recording.curves][:2] == [0.5, 0.9]
        assert [curve.scores.shape for curve in recording.curves] == [(3, 24)] * 3
        assert recording.cases.y.tolist() == spec.pairs.label[[*range(8, 24), *range(8)]].tolist()
        assert recording.cases.folds.tolist() == [0] * 8 + [1] * 8 + [2] * 8
        assert recording.unreadable == 0

    def test_trials_whose_units_are_damaged_are_counted(self, spec: TrainingSpec, store: Store) -> None:
        self.record(spec, store, 3)
        declaration, records = read_study("s", store)
        (store.units / records[1].facts["units"][0] / "curve.parquet").write_bytes(b"damaged")
        recording = read_recording("s", declaration, records, spec.pairs, spec.splits, spec.ledger)
        assert (len(recording.curves), recording.unreadable) == (2, 1)

    def test_the_command_replays_the_study_of_a_store(
        self, store: Store, simulate: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("CGN_STUDY_URL", "CGN_LEDGER", "CGN_STORE"):
            monkeypatch.delenv(name, raising=False)
        options = phantom.Options(pairs=24, seed=0)
        cache = write_cache("phantom", options, Preprocessing(32), SplitPlan(3), caches=store.caches).path
        ledger = Ledger(store.units)
        spec = TrainingSpec(open_cache(cache), open_splits(cache), ledger, runner=simulate)
        self.record(spec, store, 4)
        command = ["replay", "s", "--data", str(cache), "--store", str(store), "--orders", "2"]
        result = CliRunner().invoke(app, [*command, "--set", "warmup_epochs=1", "--json"])
        assert result.exit_code == 0
        facts = json.loads(result.output)
        assert facts["settings"]["warmup_epochs"] == 1
        assert [outcome["rule"] for outcome in facts["outcomes"]] == list(PRUNE_RULES)
        assert "times fewer" in CliRunner().invoke(app, command).output

    def test_a_study_on_other_data_or_with_too_few_trials_is_refused(
        self, spec: TrainingSpec, store: Store
    ) -> None:
        self.record(spec, store, 1)
        study = read_study("s", store)
        with pytest.raises(StudyError, match=r"has 1 in .*: record some with prune=Prune"):
            read_recording("s", *study, spec.pairs, spec.splits, spec.ledger)
        with pytest.raises(StudyError, match=r"ran on other data: splits was .*: give its cache"):
            read_recording("s", *study, spec.pairs, spec.splits[:2], spec.ledger)
