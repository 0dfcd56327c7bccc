"""What the driver decides on what workers tell, without Ray."""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgn.errors import ClusterError, LedgerError
from cgn_platform.run.supervisor import SweepSupervisor
from cgn_platform.run.tune import _of_all
from cgn_platform.search.controller import TrialController
from cgn_platform.search.records import EpochUpdate, TrialRecord, TrialSpec
from cgn_platform.search.study import Study, open_study
from cgn_platform.space import Prune, Space

FINAL = {"val_auc": 0.7, "test_auc": 0.6, "localization_error": None, "folds": []}


class Ears:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def lost(self, number: int, cause: str) -> None:
        self.heard.append(("lost", number, cause))

    def started(self, trial: Any) -> None:
        self.heard.append(("started", trial.number))

    def epoch(self, number: int, step: EpochUpdate) -> None:
        self.heard.append(("epoch", number, step.epoch))

    def ended(self, record: TrialRecord) -> None:
        self.heard.append(("ended", record.number, record.state))


@pytest.fixture
def study(space: Space, store: Path) -> Iterator[Study]:
    with open_study("s", space, store=store, identity={}) as opened:
        yield opened


def run(desk: TrialController, value: float, epochs: int = 6) -> int:
    """One trial with a flat curve; returns how many epochs it got."""
    asked = desk.next()
    assert asked is not None
    for epoch in range(epochs):
        result = {**FINAL, "val_auc": value} if epoch == epochs - 1 else None
        if desk.tell(asked.number, EpochUpdate(epoch, value, seconds=0.5, result=result)):
            return epoch + 1
    raise AssertionError("a finished trial was not ended")


def test_the_default_is_never_pruned(space: Space, store: Path) -> None:
    """It is what all others are compared with."""
    strict = replace(space, prune=Prune("median", startup_trials=0, warmup_epochs=0), first=[{"alpha": 0.9}])
    with open_study("strict", strict, store=store, identity={}) as study:
        desk = TrialController(study)
        default, other = desk.next(), desk.next()
        assert isinstance(default, TrialSpec)
        assert isinstance(other, TrialSpec)
        assert default.config == space.base
        for epoch in range(6):  # the other one ends first, and far ahead
            assert desk.tell(other.number, EpochUpdate(epoch, 0.9, result=FINAL if epoch == 5 else None)) == (
                epoch == 5
            )
        assert not any(desk.tell(default.number, EpochUpdate(epoch, 0.1)) for epoch in range(5))
        asked = desk.next()
        assert isinstance(asked, TrialSpec)
        assert desk.tell(asked.number, EpochUpdate(0, 0.1))  # anybody else would have been stopped


def test_trials_end_complete_or_pruned_until_the_total_is_reached(study: Study) -> None:
    ears = Ears()
    desk = TrialController(study, [ears])
    assert run(desk, 0.8) == run(desk, 0.7) == 6
    assert run(desk, 0.5) == 2  # after its warm-up
    record = study.trials()[2]
    assert (record.state, record.value, record.curve) == ("pruned", None, {0: 0.5, 1: 0.5})
    assert record.facts["reason"] == "median pruner after 2 epochs at mean validation AUC 0.500"
    complete = study.trials()[0]
    assert (complete.value, complete.facts["test_auc"], complete.facts["seconds"]) == (0.8, 0.6, 3.0)
    assert ears.heard[:2] == [("started", 0), ("epoch", 0, 0)]
    assert ears.heard[-1] == ("ended", 2, "pruned")
    for _ in range(5):
        run(desk, 0.9)
    assert desk.next() is None


def test_an_audited_trial_is_marked_once_and_runs_to_its_end(study: Study) -> None:
    desk = TrialController(study, audit=1.0)
    assert run(desk, 0.8) == run(desk, 0.7) == run(desk, 0.5) == 6
    first, _, third = study.trials()[:3]
    assert "would_prune_at" not in first.facts
    assert (third.state, third.value, third.facts["would_prune_at"]) == ("complete", 0.5, 2)
    assert "steps" not in third.facts  # the ledger has them


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (EpochUpdate(failure="DivergedError: l_cls is nan"), "DivergedError: l_cls is nan"),
        (EpochUpdate(1, math.nan), "the score of epoch 1 is no number"),
        (EpochUpdate(5, 0.9, result={**FINAL, "val_auc": None}), "the final score is no number"),
    ],
)
def test_what_is_no_number_is_no_score(study: Study, step: EpochUpdate, reason: str) -> None:
    desk = TrialController(study)
    asked = desk.next()
    assert asked is not None
    desk.tell(asked.number, EpochUpdate(0, 0.99))
    assert desk.tell(asked.number, step)
    record = study.trials()[0]
    assert (record.state, record.value, record.facts["reason"]) == ("failed", None, reason)


