"""MLflow as a window for people, and the only door to it: a projection of the study and the ledger.

What happens is told as events, plain JSON with the time fixed once, into an outbox on disk (`outbox`);
training waits for nothing else. A thread hands them to `Projection`, which turns them into MLflow calls.
Runs are found again by their tags, and a point that comes twice is one point, so everything may be told
again. What no event tells (a driver that was killed, a full disk, an empty server) is told from the study
and the ledger, as the same events: `Projection.settle`. `cgn track` does both without a sweep.

A table is told from its `facts.json`, which is written before: its outbox holds no events, but notes that
there is such a table. Its runs say what its facts say now, however often it was run.
"""

import functools
import hashlib
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

import cgn
from cgn import statistics
from cgn.errors import LedgerError, PlatformError, StudyError
from cgn.results import mean_losses
from cgn_platform import notes
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
NOTE = 8000  # characters of a tag
DESCRIPTION = "mlflow.note.content"
Progress = Callable[[int], None]

CHILD = {"sweep": "trial", "table": "row"}  # what the runs below a parent are
STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED", "orphan": "KILLED"}

PULSE_SECONDS = 5  # events of so long go into the same calls; MLflow's page looks every 30 s
AWAY_SECONDS = 1, 30  # from one try to the next while the server is away: first, at most
CLOSE_SECONDS = 60  # what the driver waits at the end for a slow server
CLOSE_TRIES = 3  # and how often it knocks at one that is away

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a request that is repeated blindly can create a run twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # it knows of no terminal and writes into logs
}

# Without this the UI opens as one about language models, on a page without runs.
WORKFLOW = "workflowType=machine_learning"
PAGE = f"#/experiments?{WORKFLOW}"
KIND = ("mlflow.experimentKind", "custom_model_development")
# What MLflow's UI keeps of a page that somebody shares; its address names the last part of the tag.
VIEW = "mlflow.sharedViewState."
SHARE = "viewStateShareKey"


