import contextlib
import json
import os
import socket
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cgn.errors import ClusterError, ConfigError, ResourcesError
from cgn_platform.cluster import connect, processes, temporary
from cgn_platform.cluster.resources import Cluster, Resources
from cgn_platform.servers import up

SMALL, LARGE = {"CPU": 2.0}, {"CPU": 8.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "resources", "slots"),
    [
        ([SMALL], Resources(), 2),
        ([SMALL], Resources(0.5), 4),
        ([SMALL, LARGE], Resources(2), 5),
        ([SMALL, LARGE], Resources(1, 1), 4),
        ([SMALL, LARGE], Resources(1, 0.5), 8),
        ([LARGE], Resources(0.5, 0.3), 12),  # three on each GPU: a fraction lies on one of them
        ([LARGE], Resources(1, 3), 1),
    ],
)
def test_trials_that_fit_at_once(nodes: list[dict[str, float]], resources: Resources, slots: int) -> None:
    assert Cluster("local", nodes).slots(resources) == slots


def test_what_no_single_node_can_give_is_refused_though_all_together_could() -> None:
    with pytest.raises(
        ResourcesError, match=r"1 CPUs and 8 GPUs but no node has more than 8 CPUs and 4 GPUs"
    ):
        Cluster("local", [LARGE, LARGE]).slots(Resources(1, 8))
    with pytest.raises(ResourcesError, match="lower --cpus"):
        Cluster("local", [SMALL, SMALL]).slots(Resources(3))


@pytest.mark.parametrize(("cpus", "gpus"), [(0, 0), (-1, 0), (1, -1), (1, 1.5)])
def test_requests_that_cannot_be(cpus: float, gpus: float) -> None:
    with pytest.raises(ConfigError, match=r"--[cg]pus"):
        Resources(cpus, gpus)


def test_a_job_address_is_no_address_of_a_driver() -> None:
    with pytest.raises(ClusterError, match="ray job submit"), connect.connect("http://127.0.0.1:8265"):
        pass


def test_an_address_where_nothing_answers_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    port = processes._free_ports(1)[0]
    with pytest.raises(ClusterError, match=f"nothing answers at 127.0.0.1:{port}"):  # noqa: SIM117
        with connect.connect(f"127.0.0.1:{port}"):
            pass


@pytest.mark.parametrize("address", ["somewhere", "127.0.0.1:", ":6379", "127.0.0.1:ray"])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(ClusterError, match="--address must be host:port"):
        connect.knock(address)


def test_a_taken_port_is_told_before_anything_starts(store: Path) -> None:
    with socket.socket() as taken:
        taken.bind((processes.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=f"port {port} is taken.*--ray-port"):
            up.up(store, ray_port=port)
    assert [path.name for path in store.iterdir()] == ["up.lock"]


def test_down_ends_no_process_that_took_over_a_number(store: Path) -> None:
    me = psutil.Process()
    facts = {"jobs": "", "driver": "", "mlflow": "", "token": "", "temporary": str(store.root / "t")}
    (store.root / "up.json").write_text(
        json.dumps({**facts, "processes": [[me.pid, me.create_time() - 100]]})
    )
    assert up.down(store)
    assert not up.down(store)
    assert me.is_running()


def test_a_damaged_up_json_is_told_and_not_taken_for_nothing(store: Path) -> None:
    for damage in ("", "[]", '{"jobs": "x"}'):
        (store.root / "up.json").write_text(damage)
        for verb in (up.up, up.down):
            with pytest.raises(ClusterError, match=r"up.json cannot be read .* remove it"):
                verb(store)


def test_one_up_at_a_time(store: Path) -> None:
    with up._alone(store), pytest.raises(ClusterError, match="another 'cgn up' or 'cgn down' works in"):
        up.up(store)


@pytest.mark.integration
def test_mlflow_has_its_tables_before_a_server_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is killed while it makes them leaves a file that MLflow never opens again."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(up, "_start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        up.up(
            tmp_path / "store", ray_port=processes._free_ports(1)[0], mlflow_port=processes._free_ports(1)[0]
        )
    with contextlib.closing(sqlite3.connect(tmp_path / "store" / "mlflow.db")) as made:
        tables = {name for (name,) in made.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert {"experiments", "runs", "alembic_version"} <= tables


def test_what_outlived_a_killed_server_is_ended_by_its_identity(store: Path) -> None:
    """A parent that was killed: its child is known from `up.json` only."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    child, bystander = subprocess.Popen(sleep), subprocess.Popen(sleep)
    try:
        gone = (max(psutil.pids()) + 100_000, 1.0)
        state = up.ServerState(
            "", "", "", "", str(store.root / "t"), [gone], [processes._identity(psutil.Process(child.pid))]
        )
        up._write_up(store, state)
        assert up.read_up(store) == state
        assert not state.alive()
        assert up.down(store)
        assert child.poll() is not None
        assert bystander.poll() is None
    finally:
        for process in (child, bystander):
            process.kill()
            process.wait()


def test_the_token_is_for_its_owner_only(store: Path) -> None:
    path = up._token(store)
    path.chmod(0o644)
    assert up._token(store).read_text() == path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_folders_of_killed_drivers_are_removed_and_no_others(
    monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(store))
    gone = max(psutil.pids()) + 100_000
    for name in (f"cgn-{gone}-x", f"cgn-{os.getpid()}-x", f"cgnup-{gone}-x", "cgn-other"):
        (store / name).mkdir()
    temporary._remove_leftovers()
    assert sorted(path.name for path in store.iterdir()) == sorted(
        [f"cgn-{os.getpid()}-x", f"cgnup-{gone}-x", "cgn-other"]
    )


JOIN = """
import sys
from cgn_platform import cluster

with cluster.connect("local", num_cpus=1):
    import ray

    print(ray._private.worker._global_node.get_temp_dir_path(), flush=True)
    sys.stdin.read()
try:
    with cluster.connect("local"):
        pass
except RuntimeError as error:
    print(error)
"""


@pytest.mark.integration
def test_a_ray_of_its_own_lets_nobody_in_keeps_its_token_and_is_joined_once() -> None:
    token = os.environ["RAY_AUTH_TOKEN"]
    command, pipe = (sys.executable, "-c", JOIN), subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as driver:
        assert driver.stdin is not None
        assert driver.stdout is not None
        folder = Path(driver.stdout.readline().strip())
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
        children = psutil.Process(driver.pid).children(recursive=True)
        sockets = [each for process in children for each in process.net_connections("inet")]
        hosts = {
            each.laddr.ip.removeprefix("::ffff:") for each in sockets if each.status == psutil.CONN_LISTEN
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
