"""A study: its queue, what resumes it, what is refused."""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from cgn.ablation import Triplet
from cgn.config import Config
from cgn.errors import ConfigError, StudyError
from cgn_platform.search.records import TrialRecord, TrialSpec
from cgn_platform.search.study import Study, importances, open_study, read_study, read_trials
from cgn_platform.search.summary import IMPORTANCE_TRIALS
from cgn_platform.space import Choice, Float, Space
from cgn_platform.store.databases import study_url
from cgn_platform.store.layout import Store

IDENTITY = {"cache": "c0ffee", "splits": "f00d"}


def opened(space: Space, store: Store, name: str = "s", **identity: str) -> Study:
    return open_study(name, space, store=store, identity={**IDENTITY, **identity})


def ask(study: Study) -> TrialSpec:
    trial = study.ask()
    assert trial is not None
    return trial


def run(study: Study, n: int = 99) -> list[TrialSpec]:
    """Complete up to `n` trials, with alpha as their value."""
    trials: list[TrialSpec] = []
    while len(trials) < n and (trial := study.ask()) is not None:
        study.tell(trial.number, "complete", trial.config.alpha)
        trials.append(trial)
    return trials


def stored(store: Store, name: str = "s") -> optuna.Study:
    """The study as Optuna reads it."""
    return optuna.load_study(study_name=name, storage=study_url(store))


def test_the_default_is_trial_0_and_the_total_is_that_of_the_space(space: Space, store: Store) -> None:
    with opened(space, store) as study:
        trials = run(study)
        assert trials[0].config == space.base
        assert [trial.number for trial in trials] == list(range(space.trials))
        assert len({trial.config.fingerprint() for trial in trials}) == space.trials
    assert stored(store).metric_names == ["val_auc"]
    with opened(space, store) as study:
        assert study.remaining() == 0
        assert study.ask() is None
        assert all(record.state == "complete" for record in study.trials())
    with opened(space.edit(trials=10), store) as study:
        assert study.remaining() == 2


def test_a_resumed_search_suggests_the_same_trials_as_an_uninterrupted_one(
    space: Space, store: Store
) -> None:
    space = space.edit(trials=16)
    with opened(space, store, "whole") as study:
        whole = [trial.params for trial in run(study)]
    resumed = []
    for _ in range(4):
        with opened(space, store, "resumed") as study:
            resumed += [trial.params for trial in run(study, 4)]
    assert resumed == whole
    assert len({tuple(params.items()) for params in whole}) == 16


def test_orphans_of_a_killed_driver_are_queued_again_once(space: Space, store: Store) -> None:
    study = opened(space, store)
    run(study, 2)
    lost = [ask(study), ask(study)]
    study.report(lost[0].number, 0, 0.5)
    study.close()  # as when its driver is killed: no trial is ended

    study = opened(space, store)
    assert study.orphans == 2
    assert study.remaining() == space.trials - 2
    again = ask(study)
    assert again.params == lost[0].params
    study.close()

    with opened(space, store) as study:  # killed again: the second stays queued, the first is queued again
        assert study.orphans == 1
        queued = [ask(study), ask(study)]
        assert [trial.params for trial in queued] == [lost[1].params, lost[0].params]
        for trial in queued:
            study.tell(trial.number, "complete", 0.5)
        run(study)
        records = study.trials()
    assert [record.state for record in records].count("orphan") == 3
    assert [record.state for record in records].count("complete") == space.trials
    retried = [record.facts["retry_of"] for record in records if "retry_of" in record.facts]
    assert sorted(retried) == [2, 3, 4]
    assert all(record.value is None for record in records if record.state == "orphan")


