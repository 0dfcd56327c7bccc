"""Connect to a Ray cluster: a local one that is started for this process, or one at an address.

A local Ray listens on the loopback address only, and requires a token.
"""

import contextlib
import logging
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator
from typing import Any

import psutil

from cgn.errors import ClusterError, first_line
from cgn_platform.cluster.processes import END_SECONDS, LOOPBACK, has_name, process_tree
from cgn_platform.cluster.resources import Cluster
from cgn_platform.cluster.temporary import make_temporary, remove_folder, remove_leftovers

QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a trial without a GPU must not hide the node's
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's tables ignore verbose=0 otherwise
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as at the prompt
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",  # Ray reports that they are off, to this address
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # trials are stored in the study: Tune need not store them
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",  # (sic) preflight reports it at once
}
"""Environment variables of Ray and Tune, for every connection."""
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Without it, Ray replaces a loopback address by the machine's own. With it, all of Ray's services listen on
127.0.0.1, and nodes of other machines cannot join."""

LOCAL = "local"
"""In place of an address: a Ray that is started for this process."""

_joined: list[str] = []  # the address of the Ray that this process has joined, even if it has left it


def address_of(address: str | None) -> str:
    """The address that is used where a user gave this one."""
    return address or os.environ.get("RAY_ADDRESS") or LOCAL


def in_job() -> bool:
    """Whether this process is the entry point of a submitted job, which runs in an uploaded copy."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


@contextlib.contextmanager
def connect(
    address: str | None = None, *, num_cpus: int | None = None, num_gpus: int | None = None
) -> Iterator[Cluster]:
    """Connect to the Ray at an address, and leave it at the end of the block.

    Possible once per process. Ray (2.60) ends its exporting thread for the first connection only; that of a
    second connection still runs while the process ends, and may cause a segmentation fault.

    Args:
        address: `host:port`, "auto", or "local" for a Ray that ends with the block; `RAY_ADDRESS`, or else
            "local", where None.
        num_cpus, num_gpus: of a local Ray; those of the machine where None.

    Raises:
        ClusterError: nothing answers, or Ray refuses the token.
        RuntimeError: this process has joined a Ray before.
    """
    where = address_of(address)
    if where.startswith("http"):
        raise ClusterError(
            f"{where} accepts jobs, not drivers",
            remedy=f"use 'ray job submit --address {shlex.quote(where)} -- cgn sweep ...', "
            "or --address local",
        )
    if own := where == LOCAL:
        prepare_local()
        remove_leftovers()
    else:
        os.environ.update(QUIET)
        check_address(where)
    if _joined:
        raise RuntimeError(
            f"this process has joined the Ray at {_joined[0]}: join another one in a new process"
        )
    import ray

    with contextlib.ExitStack() as ending:
        options: dict[str, Any] = {}
        if own:
            temporary = make_temporary()
            ending.callback(remove_folder, temporary)
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
            raise ClusterError(
                f"no Ray can be used at {where}: {first_line(error)}", remedy=remedy
            ) from error
        _joined.append(where)
        yield Cluster(where, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def prepare_local() -> None:
    """Set the environment of a local Ray. Must be called before Ray is first imported, when Ray reads it.

    Raises:
        RuntimeError: Ray was imported with another environment; its token would be refused.
    """
    required = {**LOOPBACK_ONLY, "RAY_AUTH_MODE": "token"}
    if "ray" in sys.modules and any(os.environ.get(name) != value for name, value in required.items()):
        raise RuntimeError(
            "ray was imported before connect(): import cgn_platform.run.sweep within its block"
        )
    os.environ.update(QUIET | required)
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _shut_down() -> None:
    """Leave Ray, and wait for its processes. Ray waits a second for each; a busy machine needs longer."""
    import ray

    joined = ray.is_initialized()
    started = process_tree(psutil.Process())[1:]
    ray.shutdown()
    servers = [process for process in started if has_name(process, "raylet", "gcs_server")]
    if not joined:  # Ctrl-C while Ray started: it does not end its servers, and a raylet takes long to
        for process in servers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    psutil.wait_procs(servers, timeout=END_SECONDS)


def check_address(address: str) -> None:
    """Check that something listens at an address; Ray itself would try for minutes.

    Raises:
        ClusterError: nothing answers, or this is not an address.
    """
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdigit()):
        raise ClusterError(f"--address must be host:port, like 127.0.0.1:6379, but got {address!r}")
    if host in (LOOPBACK, "localhost"):
        os.environ.update(LOOPBACK_ONLY)  # else Ray connects to the machine's own address
    if address == "auto" or host.startswith("ray://"):
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ClusterError(
            f"nothing answers at {address} ({error})", remedy="start a Ray ('cgn up') or drop --address"
        ) from error
