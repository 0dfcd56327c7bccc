"""Connecting to Ray: addresses, and what a local Ray exposes."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cgn.errors import ClusterError
from cgn_platform.cluster import connect, processes


def test_an_address_for_jobs_is_refused() -> None:
    with pytest.raises(ClusterError, match="ray job submit"), connect.connect("http://127.0.0.1:8265"):
        pass


def test_an_address_where_nothing_answers_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    (port,) = processes.free_ports(1)
    with pytest.raises(ClusterError, match=f"nothing answers at 127.0.0.1:{port}"):  # noqa: SIM117
        with connect.connect(f"127.0.0.1:{port}"):
            pass


@pytest.mark.parametrize("address", ["somewhere", "127.0.0.1:", ":6379", "127.0.0.1:ray"])
def test_text_that_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match="--address must be host:port"):
        connect.check_address(address)


def test_an_address_that_answers_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    with socket.create_server((processes.LOOPBACK, 0)) as server:
        connect.check_address(f"{processes.LOOPBACK}:{server.getsockname()[1]}")


JOIN = """
import sys
from cgn_platform.cluster import connect

with connect.connect("local", num_cpus=1):
    import ray

    print(ray._private.worker._global_node.get_temp_dir_path(), flush=True)
    sys.stdin.read()
try:
    with connect.connect("local"):
        pass
except RuntimeError as error:
    print(error)
"""


@pytest.mark.integration
def test_a_local_ray_is_private_hides_its_token_and_is_joined_once() -> None:
    token = os.environ["RAY_AUTH_TOKEN"]
    command, pipe = (sys.executable, "-c", JOIN), subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        folder = Path(driver.stdout.readline().strip())
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        children = psutil.Process(driver.pid).children(recursive=True)
        sockets = [entry for process in children for entry in process.net_connections("inet")]
        hosts = {
            entry.laddr.ip.removeprefix("::ffff:") for entry in sockets if entry.status == psutil.CONN_LISTEN
        }
        assert hosts == {processes.LOOPBACK}
        assert [process for process in children if token in " ".join(process.cmdline())] == []
        logs = [path for path in folder.rglob("*") if path.is_file()]
        assert logs
        assert [path for path in logs if token.encode() in path.read_bytes()] == []
        driver.stdin.close()
        assert "has joined the Ray at local" in driver.stdout.read()
    assert driver.returncode == 0
    assert not folder.parent.exists()
