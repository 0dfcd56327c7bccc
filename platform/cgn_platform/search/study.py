"""The study: what was tried and what to try next, by Optuna.

A study is stored in one SQL database; everything in it is plain JSON. One driver at a time writes to it
(`study_lock`). Running the same command again resumes it: finished trials are kept, trials of a killed driver
are queued again, and the total stays the number of trials that the space declares.
"""

import functools
import hashlib
import secrets
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import optuna
from optuna.trial import FrozenTrial, TrialState

from cgn.config import Config
from cgn.errors import ConfigError, StudyError
from cgn_platform.differences import difference, in_one_line
from cgn_platform.search.pruning import FACTS, Scores, facts_of, make_pruner
from cgn_platform.search.racing import Floats
from cgn_platform.search.records import ORPHAN, State, TrialRecord, TrialSpec
from cgn_platform.search.storage import WriteThroughStorage, database_errors
from cgn_platform.search.study_lock import StudyLock
from cgn_platform.search.summary import IMPORTANCE_TRIALS
from cgn_platform.space import Choice, Dimension, Float, Integer, Scalar, Space
from cgn_platform.store import databases
from cgn_platform.store.layout import Store

P = ParamSpec("P")
R = TypeVar("R")

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
FINAL_STATES: Mapping[str, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


def _typed_errors(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """The method of a study with `database_errors`."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with database_errors(self._storage.url):
            return method(self, *args, **kwargs)

    return call


class Study:
    """An open study. Use `open_study`; a context manager that releases the lock.

    Attributes:
        name: unique in its database.
        id: random; distinguishes it from a study of the same name in another database.
        space: what is searched.
        orphans: number of trials that were queued again when it was opened.
    """

    def __init__(
        self,
        name: str,
        space: Space,
        study: optuna.Study,
        storage: optuna.storages.RDBStorage,
        lock: StudyLock,
        scores: Scores | None,
    ) -> None:
        self.name, self.space = name, space
        self.id: str = study.user_attrs["id"]
        self.orphans = 0
        self._study, self._storage, self._lock, self._scores = study, storage, lock, scores
        self._running: dict[int, tuple[optuna.Trial, Config | None]] = {}
        self._file = databases.file_id(storage.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock; the next driver queues trials again that are still running."""
        _disconnect(self._storage)
        self._lock.release()

    @_typed_errors
    def remaining(self) -> int:
        """How many trials are still to be started: the total minus those that ended or are running."""
        trials = self._study.get_trials(deepcopy=False)
        retried = _retried(trials)
        counted = [t for t in trials if STATES[t.state] != "waiting" and t.number not in retried]
        return max(0, self.space.trials - len(counted))

    @_typed_errors
    def ask(self, on_invalid: Callable[[TrialRecord], None] = lambda _record: None) -> TrialSpec | None:
        """The next trial: first the queue (the default, `first`, orphans), then what TPE suggests.

        Args:
            on_invalid: called with each trial whose values are valid one by one but not together; it has
                failed, and the next one is asked for.

        Returns:
            None if the total is reached.
        """
        while self.remaining():
            trial = self._ask()
            if isinstance(trial, TrialSpec):
                return trial
            on_invalid(trial)
        return None

    def _ask(self) -> TrialSpec | TrialRecord:
        self._lock.ensure_held()
        self._check_file()
        number_of_trials = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = _sampler(self.space.seed, number_of_trials)
        trial = self._study.ask()
        self._running[trial.number] = trial, None
        try:
            config, params = self.space.configure(lambda name, dimension: _suggest(trial, name, dimension))
        except ConfigError as error:
            return self.tell(trial.number, "failed", reason=str(error))
        self._running[trial.number] = trial, config
        trial.set_user_attr("config", config.model_dump(mode="json"))
        return TrialSpec(trial.number, config, params)

    @_typed_errors
    def report(self, number: int, epoch: int, value: float, scores: Floats | None = None) -> None:
        """Store an epoch of a running trial.

        Args:
            number: of the trial.
            epoch: from 0.
            value: mean validation AUC over all folds.
            scores: of each validated case, for paired rules.
        """
        self._running[number][0].report(value, epoch)
        if self._scores is not None and scores is not None:
            self._scores.update(number, scores)

    @_typed_errors
    def should_prune(self, number: int) -> bool:
        """Whether the pruner would stop the trial after its last epoch.

        The default is never stopped: it is what all others are compared with.
        """
        trial, config = self._running[number]
        return config != self.space.base and trial.should_prune()

    @_typed_errors
    def tell(self, /, number: int, state: State, value: float | None = None, **facts: Any) -> TrialRecord:
        """End a trial.

        Args:
            number: of the trial.
            state: complete, pruned or failed.
            value: mean validation AUC of a complete trial.
            facts: stored with it, plain JSON.
        """
        self._check_file()
        trial, _ = self._running.pop(number)
        if self._scores is not None:
            self._scores.discard(number)
        if facts:
            trial.set_user_attr(FACTS, facts)
        return _record(self._study.tell(trial, value, state=FINAL_STATES[state], skip_if_finished=True))

    @_typed_errors
    def trials(self) -> list[TrialRecord]:
        """All trials by number."""
        self._check_file()
        return _records(self._study)

    def _check_file(self) -> None:
        """SQLite goes on writing to a file that was removed, and everything in it would be lost."""
        if databases.file_id(self._storage.url) != self._file:
            raise StudyError(
                f"{databases.sqlite_path(self._storage.url)} was removed or replaced during the sweep",
                remedy="put it back, or let the same command begin a new study: finished folds are kept",
            )

    def requeue(self) -> int:
        """Queue again, once each, trials of a killed driver and trials whose workers were lost too often.

        A `lost` trial counts as ended in the run that lost it. A later run tries it again: the machines may
        have been repaired.

        Returns:
            How many.
        """
        trials = self._study.get_trials(deepcopy=False)
        retried = _retried(trials)
        orphans = [trial for trial in trials if trial.state == TrialState.RUNNING]
        lost = [trial for trial in trials if facts_of(trial).get("lost") and trial.number not in retried]
        for trial in (*orphans, *lost):
            # Queued before it is ended: if this driver is killed in between, the next one finds both.
            if trial.number not in retried:
                params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
                self._study.enqueue_trial(params, user_attrs={"retry_of": trial.number})
        for trial in orphans:
            self._study._storage.set_trial_user_attr(trial._trial_id, "reason", ORPHAN)
            self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        return len(orphans) + len(lost)


def open_study(
    name: str,
    space: Space,
    *,
    store: Store,
    identity: Mapping[str, str],
    url: str | None = None,
    scores: Scores | None = None,
) -> Study:
    """Create a study, or resume it.

    Args:
        name: unique in its database.
        space: what is searched.
        store: holds the lock, and `studies.db` unless another database is named.
        identity: what else a study must have in common with its declaration: cache and splits.
        url: of the database; `CGN_STUDY_URL` if None, `studies.db` if that is not set either.
        scores: for paired rules.

    Raises:
        ConfigError: the space has a paired rule, and there are no scores.
        StudyError: another driver holds the study, the name belongs to another search, or the database cannot
            be used.
    """
    url = url or databases.study_url(store)
    lock = StudyLock(name, store, url)
    try:
        with database_errors(url):
            backend = _storage(url)
            storage = WriteThroughStorage(backend)
            declaration = {**identity, **space.declaration()}
            pruner = make_pruner(space.prune, space.base.epochs, scores)
            if name in _names(storage):
                study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
            else:
                study = optuna.create_study(
                    study_name=name, storage=storage, direction="maximize", pruner=pruner
                )
            # The declaration is written last: a study without one was interrupted while it was created.
            if (declared := study.user_attrs.get("declaration")) is not None:
                _check_declaration(name, declared, declaration)
            else:
                number_of_trials = len(study.get_trials(deepcopy=False))
                for params in list(space.queued())[number_of_trials:]:
                    study.enqueue_trial(params)
                study.set_metric_names(["val_auc"])  # as Optuna's dashboard shows it
                study.set_user_attr("id", secrets.token_hex(8))
                study.set_user_attr("declaration", declaration)
            opened = Study(name, space, study, backend, lock, scores)
            opened.orphans = opened.requeue()
    except BaseException:
        lock.release()
        raise
    return opened


def read_trials(name: str, study_id: str, url: str) -> list[TrialRecord] | None:
    """All trials of a study by number, without its lock; None if the study does not exist any more.

    Args:
        name: of the study.
        study_id: its `Study.id`; a new study may have taken the name.
        url: of its database.
    """
    if not databases.exists(url):
        return None
    with _reading(url) as storage:
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            return None
        return _records(study) if study.user_attrs.get("id") == study_id else None


def read_study(
    name: str, store: Store, url: str | None = None
) -> tuple[Mapping[str, Any], list[TrialRecord]]:
    """The declaration of a study and all its trials by number, without its lock.

    Raises:
        StudyError: there is no study of this name.
    """
    url = url or databases.study_url(store)
    if not databases.exists(url):
        raise StudyError(f"no study {name!r} in {store}: there are none")
    with _reading(url) as storage:
        names = _names(storage)
        if name not in names:
            raise StudyError(f"no study {name!r} in {store}: there are {', '.join(names) or 'none'}")
        study = optuna.load_study(study_name=name, storage=storage)
        return study.user_attrs.get("declaration", {}), _records(study)


def importances(name: str, store: Store, url: str | None = None) -> dict[str, float]:
    """Hutter et al. 2014, functional ANOVA. Share of the variance of the value that each dimension explains.

    Read without the study's lock. Empty if there are too few complete trials, all have the same value, or the
    study does not exist any more. Dimensions that only some trials have are left out.
    """
    url = url or databases.study_url(store)
    if not databases.exists(url):
        return {}
    with _reading(url) as storage:
        if name not in _names(storage):
            return {}
        study = optuna.load_study(study_name=name, storage=storage)
        values = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
        if len(values) < IMPORTANCE_TRIALS or len(set(values)) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def create_tables(url: str) -> None:
    """Create the tables if there are none yet, for processes that only read."""
    with _reading(url):
        pass


def _names(storage: optuna.storages.BaseStorage) -> list[str]:
    return sorted(summary.study_name for summary in optuna.get_all_study_summaries(storage=storage))


def _records(study: optuna.Study) -> list[TrialRecord]:
    trials = study.get_trials(deepcopy=False)
    retried = _retried(trials)
    return [_record(trial, orphan=trial.number in retried) for trial in trials]


@contextmanager
def _reading(url: str) -> Iterator[optuna.storages.RDBStorage]:
    with database_errors(url):
        storage = _storage(url)
        try:
            yield storage
        finally:
            _disconnect(storage)


def _storage(url: str) -> optuna.storages.RDBStorage:
    path = databases.sqlite_path(url)
    if path is None:  # a session that Postgres ended is noticed and replaced before it is used
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path, timeout=60)) as database:
        database.execute(
            "PRAGMA journal_mode=WAL"
        )  # readers (reports, the dashboard) do not block the driver
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})


