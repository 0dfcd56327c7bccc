"""Addresses of databases: of the studies, read-only, and as they may be printed."""

import os
import re
from pathlib import Path
from urllib.parse import quote

from cgn.errors import ConfigError
from cgn_platform.store.layout import Store


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
    return url or f"sqlite:///{store.studies}"


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite database; None for Postgres.

    Raises:
        ConfigError: it is neither.
    """
    if url.startswith("sqlite:///"):
        return Path(url.removeprefix("sqlite:///"))
    if url.startswith("postgresql+psycopg://"):
        return None
    scheme = url.partition(":")[0]
    raise ConfigError(
        f"the address of a database must start with sqlite:/// or postgresql+psycopg:// but got {scheme}:..."
    )


def read_only(url: str) -> str:
    """The address of the same database, opened read-only."""
    if (path := sqlite_path(url)) is not None:
        # Quoted twice: SQLAlchemy decodes the address, then SQLite decodes the file name.
        return f"sqlite:///file:{quote(quote(str(path)))}?mode=ro&uri=true"
    return f"{url}{'&' if '?' in url else '?'}options=-c%20default_transaction_read_only%3Don"


def hidden(url: str) -> str:
    """The address without its password, as it may be printed."""
    without = re.sub(r"//([^/@:]*):[^/@]*@", r"//\1:***@", url)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", without)
