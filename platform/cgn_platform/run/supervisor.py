"""Run Tune in a thread, and end the sweep if the cluster is lost, a signal arrives, or the study fails.

Tune waits forever for a lost cluster, and treats an error of the study as an error of the trial. Therefore it
does not run in the main thread, and does not see such errors.
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

PROBE_SECONDS = 0.5  # between two checks of the cluster
LOST_SECONDS = 10  # without an answer, after which the cluster counts as lost


def cluster_probe() -> Callable[[], str | None]:
    """Return a function that checks the connected Ray: why it counts as lost, or None.

    The function connects to the control service and to this machine's own node. Ray itself waits up to a
    minute for them, then ends the process without a message that names the cluster.
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
                socket.create_connection(address, timeout=PROBE_SECONDS).close()
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
        numbers: the study's trial number by Tune's trial id.
        errors: the error that ended a trial's last attempt, if its worker reported one, by Tune's trial id.
        failure: why the sweep ends early; None as long as it does not.
    """

    def __init__(self, controller: TrialController) -> None:
        self.controller = controller
        self.numbers: dict[str, int] = {}
        self.errors: dict[str, BaseException] = {}
        self.failure: BaseException | None = None

    def guard(self, call: Callable[[], Answer], otherwise: Answer) -> Answer:
        """Call the controller. An error ends the sweep; `otherwise` is returned from then on."""
        if self.failure is None:
            try:
                return call()
            except Exception as error:
                self.failure = error
        return otherwise

    def run(self, sweep: Callable[[], object], probe: Callable[[], str | None]) -> None:
        """Run the sweep to its end. Raises what ended it early.

        Args:
            sweep: returns soon after `failure` is set, unless the cluster is lost.
            probe: returns why the cluster counts as lost, or None.
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
                thread.join(PROBE_SECONDS)
                if reason := probe():
                    self.failure = ClusterError(
                        reason, remedy="run the same command again, finished folds are kept"
                    )
                    raise self.failure  # not joined: Tune would wait for the cluster
            thread.join(END_SECONDS)
        if self.failure is not None:
            raise self.failure

    def _interrupt(self, number: int) -> None:
        self.failure = self.failure or SystemExit(128 + number)


@contextlib.contextmanager
def _signals(on_signal: Callable[[int], None]) -> Iterator[None]:
    """Handle the first Ctrl-C or SIGTERM (a spot machine's notice, `ray job stop`), and no later one."""
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
