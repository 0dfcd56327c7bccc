"""Where it runs: a Ray of its own, the one at an address, or the servers of `cgn up`.

Nothing listens beyond the loopback address, and every Ray started here asks for a token. What was
started is ended by its process tree, never with `ray stop`, which ends every Ray of the machine.
"""

import contextlib
import http.client
import json
import logging
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from cgn import files
from cgn.errors import ClusterError, ConfigError, ResourcesError, first_line

LOOPBACK = "127.0.0.1"
RAY_PORT, MLFLOW_PORT, UI_PORT = 8265, 5000, 8080
START_SECONDS = 120  # until a server must answer
END_SECONDS = 10  # between asking a process to end and ending it
EXPORTERS = "prom_metrics_service_discovery.json"  # Ray's file for Prometheus, in its temporary folder
STUDIES = "api/studies"  # what Optuna's dashboard answers to
DRIVERS, SERVERS = "cgn-", "cgnup-"  # temporary folders of drivers and of `up`

QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a trial without a GPU must not hide the node's
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's tables ignore verbose=0 otherwise
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as at the prompt
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # the study is the memory: Tune need not write its own
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",  # (sic) preflight says it at once
}
# Ray replaces a loopback address by the machine's own, unless clusters are switched off: then all of its
# services keep to 127.0.0.1. Other machines' nodes cannot join, which is the point.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}

_joined: list[str] = []  # the address of the Ray that this process has joined, be it left again or not


@dataclass(frozen=True)
class Resources:
    """What one trial takes of a node: CPUs, and GPUs or a fraction of one."""

    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        for name, value, low in (("cpus", self.cpus, 0.01), ("gpus", self.gpus, 0)):
            if value < low:
                raise ConfigError(f"--{name} must be at least {low:g} but got {value:g}")
            if value > 1 and value != int(value):
                raise ConfigError(f"--{name} above 1 must be whole but got {value:g}: take {int(value)}")


@dataclass(frozen=True)
class Cluster:
    """A connected Ray."""

    address: str
    nodes: Sequence[Mapping[str, float]]  # resources of each node that is alive

    def slots(self, resources: Resources) -> int:
        """How many trials fit at once.

        Raises:
            ResourcesError: not one, on any node.
        """
        slots = sum(fits(node, resources) for node in self.nodes)
        if slots == 0:
            cpus, gpus = (max((n.get(kind, 0.0) for n in self.nodes), default=0) for kind in ("CPU", "GPU"))
            raise ResourcesError(
                f"a trial asks for {resources.cpus:g} CPUs and {resources.gpus:g} GPUs "
                f"but no node has more than {cpus:g} CPUs and {gpus:g} GPUs: "
                "lower --cpus or --gpus, or add such a node"
            )
        return slots


