"""MLflow as a window for people: a projection of the study and the ledger, and never in training's way.

What happens is told as events (`events`) into an outbox on disk (`outbox`); training waits for nothing else.
A thread hands them to `MLflowWriter`, which turns them into MLflow's calls. `cgn track` does the same without
a sweep, and tells from the study and the ledger what no event tells.

A table is told from its `facts.json`, which is written before: its outbox holds no events, but notes that
there is such a table. Its runs say what its facts say now, however often it was run.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cgn.errors import PlatformError, StudyError, first_line
from cgn_platform.store.layout import Store
from cgn_platform.tracking.events import RunInfo, now_ms, orphaned
from cgn_platform.tracking.outbox import Outbox
from cgn_platform.tracking.tables import deliver_table, read_table_facts
from cgn_platform.tracking.writer import MLflowWriter, open_writer

if TYPE_CHECKING:  # types only: no Ray or Optuna is loaded for them
    from cgn_platform.search.records import TrialRecord
    from cgn_platform.store.ledger import Ledger


Progress = Callable[[int], None]


def _quietly(_done: int) -> None:
    pass


def drain(projection: MLflowWriter, outbox: Outbox, on_progress: Progress = _quietly) -> None:
    """Hand over what the outbox holds."""
    while told := outbox.read():
        projection.apply(told)
        with suppress(OSError):  # a full disk: the next process tells it again
            outbox.acknowledge()
        on_progress(len(told))


def deliver(
    projection: MLflowWriter,
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


def track(
    store: Store,
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
    from cgn_platform.search import (
        study,  # not needed by those who only ask for addresses
        study_lock,
    )
    from cgn_platform.store import databases

    url = databases.study_url(store)
    noted = [(folder, Outbox(folder).notes) for folder in store.outboxes()]
    parents = {folder: RunInfo(**notes["parent"]) for folder, notes in noted if "parent" in notes}
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
                if not (facts := read_table_facts(parent, store)):
                    say(f"left out: {parent.study} has no facts any more, or stands for another table now")
                    continue
            else:
                try:
                    hold = study_lock.StudyLock(parent.study, store, url)
                except StudyError as error:
                    say(f"left to its driver: {error}")
                    continue
                ending.callback(hold.release)
                records = study.read_trials(parent.study, parent.study_id, url)
            tell = functools.partial(on_progress, parent.study, outbox.left + len(records))
            page = store.report(parent.study).page
            try:
                projection = open_writer(uri, parent, store, say, ledger)
                lost = not projection.open(running=False)
                if parent.kind == "table":
                    deliver_table(projection, outbox, facts, page)
                else:
                    whole = rebuild or lost
                    deliver(projection, outbox, records, ledger, page=page, whole=whole, on_progress=tell)
            except Exception as error:  # whatever a server or its client does
                raise PlatformError(
                    f"MLflow cannot be written at {databases.hidden(uri)} ({first_line(error)}): "
                    "start it, or give --url"
                ) from error
        brought.append(parent.study)
    return brought
