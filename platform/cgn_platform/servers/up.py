"""Start and end the servers of `cgn up`: a Ray head, an MLflow server and Optuna's dashboard."""

import contextlib
import json
import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from cgn import files
from cgn.errors import ClusterError, first_line
from cgn_platform.cluster.connect import LOOPBACK_ONLY, QUIET
from cgn_platform.cluster.processes import (
    LOOPBACK,
    Identity,
    end_processes,
    find_process,
    free_ports,
    identity_of,
    is_free,
    process_tree,
    session_of,
)
from cgn_platform.cluster.temporary import SERVERS, make_temporary, remove_folder
from cgn_platform.servers.http import get, status
from cgn_platform.store.layout import Store

RAY_PORT, MLFLOW_PORT, UI_PORT = 8265, 5000, 8080


START_SECONDS = 120  # until a server must answer


EXPORTERS = "prom_metrics_service_discovery.json"  # Ray's file for Prometheus, in its temporary folder


STUDIES = "api/studies"  # what Optuna's dashboard answers to


@dataclass(frozen=True)
class ServerState:
    """The servers of `cgn up`, as `up.json` in the store tells of them."""

    jobs: str
    driver: str  # host:port for --address
    mlflow: str
    token: str  # path of the file
    temporary: str
    processes: Sequence[Identity]  # of the servers
    children: Sequence[Identity] = ()  # that they had when they first answered; some outlive a killed parent
    ui: str = ""  # Optuna's dashboard, where it was asked for

    def alive(self) -> bool:
        """Whether all servers run."""
        return all(find_process(*each) is not None for each in self.processes)

    def tree(self) -> list[psutil.Process]:
        """All that still runs of what was started, and what that has started since.

        Each server leads a session of its own. The number of a session is nobody else's while one
        process of it lives, so one that is known leads to all, also where the server was killed.
        """
        known = [find_process(*each) for each in (*self.processes, *self.children)]
        alive = {each.pid: each for root in known if root is not None for each in process_tree(root)}
        sessions = {session_of(pid) for pid in alive} & {pid for pid, _ in self.processes}
        for pid in psutil.pids():
            if session_of(pid) in sessions:
                with contextlib.suppress(psutil.NoSuchProcess):
                    alive.setdefault(pid, psutil.Process(pid))
        return list(alive.values())

    def silent(self) -> list[str]:
        """Which of the servers do not answer, or not as they should."""
        bearer = {"Authorization": f"Bearer {Path(self.token).read_text().strip()}"}
        answered = {
            "Ray": status(f"{self.jobs}/api/jobs/", bearer),
            "MLflow": status(f"{self.mlflow}/health"),
        }
        if self.ui:
            answered["Optuna's dashboard"] = status(f"{self.ui}/{STUDIES}")
        return [name for name, told in answered.items() if told != HTTPStatus.OK]


def up(
    store: Store,
    *,
    ray_port: int = RAY_PORT,
    mlflow_port: int = MLFLOW_PORT,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    ui_port: int | None = None,
) -> tuple[ServerState, bool]:
    """Start a Ray head and an MLflow server on the loopback address; returns once they answer.

    The second value tells whether they were started now. They write to `store`, and so do submitted jobs.

    Args:
        store: where they write.
        ray_port, mlflow_port: where they listen.
        num_cpus, num_gpus: what Ray counts; what there is where None.
        ui_port: of Optuna's dashboard, too, also beside servers that are up; none where None.

    Raises:
        ClusterError: a port is taken, or a server does not come up.
    """
    store = Store(store.root.resolve())
    with _alone(store):
        if (there := read_up(store)) is not None:
            if there.alive():
                if silent := there.silent():
                    raise ClusterError(
                        f"{' and '.join(silent)} of {store} runs but does not answer: "
                        "wait, or run 'cgn down' and 'cgn up' again"
                    )
                return _with_ui(store, there, ui_port), False
            _end(store, there)
        ports = {"--ray-port": ray_port, "--mlflow-port": mlflow_port}
        _check_free(ports if ui_port is None else {**ports, "--ui-port": ui_port})
        state = _start_servers(store, ray_port, mlflow_port, num_cpus, num_gpus)
        return _with_ui(store, state, ui_port), True


def _check_free(ports: Mapping[str, int]) -> None:
    for name, port in ports.items():
        if not is_free(port):
            raise ClusterError(f"port {port} is taken: choose another one with {name}")


