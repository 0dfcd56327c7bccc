"""Send the outboxes of a store to MLflow, and fill in from study, ledger and facts what no event contains.

During a sweep, events go to an outbox on disk (`outbox`), and a thread passes them to `MLflowWriter`
(`tracker`). `track` does the same without a sweep.

The outbox of a table contains no events, only the note that there is such a table. Tables are written to
MLflow from their `facts.json`, so that their runs always show the current facts.
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cgn.errors import PlatformError, StudyError, first_line
from cgn.files import is_name
from cgn_platform.remedies import remedy_of
from cgn_platform.search.records import TrialRecord
from cgn_platform.store import databases
from cgn_platform.store.layout import Store
from cgn_platform.store.ledger import Ledger
from cgn_platform.tracking.events import RunInfo, as_orphan, now_ms
from cgn_platform.tracking.outbox import DATABASE, Outbox, read_notes
from cgn_platform.tracking.tables import deliver_table, read_table_facts
from cgn_platform.tracking.writer import MLflowWriter, open_writer

Progress = Callable[[int], None]


def _ignore(_done: int) -> None:
    pass


def drain(writer: MLflowWriter, outbox: Outbox, on_progress: Progress = _ignore) -> None:
    """Send the events of the outbox, and delete them."""
    while events := outbox.read():
        writer.apply(events)
        with suppress(OSError):  # on a full disk, the next process sends them again
            outbox.acknowledge()
        on_progress(len(events))


def deliver_sweep(
    writer: MLflowWriter,
    outbox: Outbox,
    records: Sequence[TrialRecord],
    *,
    report: Path,
    whole: bool = False,
    on_progress: Progress = _ignore,
) -> None:
    """Bring MLflow up to date after the sweep has ended.

    The outbox is sent before backfilling from the study: MLflow keeps both points if an event arrives after
    the same metric and step was backfilled.

    Args:
        writer: opened.
        outbox: no process appends to it.
        records: all trials of the study; a running one has lost its driver.
        report: the HTML page, if there is one.
        whole: compare every run with the study point by point. Otherwise only runs whose state differs.
        on_progress: called with the number of events or trials sent since the last call.
    """
    records = [as_orphan(record) for record in records]
    drain(writer, outbox, on_progress)
    for record in records:
        writer.reconcile([record], whole=whole or outbox.gap)
        on_progress(1)
    closed = outbox.notes.get("closed") or {"status": "KILLED", "time": now_ms()}
    writer.finish(records, closed["status"], closed["time"], report)
    with suppress(OSError):
        outbox.clear_gap()
        outbox.note(page=writer.runs_page)


def retire_former(
    writer: MLflowWriter, parent: RunInfo, store: Store, database: str, warn: Callable[[str], None]
) -> None:
    """Delete the runs of a study that the database has lost and that this one repeats: none is double.

    Args:
        writer: opened, for the new study.
        parent: the new study; a former one has its name, searches the same on the same data.
        store: contains the outboxes.
        database: of the new study, as its outbox notes it; a former one was in the same database.
        warn: called with a line on what was deleted.
    """
    for folder in store.outboxes():
        notes = read_notes(folder)
        if "parent" not in notes or "replaced_by" in notes or notes.get("database") != database:
            continue
        former = RunInfo(**notes["parent"])
        if former.study_id == parent.study_id or former.repeated_key() != parent.repeated_key():
            continue
        count = writer.retire(former.study_id)
        with Outbox(folder, warn) as outbox:
            outbox.note(replaced_by=parent.study_id)
        warn(
            f"a study {parent.study} that the database has lost is begun anew: its {count} runs in MLflow "
            "were deleted, this study takes their place"
        )


def track(
    store: Store,
    uri: str,
    *,
    name: str | None = None,
    rebuild: bool = False,
    ledger: Ledger | None = None,
    warn: Callable[[str], None] = print,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[str]:
    """Bring MLflow up to date with all tables and all sweeps of a store that no driver holds.

    Args:
        store: contains the outboxes and the studies.
        uri: of MLflow.
        name: of a single sweep or table.
        rebuild: compare every run with study and ledger, point by point; this fills an empty server.
        ledger: contains the folds' curves.
        warn: called with a line about whatever is left out.
        on_progress: called with a name, the number of its events and trials, how many more are done.

    Returns:
        Names of the sweeps and tables that MLflow now shows.

    Raises:
        StudyError: nothing of this name was tracked, or the studies' database does not answer.
        PlatformError: MLflow cannot be written.
    """
    delivery = _Delivery(store, uri, ledger, rebuild, warn, on_progress)
    parents = delivery.parents()
    names = sorted({parent.study for parent in parents.values()})
    if name is not None and name not in names:
        existing = ", ".join(names) or "none"
        raise StudyError(f"no sweep or table {name!r} was tracked in {store}: there are {existing}")
    updated = []
    for folder, parent in parents.items():
        deliver = delivery.table if parent.kind == "table" else delivery.sweep
        if name in (None, parent.study) and deliver(folder, parent):
            updated.append(parent.study)
    return updated


@dataclass(frozen=True)
class _Delivery:
    """The arguments of `track`; methods return whether they delivered."""

    store: Store
    uri: str
    ledger: Ledger | None
    rebuild: bool
    warn: Callable[[str], None]
    on_progress: Callable[[str, int, int], None]

    def parents(self) -> dict[Path, RunInfo]:
        """The tracked sweeps and tables, by their outbox."""
        parents = {}
        for folder in self.store.outboxes():
            notes = read_notes(folder)
            if "replaced_by" in notes:
                continue
            if "parent" in notes and not is_name(study := notes["parent"]["study"]):
                self.warn(f"left out: {study!r} of {folder} is not a valid name of a sweep or table any more")
            elif "parent" in notes:
                parents[folder] = RunInfo(**notes["parent"])
            elif (folder / DATABASE).exists():
                advice = (
                    "does not name its sweep or table (damaged?): run that again"
                    if os.access(folder / DATABASE, os.W_OK)
                    else "may not be written by this account: correct its rights"
                )
                self.warn(f"left out: {folder} {advice}")
        return parents

    def table(self, folder: Path, parent: RunInfo) -> bool:
        if not (facts := read_table_facts(parent, self.store)):
            self.warn(
                f"left out: {parent.study} has no facts any more, or its name now belongs to another table"
            )
            return False
        with Outbox(folder, self.warn) as outbox, self._mlflow_errors():
            writer = open_writer(self.uri, parent, self.store, self.warn, self.ledger)
            writer.open(running=False)
            deliver_table(writer, outbox, facts, self.store.report(parent.study).page)
        return True

    def sweep(self, folder: Path, parent: RunInfo) -> bool:
        from cgn_platform.search import study, study_lock  # late: Optuna and psycopg

        url = databases.study_url(self.store)
        try:
            lock = study_lock.StudyLock(parent.study, self.store, url)
        except StudyError as error:
            self.warn(f"left to its driver: {error}")
            return False
        try:
            records = study.read_trials(parent.study, parent.study_id, url)
            with Outbox(folder, self.warn) as outbox, self._mlflow_errors():
                if records is None:
                    self.warn(
                        f"the study {parent.study} is not in {databases.hidden(url)} any more: its runs in "
                        "MLflow stay as they are; its command begins it anew, from the folds in the ledger"
                    )
                    if not outbox.pending and outbox.notes.get("closed"):
                        return False
                    records = []
                total = outbox.pending + len(records)
                writer = open_writer(self.uri, parent, self.store, self.warn, self.ledger)
                existed = writer.open(running=False)
                deliver_sweep(
                    writer,
                    outbox,
                    records,
                    report=self.store.report(parent.study).page,
                    whole=self.rebuild or not existed,
                    on_progress=functools.partial(self.on_progress, parent.study, total),
                )
        finally:
            lock.release()
        return True

    @contextmanager
    def _mlflow_errors(self) -> Iterator[None]:
        try:
            yield
        except PlatformError:  # the experiment was deleted, or the ledger cannot be read
            raise
        except Exception as error:  # a server and its client may raise anything
            raise PlatformError(
                f"MLflow cannot be written at {databases.hidden(self.uri)} ({first_line(error)})",
                remedy=remedy_of(error) or "solve this problem, or give --url",
            ) from error
