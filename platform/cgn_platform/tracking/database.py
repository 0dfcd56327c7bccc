"""An SQLite database that never stops its writer: errors become OSError, and a damaged file is replaced."""

import errno
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from cgn_platform.store.databases import file_uri

BUSY_SECONDS = 1  # how long a statement waits for another process
T = TypeVar("T")


class Database:
    """One file, opened when it is needed, used by one thread at a time."""

    def __init__(
        self,
        path: Path,
        prepare: Callable[[sqlite3.Connection, bool], None],
        on_damage: Callable[[sqlite3.DatabaseError, Path], None],
    ) -> None:
        """Nothing is opened or created yet.

        Args:
            path: of the file; its folder is created with it.
            prepare: called with each new connection, and whether the file existed; creates missing tables.
            on_damage: called after a damaged file was renamed to the given path.
        """
        self._path, self._prepare, self._on_damage = path, prepare, on_damage
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    def run(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Call `action` with the connection; if the file is damaged, again with an empty database.

        Raises:
            OSError: the disk is full, or the file is locked or cannot be opened.
        """
        with self._lock:
            try:
                try:
                    return action(self._connect())
                except sqlite3.DatabaseError as error:
                    if type(error) is not sqlite3.DatabaseError:  # its subclasses do not mean damage
                        raise
                    self._replace(error)
                    return action(self._connect())
            except sqlite3.Error as error:
                full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
                code = errno.ENOSPC if full else errno.EIO
                raise OSError(code, os.strerror(code) if full else str(error)) from error

    def close(self) -> None:
        """Close the file; the next `run` opens it again."""
        with self._lock:
            self._disconnect()

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            existed = self._path.exists()
            # Private. SQLite gives its other files the same mode.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = open_existing(self._path)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                self._prepare(connection, existed)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _replace(self, error: sqlite3.DatabaseError) -> None:
        self._disconnect()
        damaged = self._path.with_name(f"damaged-{self._path.name}")
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                Path(f"{self._path}{suffix}").replace(f"{damaged}{suffix}")
        Path(f"{self._path}-shm").unlink(missing_ok=True)
        self._on_damage(error, damaged)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def open_existing(path: Path) -> sqlite3.Connection:
    """A connection for several threads; each statement is a transaction unless one is begun.

    Raises:
        sqlite3.OperationalError: there is no such file.
    """
    options: dict[str, Any] = {"isolation_level": None, "check_same_thread": False}
    connection: sqlite3.Connection = sqlite3.connect(
        file_uri(path, "rw"), uri=True, timeout=BUSY_SECONDS, **options
    )
    connection.text_factory = bytes  # a damaged text need not be UTF-8
    return connection
