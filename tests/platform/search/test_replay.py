"""Rules over recorded trials: the real pruners in a study in memory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cgn.config import Config
from cgn.data.breast import Preprocessing
from cgn.data.cache import open_cache, open_splits, write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan, splits_fingerprint
from cgn.data.pairs import Pairs, Split
from cgn.errors import StudyError
from cgn.racing import Curve, Floats, budget, fold_aucs, race
from cgn.racing import replay as replay_race
from cgn.results import lockstep
from cgn_platform.cli import app
from cgn_platform.cluster.resources import Resources
from cgn_platform.console.tables import replay_table
from cgn_platform.run.site import TrainingSpec
from cgn_platform.run.worker import Trainer
from cgn_platform.search.pruning import Cases
from cgn_platform.search.records import TrialRecord, TrialSpec
from cgn_platform.search.replay import Recording, as_json, orders, outcomes, recording, replay
from cgn_platform.search.study import open_study, recorded
from cgn_platform.search.summary import summary, wrong_prunes
from cgn_platform.space import PRUNE_RULES, Float, Prune, Space
from cgn_platform.store.ledger import Ledger

EPOCHS = 10
CASES = Cases(np.arange(90) % 2, np.arange(90) // 18, np.array([f"p{i // 2}" for i in range(90)]))


def curve(strength: float, rng: np.random.Generator, hard: Floats) -> Curve:
    scores = strength * CASES.y + hard + 0.7 * rng.normal(size=(EPOCHS, 90))
    return Curve(scores, mean_auc(scores[-1]), strength / 4)


def mean_auc(of_epoch: Floats) -> float:
    return float(fold_aucs(CASES.y, CASES.folds, of_epoch).mean())


def means(curves: Sequence[Curve]) -> list[list[float]]:
    return [[mean_auc(of_epoch) for of_epoch in each.scores] for each in curves]


@pytest.fixture(scope="module")
def trials() -> list[Curve]:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=90)
    return [curve(strength, rng, hard) for strength in (1, 2.2, 0.2, 1.5, 0.4, 2, 0.1, 2.4)]


@pytest.mark.parametrize(("confidence", "every", "power"), [(0.95, 1, 3.0), (0.8, 2, 1.0), (0.4, 1, 1.0)])
def test_racing_in_a_study_is_the_race_over_curves(
    trials: list[Curve], confidence: float, every: int, power: float
) -> None:
    prune = Prune("racing", warmup_epochs=2, confidence=confidence, every=every, power=power)
    rule = race(CASES.y, CASES.folds, CASES.groups, budget(EPOCHS, 2, every, confidence, power))
    for order in orders(len(trials), 3):
        shuffled = [trials[i] for i in order]
        found = replay(prune, CASES, shuffled, means(shuffled))
        assert found == replay_race(shuffled, rule)
        assert found.epochs_saved > 0


def test_equal_trials_are_stopped_within_the_declared_budget() -> None:
    """Ten of a hundred; 120 pairs of trials have a standard error of 2.7."""
    rng, stopped = np.random.default_rng(1), 0
    prune = Prune("racing", warmup_epochs=2, every=4, confidence=0.9)
    for _ in range(120):
        hard = rng.normal(size=90)
        both = [curve(1.0, rng, hard) for _ in range(2)]
        stopped += replay(prune, CASES, both, means(both)).stopped[1] is not None
    assert 0 < stopped / 120 < 0.16


def test_the_default_stays_in_front_and_orders_are_drawn_alike() -> None:
    chosen = orders(6, 5)
    assert chosen == orders(6, 5)
    assert chosen[0] == list(range(6))
    assert all(order[0] == 0 and sorted(order) == list(range(6)) for order in chosen)
    assert len({tuple(order) for order in chosen}) > 1


def test_every_rule_is_counted_over_all_orders(trials: list[Curve]) -> None:
    prune = Prune(warmup_epochs=2, startup_trials=2)
    found = outcomes(Recording("s", CASES, trials), prune, 3)
    assert [outcome.rule for outcome in found] == list(PRUNE_RULES)
    nothing = found[0]
    assert (nothing.epochs, nothing.times_fewer, nothing.regret, nothing.stopped) == (80, 1, 0, 0)
    assert all(outcome.times_fewer > 1 for outcome in found[1:])
    assert all(outcome.regret <= outcome.regret_worst for outcome in found)
    assert all((outcome.regret > 0) == (outcome.wrong > 0) for outcome in found)
    table = replay_table(found)
    assert table.row_count == len(PRUNE_RULES)
    told = json.loads(json.dumps(as_json(found, prune)))
    assert told["settings"]["warmup_epochs"] == 2
    assert told["outcomes"][0]["rule"] == "none"


class TestRecording:
    """From a study and its ledger, as a sweep leaves them."""

    @pytest.fixture
    def work(self, pairs: Pairs, splits: tuple[Split, ...], store: Path, simulate: Any) -> TrainingSpec:
        return TrainingSpec(pairs, splits, Resources(), str(store.root / "units"), runner=simulate)

    @staticmethod
    def record(work: TrainingSpec, store: Path, trials: int) -> None:
        base = Config(epochs=3, beta=0, alpha=0.5)
        space = Space(base, {"alpha": Float(0, 1)}, trials, Prune("none"), first=[{"alpha": 0.9}])
        here = {
            "cache": work.pairs.fingerprint,
            "splits": splits_fingerprint(work.pairs.pair_id, work.splits),
        }
        trainer = Trainer(work)
        with open_study("s", space, store=store, identity=here) as study:
            while study.remaining():
                asked = study.ask()
                assert isinstance(asked, TrialSpec)
                for report in lockstep([trainer.fold(asked.config, split) for split in work.splits], 3):
                    study.report(asked.number, report.epoch, report.val_auc)
                units = [work.identity(asked.config, split).id for split in work.splits]
                study.tell(asked.number, "complete", asked.config.alpha, test_auc=0.5, units=units)

    def test_the_complete_trials_of_a_study_with_their_scores(self, work: TrainingSpec, store: Path) -> None:
        self.record(work, store, 3)
        found = recording("s", *recorded("s", store), work.pairs, work.splits, Ledger(work.ledger))
        assert [each.value for each in found.curves][:2] == [0.5, 0.9]
        assert [each.scores.shape for each in found.curves] == [(3, 24)] * 3
        assert found.cases.y.tolist() == work.pairs.label[[*range(8, 24), *range(8)]].tolist()
        assert found.cases.folds.tolist() == [0] * 8 + [1] * 8 + [2] * 8

    def test_the_verb_replays_what_a_store_holds(
        self, store: Path, simulate: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("CGN_STUDY_URL", "CGN_LEDGER", "CGN_STORE"):
            monkeypatch.delenv(name, raising=False)
        cache = write_cache(
            "phantom",
            phantom.Options(pairs=24, seed=0),
            Preprocessing(32),
            SplitPlan(3),
            caches=store / "cache",
        ).path
        work = TrainingSpec(
            open_cache(cache), open_splits(cache), Resources(), str(store.root / "units"), runner=simulate
        )
        self.record(work, store, 4)
        asked = ["replay", "s", "--data", str(cache), "--store", str(store), "--orders", "2"]
        told = CliRunner().invoke(app, [*asked, "--set", "warmup_epochs=1", "--json"])
        assert told.exit_code == 0
        found = json.loads(told.output)
        assert found["settings"]["warmup_epochs"] == 1
        assert [each["rule"] for each in found["outcomes"]] == list(PRUNE_RULES)
        assert "times fewer" in CliRunner().invoke(app, asked).output

    def test_a_study_on_other_data_or_with_too_few_trials_is_refused(
        self, work: TrainingSpec, store: Path
    ) -> None:
        self.record(work, store, 1)
        study, ledger = recorded("s", store), Ledger(work.ledger)
        with pytest.raises(StudyError, match=r"has 1 in .*: record some with prune=Prune"):
            recording("s", *study, work.pairs, work.splits, ledger)
        with pytest.raises(StudyError, match=r"ran on other data: splits was .*: give its cache"):
            recording("s", *study, work.pairs, work.splits[:2], ledger)


def complete(number: int, value: float, **facts: Any) -> TrialRecord:
    return TrialRecord(number, "complete", value, {}, {0: value}, Config(epochs=1), facts)


def test_a_wrong_prune_is_an_audited_trial_above_the_winner_of_the_others() -> None:
    left = [complete(0, 0.7), complete(1, 0.8)]
    audited = [complete(n, value, would_prune_at=3) for n, value in enumerate((0.6, 0.8, 0.9, 0.5), 2)]
    figures = summary([*left, *audited])
    assert (figures["audited"], figures["wrong_prunes"], figures["wrong_prune_rate"]) == (4, 1, 0.25)
    # Clopper & Pearson for 1 of 4
    assert figures["wrong_prune_rate_low"] == pytest.approx(0.0063, abs=1e-4)
    assert figures["wrong_prune_rate_high"] == pytest.approx(0.8059, abs=1e-4)
    assert wrong_prunes(left) == {}
