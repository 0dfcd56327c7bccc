"""MLflow as a window for people, and the only door to it: a projection of the study and the ledger.

What happens is told as events, plain JSON with the time fixed once, into an outbox on disk (`outbox`);
training waits for nothing else. A thread hands them to `Projection`, which turns them into MLflow calls.
Runs are found again by their tags, and a point that comes twice is one point, so everything may be told
again. What no event tells (a driver that was killed, a full disk, an empty server) is told from the study
and the ledger, as the same events: `Projection.settle`. `cgn track` does both without a sweep.
"""

import functools
import json
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

import cgn
from cgn.errors import LedgerError, PlatformError, StudyError
from cgn.results import mean_losses
from cgn_platform.console import summary
from cgn_platform.outbox import Event, Outbox

if TYPE_CHECKING:  # types only: no Ray or Optuna is loaded for them
    from cgn.config import Config
    from cgn.results import EpochReport
    from cgn_platform.ledger import Ledger
    from cgn_platform.study import Asked, TrialRecord
    from cgn_platform.worker import Step

LIMIT = 1000  # metrics, parameters and tags a call
PAGE_RUNS = 500  # runs a call
Progress = Callable[[int], None]

STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "orphan": "KILLED"}

PULSE_SECONDS = 0.5  # events of so long go into the same calls
AWAY_SECONDS = 1, 30  # from one try to the next while the server is away: first, at most
CLOSE_SECONDS = 60  # what the driver waits at the end for a slow server
CLOSE_TRIES = 3  # and how often it knocks at one that is away

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a request that is repeated blindly can create a run twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

# Without this the UI opens as one about language models, on a page without runs.
PAGE = "#/experiments?workflowType=machine_learning"


def default_uri(store: Path) -> str:
    """`MLFLOW_TRACKING_URI`, or a database in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.resolve() / 'mlflow.db'}"


def how_to_look(uri: str) -> str:
    """What a person types or opens to see the runs."""
    if uri.startswith("http"):
        return f"{uri}/{PAGE}"
    mlflow = os.path.relpath(Path(sys.executable).with_name("mlflow"))
    return f"{mlflow} ui --backend-store-uri {uri}\nand open http://127.0.0.1:5000/{PAGE}"


def connect(uri: str) -> tuple[Any, Any]:
    """MLflow, imported quietly, and a client of this server or database, whose tables are made."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _make_database(uri, lambda draft: mlflow.MlflowClient(draft).search_experiments(max_results=1))
    return mlflow, mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def code_version() -> str:
    """The git commit of `cgn`, "-dirty" where files differ from it; "unknown" in an uploaded copy."""
    folder = Path(cgn.__file__).parent

    def git(*command: str) -> str:
        asked = subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, check=True)
        return asked.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}-dirty" if git("status", "--porcelain", "--", ".") else commit
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@dataclass(frozen=True)
class Parent:
    """What the run of a whole sweep says, and where it is found.

    Attributes:
        experiment: its name.
        tags: of every run: cache, splits, code.
        params: what is searched.
        time: of its start, in ms.
    """

    experiment: str
    study: str
    study_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    time: int = field(default_factory=lambda: _now())


