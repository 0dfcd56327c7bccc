"""The MLflow server of `cgn up`: MLflow's application behind a login, its files in the store alone.

`python -m cgn_platform.servers.mlflow_app STORE PORT` is what `mlflow server` does with one worker.
`mlflow server` itself cannot be given an application, unless a package declares it when it is installed.
"""

import os
import sys
from pathlib import Path
from urllib.parse import unquote

import uvicorn  # before MLflow, which otherwise leaves out its checks of requests

from cgn_platform.cluster.processes import LOOPBACK
from cgn_platform.servers.guard import Guard
from cgn_platform.store.databases import sqlite_url
from cgn_platform.store.layout import Store
from cgn_platform.tracking.mlflow_client import artifact_location

PROXIED = "mlflow-artifacts:/"
"""Locations that the server maps to a folder of its own; the default of every experiment."""


def main(store: Store, port: int) -> None:
    """Serve until the process is ended.

    Raises:
        ClusterError: the store has no login.
    """
    guard = Guard.with_login(store.mlflow_login)
    os.environ.update(
        {
            "_MLFLOW_SERVER_FILE_STORE": sqlite_url(store.mlflow_database),
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifact_location(store.mlflow_artifacts),
            "_MLFLOW_SERVER_ARTIFACT_ROOT": PROXIED,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
        }
    )  # as `mlflow server` passes its options to its worker
    from mlflow.server import app as flask_app
    from mlflow.server.fastapi_app import app

    flask_app.before_request(_keep_to_the_artifact_root)
    uvicorn.run(guard.asgi(app), host=LOOPBACK, port=port, proxy_headers=False, timeout_graceful_shutdown=3)


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
    main(Store(Path(sys.argv[1])), int(sys.argv[2]))
