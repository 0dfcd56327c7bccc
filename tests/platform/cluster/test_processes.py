"""Processes are found by their identity and ended with what they started."""

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from cgn_platform.cluster import processes

SLEEP = "import time; print(1, flush=True); time.sleep(600)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


@pytest.fixture(params=[SLEEP, DEAF], ids=["ends at SIGTERM", "ignores SIGTERM"])
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", request.param], stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield started
        started.kill()


def test_processes_are_ended_even_if_they_ignore_sigterm(
    process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "END_SECONDS", 0.5)
    processes.end_processes([psutil.Process(process.pid)])
    assert process.poll() is not None


def test_a_process_is_found_by_number_and_creation_time() -> None:
    me = psutil.Process()
    pid, created = processes.identity_of(me)
    assert processes.find_process(pid, created) == me
    assert processes.find_process(pid, created - 100) is None  # another process had this id
    ended = max(psutil.pids()) + 100_000
    assert processes.find_process(ended, created) is None
    assert processes.session_of(ended) is None


def test_free_ports_are_different_and_free() -> None:
    ports = processes.free_ports(4)
    assert len(set(ports)) == 4
    assert all(processes.is_free(port) for port in ports)