def test_a_driver_killed_while_it_queues_orphans_queues_nothing_twice(
    space: Space, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = opened(space, store)
    ask(study)
    study.close()

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("optuna.Study.tell", die)
        with pytest.raises(KeyboardInterrupt):
            opened(space, store)
    with opened(space, store) as study:
        assert [record.facts.get("retry_of") for record in study.trials()] == [None, 0]
        assert ask(study).config == space.base


def test_the_default_stays_queued_if_the_driver_is_killed_before_it_ran(space: Space, store: Store) -> None:
    opened(space, store).close()
    with opened(space, store) as study:
        assert ask(study).config == space.base


def test_an_interrupted_creation_of_a_study_is_completed(
    space: Space, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("optuna.Study.set_user_attr", die)
        with pytest.raises(KeyboardInterrupt):
            opened(space, store)
    with opened(space, store) as study:
        assert [trial.config == space.base for trial in run(study)][:2] == [True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda space: space.edit(epochs=7), "base.epochs was 6 and is 7"),
        (
            lambda space: Space(space.base, {"alpha": Float(0, 1)}, space.trials, space.prune),
            "dimensions.learning_rate was",
        ),
    ],
)
def test_another_search_under_the_same_name_is_refused(
    space: Space, store: Store, change: Callable[[Space], Space], message: str
) -> None:
    opened(space, store).close()
    with pytest.raises(StudyError) as error:
        opened(change(space), store)
    assert message in str(error.value)
    assert "--name" in str(error.value)
    opened(space, store).close()  # the lock was released


def test_other_data_under_the_same_name_is_refused(space: Space, store: Store) -> None:
    opened(space, store).close()
    with pytest.raises(StudyError, match="cache was 'c0ffee' and is 'decaf'"):
        opened(space, store, cache="decaf")


def test_another_search_is_refused_with_every_difference(space: Space, store: Store) -> None:
    opened(space, store).close()
    base = space.base.edit(batch_size=space.base.batch_size + 1, beta=0.5)
    with pytest.raises(StudyError) as error:
        opened(replace(space, base=base), store)
    for name in ("base.batch_size was", "base.beta was"):
        assert name in str(error.value)


def test_a_study_declared_by_older_code_is_refused_and_the_new_field_is_named(
    space: Space, store: Store
) -> None:
    """A field that a later version adds may change results, so the old search is not continued silently."""
    opened(space, store).close()
    study = stored(store)
    declaration = study.user_attrs["declaration"]
    del declaration["prune"]["power"]
    study.set_user_attr("declaration", declaration)
    with pytest.raises(StudyError, match=r"another search: prune.power was None and is 3.0: .*--name"):
        opened(space, store)
    assert read_study("s", store)[0]["prune"]["rule"] == "median"  # it can still be read


def test_a_second_driver_is_refused_and_the_holder_is_named(space: Space, store: Store) -> None:
    with (
        opened(space, store),
        pytest.raises(StudyError, match=rf"held by process {os.getpid()} on .* since 20"),
    ):
        opened(space, store)
    opened(space, store).close()


def test_drivers_of_two_stores_on_one_database_exclude_each_other(space: Space, tmp_path: Path) -> None:
    one, two = Store(tmp_path / "a"), Store(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)

    def open_in(store: Store, database: Path, name: str = "s") -> Study:
        return open_study(name, space, store=store, identity=IDENTITY, url=f"sqlite:///{database}")

    def assert_held(store: Store, database: Path) -> None:
        with pytest.raises(StudyError, match=rf"held by process {os.getpid()} on .* since 20\d\d-.*: wait"):
            open_in(store, database)

    with open_in(one, tmp_path / "shared.db") as study:
        ask(study)
        assert_held(two, tmp_path / "shared.db")
        assert_held(two, tmp_path / "link" / "shared.db")
        assert_held(one, tmp_path / "other.db")  # report and outbox of a store have the name once
        assert study.trials()[0].state == "running"  # nobody queued it again
        open_in(two, tmp_path / "shared.db", "other").close()
    open_in(two, tmp_path / "shared.db").close()
    with opened(space, one):
        assert_held(two, one.studies)
    with open_in(two, one.studies):
        assert_held(one, one.studies)


def test_a_pruned_trial_keeps_its_reports_and_a_failed_one_is_no_score(space: Space, store: Store) -> None:
    with opened(space, store) as study:
        run(study, 2)
        pruned = ask(study)
        for epoch in range(3):
            study.report(pruned.number, epoch, 0.1)
        record = study.tell(pruned.number, "pruned", reason="slow")
        assert (record.state, record.value, record.curve) == ("pruned", None, {0: 0.1, 1: 0.1, 2: 0.1})
        assert record.config == pruned.config
        failed = ask(study)
        study.report(failed.number, 0, 0.99)
        assert study.tell(failed.number, "failed", reason="NaN").value is None
        assert study.remaining() == space.trials - 4
        assert [record.facts.get("reason") for record in study.trials()][2:4] == ["slow", "NaN"]


