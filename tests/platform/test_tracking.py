import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from cgn.config import Config
from cgn.errors import LedgerError, PlatformError, StudyError
from cgn_platform.cli import app
from cgn_platform.search.records import ORPHAN, EpochUpdate, State, TrialRecord, TrialSpec
from cgn_platform.search.study import open_study
from cgn_platform.space import Float, Space
from cgn_platform.store.layout import Store
from cgn_platform.tracking import events, links, tables
from cgn_platform.tracking import tracker as tracker_module
from cgn_platform.tracking.delivery import track
from cgn_platform.tracking.events import RunInfo
from cgn_platform.tracking.mlflow_client import default_uri, make_database
from cgn_platform.tracking.outbox import Outbox
from cgn_platform.tracking.tracker import Tracker
from cgn_platform.tracking.writer import MLflowWriter

HERE = Path(__file__).parent
CONFIG = Config(epochs=2)
FOLDS = [
    {
        "fold": k,
        "best_epoch": 1,
        "val_auc": 0.7,
        "test_auc": 0.6 + k / 10,
        "localization_error": 0.5 * k or None,
    }
    for k in range(2)
]
FACTS = {"test_auc": 0.65, "localization_error": None, "seconds": 3.0, "folds": FOLDS}
PARENT = RunInfo("phantom", "smoke", "5eed", {"cache": "c0ffee"}, {"alpha": "[0, 1]"})

Runs = dict[str, dict[str, Any]]


