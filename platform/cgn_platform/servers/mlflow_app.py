"""The MLflow server of `cgn up` and `cgn mlflow`: MLflow's application behind a login, files in the store.

`python -m cgn_platform.servers.mlflow_app STORE PORT` is what `mlflow server` does with one worker.
`mlflow server` itself cannot be given an application, unless a package declares it when it is installed.
"""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import uvicorn  # before MLflow, which otherwise leaves out its checks of requests

from cgn.errors import ClusterError, ConfigError
from cgn_platform.cluster.processes import LOOPBACK, is_free
from cgn_platform.servers.guard import Guard
from cgn_platform.servers.launch import MLFLOW_ENVIRONMENT
from cgn_platform.servers.state import read_state
from cgn_platform.store.databases import hidden, sqlite_url
from cgn_platform.store.layout import Store
from cgn_platform.tracking.links import how_to_look
from cgn_platform.tracking.login import write_login
from cgn_platform.tracking.mlflow_client import artifact_location, connect

PROXIED = "mlflow-artifacts:/"
"""Locations that the server maps to a folder of its own; the default of every experiment."""


EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - in a container, and only if it is asked for


def main(
    store: Store, port: int, backend: str, *, host_name: str | None = None, log_level: str = "info"
) -> None:
    """Serve until the process is ended.

    Args:
        store: contains the login and the artifacts.
        port: to listen on.
        backend: address of the database of the runs.
        host_name: by which other machines reach it; None to listen on the loopback address only.
        log_level: of the server's log.

    Raises:
        ClusterError: the store has no login.
    """
    guard = Guard.with_login(store.mlflow_login, *([host_name] if host_name else []))
    os.environ.update(
        {
            **MLFLOW_ENVIRONMENT,
            "_MLFLOW_SERVER_FILE_STORE": backend,
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifact_location(store.mlflow_artifacts),
            "_MLFLOW_SERVER_ARTIFACT_ROOT": PROXIED,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
        }
    )  # as `mlflow server` passes its options to its worker
    with warnings.catch_warnings():  # Starlette deprecates a module that MLflow imports
        warnings.simplefilter("ignore")
        from mlflow.server import app as flask_app
        from mlflow.server.fastapi_app import app

    flask_app.before_request(_keep_to_the_artifact_root)
    uvicorn.run(
        guard.asgi(app),
        host=EVERY_ADDRESS if host_name else LOOPBACK,
        port=port,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
        log_level=log_level,
    )


def show(
    store: Store, uri: str, port: int, announce: Callable[[str], None], host_name: str | None = None
) -> None:
    """Serve the runs of a store until the process is ended, as `cgn mlflow` does.

    Args:
        store: contains the login.
        uri: of the database of the runs.
        port: to listen on.
        announce: called with lines about where MLflow is and how to log in.
        host_name: see `main`.

    Raises:
        ClusterError: the port is taken, or `cgn up` is running for this store.
        ConfigError: the address is that of a server.
    """
    if uri.startswith("http"):
        raise ConfigError(f"{hidden(uri)} is a server already", remedy=f"open {how_to_look(store, uri)}")
    if (running := read_state(store)) is not None and running.alive():
        where = how_to_look(store, running.mlflow)
        raise ClusterError(f"'cgn up' is running for {store}", remedy=f"open {where}")
    if not is_free(port):
        raise ClusterError(f"port {port} is taken", remedy="choose another one with --port")
    store.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    connect(uri)  # creates its tables
    login = write_login(store, f"http://{host_name or LOOPBACK}:{port}")
    announce(f"MLflow  {how_to_look(store, login.uri)}")
    announce(f"login   user {login.user}; the password is in {store.mlflow_login}; Ctrl-C ends the server")
    main(store, port, uri, host_name=host_name, log_level="warning")


def is_within_root(location: str) -> bool:
    """Whether files of an experiment with this artifact location stay in the server's folder."""
    decoded = unquote(unquote(location))
    return not location or (location.startswith(PROXIED) and ".." not in decoded and "\\" not in decoded)


def _keep_to_the_artifact_root() -> object:
    """Refuse experiments with an artifact location elsewhere: the server would read and write files there."""
    from flask import Response, request
    from mlflow.exceptions import MlflowException
    from mlflow.protos.service_pb2 import CreateExperiment
    from mlflow.server import handlers

    if not request.path.endswith("/mlflow/experiments/create"):
        return None
    try:
        location = handlers._get_request_message(CreateExperiment()).artifact_location
    except MlflowException:
        return None  # MLflow refuses it as well
    if is_within_root(location):
        return None
    refused = MlflowException.invalid_parameter_value(
        f"artifact_location must be empty or begin with {PROXIED} but got {location!r}"
    )
    return Response(refused.serialize_as_json(), refused.get_http_status_code(), mimetype="application/json")


if __name__ == "__main__":
    in_folder = Store(Path(sys.argv[1]))
    main(in_folder, int(sys.argv[2]), sqlite_url(in_folder.mlflow_database))
