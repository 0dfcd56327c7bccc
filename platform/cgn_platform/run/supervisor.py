"""Runs Tune in a thread, and ends the sweep if the cluster is lost, a signal arrives, or the study fails.

Tune waits forever for a lost cluster, and takes an error of the study for an error of the trial; so it neither
runs in the main thread nor handles such errors.
"""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import ray

from cgn.errors import ClusterError
from cgn_platform.cluster.processes import END_SECONDS
from cgn_platform.search.controller import TrialController

Answer = TypeVar("Answer")

PULSE_SECONDS = 0.5  # between two looks at the cluster
LOST_SECONDS = 10  # without an answer of the cluster's control service


def cluster_probe() -> Callable[[], str | None]:
    """A function that says why the connected Ray counts as lost; None while it answers.

    It asks the control service and this machine's own node. Ray itself waits up to a minute for them, then ends
    the process without a message of ours.
    """
    context = ray.get_runtime_context()
    node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    host, _, port = context.gcs_address.rpartition(":")
    addresses = [(host, int(port)), (node["NodeManagerAddress"], node["NodeManagerPort"])]
    last_answer = time.monotonic()

    def probe() -> str | None:
        nonlocal last_answer
        try:
            for address in addresses:
                socket.create_connection(address, timeout=PULSE_SECONDS).close()
        except OSError as error:
            silent = time.monotonic() - last_answer
            return (
                f"the cluster at {host}:{port} does not answer ({error})" if silent > LOST_SECONDS else None
            )
        last_answer = time.monotonic()
        return None

    return probe


class SweepSupervisor:
    """Runs a sweep to its end, or to the first failure that concerns all trials.

    Attributes:
        controller: decides about the trials.
        numbers: of the study's trials, by Tune's trial id.
        failures: the last error of a trial, by Tune's trial id.
        failure: why the sweep ends early; None while it does not.
    """

    def __init__(self, controller: TrialController) -> None:
        self.controller = controller
        self.numbers: dict[str, int] = {}
        self.failures: dict[str, BaseException | None] = {}
        self.failure: BaseException | None = None

    def guard(self, call: Callable[[], Answer], otherwise: Answer) -> Answer:
        """Call the controller; an error ends the sweep, and `otherwise` is the answer from then on."""
        if self.failure is None:
            try:
                return call()
            except Exception as error:
                self.failure = error
        return otherwise

    def run(self, sweep: Callable[[], object], probe: Callable[[], str | None]) -> None:
        """Run the sweep. Raises what ended it early.

        Args:
            sweep: ends soon after `failure` is set, unless the cluster is lost.
            probe: why the cluster counts as lost, or None.
        """

        def work() -> None:
            try:
                sweep()
            except Exception as error:
                self.failure = self.failure or error

        thread = threading.Thread(target=work, name="tune", daemon=True)
        with _signals(self._interrupt):
            thread.start()
            while thread.is_alive() and self.failure is None:
                thread.join(PULSE_SECONDS)
                if reason := probe():
                    self.failure = ClusterError(
                        reason, remedy="run the same command again, finished folds are kept"
                    )
                    raise self.failure  # without waiting for Tune, which would wait for the cluster
            thread.join(END_SECONDS)
        if self.failure is not None:
            raise self.failure

    def _interrupt(self, number: int) -> None:
        self.failure = self.failure or SystemExit(128 + number)


@contextlib.contextmanager
def _signals(on_signal: Callable[[int], None]) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM (a spot machine's notice, `ray job stop`) once; a second one acts as before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: object) -> None:
        signal.signal(number, handlers[signal.Signals(number)])
        on_signal(number)

    for number in handlers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