def _start_servers(
    store: Store, ray_port: int, mlflow_port: int, num_cpus: int | None, num_gpus: int | None
) -> ServerState:
    from cgn_platform.tracking import mlflow_client  # MLflow, to start servers only

    mlflow_client.make_tables(store)
    logs = store.logs
    logs.mkdir(mode=0o700, exist_ok=True)
    token = _token(store)
    driver_port, *agents = free_ports(5)
    uri = f"http://{LOOPBACK}:{mlflow_port}"
    temporary = make_temporary(SERVERS)
    environment = {
        **os.environ,
        **QUIET,
        **LOOPBACK_ONLY,
        **_mlflow_environment(),
        # A job's entry point is `cgn ...`: the environment that holds it comes first.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "CGN_STORE": str(store),
        "MLFLOW_TRACKING_URI": uri,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    for name in ("RAY_AUTH_TOKEN", "RAY_ADDRESS"):
        environment.pop(name, None)
    tool = str(Path(sys.executable).parent / "ray")
    head = [tool, "start", "--head", "--block", "--disable-usage-stats"]
    head += [f"--node-ip-address={LOOPBACK}", f"--port={driver_port}", f"--temp-dir={temporary / 'r'}"]
    head += ["--include-dashboard=true", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={ray_port}"]
    ports = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
    head += [f"--{name}={port}" for name, port in zip(ports, agents, strict=False)]
    head += [f"--ray-client-server-port={agents[-1]}"]
    head += ["--min-worker-port=0", "--max-worker-port=0"]  # any: its range of ten thousand may hold ours
    head += [] if num_cpus is None else [f"--num-cpus={num_cpus}"]
    head += [] if num_gpus is None else [f"--num-gpus={num_gpus}"]
    server = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", str(mlflow_port)]
    server += ["--backend-store-uri", f"sqlite:///{store.mlflow_database}"]
    server += ["--artifacts-destination", str(store.mlflow_artifacts), "--workers", "1"]

    started = [_start("ray", head, logs, environment), _start("mlflow", server, logs, environment)]
    state = ServerState(
        jobs=f"http://{LOOPBACK}:{ray_port}",
        driver=f"{LOOPBACK}:{driver_port}",
        mlflow=uri,
        token=str(token),
        temporary=str(temporary),
        processes=[identity_of(psutil.Process(process.pid)) for process in started],
    )
    _write_up(store, state)
    bearer = {"Authorization": f"Bearer {token.read_text()}"}
    try:
        _wait("Ray", started[0], f"{state.jobs}/api/v0/nodes", bearer, '"ALIVE"', logs)
        _wait("MLflow", started[1], f"{uri}/health", {}, "OK", logs)
    except BaseException:
        _end(store, state)
        raise
    state = replace(state, children=[identity_of(each) for each in state.tree()])
    _write_up(store, state)
    return state


def _with_ui(store: Store, state: ServerState, port: int | None) -> ServerState:
    """The same servers and Optuna's dashboard, which has no password and could write: it may only read.

    Its settings go into a file, since the address of the studies may hold a password.
    """
    if port is None or state.ui:
        return state
    from cgn_platform.search import study
    from cgn_platform.store import databases

    _check_free({"--ui-port": port})
    url = databases.study_url(store)
    study.make_tables(url)
    config = Path(state.temporary) / "ui.toml"
    settings = {"storage": databases.read_only(url), "host": LOOPBACK, "port": port}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    files.write(config, "\n".join(["[optuna_dashboard]", *lines, ""]), private=True)
    tool = str(Path(sys.executable).parent / "optuna-dashboard")
    command = [tool, "--from-config", str(config), "--server", "wsgiref"]
    process = _start("ui", command, store.logs, os.environ)
    ui, leader = f"http://{LOOPBACK}:{port}", psutil.Process(process.pid)
    state = replace(state, ui=ui, processes=[*state.processes, identity_of(leader)])
    try:
        _wait("ui", process, f"{ui}/{STUDIES}", {}, "", store.logs)
    except BaseException:
        end_processes([leader])
        raise
    _write_up(store, state)
    return state


def down(store: Store) -> bool:
    """End exactly what `up` started in this store. Returns whether there was anything.

    Raises:
        ClusterError: `up.json` is damaged, or another `cgn up` is at work there.
    """
    store = Store(store.root.resolve())
    if not (store.servers).exists():
        return False
    with _alone(store):
        if (there := read_up(store)) is None:
            return False
        _end(store, there)
    return True


def _end(store: Store, there: ServerState) -> None:
    end_processes(there.tree())
    remove_folder(Path(there.temporary))
    (store.servers).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(store: Store) -> Iterator[None]:
    """One `cgn up` or `cgn down` at a time in a store, which is made for its owner only."""
    store.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with FileLock(store.servers_lock, timeout=0):
            yield
    except Timeout:
        raise ClusterError(f"another 'cgn up' or 'cgn down' works in {store}: wait for it") from None


def submit_lines(state: ServerState, data: str = "CACHE") -> tuple[str, str]:
    """What to type in a shell: the export that lets it in, and a job."""
    export = f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={shlex.quote(state.token)}"
    job = (
        f"ray job submit --address {state.jobs} --working-dir . -- "
        f"cgn sweep search_spaces/smoke.py --data {data}"
    )
    return export, job


def _token(store: Store) -> Path:
    path = store.ray_token
    if not path.exists():
        files.write(path, secrets.token_hex(32), private=True)
    path.chmod(0o600)
    return path


def _mlflow_environment() -> dict[str, str]:
    return {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _start(
    name: str, command: Sequence[str], logs: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    with (logs / f"{name}.log").open("wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
            umask=0o077,  # what they write is for its owner only
        )


def _wait(
    name: str, process: subprocess.Popen[bytes], url: str, headers: Mapping[str, str], told: str, logs: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    log = logs / f"{name.lower()}.log"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"]
            raise ClusterError(f"{name} ended while starting: {lines[-1].strip()} (more in {log})")
        answer = get(url, headers)
        if answer is not None and answer[0] == HTTPStatus.OK and told in answer[1]:
            return
        time.sleep(0.3)
    raise ClusterError(f"{name} does not answer at {url} after {START_SECONDS} s: see {log}")


def _write_up(store: Store, state: ServerState) -> None:
    files.write(store.servers, json.dumps(vars(state), indent=1) + "\n", private=True)


def read_up(store: Store) -> ServerState | None:
    """What `cgn up` left in this store; None where nothing is up.

    Raises:
        ClusterError: the file is damaged.
    """
    path = store.servers
    try:
        facts = json.loads(path.read_text())
        for name in ("processes", "children"):
            facts[name] = [(int(pid), float(created)) for pid, created in facts.get(name, ())]
        return ServerState(**facts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"{path} cannot be read ({first_line(error)}): end its servers by hand and remove it"
        ) from error
