"""What a held storage remembers is what the database holds."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage

from cgn_platform.search.storage import HeldStorage
from cgn_platform.search.study import open_study
from cgn_platform.space import Prune, Space


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'studies.db'}"


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[optuna.Study]:
    """The study as somebody else sees it now."""
    storage = RDBStorage(url(folder))
    yield optuna.load_study(study_name="s", storage=storage)
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[optuna.Study]:
    behind = RDBStorage(url(tmp_path))
    yield optuna.create_study(study_name="s", storage=HeldStorage(behind), direction="maximize")
    behind.remove_session()
    behind.engine.dispose()


def search(study: optuna.Study, trials: int) -> None:
    """All that a trial can be told, and all ways in which it ends; the last one runs."""
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


def test_memory_and_database_tell_the_same(held: optuna.Study, tmp_path: Path) -> None:
    held.enqueue_trial({"alpha": 0.25}, user_attrs={"retry_of": 7})
    search(held, 14)
    held.enqueue_trial({"alpha": 0.75})
    with reading(tmp_path) as other:
        assert held.get_trials() == other.get_trials()
        for state in optuna.trial.TrialState:
            assert held.get_trials(states=(state,)) == other.get_trials(states=(state,))
        assert held.best_trial == other.best_trial
    assert len(held.get_trials()) == 15


def test_a_storage_that_is_opened_again_begins_with_what_stands(held: optuna.Study, tmp_path: Path) -> None:
    search(held, 5)
    again = optuna.load_study(study_name="s", storage=HeldStorage(RDBStorage(url(tmp_path))))
    assert again.get_trials() == held.get_trials()


def test_what_was_given_out_stays_as_it_was(held: optuna.Study) -> None:
    trial = held.ask()
    (before,) = held.get_trials(deepcopy=False)
    trial.report(0.5, 0)
    trial.set_user_attr("a", 1)
    assert (before.intermediate_values, before.user_attrs) == ({}, {})
    (after,) = held.get_trials(deepcopy=False)
    assert (after.intermediate_values, after.user_attrs) == ({0: 0.5}, {"a": 1})


def test_what_the_database_refuses_is_not_remembered(
    held: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = held.ask()

    def fails(*_: Any) -> None:
        raise optuna.exceptions.StorageInternalError

    monkeypatch.setattr(RDBStorage, "set_trial_intermediate_value", fails)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        trial.report(0.5, 0)
    assert held.get_trials()[0].intermediate_values == {}


def test_a_decision_reads_nothing_from_the_database(
    space: Space, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would read all running trials, each time: most of what a driver did for an epoch."""
    space = dataclasses.replace(space, trials=8, prune=Prune("median", startup_trials=2, warmup_epochs=1))
    with open_study("s", space, store=store, identity={}) as study:
        asked = [study.ask() for _ in range(4)]
        reads: list[str] = []
        for name in ("get_all_trials", "_get_trials"):
            monkeypatch.setattr(RDBStorage, name, lambda *_, **__: reads.append("all"))
        for epoch in range(3):
            for trial in asked:
                study.report(trial.number, epoch, 0.5 + 0.01 * trial.number)
                study.should_prune(trial.number)
        study.tell(asked[0].number, "complete", 0.5)
        study.ask()
        assert reads == []


def test_threads_take_turns(held: optuna.Study) -> None:
    """House A7: Optuna asks every storage to be thread-safe."""
    trials = [held.ask() for _ in range(4)]
    failures: list[Exception] = []

    def report(trial: optuna.Trial) -> None:
        try:
            for epoch in range(25):
                trial.report(epoch / 25, epoch)
                held.get_trials(deepcopy=True)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=report, args=(trial,)) for trial in trials]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [len(trial.intermediate_values) for trial in held.get_trials()] == [25] * 4


def test_every_public_method_holds_the_lock() -> None:
    public = {name for name in vars(HeldStorage) if not name.startswith("_")}
    assert {name for name in public if not hasattr(getattr(HeldStorage, name), "__wrapped__")} == set()
