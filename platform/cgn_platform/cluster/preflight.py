"""What a sweep or table needs, looked at before it starts: one short task on each node that may run trials.

A GPU that is not there, a ledger that a node cannot write or that is another folder there, other
package versions, too little disk: each would cost hours, or give figures that cannot be compared.
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


SECONDS = 60  # until every node must have answered; a busy one first starts a process for it


Answer = Mapping[str, Any]  # of a node: versions, free bytes, and why it cannot write


def preflight(
    cluster: Cluster,
    *,
    resources: Resources,
    store: Path,
    ledger: Place,
    needs_bytes: int = 0,
    seconds: float = SECONDS,
) -> None:
    """Refuse what would fail later. Leaves nothing behind, but for a few bytes in a folder of a refused
    node that nobody else can reach.

    Args:
        cluster: a connected one.
        resources: of one trial.
        store: written by the driver.
        ledger: folder or address (`s3://`) that workers write and the driver reads.
        needs_bytes: what will be written to each of the two, as far as one can tell.
        seconds: until all nodes must have answered.

    Raises:
        ResourcesError: no node has room for a trial, or a disk has none.
        ClusterError: a node does not answer, has other packages, or does not share the ledger.
        ConfigError: the ledger cannot be written by the driver itself.
    """
    cluster.slots(resources)
    _check_room({str(store): free_bytes(store)}, needs_bytes, "--store")
    if ledger.folder is not None:
        _check_room({ledger.shown: free_bytes(ledger.folder)}, needs_bytes, "--ledger")
    probe = f".preflight-{secrets.token_hex(8)}"
    try:
        ledger.write(f"{probe}-driver", b"driver")
    except OSError as error:
        raise ConfigError(
            f"the ledger {ledger.shown} cannot be written ({last_line(error)})",
            remedy="correct --ledger or CGN_LEDGER",
        ) from error
    nodes = _nodes(resources)
    try:
        answers = _ask_nodes(_question(ledger.address, f"{ledger.root}/{probe}"), nodes, seconds)
        _check_versions(answers)
        for node, answer in answers.items():
            content = None if answer["problem"] else ledger.read(f"{probe}-{node}")
            _check_shared(ledger, answer, same=content == node.encode())
            if answer["free"] is not None:
                where = f"{ledger.shown} of node {answer['host']}"
                _check_room({where: answer["free"]}, needs_bytes, "--ledger")
    finally:
        for name in ("driver", *nodes):
            with contextlib.suppress(OSError):
                ledger.remove(f"{probe}-{name}")


def versions() -> dict[str, str]:
    """Of this process: the packages that decide about figures and about who understands whom.

    A build for other hardware (`2.14.1+cu126`) is the same version.
    """
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return {**found, "code of cgn": code_fingerprint(), "code of cgn_platform": platform_code()}


def platform_code() -> str:
    """Sixteen hexadecimal digits over every source file of this package, as installed here."""
    return code_fingerprint(Path(__file__).parents[1])


def _question(ledger: str, probe: str) -> Callable[[str], Answer]:
    """What a node is asked. Nested: it travels by value, to nodes that may not have this module."""
    packages = PACKAGES

    def ask(node: str) -> Answer:
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
        except (ImportError, TypeError):  # not installed, or a version whose fingerprint takes no folder
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

    return ask


def _nodes(resources: Resources) -> dict[str, str]:
    """Host names of the nodes that may run trials, by node id."""
    import ray

    return {
        node["NodeID"]: node["NodeManagerHostname"]
        for node in ray.nodes()
        if node["Alive"] and fits(node["Resources"], resources)
    }


def _ask_nodes(ask: Callable[[str], Answer], nodes: Mapping[str, str], seconds: float) -> dict[str, Answer]:
    """All at once; answers by node id. A node that is lost meanwhile gets no trials and is left out."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(ask)
    here = {node: NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes}
    asked = {node: task.options(scheduling_strategy=here[node]).remote(node) for node in nodes}
    answers, deadline = {}, time.monotonic() + seconds
    for node, reference in asked.items():
        try:
            answers[node] = ray.get(reference, timeout=max(0.0, deadline - time.monotonic()))
        except (ray.exceptions.RayError, TimeoutError) as error:
            if node not in {each["NodeID"] for each in ray.nodes() if each["Alive"]}:
                continue
            told = "no answer" if isinstance(error, TimeoutError) else last_line(error)
            raise ClusterError(
                f"node {nodes[node]} runs no task within {seconds:g} s ({told}): "
                "mend it, or take it from the cluster"
            ) from error
    if not answers:
        raise ClusterError("every node with room for a trial was lost: run the same command when one is back")
    return answers


def _check_versions(answers: Mapping[str, Answer]) -> None:
    mine = versions()
    for answer in answers.values():
        theirs = answer["versions"]
        differ = [f"{name} {theirs[name]} (here {mine[name]})" for name in mine if theirs[name] != mine[name]]
        if differ:
            raise ClusterError(
                f"node {answer['host']} has other packages than this driver: {', '.join(differ)}: "
                "install the same versions there, or take it from the cluster"
            )


def _check_shared(ledger: Place, answer: Answer, *, same: bool) -> None:
    if same:
        return
    why = answer["problem"] or "what it wrote there is not found here"
    raise ClusterError(
        f"node {answer['host']} does not share the ledger {ledger.shown} ({why}): "
        "give a folder that all nodes mount, or an s3:// address, by --ledger or CGN_LEDGER"
    )


def _check_room(free: Mapping[str, int], needs_bytes: int, option: str) -> None:
    for where, there in free.items():
        if there < needs_bytes:
            raise ResourcesError(
                f"about {_size(needs_bytes)} will be written but {where} has {_size(there)} free: "
                f"make room, or give another {option}"
            )


def free_bytes(folder: Path) -> int:
    """Bytes free where the folder is, or will be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(n: float) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB"
