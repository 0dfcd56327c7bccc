"""What ends a sweep early."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cgn.errors import ClusterError
from cgn_platform.run.supervisor import SweepSupervisor
from cgn_platform.search.controller import TrialController
from cgn_platform.search.study import open_study
from cgn_platform.space import Space
from cgn_platform.store.layout import Store


@pytest.fixture
def supervisor(space: Space, store: Store) -> Iterator[SweepSupervisor]:
    with open_study("s", space, store=store, identity={}) as study:
        yield SweepSupervisor(TrialController(study))


def connected() -> None:
    """The cluster answers."""


def test_a_sweep_that_ends_raises_nothing(supervisor: SweepSupervisor) -> None:
    supervisor.run(lambda: None, connected)
    assert supervisor.failure is None


def test_an_error_of_tune_ends_the_sweep(supervisor: SweepSupervisor) -> None:
    with pytest.raises(ZeroDivisionError):
        supervisor.run(lambda: 1 / 0, connected)


def test_an_error_of_the_controller_ends_the_sweep(
    supervisor: SweepSupervisor, until: Callable[..., Any]
) -> None:
    answers: list[int] = []

    def sweep() -> None:
        answers.append(supervisor.guard(lambda: 1 // 0, otherwise=5))
        until(lambda: supervisor.failure)
        answers.append(supervisor.guard(lambda: 6, otherwise=7))

    with pytest.raises(ZeroDivisionError):
        supervisor.run(sweep, connected)
    assert answers == [5, 7]


def test_a_lost_cluster_is_not_waited_for(supervisor: SweepSupervisor) -> None:
    release = threading.Event()
    with pytest.raises(ClusterError, match=r"it left: run the same command again"):
        supervisor.run(release.wait, lambda: "it left")
    release.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_sweep_in_order(
    supervisor: SweepSupervisor, until: Callable[..., Any], number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    ended = []

    def sweep() -> None:
        os.kill(os.getpid(), number)
        until(lambda: supervisor.failure)
        ended.append(True)

    with pytest.raises(SystemExit) as exit_:
        supervisor.run(sweep, connected)
    assert exit_.value.code == 128 + number
    assert ended
    assert signal.getsignal(number) is before
