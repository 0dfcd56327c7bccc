"""Advice fits the cause of an error."""

import errno
import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from cgn_platform.remedies import remedy_of

CAUSES = [
    (sqlite3.OperationalError("database is locked"), "end the process that holds it"),
    (sqlite3.DatabaseError("file is not a database"), "restore it or move it away"),
    (sqlite3.DatabaseError("database disk image is malformed"), "restore it or move it away"),
    (sqlite3.OperationalError("attempt to write a readonly database"), "correct the rights"),
    (OperationalError("SELECT 1", {}, Exception("database or disk is full")), "free some space"),
    (RuntimeError("(sqlite3.OperationalError) database is locked"), "end the process that holds it"),
    (RuntimeError("API request failed: Max retries exceeded"), "start the server"),
    (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "start the server"),
    (RuntimeError("API request failed with error code 401"), "MLFLOW_TRACKING_PASSWORD"),
    (PermissionError(errno.EACCES, "Permission denied", "/s"), "you may write to"),
    (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
    (OSError(errno.EIO, "Input/output error"), "correct the path, the disk"),
    (RuntimeError("Could not determine home directory."), "set HOME"),
    (RuntimeError("The experiment 1 must be in the 'active' state"), ""),
]


@pytest.mark.parametrize(("error", "remedy"), CAUSES, ids=[str(error) for error, _ in CAUSES])
def test_the_remedy_fits_the_cause(error: Exception, remedy: str) -> None:
    assert remedy in remedy_of(error)
    assert bool(remedy) == bool(remedy_of(error))