def test_what_comes_after_the_end_changes_nothing(study: Study) -> None:
    ears = Ears()
    desk = TrialController(study, [ears])
    asked = desk.next()
    assert asked is not None
    desk.lost(asked.number, "OSError: gone")
    desk.crashed(asked.number, "its process ended")
    desk.lost(asked.number, "once more")
    assert ears.heard == [("started", 0), ("lost", 0, "OSError: gone"), ("ended", 0, "failed")]
    assert desk.tell(asked.number, EpochUpdate(0, 0.99))
    desk.crashed(asked.number, "again")
    assert study.trials()[0].facts["reason"] == "its process ended"


def test_checkpoints_are_removed_before_the_study_knows(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that dies in between tries the trial again; after it, nobody would look for them."""
    order: list[str] = []
    tell = Study.tell
    monkeypatch.setattr(Study, "tell", lambda *a, **k: (order.append("told"), tell(*a, **k))[1])
    desk = TrialController(study, forget=lambda config: order.append(f"forgot {config.alpha}"))
    for end in (
        lambda number: desk.tell(number, EpochUpdate(failure="ZeroDivisionError: a bug")),
        lambda number: desk.crashed(number, "its process ended"),  # asked again, and goes on from them
        lambda number: desk.tell(number, EpochUpdate(5, 0.7, result=FINAL)),
    ):
        asked = desk.next()
        assert asked is not None
        order.append(f"asked {asked.config.alpha}")
        end(asked.number)
    alphas = [record.params["alpha"] for record in study.trials()]
    assert order == [
        *(f"asked {alphas[0]}", f"forgot {alphas[0]}", "told"),
        *(f"asked {alphas[1]}", "told"),
        *(f"asked {alphas[2]}", "told"),
    ]


class TestGuard:
    """Who ends a sweep early. Tune's part is played by a loop that ends when it is told to."""

    @pytest.fixture
    def guard(self, study: Study) -> SweepSupervisor:
        return SweepSupervisor(TrialController(study))

    @staticmethod
    def tune(guard: SweepSupervisor) -> None:
        while guard.broken is None:
            time.sleep(0.01)

    def test_a_sweep_that_ends_is_no_error(self, guard: SweepSupervisor) -> None:
        guard.watch(lambda: None, lambda: None)

    def test_an_error_in_tune_or_at_the_desk_ends_it(self, guard: SweepSupervisor) -> None:
        with pytest.raises(ZeroDivisionError):
            guard.watch(lambda: 1 / 0, lambda: None)

    def test_a_cluster_that_is_gone_is_not_waited_for(self, guard: SweepSupervisor) -> None:
        release = threading.Event()
        with pytest.raises(ClusterError, match=r"it left: run the same command again; what is finished"):
            guard.watch(release.wait, lambda: "it left")
        release.set()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_in_order(self, guard: SweepSupervisor, number: signal.Signals) -> None:
        before = signal.getsignal(number)
        ended = []

        def sweep() -> None:
            os.kill(os.getpid(), number)
            self.tune(guard)
            ended.append(True)

        with pytest.raises(SystemExit) as told:
            guard.watch(sweep, lambda: None)
        assert told.value.code == 128 + number
        assert ended
        assert signal.getsignal(number) is before


def test_a_fault_that_all_workers_will_find_is_told_from_one_that_is_a_trials_own() -> None:
    full = _of_all("cgn.errors.LedgerError: unit 5eed cannot be written to units: [Errno 28] No space left")
    assert isinstance(full, LedgerError)
    assert str(full) == "unit 5eed cannot be written to units: [Errno 28] No space left"
    for cause in ("its process ended", "OSError: [Errno 5] Input/output error", "cgn.errors.DataError: one"):
        assert _of_all(cause) is None
