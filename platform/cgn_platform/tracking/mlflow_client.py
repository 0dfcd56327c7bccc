"""The one way to connect to MLflow: quietly, with complete tables."""

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from cgn_platform.store.layout import Store

if TYPE_CHECKING:  # types only: no Ray or Optuna is loaded for them
    pass
if TYPE_CHECKING:  # types only: no Ray or Optuna is loaded for them
    pass


ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a request that is repeated blindly can create a run twice
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # it knows of no terminal and writes into logs
}


def connect(uri: str) -> tuple[Any, Any]:
    """MLflow, imported quietly, and a client of this server or database, whose tables are made."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    make_database(uri, lambda draft: mlflow.MlflowClient(draft).search_experiments(max_results=1))
    return mlflow, mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def make_tables(store: Store) -> None:
    """MLflow's tables in the store's database, whole: a server that is killed making them leaves a part."""
    if not (path := store.mlflow_database).exists():
        connect(f"sqlite:///{path}")


def make_database(uri: str, fill: Callable[[str], object]) -> None:
    """MLflow makes its tables one by one: who is killed meanwhile leaves a file that it never opens again."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists() or not path.parent.is_dir():
        return
    draft = path.with_name(f".{path.name}.tmp")
    with FileLock(f"{path}.lock"):
        if not path.exists():
            draft.unlink(missing_ok=True)
            fill(f"sqlite:///{draft}")
            draft.chmod(0o600)
            draft.replace(path)


def default_uri(store: Store) -> str:
    """`MLFLOW_TRACKING_URI`, or a database in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{store.mlflow_database.resolve()}"
