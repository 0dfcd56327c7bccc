"""Decisions about trials, without Ray."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cgn.errors import ConfigError
from cgn_platform.search.controller import Outcome, TrialController
from cgn_platform.search.records import EpochUpdate, StudyInfo, TrialRecord, TrialSpec
from cgn_platform.search.study import Study, open_study
from cgn_platform.space import Prune, Space
from cgn_platform.store.layout import Store

FINAL = {"val_auc": 0.7, "test_auc": 0.6, "localization_error": None, "folds": []}


class Recorder:
    """A listener that records events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def begin(self, study: StudyInfo) -> None:
        self.events.append(("begin", study.name))

    def lost(self, number: int, cause: str) -> None:
        self.events.append(("lost", number, cause))

    def started(self, trial: TrialSpec) -> None:
        self.events.append(("started", trial.number))

    def epoch(self, number: int, update: EpochUpdate) -> None:
        self.events.append(("epoch", number, update.epoch))

    def ended(self, record: TrialRecord) -> None:
        self.events.append(("ended", record.number, record.state))

    def end(self, outcome: Outcome, _records: Sequence[TrialRecord]) -> None:
        self.events.append(("end", outcome))


@pytest.fixture
def study(space: Space, store: Store) -> Iterator[Study]:
    with open_study("s", space, store=store, identity={}) as opened:
        yield opened


def start(controller: TrialController) -> TrialSpec:
    trial = controller.next()
    assert trial is not None
    return trial


def run(controller: TrialController, value: float, epochs: int = 6) -> int:
    """One trial with a flat curve; returns its number of epochs."""
    trial = start(controller)
    for epoch in range(epochs):
        result = {**FINAL, "val_auc": value} if epoch == epochs - 1 else None
        if controller.report(trial.number, EpochUpdate(epoch, value, seconds=0.5, result=result)):
            return epoch + 1
    raise AssertionError("a finished trial was not ended")


def test_the_default_is_never_pruned(space: Space, store: Store) -> None:
    """It is what all others are compared with."""
    strict = replace(space, prune=Prune("median", startup_trials=0, warmup_epochs=0), first=[{"alpha": 0.9}])
    with open_study("strict", strict, store=store, identity={}) as study:
        controller = TrialController(study)
        default, other = start(controller), start(controller)
        assert default.config == space.base
        for epoch in range(6):  # the other one ends first, with a far better value
            update = EpochUpdate(epoch, 0.9, result=FINAL if epoch == 5 else None)
            assert controller.report(other.number, update) == (epoch == 5)
        assert not any(controller.report(default.number, EpochUpdate(epoch, 0.1)) for epoch in range(5))
        third = start(controller)
        assert controller.report(third.number, EpochUpdate(0, 0.1))  # any other trial is stopped


def test_trials_end_complete_or_pruned_until_the_total_is_reached(study: Study) -> None:
    recorder = Recorder()
    controller = TrialController(study, [recorder])
    assert run(controller, 0.8) == run(controller, 0.7) == 6
    assert run(controller, 0.5) == 2  # after the warm-up
    record = study.trials()[2]
    assert (record.state, record.value, record.curve) == ("pruned", None, {0: 0.5, 1: 0.5})
    assert record.facts["reason"] == "median pruner after 2 epochs at mean validation AUC 0.500"
    complete = study.trials()[0]
    assert (complete.value, complete.facts["test_auc"], complete.facts["seconds"]) == (0.8, 0.6, 3.0)
    assert recorder.events[:2] == [("started", 0), ("epoch", 0, 0)]
    assert recorder.events[-1] == ("ended", 2, "pruned")
    for _ in range(5):
        run(controller, 0.9)
    assert controller.next() is None


def test_an_audited_trial_is_marked_once_and_runs_to_its_end(study: Study) -> None:
    controller = TrialController(study, audit=1.0)
    assert run(controller, 0.8) == run(controller, 0.7) == run(controller, 0.5) == 6
    first, _, third = study.trials()[:3]
    assert "would_prune_at" not in first.facts
    assert (third.state, third.value, third.facts["would_prune_at"]) == ("complete", 0.5, 2)
    assert "steps" not in third.facts  # its epochs are in the ledger


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (EpochUpdate(failure="DivergedError: l_cls is nan"), "DivergedError: l_cls is nan"),
        (EpochUpdate(1, math.nan), "the score of epoch 1 is not a number"),
        (EpochUpdate(5, 0.9, result={**FINAL, "val_auc": None}), "the final score is not a number"),
    ],
)
def test_a_score_that_is_not_finite_fails_the_trial(study: Study, update: EpochUpdate, reason: str) -> None:
    controller = TrialController(study)
    trial = start(controller)
    controller.report(trial.number, EpochUpdate(0, 0.99))
    assert controller.report(trial.number, update)
    record = study.trials()[0]
    assert (record.state, record.value, record.facts["reason"]) == ("failed", None, reason)


def test_reports_after_the_end_change_nothing(study: Study) -> None:
    recorder = Recorder()
    controller = TrialController(study, [recorder])
    trial = start(controller)
    controller.lost(trial.number, "OSError: gone")
    controller.crashed(trial.number, "its process ended")
    controller.lost(trial.number, "again")
    assert recorder.events == [("started", 0), ("lost", 0, "OSError: gone"), ("ended", 0, "failed")]
    assert controller.report(trial.number, EpochUpdate(0, 0.99))
    controller.crashed(trial.number, "again")
    assert study.trials()[0].facts["reason"] == "its process ended"


def test_a_retried_trial_repeats_epochs_without_storing_them_twice(study: Study) -> None:
    recorder = Recorder()
    controller = TrialController(study, [recorder])
    trial = start(controller)
    for epoch in (0, 1, 0, 1, 2):  # its worker was lost after the second epoch
        assert not controller.report(trial.number, EpochUpdate(epoch, 0.5))
    assert [event[2] for event in recorder.events if event[0] == "epoch"] == [0, 1, 2]


def test_checkpoints_are_deleted_before_the_trial_is_ended_in_the_study(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the driver is killed in between, the trial runs again; afterwards nothing would delete them."""
    order: list[str] = []
    tell = Study.tell
    monkeypatch.setattr(Study, "tell", lambda *a, **k: (order.append("ended"), tell(*a, **k))[1])
    controller = TrialController(
        study, delete_checkpoints=lambda config: order.append(f"deleted {config.alpha}")
    )
    ends: list[Callable[[int], object]] = [
        lambda number: controller.report(number, EpochUpdate(failure="ZeroDivisionError: a bug")),
        lambda number: controller.crashed(number, "its process ended"),  # queued again: resumes from them
        lambda number: controller.report(number, EpochUpdate(5, 0.7, result=FINAL)),
    ]
    alphas = []
    for end in ends:
        trial = start(controller)
        alphas.append(trial.config.alpha)
        end(trial.number)
    assert order == [f"deleted {alphas[0]}", "ended", "ended", "ended"]


def test_trials_with_invalid_values_are_ended_for_the_listeners(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    controller = TrialController(study, [recorder])
    start(controller)

    def refuse(*_: Any) -> None:
        raise ConfigError("alpha and learning_rate cannot both be high")

    monkeypatch.setattr(Space, "configure", refuse)
    assert controller.next() is None
    total = study.space.trials
    assert recorder.events[1:] == [("ended", number, "failed") for number in range(1, total)]
