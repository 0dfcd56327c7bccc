"""What is here, what answers, and what is unsafe: read only, and no secret in what it tells."""

import contextlib
import ipaddress
import os
import platform
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil
from rich.table import Table
from rich.text import Text

from cgn.data import pseudonym
from cgn.errors import CGNError, PlatformError
from cgn.places import Place
from cgn.provenance import code_fingerprint
from cgn_platform.cluster import connect, preflight
from cgn_platform.search import study_lock
from cgn_platform.servers import http, up
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
    """One thing that was looked at, and what to do about it where it is not fine."""

    topic: str
    state: State
    told: str
    remedy: str = ""


def examine(store: Store, address: str | None = None) -> list[Finding]:
    """Look at everything; nothing is written, started or ended.

    Args:
        store: of `cgn up`, studies and units.
        address: of a Ray, too: `host:port` of drivers or `http://host:port` of jobs.
    """
    store = Store(store.root.absolute())
    looks = (
        _versions(),
        _decoders(),
        _cuda(),
        _disk(store),
        _modes(store),
        _key(),
        _servers(store),
        _address(address),
        _listeners(store),
        _databases(store),
        _ledger(store),
    )
    return [finding for look in looks for finding in look]


def worst(findings: Sequence[Finding]) -> State:
    """`ok`, `warning` or `unsafe`: the exit code of `cgn doctor` is 0, 1 or 2."""
    return max((finding.state for finding in findings), key=EXIT.__getitem__, default="ok")


