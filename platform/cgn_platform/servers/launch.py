"""The servers of `cgn up`: their commands, how they are started, and when they are ready."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from cgn import files
from cgn.errors import ClusterError
from cgn_platform.cluster.connect import LOOPBACK_ONLY, QUIET
from cgn_platform.cluster.processes import LOOPBACK, free_ports
from cgn_platform.cluster.proxies import exemption
from cgn_platform.servers.http import get
from cgn_platform.servers.state import STUDIES
from cgn_platform.store.layout import Store

START_SECONDS = 120  # within which a server must answer
POLL_SECONDS = 0.3

MLFLOW_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # it would run code for every caller (CVE-2026-0545)
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@dataclass(frozen=True)
class Server:
    """A server to start.

    Attributes:
        name: of the server, and of its log.
        command: with its arguments.
        url: answers with 200 and `expected` once the server is ready.
        headers: of this request.
        expected: text of the answer.
    """

    name: str
    command: Sequence[str]
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    expected: str = ""

    def start(self, logs: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start it as the leader of a session; what it writes is for its owner only."""
        with self._log(logs).open("wb") as file:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
                umask=0o077,
            )

    def wait(self, process: subprocess.Popen[bytes], logs: Path) -> None:
        """Wait until it answers.

        Not by a library's retries: a process that ends must be noticed at once, with the last line of its
        log.

        Raises:
            ClusterError: it ended, or does not answer in time.
        """
        deadline, log = time.monotonic() + START_SECONDS, self._log(logs)
        while time.monotonic() < deadline:
            if process.poll() is not None:
                lines = log.read_text(errors="replace").strip().splitlines() or ["it wrote nothing"]
                raise ClusterError(f"{self.name} ended while starting: {lines[-1].strip()} (more in {log})")
            answer = get(self.url, self.headers)
            if answer is not None and answer[0] == HTTPStatus.OK and self.expected in answer[1]:
                return
            time.sleep(POLL_SECONDS)
        raise ClusterError(f"{self.name} does not answer at {self.url} after {START_SECONDS} s: see {log}")

    def _log(self, logs: Path) -> Path:
        return logs / f"{self.name.lower()}.log"


@dataclass(frozen=True)
class Ports:
    """Where the servers listen on the loopback address; `driver` and `agents` are any free ports."""

    ray: int
    mlflow: int
    driver: int
    agents: tuple[int, ...]

    @classmethod
    def choose(cls, ray: int, mlflow: int) -> "Ports":
        """These two, and free ones for the rest."""
        driver, *agents = free_ports(5)
        return cls(ray, mlflow, driver, tuple(agents))


def ray_head(
    ports: Ports,
    temporary: Path,
    bearer: Mapping[str, str],
    num_cpus: int | None = None,
    num_gpus: int | None = None,
) -> Server:
    """A Ray head with its dashboard and jobs."""
    *agents, client = ports.agents
    names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port")
    command = [
        *(_tool("ray"), "start", "--head", "--block", "--disable-usage-stats"),
        *(f"--node-ip-address={LOOPBACK}", f"--port={ports.driver}", f"--temp-dir={temporary / 'r'}"),
        *("--include-dashboard=true", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={ports.ray}"),
        *(f"--{name}={port}" for name, port in zip(names, agents, strict=True)),
        f"--ray-client-server-port={client}",
        *("--min-worker-port=0", "--max-worker-port=0"),  # any: the default range may contain ours
        *([] if num_cpus is None else [f"--num-cpus={num_cpus}"]),
        *([] if num_gpus is None else [f"--num-gpus={num_gpus}"]),
    ]
    return Server("Ray", command, f"http://{LOOPBACK}:{ports.ray}/api/v0/nodes", bearer, '"ALIVE"')


def mlflow_server(store: Store, port: int) -> Server:
    """An MLflow server over the store's database and artifacts, behind the login in the store."""
    command = [sys.executable, "-m", "cgn_platform.servers.mlflow_app", str(store), str(port)]
    return Server("MLflow", command, f"http://{LOOPBACK}:{port}/health", expected="OK")


def optuna_dashboard(
    store: Store, study_url: str, settings: Path, port: int, login: Mapping[str, str]
) -> Server:
    """Optuna's dashboard, behind the same login.

    Its settings go into a private file, since the address of the studies may contain a password.
    """
    files.write(settings, json.dumps({"storage": study_url, "port": port}), private=True)
    command = [sys.executable, "-m", "cgn_platform.servers.dashboard_app", str(store), str(settings)]
    return Server("ui", command, f"http://{LOOPBACK}:{port}/{STUDIES}", login)


def environment(store: Store, mlflow: str, token: Path) -> dict[str, str]:
    """The environment of servers and of submitted jobs."""
    bin_folder = Path(sys.executable).parent
    variables = {
        **os.environ,
        **QUIET,
        **LOOPBACK_ONLY,
        **MLFLOW_ENVIRONMENT,
        **exemption(os.environ),
        # A job's entry point is `cgn ...`: the folder that holds it comes first.
        "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}",
        "CGN_STORE": str(store),
        "MLFLOW_TRACKING_URI": mlflow,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }
    return {name: value for name, value in variables.items() if name not in ("RAY_AUTH_TOKEN", "RAY_ADDRESS")}


def _tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)
