"""The search's memory and, with `pruning`, the one door to Optuna: what was tried, to try, to stop.

A study is one SQL database row set; everything in it is plain JSON. One driver at a time works on it
(a lock that ends with its process, see `database`). Running the same command again is the resume: finished
trials stand, those a dead driver left behind are asked again, the total is what was asked.
"""

import hashlib
import secrets
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ContextDecorator, closing, contextmanager
from datetime import datetime
from typing import Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from cgn.config import Config
from cgn.errors import ConfigError, StudyError
from cgn.racing import Floats
from cgn_platform.search import study_lock
from cgn_platform.search.pruning import FACTS, Scores, facts_of, make_pruner
from cgn_platform.search.records import ORPHAN, State, TrialRecord, TrialSpec
from cgn_platform.search.storage import HeldStorage
from cgn_platform.space import Choice, Dimension, Float, Integer, Scalar, Space, difference
from cgn_platform.store import databases
from cgn_platform.store.layout import Store

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

STATES: Mapping[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


TOLD: Mapping[str, TrialState] = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class _InWords(ContextDecorator):
    """What the database raises, as one line that says what to do."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, optuna.exceptions.StorageInternalError | SQLAlchemyError):
            cause = error.__cause__ or error
            told = " ".join(str(getattr(cause, "orig", None) or cause).split())
            raise StudyError(
                f"the study's database cannot be used ({told}): free its disk or its lock and run the same "
                "command again; what is finished stands"
            ) from error


class Study:
    """An open study. Use `open_study`; a context manager, so that the lock is given back."""

    def __init__(
        self,
        name: str,
        space: Space,
        study: optuna.Study,
        storage: optuna.storages.RDBStorage,
        hold: study_lock.StudyLock,
        scores: Scores | None,
    ) -> None:
        self.name, self.space = name, space
        self._study, self._storage, self._hold, self._scores = study, storage, hold, scores
        self._live: dict[int, tuple[optuna.Trial, Config | None]] = {}
        self.orphans = 0  # that were found and queued again when it was opened
        self.id: str = study.user_attrs["id"]  # told apart from another study of this name elsewhere

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back the lock; trials still running become orphans of the next driver."""
        _disconnect(self._storage)
        self._hold.release()

    @_InWords()
    def remaining(self) -> int:
        """Trials still to be asked for: the total less those ended or running."""
        trials = self._study.get_trials(deepcopy=False)
        again = _asked_again(trials)
        counted = [t for t in trials if STATES[t.state] != "waiting" and t.number not in again]
        return max(0, self.space.trials - len(counted))

    @_InWords()
    def ask(self, on_invalid: Callable[[TrialRecord], None] = lambda _record: None) -> TrialSpec | None:
        """The next trial: what is queued (the default, `first`, orphans), then what TPE suggests.

        Args:
            on_invalid: called with each trial whose values are possible one by one but not together; it has
                failed, and the next one is tried.

        Returns:
            None if all trials have been asked for.
        """
        while self.remaining():
            trial = self._ask()
            if isinstance(trial, TrialSpec):
                return trial
            on_invalid(trial)
        return None

    def _ask(self) -> TrialSpec | TrialRecord:
        self._hold.ensure()
        number_of_trials = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = _sampler(self.space.seed, number_of_trials)
        trial = self._study.ask()
        self._live[trial.number] = trial, None
        try:
            config, params = self.space.configure(lambda name, dimension: _suggest(trial, name, dimension))
        except ConfigError as error:
            return self.tell(trial.number, "failed", reason=str(error))
        self._live[trial.number] = trial, config
        trial.set_user_attr("config", config.model_dump(mode="json"))
        return TrialSpec(trial.number, config, params)

    @_InWords()
    def report(self, number: int, epoch: int, value: float, scores: Floats | None = None) -> None:
        """The mean validation AUC over all folds at this epoch, and the score of each validated case."""
        self._live[number][0].report(value, epoch)
        if self._scores is not None and scores is not None:
            self._scores.tell(number, scores)

    @_InWords()
    def should_prune(self, number: int) -> bool:
        """Whether the pruner would stop it, after what was reported.

        The default is never stopped: it is what all others are compared with.
        """
        trial, config = self._live[number]
        return config != self.space.base and trial.should_prune()

    @_InWords()
    def tell(self, number: int, state: State, value: float | None = None, **facts: Any) -> TrialRecord:
        """The end of a trial. Only a complete one has a value; a failed one is no score."""
        trial, _ = self._live.pop(number)
        if self._scores is not None:
            self._scores.forget(number)
        if facts:
            trial.set_user_attr(FACTS, facts)
        told = self._study.tell(trial, value, state=TOLD[state], skip_if_finished=True)
        return _record(told)

    @_InWords()
    def trials(self) -> list[TrialRecord]:
        """All trials by number."""
        return _records(self._study)

    def adopt(self) -> int:
        """Queue again, once each, what a dead driver left running and what machines failed. Returns how many.

        A trial that its workers' machines or its storage failed (`lost`) counts as ended for the driver
        that saw it; the next one may find the machines mended.
        """
        trials = self._study.get_trials(deepcopy=False)
        asked_again = _asked_again(trials)
        left = [trial for trial in trials if trial.state == TrialState.RUNNING]
        lost = [trial for trial in trials if facts_of(trial).get("lost") and trial.number not in asked_again]
        for trial in (*left, *lost):
            # Queued before it is ended: a driver that dies between the two finds both again.
            if trial.number not in asked_again:
                params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
                self._study.enqueue_trial(params, user_attrs={"retry_of": trial.number})
        for trial in left:
            self._study._storage.set_trial_user_attr(trial._trial_id, "reason", ORPHAN)
            self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        return len(left) + len(lost)


@_InWords()
def open_study(
    name: str,
    space: Space,
    *,
    store: Store,
    identity: Mapping[str, str],
    url: str | None = None,
    scores: Scores | None = None,
) -> Study:
    """Create the study, or go on with it.

    Args:
        name: unique in the store.
        space: what is searched.
        store: holds `studies.db` and the lock.
        identity: what else makes it this study: cache and splits.
        url: of another database; `CGN_STUDY_URL` where None, `studies.db` where that is not set.
        scores: for rules that compare trials case by case.

    Raises:
        ConfigError: such a rule, and no scores.
        StudyError: another driver holds it, or under this name stands another search.
    """
    url = url or databases.study_url(store)
    hold = study_lock.StudyLock(name, store, url)
    try:
        behind = _storage(url)
        storage = HeldStorage(behind)
        declaration = {**identity, **space.declaration()}
        known = {summary.study_name for summary in optuna.get_all_study_summaries(storage=storage)}
        pruner = make_pruner(space.prune, space.base.epochs, scores)
        if name in known:
            study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
            _same(name, study.user_attrs.get("declaration"), declaration)
        else:
            study = optuna.create_study(study_name=name, storage=storage, direction="maximize", pruner=pruner)
        # The declaration is written last: a study without one is a creation that was cut short.
        if "declaration" not in study.user_attrs:
            there = study.get_trials(deepcopy=False)
            for params in list(space.queued())[len(there) :]:
                study.enqueue_trial(params)
            study.set_metric_names(["val_auc"])  # as Optuna's dashboard calls it
            study.set_user_attr("id", secrets.token_hex(8))
            study.set_user_attr("declaration", declaration)
        opened = Study(name, space, study, behind, hold, scores)
        opened.orphans = opened.adopt()
    except BaseException:
        hold.release()
        raise
    return opened


@_InWords()
def read_trials(name: str, study_id: str, url: str) -> list[TrialRecord]:
    """All trials of a study by number, to look at; none where there is no such study any more.

    Args:
        name: of the study.
        study_id: of this very one; a new study may have taken the name.
        url: of its database.
    """
    with _reading(url) as storage:
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            return []
        return _records(study) if study.user_attrs.get("id") == study_id else []


@_InWords()
def recorded(name: str, store: Store, url: str | None = None) -> tuple[Mapping[str, Any], list[TrialRecord]]:
    """What a study was declared to be, and all its trials by number, to look at; no lock is taken.

    Raises:
        StudyError: there is none of this name.
    """
    with _reading(url or databases.study_url(store)) as storage:
        known = sorted(summary.study_name for summary in optuna.get_all_study_summaries(storage=storage))
        if name not in known:
            raise StudyError(f"no study {name!r} in {store}: there are {', '.join(known) or 'none'}")
        study = optuna.load_study(study_name=name, storage=storage)
        return study.user_attrs.get("declaration", {}), _records(study)


def _records(study: optuna.Study) -> list[TrialRecord]:
    trials = study.get_trials(deepcopy=False)
    again = _asked_again(trials)
    return [_record(trial, orphan=trial.number in again) for trial in trials]


def _disconnect(storage: optuna.storages.RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


@_InWords()
def make_tables(url: str) -> None:
    """An empty database where there is none yet, for those who only read."""
    with _reading(url):
        pass


@contextmanager
def _reading(url: str) -> Iterator[optuna.storages.RDBStorage]:
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
    with closing(sqlite3.connect(path, timeout=60)) as file:
        file.execute("PRAGMA journal_mode=WAL")  # readers (reports, MLflow users) do not block the driver
    return optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})


def _same(name: str, old: Any, new: Mapping[str, Any]) -> None:
    if old is None:
        return
    if found := difference(old, new):
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise StudyError(
            f"study {name!r} is another search: {found[0]}{more}: change it back or choose another --name"
        )


def _sampler(seed: int, trials: int) -> optuna.samplers.BaseSampler:
    """Seeded from the base seed and the history's length: a resumed search never repeats its draws."""
    digest = hashlib.sha256(f"{seed}/{trials}".encode()).digest()
    return optuna.samplers.TPESampler(
        group=True,  # dimensions that exist only with others are modelled apart
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


def _asked_again(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the trials in whose place another one was asked: orphans."""
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


@_InWords()
def importances(name: str, store: Store, url: str | None = None) -> dict[str, float]:
    """Hutter et al. 2014, functional ANOVA. Share of the variance of the value that each dimension explains.

    Reads only: no lock is taken. Empty where there are too few complete trials, or all have one value.
    Dimensions that exist in some trials only are left out.
    """
    with _reading(url or databases.study_url(store)) as storage:
        study = optuna.load_study(study_name=name, storage=storage)
        values = {trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))}
        if len(values) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}
