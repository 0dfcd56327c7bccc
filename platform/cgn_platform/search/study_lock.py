"""The lock of a study, and whether its database answers.

One driver at a time writes to a study. It holds a file lock in its store, where a report has the study's
name, and a lock that belongs to the study, since drivers of two stores may share its database: a file beside
an SQLite database, an advisory lock in Postgres. All of them end with the process.
"""

import contextlib
import hashlib
import json
import os
import socket
import sqlite3
import time
from pathlib import Path

import psycopg

from cgn import files
from cgn.errors import StudyError, first_line
from cgn.lock import exclusive
from cgn_platform.remedies import remedy_of
from cgn_platform.store.databases import file_uri, hidden, sqlite_path
from cgn_platform.store.layout import Store

CONNECT_SECONDS = 10
KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
"""Postgres frees the lock of a driver whose machine vanished after a minute, not after two hours."""
HOLDER = """
    SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND datname = current_database()
    AND (classid::bigint << 32 | objid::bigint) = %s"""
"""The session that holds an advisory lock of this database. Postgres stores the key in two halves."""


def check_database(url: str) -> None:
    """Open a database and read from it; an SQLite file that does not exist yet is accepted.

    Raises:
        StudyError: it does not answer, or the file is damaged.
    """
    path = sqlite_path(url)
    if path is None:
        _connect(url, "cgn doctor").close()
    elif path.exists():
        try:
            with contextlib.closing(sqlite3.connect(file_uri(path, "ro"), uri=True, timeout=5)) as database:
                database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise StudyError(
                f"{path} is not a readable SQLite database ({error})", remedy=remedy_of(error)
            ) from error


class StudyLock:
    """The exclusive right to write to one study."""

    def __init__(self, name: str, store: Store, url: str) -> None:
        """Acquire it, without waiting.

        Args:
            name: of the study.
            store: of the driver.
            url: of the database.

        Raises:
            ConfigError: the name is not valid.
            StudyError: another driver holds the study, or the database does not answer.
        """
        self._name, self._url = files.check_name(name, "the name of a study"), url
        self._pid, self._host = os.getpid(), socket.gethostname()
        self._since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._session: psycopg.Connection | None = None
        self._file_lock = contextlib.ExitStack()
        try:
            for folder in _lock_folders(store, url):
                self._acquire_file(folder)
            self.ensure_held()
        except BaseException:
            self.release()
            raise

    def ensure_held(self) -> None:
        """Acquire the advisory lock again if its session was lost, for instance as Postgres was restarted.

        Raises:
            StudyError: another driver acquired it in the meantime.
        """
        if sqlite_path(self._url) is not None:
            return
        if self._session is not None:
            with contextlib.suppress(psycopg.Error):
                self._session.execute("SELECT 1")
                return
            self._session.close()
        # Another driver's error message shows this name; Postgres keeps 63 characters of it.
        self._session = _connect(self._url, _holder(self._pid, self._host[:20], self._since))
        key = int.from_bytes(hashlib.sha256(f"cgn study {self._name}".encode()).digest()[:8], signed=True)
        acquired = self._session.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
        if acquired != (True,):
            holder = self._session.execute(HOLDER, (key,)).fetchone()
            raise self._held_by(holder[0] if holder else "another process")

    def release(self) -> None:
        """Release all locks."""
        if self._session is not None:
            with contextlib.suppress(psycopg.Error):  # the server notices the end of a session only later
                self._session.execute("SELECT pg_advisory_unlock_all()")
            self._session.close()
        self._file_lock.close()

    def _acquire_file(self, folder: Path) -> None:
        path = folder / f"{self._name}.holder.json"

        def busy() -> StudyError:
            try:
                holder = json.loads(path.read_text())
                return self._held_by(_holder(holder["pid"], holder["host"], holder["since"]))
            except (OSError, ValueError, KeyError):
                return self._held_by("another process")

        self._file_lock.enter_context(exclusive(folder / f"{self._name}.lock", busy))
        path.write_text(json.dumps({"pid": self._pid, "host": self._host, "since": self._since}))

    def _held_by(self, holder: str) -> StudyError:
        return StudyError(f"study {self._name!r} is held by {holder}", remedy="wait for it, or end it")


def _lock_folders(store: Store, url: str) -> list[Path]:
    """Where the lock files of a study are: in the driver's store, and beside an SQLite database elsewhere.

    Beside the `studies.db` of another store, they are that store's own.
    """
    folders = [store.locks]
    if (database := sqlite_path(url)) is not None:
        database = database.resolve()
        owner = Store(database.parent)
        beside = database.with_name(f"{database.name}.locks")
        folders.append(owner.locks if owner.studies == database else beside)
    return list(dict.fromkeys(folder.resolve() for folder in folders))


def _holder(pid: int, host: str, since: str) -> str:
    return f"process {pid} on {host} since {since}"


def _connect(url: str, name: str) -> psycopg.Connection:
    try:
        return psycopg.connect(
            url.replace("+psycopg", "", 1),
            autocommit=True,
            connect_timeout=CONNECT_SECONDS,
            application_name=name,
            options=KEEPALIVE,
        )
    except psycopg.Error as error:
        raise StudyError(
            f"the database {hidden(url)} does not answer ({first_line(error)})",
            remedy="start it, or correct CGN_STUDY_URL",
        ) from error
