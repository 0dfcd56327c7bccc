"""MLflow as a window for people: a projection of the study and the ledger, and never in training's way.

What happens is told as events (`events`) into an outbox on disk (`outbox`); training waits for nothing else.
A thread hands them to `Projection`, which turns them into MLflow's calls. `cgn track` does the same without
a sweep, and tells from the study and the ledger what no event tells.

A table is told from its `facts.json`, which is written before: its outbox holds no events, but notes that
there is such a table. Its runs say what its facts say now, however often it was run.
"""

import functools
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgn.errors import PlatformError, StudyError, first_line
from cgn_platform import events
from cgn_platform.events import Parent, now_ms, orphaned, when_of
from cgn_platform.outbox import Event, Outbox
from cgn_platform.projection import WORKFLOW, Projection

if TYPE_CHECKING:  # types only: no Ray or Optuna is loaded for them
    from cgn_platform.ledger import Ledger
    from cgn_platform.study import Asked, TrialRecord
    from cgn_platform.worker import Step

Progress = Callable[[int], None]

PULSE_SECONDS = 5  # events of so long go into the same calls; MLflow's page looks every 30 s
AWAY_SECONDS = 1, 30  # from one try to the next while the server is away: first, at most
CLOSE_SECONDS = 60  # what the driver waits at the end for a slow server
CLOSE_TRIES = 3  # and how often it knocks at one that is away

PAGE = f"#/experiments?{WORKFLOW}"


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


def outbox_of(store: Path, study_id: str) -> Path:
    """The folder of a study's outbox."""
    return store / "outbox" / study_id


def report_of(store: Path, name: str) -> Path:
    """Where the page of a sweep or table stands, its facts beside it."""
    return store / "reports" / name / "report.html"


def _quietly(_done: int) -> None:
    pass


def drain(projection: Projection, outbox: Outbox, on_progress: Progress = _quietly) -> None:
    """Hand over what the outbox holds."""
    while told := outbox.read():
        projection.apply(told)
        with suppress(OSError):  # a full disk: the next process tells it again
            outbox.acknowledge()
        on_progress(len(told))


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
    records = [orphaned(record) for record in records]
    drain(projection, outbox, on_progress)
    for record in records:
        projection.settle([record], ledger, whole=whole or outbox.gap)
        on_progress(1)
    closed = outbox.notes.get("closed") or {"status": "KILLED", "time": now_ms()}
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
        self._append(events.started(trial.number, trial.config, self._parent.tags, now_ms()))

    def epoch(self, number: int, step: "Step") -> None:
        """Mean and folds of the validation AUC, and the losses."""
        self._append(events.epoch(number, vars(step), now_ms()))

    def lost(self, number: int, cause: str) -> None:
        """Nothing: the end of the trial will tell it."""

    def ended(self, record: "TrialRecord") -> None:
        """A trial is complete, pruned or failed."""
        self._append(events.ended(record, now_ms()))

    def artifact(self, path: Path, number: int | None = None) -> None:
        """A file to keep with a trial's run, or with the parent's; it must stay where it is."""
        self._append({"kind": "artifact", "trial": number, "path": str(path.absolute()), "time": now_ms()})

    @property
    def left(self) -> int:
        """Events that MLflow does not have yet."""
        return self._outbox.left

    def close(self, status: str, records: "Sequence[TrialRecord]") -> None:
        """The sweep ended, with these trials. Waits for the server, but not long, and says what is left."""
        self._records = records
        self._keep(lambda: self._outbox.note(closed={"status": status, "time": now_ms()}))
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
                        f"MLflow cannot be written ({first_line(error)}): the sweep goes on, and MLflow "
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
                    f"MLflow cannot be written at {database.hidden(uri)} ({first_line(error)}): "
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
            f"MLflow cannot be written ({first_line(error)}): 'cgn track --store {os.path.relpath(store)}' "
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
        time=when_of(facts) - int(1000 * run["wall_seconds"]),
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
    now = now_ms()
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
            f"MLflow cannot be written ({first_line(error)}): start it, or leave out --track"
        ) from error


def _projection(
    uri: str, parent: Parent, store: Path, say: Callable[[str], None], ledger: "Ledger | None" = None
) -> Projection:
    return Projection(uri, parent, artifacts=store / "mlartifacts", on_refusal=say, ledger=ledger)
