"""`cgn up`, a submitted job, `cgn down`: real servers on loopback, with ports of their own."""

import contextlib
import http.client
import ipaddress
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from cgn.data.breast import Preprocessing
from cgn.data.cache import write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan
from cgn_platform.cluster import processes
from cgn_platform.servers import up
from cgn_platform.servers.state import ServerState, read_state
from cgn_platform.store.layout import Store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("CGN_", "RAY_", "MLFLOW_"))}


class Servers(NamedTuple):
    store: Path
    ray_port: int
    mlflow_port: int
    ui_port: int
    told: str
    up: ServerState


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
    store = tmp_path_factory.mktemp("up") / "store"
    ray_port, mlflow_port, ui_port = processes.free_ports(3)
    ports = ("--ray-port", str(ray_port), "--mlflow-port", str(mlflow_port))
    ports += ("--ui", "--ui-port", str(ui_port))
    try:
        told = cgn("up", "--store", str(store), "--num-gpus", "4", *ports)
        assert told.returncode == 0, told.stderr
        state = read_state(Store(store))
        assert state is not None
        yield Servers(store, ray_port, mlflow_port, ui_port, told.stdout, state)
    finally:
        up.down(Store(store))


def sockets(process: psutil.Process) -> list[Any]:
    try:
        return process.net_connections("inet")
    except psutil.NoSuchProcess:  # of a worker that ended meanwhile
        return []


# Each task waits until as many run as there are slots, and a moment more for one too many.
OVERLAP = """
import json, sys
from cgn_platform.cluster.connect import connect
from cgn_platform.cluster.resources import Resources

with connect(sys.argv[1]) as there:
    import ray

    @ray.remote
    class Count:
        def __init__(self):
            self.now = self.most = 0

        def add(self, n):
            self.now += n
            self.most = max(self.most, self.now)
            return self.most

    def run(count, slots):
        import time

        deadline = time.monotonic() + 60
        while ray.get(count.add.remote(0)) < slots and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)

    def task(count, slots):
        ray.get(count.add.remote(1))
        run(count, slots)
        ray.get(count.add.remote(-1))

    told = []
    for gpus in (1, 0.25):
        slots = there.slots(Resources(0.1, gpus))
        count = Count.options(num_cpus=0).remote()
        remote = ray.remote(num_cpus=0.1, num_gpus=gpus)(task)
        ray.get([remote.remote(count, slots) for _ in range(slots + 2)], timeout=150)
        told.append([ray.get(count.add.remote(0)), slots])
    print(json.dumps(told))
"""


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
    assert f"http://127.0.0.1:{servers.ui_port}" in servers.told
    again = cgn("up", "--store", str(servers.store))
    assert again.stdout.startswith("already running")


def ask_ui(servers: Servers, method: str, path: str, body: Any = None) -> tuple[int, str]:
    return ask(servers.ui_port, method, path, body, servers.up.basic)


