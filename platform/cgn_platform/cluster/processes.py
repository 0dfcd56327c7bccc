"""Processes and ports of this machine: started servers are ended by their process tree."""

import contextlib
import os
import socket
from collections.abc import Sequence

import psutil

LOOPBACK = "127.0.0.1"


END_SECONDS = 10  # between asking a process to end and ending it


Identity = tuple[int, float]  # of a process: its number, and its time of creation, since numbers come again


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


def identity_of(process: psutil.Process) -> Identity:
    return process.pid, process.create_time()


def find_process(pid: int, created: float) -> psutil.Process | None:
    """The very process that was started, not another one that got its number later."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 0.01 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def process_tree(process: psutil.Process) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def has_name(process: psutil.Process, *names: str) -> bool:
    try:
        return process.name() in names
    except psutil.Error:
        return False


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(n)]
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [probe.getsockname()[1] for probe in probes]
