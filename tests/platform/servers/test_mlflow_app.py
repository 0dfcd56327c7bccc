"""`cgn mlflow`: the runs of a store behind a login, and what it refuses."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from cgn.errors import ClusterError, ConfigError
from cgn_platform.cluster import processes
from cgn_platform.servers import mlflow_app
from cgn_platform.servers.state import ServerState, write_state
from cgn_platform.store.databases import sqlite_url
from cgn_platform.store.layout import Store
from cgn_platform.tracking.login import read_login


def unused(_line: str) -> None:
    pytest.fail("nothing is announced")


def test_a_server_needs_no_other_server(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"http://host:5000 is a server already.*open http://host:5000/#"):
        mlflow_app.show(store, "http://host:5000", 5000, unused)


def test_a_taken_port_and_running_servers_are_refused(store: Store) -> None:
    uri = sqlite_url(store.mlflow_database)
    with socket.socket() as taken:
        taken.bind((processes.LOOPBACK, 0))
        taken.listen()
        with pytest.raises(ClusterError, match=r"is taken.*--port"):
            mlflow_app.show(store, uri, taken.getsockname()[1], unused)
    me = processes.identity_of(psutil.Process())
    write_state(store, ServerState("", "", "http://127.0.0.1:5000", "", "", [me]))
    with pytest.raises(ClusterError, match=r"'cgn up' is running.*open http://127.0.0.1:5000/#"):
        mlflow_app.show(store, uri, 1, unused)
    assert not store.mlflow_database.exists()


@pytest.mark.integration
def test_the_runs_of_a_store_are_shown_to_its_owner(store: Store, until: Callable[..., Any]) -> None:
    port = processes.free_ports(1)[0]
    command = [sys.executable, "-m", "cgn_platform.cli", "mlflow", "--store", str(store), "--port", str(port)]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("CGN_", "MLFLOW_"))}
    log = Path(store) / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=clean, stdout=file, stderr=file)
    try:
        until(lambda: process.poll() is not None or status(port, "/health") == http.HTTPStatus.OK)
        assert process.poll() is None, log.read_text()
        login = read_login(store.mlflow_login)
        assert login is not None
        assert f"the password is in {store.mlflow_login}" in log.read_text()
        api = "/api/2.0/mlflow/experiments/get?experiment_id=0"
        assert status(port, api) == http.HTTPStatus.UNAUTHORIZED
        assert status(port, api, login.headers) == http.HTTPStatus.OK
        process.send_signal(signal.SIGINT)
        process.wait(60)
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


def status(port: int, path: str, headers: dict[str, str] | None = None) -> int | None:
    connection = http.client.HTTPConnection(processes.LOOPBACK, port, timeout=10)
    try:
        connection.request("GET", path, headers=headers or {})
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()