def ask(
    port: int, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    typed = {"Content-Type": "application/json", **(headers or {})}
    connection.request(method, path, body=body and json.dumps(body), headers=typed)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_prometheus_is_told_where_to_look(servers: Servers) -> None:
    """On this machine only, and without a token, like all that Ray exports."""
    path = Path(servers.up.temporary) / "r" / up.EXPORTERS
    assert str(path) in servers.told
    (group,) = json.loads(path.read_text())
    assert {target.partition(":")[0] for target in group["targets"]} == {"127.0.0.1"}


def test_nobody_gets_in_without_the_token(servers: Servers) -> None:
    assert stat.S_IMODE(Path(servers.up.token).stat().st_mode) == 0o600
    for method, path in (("GET", "/api/jobs/"), ("POST", "/api/jobs/"), ("GET", "/api/cluster_status")):
        connection = http.client.HTTPConnection("127.0.0.1", servers.ray_port, timeout=10)
        connection.request(method, path, body=json.dumps({"entrypoint": "id"}) if method == "POST" else None)
        assert connection.getresponse().status == http.HTTPStatus.UNAUTHORIZED


def test_mlflow_and_the_dashboard_refuse_every_other_account(servers: Servers) -> None:
    """Nothing can be read or written without the login, which only the owner of the store can read."""
    path = servers.store / "mlflow.env"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"the password is in {path}" in servers.told
    api, wrong = "/api/2.0/mlflow", {"Authorization": "Basic Y2duOg=="}
    for headers in ({}, wrong):
        for method, place, body in (
            ("GET", "/", None),
            ("GET", f"{api}/experiments/get?experiment_id=0", None),
            ("POST", f"{api}/experiments/delete", {"experiment_id": "0"}),
            ("POST", f"{api}/registered-models/create", {"name": "cgn"}),
            ("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/evil.py", "x"),
        ):
            assert ask(servers.mlflow_port, method, place, body, headers)[0] == 401, place
        for method, place in (("GET", "/"), ("GET", "/api/studies"), ("DELETE", "/api/studies/1")):
            assert ask(servers.ui_port, method, place, None, headers)[0] == 401, place
    assert "mlflow.env" in ask(servers.mlflow_port, "GET", f"{api}/experiments/get?experiment_id=0")[1]
    assert ask(servers.mlflow_port, "GET", "/", None, servers.up.basic)[0] == 200


def test_the_owner_cannot_be_led_to_files_outside_of_the_artifact_root(servers: Servers) -> None:
    place = "/api/2.0/mlflow/experiments/create"
    for number, location in enumerate((str(servers.store), "file:///x", "mlflow-artifacts:/%2e%2e/x")):
        for body in (
            {"name": f"e{number}", "artifact_location": location},
            {"name": f"e{number}", "artifactLocation": location},
            json.dumps({"name": f"e{number}", "artifact_location": location}),
        ):
            status, text = ask(servers.mlflow_port, "POST", place, body, servers.up.basic)
            assert (status, "artifact_location must be empty or begin" in text) == (400, True)


def test_commands_of_cgn_log_in_without_being_told(servers: Servers, tmp_path: Path) -> None:
    for arguments in (("--url", servers.up.mlflow), ("--url", f"http://localhost:{servers.mlflow_port}/")):
        assert cgn("models", "--store", str(servers.store), *arguments).returncode == 0
    variable = {"MLFLOW_TRACKING_URI": servers.up.mlflow}
    assert cgn("models", "--store", str(servers.store), **variable).returncode == 0
    stranger = cgn("models", "--store", str(tmp_path), **variable)
    assert (stranger.returncode, "a login is required" in stranger.stderr) == (2, True)


def test_a_driver_without_the_token_is_refused(servers: Servers, tmp_path: Path) -> None:
    """Ray itself tries for twenty seconds."""
    (tmp_path / "guess").write_text("0" * 64)
    cache = write_cache(
        "phantom", phantom.Options(pairs=18), Preprocessing(32), SplitPlan(3), caches=servers.store / "cache"
    ).path
    guess = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "guess")}
    asked = ("sweep", "search_spaces/smoke.py", "--data", str(cache), "--address", servers.up.driver)
    told = cgn(*asked, "--store", str(tmp_path), **guess)
    assert told.returncode == 2
    assert "name its token's file in RAY_AUTH_TOKEN_PATH" in told.stderr.splitlines()[-1]


