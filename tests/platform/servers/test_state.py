"""What `cgn up` starts is known by its file, and ended by `cgn down` and by nothing else."""

import contextlib
import json
import socket
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from cgn.errors import ClusterError
from cgn_platform.cluster import processes
from cgn_platform.servers import launch, up
from cgn_platform.servers.state import ServerState, read_state, write_state
from cgn_platform.store.layout import Store


def test_a_taken_port_is_refused_before_anything_starts(store: Store) -> None:
    with socket.socket() as taken:
        taken.bind((processes.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=f"port {port} is taken.*--ray-port"):
            up.up(store, ray_port=port)
    assert [path.name for path in store.root.iterdir()] == ["up.lock"]


def test_down_ends_no_process_that_reuses_an_id(store: Store) -> None:
    me = psutil.Process()
    facts = {"jobs": "", "driver": "", "mlflow": "", "token": "", "temporary": str(store.root / "t")}
    store.servers.write_text(json.dumps({**facts, "processes": [[me.pid, me.create_time() - 100]]}))
    assert up.down(store)
    assert not up.down(store)
    assert me.is_running()


def test_a_damaged_file_is_refused_and_not_taken_for_none(store: Store) -> None:
    for damage in ("", "[]", '{"jobs": "x"}'):
        store.servers.write_text(damage)
        for command in (up.up, up.down):
            with pytest.raises(ClusterError, match=r"up.json cannot be read .* remove it"):
                command(store)


def test_one_up_at_a_time(store: Store) -> None:
    with (
        FileLock(store.servers_lock),
        pytest.raises(ClusterError, match="another 'cgn up' or 'cgn down' is working on"),
    ):
        up.up(store)


@pytest.mark.integration
def test_mlflow_has_its_tables_and_the_token_its_mode_before_a_server_starts(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An MLflow server that is killed while it makes its tables leaves a broken database."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.tempdir", str(store))  # of the servers' folder
    monkeypatch.setattr(launch.Server, "start", interrupted)
    tokens = []
    for _ in range(2):
        ray_port, mlflow_port = processes.free_ports(2)
        with pytest.raises(KeyboardInterrupt):
            up.up(store, ray_port=ray_port, mlflow_port=mlflow_port)
        with contextlib.closing(sqlite3.connect(store.mlflow_database)) as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            assert {"experiments", "runs", "alembic_version"} <= {name for (name,) in rows}
        assert stat.S_IMODE(store.ray_token.stat().st_mode) == 0o600
        tokens.append(store.ray_token.read_text())
        store.ray_token.chmod(0o644)
    assert tokens[0] == tokens[1]


def test_a_child_that_outlived_its_killed_server_is_ended(store: Store) -> None:
    """The child is known from the file only."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    child, bystander = subprocess.Popen(sleep), subprocess.Popen(sleep)
    try:
        ended = (max(psutil.pids()) + 100_000, 1.0)
        known = processes.identity_of(psutil.Process(child.pid))
        state = ServerState("", "", "", "", str(store.root / "t"), [ended], [known])
        write_state(store, state)
        assert read_state(store) == state
        assert not state.alive()
        assert up.down(store)
        assert child.poll() is not None
        assert bystander.poll() is None
    finally:
        for process in (child, bystander):
            process.kill()
            process.wait()


def test_a_store_without_servers_has_none(store: Store) -> None:
    assert read_state(store) is None
    assert not up.down(store)
    assert list(Path(store).iterdir()) == []
