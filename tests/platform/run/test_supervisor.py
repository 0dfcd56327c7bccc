"""What ends a sweep early, with threads in place of Tune."""

import os
import signal
import threading
import time
from typing import Any

import pytest

from cgn.errors import ClusterError, StudyError
from cgn_platform.run import supervisor as module
from cgn_platform.run.supervisor import SweepSupervisor


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> SweepSupervisor:
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.01)
    controller: Any = None
    return SweepSupervisor(controller)


def alive() -> None:
    """A probe of a cluster that answers."""


def wait_for_failure(supervisor: SweepSupervisor) -> None:
    """A sweep that ends soon after `failure` is set, as Tune does by `StopAll`."""
    while supervisor.failure is None:
        time.sleep(0.01)


def test_a_sweep_runs_to_its_end_in_another_thread(supervisor: SweepSupervisor) -> None:
    threads: list[threading.Thread] = []
    supervisor.run(lambda: threads.append(threading.current_thread()), alive)
    assert threads != [threading.main_thread()]
    assert supervisor.failure is None


def test_an_error_of_the_sweep_is_raised(supervisor: SweepSupervisor) -> None:
    with pytest.raises(ZeroDivisionError):
        supervisor.run(lambda: 1 / 0, alive)


def test_the_first_error_of_the_controller_ends_the_sweep(supervisor: SweepSupervisor) -> None:
    calls: list[int] = []

    def fail() -> int:
        raise StudyError("the database is full")

    def sweep() -> None:
        assert supervisor.guard(lambda: 1, otherwise=0) == 1
        assert supervisor.guard(fail, otherwise=0) == 0
        assert supervisor.guard(lambda: calls.append(1) or 1, otherwise=0) == 0

    with pytest.raises(StudyError, match="the database is full"):
        supervisor.run(sweep, alive)
    assert calls == []  # the controller is not called again


def test_a_lost_cluster_is_not_waited_for(supervisor: SweepSupervisor) -> None:
    never = threading.Event()
    with pytest.raises(ClusterError, match="it is gone: run the same command again"):
        supervisor.run(never.wait, lambda: "it is gone")
    never.set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_sweep_and_handlers_are_restored(
    supervisor: SweepSupervisor, number: signal.Signals
) -> None:
    before = signal.getsignal(number)

    def sweep() -> None:
        os.kill(os.getpid(), number)
        wait_for_failure(supervisor)

    with pytest.raises(SystemExit) as raised:
        supervisor.run(sweep, alive)
    assert raised.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_without_the_main_thread_no_signal_is_handled(supervisor: SweepSupervisor) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ran: list[bool] = []
    thread = threading.Thread(
        target=supervisor.run, args=(lambda: ran.append(signal.getsignal(signal.SIGTERM) is before), alive)
    )
    thread.start()
    thread.join()
    assert ran == [True]