def test_nothing_listens_beyond_the_loopback_address(servers: Servers) -> None:
    everyone = servers.up.tree()
    assert len(everyone) > 8
    listening = [
        (process.name(), connection.laddr)
        for process in everyone
        for connection in sockets(process)
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
    cache = write_cache(
        "phantom", phantom.Options(pairs=18), Preprocessing(32), SplitPlan(3), caches=servers.store / "cache"
    ).path
    edits = [f"--set={edit}" for edit in ("epochs=3", "batch_size=6")]
    told = submit(
        servers,
        *("cgn", "sweep", "search_spaces/smoke.py", "--data", str(cache)),
        *("--trials", "2", "--gpus", "0.5", *edits),
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert "2 complete" in told.stdout, told.stdout
    assert f"to compare in MLflow: {servers.up.mlflow}" in told.stdout
    assert (servers.store / "studies.db").is_file()
    body, path = {"experiment_ids": ["1"], "max_results": 10}, "/api/2.0/mlflow/runs/search"
    runs = json.loads(ask(servers.mlflow_port, "POST", path, body, servers.up.basic)[1])["runs"]
    assert sorted((run["info"]["run_name"], run["info"]["status"]) for run in runs) == [
        ("smoke-phantom", "FINISHED"),
        ("trial 0", "FINISHED"),
        ("trial 1", "FINISHED"),
    ]

    status, studies = ask_ui(servers, "GET", "/api/studies")
    assert (status, "smoke-phantom" in studies) == (http.HTTPStatus.OK, True)
    for method, path, body in (
        ("DELETE", "/api/studies/1", None),
        ("POST", "/api/studies", {"study_name": "mine", "directions": ["maximize"]}),
        ("PUT", "/api/studies/1/note", {"body": "mine", "version": 1}),
    ):
        assert ask_ui(servers, method, path, body)[0] == http.HTTPStatus.INTERNAL_SERVER_ERROR
    assert ask_ui(servers, "GET", "/api/studies")[1] == studies

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
    assert "8 GPUs but no node has more than 2 CPUs and 4 GPUs" in told.stderr


@pytest.mark.parametrize("secret", ["ray_token", "mlflow.env"])
def test_a_secret_is_in_its_file_and_nowhere_else(servers: Servers, secret: str) -> None:
    """After all the jobs above: no command line, no environment, no log, no database, no answer has it."""
    own = servers.store / secret
    token = own.read_text().rpartition("=")[2].strip()
    assert len(token) >= 32
    for process in servers.up.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            assert token not in " ".join(process.cmdline())
            assert token not in " ".join(process.environ().values()), process
    jobs = ask(servers.ray_port, "GET", "/api/jobs/", None, servers.up.bearer)[1]
    assert "runtime_env" in jobs
    assert token not in jobs
    for folder in (servers.store, Path(servers.up.temporary)):
        files = [path for path in folder.rglob("*") if path.is_file() and path != own]
        assert len(files) > 5
        assert [path for path in files if token.encode() in path.read_bytes()] == []


def test_what_is_written_is_for_its_owner_only(servers: Servers) -> None:
    for path in (servers.store, Path(servers.up.temporary), servers.store / "logs"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700, path
    for name in ("up.json", "ray_token", "mlflow.env", "mlflow.db"):
        assert stat.S_IMODE((servers.store / name).stat().st_mode) == 0o600, name


@pytest.mark.parametrize(
    "foreign", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "http://127.0.0.1:9"}]
)
def test_a_page_of_another_site_reads_and_changes_nothing(servers: Servers, foreign: dict[str, str]) -> None:
    """A browser sends the login with every request; `Host` and `Origin` name the site of the page."""
    headers = {**servers.up.basic, **foreign}
    mlflow = "/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert ask(servers.mlflow_port, "GET", mlflow, None, headers)[0] == http.HTTPStatus.FORBIDDEN
    assert ask(servers.ui_port, "GET", "/api/studies", None, headers)[0] == http.HTTPStatus.FORBIDDEN


def test_four_gpus_by_name_hold_as_many_trials_as_slots_says(servers: Servers, tmp_path: Path) -> None:
    """Tasks that count themselves while they run: four with a GPU each, sixteen with a quarter."""
    script = tmp_path / "overlap.py"
    script.write_text(OVERLAP)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": servers.up.token}
    path = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    told = subprocess.run(
        [sys.executable, script, servers.up.driver],
        env={**CLEAN, **token, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    assert "[[4, 4], [16, 16]]" in told.stdout.splitlines()  # Ray wonders at so many, before or after it


def test_down_ends_all_of_it_and_nothing_else(servers: Servers) -> None:
    everyone = servers.up.tree()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert cgn("down", "--store", str(servers.store)).stdout == "ended\n"
        assert [process for process in everyone if process.is_running()] == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert not Path(servers.up.temporary).exists()
    for port in (servers.ray_port, servers.mlflow_port, servers.ui_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert cgn("down", "--store", str(servers.store)).stdout.startswith("no servers are running")


def test_after_a_kill_the_next_up_ends_what_was_left(servers: Servers) -> None:
    ports = ("--ray-port", str(servers.ray_port), "--mlflow-port", str(servers.mlflow_port))
    asked = ("up", "--store", str(servers.store), "--num-cpus", "1", *ports)
    assert cgn(*asked).returncode == 0
    killed = read_state(Store(servers.store))
    assert killed is not None
    everyone = killed.tree()
    for pid, _ in killed.processes:
        psutil.Process(pid).kill()
    left = [process for process in everyone if process.is_running()]
    assert {"raylet", "gcs_server"} <= {process.name() for process in left}

    again = cgn(*asked)
    assert again.returncode == 0, again.stderr
    assert not again.stdout.startswith("already running")
    later = cgn(*asked, "--ui", "--ui-port", str(servers.ui_port))
    assert later.stdout.startswith("already running")
    assert ask_ui(servers, "GET", "/api/studies")[0] == http.HTTPStatus.OK
    assert [process for process in everyone if process.is_running()] == []
    assert not Path(killed.temporary).exists()
    assert cgn("down", "--store", str(servers.store)).stdout == "ended\n"
