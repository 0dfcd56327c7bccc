"""What the driver decides on what workers tell, without Ray."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cgn_platform.space import Prune, Space
from cgn_platform.study import Asked, Study, TrialRecord, open_study
from cgn_platform.sweep import Desk
from cgn_platform.worker import Step

FINAL = {"val_auc": 0.7, "test_auc": 0.6, "localization_error": None, "folds": []}


class Ears:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def started(self, trial: Any) -> None:
        self.heard.append(("started", trial.number))

    def epoch(self, number: int, step: Step) -> None:
        self.heard.append(("epoch", number, step.epoch))

    def ended(self, record: TrialRecord) -> None:
        self.heard.append(("ended", record.number, record.state))


@pytest.fixture
def study(space: Space, store: Path) -> Iterator[Study]:
    with open_study("s", space, store=store, identity={}) as opened:
        yield opened


def run(desk: Desk, value: float, epochs: int = 6) -> int:
    """One trial with a flat curve; returns how many epochs it got."""
    asked = desk.next()
    assert asked is not None
    for epoch in range(epochs):
        result = {**FINAL, "val_auc": value} if epoch == epochs - 1 else None
        if desk.tell(asked.number, Step(epoch, value, seconds=0.5, result=result)):
            return epoch + 1
    raise AssertionError("a finished trial was not ended")


def test_the_default_is_never_pruned(space: Space, store: Path) -> None:
    """It is what all others are compared with."""
    strict = replace(space, prune=Prune("median", startup_trials=0, warmup_epochs=0), first=[{"alpha": 0.9}])
    with open_study("strict", strict, store=store, identity={}) as study:
        desk = Desk(study)
        default, other = desk.next(), desk.next()
        assert isinstance(default, Asked)
        assert isinstance(other, Asked)
        assert default.config == space.base
        for epoch in range(6):  # the other one ends first, and far ahead
            assert desk.tell(other.number, Step(epoch, 0.9, result=FINAL if epoch == 5 else None)) == (
                epoch == 5
            )
        assert not any(desk.tell(default.number, Step(epoch, 0.1)) for epoch in range(5))
        asked = desk.next()
        assert isinstance(asked, Asked)
        assert desk.tell(asked.number, Step(0, 0.1))  # anybody else would have been stopped


def test_trials_end_complete_or_pruned_until_the_total_is_reached(study: Study) -> None:
    ears = Ears()
    desk = Desk(study, [ears])
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


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Step(failure="DivergedError: l_cls is nan"), "DivergedError: l_cls is nan"),
        (Step(1, math.nan), "the score of epoch 1 is no number"),
        (Step(5, 0.9, result={**FINAL, "val_auc": None}), "the final score is no number"),
    ],
)
def test_what_is_no_number_is_no_score(study: Study, step: Step, reason: str) -> None:
    desk = Desk(study)
    asked = desk.next()
    assert asked is not None
    desk.tell(asked.number, Step(0, 0.99))
    assert desk.tell(asked.number, step)
    record = study.trials()[0]
    assert (record.state, record.value, record.facts["reason"]) == ("failed", None, reason)


def test_what_comes_after_the_end_changes_nothing(study: Study) -> None:
    desk = Desk(study)
    asked = desk.next()
    assert asked is not None
    desk.crashed(asked.number, "its process ended")
    assert desk.tell(asked.number, Step(0, 0.99))
    desk.crashed(asked.number, "again")
    assert study.trials()[0].facts["reason"] == "its process ended"
