import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cgn.errors import PlatformError, StudyError
from cgn_platform.search.records import ORPHAN, State, TrialSpec
from cgn_platform.search.study import open_study
from cgn_platform.space import Float, Space
from cgn_platform.store.layout import Store
from cgn_platform.tracking import outbox
from cgn_platform.tracking.delivery import track
from cgn_platform.tracking.mlflow_client import connect, default_uri
from cgn_platform.tracking.outbox import Outbox

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def space_of(sweep: Any) -> Space:
    return Space(base=sweep.CONFIG, dimensions={"alpha": Float(0, 1)}, trials=4)


def driver(store: Store, uri: str, *more: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HERE / "tracked_driver.py"), str(store), uri, *more],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.integration
@pytest.mark.parametrize("then", ["the next driver", "cgn track"])
def test_a_driver_that_was_killed_while_mlflow_was_away(
    tracked: Store, another: str, then: str, sweep: Any
) -> None:
    later = tracked.root / "later"
    uri = f"sqlite:///{later / 'mlflow.db'}"
    with driver(tracked, uri, "stop") as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "now\n"
        killed.send_signal(signal.SIGKILL)
    later.mkdir()
    shutil.copy(tracked.mlflow_database, later)
    if then == "cgn track":
        assert track(tracked, uri) == ["smoke"]
        assert {name: run["status"] for name, run in sweep.read_runs(uri).items()} == {
            "smoke": "KILLED",
            "trial 0": "FINISHED",  # pruned
            "trial 1": "FINISHED",
            "trial 2": "KILLED",
        }
    with driver(tracked, uri) as next_driver:
        next_driver.communicate(timeout=120)
    assert next_driver.returncode == 0
    shown = sweep.read_runs(uri)
    assert sorted(shown) == ["smoke", *(f"trial {n}" for n in range(5))]
    assert "RUNNING" not in {run["status"] for run in shown.values()}
    assert shown["smoke"]["status"] == "FINISHED"
    assert shown["trial 2"]["tags"]["cgn.reason"] == ORPHAN
    assert {len(shown[f"trial {n}"]["history"]["l_cls"]) for n in range(5)} == {3}
    assert shown["trial 3"]["tags"]["cgn.retry_of"] == "2"
    # The same again from the study alone, which knows no more than the curve of an orphan. The points of the
    # parent are those of the drivers.
    track(tracked, another, rebuild=True)
    rebuilt = sweep.read_runs(another)
    orphan, known = shown.pop("trial 2"), rebuilt.pop("trial 2")
    assert rebuilt.pop("smoke")["metrics"] == shown.pop("smoke")["metrics"]
    assert rebuilt == shown
    for part in ("status", "params", "tags"):
        assert orphan[part] == known[part]
    assert orphan["history"]["val_auc"] == known["history"]["val_auc"]


def test_a_sweep_is_delivered_once_its_driver_has_ended(tracked: Store, sweep: Any) -> None:
    values = [0.5] * 100
    with open_study("smoke", space_of(sweep), store=tracked, identity={}) as study:
        log = sweep.begin(tracked, uri=sweep.NOWHERE, id=study.id)
        study.ask()
        sweep.play(log, 0, *values)
        ended = study.tell(0, "pruned", steps=sweep.steps(*values))
        log.ended(ended)
        log.end("FINISHED", [ended])
        lines: list[str] = []
        assert track(tracked, default_uri(tracked), warn=lines.append) == []
        assert lines[0].startswith("left to its driver: study 'smoke' is held by process")
    progress: list[int] = []
    updated = track(
        tracked, default_uri(tracked), on_progress=lambda _name, _total, done: progress.append(done)
    )
    assert updated == ["smoke"]
    assert sum(progress) == 103
    shown = sweep.read_runs(default_uri(tracked))
    assert (shown["smoke"]["status"], shown["trial 0"]["status"]) == ("FINISHED", "FINISHED")
    assert len(shown["trial 0"]["history"]["fold_1/val_auc"]) == 100


def test_what_cannot_be_delivered_is_an_error_with_a_remedy(tracked: Store, sweep: Any) -> None:
    with open_study("smoke", space_of(sweep), store=tracked, identity={}) as study:
        sweep.begin(tracked, id=study.id).end("FINISHED", [])
    with pytest.raises(PlatformError, match=r"MLflow cannot be written at http.*: start the server"):
        track(tracked, sweep.NOWHERE)
    with pytest.raises(StudyError, match=r"no sweep or table 'other' was tracked in .*: there are smoke"):
        track(tracked, sweep.NOWHERE, name="other")


