"""The only connection to MLflow: imported quietly, with complete tables."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from cgn_platform.store.databases import sqlite_path, sqlite_url
from cgn_platform.store.layout import Store
from cgn_platform.tracking.login import use_login

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # MLflow's own retries can create a run twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # it is written to logs too, not only to terminals
}
"""Defaults; variables that the user has set are kept."""


@contextmanager
def quiet_mlflow() -> Iterator[Any]:
    """MLflow, imported late because that takes seconds; its warnings are ignored within the block."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.ERROR)
        yield mlflow


def connect(uri: str) -> tuple[Any, Any]:
    """The module `mlflow`, and a client of this server or database, whose tables exist."""
    with quiet_mlflow() as mlflow:
        pass
    make_database(uri, lambda draft: mlflow.MlflowClient(draft).search_experiments(max_results=1))
    return mlflow, mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def make_tables(store: Store) -> None:
    """Create MLflow's tables in the store's database, because a server that creates them may be killed."""
    if not (path := store.mlflow_database).exists():
        connect(sqlite_url(path))


def make_database(uri: str, fill: Callable[[str], object]) -> None:
    """Create an SQLite database completely or not at all; anything else, and an existing one, is left alone.

    MLflow creates its tables one by one. A process that is killed meanwhile would leave a file that MLflow
    never opens again.

    Args:
        uri: of MLflow.
        fill: called with the address of a draft; creates the tables.
    """
    path = sqlite_path(uri) if uri.startswith("sqlite") else None
    if path is None or path.exists() or not path.parent.is_dir():
        return
    draft = path.with_name(f".{path.name}.tmp")
    with FileLock(f"{path}.lock"):
        if not path.exists():
            draft.unlink(missing_ok=True)
            fill(sqlite_url(draft))
            draft.chmod(0o600)
            draft.replace(path)


def default_uri(store: Store, given: str | None = None) -> str:
    """The given address, `MLFLOW_TRACKING_URI`, or a database in the store.

    If it is the server that `cgn up` started for this store, MLflow's client gets its login.
    """
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(store.mlflow_database.resolve())
    use_login(store, uri)
    return uri


def artifact_location(folder: Path) -> str:
    """A folder as MLflow stores it: without a scheme, and with `%` encoded, because MLflow decodes it."""
    return str(folder.absolute()).replace("%", "%25")
