"""Events that MLflow does not have yet: one SQLite database per study, written first and sent later.

Every event has a number, also one that could not be written (a full disk), so missing numbers reveal a loss.
`gap` then stays true until `clear_gap`, which is called once MLflow has been filled from the study. A lost
tail cannot be detected by numbering: readers must therefore reconcile with the study every trial that has no
`ended` event.

The database is in WAL mode with `synchronous = NORMAL`: appended events survive a killed process, an append
does not wait for the disk, and a power cut takes the last events and damages nothing. Each event has a
checksum, because SQLite has none. A damaged database is moved aside and replaced by an empty one with a gap.

One process writes an outbox at a time (it holds the lock of the study). One thread appends, one reads.
"""

import json
import sqlite3
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

from cgn.errors import PlatformError
from cgn_platform.tracking import segments
from cgn_platform.tracking.database import Database, open_existing

Event = Mapping[str, Any]

CHUNK = 2_000  # events read at once
DATABASE = "outbox.db"
FORMAT = 2  # 1: `segments`
TABLES = (
    "CREATE TABLE events (number INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, event BLOB NOT NULL)",
    "CREATE TABLE state (acknowledged INTEGER NOT NULL, gap INTEGER NOT NULL, notes BLOB NOT NULL)",
)
APPEND = "INSERT INTO events VALUES (?, ?, ?)"
READ = "SELECT number, checksum, event FROM events WHERE number > ? ORDER BY number LIMIT ?"


class Outbox:
    """The events of one study that MLflow does not have yet, and `notes`, a small JSON object."""

    def __init__(self, folder: Path, warn: Callable[[str], None] = lambda _line: None) -> None:
        """Read the state, if there is one. Nothing is created before the first write.

        Args:
            folder: contains nothing else.
            warn: called with one line if the database is damaged.

        Raises:
            PlatformError: a later version wrote it.
        """
        self.folder, self._warn = folder, warn
        self.notes: dict[str, Any] = {}
        self.gap = False
        self.acknowledged = self._last = self._read_to = 0  # numbers of events
        self._database = Database(folder / DATABASE, self._load, self._damaged)
        if (folder / DATABASE).exists() or segments.exist(folder):
            with suppress(OSError):  # the first write raises it again
                self._database.run(lambda _connection: None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pending(self) -> int:
        """Number of events that MLflow does not have, including those that could not be written."""
        return self._last - self.acknowledged

    def append(self, event: Event) -> None:
        """Store one event.

        Raises:
            OSError: the event is lost, and the numbering will reveal it.
        """
        content = json.dumps(event).encode()
        self._last += 1

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute(APPEND, (self._last, checksum(self._last, content), content))

        try:
            self._database.run(insert)
        except OSError:
            self.gap = True
            raise

    def read(self) -> list[Event]:
        """The next events, at most `CHUNK`; the same ones again until they are acknowledged.

        Raises:
            OSError: the database cannot be read.
        """
        if not self.pending:
            return []
        first = self.acknowledged + 1
        rows = self._database.run(lambda database: database.execute(READ, (first - 1, CHUNK)).fetchall())
        intact = [
            (number, event)
            for number, check, event in rows
            if isinstance(event, bytes) and check == checksum(number, event)
        ]
        numbers = [number for number, _ in intact]
        self.gap |= numbers != list(range(first, first + len(rows)))
        self._read_to = numbers[-1] if numbers else self.acknowledged
        return [json.loads(event) for _, event in intact]

    def acknowledge(self) -> None:
        """MLflow has the events of the last `read`; they are deleted.

        Raises:
            OSError: the next process reads them again.
        """
        self.acknowledged = self._read_to
        self._database.run(self._save)

    def clear_gap(self) -> None:
        """MLflow has been filled from the study. No event may be appended meanwhile.

        Raises:
            OSError: the next process fills MLflow again.
        """
        if self.gap:
            self.gap = False
            self.acknowledged = self._last
            self._database.run(self._save)

    def note(self, **facts: Any) -> None:
        """Store plain JSON values beside the events.

        Raises:
            OSError: only this process has them.
        """
        self.notes = {**self.notes, **facts}
        self._database.run(lambda database: database.execute("UPDATE state SET notes = ?", (self._notes(),)))

    def close(self) -> None:
        """Close the database; the next access opens it again."""
        self._database.close()

    def _notes(self) -> bytes:
        return json.dumps(self.notes).encode()

    def _save(self, connection: sqlite3.Connection) -> None:
        # Two transactions. If the process is killed between them, the next call deletes the events.
        connection.execute("UPDATE state SET acknowledged = ?, gap = ?", (self.acknowledged, self.gap))
        connection.execute("DELETE FROM events WHERE number <= ?", (self.acknowledged,))

    def _load(self, connection: sqlite3.Connection, existed: bool) -> None:
        """Read the state, after creating the tables in a new database."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > FORMAT:
            raise PlatformError(
                f"{self.folder / DATABASE} has format {version} but this version reads up to {FORMAT}",
                remedy="use the version of cgn-platform that wrote it, or a later one",
            )
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()
        if not tables:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                self._create(connection, existed)
        segments.remove(self.folder)
        try:
            acknowledged, gap, notes = connection.execute("SELECT * FROM state").fetchone()
            self.notes = {**json.loads(notes), **self.notes}
        except (TypeError, ValueError):
            raise sqlite3.DatabaseError("its state cannot be read") from None
        (last,) = connection.execute("SELECT coalesce(max(number), 0) FROM events").fetchone()
        self.gap |= bool(gap)
        self.acknowledged = max(self.acknowledged, acknowledged)
        self._last = max(self._last, self.acknowledged, last)

    def _create(self, connection: sqlite3.Connection, existed: bool) -> None:
        """Create the tables, with what an older version left. An existing file without tables is a gap."""
        old = segments.read_state(self.folder)
        self.acknowledged = max(self.acknowledged, old.get("acknowledged", 0))
        self.gap |= existed or old.get("gap", False)
        self.notes = {**old.get("notes", {}), **self.notes}
        for statement in (*TABLES, f"PRAGMA user_version = {FORMAT}"):
            connection.execute(statement)
        rows = (row for row in segments.read_events(self.folder) if row[0] > self.acknowledged)
        connection.executemany(APPEND, rows)
        connection.execute("INSERT INTO state VALUES (?, ?, ?)", (self.acknowledged, self.gap, self._notes()))

    def _damaged(self, error: sqlite3.DatabaseError, moved_to: Path) -> None:
        self.gap = True
        self.notes = {**_notes_in(moved_to), **self.notes}
        self._warn(
            f"{self.folder / DATABASE} is damaged ({error}): it was renamed to {moved_to.name}, and "
            "MLflow is filled from the study and the ledger"
        )


def read_notes(folder: Path) -> dict[str, Any]:
    """The notes of an outbox that another process may be writing; empty if there are none to be read."""
    return _notes_in(folder / DATABASE) or segments.read_state(folder).get("notes", {})


def checksum(number: int, event: bytes) -> int:
    """Of one event, so that a damaged one is not sent."""
    return zlib.crc32(b"%d %b" % (number, event))


def _notes_in(path: Path) -> dict[str, Any]:
    with suppress(sqlite3.Error, TypeError, ValueError), closing(open_existing(path)) as database:
        (notes,) = database.execute("SELECT notes FROM state").fetchone()
        return dict(json.loads(notes))
    return {}