def test_a_rebuild_is_what_was_seen_live(tracked: Store, another: str, runs: Any, sweep: Any) -> None:
    ledger = sweep.Units()
    with open_study("smoke", space_of(sweep), store=tracked, identity={}) as study:
        log = sweep.begin(tracked, id=study.id, ledger=ledger)
        ends: list[tuple[State, float | None, dict[str, Any]]] = [
            ("complete", 0.6, {**sweep.FACTS, "units": ["0", "1"]}),
            ("pruned", None, {"reason": "median", "steps": sweep.steps(0.5, 0.6)}),
            ("failed", None, {"reason": "DivergedError: nan", "steps": []}),
        ]
        for number, (state, value, facts) in enumerate(ends):
            trial = study.ask()
            assert isinstance(trial, TrialSpec)
            log.started(trial)
            for epoch, auc in enumerate((0.5, 0.6) if state != "failed" else ()):
                study.report(number, epoch, auc)
                log.epoch(number, sweep.update(epoch, auc))
            log.ended(study.tell(number, state, value, **facts))
        log.end("KILLED", study.trials())
        times = [record.began for record in study.trials()]
    live = runs()
    assert set(live) == {"smoke", "trial 0", "trial 1", "trial 2"}
    figures = live["trial 0"]["metrics"]
    assert 0 < figures["test_auc_low"] < 0.6 < figures["test_auc_high"] <= 1
    assert "test_auc_low" not in live["trial 1"]["metrics"]
    for _ in range(2):
        assert track(tracked, another, rebuild=True, ledger=ledger) == ["smoke"]
        assert sweep.read_runs(another) == live
    _, client = connect(another)
    began = {run.info.run_name: run.info.start_time for run in client.search_runs(["1"])}
    assert [began[f"trial {number}"] for number in range(3)] == times

    # A server that has lost a run.
    client.delete_run(sweep.run_ids(another)["trial 1"])
    assert track(tracked, another, rebuild=True, ledger=ledger) == ["smoke"]
    assert sweep.read_runs(another) == live


@pytest.mark.parametrize("part", ["events", "all"])
def test_a_damaged_outbox_is_one_line_and_its_sweep_is_filled_from_the_study(
    tracked: Store, runs: Any, sweep: Any, part: str
) -> None:
    values = [0.5] * 60
    with open_study("smoke", space_of(sweep), store=tracked, identity={}) as study:
        log = sweep.begin(tracked, uri=sweep.NOWHERE, id=study.id)
        study.ask()
        sweep.play(log, 0, *values)
        log.end("KILLED", study.trials())
        study.tell(0, "pruned", steps=sweep.steps(*values))
    path = tracked.outbox(study.id) / outbox.DATABASE
    content = path.read_bytes()
    # The first page holds the list of the tables, the third one the state.
    path.write_bytes(
        b"\xaa" * len(content)
        if part == "all"
        else content[:4096] + b"\xaa" * 4096 + content[8192:12288] + b"\xaa" * (len(content) - 12288)
    )
    lines: list[str] = []
    updated = track(tracked, default_uri(tracked), warn=lines.append)
    (line,) = lines
    if part == "all":  # even the name is lost
        assert updated == []
        assert line == (
            f"left out: {path.parent} does not name its sweep or table (damaged?): run that again"
        )
    else:
        assert updated == ["smoke"]
        assert line.startswith(f"{path} is damaged (database disk image is malformed): it was renamed")
        assert len(runs()["trial 0"]["history"]["val_auc"]) == 60
        assert not Outbox(path.parent).gap


def test_an_outbox_of_an_older_version_is_delivered(tracked: Store, runs: Any, sweep: Any) -> None:
    folder = tracked.outbox("5eed")
    shutil.copytree(HERE / "outbox_of_0cfa8ab", folder)
    problems: list[str] = []
    sweep.begin(tracked, problems=problems).end("KILLED", [])
    assert problems == []
    shown = runs()
    assert sorted(shown) == sorted(["smoke", *(f"trial {n}" for n in range(7, 12))])
    assert shown["trial 9"]["metrics"]["val_auc"] == 9 / 7
    assert [path.name for path in folder.iterdir() if not path.name.startswith(outbox.DATABASE)] == []


def test_a_sweep_with_a_name_that_is_a_path_is_left_out(store: Store) -> None:
    with outbox.Outbox(store.outbox("5eed")) as old:
        old.note(parent={"study": "../../x", "time": 1})
    lines: list[str] = []
    assert track(store, default_uri(store), warn=lines.append) == []
    assert lines == [
        f"left out: '../../x' of {store.outbox('5eed')} is not a valid name of a sweep or table any more"
    ]
