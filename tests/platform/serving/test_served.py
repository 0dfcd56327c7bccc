"""What MLflow's server runs: the same numbers as the ensemble itself, and no access to its files."""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cgn.data.reading.films import FilmPair
from cgn_platform.serving import package

SECONDS = 180  # within which a server must answer, also on a busy machine


def test_mlflow_loads_the_model_without_a_pickle_and_predicts_the_same(
    trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        import pandas as pd

        model = mlflow.pyfunc.load_model(str(trained.model))
        rows = [{"target": t.read_bytes(), "reference": r.read_bytes()} for t, r in trained.films]
        table = model.predict(pd.DataFrame([*rows, {"target": b"no film", "reference": b"at all"}]))
        example = model.predict(package.example_input())
        for wrong in ({"target": str(trained.films[0][0])}, {"laterality": "left"}):
            with pytest.raises(mlflow.MlflowException, match=r"not paths|must be L or R"):
                model.predict(pd.DataFrame([rows[0] | wrong]))
    expected = trained.predictions()
    assert table["p_malignant"].tolist()[:-1] == [row["p_malignant"] for row in expected]
    boxes = table[["x0", "y0", "x1", "y1"]].to_numpy()[:-1].tolist()
    assert boxes == [list(row["box"]) for row in expected]
    assert table["p_malignant"].iloc[-1] is None
    assert json.loads(table["warnings"].iloc[-1])[0].startswith("truncated: the target")
    assert example["p_malignant"].between(0, 1).all()
    model.unwrap_python_model().close()


@contextlib.contextmanager
def serve(model: Path, folder: Path, until: Any) -> Iterator[int]:
    """`mlflow models serve` on loopback, in a process group of its own that ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    quiet = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    log = folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **quiet, **path}, stdout=stream, stderr=stream,
            start_new_session=True,
        )  # fmt: skip
    try:
        until(lambda: process.poll() is not None or answers(port), SECONDS)
        assert process.poll() is None, log.read_text()
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def answers(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return send(port, "GET", "/ping")[0] == http.HTTPStatus.OK
    return False


def send(port: int, method: str, where: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, where, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def invoke(port: int, *rows: dict[str, str]) -> tuple[int, bytes]:
    return send(port, "POST", "/invocations", json.dumps({"dataframe_records": rows}))


@pytest.mark.integration
def test_a_server_answers_with_the_same_numbers(trained: Any, tmp_path: Path, until: Any) -> None:
    films = trained.films[:3]
    with package.load(trained.model, processes=1) as ensemble:  # one by one: sums of a batch differ by bits
        predictions = [ensemble.predict([FilmPair.of(*pair)])[0].facts() for pair in films]
    with serve(trained.model, tmp_path, until) as port:
        for pair, expected in zip(films, predictions, strict=True):
            target, reference = (base64.b64encode(path.read_bytes()).decode() for path in pair)
            status, content = invoke(port, {"target": target, "reference": reference})
            assert status == http.HTTPStatus.OK, content
            (row,) = json.loads(content)["predictions"]
            assert row["p_malignant"] == expected["p_malignant"]
            assert [row[name] for name in ("x0", "y0", "x1", "y1")] == list(expected["box"])
            assert row["warnings"] == "[]"

        coded = base64.b64encode(b"no film").decode()
        status, content = invoke(port, {"target": coded, "reference": coded})
        (refused,) = json.loads(content)["predictions"]
        assert status == http.HTTPStatus.OK
        assert refused["p_malignant"] is None
        assert "truncated" in refused["warnings"]

        target, reference = map(str, trained.films[0])  # paths of the server's own files
        status, content = invoke(port, {"target": target, "reference": reference})
        assert status != http.HTTPStatus.OK or json.loads(content)["predictions"][0]["p_malignant"] is None
        sockets = [entry for entry in psutil.net_connections("tcp") if entry.status == "LISTEN"]
        assert {entry.laddr.ip for entry in sockets if entry.laddr.port == port} == {"127.0.0.1"}