def default_uri(store: Path) -> str:
    """`MLFLOW_TRACKING_URI`, or a database in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.resolve() / 'mlflow.db'}"


def how_to_look(uri: str, page: str = PAGE) -> str:
    """What a person types or opens to see the runs."""
    if uri.startswith("http"):
        return f"{uri}/{page}"
    mlflow = os.path.relpath(Path(sys.executable).with_name("mlflow"))
    return f"{mlflow} ui --backend-store-uri {uri}\nand open http://127.0.0.1:5000/{page}"


def page_of(store: Path, name: str) -> str:
    """Where the runs of this sweep or table stand side by side; all experiments where MLflow was away."""
    told = (Outbox(folder).notes for folder in (store / "outbox").glob("*"))
    pages = [(each["parent"]["time"], each["page"]) for each in told if _named(each, name) and "page" in each]
    return str(max(pages)[1]) if pages else PAGE


def is_tracked(store: Path, name: str) -> bool:
    """Whether a sweep or table of this name was told to MLflow, or is to be."""
    return any(_named(Outbox(folder).notes, name) for folder in (store / "outbox").glob("*"))


def _named(told: Mapping[str, Any], name: str) -> bool:
    return "parent" in told and told["parent"]["study"] == name


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


def make_tables(store: Path) -> None:
    """MLflow's tables in the store's database, whole: a server that is killed making them leaves a part."""
    if not (path := store / "mlflow.db").exists():
        connect(f"sqlite:///{path}")


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
    """What the run of a whole sweep or table says, and where it is found.

    Attributes:
        experiment: its name.
        study: name of the sweep or table.
        study_id: of this very one.
        tags: of every run: cache, splits, code.
        params: what is searched.
        time: of its start, in ms.
        kind: what it is.
        folds: how many a trial or row has.
    """

    experiment: str
    study: str
    study_id: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    time: int = field(default_factory=lambda: _now())
    kind: Literal["sweep", "table"] = "sweep"
    folds: int = 0


class Projection:
    """Events into MLflow: a parent run a sweep or table, a child run a trial or row, found by their tags."""

    def __init__(
        self,
        uri: str,
        parent: Parent,
        *,
        artifacts: Path,
        on_refusal: Callable[[str], None],
        ledger: "Ledger | None" = None,
    ) -> None:
        """Connect; nothing is written.

        Args:
            uri: of a server, or of a database.
            parent: whose runs these are.
            artifacts: where files go that are logged without a server.
            on_refusal: told of what this server will never take.
            ledger: where the test scores of finished folds are, for intervals.
        """
        mlflow, self._client = connect(uri)
        self._entities, self._refusal = mlflow.entities, mlflow.exceptions.MlflowException
        self._artifacts = None if uri.startswith("http") else str(artifacts.absolute())
        self._about, self._on_refusal, self._ledger = parent, on_refusal, ledger
        self._tag = f"cgn.{CHILD[parent.kind]}"
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
        self._set_view(found)
        for trial, run in self._search(f"tags.`mlflow.parentRunId` = '{self._parent}'", self._tag).items():
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
            self._write(run, [self._with_interval(event) for event in told])
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

    def tell_table(self, facts: Mapping[str, Any], page: Path) -> None:
        """The rows of a table as its facts have them, and what the parent shows. What stands stays."""
        now = _when(facts)
        for number, row in enumerate(facts["rows"]):
            told = row_event(number, row, self._about.tags, now)
            name, run = told["name"], self._runs.get(number)
            there = self._client.get_run(run).data if run else None
            if there and not _can_say(there, told):
                self._client.delete_run(run)  # a run forgets neither a parameter nor a mean
                del self._runs[number]
                there = None
            run = self._run(number, self._about.time, name)
            self._write(run, [{**told, "metrics": _news(told["metrics"], there.metrics if there else {})}])
            self._client.set_terminated(run, told["status"], now)
        lacking = sum(not row["complete"] for row in facts["rows"])
        state = f"{lacking} of {len(facts['rows'])} rows are INCOMPLETE" if lacking else "complete"
        shown = self._client.get_run(self._parent).data.metrics
        figures = _news(_numbers({"detectable": facts["detectable"]}), shown)
        self._write(self._parent, [{"metrics": figures, "tags": {"cgn.state": state}, "time": now}])
        self._describe(notes.of_table, facts, page)
        self._client.set_terminated(self._parent, "FAILED" if lacking else "FINISHED", now)

    def finish(
        self, records: "Sequence[TrialRecord]", status: str, now: int, page: Path | None = None
    ) -> None:
        """The end of the sweep, with what a parent shows: a point for each number of trials."""
        for number in self._runs:
            if not self._states.get(number):  # its study was removed, or replaced
                tags = {"cgn.state": "orphan", "cgn.reason": "the study does not know it"}
                event = {"kind": "ended", "trial": number, "time": now, "status": "KILLED", "tags": tags}
                self.apply([event])
        asked = sum(record.state in STATUS for record in records)
        shown = self._client.get_run(self._parent).data.metrics  # a resume with nothing new adds no points
        figures = _numbers(summary(records)).items()
        self._write(self._parent, [{"metrics": _news(dict(figures), shown), "epoch": asked, "time": now}])
        self._describe(functools.partial(notes.of_sweep, interval=self._interval), records, page)
        self._client.set_terminated(self._parent, status, now)

    @property
    def page(self) -> str:
        """The path, in MLflow's UI, of a page that shows the child runs side by side."""
        return f"#/experiments/{self._experiment}/runs?{SHARE}={self._about.study_id}&{WORKFLOW}"

    def _set_view(self, experiment: Any) -> None:
        """The columns that people compare by, as a shared view; the experiment's kind, for its pages."""
        view = json.dumps(view_of(self._about, self._parent), separators=(",", ":"))
        there = experiment.tags if experiment else {}
        wanted = dict([KIND]) | {f"{VIEW}{self._about.study_id}": view}
        for name, value in wanted.items():
            if there.get(name) != value and not (name in there and name == KIND[0]):  # or what people chose
                self._client.set_experiment_tag(self._experiment, name, value)

    def _describe(self, note: Callable[..., str], told: Any, page: Path | None) -> None:
        """The description of the parent, unless somebody edited it, and the report where there is one."""
        there = self._client.get_run(self._parent).data.tags
        report = None if page is None else page.is_file()
        text = note(told, about=self._about, page=self.page, report=report)[:NOTE]
        tags = {}
        if _digest(there.get(DESCRIPTION, "")) == there.get("cgn.note", _digest("")):
            tags = {DESCRIPTION: text, "cgn.note": _digest(text)}
        if page is not None and report:
            tags["cgn.report"] = _digest(page.read_text())
            if there.get("cgn.report") != tags["cgn.report"]:
                self._client.log_artifact(self._parent, str(page))
        self._write(self._parent, [{"tags": _news(tags, there), "time": 0}])

    def _with_interval(self, event: Event) -> Event:
        """The end of a complete trial, with the interval of its test AUC."""
        if not (interval := self._interval(event.get("units"))):
            return event
        ends = {"test_auc_low": interval.low, "test_auc_high": interval.high}
        return {**event, "metrics": {**event["metrics"], **ends}}

    def _interval(self, units: Sequence[str] | None) -> statistics.Interval | None:
        """Reading 21, from the ledger; None where a unit is not there, or tests a single class."""
        if self._ledger is None or not units:
            return None
        rows: list[dict[str, Any]] = []
        for name in units:
            with suppress(LedgerError):
                rows += self._ledger.open(name).predictions.to_pylist()
        rows.sort(key=lambda row: row["index"])  # as the report has them: its draws, its interval
        names = ("label", "p_malignant", "patient_id", "fold")
        label, score, patient, fold = ([row[name] for row in rows] for name in names)
        try:
            return statistics.bootstrap_auc(label, score, patient, fold)
        except ValueError:
            return None

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

    def _run(self, number: int, when: int, name: str = "") -> str:
        if number not in self._runs:
            tags = {self._tag: f"{self._about.study}/{number}", "mlflow.parentRunId": self._parent}
            self._runs[number] = self._create(name or f"trial {number}", when, tags)
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
    page: Path,
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
        page: the report, where there is one.
        whole: compare every run with the study, point by point; else only runs that did not end as it says.
        on_progress: told how many events or trials were done since it was last told.
    """
    records = [_orphaned(record) for record in records]
    drain(projection, outbox, on_progress)
    for record in records:
        projection.settle([record], ledger, whole=whole or outbox.gap)
        on_progress(1)
    closed = outbox.notes.get("closed") or {"status": "KILLED", "time": _now()}
    projection.finish(records, closed["status"], closed["time"], page)
    with suppress(OSError):
        outbox.mended()
        outbox.note(page=projection.page)


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

    def lost(self, number: int, cause: str) -> None:
        """Nothing: the end of the trial will tell it."""

    def ended(self, record: "TrialRecord") -> None:
        """A trial is complete, pruned or failed."""
        self._append(ended(record, _now()))

    def artifact(self, path: Path, number: int | None = None) -> None:
        """A file to keep with a trial's run, or with the parent's; it must stay where it is."""
        self._append({"kind": "artifact", "trial": number, "path": str(path.absolute()), "time": _now()})

    @property
    def left(self) -> int:
        """Events that MLflow does not have yet."""
        return self._outbox.left

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
        projection = _projection(self._uri, self._parent, self._store, self._on_problem, self._ledger)
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
        page = report_of(self._store, self._parent.study)
        deliver(projection, self._outbox, self._records, self._ledger, page=page, on_progress=self._proceed)
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
    """Bring MLflow up to all tables and all sweeps of a store that no driver holds; returns their names.

    Args:
        store: with the outboxes and the studies.
        uri: of MLflow.
        name: of a single sweep or table.
        rebuild: compare every run with study and ledger, point by point; an empty server is filled.
        ledger: where the folds' curves are.
        say: told of what is left out.
        on_progress: told a name, how many events and trials there are, how many more are done.

    Raises:
        StudyError: nothing of this name was tracked, or the studies' database does not answer.
        PlatformError: MLflow cannot be written.
    """
    from cgn_platform import database, study  # not needed by those who only ask for addresses

    url = database.study_url(store)
    noted = [(folder, Outbox(folder).notes) for folder in sorted((store / "outbox").glob("*"))]
    parents = {folder: Parent(**notes["parent"]) for folder, notes in noted if "parent" in notes}
    if name is not None and name not in {parent.study for parent in parents.values()}:
        there = ", ".join(sorted(parent.study for parent in parents.values())) or "none"
        raise StudyError(f"no sweep or table {name!r} was tracked in {store}: there are {there}")
    brought = []
    for folder, parent in parents.items():
        if name not in (None, parent.study):
            continue
        outbox, facts, records = Outbox(folder), {}, []
        with ExitStack() as ending:
            if parent.kind == "table":
                if not (facts := _facts_of(parent, store)):
                    say(f"left out: {parent.study} has no facts any more, or stands for another table now")
                    continue
            else:
                try:
                    hold = database.Hold(parent.study, store, url)
                except StudyError as error:
                    say(f"left to its driver: {error}")
                    continue
                ending.callback(hold.release)
                records = study.read_trials(parent.study, parent.study_id, url)
            tell = functools.partial(on_progress, parent.study, outbox.left + len(records))
            page = report_of(store, parent.study)
            try:
                projection = _projection(uri, parent, store, say, ledger)
                lost = not projection.open(running=False)
                if parent.kind == "table":
                    _deliver_table(projection, outbox, facts, page)
                else:
                    whole = rebuild or lost
                    deliver(projection, outbox, records, ledger, page=page, whole=whole, on_progress=tell)
            except Exception as error:  # whatever a server or its client does
                raise PlatformError(
                    f"MLflow cannot be written at {database.hidden(uri)} ({_first_line(error)}): "
                    "start it, or give --url"
                ) from error
        brought.append(parent.study)
    return brought


def track_table(
    facts: Mapping[str, Any],
    *,
    store: Path,
    uri: str,
    say: Callable[[str], None] = print,
) -> None:
    """A table that has run, from its facts. A server that is away gets it from `track`, which is said."""
    parent = _table_parent(facts, store)
    outbox = Outbox(outbox_of(store, parent.study_id))
    if known := outbox.notes.get("parent"):
        parent = replace(parent, time=known["time"])  # it began when it was first run
    try:
        outbox.note(parent=asdict(parent))
        projection = _projection(uri, parent, store, say)
        projection.open(running=True)
        _deliver_table(projection, outbox, facts, report_of(store, parent.study))
    except Exception as error:  # whatever a disk, a server or its client does, the table stands
        say(
            f"MLflow cannot be written ({_first_line(error)}): 'cgn track --store {os.path.relpath(store)}' "
            "sends the table when it is back"
        )


def _deliver_table(projection: Projection, outbox: Outbox, facts: Mapping[str, Any], page: Path) -> None:
    projection.tell_table(facts, page)
    with suppress(OSError):
        outbox.note(page=projection.page)


def _table_parent(facts: Mapping[str, Any], store: Path) -> Parent:
    data, run = facts["data"], facts["run"]
    names = ("code", "git_commit", "mode")
    return Parent(
        experiment=data["name"],
        study=facts["name"],
        study_id=_table_id(store, facts["name"]),
        tags={
            **{name: data[name] for name in ("cache", "splits")},
            **{name: run[name] for name in names},
            "seeds": str(len(run["seeds"])),
        },
        time=_when(facts) - int(1000 * run["wall_seconds"]),
        kind="table",
        folds=data["folds"],
    )


def _table_id(store: Path, name: str) -> str:
    """Of what is declared under this name: the same table again is the same run."""
    declared = (report_of(store, name).with_name("declaration.json")).read_bytes()
    return hashlib.sha256(name.encode() + b"\0" + declared).hexdigest()[:16]


def _facts_of(parent: Parent, store: Path) -> dict[str, Any]:
    """Those of this table; empty where they are gone, or another one has taken its name."""
    try:
        if _table_id(store, parent.study) != parent.study_id:
            return {}
        facts: dict[str, Any] = json.loads(report_of(store, parent.study).with_name("facts.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts


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


def report_of(store: Path, name: str) -> Path:
    """Where the page of a sweep or table stands, its facts beside it."""
    return store / "reports" / name / "report.html"


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
        "cgn.lost_workers": "; ".join(facts.get("lost_workers", ())) or None,
    }
    return {
        "kind": "ended",
        "trial": record.number,
        "time": now,
        "status": STATUS[record.state],
        "metrics": _numbers(metrics),
        "tags": {name: str(value) for name, value in told.items() if value is not None},
        "units": facts.get("units"),
    }


def row_event(number: int, row: Mapping[str, Any], tags: Mapping[str, str], now: int) -> Event:
    """A row of a table, from its facts: figures by the names that trials have, means over seeds by fold.

    An INCOMPLETE row has no figures, which its name, its tags and its description say.
    """
    from cgn.config import Config

    complete, published = row["complete"], row["published"]
    told = {
        "cgn.state": "complete" if complete else "INCOMPLETE",
        "cgn.reason": row["why"] or "",
        "cgn.words": row.get("words") or "",
        DESCRIPTION: "" if complete else f"INCOMPLETE: {row['why']}",
        **{f"published.{setting}": f"{value:g}" for setting, value in published.items()},
    }
    begun = started(number, Config.of(row["config"]), {**tags, **told}, now)
    metrics = _row_metrics(row) if complete else {}
    return {**begun, "name": row["name"], "metrics": metrics, "status": "FINISHED" if complete else "FAILED"}


def _row_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    folds = [_mean_of(of_seeds) for of_seeds in zip(*row["fold_auc"], strict=True)]
    metrics: dict[str, float | None] = {
        "best_val_auc": _mean_of([auc for seed in row["val_auc"] for auc in seed]),
        "test_auc": _mean_of(folds),
        **{f"fold_{fold}/test_auc": auc for fold, auc in enumerate(folds)},
        "seconds": row["seconds"],
        "p_adjusted": row.get("p_adjusted"),
    }
    for name, shown in {"test_auc": "auc", **{of: of for of in ("localization_error", "difference")}}.items():
        if interval := row.get(shown):
            ends = {f"{name}_{end}": interval[end] for end in ("low", "high")}
            metrics |= {name: interval["estimate"], **ends}
    return _numbers(metrics)


def view_of(about: Parent, run: str) -> dict[str, Any]:
    """The runs below a parent, the best first, with the columns that people compare by: MLflow's own words
    for what its UI keeps of a page.
    """
    figures = ["best_val_auc", "test_auc", "test_auc_low", "test_auc_high"]
    figures += ["difference", "difference_low", "difference_high"] if about.kind == "table" else []
    figures += ["localization_error", "seconds", *(f"fold_{fold}/test_auc" for fold in range(about.folds))]
    columns = [f"metrics.`{name}`" for name in figures]
    columns += [f"params.`{name}`" for name in about.params if name != "sampler_seed"]
    columns += ["tags.`cgn.words`"] if about.kind == "table" else []
    best = "test_auc" if about.kind == "table" else "best_val_auc"
    return {
        "searchFilter": f'tags.`mlflow.parentRunId` = "{run}"',
        "orderByKey": f"metrics.`{best}`",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
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


def _projection(
    uri: str, parent: Parent, store: Path, say: Callable[[str], None], ledger: "Ledger | None" = None
) -> Projection:
    return Projection(uri, parent, artifacts=store / "mlartifacts", on_refusal=say, ledger=ledger)


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
            draft.chmod(0o600)
            draft.replace(path)


def _written(run: Any) -> tuple[int, int, int]:
    """How much a run was told."""
    return len(run.data.metrics), len(run.data.params), len(run.data.tags)


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _mean_of(values: Sequence[float | None]) -> float | None:
    """None where one of them is no number: nothing incomplete is averaged."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _news(told: Mapping[str, Any], there: Mapping[str, Any]) -> dict[str, Any]:
    """What a run does not show yet."""
    return {name: value for name, value in told.items() if there.get(name) != value}


def _can_say(there: Any, told: Event) -> bool:
    """Whether this run's data can become what is told: parameters stand for ever, and figures stay."""
    same = all(there.params.get(name, value) == value for name, value in told["params"].items())
    return same and set(there.metrics) <= set(told["metrics"])


def _when(facts: Mapping[str, Any]) -> int:
    """When a table ended, in ms."""
    return int(1000 * datetime.strptime(facts["run"]["when"], "%Y-%m-%dT%H:%M:%S%z").timestamp())


def _now() -> int:
    return int(time.time() * 1000)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
