"""Checks of an installation: what is missing, what does not answer, what is unsafe.

Nothing is written, started or ended, and no secret is printed.
"""

import contextlib
import os
import platform
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil
from rich.table import Table
from rich.text import Text

from cgn.data.identity import pseudonym
from cgn.errors import CGNError, PlatformError, one_line
from cgn.places import Place
from cgn.provenance import code_fingerprint
from cgn_platform.cluster import connect, preflight
from cgn_platform.cluster.proxies import exemption, exempts_loopback, proxies_of
from cgn_platform.remedies import remedy_of
from cgn_platform.search import study_lock
from cgn_platform.servers.http import is_loopback, status
from cgn_platform.servers.state import read_state
from cgn_platform.store import databases
from cgn_platform.store.layout import Store
from cgn_platform.tracking import mlflow_client

State = Literal["ok", "warning", "unsafe"]


EXIT = {"ok": 0, "warning": 1, "unsafe": 2}


STYLE = {"ok": "green", "warning": "yellow", "unsafe": "bold red"}


PACKAGES = (*preflight.PACKAGES, "optuna", "mlflow")


FEW_BYTES = 2e9


DECODERS = ("RLELossless", "JPEGLosslessSV1", "JPEGLSLossless", "JPEG2000Lossless")


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        topic: what was checked.
        state: whether it is fine.
        message: what was found.
        remedy: what to do, if it is not fine.
    """

    topic: str
    state: State
    message: str
    remedy: str = ""


def examine(
    store: Store, address: str | None = None, environment: Mapping[str, str] | None = None
) -> list[Finding]:
    """Run every check.

    Args:
        store: of servers, studies and units.
        address: of a Ray to check as well: `host:port` for drivers or `http://host:port` for jobs.
        environment: whose proxies are checked; what this process was started with if None, since commands
            exempt this machine before they run.
    """
    store = Store(store.root.absolute())
    checks = (
        _versions(),
        _decoders(),
        _cuda(),
        _disk(store),
        _modes(store),
        _key(),
        _proxies(psutil.Process().environ() if environment is None else environment),
        _servers(store),
        _address(address),
        _listeners(store),
        _databases(store),
        _ledger(store),
    )
    return [finding for check in checks for finding in check]


def worst(findings: Sequence[Finding]) -> State:
    """The worst state, which decides the exit code of `cgn doctor` (`EXIT`)."""
    return max((finding.state for finding in findings), key=EXIT.__getitem__, default="ok")


def as_table(findings: Sequence[Finding]) -> Table:
    """The findings for a terminal."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        text = f"{finding.message}\n-> {finding.remedy}" if finding.remedy else finding.message
        table.add_row(finding.topic, Text(finding.state, STYLE[finding.state]), Text(text))
    return table


def _versions() -> Iterator[Finding]:
    versions, missing = [f"python {platform.python_version()}"], []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("versions", "ok", f"{', '.join(versions)}; code of cgn {code_fingerprint()}")
    if missing:
        yield Finding("versions", "warning", f"not installed: {', '.join(missing)}", "run 'make setup'")


def _decoders() -> Iterator[Finding]:
    import pydicom.uid
    from pydicom.pixels import get_decoder

    plugins = {name: get_decoder(getattr(pydicom.uid, name)).available_plugins for name in DECODERS}
    listed = ", ".join(f"{name} ({' '.join(names) or 'none'})" for name, names in plugins.items())
    yield Finding("decoders", "ok", listed)
    if missing := [name for name, names in plugins.items() if not names]:
        message = f"films compressed with {', '.join(missing)} cannot be read"
        yield Finding("decoders", "warning", message, "run 'make setup'")


def _cuda() -> Iterator[Finding]:
    import torch

    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    listed = [f"cuda:{i} {device.name}, {_size(device.total_memory)}" for i, device in enumerate(devices)]
    yield Finding("GPUs", "ok", "; ".join(listed) or "none: everything runs on CPUs")


def _disk(store: Store) -> Iterator[Finding]:
    free = preflight.free_bytes(store.root)
    message = f"{_size(free)} free at {store}"
    if free < FEW_BYTES:
        yield Finding("disk", "warning", message, "free some space, or give another --store")
    else:
        yield Finding("disk", "ok", message)


