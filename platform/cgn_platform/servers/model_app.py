"""`cgn serve`: MLflow's scoring server for one model, behind the guard, with limits that fit films.

`mlflow models serve` runs the same application for requests of every host, origin and size, and answers
504 after 60 seconds.
"""

import json
import os
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.requests import Request
from starlette.responses import Response

from cgn.errors import ClusterError, ModelError, first_line
from cgn_platform.cluster.processes import LOOPBACK, is_free
from cgn_platform.servers.guard import Guard
from cgn_platform.serving import package
from cgn_platform.store.layout import Store
from cgn_platform.tracking import mlflow_client

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def serve(
    model: str,
    store: Store,
    *,
    port: int,
    seconds: int,
    max_bytes: int,
    announce: Callable[[str], None],
) -> None:
    """Serve a model on the loopback address until the process is ended.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or the folder of a model.
        store: its registry is used unless `MLFLOW_TRACKING_URI` names a server.
        port: to listen on.
        seconds: limit of a request.
        max_bytes: limit of a request's body.
        announce: called with a line about how to use the server.

    Raises:
        ClusterError: the port is taken.
        ModelError: the model does not exist or is damaged.
    """
    if not is_free(port):
        raise ClusterError(f"port {port} is taken", remedy="choose another one with --port")
    with package.model_folder(model, store) as folder:
        app = application(folder, seconds, max_bytes)
    url = f"http://{LOOPBACK}:{port}"
    announce(
        f"POST {url}/invocations predicts; {url}/example is the body of a request; Ctrl-C ends the server"
    )
    uvicorn.run(app, host=LOOPBACK, port=port, proxy_headers=False, timeout_graceful_shutdown=10)


def application(folder: Path, seconds: int, max_bytes: int) -> "ASGIApp":
    """The application that serves the model in this folder, which is not read again.

    Raises:
        ModelError: there is no model, or it is damaged.
    """
    if not (folder / "MLmodel").is_file():
        raise ModelError(
            f"no model in {folder}", remedy="give a folder with the file MLmodel, or models:/..."
        )
    os.environ["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = str(seconds)  # for MLflow and for the model itself
    with mlflow_client.quiet_mlflow() as mlflow:
        from mlflow.pyfunc import scoring_server

        from cgn_platform.serving.served import NO_FILM

        try:
            model = mlflow.pyfunc.load_model(str(folder))
        except Exception as error:  # MLflow raises anything
            raise ModelError(f"the model in {folder} cannot be loaded: {first_line(error)}") from error
        app = scoring_server.init(model)
    served = model.unwrap_python_model()
    body = folder / "serving_input_example.json"
    example_body = body.read_bytes() if body.is_file() else b""

    async def progress() -> Any:
        """The running requests. Models of earlier versions report none."""
        return served.progress() if hasattr(served, "progress") else []

    async def example() -> Response:
        """The body of a complete request, as it lies beside the model."""
        status = HTTPStatus.OK if example_body else HTTPStatus.NOT_FOUND
        return Response(example_body, status, media_type="application/json")

    async def explain(request: Request, call_next: Any) -> Any:
        """MLflow calls a path in place of a film "Incorrect padding"."""
        response = await call_next(request)
        if response.status_code != HTTPStatus.BAD_REQUEST:
            return response
        body = b"".join([chunk async for chunk in response.body_iterator])
        if b"Failed to convert column" in body:
            body = json.dumps({"error_code": "BAD_REQUEST", "message": NO_FILM}).encode()
        return Response(body, response.status_code, media_type="application/json")

    app.get("/progress")(progress)
    app.get("/example")(example)
    app.middleware("http")(explain)
    guarded: ASGIApp = Guard(max_bytes=max_bytes).asgi(app)
    return guarded
