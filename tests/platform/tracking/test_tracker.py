import sqlite3
from typing import Any

import pytest

from cgn_platform.search.records import EpochUpdate
from cgn_platform.store.layout import Store
from cgn_platform.tracking import outbox
from cgn_platform.tracking.mlflow_client import default_uri
from cgn_platform.tracking.outbox import Outbox


@pytest.mark.integration
def test_a_server_that_is_killed_and_restarted_has_everything_once(
    tracked: Store, server: Any, sweep: Any, until: Any
) -> None:
    server.start()
    problems: list[str] = []
    records = []
    log = sweep.begin(tracked, problems=problems, uri=server.uri)
    for number in range(12):
        match number:
            case 3:
                until(lambda: log.pending == 0)
            case 4:
                server.kill()
            case 8:
                until(lambda: problems)
                server.start()
            case 10:
                until(lambda: len(problems) > 1)
        sweep.play(log, number, *(0.5 + epoch / 100 for epoch in range(20)))
        records.append(sweep.record(number, "pruned", reason="median"))
        log.ended(records[-1])
    log.end("FINISHED", records)
    shown = sweep.read_runs(server.uri)
    assert len(shown) == 13
    for number in range(12):
        run = shown[f"trial {number}"]
        assert (run["status"], run["tags"]["cgn.state"]) == ("FINISHED", "pruned")
        assert run["history"]["val_auc"] == [(epoch, 0.5 + epoch / 100) for epoch in range(20)]
    assert shown["smoke"]["status"] == "FINISHED"
    assert problems[0].startswith("MLflow cannot be written (API request to ")
    assert problems[1:] == ["MLflow answers again, and has what it missed"]


def test_events_wait_for_a_server_that_never_answers(tracked: Store, sweep: Any) -> None:
    problems: list[str] = []
    log = sweep.begin(tracked, problems=problems, uri=sweep.NOWHERE)
    sweep.play(log, 0, *[0.5] * 100)
    done = sweep.record(0, "pruned", steps=sweep.steps(*[0.5] * 100))
    log.ended(done)
    assert log.pending == 102
    log.end("FINISHED", [done])
    assert problems[0].startswith("MLflow cannot be written (API request to ")
    assert problems[1].startswith("MLflow lacks 102 events and the end of the sweep: the next run")
    assert len(problems) == 2


def test_a_server_that_lost_everything_is_filled_at_the_end(
    tracked: Store, another: str, runs: Any, sweep: Any, until: Any
) -> None:
    """Its database was replaced by an empty one while the sweep was running."""
    log = sweep.begin(tracked)
    sweep.play(log, 0, 0.5, 0.6)
    done = sweep.record(0, "complete", 0.6, steps=sweep.steps(0.5, 0.6), **sweep.FACTS)
    log.ended(done)
    until(lambda: log.pending == 0)
    log.end("KILLED", [done])
    before = runs()
    problems: list[str] = []
    sweep.begin(tracked, problems=problems, uri=another).end("KILLED", [done])
    assert problems == []
    assert sweep.read_runs(another) == before


def test_a_full_disk_is_reported_once_and_the_study_fills_the_gap(
    tracked: Store, runs: Any, sweep: Any, disk: Any
) -> None:
    problems: list[str] = []
    log = sweep.begin(tracked, problems=problems)
    sweep.play(log, 0, 0.5, 0.6)
    disk.full = True
    log.epoch(0, sweep.update(2, 0.7))
    log.epoch(0, sweep.update(3, 0.8))
    disk.full = False
    log.epoch(0, sweep.update(4, 0.9))
    done = sweep.record(0, "complete", 0.9, steps=sweep.steps(0.5, 0.6, 0.7, 0.8, 0.9), **sweep.FACTS)
    log.ended(done)
    log.end("FINISHED", [done])
    (problem,) = problems
    assert "cannot be written (No space left on device): the sweep goes on" in problem
    for name in ("val_auc", "fold_0/val_auc"):
        history = runs()["trial 0"]["history"][name]
        assert history == [(0, 0.5), (1, 0.6), (2, 0.7), (3, 0.8), (4, 0.9)]
    assert not Outbox(tracked.outbox("5eed")).gap


def test_a_damaged_outbox_is_one_line_and_the_study_fills_the_gap(
    tracked: Store, runs: Any, sweep: Any
) -> None:
    values = 0.5, 0.6, 0.7, 0.8
    log = sweep.begin(tracked, uri=sweep.NOWHERE)
    sweep.play(log, 0, *values[:3])
    log.end("KILLED", [sweep.record(0, "running")])
    path = tracked.outbox("5eed") / outbox.DATABASE
    path.write_bytes(b"no database" * 1000)
    problems: list[str] = []
    log = sweep.begin(tracked, problems=problems)
    log.epoch(0, sweep.update(3, 0.8))
    done = sweep.record(0, "complete", 0.8, steps=sweep.steps(*values), **sweep.FACTS)
    log.ended(done)
    log.end("FINISHED", [done])
    (problem,) = problems
    assert problem.startswith(
        f"{path} is damaged (file is not a database): it was renamed to damaged-outbox.db"
    )
    assert runs()["trial 0"]["history"]["val_auc"] == list(enumerate(values))
    again = Outbox(tracked.outbox("5eed"))
    assert (again.gap, again.pending, again.notes["parent"]["study"]) == (False, 0, "smoke")


def test_an_outbox_that_is_damaged_during_the_sweep_is_one_line_too(
    tracked: Store, runs: Any, sweep: Any, until: Any
) -> None:
    problems: list[str] = []
    log = sweep.begin(tracked, problems=problems, uri=sweep.NOWHERE)
    sweep.play(log, 0, 0.5)
    until(lambda: problems)
    with sqlite3.connect(tracked.outbox("5eed") / outbox.DATABASE) as other:
        other.execute("UPDATE events SET event = 'gone'")
    other.close()
    log.epoch(0, EpochUpdate(1, 0.6, {0: 0.6, 1: 0.7}, {"l_cls": 0.3}))
    done = sweep.record(0, "complete", 0.6, steps=sweep.steps(0.5, 0.6), **sweep.FACTS)
    log.ended(done)
    log.end("FINISHED", [done])
    again = sweep.begin(tracked, uri=default_uri(tracked), problems=problems)
    again.end("FINISHED", [done])
    assert [line.split(" (")[0] for line in problems[:1]] == ["MLflow cannot be written"]
    assert len(problems) == 2  # and what MLflow lacked at the first end
    assert runs()["trial 0"]["history"]["val_auc"] == [(0, 0.5), (1, 0.6)]
