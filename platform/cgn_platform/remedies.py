"""What to do about errors of the machine and of other libraries, by their cause."""

import errno
import re
import sqlite3
import sys

AGAIN = "and run the same command again"
DATABASE = {
    r"locked": f"end the process that holds it, or wait, {AGAIN}",
    r"full|disk i/o error": f"free some space or repair the disk, {AGAIN}: finished folds are kept",
    r"readonly|read-only|unable to open": "correct the rights of the file and its folder, or give another "
    "--store",
    r"not a database|malformed|": f"restore it or move it away, {AGAIN}: finished folds are kept",
}
"""By the message of a database, whether SQLAlchemy raises it or not."""
SERVER = {
    r"connection refused|max retries|timed out|name or service|unreachable|aborted": "start the server, or "
    "correct its address",
    r"\b401\b|\b403\b|not authenticated": "give MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD of an account that may write",
}
"""By the message of a server's client."""
SYSTEM = {
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "give a folder that you may write to (--store, --out), or correct its rights",
    ),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), f"free some space {AGAIN}"),
}
"""By the number of an error of the operating system."""
ACCOUNT = r"home directory|getpwuid"


def remedy_of(error: BaseException) -> str:
    """What to do about this error; empty if its cause is not known."""
    text = str(error)
    if is_of_database(error) or re.search(r"\((sqlite3|psycopg)\.", text):  # MLflow quotes them
        return _matching(DATABASE, text)
    if isinstance(error, UnicodeEncodeError):
        return "set PYTHONIOENCODING=utf-8, and use names that your terminal and file system can represent"
    if re.search(ACCOUNT, text):
        return "this account has no home folder or no entry in /etc/passwd: set HOME and USER"
    if isinstance(error, MemoryError):
        return "free some memory, or give the command less to do at once"
    if isinstance(error, OSError) and error.errno in SYSTEM:
        return SYSTEM[error.errno]
    if remedy := _matching(SERVER, text):
        return remedy
    return f"correct the path, the disk or the connection, {AGAIN}" if isinstance(error, OSError) else ""


def is_of_database(error: BaseException) -> bool:
    """Whether a database, or the library that reads it, raised this error."""
    sqlalchemy = sys.modules.get("sqlalchemy.exc")  # not imported: an error of it shows that it is loaded
    return isinstance(error, sqlite3.Error) or (
        sqlalchemy is not None and isinstance(error, sqlalchemy.SQLAlchemyError)
    )


def _matching(remedies: dict[str, str], text: str) -> str:
    return next((remedy for cause, remedy in remedies.items() if re.search(cause, text, re.IGNORECASE)), "")
