"""Sends the events of a running sweep to MLflow from a thread."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from cgn.errors import first_line
from cgn_platform.search.controller import Outcome
from cgn_platform.search.records import EpochUpdate, StudyInfo, TrialRecord, TrialSpec
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger
from cgn_platform.tracking import events
from cgn_platform.tracking.delivery import deliver, drain
from cgn_platform.tracking.events import RunInfo, now_ms
from cgn_platform.tracking.outbox import Event, Outbox
from cgn_platform.tracking.writer import open_writer

PULSE_SECONDS = 5  # events of so long go into the same calls; MLflow's page looks every 30 s


AWAY_SECONDS = 1, 30  # from one try to the next while the server is away: first, at most


CLOSE_SECONDS = 60  # what the driver waits at the end for a slow server


CLOSE_TRIES = 3  # and how often it knocks at one that is away


class Tracker:
    """A `Listener` of the sweep: events go to the outbox at once, and from there to MLflow in a thread."""

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
            store: holds the outbox.
            uri: of MLflow.
            ledger: holds the test scores of finished folds, for intervals.
            on_problem: called with a line on what cannot be written.
        """
        self._store, self._uri, self._ledger, self._on_problem = store, uri, ledger, on_problem
        self._full = self._away = self._done = self._given_up = False
        self._closing = threading.Event()

    def begin(self, study: StudyInfo) -> None:
        """Open the outbox, and start the thread that connects and sends."""
        run = RunInfo(study.dataset, study.name, study.id, study.tags, study.params, folds=study.folds)
        self._outbox = Outbox(self._store.outbox(study.id))
        if known := self._outbox.notes.get("parent"):
            run = replace(run, time=known["time"])  # the run began with its first driver
        self._parent, self._records = run, study.records
        self._keep(lambda: self._outbox.note(parent=asdict(run), closed=None))
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def started(self, trial: TrialSpec) -> None:
        """A trial was asked for."""
        self._append(events.started(trial.number, trial.config, self._parent.tags, now_ms()))

    def epoch(self, number: int, step: EpochUpdate) -> None:
        """Mean and folds of the validation AUC, and the losses."""
        self._append(events.epoch(number, vars(step), now_ms()))

    def lost(self, number: int, cause: str) -> None:
        """Nothing: the end of the trial will tell it."""

    def ended(self, record: TrialRecord) -> None:
        """A trial is complete, pruned or failed."""
        self._append(events.ended(record, now_ms()))

    def artifact(self, path: Path, number: int | None = None) -> None:
        """A file to keep with a trial's run, or with the parent's; it must stay where it is."""
        self._append({"kind": "artifact", "trial": number, "path": str(path.absolute()), "time": now_ms()})

    @property
    def left(self) -> int:
        """Events that MLflow does not have yet."""
        return self._outbox.left

    def end(self, outcome: Outcome, records: Sequence[TrialRecord]) -> None:
        """The sweep ended. Waits a limited time for the server, and says what it still lacks."""
        self._records = records
        self._keep(lambda: self._outbox.note(closed={"status": outcome, "time": now_ms()}))
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
        projection = open_writer(self._uri, self._parent, self._store, self._on_problem, self._ledger)
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
        page = self._store.report(self._parent.study).page
        deliver(projection, self._outbox, self._records, self._ledger, page=page, on_progress=self._proceed)
        self._done = True

    def _proceed(self, _done: int) -> None:
        if self._given_up:
            raise TimeoutError
