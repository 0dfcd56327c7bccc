"""Checks before a sweep or table: a short task on each node that may run trials.

A missing GPU, a ledger that a node cannot write or that is a different folder there, different versions of
packages, a full disk: each would fail a run after hours, or give results that cannot be compared.
"""

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from cgn.errors import ClusterError, ConfigError, ResourcesError, last_line
from cgn.places import Place
from cgn.provenance import code_fingerprint
from cgn_platform.cluster.resources import Cluster, Resources, fits

PACKAGES = ("cgn-platform", "ray", "torch", "numpy", "pyarrow", "pydicom")
SECONDS = 60  # until every node must have answered; a busy one first starts a process for the task

Answer = Mapping[str, Any]
"""A node's answer: host, versions, free bytes, and why it cannot write the ledger."""


def preflight(
    cluster: Cluster,
    *,
    resources: Resources,
    store: Path,
    ledger: Place,
    needs_bytes: int = 0,
    seconds: float = SECONDS,
) -> None:
    """Refuse a run that would fail later.

    Leaves nothing behind, except for a few bytes on a node whose ledger is a different folder.

    Args:
        cluster: connected.
        resources: of one trial.
        store: the driver writes to this folder.
        ledger: workers write to this place, and the driver reads it.
        needs_bytes: how much will be written to store and ledger, as far as it is known.
        seconds: until all nodes must have answered.

    Raises:
        ResourcesError: no node has room for a trial, or a disk has too little space.
        ClusterError: a node does not answer, has other versions or code, or does not share the ledger.
        ConfigError: the driver itself cannot write the ledger.
    """
    cluster.slots(resources)
    _check_space(str(store), free_bytes(store), needs_bytes, "--store")
    if ledger.folder is not None:
        _check_space(ledger.shown, free_bytes(ledger.folder), needs_bytes, "--ledger")
    probe = f".preflight-{secrets.token_hex(8)}"
    try:
        ledger.write(f"{probe}-driver", b"driver")
    except OSError as error:
        raise ConfigError(
            f"the ledger {ledger.shown} cannot be written ({last_line(error)})",
            remedy="correct --ledger or CGN_LEDGER",
        ) from error
    nodes = nodes_for(resources)
    try:
        answers = _run_on(nodes, _make_task(ledger.address, f"{ledger.root}/{probe}"), seconds)
        _check_versions(answers)
        for node, answer in answers.items():
            content = None if answer["problem"] else ledger.read(f"{probe}-{node}")
            _check_shared(ledger, answer, same=content == node.encode())
            if answer["free"] is not None:
                where = f"{ledger.shown} of node {answer['host']}"
                _check_space(where, answer["free"], needs_bytes, "--ledger")
    finally:
        for name in ("driver", *nodes):
            with contextlib.suppress(OSError):
                ledger.remove(f"{probe}-{name}")


def versions() -> dict[str, str]:
    """Versions and code of this process that must be the same on every node.

    They decide the results, and whether processes can exchange objects. A build for other hardware
    (`2.14.1+cu126`) is the same version.
    """
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            versions[name] = "missing"
    return {**versions, "code of cgn": code_fingerprint(), "code of cgn_platform": platform_code()}


def platform_code() -> str:
    """Fingerprint of every source file of this package, as installed here."""
    return code_fingerprint(Path(__file__).parents[1])


def _make_task(ledger: str, probe: str) -> Callable[[str], Answer]:
    """The task that a node runs. A nested function is pickled by value: nodes may lack this module."""
    packages = PACKAGES

    def check(node: str) -> Answer:
        import os
        import shutil
        import socket
        from importlib import metadata

        versions = {}
        for name in packages:
            try:
                versions[name] = metadata.version(name).partition("+")[0]
            except metadata.PackageNotFoundError:
                versions[name] = "missing"
        try:
            from pathlib import Path

            import cgn_platform
            from cgn.provenance import code_fingerprint

            versions["code of cgn"] = code_fingerprint()
            versions["code of cgn_platform"] = code_fingerprint(Path(cgn_platform.__path__[0]))
        except (ImportError, TypeError):  # not installed, or an older version
            versions |= {"code of cgn": "missing", "code of cgn_platform": "missing"}
        free = problem = None
        try:
            from pyarrow.fs import FileSystem, LocalFileSystem

            place = FileSystem.from_uri(ledger)[0] if "://" in ledger else LocalFileSystem()
            with place.open_output_stream(f"{probe}-{node}") as stream:
                stream.write(node.encode())
            if isinstance(place, LocalFileSystem):
                free = shutil.disk_usage(os.path.dirname(probe)).free  # noqa: PTH120
        except (ImportError, OSError) as error:
            problem = " ".join(str(error).split())
        return {"host": socket.gethostname(), "versions": versions, "free": free, "problem": problem}

    return check


def nodes_for(resources: Resources) -> dict[str, str]:
    """Host names of the nodes that may run trials, by node id."""
    import ray

    return {
        node["NodeID"]: node["NodeManagerHostname"]
        for node in ray.nodes()
        if node["Alive"] and fits(node["Resources"], resources)
    }


def _run_on(nodes: Mapping[str, str], check: Callable[[str], Answer], seconds: float) -> dict[str, Answer]:
    """Run a task on all nodes at once. Returns answers by node id, without nodes that were lost meanwhile."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(check)
    pinned = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes}
    calls = {node: task.options(scheduling_strategy=pinned[node]).remote(node) for node in nodes}
    answers, deadline = {}, time.monotonic() + seconds
    for node, reference in calls.items():
        try:
            answers[node] = ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
        except (ray.exceptions.RayError, TimeoutError) as error:
            if node not in {known["NodeID"] for known in ray.nodes() if known["Alive"]}:
                continue
            reason = "no answer" if isinstance(error, TimeoutError) else last_line(error)
            raise ClusterError(
                f"node {nodes[node]} did not run a task within {seconds:g} s ({reason})",
                remedy="repair it, or remove it from the cluster",
            ) from error
    if not answers:
        raise ClusterError(
            "every node with room for a trial was lost", remedy="run the same command when one is back"
        )
    return answers


def _check_versions(answers: Mapping[str, Answer]) -> None:
    mine = versions()
    for answer in answers.values():
        theirs = answer["versions"]
        differ = [f"{name} {theirs[name]} (here {mine[name]})" for name in mine if theirs[name] != mine[name]]
        if differ:
            raise ClusterError(
                f"node {answer['host']} has other packages than this driver: {', '.join(differ)}",
                remedy="install the same versions there, or remove it from the cluster",
            )


def _check_shared(ledger: Place, answer: Answer, *, same: bool) -> None:
    if same:
        return
    reason = answer["problem"] or "the driver cannot see a file that the node wrote there"
    raise ClusterError(
        f"node {answer['host']} does not share the ledger {ledger.shown} ({reason})",
        remedy="give a folder that all nodes mount, or an s3:// address, by --ledger or CGN_LEDGER",
    )


def _check_space(where: str, free: int, needs_bytes: int, option: str) -> None:
    if free < needs_bytes:
        raise ResourcesError(
            f"about {_size(needs_bytes)} will be written but {where} has {_size(free)} free",
            remedy=f"free space, or give another {option}",
        )


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
