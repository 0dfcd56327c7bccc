"""Trials whose driver ended between storing their facts and storing their state."""

from typing import Any

import optuna
import pytest

from cgn.errors import StudyError
from cgn_platform.search.study import open_study
from cgn_platform.space import Space
from cgn_platform.store.layout import Store


def test_facts_of_a_trial_that_never_ended_do_not_count(
    space: Space, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that was full between the two writes: an orphan has neither a score nor units."""

    def full(*_: Any, **__: Any) -> None:
        raise optuna.exceptions.StorageInternalError("database or disk is full")

    with open_study("s", space, store=store, identity={}) as study:
        trial = study.ask()
        assert trial is not None
        with monkeypatch.context() as patched:
            patched.setattr(optuna.Study, "tell", full)
            with pytest.raises(StudyError, match="database or disk is full"):
                study.tell(trial.number, "complete", 0.9, test_auc=0.8, units=["a", "b"])
        assert "units" not in study.trials()[0].facts
    with open_study("s", space, store=store, identity={}) as study:
        record = study.trials()[0]
        assert record.state == "orphan"
        assert set(record.facts) == {"reason"}
