"""Processes and ports of this machine. Servers are ended together with their child processes."""

import contextlib
import os
import socket
from collections.abc import Sequence

import psutil

LOOPBACK = "127.0.0.1"
END_SECONDS = 10  # between SIGTERM and SIGKILL

Identity = tuple[int, float]
"""Process id and creation time of a process; the system reuses process ids."""


def end_processes(processes: Sequence[psutil.Process]) -> None:
    """Send SIGTERM, then SIGKILL to the processes that are still running after `END_SECONDS`."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=END_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=END_SECONDS)


def identity_of(process: psutil.Process) -> Identity:
    """What identifies a process as long as the machine runs. Raises psutil.NoSuchProcess."""
    return process.pid, process.create_time()


def find_process(pid: int, created: float) -> psutil.Process | None:
    """The running process of this identity; None if it has ended, even if its id was reused."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 0.01 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def session_of(pid: int) -> int | None:
    """The id of a process's session; None if the process has ended."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def process_tree(process: psutil.Process) -> list[psutil.Process]:
    """A process and all its descendants; empty if it has ended."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def has_name(process: psutil.Process, *names: str) -> bool:
    """Whether a process has one of these names; False if it has ended."""
    try:
        return process.name() in names
    except psutil.Error:
        return False


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback address that are free now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