def _modes(store: Store) -> Iterator[Finding]:
    if not store.root.exists():
        yield Finding("files", "ok", f"no store at {store} yet")
        return
    mode, remedy = _mode(store.root), f"run 'chmod 700 {shlex.quote(str(store))}'"
    if mode & 0o022:
        message = f"users other than its owner may write to {store} ({mode:04o})"
        yield Finding("files", "unsafe", message, remedy)
    elif mode & 0o055:
        message = f"users other than its owner may read {store} ({mode:04o})"
        yield Finding("files", "warning", message, f"{remedy} if they should not")
    else:
        yield Finding("files", "ok", f"only its owner may use {store}")
    for path in (store.ray_token, store.mlflow_login, store.servers):
        if path.exists():
            yield _private("files", path)


def _key() -> Iterator[Finding]:
    named = os.environ.get("CGN_KEY_FILE") or pseudonym.DEFAULT_KEY_FILE
    try:
        path = Path(named).expanduser()
    except RuntimeError as error:
        yield Finding("pseudonym key", "warning", one_line(error), remedy_of(error))
        return
    if path.exists():
        yield _private("pseudonym key", path)
    else:
        yield Finding(
            "pseudonym key", "ok", f"none at {path} yet: the first data set that needs one creates it"
        )


def _proxies(environment: Mapping[str, str]) -> Iterator[Finding]:
    proxies = proxies_of(environment)
    if not proxies:
        yield Finding("proxies", "ok", "none are set")
        return
    listed = ", ".join(f"{name}={databases.hidden(value)}" for name, value in proxies.items())
    if exempts_loopback(environment):
        yield Finding("proxies", "ok", f"{listed}; no_proxy exempts this machine")
        return
    bypass = shlex.quote(exemption(environment)["no_proxy"])
    message = (
        f"{listed}; no_proxy does not exempt this machine: cgn reaches it without them, but ray, curl and "
        "other programs send requests to it, and their tokens, to the proxy"
    )
    yield Finding("proxies", "warning", message, f"run 'export no_proxy={bypass} NO_PROXY={bypass}'")


def _private(topic: str, path: Path) -> Finding:
    mode = _mode(path)
    if mode & 0o077:
        message = f"users other than its owner may use {path} ({mode:04o})"
        remedy = f"run 'chmod 600 {shlex.quote(str(path))}', and replace the secret in it"
        return Finding(topic, "unsafe", message, remedy)
    return Finding(topic, "ok", f"only its owner may use {path}")


def _servers(store: Store) -> Iterator[Finding]:
    try:
        state = read_state(store)
    except PlatformError as error:
        yield Finding("cgn up", "warning", error.message, error.remedy)
        return
    if state is None:
        yield Finding("cgn up", "ok", f"no servers are running for {store}")
    elif not state.alive():
        message = "a server that 'cgn up' started has ended"
        yield Finding("cgn up", "warning", message, f"run 'cgn down --store {shlex.quote(str(store))}'")
    elif silent := state.silent():
        message = f"{' and '.join(silent)} does not answer"
        yield Finding("cgn up", "warning", message, "read its log, or run 'cgn down' and 'cgn up'")
    else:
        dashboard = f", and Optuna's dashboard at {state.ui}" if state.ui else ""
        yield Finding("cgn up", "ok", f"Ray at {state.jobs} and MLflow at {state.mlflow} answer{dashboard}")
        yield _requires_token(state.jobs)
        yield _requires_login(state.mlflow)


def _requires_login(mlflow: str) -> Finding:
    if status(f"{mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0") == HTTPStatus.UNAUTHORIZED:
        return Finding("MLflow", "ok", f"{mlflow} requires a login")
    message = f"every account of this machine can write to MLflow at {mlflow}: it requires no login"
    return Finding("MLflow", "unsafe", message, "run 'cgn down' and 'cgn up'")


def _requires_token(jobs: str) -> Finding:
    answer = status(f"{jobs}/api/jobs/")
    if answer in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Finding("jobs", "ok", f"{jobs} requires a token")
    if answer is None:
        return Finding("jobs", "warning", f"nothing answers at {jobs}", "start a Ray, or correct --address")
    if answer == HTTPStatus.OK:
        message = f"{jobs} runs the code of every caller: it requires no token"
        remedy = "end it, and start one with 'cgn up' or RAY_AUTH_MODE=token"
        return Finding("jobs", "unsafe", message, remedy)
    return Finding("jobs", "warning", f"{jobs} answers {answer}", "is it Ray's job interface?")


