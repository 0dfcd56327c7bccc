"""The cached trials equal those in the database."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage

from cgn_platform.search.storage import WriteThroughStorage
from cgn_platform.search.study import open_study
from cgn_platform.space import Prune, Space
from cgn_platform.store.layout import Store


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[optuna.Study]:
    """The study as another process reads it."""
    storage = RDBStorage(url(folder))
    yield optuna.load_study(study_name="s", storage=storage)
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def study(tmp_path: Path) -> Iterator[optuna.Study]:
    backend = RDBStorage(url(tmp_path))
    yield optuna.create_study(study_name="s", storage=WriteThroughStorage(backend), direction="maximize")
    backend.remove_session()
    backend.engine.dispose()


def search(study: optuna.Study, trials: int) -> None:
    """Everything that can be written to a trial, and every end; the last trial keeps running."""
    for number in range(trials):
        trial = study.ask()
        trial.suggest_float("alpha", 0, 1)
        trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        trial.suggest_categorical("backbone", ["alexnet", "resnet18"])
        trial.set_user_attr("facts", {"folds": [0.5, number], "reason": None})
        for epoch in range(3):
            trial.report(0.5 + epoch / 10, epoch)
        if number == trials - 1:
            return
        ends = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL
        state = ends[number % 3]
        study.tell(trial, 0.7 if state is ends[0] else None, state=state)


def test_cache_and_database_are_equal(study: optuna.Study, tmp_path: Path) -> None:
    study.enqueue_trial({"alpha": 0.25}, user_attrs={"retry_of": 7})
    search(study, 14)
    study.enqueue_trial({"alpha": 0.75})
    with reading(tmp_path) as other:
        assert study.get_trials() == other.get_trials()
        for state in optuna.trial.TrialState:
            assert study.get_trials(states=(state,)) == other.get_trials(states=(state,))
        assert study.best_trial == other.best_trial
    assert len(study.get_trials()) == 15


def test_a_new_cache_starts_with_the_stored_trials(study: optuna.Study, tmp_path: Path) -> None:
    search(study, 5)
    backend = RDBStorage(url(tmp_path))
    resumed = optuna.load_study(study_name="s", storage=WriteThroughStorage(backend))
    assert resumed.get_trials() == study.get_trials()
    backend.remove_session()
    backend.engine.dispose()


def test_returned_trials_are_not_modified_by_later_writes(study: optuna.Study) -> None:
    trial = study.ask()
    (before,) = study.get_trials(deepcopy=False)
    trial.report(0.5, 0)
    trial.set_user_attr("a", 1)
    assert (before.intermediate_values, before.user_attrs) == ({}, {})
    (after,) = study.get_trials(deepcopy=False)
    assert (after.intermediate_values, after.user_attrs) == ({0: 0.5}, {"a": 1})


def test_what_the_database_refuses_is_not_cached(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = study.ask()

    def fails(*_: Any) -> None:
        raise optuna.exceptions.StorageInternalError

    monkeypatch.setattr(RDBStorage, "set_trial_intermediate_value", fails)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        trial.report(0.5, 0)
    assert study.get_trials()[0].intermediate_values == {}


def test_a_decision_reads_nothing_from_the_database(
    space: Space, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna would read all running trials each time, most of a driver's work for an epoch."""
    space = dataclasses.replace(space, trials=8, prune=Prune("median", startup_trials=2, warmup_epochs=1))
    with open_study("s", space, store=store, identity={}) as study:
        trials = [trial for _ in range(4) if (trial := study.ask()) is not None]
        reads: list[str] = []
        for name in ("get_all_trials", "_get_trials"):
            monkeypatch.setattr(RDBStorage, name, lambda *_, **__: reads.append("all"))
        for epoch in range(3):
            for trial in trials:
                study.report(trial.number, epoch, 0.5 + 0.01 * trial.number)
                study.should_prune(trial.number)
        study.tell(trials[0].number, "complete", 0.5)
        study.ask()
        assert reads == []


def test_threads_may_write_at_once(study: optuna.Study) -> None:
    """Optuna asks every storage to be thread-safe."""
    trials = [study.ask() for _ in range(4)]
    failures: list[Exception] = []

    def report(trial: optuna.Trial) -> None:
        try:
            for epoch in range(25):
                trial.report(epoch / 25, epoch)
                study.get_trials(deepcopy=True)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=report, args=(trial,)) for trial in trials]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [len(trial.intermediate_values) for trial in study.get_trials()] == [25] * 4


def test_every_public_method_holds_the_lock() -> None:
    public = {name for name in vars(WriteThroughStorage) if not name.startswith("_")}
    assert {
        name for name in public if not hasattr(getattr(WriteThroughStorage, name), "__wrapped__")
    } == set()