# ---------------------------------------------------------------------------------------- helpers


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "AWAY_SECONDS", (0.1, 0.5))
    monkeypatch.setattr(tracker_module, "PULSE_SECONDS", 0.05)
    for name in ("MLFLOW_TRACKING_URI", "CGN_STUDY_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making MLflow's tables takes seconds: once for all tests."""
    folder = tmp_path_factory.mktemp("mlflow")
    projection(f"sqlite:///{folder / 'mlflow.db'}", folder)._client.search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def folder(empty_database: Path, tmp_path: Path) -> Path:
    """A store with an empty MLflow."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def another(empty_database: Path, tmp_path: Path) -> str:
    """The address of another empty MLflow."""
    shutil.copy(empty_database, tmp_path / "another.db")
    return f"sqlite:///{tmp_path / 'another.db'}"


@pytest.fixture
def server(empty_database: Path, tmp_path: Path) -> Iterator[Any]:
    """A server that is not started yet."""
    (tmp_path / "server").mkdir()
    shutil.copy(empty_database, tmp_path / "server" / "mlflow.db")
    made = runpy.run_path(str(HERE / "mlflow_server.py"))["Server"](tmp_path / "server")
    yield made
    made.kill()


def projection(uri: str, store: Path, parent: RunInfo = PARENT) -> MLflowWriter:
    return MLflowWriter(uri, parent, artifacts=store.root / "mlartifacts", on_refusal=print)


def tracker(
    store: Path, records: Any = (), problems: list[str] | None = None, uri: str | None = None, **more: Any
) -> Tracker:
    told = problems if problems is not None else []
    parent = more.pop("parent", PARENT)
    return Tracker(store, uri or default_uri(store), parent, records=records, on_problem=told.append, **more)


def record(number: int, state: State, value: float | None = None, **facts: Any) -> TrialRecord:
    return TrialRecord(number, state, value, {}, {0: 0.5, 1: 0.6}, CONFIG, facts)


def step(epoch: int, value: float) -> EpochUpdate:
    return EpochUpdate(epoch, value, {0: value, 1: value + 0.1}, {"l_cls": 0.3})


def steps(*values: float) -> list[dict[str, Any]]:
    """What the study keeps of the epochs of `step`."""
    told = [step(epoch, value) for epoch, value in enumerate(values)]
    names = ("epoch", "val_auc", "folds", "losses", "seconds")
    return [{name: getattr(each, name) for name in names} for each in told]


def tell(log: Tracker, number: int, *values: float) -> None:
    log.started(TrialSpec(number, CONFIG, {}))
    for epoch, value in enumerate(values):
        log.epoch(number, step(epoch, value))


def read(uri: str, store: Path) -> Runs:
    """All that people see of an MLflow, by the runs' names; two runs of a name, or points of a step, fail."""
    client = projection(uri, store)._client
    there: Runs = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], max_results=1000):
            history = {}
            for name in run.data.metrics:
                points = [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
                assert len({at for at, _ in points}) == len(points), (run.info.run_name, name, points)
                history[name] = sorted(points)
            assert run.info.run_name not in there
            tags = {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId"}
            there[run.info.run_name] = {
                "status": run.info.status,
                "params": run.data.params,
                "tags": tags,
                "metrics": run.data.metrics,
                "history": history,
            }
    return there


@pytest.fixture
def runs(folder: Path) -> Callable[[], Runs]:
    return lambda: read(default_uri(folder), folder)


# ------------------------------------------------------------------------------------ projection


def test_a_sweep_is_a_parent_and_each_trial_a_child(folder: Path, runs: Any) -> None:
    problems: list[str] = []
    log = tracker(folder, problems=problems)
    tell(log, 0, 0.5, 0.6)
    tell(log, 1, 0.5)
    tell(log, 2, 0.5)
    ended = [
        record(0, "complete", 0.7, **FACTS),
        record(1, "pruned", reason="median pruner", retry_of=0),
        record(2, "failed", reason="DivergedError: nan"),
        replace(record(3, "failed", reason="f_a and f_b cannot both be"), config=None, curve={}),
    ]
    for each in ended:
        log.ended(each)
    log.close("FINISHED", ended)
    assert problems == []
    there = runs()
    assert {name: run["status"] for name, run in there.items()} == {
        "smoke": "FINISHED",
        "trial 0": "FINISHED",
        "trial 1": "KILLED",
        "trial 2": "FAILED",
        "trial 3": "FAILED",
    }
    best = there["trial 0"]
    assert best["params"]["alpha"] == "0.5"
    assert best["params"]["bilateral"] == "adain_gan"
    assert best["tags"]["fingerprint"] == CONFIG.fingerprint()
    assert best["tags"]["cache"] == "c0ffee"
    assert best["tags"]["cgn.trial"] == "smoke/0"
    assert best["history"]["val_auc"] == [(0, 0.5), (1, 0.6)]
    assert best["metrics"]["fold_1/val_auc"] == pytest.approx(0.7)
    assert best["metrics"]["fold_1/test_auc"] == pytest.approx(0.7)
    assert best["metrics"]["fold_1/localization_error"] == 0.5
    assert "fold_0/localization_error" not in best["metrics"]  # it was no number
    assert best["metrics"]["l_cls"] == 0.3
    assert there["trial 1"]["tags"]["cgn.reason"] == "median pruner"
    assert there["trial 1"]["tags"]["cgn.retry_of"] == "0"
    assert there["smoke"]["metrics"]["best_val_auc"] == 0.7
    client = projection(default_uri(folder), folder)._client
    found = client.search_runs([client.get_experiment_by_name("phantom").experiment_id])
    parent = next(run.info.run_id for run in found if run.info.run_name == "smoke")
    assert {run.data.tags.get("mlflow.parentRunId", parent) for run in found} == {parent}


def test_events_that_come_again_change_nothing(folder: Path, runs: Any) -> None:
    log = tracker(folder)
    tell(log, 0, 0.5, 0.6)
    log.ended(record(0, "complete", 0.7, **FACTS))
    log.close("FINISHED", [record(0, "complete", 0.7, **FACTS)])
    before = runs()
    (folder / "outbox" / "5eed" / "state.json").unlink()  # a power failure: nobody knows what was sent
    tracker(folder).close("FINISHED", [record(0, "complete", 0.7, **FACTS)])
    assert runs() == before


def test_numbers_that_are_none_are_points_too(folder: Path) -> None:
    log = tracker(folder)
    log.started(TrialSpec(0, CONFIG, {}))
    log.epoch(0, EpochUpdate(0, 0.5, {}, {"nan": float("nan"), "inf": float("inf")}))
    log.close("KILLED", [])
    metrics = read(default_uri(folder), folder)["trial 0"]["metrics"]
    assert metrics["nan"] != metrics["nan"]
    assert metrics["inf"] > 1e300


def test_what_the_server_will_never_take_is_said_and_left_out(folder: Path, runs: Any) -> None:
    problems: list[str] = []
    log = tracker(folder, problems=problems)
    log.started(TrialSpec(0, CONFIG, {}))
    log.epoch(0, step(0, 0.5))
    log.epoch(0, EpochUpdate(1, 0.6, {}, {"no such name?": 1.0}))
    log.epoch(0, step(2, 0.7))
    log.close("KILLED", [])
    assert len(problems) == 1
    assert "MLflow refuses what it was told" in problems[0]
    assert "no such name?" in problems[0]
    assert runs()["trial 0"]["history"]["val_auc"] == [(0, 0.5), (2, 0.7)]


def test_a_run_that_was_made_twice_is_one_again(folder: Path, runs: Any) -> None:
    """A server that is killed after it made a run, and before it said so, is asked for it again."""
    log = tracker(folder)
    tell(log, 0, 0.5)
    log.close("KILLED", [record(0, "running")])
    before = runs()
    made = projection(default_uri(folder), folder)
    made.open(running=False)
    made._create("trial 0", 1, {"cgn.trial": "smoke/0", "mlflow.parentRunId": made._parent})
    made._create("smoke", 1, {"cgn.study_id": "5eed"})
    made._create("somebody's own", 1, {"mlflow.parentRunId": made._parent})
    assert projection(default_uri(folder), folder).open(running=False)
    assert {name: run for name, run in runs().items() if name != "somebody's own"} == before


def test_a_file_goes_with_its_run_and_one_that_is_gone_is_said(folder: Path) -> None:
    problems: list[str] = []
    figure = folder / "figure.txt"
    figure.write_text("a picture")
    log = tracker(folder, problems=problems)
    log.started(TrialSpec(0, CONFIG, {}))
    log.artifact(figure, 0)
    log.artifact(figure)
    log.artifact(folder / "gone.txt")
    log.close("KILLED", [])
    there = sorted(path.relative_to(folder).parts[0] for path in folder.rglob("artifacts/figure.txt"))
    assert there == ["mlartifacts", "mlartifacts"]
    assert problems == [f"{folder / 'gone.txt'} is not there any more"]


# --------------------------------------------------------------------------- drivers that are killed


def test_no_run_is_left_running_though_the_study_does_not_know_it(folder: Path, runs: Any) -> None:
    log = tracker(folder)
    tell(log, 0, 0.5)
    log.close("KILLED", [])
    assert runs()["trial 0"]["status"] == "KILLED"
    assert runs()["trial 0"]["tags"]["cgn.reason"] == "the study does not know it"


def test_a_resume_finds_its_runs_and_closes_those_of_the_dead_driver(folder: Path, runs: Any) -> None:
    dead = projection(default_uri(folder), folder)
    dead.open(running=True)
    for number in range(3):
        dead.apply(
            [
                events.started(number, CONFIG, {}, 1),
                events.epoch(number, {"epoch": 0, "val_auc": 0.5}, 1),
            ]
        )
    # The study knows more: trial 0 ended, 1 is an orphan, 2 too, and 3 was never told to MLflow.
    known = [
        record(0, "complete", 0.6, **FACTS),
        record(1, "orphan", reason=ORPHAN),
        record(2, "orphan", reason=ORPHAN),
        record(3, "pruned", reason="median pruner"),
        record(4, "waiting"),
    ]
    for _ in range(2):  # again and again
        log = tracker(folder, records=known)
        log.close("FINISHED", known)
        there = runs()
        assert {name: run["status"] for name, run in there.items()} == {
            "smoke": "FINISHED",
            "trial 0": "FINISHED",
            "trial 1": "KILLED",
            "trial 2": "KILLED",
            "trial 3": "KILLED",
        }
        for name, run in there.items():
            if name != "smoke":
                assert run["history"]["val_auc"] == [(0, 0.5), (1, 0.6)]
    assert there["trial 0"]["metrics"]["test_auc"] == 0.65
    assert there["trial 1"]["tags"]["cgn.reason"] == ORPHAN


def test_a_trial_left_running_ends_with_the_sweep_as_the_next_driver_will_know_it(
    folder: Path, runs: Any
) -> None:
    log = tracker(folder)
    tell(log, 0, 0.5, 0.6)
    log.close("KILLED", [record(0, "running", steps=steps(0.5, 0.6), retry_of=7)])
    there = runs()
    assert {run["status"] for run in there.values()} == {"KILLED"}
    assert there["trial 0"]["tags"]["cgn.retry_of"] == "7"
    tracker(folder, records=[record(0, "orphan", reason=ORPHAN, retry_of=7)]).close("KILLED", [])
    assert runs()["trial 0"] == there["trial 0"]


DRIVER = """
import os, sys, time
from pathlib import Path
from cgn.config import Config
from cgn_platform.space import Float, Space
from cgn_platform.study import open_study
from cgn_platform.events import RunInfo
from cgn_platform.tracking import Tracker
from cgn_platform.worker import EpochUpdate

store, uri = Path(sys.argv[1]), sys.argv[2]
space = Space(base=Config(epochs=3), dimensions={"alpha": Float(0, 1)}, trials=4)
with open_study("smoke", space, store=store, identity={}) as study:
    parent = RunInfo("phantom", "smoke", study.id, {"cache": "c0ffee"}, {})
    log = Tracker(store, uri, parent, records=study.trials())
    while study.remaining():
        asked = study.ask()
        log.started(asked)
        told = []
        for epoch in range(3):
            step = EpochUpdate(epoch, 0.5 + epoch / 10, {0: 0.5, 1: 0.6}, {"l_cls": 0.3})
            told.append({"epoch": epoch, "val_auc": step.val_auc, "folds": step.folds, "losses": step.losses})
            study.report(asked.number, epoch, step.val_auc)
            log.epoch(asked.number, step)
        if asked.number == 2 and len(sys.argv) > 3:
            print("now", flush=True)
            time.sleep(600)
        log.ended(study.tell(asked.number, "pruned", reason="median", steps=told))
    log.close("FINISHED", study.trials())
"""


def driver(store: Path, uri: str, *more: str) -> subprocess.Popen[str]:
    root = HERE.parents[1]
    path = os.pathsep.join([str(root), str(root / "platform")])
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DRIVER, str(store), uri, *more],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_run_whose_end_was_cut_short_is_ended_by_the_next_driver(folder: Path, runs: Any) -> None:
    """Its state is written first, then its status."""
    log = tracker(folder)
    tell(log, 0, 0.5, 0.6)
    log.ended(record(0, "complete", 0.6))
    log.close("KILLED", [record(0, "complete", 0.6)])
    client = projection(default_uri(folder), folder)._client
    (run,) = client.search_runs(["1"], "attributes.run_name = 'trial 0'")
    client.update_run(run.info.run_id, status="RUNNING")
    tracker(folder, [record(0, "complete", 0.6)]).close("FINISHED", [record(0, "complete", 0.6)])
    assert runs()["trial 0"]["status"] == "FINISHED"


def test_who_is_killed_while_mlflow_makes_its_tables_leaves_no_half_of_them(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"

    def killed(draft: str) -> None:
        Path(draft.removeprefix("sqlite:///")).write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_database(f"sqlite:///{path}", killed)
    assert not path.exists()
    make_database(f"sqlite:///{path}", lambda draft: Path(draft[10:]).touch(exist_ok=False))
    assert path.exists()
    make_database(f"sqlite:///{path}", killed)  # it is there: nothing is made


@pytest.mark.integration
@pytest.mark.parametrize("then", ["the next driver", "cgn track"])
def test_a_driver_that_was_killed_while_mlflow_was_away(folder: Path, another: str, then: str) -> None:
    uri = f"sqlite:///{folder / 'later' / 'mlflow.db'}"
    with driver(folder, uri, "stop") as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "now\n"
        killed.send_signal(signal.SIGKILL)
    (folder / "later").mkdir()
    shutil.copy(folder / "mlflow.db", folder / "later")
    if then == "cgn track":
        assert track(folder, uri) == ["smoke"]
        assert {n: r["status"] for n, r in read(uri, folder).items()} == {
            "smoke": "KILLED",
            "trial 0": "KILLED",
            "trial 1": "KILLED",
            "trial 2": "KILLED",
        }
    with driver(folder, uri) as next_driver:
        next_driver.communicate(timeout=120)
    assert next_driver.returncode == 0
    there = read(uri, folder)
    assert sorted(there) == ["smoke", *(f"trial {n}" for n in range(5))]
    assert "RUNNING" not in {run["status"] for run in there.values()}
    assert there["smoke"]["status"] == "FINISHED"
    assert there["trial 2"]["tags"]["cgn.reason"] == ORPHAN
    assert {len(there[f"trial {n}"]["history"]["l_cls"]) for n in range(5)} == {3}
    assert there["trial 3"]["tags"]["cgn.retry_of"] == "2"
    # And the same again from the study alone; of an orphan it remembers no more than the curve.
    track(folder, another, rebuild=True)
    rebuilt = read(another, folder)
    orphan, known = there.pop("trial 2"), rebuilt.pop("trial 2")
    assert (
        rebuilt.pop("smoke")["metrics"] == there.pop("smoke")["metrics"]
    )  # its points are those of the drivers
    assert rebuilt == there
    for part in ("status", "params", "tags"):
        assert orphan[part] == known[part]
    assert orphan["history"]["val_auc"] == known["history"]["val_auc"]


# --------------------------------------------------------------------------- servers that are away


@pytest.mark.integration
def test_a_server_that_is_killed_and_comes_back_has_everything_once(folder: Path, server: Any) -> None:
    server.start()
    problems: list[str] = []
    records = []
    log = tracker(folder, problems=problems, uri=server.uri)
    for number in range(12):
        match number:
            case 3:
                _until(lambda: log._outbox.acknowledged > 0)
            case 4:
                server.kill()
            case 8:
                _until(lambda: problems)
                server.start()
            case 10:
                _until(lambda: len(problems) > 1)
        tell(log, number, *(0.5 + epoch / 100 for epoch in range(20)))
        records.append(record(number, "pruned", reason="median"))
        log.ended(records[-1])
    log.close("FINISHED", records)
    there = read(server.uri, folder)
    assert len(there) == 13
    for number in range(12):
        run = there[f"trial {number}"]
        assert run["status"] == "KILLED"
        assert run["history"]["val_auc"] == [(epoch, 0.5 + epoch / 100) for epoch in range(20)]
    assert there["smoke"]["status"] == "FINISHED"
    assert problems[0].startswith("MLflow cannot be written (API request to ")  # once away, once back
    assert problems[1:] == ["MLflow is back, and has what it missed"]


def test_a_server_that_is_away_from_start_to_end(folder: Path, server: Any) -> None:
    problems: list[str] = []
    space = Space(base=CONFIG, dimensions={"alpha": Float(0, 1)}, trials=1)
    with open_study("smoke", space, store=Store(folder), identity={}) as study:
        log = tracker(folder, problems=problems, uri=server.uri, parent=replace(PARENT, study_id=study.id))
        asked = study.ask()
        assert isinstance(asked, TrialSpec)
        begin = time.monotonic()
        log.started(asked)
        for epoch in range(100):
            log.epoch(0, step(epoch, 0.5))
        assert time.monotonic() - begin < 1
        ended = study.tell(0, "pruned", steps=steps(*[0.5] * 100))
        log.ended(ended)
        log.close("FINISHED", [ended])
        told: list[str] = []
        assert track(folder, default_uri(folder), say=told.append) == []
        assert told[0].startswith("left to its driver: study 'smoke' is held by process")
    assert problems[0].startswith("MLflow cannot be written (API request to ")
    assert problems[1].startswith("MLflow lacks 102 events and the end of the sweep: the next run")
    assert len(problems) == 2
    progress: list[int] = []
    brought = track(folder, default_uri(folder), on_progress=lambda _n, total, done: progress.append(done))
    assert brought == ["smoke"]
    assert sum(progress) == 103
    there = read(default_uri(folder), folder)
    assert (there["smoke"]["status"], there["trial 0"]["status"]) == ("FINISHED", "KILLED")
    assert len(there["trial 0"]["history"]["fold_1/val_auc"]) == 100
    with pytest.raises(PlatformError, match=r"MLflow cannot be written at http.*: start it, or give --url"):
        track(folder, server.uri)
    with pytest.raises(StudyError, match=r"no sweep or table 'other' was tracked in .*: there are smoke"):
        track(folder, server.uri, name="other")


def test_a_server_that_forgot_everything_is_filled_at_the_end(folder: Path, another: str, runs: Any) -> None:
    """Its database was replaced by an empty one while the sweep was running."""
    log = tracker(folder)
    tell(log, 0, 0.5, 0.6)
    done = record(0, "complete", 0.6, steps=steps(0.5, 0.6), **FACTS)
    log.ended(done)
    _until(lambda: log._outbox.left == 0)
    log.close("KILLED", [done])
    before = runs()
    problems: list[str] = []
    tracker(folder, problems=problems, uri=another).close("KILLED", [done])
    assert problems == []
    assert read(another, folder) == before


def test_a_full_disk_is_said_once_and_the_study_fills_the_gap(
    folder: Path, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems: list[str] = []
    log = tracker(folder, problems=problems)
    tell(log, 0, 0.5, 0.6)
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", lambda *_: 0)
        log.epoch(0, step(2, 0.7))
        log.epoch(0, step(3, 0.8))
    log.epoch(0, step(4, 0.9))
    done = record(0, "complete", 0.9, steps=steps(0.5, 0.6, 0.7, 0.8, 0.9), **FACTS)
    log.ended(done)
    log.close("FINISHED", [done])
    assert len(problems) == 1
    assert "cannot be written (No space left on device): the sweep goes on" in problems[0]
    for name in ("val_auc", "fold_0/val_auc"):
        history = runs()["trial 0"]["history"][name]
        assert history == [(0, 0.5), (1, 0.6), (2, 0.7), (3, 0.8), (4, 0.9)]
    assert not Outbox(folder / "outbox" / "5eed").gap


# ------------------------------------------------------------------------------------- rebuilding


class Units:
    """Stands in for the ledger: two folds of two epochs."""

    def find(self, unit: str) -> Any:
        return None if unit == "damaged" else self.open(unit)

    def open(self, unit: str) -> Any:
        if unit == "damaged":
            raise LedgerError("damaged")
        fold = int(unit)
        reports = [
            SimpleNamespace(
                fold=fold, epoch=epoch, val_auc=value + fold / 10, losses={"l_cls": 0.3}, seconds=1.0
            )
            for epoch, value in enumerate((0.5, 0.6))
        ]
        scored = [
            {
                "index": 10 * fold + i,
                "patient_id": f"p{i}",
                "fold": fold,
                "label": i % 2,
                "p_malignant": i / 9,
                "localized": None,
            }
            for i in range(10)
        ]
        identity = SimpleNamespace(cache="c", splits="s")
        return SimpleNamespace(
            reports=tuple(reports), predictions=pa.Table.from_pylist(scored), identity=identity
        )


def test_a_run_is_told_again_from_the_ledger_the_steps_or_the_curve() -> None:
    ledger: Any = Units()
    complete = events.history(record(0, "complete", 0.6, units=["0", "1"]), ledger)
    assert [told["val_auc"] for told in complete] == [0.5, 0.6]
    assert complete[1]["folds"] == {0: 0.6, 1: pytest.approx(0.7)}
    assert complete[1]["losses"] == {"l_cls": 0.3}
    assert events.history(record(0, "pruned", steps=steps(0.5)), None) == steps(0.5)
    curve = [{"epoch": 0, "val_auc": 0.5}, {"epoch": 1, "val_auc": 0.6}]
    assert events.history(record(0, "complete", 0.6, units=["0", "damaged"]), ledger) == curve
    assert events.history(record(0, "orphan"), ledger) == curve


def test_a_rebuild_is_what_was_seen_live(folder: Path, another: str, runs: Any) -> None:
    space = Space(base=CONFIG, dimensions={"alpha": Float(0, 1)}, trials=4)
    ledger: Any = Units()
    with open_study("smoke", space, store=Store(folder), identity={}) as study:
        parent = replace(PARENT, study_id=study.id)
        log = tracker(folder, parent=parent, ledger=ledger)
        ends: list[tuple[State, float | None, dict[str, Any]]] = [
            ("complete", 0.6, {**FACTS, "units": ["0", "1"]}),
            ("pruned", None, {"reason": "median", "steps": steps(0.5, 0.6)}),
            ("failed", None, {"reason": "DivergedError: nan", "steps": []}),
        ]
        for number, (state, value, facts) in enumerate(ends):
            asked = study.ask()
            assert isinstance(asked, TrialSpec)
            log.started(asked)
            for epoch, auc in enumerate((0.5, 0.6) if state != "failed" else ()):
                study.report(number, epoch, auc)
                log.epoch(number, step(epoch, auc))
            log.ended(study.tell(number, state, value, **facts))
        log.close("KILLED", study.trials())
        times = [each.began for each in study.trials()]
    live = runs()
    assert set(live) == {"smoke", "trial 0", "trial 1", "trial 2"}
    figures = live["trial 0"]["metrics"]
    assert 0 < figures["test_auc_low"] < 0.6 < figures["test_auc_high"] <= 1
    assert "test_auc_low" not in live["trial 1"]["metrics"]
    for _ in range(2):
        assert track(folder, another, rebuild=True, ledger=ledger) == ["smoke"]
        assert read(another, folder) == live
    client = projection(another, folder)._client
    begun = {run.info.run_name: run.info.start_time for run in client.search_runs(["1"])}
    assert [begun[f"trial {number}"] for number in range(3)] == times

    # A server that has lost some: a run, and points of another one.
    trials = {run.info.run_name: run.info.run_id for run in client.search_runs(["1"])}
    client.delete_run(trials["trial 1"])
    assert track(folder, another, rebuild=True, ledger=ledger) == ["smoke"]
    assert read(another, folder) == live


@pytest.mark.integration
def test_mlflow_on_postgres(tracking_database: str, folder: Path, runs: Any) -> None:
    for uri in (tracking_database, default_uri(folder)):
        store = folder / uri[:6]
        done = record(0, "complete", 0.6, **FACTS)
        log = tracker(store, uri=uri)
        tell(log, 0, 0.5, 0.6)
        log.ended(done)
        log.close("FINISHED", [done])
        (store.root / "outbox" / "5eed" / "state.json").unlink()
        tracker(store, uri=uri).close("FINISHED", [done])
    assert read(tracking_database, folder) == runs()


# ----------------------------------------------------------------------------------------- the rest


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_address_is_the_environments_or_a_file_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_uri(Path("/s")) == "sqlite:////s/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert default_uri(Path("/s")) == "http://127.0.0.1:5000"


# -------------------------------------------------------------------------------------------- tables


def written(store: Path, rows: list[dict[str, Any]], seeds: int = 2, when: int = 10) -> dict[str, Any]:
    """A table that has run: the files that `run_table` leaves."""
    facts = {
        "kind": "table",
        "name": "t",
        "title": "III",
        "baseline": "none",
        "data": {"name": "phantom", "cache": "c0ffee", "splits": "5", "folds": 2, "pairs": 9, "patients": 8},
        "detectable": 0.1,
        "rows": rows,
        "run": {
            "code": "c0de",
            "git_commit": "unknown",
            "mode": "frozen",
            "seeds": list(range(seeds)),
            "when": f"2030-01-01T00:00:{when}+0000",
            "wall_seconds": 5.0,
        },
    }
    folder = store.root / "reports" / "t"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "declaration.json").write_text("{}")
    (folder / "facts.json").write_text(json.dumps(facts))
    return facts


def row(name: str, why: str | None = None, seeds: int = 2, **more: Any) -> dict[str, Any]:
    config = CONFIG.edit(alpha=0.25).model_dump(mode="json")
    told = {"name": name, "published": {"a": 0.885}, "complete": why is None, "why": why, "config": config}
    if why is None:
        aucs = [[0.5, 0.7], [0.6, 0.9]][:seeds]
        interval = {"estimate": 0.675, "low": 0.55, "high": 0.8}
        told |= {"seconds": 8.0, "fold_auc": aucs, "val_auc": aucs, "auc": interval, "difference": None}
    return told | more


BASE = row("none")
GAP = {"estimate": 0.1, "low": -0.02, "high": 0.2, "p_value": 0.1}
BEST = row("adain | gan", difference=GAP, p_adjusted=0.2, words="not distinguishable")


def told_of(store: Path, rows: list[dict[str, Any]], uri: str | None = None, **more: Any) -> list[str]:
    said: list[str] = []
    facts = written(store, rows, **more)
    tables.track_table(facts, store=store, uri=uri or default_uri(store), say=said.append)
    return said


def test_a_table_is_a_parent_and_each_row_a_child(folder: Path, runs: Any) -> None:
    assert told_of(folder, [BASE, BEST, row("crashed", "1 of 4 units are missing: a bug")]) == []
    there = runs()
    assert {name: run["status"] for name, run in there.items()} == {
        "t": "FAILED",
        "none": "FINISHED",
        "adain | gan": "FINISHED",
        "crashed": "FAILED",
    }
    best = there["adain | gan"]
    assert best["params"]["alpha"] == "0.25"
    assert best["metrics"] == {
        "best_val_auc": 0.675,
        "test_auc": 0.675,
        "test_auc_low": 0.55,
        "test_auc_high": 0.8,
        "fold_0/test_auc": 0.55,
        "fold_1/test_auc": pytest.approx(0.8),
        "seconds": 8.0,
        "difference": 0.1,
        "difference_low": -0.02,
        "difference_high": 0.2,
        "p_adjusted": 0.2,
    }
    assert best["tags"]["published.a"] == "0.885"
    assert best["tags"]["cgn.words"] == "not distinguishable"
    assert best["tags"]["cgn.row"] == "t/1"
    assert best["tags"]["fingerprint"] == CONFIG.edit(alpha=0.25).fingerprint()
    assert (best["tags"]["cache"], best["tags"]["code"], best["tags"]["seeds"]) == ("c0ffee", "c0de", "2")
    crashed = there["crashed"]
    assert crashed["metrics"] == {}
    assert crashed["tags"]["cgn.state"] == "INCOMPLETE"
    assert crashed["tags"]["mlflow.note.content"] == "INCOMPLETE: 1 of 4 units are missing: a bug"
    assert there["t"]["metrics"] == {"detectable": 0.1}
    assert there["t"]["tags"]["cgn.state"] == "1 of 3 rows are INCOMPLETE"
    note = there["t"]["tags"]["mlflow.note.content"]
    assert "| adain / gan | 0.675 [0.550, 0.800] | +0.100 [-0.020, +0.200] | not distinguishable |" in note
    assert "| crashed | INCOMPLETE |  | 1 of 4 units are missing: a bug |" in note
    assert "| none | 0.675 [0.550, 0.800] |  | the baseline |" in note
    assert "cgn report t" in note


def test_the_same_table_again_changes_nothing_and_new_figures_are_new_points(folder: Path, runs: Any) -> None:
    told_of(folder, [BASE, BEST], seeds=1)
    before, ids = runs(), run_ids(folder)
    told_of(folder, [BASE, BEST], seeds=1, when=30)
    assert runs() == before
    better = {**BEST, "fold_auc": [[0.7, 0.7]], "auc": {"estimate": 0.7, "low": 0.6, "high": 0.8}}
    told_of(folder, [BASE, better], when=40)
    assert run_ids(folder) == ids
    client = projection(default_uri(folder), folder)._client
    points = client.get_metric_history(ids["adain | gan"], "test_auc")
    assert [point.value for point in points] == [0.675, 0.7]
    assert client.get_run(ids["adain | gan"]).data.metrics["test_auc"] == 0.7  # the last that was told
    assert client.get_run(ids["none"]).data.tags["seeds"] == "2"


def run_ids(store: Path) -> dict[str, str]:
    client = projection(default_uri(store), store)._client
    return {run.info.run_name: run.info.run_id for run in client.search_runs(["1"])}


def test_a_row_that_misses_a_unit_now_shows_no_mean_of_before(folder: Path, runs: Any) -> None:
    told_of(folder, [BASE, BEST])
    ids = run_ids(folder)
    told_of(folder, [BASE, row("adain | gan", "2 of 6 units are missing: not trained yet")], seeds=3, when=20)
    assert runs()["adain | gan"]["metrics"] == {}
    assert run_ids(folder)["none"] == ids["none"]
    told_of(folder, [BASE, BEST], when=30)
    there = runs()["adain | gan"]
    assert (there["status"], there["tags"]["cgn.reason"]) == ("FINISHED", "")
    assert there["metrics"]["test_auc"] == 0.675


def test_a_server_that_was_away_gets_tables_and_an_empty_one_too(
    folder: Path, another: str, runs: Any
) -> None:
    (away,) = told_of(folder, [BASE, BEST], uri="http://127.0.0.1:9")
    assert away.startswith("MLflow cannot be written (")
    assert "'cgn track --store" in away
    for _ in range(2):
        assert track(folder, default_uri(folder)) == ["t"]
        assert track(folder, another, rebuild=True, name="t") == ["t"]
    assert read(another, folder) == runs()
    assert set(runs()) == {"t", "none", "adain | gan"}
    (folder / "reports" / "t" / "declaration.json").write_text("another one")
    said: list[str] = []
    assert track(folder, another, say=said.append) == []
    assert said == ["left out: t has no facts any more, or stands for another table now"]


def test_the_report_is_an_artifact_of_the_parent_once(folder: Path, runs: Any) -> None:
    told_of(folder, [BASE, BEST])
    page = folder / "reports" / "t" / "report.html"
    page.write_text("first")
    kept = lambda: [path.read_text() for path in (folder / "mlartifacts").rglob("report.html")]  # noqa: E731
    for text in ("first", "first", "second"):
        page.write_text(text)
        assert track(folder, default_uri(folder), name="t") == ["t"]
        assert kept() == [text]
    assert "`report.html` among the artifacts" in runs()["t"]["tags"]["mlflow.note.content"]


def test_cgn_report_gives_its_page_to_mlflow_or_says_that_it_waits(
    folder: Path, runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = folder / "reports" / "t" / "report.html"

    def write(*_: Any) -> Path:
        page.write_text("the page")
        return page

    monkeypatch.setattr("cgn_platform.report.page.write_report", write)
    page.parent.mkdir(parents=True)
    asked = ["report", "t", "--store", str(folder)]
    untracked = CliRunner().invoke(app, asked)
    assert (untracked.exit_code, untracked.stderr) == (0, "")
    page.unlink()
    told_of(folder, [BASE, BEST])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    away = CliRunner().invoke(app, asked)
    assert (away.exit_code, away.stdout) == (0, f"{page}\n")
    assert away.stderr.startswith("the page is not in MLflow yet, 'cgn track' sends it: MLflow cannot be")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "cgn.report" not in runs()["t"]["tags"]
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert "cgn.report" in runs()["t"]["tags"]


def test_a_sweep_says_its_best_trials_and_shows_the_columns_people_compare_by(
    folder: Path, runs: Any
) -> None:
    known = [
        replace(record(n, "complete", 0.6 + n / 100, **FACTS), params={"alpha": n / 10}) for n in range(7)
    ]
    log = tracker(folder, records=known, parent=replace(PARENT, folds=2))
    log.close("FINISHED", known)
    note = runs()["smoke"]["tags"]["mlflow.note.content"]
    lines = [line for line in note.splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 6", "| 5", "| 4", "| 3", "| 2"]
    assert lines[2] == "| 6 | 0.660 | 0.650 | - | alpha 0.6 |"
    assert "7 complete, 0 pruned, 0 failed" in note
    client = projection(default_uri(folder), folder)._client
    tags = client.get_experiment("1").tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    view = json.loads(tags["mlflow.sharedViewState.5eed"])
    assert view["orderByKey"] == "metrics.`best_val_auc`"
    assert {"metrics.`fold_1/test_auc`", "metrics.`test_auc_low`", "params.`alpha`"} <= set(
        view["selectedColumns"]
    )
    page = links.page_of(folder, "smoke")
    assert page == "#/experiments/1/runs?viewStateShareKey=5eed&workflowType=machine_learning"
    assert page in note
    assert links.page_of(folder, "never tracked") == links.PAGE


def test_a_description_that_somebody_edited_is_theirs(folder: Path, runs: Any) -> None:
    told_of(folder, [BASE])
    client = projection(default_uri(folder), folder)._client
    client.set_tag(run_ids(folder)["t"], "mlflow.note.content", "look at row 3")
    told_of(folder, [BASE, BEST], when=20)
    assert runs()["t"]["tags"]["mlflow.note.content"] == "look at row 3"


def test_people_who_chose_another_kind_of_experiment_keep_it(folder: Path) -> None:
    tracker(folder).close("FINISHED", [])
    client = projection(default_uri(folder), folder)._client
    client.set_experiment_tag("1", "mlflow.experimentKind", "finetuning")
    tracker(folder).close("FINISHED", [])
    assert client.get_experiment("1").tags["mlflow.experimentKind"] == "finetuning"
