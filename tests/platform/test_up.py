"""`cgn up`, a submitted job, `cgn down`: real servers on loopback, with ports of their own."""

import http.client
import ipaddress
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from cgn.data.cache import write_cache
from cgn.data.datasets import phantom
from cgn_platform import cluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("CGN_", "RAY_", "MLFLOW_"))}


class Servers(NamedTuple):
    store: Path
    ray_port: int
    mlflow_port: int
    told: str
    up: cluster.Up


def cgn(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    return subprocess.run(
        [sys.executable, "-m", "cgn_platform.cli", *arguments],
        cwd=ROOT,
        env={**CLEAN, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    store = tmp_path_factory.mktemp("up")
    ray_port, mlflow_port = cluster._free_ports(2)
    ports = ("--ray-port", str(ray_port), "--mlflow-port", str(mlflow_port))
    try:
        told = cgn("up", "--store", str(store), "--num-gpus", "2", *ports)
        assert told.returncode == 0, told.stderr
        state = cluster._read_up(store)
        assert state is not None
        yield Servers(store, ray_port, mlflow_port, told.stdout, state)
    finally:
        cluster.down(store)


def submit(servers: Servers, *entry: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [BIN / "ray", "job", "submit", "--address", servers.up.jobs, "--working-dir", "."]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": servers.up.token}
    return subprocess.run(
        [*command, "--", *entry],
        cwd=cwd,
        env={**CLEAN, **token},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_what_is_printed_can_be_typed(servers: Servers) -> None:
    assert f"http://127.0.0.1:{servers.ray_port}" in servers.told
    assert f"http://127.0.0.1:{servers.mlflow_port}" in servers.told
    assert f"RAY_AUTH_TOKEN_PATH={servers.store / 'ray_token'}" in servers.told
    assert f"ray job submit --address {servers.up.jobs} --working-dir . -- cgn sweep" in servers.told
    again = cgn("up", "--store", str(servers.store))
    assert again.stdout.startswith("already up")


def test_nobody_gets_in_without_the_token(servers: Servers) -> None:
    assert stat.S_IMODE(Path(servers.up.token).stat().st_mode) == 0o600
    for method, path in (("GET", "/api/jobs/"), ("POST", "/api/jobs/"), ("GET", "/api/cluster_status")):
        connection = http.client.HTTPConnection("127.0.0.1", servers.ray_port, timeout=10)
        connection.request(method, path, body=json.dumps({"entrypoint": "id"}) if method == "POST" else None)
        assert connection.getresponse().status == http.HTTPStatus.UNAUTHORIZED


def test_nothing_listens_beyond_the_loopback_address(servers: Servers) -> None:
    trees = [psutil.Process(pid) for pid, _ in servers.up.processes]
    everyone = [p for root in trees for p in (root, *root.children(recursive=True))]
    listening = [
        (process.name(), connection.laddr)
        for process in everyone
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 5
    hosts = {ipaddress.ip_address(place.ip.removeprefix("::ffff:")) for _, place in listening}
    assert all(host.is_loopback for host in hosts), listening


def test_a_submitted_folder_does_not_hide_the_standard_library(servers: Servers) -> None:
    told = submit(servers, "python", "-c", "import platform; print('it is', platform.system())")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "it is Linux" in told.stdout


def test_a_submitted_sweep_writes_to_the_servers_store(servers: Servers) -> None:
    cache = write_cache("phantom", phantom.Options(pairs=18), size=32, folds=3, store=servers.store).path
    edits = [f"--set={edit}" for edit in ("epochs=3", "batch_size=6")]
    told = submit(
        servers,
        *("cgn", "sweep", "search_spaces/smoke.py", "--data", str(cache)),
        *("--trials", "2", "--gpus", "0.5", *edits),
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "2 complete" in told.stdout
    assert f"to compare in MLflow: {servers.up.mlflow}" in told.stdout
    assert (servers.store / "studies.db").is_file()
    connection = http.client.HTTPConnection("127.0.0.1", servers.mlflow_port, timeout=10)
    body = json.dumps({"experiment_ids": ["1"], "max_results": 10})
    path = "/api/2.0/mlflow/runs/search"
    connection.request("POST", path, body=body, headers={"Content-Type": "application/json"})
    runs = json.loads(connection.getresponse().read())["runs"]
    assert sorted((run["info"]["run_name"], run["info"]["status"]) for run in runs) == [
        ("smoke-phantom", "FINISHED"),
        ("trial 0", "FINISHED"),
        ("trial 1", "FINISHED"),
    ]

    relative = submit(servers, "cgn", "sweep", "search_spaces/smoke.py", "--data", "runs/cache/x")
    assert relative.returncode != 0
    assert "--data must be an absolute path or a storage URI in a job" in relative.stdout


def test_a_driver_outside_of_a_job_uses_it_too(servers: Servers) -> None:
    cache = next((servers.store / "cache").glob("phantom*"))
    asked = ("sweep", "search_spaces/smoke.py", "--data", str(cache))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": servers.up.token}
    options = ("--store", str(servers.store), "--address", servers.up.driver)
    told = cgn(*asked, *options, "--gpus", "8", **token)
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert "8 GPUs but no node has more than 2 CPUs and 2 GPUs" in told.stderr


def test_down_ends_all_of_it_and_nothing_else(servers: Servers) -> None:
    trees = [psutil.Process(pid) for pid, _ in servers.up.processes]
    everyone = [p for root in trees for p in (root, *root.children(recursive=True))]
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert cgn("down", "--store", str(servers.store)).stdout == "ended\n"
        assert [process for process in everyone if process.is_running()] == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert not Path(servers.up.temporary).exists()
    for port in (servers.ray_port, servers.mlflow_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert cgn("down", "--store", str(servers.store)).stdout.startswith("nothing is up")