def in_job() -> bool:
    """Whether this process is the entry point of a submitted job: it runs in an uploaded copy."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


@contextlib.contextmanager
def connect(
    address: str | None = None, *, num_cpus: int | None = None, num_gpus: int | None = None
) -> Iterator[Cluster]:
    """Ray at the address, or `RAY_ADDRESS`, or one of its own that ends with the block ("local").

    Once in a process. Ray (2.60) ends the thread that exports its figures for the first connection only; that
    of a second one goes on while the process ends, and now and then reads what is gone: a segmentation fault.

    Raises:
        ClusterError: nothing answers, or it refuses the token.
        RuntimeError: this process has joined a Ray before.
    """
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where.startswith("http"):
        raise ClusterError(
            f"{where} takes jobs, not drivers: use 'ray job submit --address {where} -- cgn sweep ...', "
            "or --address local"
        )
    if own := where == "local":
        prepare_local()
        _remove_leftovers()
    else:
        os.environ.update(QUIET)
        knock(where)
    if _joined:
        raise RuntimeError(f"this process has joined the Ray at {_joined[0]}: join another in a new process")
    import ray

    with contextlib.ExitStack() as ending:
        options: dict[str, Any] = {}
        if own:
            temporary = _temporary(DRIVERS)
            ending.callback(_remove, temporary)
            options = {"num_cpus": num_cpus, "num_gpus": num_gpus, "include_dashboard": False}
            options["_temp_dir"] = str(temporary / "r")
        ending.callback(_shut_down)
        try:
            ray.init(where, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            remedy = (
                "try again, or give --address"
                if own
                else "start one ('cgn up'), name its token's file in RAY_AUTH_TOKEN_PATH, or drop --address"
            )
            raise ClusterError(f"no Ray can be used at {where}: {first_line(error)}: {remedy}") from error
        _joined.append(where)
        yield Cluster(where, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def prepare_local() -> None:
    """Environment of a Ray of one's own. Ray reads it when it is first imported, so this comes before.

    Raises:
        RuntimeError: it is too late; Ray would ask for a token and not show its own.
    """
    decisive = {**LOOPBACK_ONLY, "RAY_AUTH_MODE": "token"}
    if "ray" in sys.modules and any(os.environ.get(name) != value for name, value in decisive.items()):
        raise RuntimeError("ray was imported before connect(): import cgn_platform.sweep within its block")
    os.environ.update(QUIET | decisive)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _shut_down() -> None:
    """Leave Ray. It waits a second for each process that it started; a busy machine needs longer."""
    import ray

    started = _tree(psutil.Process())[1:]
    ray.shutdown()
    servers = [process for process in started if _named(process, "raylet", "gcs_server")]
    psutil.wait_procs(servers, timeout=END_SECONDS)


Identity = tuple[int, float]  # of a process: its number, and its time of creation, since numbers come again


@dataclass(frozen=True)
class Up:
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
        return all(_process(*each) is not None for each in self.processes)

    def tree(self) -> list[psutil.Process]:
        """All that still runs of what was started, and what that has started since.

        Each server leads a session of its own. The number of a session is nobody else's while one
        process of it lives, so one that is known leads to all, also where the server was killed.
        """
        known = [_process(*each) for each in (*self.processes, *self.children)]
        alive = {each.pid: each for root in known if root is not None for each in _tree(root)}
        sessions = {_session(pid) for pid in alive} & {pid for pid, _ in self.processes}
        for pid in psutil.pids():
            if _session(pid) in sessions:
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
    store: Path,
    *,
    ray_port: int = RAY_PORT,
    mlflow_port: int = MLFLOW_PORT,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    ui_port: int | None = None,
) -> tuple[Up, bool]:
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
    store = store.resolve()
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
        if not _free(port):
            raise ClusterError(f"port {port} is taken: choose another one with {name}")


def _start_servers(
    store: Path, ray_port: int, mlflow_port: int, num_cpus: int | None, num_gpus: int | None
) -> Up:
    from cgn_platform import projection  # MLflow, to start servers only

    projection.make_tables(store)
    logs = store / "logs"
    logs.mkdir(mode=0o700, exist_ok=True)
    token = _token(store)
    driver_port, *agents = _free_ports(5)
    uri = f"http://{LOOPBACK}:{mlflow_port}"
    temporary = _temporary(SERVERS)
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
    server += ["--backend-store-uri", f"sqlite:///{store / 'mlflow.db'}"]
    server += ["--artifacts-destination", str(store / "mlartifacts"), "--workers", "1"]

    started = [_start("ray", head, logs, environment), _start("mlflow", server, logs, environment)]
    state = Up(
        jobs=f"http://{LOOPBACK}:{ray_port}",
        driver=f"{LOOPBACK}:{driver_port}",
        mlflow=uri,
        token=str(token),
        temporary=str(temporary),
        processes=[_identity(psutil.Process(process.pid)) for process in started],
    )
    _write_up(store, state)
    bearer = {"Authorization": f"Bearer {token.read_text()}"}
    try:
        _wait("Ray", started[0], f"{state.jobs}/api/v0/nodes", bearer, '"ALIVE"', logs)
        _wait("MLflow", started[1], f"{uri}/health", {}, "OK", logs)
    except BaseException:
        _end(store, state)
        raise
    state = replace(state, children=[_identity(each) for each in state.tree()])
    _write_up(store, state)
    return state


def _with_ui(store: Path, state: Up, port: int | None) -> Up:
    """The same servers and Optuna's dashboard, which has no password and could write: it may only read.

    Its settings go into a file, since the address of the studies may hold a password.
    """
    if port is None or state.ui:
        return state
    from cgn_platform import database, study

    _check_free({"--ui-port": port})
    url = database.study_url(store)
    study.make_tables(url)
    config = Path(state.temporary) / "ui.toml"
    settings = {"storage": database.read_only(url), "host": LOOPBACK, "port": port}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    files.write(config, "\n".join(["[optuna_dashboard]", *lines, ""]), private=True)
    tool = str(Path(sys.executable).parent / "optuna-dashboard")
    command = [tool, "--from-config", str(config), "--server", "wsgiref"]
    process = _start("ui", command, store / "logs", os.environ)
    ui, leader = f"http://{LOOPBACK}:{port}", psutil.Process(process.pid)
    state = replace(state, ui=ui, processes=[*state.processes, _identity(leader)])
    try:
        _wait("ui", process, f"{ui}/{STUDIES}", {}, "", store / "logs")
    except BaseException:
        end_processes([leader])
        raise
    _write_up(store, state)
    return state


def down(store: Path) -> bool:
    """End exactly what `up` started in this store. Returns whether there was anything.

    Raises:
        ClusterError: `up.json` is damaged, or another `cgn up` is at work there.
    """
    store = store.resolve()
    if not (store / "up.json").exists():
        return False
    with _alone(store):
        if (there := read_up(store)) is None:
            return False
        _end(store, there)
    return True


def _end(store: Path, there: Up) -> None:
    end_processes(there.tree())
    _remove(Path(there.temporary))
    (store / "up.json").unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(store: Path) -> Iterator[None]:
    """One `cgn up` or `cgn down` at a time in a store, which is made for its owner only."""
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with FileLock(store / "up.lock", timeout=0):
            yield
    except Timeout:
        raise ClusterError(f"another 'cgn up' or 'cgn down' works in {store}: wait for it") from None


def end_processes(processes: Sequence[psutil.Process]) -> None:
    """Ask them to end, then end them."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, left = psutil.wait_procs(processes, timeout=END_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=END_SECONDS)


