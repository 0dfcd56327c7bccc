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
import threading
import warnings
from collections.abc import Callable, Iterator
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
            with pytest.raises(mlflow.MlflowException, match=r"opens no paths|must be L or R"):
                model.predict(pd.DataFrame([rows[0] | wrong]))
    expected = trained.predictions()
    assert table["p_malignant"].tolist()[:-1] == [row["p_malignant"] for row in expected]
    boxes = table[["x0", "y0", "x1", "y1"]].to_numpy()[:-1].tolist()
    assert boxes == [list(row["box"]) for row in expected]
    assert table["p_malignant"].iloc[-1] is None
    assert json.loads(table["warnings"].iloc[-1])[0].startswith("truncated: the target")
    assert example["p_malignant"].between(0, 1).all()
    model.unwrap_python_model().close()


BODIES = {  # as MLflow's scoring protocol allows, and its clients send
    "dataframe_records": lambda pairs: [{"target": t, "reference": r} for t, r in pairs],
    "dataframe_split": lambda pairs: {"columns": ["target", "reference"], "data": [list(p) for p in pairs]},
    "inputs": lambda pairs: {"target": [t for t, _ in pairs], "reference": [r for _, r in pairs]},
    "instances": lambda pairs: [
        {"target": t, "reference": r, "laterality": None, "view": "MLO"} for t, r in pairs
    ],
}


@pytest.fixture
def scoring(trained: Any) -> Iterator[Callable[[Any], Any]]:
    """What MLflow's server does with a body, without a server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        from mlflow.pyfunc import scoring_server

        model = mlflow.pyfunc.load_model(str(trained.model))

        def invoke(body: Any) -> Any:
            schema = model.metadata.get_input_schema()
            answer = scoring_server.invocations(json.dumps(body), "application/json", model, schema)
            return json.loads(answer.response)["predictions"]

        yield invoke
        assert model.unwrap_python_model().progress() == []
        model.unwrap_python_model().close()


@pytest.mark.parametrize("name", BODIES)
def test_every_format_of_a_body_is_answered_with_the_same_numbers(
    trained: Any, scoring: Callable[[Any], Any], name: str
) -> None:
    films = trained.films[:2]
    pairs = [[base64.b64encode(path.read_bytes()).decode() for path in pair] for pair in films]
    rows = scoring({name: BODIES[name](pairs)})
    expected = trained.predictions()[:2]
    for row, one in zip(rows, expected, strict=True):
        assert row["p_malignant"] == pytest.approx(one["p_malignant"], abs=1e-6)
        assert row["warnings"] == "[]"


def test_a_path_is_answered_in_words(trained: Any, scoring: Callable[[Any], Any]) -> None:
    (row,) = scoring({"inputs": BODIES["inputs"]([tuple(map(str, trained.films[0]))])})
    assert row["p_malignant"] is None
    assert "the server opens no paths" in row["warnings"]


def test_the_progress_of_a_request_can_be_seen(trained: Any, until: Callable[..., Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        import pandas as pd

        model = mlflow.pyfunc.load_model(str(trained.model))
    rows = [{"target": t.read_bytes(), "reference": r.read_bytes()} for t, r in trained.films] * 30
    served = model.unwrap_python_model()
    request = threading.Thread(target=model.predict, args=(pd.DataFrame(rows),))
    request.start()
    (progress,) = until(lambda: [facts for facts in served.progress() if facts["opened"]])
    request.join()
    assert progress["pairs"] == len(rows)
    assert 0 < progress["opened"] <= len(rows)
    assert progress["seconds"] > 0
    assert served.progress() == []
    served.close()


def test_a_request_beyond_the_time_limit_is_refused_with_the_way(
    trained: Any, scoring: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowException

    pair = [base64.b64encode(path.read_bytes()).decode() for path in trained.films[0]]
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "0")
    with pytest.raises(
        MlflowException, match=r"only 0 of 9 pairs.*0 s for a request.*fewer.*--manifest"
    ) as error:
        scoring({"inputs": BODIES["inputs"]([pair] * 9)})
    assert error.value.get_http_status_code() == http.HTTPStatus.GATEWAY_TIMEOUT
    monkeypatch.setenv("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "100")
    assert scoring({"inputs": BODIES["inputs"]([pair])})[0]["p_malignant"] is not None


MLFLOW_SERVE = ("mlflow", "models", "serve", "--env-manager", "local", "--host", "127.0.0.1", "-m")
CGN_SERVE = ("cgn_platform.cli", "serve", "--max-body", "1", "--model")


@contextlib.contextmanager
def serve(program: tuple[str, ...], model: Path, folder: Path, until: Any) -> Iterator[int]:
    """A model server on loopback, in a process group of its own that ends with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", *program, str(model), "--port", str(port)]
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


def send(port: int, method: str, where: str, body: str | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, where, body, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def invoke(port: int, *rows: dict[str, str]) -> tuple[int, bytes]:
    return send(port, "POST", "/invocations", json.dumps({"dataframe_records": rows}))


@pytest.mark.integration
@pytest.mark.parametrize("program", [MLFLOW_SERVE, CGN_SERVE], ids=["mlflow models serve", "cgn serve"])
def test_a_server_answers_with_the_same_numbers(
    trained: Any, tmp_path: Path, until: Any, program: tuple[str, ...]
) -> None:
    films = trained.films[:3]
    with package.load(trained.model, processes=1) as ensemble:  # one by one: sums of a batch differ by bits
        predictions = [ensemble.predict([FilmPair.of(*pair)])[0].facts() for pair in films]
    with serve(program, trained.model, tmp_path, until) as port:
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
        if program == CGN_SERVE:
            assert b"the server opens no paths" in content
            check_limits(port)


def check_limits(port: int) -> None:
    """The example that it gives, and what it refuses, in one line each."""
    assert send(port, "GET", "/progress") == (http.HTTPStatus.OK, b"[]")
    example = send(port, "GET", "/example")[1].decode()
    status, content = send(port, "POST", "/invocations", example)
    assert status == http.HTTPStatus.OK
    assert 0 < json.loads(content)["predictions"][0]["p_malignant"] < 1
    body = json.dumps({"dataframe_records": []})
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        assert send(port, "POST", "/invocations", body, **headers)[0] == http.HTTPStatus.FORBIDDEN
        assert send(port, "GET", "/progress", **headers)[0] == http.HTTPStatus.FORBIDDEN
    status, text = send(port, "POST", "/invocations", "x" * 50_000_000)
    assert (status, b"send fewer pairs" in text) == (http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE, True)
    chunks = (b"x" * 100_000 for _ in range(11))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(
        "POST", "/invocations", chunks, {"Content-Type": "application/json"}, encode_chunked=True
    )
    assert connection.getresponse().status == http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE
