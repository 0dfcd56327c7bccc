import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from cgn.ablation import Triplet
from cgn.config import Config
from cgn.errors import StudyError
from cgn_platform.search.records import TrialSpec
from cgn_platform.search.study import Study, open_study, recorded
from cgn_platform.space import Choice, Float, Space

IDENTITY = {"cache": "c0ffee", "splits": "f00d"}


def opened(space: Space, store: Path, name: str = "s", **identity: str) -> Study:
    return open_study(name, space, store=store, identity={**IDENTITY, **identity})


def ask(study: Study) -> TrialSpec:
    asked = study.ask()
    assert isinstance(asked, TrialSpec)
    return asked


def run(study: Study, n: int = 99) -> list[TrialSpec]:
    """Complete what is asked, with alpha as the score."""
    done = []
    while study.remaining() and len(done) < n:
        asked = ask(study)
        study.tell(asked.number, "complete", asked.config.alpha)
        done.append(asked)
    return done


def test_the_default_is_trial_0_and_the_total_is_what_was_asked(space: Space, store: Path) -> None:
    with opened(space, store) as study:
        done = run(study)
        assert done[0].config == space.base
        assert study._study.metric_names == ["val_auc"]
        assert [asked.number for asked in done] == list(range(space.trials))
        assert len({asked.config.fingerprint() for asked in done}) == space.trials
    with opened(space, store) as study:
        assert study.remaining() == 0
        assert all(record.state == "complete" for record in study.trials())
    with opened(space.edit(trials=10), store) as study:
        assert study.remaining() == 2


def test_equal_seeds_search_equally_and_a_resumed_search_repeats_no_draw(space: Space, store: Path) -> None:
    space = space.edit(trials=16)
    with opened(space, store, "whole") as study:
        whole = [asked.params for asked in run(study)]
    pieces = []
    for _ in range(4):
        with opened(space, store, "pieces") as study:
            pieces += [asked.params for asked in run(study, 4)]
    assert pieces == whole
    assert len({tuple(params.items()) for params in whole}) == 16


def test_orphans_of_a_dead_driver_are_asked_again_once(space: Space, store: Path) -> None:
    study = opened(space, store)
    run(study, 2)
    lost = [ask(study), ask(study)]
    study.report(lost[0].number, 0, 0.5)
    study.close()  # a killed driver says no more than this

    study = opened(space, store)
    assert study.orphans == 2
    assert study.remaining() == space.trials - 2
    again = ask(study)
    assert again.params == lost[0].params
    study.close()

    with opened(space, store) as study:  # killed once more: the other stays queued, this one is queued anew
        assert study.orphans == 1
        queued = [ask(study), ask(study)]
        assert [asked.params for asked in queued] == [lost[1].params, lost[0].params]
        for asked in queued:
            study.tell(asked.number, "complete", 0.5)
        run(study)
        records = study.trials()
    assert [record.state for record in records].count("orphan") == 3
    assert [record.state for record in records].count("complete") == space.trials
    retried = [record.facts["retry_of"] for record in records if "retry_of" in record.facts]
    assert sorted(retried) == [2, 3, 4]
    assert all(record.value is None for record in records if record.state == "orphan")


def test_a_driver_killed_while_it_adopts_queues_nothing_twice(
    space: Space, store: Path, monkeypatch: pytest.MonkeyPatch
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


def test_a_queued_default_survives_a_driver_killed_before_it_ran(space: Space, store: Path) -> None:
    opened(space, store).close()
    with opened(space, store) as study:
        assert ask(study).config == space.base


def test_a_study_whose_creation_was_cut_short_is_finished(
    space: Space, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("optuna.Study.set_user_attr", die)
        with pytest.raises(KeyboardInterrupt):
            opened(space, store)
    with opened(space, store) as study:
        assert [asked.config == space.base for asked in run(study)][:2] == [True, False]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda space: space.edit(epochs=7), "base.epochs was 6 and is 7"),
        (
            lambda space: Space(space.base, {"alpha": Float(0, 1)}, space.trials, space.prune),
            "dimensions.learning_rate was",
        ),
    ],
)
def test_another_search_under_the_same_name_is_refused(
    space: Space, store: Path, change: Callable[[Space], Space], told: str
) -> None:
    opened(space, store).close()
    with pytest.raises(StudyError) as error:
        opened(change(space), store)
    assert told in str(error.value)
    assert "--name" in str(error.value)
    opened(space, store).close()  # and the lock was given back


def test_other_data_under_the_same_name_is_refused(space: Space, store: Path) -> None:
    opened(space, store).close()
    with pytest.raises(StudyError, match="cache was 'c0ffee' and is 'decaf'"):
        opened(space, store, cache="decaf")


def test_a_second_driver_is_refused_and_told_who_holds_it(space: Space, store: Path) -> None:
    with (
        opened(space, store),
        pytest.raises(StudyError, match=rf"held by process {os.getpid()} on .* since 20"),
    ):
        opened(space, store)
    opened(space, store).close()


def test_a_pruned_trial_keeps_its_reports_and_a_failed_one_is_no_score(space: Space, store: Path) -> None:
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


def test_conditional_dimensions_live_in_one_study(store: Path) -> None:
    space = Space(
        Config(),
        {"triplet": Choice(tuple(Triplet)), "beta": Float(0.1, 9, log=True, when={"triplet": ("feedback",)})},
        trials=14,
    )
    with opened(space, store) as study:
        for asked in run(study):
            assert ("beta" in asked.params) == (asked.config.triplet is Triplet.FEEDBACK)
        assert {type(record.params["triplet"]) for record in study.trials()} == {str}


def test_values_that_cannot_be_together_fail_their_trial_only(
    space: Space, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cgn.errors import ConfigError

    with opened(space, store) as study:
        ask(study)

        def refuse(*_: Any) -> None:
            raise ConfigError("alpha and learning_rate cannot both be high")

        with monkeypatch.context() as refusing:
            refusing.setattr(Space, "configure", refuse)
            record = study.ask()
        assert not isinstance(record, TrialSpec)
        assert (record.state, record.facts["reason"][:5]) == ("failed", "alpha")
        assert isinstance(study.ask(), TrialSpec)


def test_a_database_that_fails_is_told_in_a_line_whatever_is_asked(
    space: Space, store: Path, monkeypatch: pytest.MonkeyPatch
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
            with pytest.raises(StudyError, match=r"cannot be used \(disk I/O error\): free its disk"):
                call()


def test_a_study_is_read_without_its_lock(space: Space, store: Path) -> None:
    with opened(space, store) as study:
        run(study, 2)
        declaration, records = recorded("s", store)
    assert declaration["cache"] == "c0ffee"
    assert [record.value for record in records][:2] == [record.params["alpha"] for record in records][:2]
    with pytest.raises(StudyError, match=r"no study 'q' in .*: there are s"):
        recorded("q", store)
