import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgn.config import Config
from cgn_platform.study import Asked, State, TrialRecord
from cgn_platform.tracking import Projection, Tracker, code_version, default_uri
from cgn_platform.worker import Step

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


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Making MLflow's tables takes seconds: once for all tests."""
    folder = tmp_path_factory.mktemp("mlflow")
    projection(folder)
    return folder / "mlflow.db"


@pytest.fixture
def folder(empty_database: Path, tmp_path: Path) -> Path:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return tmp_path


def projection(folder: Path) -> Projection:
    return Projection(
        f"sqlite:///{folder / 'mlflow.db'}", experiment="phantom", study="smoke", study_id="5eed"
    )


def tracker(folder: Path, records: Any = (), problems: list[str] | None = None) -> Tracker:
    return Tracker(
        lambda: projection(folder),
        records=records,
        tags={"cache": "c0ffee"},
        params={"alpha": "[0, 1]"},
        on_problem=(problems if problems is not None else []).append,
    )


def record(number: int, state: State, value: float | None = None, **facts: Any) -> TrialRecord:
    return TrialRecord(number, state, value, {}, {0: 0.5, 1: 0.6}, CONFIG, facts)


def step(epoch: int, value: float) -> Step:
    return Step(epoch, value, {0: value, 1: value + 0.1}, {"l_cls": 0.3})


@pytest.fixture
def runs(folder: Path) -> Callable[[], dict[str, Any]]:
    """All runs of the experiment by name; two of one name fail."""

    def read() -> dict[str, Any]:
        client = projection(folder)._client
        experiment = client.get_experiment_by_name("phantom")
        found = client.search_runs([experiment.experiment_id], max_results=1000)
        names = [run.info.run_name for run in found]
        assert len(set(names)) == len(names)
        return {run.info.run_name: run for run in found}

    return read


def test_a_sweep_is_a_parent_and_each_trial_a_child(folder: Path, runs: Any) -> None:
    problems: list[str] = []
    log = tracker(folder, problems=problems)
    for number in range(3):
        log.started(Asked(number, CONFIG, {}))
        log.epoch(number, step(0, 0.5))
    log.epoch(0, step(1, 0.6))
    log.ended(record(0, "complete", 0.7, **FACTS))
    log.ended(record(1, "pruned", reason="median pruner"))
    log.ended(record(2, "failed", reason="DivergedError: nan"))
    log.close("FINISHED", {"best_val_auc": 0.7})
    assert problems == []
    there = runs()
    assert {name: run.info.status for name, run in there.items()} == {
        "smoke": "FINISHED",
        "trial 0": "FINISHED",
        "trial 1": "KILLED",
        "trial 2": "FAILED",
    }
    best = there["trial 0"].data
    assert best.params["alpha"] == "0.5"
    assert best.params["bilateral"] == "adain_gan"
    assert best.tags["fingerprint"] == CONFIG.fingerprint()
    assert best.tags["cache"] == "c0ffee"
    assert best.tags["cgn.trial"] == "smoke/0"
    assert best.tags["mlflow.parentRunId"] == there["smoke"].info.run_id
    assert best.metrics["val_auc"] == 0.6
    assert best.metrics["fold_1/val_auc"] == pytest.approx(0.7)
    assert best.metrics["fold_1/test_auc"] == pytest.approx(0.7)
    assert best.metrics["fold_1/localization_error"] == 0.5
    assert "fold_0/localization_error" not in best.metrics  # it was no number
    assert best.metrics["l_cls"] == 0.3
    assert there["trial 1"].data.tags["cgn.reason"] == "median pruner"
    assert there["smoke"].data.metrics["best_val_auc"] == 0.7


def test_a_resume_finds_its_runs_and_closes_those_of_the_dead_driver(folder: Path, runs: Any) -> None:
    dead = projection(folder)
    dead.open({"time": 1, "tags": {}}, ())
    for number in range(3):
        dead.apply({"kind": "started", "trial": number, "time": 1, "params": {}, "tags": {}})
        dead.apply({"kind": "epoch", "trial": number, "epoch": 0, "time": 1, "metrics": {"val_auc": 0.5}})
    dead.flush()
    # The study knows more: trial 0 ended, 1 is an orphan, 2 too, and 3 was never told to MLflow.
    known = [
        record(0, "complete", 0.6, **FACTS),
        record(1, "orphan", reason="orphan"),
        record(2, "orphan", reason="orphan"),
        record(3, "pruned", reason="median pruner"),
    ]
    for _ in range(2):  # again and again
        log = tracker(folder, records=known)
        log.close("FINISHED", {"best_val_auc": 0.6})
        there = runs()
        assert {name: run.info.status for name, run in there.items()} == {
            "smoke": "FINISHED",
            "trial 0": "FINISHED",
            "trial 1": "KILLED",
            "trial 2": "KILLED",
            "trial 3": "KILLED",
        }
        client = projection(folder)._client
        for name, run in there.items():
            if name != "smoke":
                history = client.get_metric_history(run.info.run_id, "val_auc")
                assert [point.step for point in history] == [0, 1]
    assert there["trial 0"].data.metrics["test_auc"] == 0.65
    assert there["trial 1"].data.tags["cgn.reason"] == "orphan"


def test_a_trial_left_running_ends_with_the_sweep(folder: Path, runs: Any) -> None:
    log = tracker(folder)
    log.started(Asked(0, CONFIG, {}))
    log.close("KILLED", {})
    assert {run.info.status for run in runs().values()} == {"KILLED"}


def test_a_server_that_is_away_costs_the_sweep_nothing_and_is_said_once(tmp_path: Path) -> None:
    problems: list[str] = []

    def away() -> Projection:
        raise ConnectionError("connection refused")

    log = Tracker(away, on_problem=problems.append)
    begin = time.monotonic()
    for epoch in range(100):
        log.epoch(0, step(epoch, 0.5))
    assert time.monotonic() - begin < 0.1
    log.close("FINISHED", {})
    assert problems == [
        "MLflow cannot be written (connection refused): the sweep goes on without it",
        "MLflow: 102 events were not written; the study holds the results",
    ]


def test_the_address_is_the_environments_or_a_file_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert default_uri(Path("/s")) == "sqlite:////s/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert default_uri(Path("/s")) == "http://127.0.0.1:5000"


def test_code_without_a_repository_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cgn.__file__", str(tmp_path / "__init__.py"))
    assert code_version() == "unknown"
