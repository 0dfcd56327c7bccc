"""Optuna's storage while one driver holds the study: written through, read from memory.

Optuna reads all running trials from the database again before each of its decisions, since others may have
written them; that costs more than the decision. Here nobody else writes (`database.StudyLock`).
"""

import copy
import functools
import threading
from collections.abc import Callable, Container, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

P = ParamSpec("P")


R = TypeVar("R")


def _locked(method: "Callable[Concatenate[Any, P], R]") -> "Callable[Concatenate[Any, P], R]":
    """Run one call at a time: Optuna asks every storage to be thread-safe."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            return method(self, *args, **kwargs)

    return call


class HeldStorage(BaseStorage):
    """A storage, of whose trials this process is the only writer. Thread-safe, one call at a time.

    Whoever has a trial or a list of trials keeps it as it was: a write puts another one in its place.
    """

    def __init__(self, behind: BaseStorage) -> None:
        self._behind = behind
        self._lock = threading.RLock()
        self._studies: dict[int, dict[int, FrozenTrial]] = {}  # trials by their id, in the order of numbers
        self._study_of: dict[int, int] = {}  # a trial's

    # Trials: what is written is remembered once the storage behind has it.

    @_locked
    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """From memory, but for the first time."""
        found = [t for t in self._trials(study_id).values() if states is None or t.state in states]
        return copy.deepcopy(found) if deepcopy else found

    @_locked
    def get_trial(self, trial_id: int) -> FrozenTrial:
        """From memory, where its study was read: a copy, since `optuna.Trial` writes into it."""
        if trial_id in self._study_of:
            return copy.deepcopy(self._studies[self._study_of[trial_id]][trial_id])
        return self._behind.get_trial(trial_id)

    @_locked
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Remembered as it stands behind, with its time."""
        trials = self._trials(study_id)
        trial_id = self._behind.create_new_trial(study_id, template_trial)
        trials[trial_id] = self._behind.get_trial(trial_id)
        self._study_of[trial_id] = study_id
        return trial_id

    @_locked
    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Remembered as it stands behind, with its time."""
        done = self._behind.set_trial_state_values(trial_id, state, values)
        if trial_id in self._study_of:
            self._studies[self._study_of[trial_id]][trial_id] = self._behind.get_trial(trial_id)
        return done

    @_locked
    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Written through."""
        self._behind.set_trial_param(trial_id, param_name, param_value_internal, distribution)
        self._put(trial_id, "distributions", param_name, distribution)
        self._put(trial_id, "params", param_name, distribution.to_external_repr(param_value_internal))

    @_locked
    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Written through."""
        self._behind.set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._put(trial_id, "intermediate_values", step, intermediate_value)

    @_locked
    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Written through."""
        self._behind.set_trial_user_attr(trial_id, key, value)
        self._put(trial_id, "user_attrs", key, value)

    @_locked
    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Written through."""
        self._behind.set_trial_system_attr(trial_id, key, value)
        self._put(trial_id, "system_attrs", key, value)

    def _trials(self, study_id: int) -> dict[int, FrozenTrial]:
        if study_id not in self._studies:
            trials = self._behind.get_all_trials(study_id, deepcopy=False)
            self._studies[study_id] = {trial._trial_id: trial for trial in trials}
            self._study_of |= {trial._trial_id: study_id for trial in trials}
        return self._studies[study_id]

    def _put(self, trial_id: int, part: str, key: Any, value: Any) -> None:
        if trial_id in self._study_of:
            trials = self._studies[self._study_of[trial_id]]
            changed = copy.copy(trials[trial_id])
            setattr(changed, part, {**getattr(changed, part), key: value})
            trials[trial_id] = changed

    # Studies: asked for rarely.

    @_locked
    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Passed on."""
        return self._behind.create_new_study(directions, study_name)

    @_locked
    def delete_study(self, study_id: int) -> None:
        """Passed on, and forgotten."""
        self._behind.delete_study(study_id)
        for trial_id in self._studies.pop(study_id, {}):
            del self._study_of[trial_id]

    @_locked
    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Passed on."""
        self._behind.set_study_user_attr(study_id, key, value)

    @_locked
    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Passed on."""
        self._behind.set_study_system_attr(study_id, key, value)

    @_locked
    def get_study_id_from_name(self, study_name: str) -> int:
        """Passed on."""
        return self._behind.get_study_id_from_name(study_name)

    @_locked
    def get_study_name_from_id(self, study_id: int) -> str:
        """Passed on."""
        return self._behind.get_study_name_from_id(study_id)

    @_locked
    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Passed on."""
        return self._behind.get_study_directions(study_id)

    @_locked
    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Passed on."""
        return self._behind.get_study_user_attrs(study_id)

    @_locked
    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Passed on."""
        return self._behind.get_study_system_attrs(study_id)

    @_locked
    def get_all_studies(self) -> list[FrozenStudy]:
        """Passed on."""
        return self._behind.get_all_studies()

    @_locked
    def remove_session(self) -> None:
        """Passed on."""
        self._behind.remove_session()