def submit_lines(state: Up, data: str = "CACHE") -> tuple[str, str]:
    """What to type in a shell: the export that lets it in, and a job."""
    export = f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={shlex.quote(state.token)}"
    job = (
        f"ray job submit --address {state.jobs} --working-dir . -- "
        f"cgn sweep search_spaces/smoke.py --data {data}"
    )
    return export, job


def knock(address: str) -> None:
    """Ray itself would try for minutes where nothing answers.

    Raises:
        ClusterError: nothing does, or it is no address.
    """
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdigit()):
        raise ClusterError(f"--address must be host:port, like 127.0.0.1:6379, but got {address!r}")
    if host in (LOOPBACK, "localhost"):
        os.environ.update(LOOPBACK_ONLY)  # or Ray looks for it at the machine's own address
    if address == "auto" or host.startswith("ray://"):
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ClusterError(
            f"nothing answers at {address} ({error}): start a Ray ('cgn up') or drop --address"
        ) from error


def fits(node: Mapping[str, float], resources: Resources) -> int:
    """How many trials a node with these resources holds at once."""
    by_cpu = node.get("CPU", 0) / resources.cpus
    by_gpu = node.get("GPU", 0) / resources.gpus if resources.gpus else by_cpu
    if 0 < resources.gpus < 1:  # a fraction lies on one GPU
        by_gpu = node.get("GPU", 0) * int(1 / resources.gpus + 1e-9)
    return int(min(by_cpu, by_gpu) + 1e-9)


def _temporary(prefix: str) -> Path:
    """A folder named after this process, for its owner only. Ray opens the one that it is given to
    everyone, so it gets one within.
    """
    return Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=_short_folder()))


def _short_folder() -> Path:
    """For temporary files: a path of Ray's sockets may have 107 characters."""
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) < 19 else "/tmp")  # noqa: S108


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what nobody reads again; the next driver removes it if this one is killed."""
    folder = _temporary(DRIVERS)
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(20):  # processes that are ending may still write
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _remove_leftovers() -> None:
    """Folders of drivers that were killed: Ray's own processes ended with them."""
    for folder in _short_folder().glob(f"{DRIVERS}[0-9]*-*"):
        owner = folder.name.removeprefix(DRIVERS).partition("-")[0]
        with contextlib.suppress(OSError):
            mine = folder.stat().st_uid == os.getuid()
            if mine and owner.isdigit() and not psutil.pid_exists(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)


def _token(store: Path) -> Path:
    path = store / "ray_token"
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
        answer = _get(url, headers)
        if answer is not None and answer[0] == HTTPStatus.OK and told in answer[1]:
            return
        time.sleep(0.3)
    raise ClusterError(f"{name} does not answer at {url} after {START_SECONDS} s: see {log}")


def status(url: str, headers: Mapping[str, str] | None = None) -> int | None:
    """What a server answers to GET; None where nothing answers."""
    answer = _get(url, headers or {})
    return None if answer is None else answer[0]


def _get(url: str, headers: Mapping[str, str]) -> tuple[int, str] | None:
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        with contextlib.closing(kind(parts.hostname or "", parts.port, timeout=5)) as connection:
            connection.request("GET", parts.path or "/", headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read().decode(errors="replace")
    except (OSError, ValueError, http.client.HTTPException):
        return None


def _write_up(store: Path, state: Up) -> None:
    files.write(store / "up.json", json.dumps(vars(state), indent=1) + "\n", private=True)


def read_up(store: Path) -> Up | None:
    """What `cgn up` left in this store; None where nothing is up.

    Raises:
        ClusterError: the file is damaged.
    """
    path = store / "up.json"
    try:
        facts = json.loads(path.read_text())
        for name in ("processes", "children"):
            facts[name] = [(int(pid), float(created)) for pid, created in facts.get(name, ())]
        return Up(**facts)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ClusterError(
            f"{path} cannot be read ({first_line(error)}): end its servers by hand and remove it"
        ) from error


def _identity(process: psutil.Process) -> Identity:
    return process.pid, process.create_time()


def _process(pid: int, created: float) -> psutil.Process | None:
    """The very process that was started, not another one that got its number later."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 0.01 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _named(process: psutil.Process, *names: str) -> bool:
    try:
        return process.name() in names
    except psutil.Error:
        return False


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
