"""Sends the events of a running sweep to MLflow from a thread."""

import hashlib
import os
import shlex
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

from cgn.errors import PlatformError, first_line
from cgn_platform.search.controller import Outcome
from cgn_platform.search.records import EpochUpdate, StudyInfo, TrialRecord, TrialSpec
from cgn_platform.store import databases
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger
from cgn_platform.tracking import events
from cgn_platform.tracking.delivery import deliver_sweep, drain, retire_former
from cgn_platform.tracking.events import RunInfo, now_ms
from cgn_platform.tracking.outbox import Event, Outbox
from cgn_platform.tracking.writer import open_writer

PULSE_SECONDS = 5  # events of this long go into the same calls; MLflow's UI refreshes every 30 s
RETRY_SECONDS = 1, 30  # between two tries while the server does not answer: the first, the longest
CLOSE_SECONDS = 60  # how long the driver waits at the end for a slow server
CLOSE_TRIES = 3  # and how often it tries one that does not answer


class Tracker:
    """A `Listener` of the sweep: events are stored in the outbox, and a thread sends them to MLflow."""

    def __init__(
        self,
        store: Store,
        uri: str,
        *,
        ledger: Ledger | None = None,
        on_problem: Callable[[str], None] = print,
    ) -> None:
        """Nothing is opened before `begin`.

        Args:
            store: contains the outbox.
            uri: of MLflow.
            ledger: contains the test scores of finished folds, for intervals.
            on_problem: called with a line about what cannot be written.
        """
        self._store, self._uri, self._ledger, self._on_problem = store, uri, ledger, on_problem
        self._disk_failed = self._offline = self._done = self._given_up = False
        self._closing = threading.Event()

    def begin(self, study: StudyInfo) -> None:
        """Open the outbox, and start the thread that connects and sends."""
        run = RunInfo(study.dataset, study.name, study.id, study.tags, study.params, folds=study.folds)
        self._outbox = Outbox(self._store.outbox(study.id), self._on_problem)
        if noted := self._outbox.notes.get("parent"):
            run = replace(run, time=noted["time"])  # the run began with its first driver
        self._parent, self._records = run, study.records
        url = databases.study_url(self._store)
        self._database = hashlib.sha256(url.encode()).hexdigest()[:16]  # it may contain a password
        self._write(lambda: self._outbox.note(parent=asdict(run), closed=None, database=self._database))
        self._thread = threading.Thread(target=self._send_until_done, name="mlflow", daemon=True)
        self._thread.start()

    def started(self, trial: TrialSpec) -> None:
        """A trial starts."""
        self._append(events.started(trial.number, trial.config, self._parent.tags, now_ms()))

    def epoch(self, number: int, update: EpochUpdate) -> None:
        """Mean and folds of the validation AUC, and the losses."""
        self._append(events.epoch(number, vars(update), now_ms()))

    def lost(self, number: int, cause: str) -> None:
        """Nothing is sent; the causes are part of the `ended` event."""

    def ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        self._append(events.ended(record, now_ms()))

    @property
    def pending(self) -> int:
        """Number of events that MLflow does not have yet."""
        return self._outbox.pending

    def end(self, outcome: Outcome, records: Sequence[TrialRecord]) -> None:
        """The sweep ended. Waits a limited time for the server, and reports what it still lacks."""
        self._records = records
        self._write(lambda: self._outbox.note(closed={"status": outcome, "time": now_ms()}))
        self._closing.set()
        self._thread.join(CLOSE_SECONDS)
        self._given_up = True
        self._outbox.close()
        if not self._done:
            self._on_problem(
                f"MLflow lacks {self._outbox.pending} events and the end of the sweep: the next run of this "
                f"command sends them, or 'cgn track --store {shlex.quote(os.path.relpath(self._store))}'"
            )

    def _append(self, event: Event) -> None:
        self._write(lambda: self._outbox.append(event))

    def _write(self, write: Callable[[], None]) -> None:
        """Write to the outbox; only the first failure is reported."""
        try:
            write()
        except OSError as error:
            if not self._disk_failed:
                self._disk_failed = True
                self._on_problem(
                    f"{self._outbox.folder} cannot be written ({error.strerror or error}): the sweep goes "
                    "on, and MLflow is filled from the study"
                )

    def _send_until_done(self) -> None:
        (first, longest), tries = RETRY_SECONDS, CLOSE_TRIES
        wait = first
        while not self._given_up and tries:
            try:
                self._send()
            except Exception as error:  # a server and its client may raise anything; training goes on
                if not self._offline and not self._given_up:
                    self._offline, wait = True, first
                    cause = str(error) if isinstance(error, PlatformError) else first_line(error)
                    self._on_problem(
                        f"MLflow cannot be written ({cause}): the sweep goes on, and MLflow gets everything "
                        "once it can be written again"
                    )
                tries -= self._closing.is_set()
                if self._closing.wait(wait):
                    time.sleep(first)
                wait = min(2 * wait, longest)
            else:
                return

    def _send(self) -> None:
        """Connect, and send until the end of the sweep.

        Raises whatever MLflow's client raises when the server fails.
        """
        writer = open_writer(self._uri, self._parent, self._store, self._on_problem, self._ledger)
        if not writer.open(running=True) and self._outbox.acknowledged:
            self._outbox.gap = True  # the server has lost the events that it had
        retire_former(writer, self._parent, self._store, self._database, self._on_problem)
        drain(writer, self._outbox, self._check_given_up)
        if not self._closing.is_set():
            writer.reconcile(self._records, whole=self._outbox.gap)
        if self._offline:
            self._offline = False
            self._on_problem("MLflow answers again, and has what it missed")
        while not self._closing.wait(PULSE_SECONDS):
            drain(writer, self._outbox, self._check_given_up)
        report = self._store.report(self._parent.study).page
        deliver_sweep(writer, self._outbox, self._records, report=report, on_progress=self._check_given_up)
        self._done = True

    def _check_given_up(self, _done: int) -> None:
        if self._given_up:
            raise TimeoutError
