"""Hosts, origins and logins that a server on the loopback address answers, or refuses."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from cgn.errors import ClusterError
from cgn_platform.servers.guard import Guard
from cgn_platform.servers.mlflow_app import is_within_root

OPEN = Guard()
CLOSED = Guard("Basic c2VjcmV0", "in a file")


def status(guard: Guard, path: str = "/", **headers: str) -> int:
    refusal = guard.refusal(path, {"host": "127.0.0.1:5000", **headers})
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "localhost", "LOCALHOST:1", "[::1]:5000"])
def test_names_of_this_machine_are_answered(host: str) -> None:
    assert status(OPEN, host=host) == 200
    assert status(OPEN, host=host, origin=f"http://{host}") == 200


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "127.0.0.1.evil.example", "me@localhost.example", "[", "10.0.0.1"],
)
def test_other_names_are_refused(host: str) -> None:
    assert status(OPEN, host=host) == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "", "http://127.0.0.1:5001"])
def test_pages_of_other_servers_are_refused(origin: str) -> None:
    assert status(OPEN, origin=origin) == 403
    assert status(CLOSED, origin=origin, authorization="Basic c2VjcmV0") == 403


def test_a_further_name_can_be_given() -> None:
    named = Guard(hosts=("localhost", "mlflow"))
    assert status(named, host="mlflow:5000", origin="http://mlflow:5000") == 200
    assert status(named, host="mlflow.example:5000") == 403


def test_a_login_is_required_except_for_health() -> None:
    assert status(CLOSED) == 401
    assert status(CLOSED, authorization="Basic wrong") == 401
    assert status(CLOSED, authorization="Basic c2VjcmV0") == 200
    assert status(CLOSED, path="/health") == 200
    refusal = CLOSED.refusal("/", {"host": "localhost"})
    assert refusal is not None
    assert refusal.headers == {"WWW-Authenticate": 'Basic realm="cgn up"'}
    assert "in a file" in refusal.text


def test_no_server_without_its_login(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no login at"):
        Guard.with_login(tmp_path / "mlflow.env")


def test_a_wsgi_application_is_guarded() -> None:
    answers: list[str] = []

    def app(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"content"]

    guarded = CLOSED.wsgi(app)
    for headers in ({"HTTP_AUTHORIZATION": "Basic c2VjcmV0"}, {}):
        environ = {"PATH_INFO": "/", "HTTP_HOST": "localhost", **headers}
        body = b"".join(guarded(environ, lambda line, _headers: answers.append(line)))
        assert (b"content" in body) == bool(headers)
    assert answers == ["200 OK", "401 Unauthorized"]


@pytest.mark.parametrize(
    ("kind", "first"), [("http", "http.response.start"), ("websocket", "websocket.close")]
)
def test_an_asgi_application_is_guarded(kind: str, first: str) -> None:
    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        pytest.fail("the application was reached")

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        messages.append(message)

    messages: list[Any] = []
    scope = {"type": kind, "path": "/", "method": "GET", "headers": [(b"host", b"localhost")]}
    asyncio.run(CLOSED.asgi(app)(scope, receive, send))  # type: ignore[arg-type]
    assert messages[0]["type"] == first
    assert messages[0].get("status", 401) == 401


@pytest.mark.parametrize(
    ("location", "within"),
    [
        ("", True),
        ("mlflow-artifacts:/", True),
        ("mlflow-artifacts:/7/x", True),
        ("/elsewhere", False),
        ("file:///elsewhere", False),
        ("mlflow-artifacts:/../x", False),
        ("mlflow-artifacts:/%252e%252e/x", False),
        ("mlflow-artifacts:/..\\x", False),
        ("s3://bucket", False),
    ],
)
def test_artifact_locations_outside_of_the_root(location: str, within: bool) -> None:
    assert is_within_root(location) == within
