"""Events that MLflow does not have yet: one SQLite database per study, written first and sent later.

Every event has a number, also one that could not be written (a full disk), so missing numbers reveal a loss.
`gap` then stays true until `clear_gap`, which is called once MLflow has been filled from the study. A lost
tail cannot be detected by numbering: readers must therefore reconcile with the study every trial that has no
`ended` event.

The database is in WAL mode with `synchronous = NORMAL`: appended events survive a killed process, an append
does not wait for the disk, and a power cut takes the last events and damages nothing. Each event has a
checksum, because SQLite has none. A damaged database is moved aside and replaced by an empty one with a gap.

One process writes an outbox at a time (it holds the lock of the study); one of its threads appends, one reads.
"""

import errno
import json
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from cgn_platform.tracking import segments

Event = Mapping[str, Any]

CHUNK = 2_000  # events read at once
BUSY_SECONDS = 1  # how long a statement waits for another process
DATABASE, DAMAGED = "outbox.db", "damaged.db"
TABLES = (
    "CREATE TABLE events (number INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, event BLOB NOT NULL)",
    "CREATE TABLE state (acknowledged INTEGER NOT NULL, gap INTEGER NOT NULL, notes BLOB NOT NULL)",
)
READ = "SELECT number, checksum, event FROM events WHERE number > ? ORDER BY number LIMIT ?"


class Outbox:
    """The events of one study that MLflow does not have yet, and `notes`, a small JSON object."""

    def __init__(self, folder: Path, warn: Callable[[str], None] = lambda _line: None) -> None:
        """Read the state, if there is one. Nothing is created before the first write.

        Args:
            folder: contains nothing else.
            warn: called with one line if the database is damaged.
        """
        self.folder, self._warn = folder, warn
        self.notes: dict[str, Any] = {}
        self.gap = self._loaded = False
        self.acknowledged = self._last = self._read_to = 0  # numbers of events
        self._database: sqlite3.Connection | None = None
        self._lock = threading.Lock()  # held while the connection is used
        if (folder / DATABASE).exists() or segments.exist(folder):
            with suppress(OSError):  # the first write raises it again
                self._run(lambda _database: None)

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

        def insert(database: sqlite3.Connection) -> None:
            row = (self._last, _checksum(self._last, content), content)
            database.execute("INSERT INTO events VALUES (?, ?, ?)", row)

        try:
            self._run(insert)
        except OSError:
            self.gap = True
            raise

    def read(self) -> list[Event]:
        """The next events, at most `CHUNK`; the same ones again until they are acknowledged.

        Raises:
            OSError: the database cannot be read.
        """
        if not self._loaded:
            return []
        rows = self._run(lambda database: database.execute(READ, (self.acknowledged, CHUNK)).fetchall())
        intact = [(number, event) for number, checksum, event in rows if checksum == _checksum(number, event)]
        numbers = [number for number, _ in intact]
        self.gap |= numbers != list(range(self.acknowledged + 1, self.acknowledged + 1 + len(rows)))
        self._read_to = numbers[-1] if numbers else self.acknowledged
        return [json.loads(event) for _, event in intact]

    def acknowledge(self) -> None:
        """MLflow has the events of the last `read`; they are deleted.

        Raises:
            OSError: the next process reads them again.
        """
        self.acknowledged = self._read_to
        self._run(self._save)

    def clear_gap(self) -> None:
        """MLflow has been filled from the study. No event may be appended meanwhile.

        Raises:
            OSError: the next process fills MLflow again.
        """
        if self.gap:
            self.gap = False
            self.acknowledged = self._last
            self._run(self._save)

    def note(self, **facts: Any) -> None:
        """Store plain JSON values beside the events.

        Raises:
            OSError: only this process has them.
        """
        self.notes = {**self.notes, **facts}
        self._run(lambda database: database.execute("UPDATE state SET notes = ?", (_encode(self.notes),)))

    def close(self) -> None:
        """Close the database; the next access opens it again."""
        with self._lock:
            self._disconnect()

    def _save(self, database: sqlite3.Connection) -> None:
        # Two transactions. If the process is killed between them, the next call deletes the events.
        database.execute("UPDATE state SET acknowledged = ?, gap = ?", (self.acknowledged, self.gap))
        database.execute("DELETE FROM events WHERE number <= ?", (self.acknowledged,))

    def _run(self, action: Callable[[sqlite3.Connection], Any]) -> Any:
        """Call `action` with the connection, and once more with a new database if this one is damaged.

        Raises:
            OSError: the disk is full, or the database is locked or cannot be opened.
        """
        with self._lock:
            try:
                try:
                    return action(self._connect())
                except sqlite3.DatabaseError as error:
                    if type(error) is not sqlite3.DatabaseError:  # subclasses report anything but damage
                        raise
                    self._replace(error)
                    return action(self._connect())
            except sqlite3.Error as error:
                full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
                code = errno.ENOSPC if full else errno.EIO
                raise OSError(code, os.strerror(code) if full else str(error)) from error

    def _connect(self) -> sqlite3.Connection:
        if self._database is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / DATABASE
            existed = path.exists()
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # SQLite's other files get the same mode
            database = _open(path)
            try:
                self._load(database, existed)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _load(self, database: sqlite3.Connection, existed: bool) -> None:
        """Create missing tables; on first use, read the state."""
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()
        if not tables:
            with database:
                database.execute("BEGIN IMMEDIATE")
                self._create(database, existed)
        segments.remove(self.folder)
        if self._loaded:
            return
        try:
            acknowledged, gap, notes = database.execute(
                "SELECT acknowledged, gap, notes FROM state"
            ).fetchone()
            self.notes = {**json.loads(notes), **self.notes}
        except (TypeError, ValueError):
            raise sqlite3.DatabaseError("its state cannot be read") from None
        (last,) = database.execute("SELECT coalesce(max(number), 0) FROM events").fetchone()
        self.gap |= bool(gap)
        self.acknowledged = acknowledged
        self._last += max(acknowledged, last)  # events that were lost before are counted already
        self._loaded = True

    def _create(self, database: sqlite3.Connection, existed: bool) -> None:
        """Create the tables, with what an older version left. An existing file without tables is a gap."""
        for table in TABLES:
            database.execute(table)
        old = segments.read_state(self.folder)
        acknowledged = max(self.acknowledged, old.get("acknowledged", 0))
        rows = (
            (number, _checksum(number, event), event)
            for number, event in segments.read_events(self.folder)
            if number > acknowledged
        )
        database.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
        state = (
            acknowledged,
            self.gap or existed or old.get("gap", False),
            _encode({**old.get("notes", {}), **self.notes}),
        )
        database.execute("INSERT INTO state VALUES (?, ?, ?)", state)

    def _replace(self, error: sqlite3.DatabaseError) -> None:
        """Move a damaged database aside; of its content, only the notes are kept if they are readable."""
        self._disconnect()
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                (self.folder / f"{DATABASE}{suffix}").replace(self.folder / f"{DAMAGED}{suffix}")
        (self.folder / f"{DATABASE}-shm").unlink(missing_ok=True)
        self.gap = True
        self.notes = {**_notes_in(self.folder / DAMAGED), **self.notes}
        self._warn(
            f"{self.folder / DATABASE} is damaged ({error}): it was renamed to {DAMAGED}, and MLflow is filled "
            "from the study and the ledger"
        )

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def read_notes(folder: Path) -> dict[str, Any]:
    """The notes of an outbox that another process may be writing; empty if there are none to be read."""
    return _notes_in(folder / DATABASE) or segments.read_state(folder).get("notes", {})


def _notes_in(path: Path) -> dict[str, Any]:
    with suppress(sqlite3.Error, TypeError, ValueError), closing(_open(path)) as database:
        (notes,) = database.execute("SELECT notes FROM state").fetchone()
        return dict(json.loads(notes))
    return {}


def _open(path: Path) -> sqlite3.Connection:
    """An existing database, without transactions of Python's own."""
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _checksum(number: int, event: bytes) -> int:
    return zlib.crc32(b"%d %b" % (number, event))


def _encode(notes: Mapping[str, Any]) -> bytes:
    return json.dumps(notes).encode()