def as_table(findings: Sequence[Finding]) -> Table:
    """For people."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        told = f"{finding.told}\n-> {finding.remedy}" if finding.remedy else finding.told
        table.add_row(finding.topic, Text(finding.state, STYLE[finding.state]), Text(told))
    return table


def _versions() -> Iterator[Finding]:
    told, missing = [f"python {platform.python_version()}"], []
    for name in PACKAGES:
        try:
            told.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("versions", "ok", f"{', '.join(told)}; code of cgn {code_fingerprint()}")
    if missing:
        yield Finding("versions", "warning", f"not installed: {', '.join(missing)}", "run 'make setup'")


def _decoders() -> Iterator[Finding]:
    import pydicom.uid
    from pydicom.pixels import get_decoder

    there = {name: get_decoder(getattr(pydicom.uid, name)).available_plugins for name in DECODERS}
    told = ", ".join(f"{name} ({' '.join(plugins) or 'none'})" for name, plugins in there.items())
    yield Finding("decoders", "ok", told)
    if lacking := [name for name, plugins in there.items() if not plugins]:
        told = f"films compressed with {', '.join(lacking)} cannot be read"
        yield Finding("decoders", "warning", told, "run 'make setup'")


def _cuda() -> Iterator[Finding]:
    import torch

    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    told = [f"cuda:{i} {device.name}, {_size(device.total_memory)}" for i, device in enumerate(devices)]
    yield Finding("GPUs", "ok", "; ".join(told) or "none: everything runs on CPUs")


def _disk(store: Store) -> Iterator[Finding]:
    free = preflight.free_bytes(store.root)
    told = f"{_size(free)} free at {store}"
    if free < FEW_BYTES:
        yield Finding("disk", "warning", told, "make room, or give another --store")
    else:
        yield Finding("disk", "ok", told)


def _modes(store: Store) -> Iterator[Finding]:
    if not store.root.exists():
        yield Finding("files", "ok", f"no store at {store} yet")
        return
    mode = _mode(store.root)
    if mode & 0o022:
        told = f"others than its owner may write to {store} ({mode:04o})"
        yield Finding("files", "unsafe", told, f"run 'chmod 700 {store}'")
    elif mode & 0o055:
        told = f"others than its owner may read {store} ({mode:04o})"
        yield Finding("files", "warning", told, f"run 'chmod 700 {store}' where they should not")
    else:
        yield Finding("files", "ok", f"{store} is for its owner only")
    for path in (store.ray_token, store.servers):
        if path.exists():
            yield _private("files", path)


def _key() -> Iterator[Finding]:
    named = os.environ.get("CGN_KEY_FILE") or pseudonym.DEFAULT_KEY_FILE
    path = Path(named).expanduser()
    if path.exists():
        yield _private("pseudonym key", path)
    else:
        yield Finding(
            "pseudonym key", "ok", f"none at {path} yet: the first data set that needs it writes it"
        )


def _private(topic: str, path: Path) -> Finding:
    mode = _mode(path)
    if mode & 0o077:
        told = f"others than its owner may use {path} ({mode:04o})"
        return Finding(topic, "unsafe", told, f"run 'chmod 600 {path}', and renew what it holds")
    return Finding(topic, "ok", f"{path} is for its owner only")


def _servers(store: Store) -> Iterator[Finding]:
    try:
        there = up.read_up(store)
    except PlatformError as error:
        yield Finding("cgn up", "warning", *_parted(error))
        return
    if there is None:
        yield Finding("cgn up", "ok", f"nothing is up in {store}")
    elif not there.alive():
        told = "a server that was started here has ended"
        yield Finding("cgn up", "warning", told, f"run 'cgn down --store {store}'")
    elif silent := there.silent():
        told = f"{' and '.join(silent)} does not answer"
        yield Finding("cgn up", "warning", told, "look into its log in the store, or 'cgn down' and 'cgn up'")
    else:
        more = f", and Optuna's dashboard at {there.ui}" if there.ui else ""
        yield Finding("cgn up", "ok", f"Ray at {there.jobs} and MLflow at {there.mlflow} answer{more}")
        yield _asks_for_a_token(there.jobs)


def _asks_for_a_token(jobs: str) -> Finding:
    answer = http.status(f"{jobs}/api/jobs/")
    if answer in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Finding("jobs", "ok", f"{jobs} asks for a token")
    if answer is None:
        return Finding("jobs", "warning", f"nothing answers at {jobs}", "start a Ray, or correct --address")
    if answer == HTTPStatus.OK:
        told = f"{jobs} runs anybody's code: it asks for no token"
        return Finding("jobs", "unsafe", told, "end it, and start one with 'cgn up' or RAY_AUTH_MODE=token")
    return Finding("jobs", "warning", f"{jobs} answers {answer}", "is it Ray's job interface?")


def _address(address: str | None) -> Iterator[Finding]:
    if address is None:
        return
    if address.startswith("http"):
        yield _asks_for_a_token(address.rstrip("/"))
        host = urlsplit(address).hostname or ""
        if address.startswith("http:") and not _loopback(host):
            told = f"the token travels to {host} unencrypted"
            yield Finding("jobs", "warning", told, "go through ssh -L, or a proxy with https")
        return
    try:
        connect.knock(address)
    except PlatformError as error:
        yield Finding("address", "warning", *_parted(error))
    else:
        yield Finding("address", "ok", f"{address} answers")


def _listeners(store: Store) -> Iterator[Finding]:
    """Of what `cgn up` started here, and of any Ray or MLflow of this machine that this user may see."""
    ours: set[int] = set()
    with contextlib.suppress(PlatformError):  # a damaged up.json is told elsewhere
        ours = {process.pid for process in there.tree()} if (there := up.read_up(store)) else set()
    try:
        sockets = psutil.net_connections("inet")
    except psutil.AccessDenied:
        yield Finding("listeners", "warning", "this user may not see them", "run it as root")
        return
    beyond, kept, trusting = [], 0, set()
    for socket in sockets:
        if socket.status != psutil.CONN_LISTEN or socket.pid is None or not socket.laddr:
            continue
        kind = _kind(socket.pid) or ("a server of 'cgn up'" if socket.pid in ours else None)
        if kind == "MLflow" and _runs_jobs(socket.pid):
            trusting.add(f"{socket.laddr.ip}:{socket.laddr.port}")
        if kind and _loopback(socket.laddr.ip):
            kept += 1
        elif kind:
            beyond.append(f"{kind} (process {socket.pid}) at {socket.laddr.ip}:{socket.laddr.port}")
    if beyond:
        told = f"reached from other machines: {'; '.join(sorted(beyond))}"
        yield Finding("listeners", "unsafe", told, "end them, and start them with 'cgn up'")
    if trusting:
        told = f"MLflow at {', '.join(sorted(trusting))} runs jobs for whoever asks"
        yield Finding("listeners", "warning", told, "start it with MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false")
    yield Finding("listeners", "ok", f"{kept} sockets of Ray, MLflow and dashboards on the loopback address")


def _kind(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        words = [process.name(), *process.cmdline()]
    except psutil.Error:
        return None
    if any(re.fullmatch(r"mlflow(\.[\w.:]+)?|.*/bin/mlflow", word) for word in words):
        return "MLflow"
    if any(re.fullmatch(r".*/bin/optuna-dashboard", word) for word in words):
        return "Optuna's dashboard"
    if any(re.match(r"raylet$|gcs_server$|ray::|ray-|.*/site-packages/ray/", word) for word in words):
        return "Ray"
    return None


def _runs_jobs(pid: int) -> bool:
    """MLflow does unless its environment says no (CVE-2026-0545)."""
    try:
        told = psutil.Process(pid).environ().get("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")
    except psutil.Error:
        return False
    return told.lower() not in ("false", "0")


def _databases(store: Store) -> Iterator[Finding]:
    try:
        url = databases.study_url(store)
        study_lock.answers(url)
        yield Finding("study database", "ok", _answers(url))
    except CGNError as error:
        yield Finding("study database", "warning", *_parted(error))
    uri = mlflow_client.default_uri(store)
    if uri.startswith("http"):
        told = http.status(f"{uri.rstrip('/')}/health")
        if told == HTTPStatus.OK:
            yield Finding("MLflow", "ok", f"{databases.hidden(uri)} answers")
        else:
            remedy = "start it ('cgn up'), or correct MLFLOW_TRACKING_URI"
            yield Finding("MLflow", "warning", f"{databases.hidden(uri)} does not answer", remedy)
        return
    try:
        study_lock.answers(uri)
        yield Finding("MLflow", "ok", _answers(uri))
    except CGNError as error:
        yield Finding("MLflow", "warning", *_parted(error))


def _answers(url: str) -> str:
    path = databases.sqlite_path(url)
    return f"{databases.hidden(url)} {'answers' if path is None or path.exists() else 'is not there yet'}"


def _ledger(store: Store) -> Iterator[Finding]:
    where = os.environ.get("CGN_LEDGER") or str(store.units)
    try:
        place = Place(where)
        told = f"{place.shown} {'answers' if place.exists() else 'is not there yet'}"
        yield Finding("ledger", "ok", told)
    except OSError as error:
        told = " ".join(str(error).split())
        yield Finding("ledger", "warning", told, "correct CGN_LEDGER, or mount it")


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _parted(error: CGNError) -> tuple[str, str]:
    """What it tells, and what to do: behind the last colon."""
    told, _, remedy = str(error).rpartition(": ")
    return told, remedy


def _size(n: float) -> str:
    return f"{n / 1e9:.1f} GB"
