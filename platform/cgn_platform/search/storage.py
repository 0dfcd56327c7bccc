"""Optuna's storage while one driver holds the study, a write-through cache; and errors of any storage.

Optuna reads all running trials from the database before each decision, since other processes may have written
them; that takes longer than the decision itself, and Optuna's own `_CachedStorage` does so too. Here no other
process writes (`study_lock.StudyLock`), so everything is read from memory.
"""

import copy
import functools
import sqlite3
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from cgn.errors import StudyError, first_line, one_line
from cgn_platform.remedies import remedy_of
from cgn_platform.store import databases

P = ParamSpec("P")
R = TypeVar("R")


def _locked(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """One call at a time: Optuna requires every storage to be thread-safe."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return call


class WriteThroughStorage(BaseStorage):
    """Caches the trials of a storage to which no other process writes. Thread-safe, one call at a time.

    A write replaces the cached trial and never changes it, so trials that were returned before stay as they
    were.
    """

    def __init__(self, backend: BaseStorage) -> None:
        """Cache this storage; nothing is read yet."""
        self._backend = backend
        self._lock = threading.RLock()
        self._studies: dict[int, dict[int, FrozenTrial]] = {}  # trials by their id, in the order of numbers
        self._study_of: dict[int, int] = {}  # study id by trial id

    # Trials: a write is cached after the backend accepted it.

    @_locked
    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """From memory; the first call reads the backend."""
        trials = [t for t in self._trials(study_id).values() if states is None or t.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    @_locked
    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A copy from memory if its study was read: `optuna.Trial` modifies what it gets."""
        if trial_id in self._study_of:
            return copy.deepcopy(self._studies[self._study_of[trial_id]][trial_id])
        return self._backend.get_trial(trial_id)

    @_locked
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Written, then read back with the backend's timestamp."""
        trials = self._trials(study_id)
        trial_id = self._backend.create_new_trial(study_id, template_trial)
        trials[trial_id] = self._backend.get_trial(trial_id)
        self._study_of[trial_id] = study_id
        return trial_id

    @_locked
    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Written, then read back with the backend's timestamp."""
        changed = self._backend.set_trial_state_values(trial_id, state, values)
        if trial_id in self._study_of:
            self._studies[self._study_of[trial_id]][trial_id] = self._backend.get_trial(trial_id)
        return changed

    @_locked
    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Written to the backend, then to the cache."""
        self._backend.set_trial_param(trial_id, param_name, param_value_internal, distribution)
        self._update(trial_id, "distributions", param_name, distribution)
        self._update(trial_id, "params", param_name, distribution.to_external_repr(param_value_internal))

    @_locked
    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Written to the backend, then to the cache."""
        self._backend.set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._update(trial_id, "intermediate_values", step, intermediate_value)

    @_locked
    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Written to the backend, then to the cache."""
        self._backend.set_trial_user_attr(trial_id, key, value)
        self._update(trial_id, "user_attrs", key, value)

    @_locked
    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Written to the backend, then to the cache."""
        self._backend.set_trial_system_attr(trial_id, key, value)
        self._update(trial_id, "system_attrs", key, value)

    def _trials(self, study_id: int) -> dict[int, FrozenTrial]:
        if study_id not in self._studies:
            trials = self._backend.get_all_trials(study_id, deepcopy=False)
            self._studies[study_id] = {trial._trial_id: trial for trial in trials}
            self._study_of |= {trial._trial_id: study_id for trial in trials}
        return self._studies[study_id]

    def _update(self, trial_id: int, part: str, key: Any, value: Any) -> None:
        if trial_id in self._study_of:
            trials = self._studies[self._study_of[trial_id]]
            changed = copy.copy(trials[trial_id])
            setattr(changed, part, {**getattr(changed, part), key: value})
            trials[trial_id] = changed

    # Studies: rarely used, never cached.

    @_locked
    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Passed to the backend."""
        return self._backend.create_new_study(directions, study_name)

    @_locked
    def delete_study(self, study_id: int) -> None:
        """Passed to the backend, and removed from the cache."""
        self._backend.delete_study(study_id)
        for trial_id in self._studies.pop(study_id, {}):
            del self._study_of[trial_id]

    @_locked
    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Passed to the backend."""
        self._backend.set_study_user_attr(study_id, key, value)

    @_locked
    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Passed to the backend."""
        self._backend.set_study_system_attr(study_id, key, value)

    @_locked
    def get_study_id_from_name(self, study_name: str) -> int:
        """Passed to the backend."""
        return self._backend.get_study_id_from_name(study_name)

    @_locked
    def get_study_name_from_id(self, study_id: int) -> str:
        """Passed to the backend."""
        return self._backend.get_study_name_from_id(study_id)

    @_locked
    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Passed to the backend."""
        return self._backend.get_study_directions(study_id)

    @_locked
    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Passed to the backend."""
        return self._backend.get_study_user_attrs(study_id)

    @_locked
    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Passed to the backend."""
        return self._backend.get_study_system_attrs(study_id)

    @_locked
    def get_all_studies(self) -> list[FrozenStudy]:
        """Passed to the backend."""
        return self._backend.get_all_studies()

    @_locked
    def remove_session(self) -> None:
        """Passed to the backend."""
        self._backend.remove_session()


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Raise StudyError, in one line, in place of the database's own errors."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, sqlite3.Error) as error:
        cause = error.__cause__ or error
        cause = getattr(cause, "orig", None) or cause
        raise StudyError(
            f"the study's database {databases.shown(url)} cannot be used ({one_line(cause)})",
            remedy=remedy_of(cause) or "repair it and run the same command again: finished folds are kept",
        ) from error
    except RuntimeError as error:
        if "optuna" not in str(error):
            raise
        raise StudyError(  # Optuna's check of the schema
            f"the study's database {databases.shown(url)} was written by another version of Optuna "
            f"({first_line(error)})",
            remedy="use the version of cgn-platform that wrote it, or 'optuna storage upgrade'",
        ) from error
