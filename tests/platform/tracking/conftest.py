"""A store with an empty MLflow, a sweep to track, and everything that people see of it."""

import runpy
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cgn.config import Config
from cgn.errors import LedgerError
from cgn.results import EpochReport
from cgn_platform.search.records import EpochUpdate, State, StudyInfo, TrialRecord, TrialSpec
from cgn_platform.store.layout import Store
from cgn_platform.tracking import tracker as tracker_module
from cgn_platform.tracking.events import RunInfo
from cgn_platform.tracking.mlflow_client import connect, default_uri
from cgn_platform.tracking.tracker import Tracker
from cgn_platform.tracking.writer import MLflowWriter

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
TAGS, PARAMS = {"cache": "c0ffee"}, {"alpha": "[0, 1]"}
INFO = RunInfo("phantom", "smoke", "5eed", TAGS, PARAMS)
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing answers

Runs = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_module, "RETRY_SECONDS", (0.1, 0.5))
    monkeypatch.setattr(tracker_module, "PULSE_SECONDS", 0.05)
    for name in ("MLFLOW_TRACKING_URI", "CGN_STUDY_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tracked(empty_database: Path, tmp_path: Path) -> Store:
    """A store with an empty MLflow."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return Store(tmp_path)


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
    script = Path(__file__).parents[1] / "mlflow_server.py"
    server = runpy.run_path(str(script))["Server"](tmp_path / "server")
    yield server
    server.kill()


@pytest.fixture
def runs(tracked: Store) -> Callable[[], Runs]:
    """Reads the store's own MLflow."""
    return lambda: read_runs(default_uri(tracked))


def read_runs(uri: str) -> Runs:
    """All that people see of an MLflow, by the runs' names; two runs of a name, or points of a step, fail."""
    _, client = connect(uri)
    runs: Runs = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id], max_results=1000):
            history = {}
            for name in run.data.metrics:
                points = [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, name)]
                assert len({at for at, _ in points}) == len(points), (run.info.run_name, name, points)
                history[name] = sorted(points)
            assert run.info.run_name not in runs
            tags = {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId"}
            if parent := run.data.tags.get("mlflow.parentRunId"):  # servers differ in their ids
                tags = {k: v.replace(parent, "PARENT") for k, v in tags.items()}
            runs[run.info.run_name] = {
                "status": run.info.status,
                "params": run.data.params,
                "tags": tags,
                "metrics": run.data.metrics,
                "history": history,
            }
    return runs


def run_ids(uri: str) -> dict[str, str]:
    """Ids of the runs of the first experiment, by name."""
    _, client = connect(uri)
    return {run.info.run_name: run.info.run_id for run in client.search_runs(["1"])}


def make_writer(uri: str, store: Store, info: RunInfo = INFO) -> MLflowWriter:
    return MLflowWriter(uri, info, artifacts=store.mlflow_artifacts, on_refusal=print)


def begin(
    store: Store,
    records: Any = (),
    problems: list[str] | None = None,
    uri: str | None = None,
    ledger: Any = None,
    **info: Any,
) -> Tracker:
    """A tracker of the study `smoke`, begun."""
    lines = problems if problems is not None else []
    tracker = Tracker(store, uri or default_uri(store), ledger=ledger, on_problem=lines.append)
    facts = {"id": "5eed", "folds": 0, **info}
    study = StudyInfo(
        "smoke", trials=8, records=records, dataset="phantom", tags=TAGS, params=PARAMS, **facts
    )
    tracker.begin(study)
    return tracker


def play(tracker: Tracker, number: int, *values: float) -> None:
    """A trial starts and has these epochs."""
    tracker.started(TrialSpec(number, CONFIG, {}))
    for epoch, value in enumerate(values):
        tracker.epoch(number, update(epoch, value))


def record(number: int, state: State, value: float | None = None, **facts: Any) -> TrialRecord:
    return TrialRecord(number, state, value, {}, {0: 0.5, 1: 0.6}, CONFIG, facts)


def update(epoch: int, value: float) -> EpochUpdate:
    return EpochUpdate(epoch, value, {0: value, 1: value + 0.1}, {"l_cls": 0.3})


def steps(*values: float) -> list[dict[str, Any]]:
    """What the study stores of the epochs of `play`."""
    names = ("epoch", "val_auc", "folds", "losses", "seconds")
    updates = [update(epoch, value) for epoch, value in enumerate(values)]
    return [{name: getattr(each, name) for name in names} for each in updates]


class Disk(sqlite3.Connection):
    """A database of an outbox, on a disk that is full while `full` is set."""

    full = False

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if Disk.full and statement.startswith(("INSERT", "UPDATE", "DELETE")):
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return super().execute(statement, *values)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> type[Disk]:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, factory=Disk, **more))
    monkeypatch.setattr(Disk, "full", False)
    return Disk


class Units:
    """Stands in for the ledger: two folds of two epochs, and a damaged unit."""

    def find(self, unit: str) -> Any:
        return None if unit == "damaged" else self.open(unit)

    def open(self, unit: str) -> Any:
        if unit == "damaged":
            raise LedgerError("damaged")
        fold = int(unit)
        scores = np.zeros(0)
        reports = [
            EpochReport(fold, epoch, value + fold / 10, {"l_cls": 0.3}, 1.0, scores)
            for epoch, value in enumerate((0.5, 0.6))
        ]
        rows = [
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
            id=unit, reports=tuple(reports), predictions=pa.Table.from_pylist(rows), identity=identity
        )


def forget_acknowledgements(store: Store, send: Callable[[], object]) -> None:
    """Send an outbox, then put it back as it was before: a power cut took the acknowledgement."""
    outbox = store.outbox("5eed")
    copy = outbox.with_name("copy")
    shutil.copytree(outbox, copy)
    send()
    shutil.rmtree(outbox)
    copy.replace(outbox)


@pytest.fixture(scope="session")
def sweep() -> SimpleNamespace:
    """A small sweep and the functions around it, since test modules cannot import one another."""
    return SimpleNamespace(
        CONFIG=CONFIG,
        FACTS=FACTS,
        INFO=INFO,
        NOWHERE=NOWHERE,
        Units=Units,
        begin=begin,
        forget_acknowledgements=forget_acknowledgements,
        make_writer=make_writer,
        play=play,
        read_runs=read_runs,
        record=record,
        run_ids=run_ids,
        steps=steps,
        update=update,
    )
