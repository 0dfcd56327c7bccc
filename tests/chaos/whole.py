"""What must hold after each scene."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cgn_platform.search.records import ENDED, TrialRecord
from cgn_platform.search.study import read_trials
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import DATA, FACTS, Ledger

FILES = (*DATA, FACTS)
STATUS = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED", "orphan": "KILLED"}


def finished_files(units: Path) -> dict[Path, bytes]:
    """The files of all units that are finished."""
    folders = [path.parent for path in units.glob(f"*/{FACTS}")]
    return {folder / name: (folder / name).read_bytes() for folder in folders for name in FILES}


def records_of(store: Store) -> list[TrialRecord]:
    """The trials of the one study in this store."""
    (outbox,) = store.outboxes()
    return read_trials("s", outbox.name, f"sqlite:///{store.studies}") or []


def assert_whole(
    store: Store,
    trials: int,
    *,
    units: Path | None = None,
    uri: str | None = None,
    finished: Mapping[Path, bytes] | None = None,
    experiment: str = "squares",
    folds: int = 3,
) -> list[TrialRecord]:
    """The sweep is finished, the ledger is whole, and MLflow shows what study and ledger hold.

    Args:
        store: the study's; its outbox was delivered.
        trials: number of trials of the sweep.
        units: the ledger; the store's if None.
        uri: of MLflow; the store's database if None.
        finished: contents of units that were finished before the disturbance.
        experiment: name of the data set.
        folds: number of folds per trial.

    Returns:
        All trials.
    """
    units = units or store.units
    records = records_of(store)
    assert_study(records, trials)
    curves = assert_ledger(units, records, folds)
    for path, content in (finished or {}).items():
        assert path.read_bytes() == content, f"{path} changed after it was finished"
    assert_mlflow(uri or f"sqlite:///{store.mlflow_database}", experiment, records, curves)
    return records


def assert_study(records: list[TrialRecord], trials: int) -> None:
    """All trials ended; an orphan was queued again once; incomplete trials have no score."""
    assert sum(record.state in ENDED for record in records) == trials, records
    orphans = [record.number for record in records if record.state not in ENDED]
    assert {record.state for record in records} <= {*ENDED, "orphan"}
    again = [record.facts["retry_of"] for record in records if "retry_of" in record.facts]
    assert sorted(again) == orphans
    for record in records:
        assert (record.value is None) == (record.state != "complete"), record
        assert list(record.curve) == list(range(len(record.curve)))


def assert_ledger(units: Path, records: list[TrialRecord], folds: int) -> dict[int, list[list[float]]]:
    """All units are whole, and none is missing. Returns the validation AUC by trial, fold and epoch."""
    ledger = Ledger(units, warn=pytest.fail)
    stored = {name: ledger.open(name) for name in ledger.names()}
    identities = [unit.identity for unit in stored.values()]
    assert [identity.id for identity in identities] == list(stored)
    assert not any(one == other for at, one in enumerate(identities) for other in identities[:at])
    curves: dict[int, list[list[float]]] = {}
    for record in records:
        if record.state != "complete":
            assert "units" not in record.facts
            continue
        parts = [stored[name] for name in record.facts["units"]]
        assert record.config is not None
        assert [unit.identity.fold for unit in parts] == list(range(folds))
        config = record.config.model_dump(mode="json").items()
        assert all(unit.identity.config.items() <= config for unit in parts)
        results = [unit.facts["result"] for unit in parts]
        assert statistics.fmean(r["val_auc"] for r in results) == pytest.approx(record.value)
        assert statistics.fmean(r["test_auc"] for r in results) == pytest.approx(record.facts["test_auc"])
        curves[record.number] = [[report.val_auc for report in unit.reports] for unit in parts]
        means = [statistics.fmean(epoch) for epoch in zip(*curves[record.number], strict=True)]
        assert list(record.curve.values()) == pytest.approx(means)
        assert len(means) == record.config.epochs
    files = [path for path in units.rglob("*") if path.is_file()]
    assert {path.parent.name for path in files if path.parent != units} == set(stored), "checkpoints are left"
    assert sorted(path.name for path in files if path.parent != units) == sorted(len(stored) * FILES)
    return curves


def assert_mlflow(
    uri: str, experiment: str, records: list[TrialRecord], curves: Mapping[int, list[list[float]]]
) -> None:
    """One parent run, one run per trial, each point once."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    shown = client.get_experiment_by_name(experiment)
    runs = client.search_runs([shown.experiment_id], max_results=1000)
    assert [(run.info.run_name, run.data.tags) for run in runs if run.info.status == "RUNNING"] == []
    assert sorted(run.info.run_name for run in runs) == sorted(["s", *(f"trial {r.number}" for r in records)])
    by_name: dict[str, Any] = {run.info.run_name: run for run in runs}
    assert by_name["s"].info.status == "FINISHED"

    def history(run: Any, name: str) -> list[tuple[int, float]]:
        history = client.get_metric_history(run.info.run_id, name)
        return sorted((point.step, point.value) for point in history)

    def points(values: Any) -> list[tuple[int, Any]]:
        return [(epoch, pytest.approx(value)) for epoch, value in enumerate(values)]

    for record in records:
        run = by_name[f"trial {record.number}"]
        assert run.info.status == STATUS[record.state], record
        assert run.data.tags["mlflow.parentRunId"] == by_name["s"].info.run_id
        assert history(run, "val_auc") == points(record.curve.values())
        for fold, curve in enumerate(curves.get(record.number, ())):
            assert history(run, f"fold_{fold}/val_auc") == points(curve)
        if record.state == "complete":
            assert run.data.metrics["best_val_auc"] == pytest.approx(record.value)
            assert run.data.metrics["test_auc"] == pytest.approx(record.facts["test_auc"])
        else:
            assert "test_auc" not in run.data.metrics
