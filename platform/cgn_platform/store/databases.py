"""Addresses of databases: of SQLite files and back, of the studies, read-only, and as they may be printed."""

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from cgn.errors import ConfigError
from cgn_platform.store.layout import Store

SQLITE, SQLITE_WITH_DRIVER = "sqlite:///", "sqlite+pysqlite:///"
POSTGRES = "postgresql+psycopg://"


def sqlite_url(path: Path) -> str:
    """The address of an SQLite file for SQLAlchemy, which decodes `%` and takes what follows `?` as options.

    A path without these characters is pasted as it is, so that its address is always the same. For any other
    path the address names the driver too: MLflow takes what follows `sqlite:///` for a path and would create
    its folder.
    """
    encoded = str(path).replace("%", "%25").replace("?", "%3F")
    return f"{SQLITE if encoded == str(path) else SQLITE_WITH_DRIVER}{encoded}"


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite database; None for Postgres.

    Raises:
        ConfigError: it is neither.
    """
    for prefix in (SQLITE, SQLITE_WITH_DRIVER):
        if url.startswith(prefix):
            return Path(unquote(url.removeprefix(prefix).partition("?")[0]))
    if url.startswith(POSTGRES):
        return None
    scheme = url.partition(":")[0]
    raise ConfigError(
        f"the address of a database must start with {SQLITE} or {POSTGRES} but got {scheme}:..."
    )


def study_url(store: Store) -> str:
    """The address of the study database: `CGN_STUDY_URL`, or a file in the store.

    Raises:
        ConfigError: it is MLflow's database, too; Optuna and MLflow both write a table `alembic_version`.
    """
    url = os.environ.get("CGN_STUDY_URL")
    if url and url == os.environ.get("MLFLOW_TRACKING_URI"):
        raise ConfigError(
            f"CGN_STUDY_URL and MLFLOW_TRACKING_URI are both {hidden(url)}",
            remedy="give each its own database",
        )
    return url or sqlite_url(store.studies)


def file_uri(path: Path, mode: str) -> str:
    """The address of an SQLite file for the module `sqlite3` (`uri=True`), opened `ro` or `rw`."""
    return f"file:{quote(str(path))}?mode={mode}"


def exists(url: str) -> bool:
    """Whether there is such a file; a server is assumed to be there."""
    path = sqlite_path(url)
    return path is None or path.exists()


def file_id(url: str) -> tuple[int, int] | None:
    """What distinguishes an SQLite file from another one at its path; None for a server or without a file."""
    path = sqlite_path(url)
    if path is None:
        return None
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def read_only(url: str) -> str:
    """The address of the same database, opened read-only."""
    if (path := sqlite_path(url)) is not None:
        # Quoted twice: SQLAlchemy decodes the address, then SQLite decodes the file name.
        return f"{SQLITE}{quote(file_uri(path, 'ro'), safe='/:?=')}&uri=true"
    return f"{url}{'&' if '?' in url else '?'}options=-c%20default_transaction_read_only%3Don"


def shown(url: str) -> str:
    """A database as messages name it: the path of a file, or the address without its password."""
    return hidden(url) if (path := sqlite_path(url)) is None else str(path)


def hidden(url: str) -> str:
    """The address without its password, as it may be printed."""
    without = re.sub(r"(?<!/)//([^/@:]*):[^/@]*@", r"//\1:***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", without)
