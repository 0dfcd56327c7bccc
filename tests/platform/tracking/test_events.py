from typing import Any

import pytest

from cgn_platform.search.records import ORPHAN
from cgn_platform.tracking import events


def test_the_history_of_a_trial_is_that_of_the_ledger_the_steps_or_the_curve(sweep: Any) -> None:
    ledger = sweep.Units()
    complete = events.history(sweep.record(0, "complete", 0.6, units=["0", "1"]), ledger)
    assert [facts["val_auc"] for facts in complete] == [0.5, 0.6]
    assert complete[1]["folds"] == {0: 0.6, 1: pytest.approx(0.7)}
    assert (complete[1]["losses"], complete[1]["seconds"]) == ({"l_cls": 0.3}, 2.0)
    steps = sweep.steps(0.5)
    assert events.history(sweep.record(0, "pruned", steps=steps), None) == steps
    curve = [{"epoch": 0, "val_auc": 0.5}, {"epoch": 1, "val_auc": 0.6}]
    assert events.history(sweep.record(0, "complete", 0.6, units=["0", "damaged"]), ledger) == curve
    assert events.history(sweep.record(0, "orphan"), ledger) == curve


def test_replayed_events_are_those_of_the_run(sweep: Any) -> None:
    updates = [sweep.update(epoch, value) for epoch, value in enumerate((0.5, 0.6))]
    record = sweep.record(3, "pruned", steps=sweep.steps(0.5, 0.6), reason="median")
    live = [
        events.started(3, sweep.CONFIG, {"cache": "c"}, 1),
        *(events.epoch(3, vars(update), 1) for update in updates),
        events.ended(record, 1),
    ]
    replayed = [{**event, "time": 1} for event in events.replay_events(record, {"cache": "c"}, None)]
    assert replayed == live
    assert live[-1]["status"] == "FINISHED"
    assert live[-1]["tags"] == {"cgn.state": "pruned", "cgn.reason": "median"}


def test_a_running_trial_without_a_driver_is_an_orphan(sweep: Any) -> None:
    orphan = events.as_orphan(sweep.record(0, "running", retry_of=7))
    assert (orphan.state, orphan.facts) == ("orphan", {"retry_of": 7, "reason": ORPHAN})
    ended = sweep.record(0, "complete", 0.6)
    assert events.as_orphan(ended) is ended
