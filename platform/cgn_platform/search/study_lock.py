"""Who may write a study, and whether its database answers.

One driver a study: a file lock in the store and, where the study is in Postgres, an advisory lock too,
since drivers of two stores may share that database. Both end with the process that holds them.
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
from filelock import FileLock, Timeout

from cgn.errors import StudyError
from cgn_platform.store.databases import hidden, sqlite_path
from cgn_platform.store.layout import Store

CONNECT_SECONDS = 10


# A driver whose machine vanished gives its lock back after a minute, not after the usual two hours.
KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"


# The session that holds an advisory lock of this database. Postgres keeps the key in two halves.
HOLDER = """
    SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND datname = current_database()
    AND (classid::bigint << 32 | objid::bigint) = %s"""


def answers(url: str) -> None:
    """Open the database and ask it something; an SQLite file that is not there yet is fine.

    Raises:
        StudyError: it does not answer, or the file is damaged.
    """
    path = sqlite_path(url)
    if path is None:
        _connect(url, "cgn doctor").close()
    elif path.exists():
        try:
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database:
                database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            raise StudyError(f"{path} is no database that can be read ({error}): restore it") from error


class StudyLock:
    """The right to write one study."""

    def __init__(self, name: str, store: Store, url: str) -> None:
        """Take it.

        Raises:
            StudyError: another driver has it, or the database does not answer.
        """
        self._name, self._url = name, url
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        self._me = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        self._session: psycopg.Connection | None = None
        self._file = self._take_file(store.locks)
        try:
            self.ensure()
        except BaseException:
            self.release()
            raise

    def ensure(self) -> None:
        """Take the advisory lock again where its session was lost, as when Postgres was restarted.

        Raises:
            StudyError: another driver took it meanwhile.
        """
        if sqlite_path(self._url) is not None:
            return
        if self._session is not None:
            with contextlib.suppress(psycopg.Error):
                self._session.execute("SELECT 1")
                return
            self._session.close()
        # The name that a refusal tells; Postgres keeps 63 characters of it.
        me = f"process {self._me['pid']} on {str(self._me['host'])[:20]} since {self._me['since']}"
        self._session = _connect(self._url, me)
        key = int.from_bytes(hashlib.sha256(f"cgn study {self._name}".encode()).digest()[:8], signed=True)
        taken = self._session.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
        if taken != (True,):
            holder = self._session.execute(HOLDER, (key,)).fetchone()
            raise StudyError(self._refusal(holder[0] if holder else "another process"))

    def release(self) -> None:
        """Give it back."""
        if self._session is not None:
            with contextlib.suppress(psycopg.Error):  # a server sees the end of a session some time later
                self._session.execute("SELECT pg_advisory_unlock_all()")
            self._session.close()
        self._file.release()

    def _take_file(self, folder: Path) -> FileLock:
        folder.mkdir(parents=True, exist_ok=True)
        lock, holder = FileLock(folder / f"{self._name}.lock"), folder / f"{self._name}.holder.json"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            try:
                who = json.loads(holder.read_text())
                told = f"process {who['pid']} on {who['host']} since {who['since']}"
            except (OSError, ValueError, KeyError):
                told = "another process"
            raise StudyError(self._refusal(told)) from None
        holder.write_text(json.dumps(self._me))
        return lock

    def _refusal(self, holder: str) -> str:
        return f"study {self._name!r} is held by {holder}: wait for it, or end it"


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
        lines = str(error).strip().splitlines()
        raise StudyError(
            f"the database {hidden(url)} does not answer ({lines[0] if lines else type(error).__name__}): "
            "start it, or correct CGN_STUDY_URL"
        ) from error