def _disconnect(storage: optuna.storages.RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _check_declaration(name: str, stored: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    """Raise StudyError if the stored study is another search than the declared one."""
    if differences := difference(stored, declared):
        raise StudyError(
            f"study {name!r} is another search: {in_one_line(differences)}",
            remedy="change it back or choose another --name",
        )


def _sampler(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """Seeded by the base seed and the number of trials: a resumed search never repeats its draws."""
    digest = hashlib.sha256(f"{seed}/{trials}".encode()).digest()
    return optuna.samplers.TPESampler(
        group=True,  # conditional dimensions are modelled separately
        seed=int.from_bytes(digest[:4], "big"),
    )


def _suggest(trial: optuna.Trial, name: str, dimension: Dimension) -> Scalar:
    match dimension:
        case Choice(values):
            choice: Scalar = trial.suggest_categorical(name, values)
            return choice
        case Float(low, high, log):
            return trial.suggest_float(name, low, high, log=log)
        case Integer(low, high, log):
            return trial.suggest_int(name, low, high, log=log)


def _retried(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the trials that another trial repeats."""
    return {trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs}


def _record(trial: FrozenTrial, *, orphan: bool = False) -> TrialRecord:
    facts = facts_of(trial)
    config = facts.pop("config", None)
    state = STATES[trial.state]
    return TrialRecord(
        number=trial.number,
        state="orphan" if orphan else state,
        value=trial.value if state == "complete" else None,
        params=trial.params,
        curve=dict(trial.intermediate_values),
        config=Config.of(config) if config else None,
        facts=facts,
        began=_milliseconds(trial.datetime_start),
        ended=_milliseconds(trial.datetime_complete),
    )


def _milliseconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp() * 1000)