class Projection:
    """Events into MLflow: one parent run a study, one child run a trial, found again by their tags."""

    def __init__(
        self, uri: str, parent: Parent, *, artifacts: Path, on_refusal: Callable[[str], None]
    ) -> None:
        """Connect; nothing is written.

        Args:
            uri: of a server, or of a database.
            parent: whose runs these are.
            artifacts: where files go that are logged without a server.
            on_refusal: told of what this server will never take.
        """
        mlflow, self._client = connect(uri)
        self._entities, self._refusal = mlflow.entities, mlflow.exceptions.MlflowException
        self._artifacts = None if uri.startswith("http") else str(artifacts.absolute())
        self._about, self._on_refusal = parent, on_refusal
        self._runs: dict[int, str] = {}  # of trials by number
        self._states: dict[int, str] = {}  # of trials that ended, as their run tells it
        self._experiment = self._parent = ""

    def open(self, *, running: bool) -> bool:
        """Find the runs of this study, or make the parent's; returns whether it was there."""
        about = self._about
        found = self._client.get_experiment_by_name(about.experiment)
        self._experiment = (
            found.experiment_id
            if found
            else self._client.create_experiment(about.experiment, artifact_location=self._artifacts)
        )
        parents = self._search(f"tags.`cgn.study_id` = '{about.study_id}'", "cgn.study_id")
        there = bool(parents)
        if there:
            self._parent = parents[about.study_id].info.run_id
            if running:
                self._client.update_run(self._parent, status="RUNNING")
        else:
            self._parent = self._create(about.study, about.time, {"cgn.study_id": about.study_id})
        self._write(self._parent, [{"params": about.params, "tags": about.tags, "time": about.time}])
        for trial, run in self._search(f"tags.`mlflow.parentRunId` = '{self._parent}'", "cgn.trial").items():
            number = int(trial.rpartition("/")[2])
            self._runs[number] = run.info.run_id
            # The state is written before the status: who was killed in between has not ended this run.
            ended = run.info.status != "RUNNING"
            self._states[number] = run.data.tags.get("cgn.state", "") if ended else ""
        return there

    def apply(self, events: Iterable[Event]) -> None:
        """Events of trials, in their order; as few calls as can be."""
        by_trial: dict[int | None, list[Event]] = {}
        for event in events:
            by_trial.setdefault(event["trial"], []).append(event)
        for number, told in by_trial.items():
            run = self._parent if number is None else self._run(number, told[0]["time"])
            self._write(run, told)
            for event in told:
                match event["kind"]:
                    case "ended":
                        self._client.set_terminated(run, event["status"], event["time"])
                        self._states[event["trial"]] = event["tags"]["cgn.state"]
                    case "artifact" if Path(event["path"]).is_file():
                        self._client.log_artifact(run, event["path"])
                    case "artifact":
                        self._on_refusal(f"{event['path']} is not there any more")

    def settle(self, records: "Sequence[TrialRecord]", ledger: "Ledger | None", *, whole: bool) -> None:
        """Bring the runs up to the study: those that do not end as it says, or all of them (`whole`)."""
        for record in records:
            if record.state in STATUS and (whole or self._states.get(record.number) != record.state):
                self._bring_up(record.number, list(retell(record, self._about.tags, ledger)))

    def finish(self, records: "Sequence[TrialRecord]", status: str, now: int) -> None:
        """The end of the sweep, with what a parent shows: a point for each number of trials."""
        for number in self._runs:
            if not self._states.get(number):  # its study was removed, or replaced
                tags = {"cgn.state": "orphan", "cgn.reason": "the study does not know it"}
                event = {"kind": "ended", "trial": number, "time": now, "status": "KILLED", "tags": tags}
                self.apply([event])
        asked = sum(record.state in STATUS for record in records)
        shown = self._client.get_run(self._parent).data.metrics  # a resume with nothing new adds no points
        figures = _numbers(summary(records)).items()
        news = {name: value for name, value in figures if shown.get(name) != value}
        self._write(self._parent, [{"metrics": news, "epoch": asked, "time": now}])
        self._client.set_terminated(self._parent, status, now)

    def _bring_up(self, number: int, events: list[Event]) -> None:
        """Tell what this run does not have yet, whatever times its points have."""
        shown = self._client.get_run(self._run(number, events[0]["time"])).data.metrics
        there = {
            (name, point.step)
            for name in shown
            for point in self._client.get_metric_history(self._runs[number], name)
        }

        def missing(event: Event) -> dict[str, float]:
            values = event.get("metrics", {}).items()
            return {name: value for name, value in values if (name, event.get("epoch", 0)) not in there}

        self.apply({**event, "metrics": missing(event)} for event in events)

    def _run(self, number: int, when: int) -> str:
        if number not in self._runs:
            tags = {"cgn.trial": f"{self._about.study}/{number}", "mlflow.parentRunId": self._parent}
            self._runs[number] = self._create(f"trial {number}", when, tags)
        return self._runs[number]

    def _search(self, where: str, tag: str) -> dict[str, Any]:
        """Runs by the value of a tag that is unique to each.

        A server that was killed, or was slow, may have made a run without our hearing of it, and we then
        made it again. The one that was written to stays.
        """
        page = self._client.search_runs([self._experiment], where, max_results=PAGE_RUNS)
        runs = list(page)
        while page.token:
            page = self._client.search_runs(
                [self._experiment], where, max_results=PAGE_RUNS, page_token=page.token
            )
            runs += page
        found: dict[str, Any] = {}
        for run in runs:
            value = run.data.tags.get(tag)
            if value is None:  # somebody's own run, put below ours
                continue
            other = found.setdefault(value, run)
            if other is not run:
                found[value], ghost = sorted((run, other), key=_written, reverse=True)
                self._client.delete_run(ghost.info.run_id)
        return found

    def _create(self, name: str, when: int, tags: Mapping[str, str]) -> str:
        run = self._client.create_run(self._experiment, start_time=when, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def _write(self, run: str, events: Sequence[Event]) -> None:
        """Parameters, tags and metrics of these events. What the server will never take is left out."""
        entities = self._entities
        metrics = [
            entities.Metric(name, value, event["time"], event.get("epoch", 0))
            for event in events
            for name, value in event.get("metrics", {}).items()
        ]
        params = [entities.Param(*pair) for event in events for pair in event.get("params", {}).items()]
        tags = [entities.RunTag(*pair) for event in events for pair in event.get("tags", {}).items()]
        try:
            while metrics or params or tags:
                room = LIMIT - len(params) - len(tags)
                self._client.log_batch(run, metrics[:room], params, tags)
                metrics, params, tags = metrics[room:], [], []
        except self._refusal as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            if len(events) == 1:
                self._on_refusal(f"MLflow refuses what it was told ({_first_line(error)})")
            else:
                for event in events:
                    self._write(run, [event])


def _quietly(_done: int) -> None:
    pass


def drain(projection: Projection, outbox: Outbox, on_progress: Progress = _quietly) -> None:
    """Hand over what the outbox holds."""
    while events := outbox.read():
        projection.apply(events)
        with suppress(OSError):  # a full disk: the next process tells it again
            outbox.acknowledge()
        on_progress(len(events))


def deliver(
    projection: Projection,
    outbox: Outbox,
    records: "Sequence[TrialRecord]",
    ledger: "Ledger | None",
    *,
    whole: bool = False,
    on_progress: Progress = _quietly,
) -> None:
    """Make MLflow tell what outbox, study and ledger tell, now that the sweep has ended.

    The order matters: an event that comes after its point was told from the study would be a second point.

    Args:
        projection: opened.
        outbox: nobody writes it any more.
        records: all trials of the study; one that is running has lost its driver.
        ledger: where the folds' curves are.
        whole: compare every run with the study, point by point; else only runs that did not end as it says.
        on_progress: told how many events or trials were done since it was last told.
    """
    records = [_orphaned(record) for record in records]
    drain(projection, outbox, on_progress)
    for record in records:
        projection.settle([record], ledger, whole=whole or outbox.gap)
        on_progress(1)
    closed = outbox.notes.get("closed") or {"status": "KILLED", "time": _now()}
    projection.finish(records, closed["status"], closed["time"])
    with suppress(OSError):
        outbox.mended()


class Tracker:
    """A `Listener` of the sweep: events go to the outbox at once, and from there to MLflow in a thread."""

    def __init__(
        self,
        store: Path,
        uri: str,
        parent: Parent,
        *,
        records: "Sequence[TrialRecord]" = (),
        ledger: "Ledger | None" = None,
        on_problem: Callable[[str], None] = print,
    ) -> None:
        self._outbox = Outbox(outbox_of(store, parent.study_id))
        if known := self._outbox.notes.get("parent"):
            parent = replace(parent, time=known["time"])  # it began with its first driver
        self._store, self._uri, self._parent, self._ledger = store, uri, parent, ledger
        self._records, self._on_problem = records, on_problem
        self._full = self._away = self._done = self._given_up = False
        self._closing = threading.Event()
        self._keep(lambda: self._outbox.note(parent=asdict(parent), closed=None))
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def started(self, trial: "Asked") -> None:
        """A trial was asked for."""
        self._append(started(trial.number, trial.config, self._parent.tags, _now()))

    def epoch(self, number: int, step: "Step") -> None:
        """Mean and folds of the validation AUC, and the losses."""
        self._append(epoch(number, vars(step), _now()))

    def ended(self, record: "TrialRecord") -> None:
        """A trial is complete, pruned or failed."""
        self._append(ended(record, _now()))

    def artifact(self, path: Path, number: int | None = None) -> None:
        """A file to keep with a trial's run, or with the parent's; it must stay where it is."""
        self._append({"kind": "artifact", "trial": number, "path": str(path.absolute()), "time": _now()})

    def close(self, status: str, records: "Sequence[TrialRecord]") -> None:
        """The sweep ended, with these trials. Waits for the server, but not long, and says what is left."""
        self._records = records
        self._keep(lambda: self._outbox.note(closed={"status": status, "time": _now()}))
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        self._given_up = True
        self._outbox.close()
        if not self._done:
            self._on_problem(
                f"MLflow lacks {self._outbox.left} events and the end of the sweep: the next run of this "
                f"command sends them, or 'cgn track --store {os.path.relpath(self._store)}'"
            )

    def _append(self, event: Event) -> None:
        self._keep(lambda: self._outbox.append(event))

    def _keep(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if not self._full:
                self._full = True
                self._on_problem(
                    f"{self._outbox.folder} cannot be written ({error.strerror or error}): the sweep goes "
                    "on, and MLflow is filled from the study"
                )

    def _work(self) -> None:
        (first, longest), tries = AWAY_SECONDS, CLOSE_TRIES
        wait = first
        while not self._given_up and tries:
            try:
                self._send()
            except Exception as error:  # whatever a server or its client does, training goes on
                if not self._away and not self._given_up:
                    self._away, wait = True, first
                    self._on_problem(
                        f"MLflow cannot be written ({_first_line(error)}): the sweep goes on, and MLflow "
                        "gets it all when it is back"
                    )
                tries -= self._closing.is_set()
                if self._closing.wait(wait):
                    time.sleep(first)
                wait = min(2 * wait, longest)
            else:
                return

    def _send(self) -> None:
        """Connect and send until the end of the sweep, or until the server fails."""
        projection = _projection(self._uri, self._parent, self._store, self._on_problem)
        if not projection.open(running=True) and self._outbox.acknowledged:
            self._outbox.gap = True  # the server lost what it had
        drain(projection, self._outbox, self._proceed)
        if not self._closing.is_set():
            projection.settle(self._records, self._ledger, whole=self._outbox.gap)
        if self._away:
            self._away = False
            self._on_problem("MLflow is back, and has what it missed")
        while not self._closing.wait(PULSE_SECONDS):
            drain(projection, self._outbox, self._proceed)
        deliver(projection, self._outbox, self._records, self._ledger, on_progress=self._proceed)
        self._done = True

    def _proceed(self, _done: int) -> None:
        if self._given_up:
            raise TimeoutError


def track(
    store: Path,
    uri: str,
    *,
    name: str | None = None,
    rebuild: bool = False,
    ledger: "Ledger | None" = None,
    say: Callable[[str], None] = print,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[str]:
    """Bring MLflow up to all studies of a store that no driver holds, or to one; returns their names.

    Args:
        store: with the outboxes and the studies.
        uri: of MLflow.
        name: of one study.
        rebuild: compare every run with study and ledger, point by point; an empty server is filled.
        ledger: where the folds' curves are.
        say: told of what is left out.
        on_progress: told a study's name, how many events and trials it has, how many more are done.

    Raises:
        StudyError: no sweep of this name was tracked, or the studies' database does not answer.
        PlatformError: MLflow cannot be written.
    """
    from cgn_platform import database, study  # not needed by those who only ask for addresses

    url = database.study_url(store)
    noted = [(folder, Outbox(folder).notes) for folder in sorted((store / "outbox").glob("*"))]
    parents = {folder: Parent(**notes["parent"]) for folder, notes in noted if "parent" in notes}
    if name is not None and name not in {parent.study for parent in parents.values()}:
        there = ", ".join(sorted(parent.study for parent in parents.values())) or "none"
        raise StudyError(f"no sweep {name!r} was tracked in {store}: there are {there}")
    brought = []
    for folder, parent in parents.items():
        if name not in (None, parent.study):
            continue
        try:
            hold = database.Hold(parent.study, store, url)
        except StudyError as error:
            say(f"left to its driver: {error}")
            continue
        try:
            outbox, records = Outbox(folder), study.read_trials(parent.study, parent.study_id, url)
            tell = functools.partial(on_progress, parent.study, outbox.left + len(records))
            try:
                projection = _projection(uri, parent, store, say)
                lost = not projection.open(running=False)
                deliver(projection, outbox, records, ledger, whole=rebuild or lost, on_progress=tell)
            except Exception as error:  # whatever a server or its client does
                raise PlatformError(
                    f"MLflow cannot be written at {database.hidden(uri)} ({_first_line(error)}): "
                    "start it, or give --url"
                ) from error
        finally:
            hold.release()
        brought.append(parent.study)
    return brought


def log_run(
    parent: Parent,
    record: "TrialRecord",
    files: Sequence[Path],
    *,
    store: Path,
    uri: str,
    say: Callable[[str], None] = print,
) -> None:
    """One run that is over, with files as its artifacts, without an outbox: who ran it waits for it.

    Raises:
        PlatformError: MLflow cannot be written.
    """
    now = _now()
    about = {"kind": "artifact", "trial": record.number, "time": now}
    kept = [{**about, "path": str(file.absolute())} for file in files]
    try:
        projection = _projection(uri, parent, store, say)
        projection.open(running=True)
        projection.settle([record], None, whole=True)  # where it stands already, nothing is told twice
        projection.apply(kept)
        projection.finish([record], "FINISHED", now)
    except Exception as error:  # whatever a server or its client does
        raise PlatformError(
            f"MLflow cannot be written ({_first_line(error)}): start it, or leave out --track"
        ) from error


def outbox_of(store: Path, study_id: str) -> Path:
    """The folder of a study's outbox."""
    return store / "outbox" / study_id


def started(trial: int, config: "Config", tags: Mapping[str, str], now: int) -> Event:
    """A trial began, with its configuration as parameters."""
    values = config.model_dump(mode="json").items()
    params = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values}
    tags = {**tags, "fingerprint": config.fingerprint()}
    return {"kind": "started", "trial": trial, "time": now, "params": params, "tags": tags}


def epoch(trial: int, told: Mapping[str, Any], now: int) -> Event:
    """An epoch of a trial, as a `Step` or the study tells it."""
    folds = {f"fold_{fold}/val_auc": value for fold, value in (told.get("folds") or {}).items()}
    metrics = {"val_auc": told["val_auc"], **folds, **(told.get("losses") or {})}
    return {"kind": "epoch", "trial": trial, "time": now, "epoch": told["epoch"], "metrics": metrics}


def ended(record: "TrialRecord", now: int) -> Event:
    """A trial ended: its final figures, by fold, and the reason where it was stopped."""
    facts = record.facts
    metrics = {name: facts.get(name) for name in ("test_auc", "localization_error", "seconds")}
    metrics["best_val_auc"] = record.value
    for fold in facts.get("folds", ()):
        names = ("test_auc", "localization_error", "best_epoch")
        metrics |= {f"fold_{fold['fold']}/{name}": fold[name] for name in names}
    told = {
        "cgn.state": record.state,
        "cgn.reason": facts.get("reason"),
        "cgn.retry_of": facts.get("retry_of"),
    }
    return {
        "kind": "ended",
        "trial": record.number,
        "time": now,
        "status": STATUS[record.state],
        "metrics": _numbers(metrics),
        "tags": {name: str(value) for name, value in told.items() if value is not None},
    }


def retell(record: "TrialRecord", tags: Mapping[str, str], ledger: "Ledger | None") -> Iterator[Event]:
    """The events of a trial, from what the study and the ledger remember."""
    began, end = record.began or _now(), record.ended or _now()
    if record.config is not None:
        yield started(record.number, record.config, tags, began)
    now = float(began)
    for told in history(record, ledger):
        now += 1000 * told.get("seconds", 0)
        yield epoch(record.number, told, int(now))
    yield ended(record, end)


def history(record: "TrialRecord", ledger: "Ledger | None") -> Sequence[Mapping[str, Any]]:
    """The epochs of a trial, from the best source there is.

    A complete trial's folds are in the ledger; of one that was stopped the study keeps the steps; an
    orphan has but the curve that was reported.
    """
    facts = record.facts
    if "steps" in facts:
        return list(facts["steps"])
    if ledger is not None and "units" in facts:
        with suppress(LedgerError):  # a damaged unit: the curve still stands
            folds = [ledger.open(unit).reports for unit in facts["units"]]
            epochs = [_mean(reports) for reports in zip(*folds, strict=True)]
            return [{**told, "val_auc": record.curve[told["epoch"]]} for told in epochs]
    return [{"epoch": number, "val_auc": value} for number, value in record.curve.items()]


def _mean(reports: "Sequence[EpochReport]") -> dict[str, Any]:
    """One epoch of all folds, as a worker tells it."""
    return {
        "epoch": reports[0].epoch,
        "folds": {report.fold: report.val_auc for report in reports},
        "losses": mean_losses([report.losses for report in reports]),
        "seconds": sum(report.seconds for report in reports),
    }


def _orphaned(record: "TrialRecord") -> "TrialRecord":
    """A trial that is running although nobody drives it, as the next driver will remember it."""
    if record.state != "running":
        return record
    from cgn_platform.study import ORPHAN

    return replace(record, state="orphan", facts={**record.facts, "reason": ORPHAN})


def _projection(uri: str, parent: Parent, store: Path, say: Callable[[str], None]) -> Projection:
    return Projection(uri, parent, artifacts=store / "mlartifacts", on_refusal=say)


def _make_database(uri: str, fill: Callable[[str], object]) -> None:
    """MLflow makes its tables one by one: who is killed meanwhile leaves a file that it never opens again."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists() or not path.parent.is_dir():
        return
    draft = path.with_name(f".{path.name}.tmp")
    with FileLock(f"{path}.lock"):
        if not path.exists():
            draft.unlink(missing_ok=True)
            fill(f"sqlite:///{draft}")
            draft.replace(path)


def _written(run: Any) -> tuple[int, int, int]:
    """How much a run was told."""
    return len(run.data.metrics), len(run.data.params), len(run.data.tags)


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _now() -> int:
    return int(time.time() * 1000)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