def _address(address: str | None) -> Iterator[Finding]:
    if address is None:
        return
    if address.startswith("http"):
        yield _requires_token(address.rstrip("/"))
        host = urlsplit(address).hostname or ""
        if address.startswith("http:") and not is_loopback(host):
            message = f"the token is sent to {host} unencrypted"
            yield Finding("jobs", "warning", message, "use ssh -L, or a proxy with https")
        return
    try:
        connect.check_address(address)
    except PlatformError as error:
        yield Finding("address", "warning", error.message, error.remedy)
    else:
        yield Finding("address", "ok", f"{address} answers")


def _listeners(store: Store) -> Iterator[Finding]:
    """Open ports of the servers of `cgn up`, and of every Ray or MLflow of this machine that this user may
    see.
    """
    ours: set[int] = set()
    with contextlib.suppress(PlatformError):  # a damaged file is reported by another check
        ours = {process.pid for process in state.tree()} if (state := read_state(store)) else set()
    try:
        sockets = psutil.net_connections("inet")
    except psutil.AccessDenied:
        yield Finding("listeners", "warning", "this user may not list open ports", "run it as root")
        return
    exposed, local, trusting = [], 0, set()
    for socket in sockets:
        if socket.status != psutil.CONN_LISTEN or socket.pid is None or not socket.laddr:
            continue
        kind = _kind(socket.pid) or ("a server of 'cgn up'" if socket.pid in ours else None)
        if kind == "MLflow" and _runs_jobs(socket.pid):
            trusting.add(f"{socket.laddr.ip}:{socket.laddr.port}")
        if kind and is_loopback(socket.laddr.ip):
            local += 1
        elif kind:
            exposed.append(f"{kind} (process {socket.pid}) at {socket.laddr.ip}:{socket.laddr.port}")
    if exposed:
        message = f"other machines can reach {'; '.join(sorted(exposed))}"
        yield Finding("listeners", "unsafe", message, "end them, and start them with 'cgn up'")
    if trusting:
        message = f"MLflow at {', '.join(sorted(trusting))} runs jobs for every caller"
        remedy = "start it with MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
        yield Finding("listeners", "warning", message, remedy)
    yield Finding("listeners", "ok", f"{local} ports of Ray, MLflow and dashboards on the loopback address")


def _kind(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        words = [process.name(), *process.cmdline()]
    except psutil.Error:
        return None
    if any(re.fullmatch(r"mlflow(\.[\w.:]+)?|.*/bin/mlflow|.*\.mlflow_app", word) for word in words):
        return "MLflow"
    if any(re.fullmatch(r".*/bin/optuna-dashboard|.*\.dashboard_app", word) for word in words):
        return "Optuna's dashboard"
    if any(re.match(r"raylet$|gcs_server$|ray::|ray-|.*/site-packages/ray/", word) for word in words):
        return "Ray"
    return None


def _runs_jobs(pid: int) -> bool:
    """Whether this MLflow runs jobs, which is its default (CVE-2026-0545)."""
    try:
        enabled = psutil.Process(pid).environ().get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
    except psutil.Error:
        return False
    return enabled.lower() not in ("false", "0")


def _databases(store: Store) -> Iterator[Finding]:
    try:
        url = databases.study_url(store)
        study_lock.check_database(url)
        yield Finding("study database", "ok", _answers(url))
    except CGNError as error:
        yield Finding("study database", "warning", error.message, error.remedy)
    uri = mlflow_client.default_uri(store)
    if uri.startswith("http"):
        if status(f"{uri.rstrip('/')}/health") == HTTPStatus.OK:
            yield Finding("MLflow", "ok", f"{databases.hidden(uri)} answers")
        else:
            remedy = "start it ('cgn up'), or correct MLFLOW_TRACKING_URI"
            yield Finding("MLflow", "warning", f"{databases.hidden(uri)} does not answer", remedy)
        return
    try:
        study_lock.check_database(uri)
        yield Finding("MLflow", "ok", _answers(uri))
    except CGNError as error:
        yield Finding("MLflow", "warning", error.message, error.remedy)


def _answers(url: str) -> str:
    path = databases.sqlite_path(url)
    return f"{databases.hidden(url)} {'answers' if path is None or path.exists() else 'does not exist yet'}"


def _ledger(store: Store) -> Iterator[Finding]:
    where = os.environ.get("CGN_LEDGER") or str(store.units)
    try:
        place = Place(where)
        condition = "answers" if place.exists() else "does not exist yet"
        yield Finding("ledger", "ok", f"{place.shown} {condition}")
    except OSError as error:
        yield Finding("ledger", "warning", one_line(error), "correct CGN_LEDGER, or mount it")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _size(n: float) -> str:
    return f"{n / 1e9:.1f} GB"
