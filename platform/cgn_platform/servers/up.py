"""Start and end the servers of a store: a Ray head, an MLflow server and Optuna's dashboard.

They listen on the loopback address only. What was started is ended by its process tree, never with `ray
stop`, which ends every Ray of the machine.
"""

import contextlib
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil

from cgn import files
from cgn.errors import ClusterError
from cgn.lock import exclusive
from cgn_platform.cluster.processes import LOOPBACK, end_processes, identity_of, is_free
from cgn_platform.cluster.proxies import exemption
from cgn_platform.cluster.temporary import SERVERS, make_temporary, remove_folder
from cgn_platform.servers import ports
from cgn_platform.servers.launch import (
    Ports,
    environment,
    mlflow_server,
    optuna_dashboard,
    ray_head,
)
from cgn_platform.servers.state import ServerState, read_state, write_state
from cgn_platform.store.layout import Store
from cgn_platform.tracking.login import write_login

EXPORTERS = "prom_metrics_service_discovery.json"  # Ray's list of targets for Prometheus, in its folder


def up(
    store: Store,
    *,
    ray_port: int = ports.RAY,
    mlflow_port: int = ports.MLFLOW,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    ui_port: int | None = None,
) -> tuple[ServerState, bool]:
    """Start a Ray head and an MLflow server on the loopback address; returns once they answer.

    Args:
        store: written by the servers and by submitted jobs.
        ray_port, mlflow_port: where they listen.
        num_cpus, num_gpus: what Ray counts; all that exist if None.
        ui_port: of Optuna's dashboard, which is also added to running servers; None for no dashboard.

    Returns:
        The servers, and whether they were started now.

    Raises:
        ClusterError: a port is taken, or a server does not start.
    """
    store = Store(store.root.resolve())
    with _exclusive(store):
        if (running := read_state(store)) is not None:
            if running.alive():
                if silent := running.silent():
                    raise ClusterError(
                        f"{' and '.join(silent)} of {store} is running but does not answer",
                        remedy="wait, or run 'cgn down' and 'cgn up' again",
                    )
                return _with_dashboard(store, running, ui_port), False
            _end(store, running)
        wanted = {"--ray-port": ray_port, "--mlflow-port": mlflow_port}
        _check_free(wanted if ui_port is None else {**wanted, "--ui-port": ui_port})
        state = _start(store, Ports.choose(ray_port, mlflow_port), num_cpus, num_gpus)
        return _with_dashboard(store, state, ui_port), True


def down(store: Store) -> bool:
    """End exactly what `up` started for this store. Returns whether there was anything to end.

    Raises:
        ClusterError: the file with the servers is damaged, or another `cgn up` is working.
    """
    store = Store(store.root.resolve())
    if not store.servers.exists():
        return False
    with _exclusive(store):
        state = read_state(store)
        if state is not None:
            _end(store, state)
    return state is not None


def submit_lines(state: ServerState, data: str = "CACHE") -> tuple[str, str]:
    """What to type in a shell: the export that grants access, and a job."""
    export = f"export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={shlex.quote(state.token)}"
    if bypass := exemption(os.environ).get("no_proxy"):
        export += f" no_proxy={shlex.quote(bypass)} NO_PROXY={shlex.quote(bypass)}"
    job = (
        f"ray job submit --address {state.jobs} --working-dir . -- "
        f"cgn sweep search_spaces/smoke.py --data {shlex.quote(data)}"
    )
    return export, job


def _start(store: Store, chosen: Ports, num_cpus: int | None, num_gpus: int | None) -> ServerState:
    from cgn_platform.tracking.mlflow_client import make_tables  # imports MLflow

    make_tables(store)
    store.logs.mkdir(mode=0o700, exist_ok=True)
    temporary = make_temporary(SERVERS)
    state = ServerState(
        jobs=f"http://{LOOPBACK}:{chosen.ray}",
        driver=f"{LOOPBACK}:{chosen.driver}",
        mlflow=f"http://{LOOPBACK}:{chosen.mlflow}",
        token=str(_token(store)),
        temporary=str(temporary),
        processes=(),
        login=str(store.mlflow_login),
    )
    write_login(store, state.mlflow)
    variables = environment(store, state.mlflow, Path(state.token))
    servers = [
        ray_head(chosen, temporary, state.bearer, num_cpus, num_gpus),
        mlflow_server(store, chosen.mlflow),
    ]
    processes = [server.start(store.logs, variables) for server in servers]
    state = replace(state, processes=[identity_of(psutil.Process(process.pid)) for process in processes])
    write_state(store, state)  # before the wait: a killed `cgn up` leaves servers that `cgn down` can end
    try:
        for server, process in zip(servers, processes, strict=True):
            server.wait(process, store.logs)
    except BaseException:
        _end(store, state)
        raise
    state = replace(state, children=[identity_of(process) for process in state.tree()])
    write_state(store, state)
    return state


def _with_dashboard(store: Store, state: ServerState, port: int | None) -> ServerState:
    """Add Optuna's dashboard. It could write, so it opens the database read-only."""
    if port is None or state.ui:
        return state
    if not state.login:
        raise ClusterError(
            f"the servers of {store} were started by an earlier version",
            remedy="run 'cgn down' and 'cgn up --ui'",
        )
    from cgn_platform.search.study import create_tables
    from cgn_platform.store import databases

    _check_free({"--ui-port": port})
    url = databases.study_url(store)
    create_tables(url)
    settings = Path(state.temporary) / "ui.json"
    server = optuna_dashboard(store, databases.read_only(url), settings, port, state.basic)
    process = server.start(store.logs, {**os.environ, **exemption(os.environ)})
    leader = psutil.Process(process.pid)
    try:
        server.wait(process, store.logs)
    except BaseException:
        end_processes([leader])
        raise
    state = replace(state, ui=f"http://{LOOPBACK}:{port}", processes=[*state.processes, identity_of(leader)])
    write_state(store, state)
    return state


def _check_free(wanted: Mapping[str, int]) -> None:
    for option, port in wanted.items():
        if not is_free(port):
            raise ClusterError(f"port {port} is taken: choose another one with {option}")


def _end(store: Store, state: ServerState) -> None:
    end_processes(state.tree())
    remove_folder(Path(state.temporary))
    store.servers.unlink(missing_ok=True)


@contextlib.contextmanager
def _exclusive(store: Store) -> Iterator[None]:
    """One `cgn up` or `cgn down` at a time for a store, which is created for its owner only."""
    store.make()
    busy = ClusterError(f"another 'cgn up' or 'cgn down' is working on {store}", remedy="wait for it")
    with exclusive(store.servers_lock, busy):
        yield


def _token(store: Store) -> Path:
    path = store.ray_token
    if not path.exists():
        files.write(path, secrets.token_hex(32), private=True)
    path.chmod(0o600)
    return path