def test_conditional_dimensions_live_in_one_study(store: Store) -> None:
    space = Space(
        Config(),
        {"triplet": Choice(tuple(Triplet)), "beta": Float(0.1, 9, log=True, when={"triplet": ("feedback",)})},
        trials=14,
    )
    with opened(space, store) as study:
        for trial in run(study):
            assert ("beta" in trial.params) == (trial.config.triplet is Triplet.FEEDBACK)
        assert {type(record.params["triplet"]) for record in study.trials()} == {str}


def test_a_trial_with_values_that_are_invalid_together_fails_and_the_next_one_is_asked_for(
    space: Space, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure, calls = Space.configure, []

    def refuse_once(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            raise ConfigError("alpha and learning_rate cannot both be high")
        return configure(*args)

    with opened(space, store) as study:
        ask(study)
        failed: list[TrialRecord] = []
        with monkeypatch.context() as refusing:
            refusing.setattr(Space, "configure", refuse_once)
            trial = study.ask(on_invalid=failed.append)
        assert trial is not None
        assert [(record.number, record.state) for record in failed] == [(1, "failed")]
        assert failed[0].facts["reason"] == "alpha and learning_rate cannot both be high"
        assert trial.number == 2


def test_an_error_of_the_database_is_a_study_error_in_every_call(
    space: Space, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(space, store) as study:
        first, second = ask(study), ask(study)
        study.tell(first.number, "complete", 0.5)
        study.report(second.number, 0, 0.5)

        def fails(*_: Any, **__: Any) -> None:
            raise optuna.exceptions.StorageInternalError from sqlite3.OperationalError("disk I/O error")

        for name in ("create_new_trial", "set_trial_intermediate_value", "set_trial_state_values"):
            monkeypatch.setattr(optuna.storages.RDBStorage, name, fails)
        calls: list[Callable[[], Any]] = [
            study.ask,
            lambda: study.report(second.number, 1, 0.5),
            lambda: study.tell(second.number, "complete", 0.5),
        ]
        for call in calls:
            with pytest.raises(StudyError, match=r"studies.db cannot be used \(disk I/O error\): free some"):
                call()


def test_a_study_is_read_without_its_lock(space: Space, store: Store) -> None:
    with opened(space, store) as study:
        run(study, 2)
        declaration, records = read_study("s", store)
        trials = read_trials("s", study.id, study_url(store))
    assert declaration["cache"] == "c0ffee"
    assert [record.value for record in records][:2] == [record.params["alpha"] for record in records][:2]
    assert trials == records
    with pytest.raises(StudyError, match=r"no study 'q' in .*: there are s"):
        read_study("q", store)


def test_a_new_study_of_the_same_name_is_not_taken_for_the_old_one(space: Space, store: Store) -> None:
    with opened(space, store) as study:
        study_id = study.id
    optuna.delete_study(study_name="s", storage=study_url(store))
    assert read_trials("s", study_id, study_url(store)) is None
    with opened(space, store) as study:
        assert study.id != study_id
        assert read_trials("s", study_id, study_url(store)) is None
        records = read_trials("s", study.id, study_url(store))
        assert records is not None
        assert len(records) == 1


@pytest.mark.parametrize("then", ["removed", "replaced"])
def test_a_database_that_is_removed_during_a_sweep_is_one_line(space: Space, store: Store, then: str) -> None:
    with opened(space, store) as study:
        trial = ask(study)
        for path in store.root.glob("studies.db*"):
            path.unlink()
        if then == "replaced":
            store.studies.touch()
        removed = r"studies.db was removed or replaced during the sweep: put it back, or let the same command"
        with pytest.raises(StudyError, match=removed):
            study.tell(trial.number, "complete", 0.5)
        with pytest.raises(StudyError, match=removed):
            study.ask()
        with pytest.raises(StudyError, match=removed):
            study.trials()
    store.studies.unlink(missing_ok=True)
    assert importances("s", store) == {}
    assert read_trials("s", study.id, study_url(store)) is None
    with pytest.raises(StudyError, match=r"no study 's' in .*: there are none"):
        read_study("s", store)
    assert not store.studies.exists()


def test_importances_need_complete_trials_that_differ(space: Space, store: Store) -> None:
    with opened(space.edit(trials=IMPORTANCE_TRIALS), store) as study:
        run(study, IMPORTANCE_TRIALS - 1)
        assert importances("s", store) == {}
        run(study)
        shares = importances("s", store)
    assert set(shares) == {"alpha", "learning_rate"}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["alpha"] > shares["learning_rate"]
