"""Processes with limits on memory and time, for films that are not trusted.

A decoder written in C that crashes, hangs or allocates without bound costs one record, not the run. The pool
is written by hand because `multiprocessing` runs the caller's script again in every process, and neither it
nor `concurrent.futures` limits the memory and the time of one task.
"""

import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

import cv2

from cgn.data.records import NamedPair, rejected
from cgn.errors import Reason, TimeLimitError

MEMORY_LIMIT = 6 * 2**30
"""Bytes of address space of a process; the largest films need a fifth of it."""

TIME_LIMIT = 120.0
"""Seconds for one record; the slowest decoder needs 2 s."""

NO_DEADLINE = float("inf")


class Pool:
    """Processes with limits. They live until the pool is closed, since starting one takes a second.

    Args:
        job: called in a process with a record; must be picklable, as must its result, which must not be None.
        processes: the largest number of processes; one a core by default.
    """

    def __init__(self, job: Callable[[Any], Any], processes: int | None = None) -> None:
        self._job, self._limit = job, processes or os.cpu_count() or 1
        self._idle: list[_Worker] = []

    def run(self, records: Sequence[NamedPair], deadline: float = NO_DEADLINE) -> Iterator[tuple[int, Any]]:
        """Apply the job to every record.

        Args:
            records: to work on.
            deadline: of the whole run, as `time.monotonic` counts.

        Yields:
            The index of a record, and the job's result or a `Rejection`, in the order of completion.

        Raises:
            RuntimeError: processes cannot start.
            TimeLimitError: the deadline has passed; processes that were working are ended.
            Exception: what the job raised, with the traceback of the process as a note.
        """
        pending = deque(enumerate(records))
        busy: list[_Worker] = []
        results: list[tuple[int, Any]] = []
        done = 0
        try:
            while pending or busy or results:
                while pending and len(busy) < self._limit:
                    worker = self._take_idle() or _Worker(self._job)
                    busy.append(worker)
                    worker.assign(*pending.popleft())
                yield from results  # only now, so that no process waits for the caller
                done += len(results)
                if done < len(records) and time.monotonic() >= deadline:
                    raise TimeLimitError(f"only {done} of {len(records)} pairs of films were opened in time")
                results = list(self._collect(busy, deadline))
        finally:
            for worker in busy:
                worker.end()

    def close(self) -> None:
        """End the processes; a later run starts new ones."""
        while self._idle:
            self._idle.pop().end()

    def _take_idle(self) -> "_Worker | None":
        """An idle worker whose process is alive."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.end()
        return None

    def _collect(self, busy: "list[_Worker]", deadline: float) -> Iterator[tuple[int, Any]]:
        """Wait for a message or a deadline; remove finished workers from `busy` and yield their results."""
        for worker in _ready(busy, deadline):
            result = worker.result()
            if result is not None:
                busy.remove(worker)
                if worker.process.poll() is None:
                    self._idle.append(worker)
                else:
                    worker.end()
                yield worker.number, result


class _Worker:
    """A process that works on one record at a time. Its first message says that it has started."""

    def __init__(self, job: Callable[[Any], Any]) -> None:
        self.pipe, child_end = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve({child_end.fileno()})"],
            pass_fds=[child_end.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        child_end.close()  # so that its end is noticed here
        self.number = -1
        self.record: Any = None
        self.deadline, self.started = NO_DEADLINE, False
        self._send(job)

    def assign(self, number: int, record: NamedPair) -> None:
        self.number, self.record = number, record
        if self.started:
            self.deadline = time.monotonic() + TIME_LIMIT
        self._send(record)

    def result(self) -> Any:
        """The result of the assigned record; None if the process has only just started."""
        if not self.pipe.poll():
            self.end()
            return rejected(self.record, Reason.DECODER_TIMEOUT, f"took more than {TIME_LIMIT:g} s")
        try:
            message = self.pipe.recv()
        except Exception:  # the pipe was closed, or the message is incomplete
            return self._crashed()
        if isinstance(message, Exception):
            raise message
        self.deadline = NO_DEADLINE if self.started else time.monotonic() + TIME_LIMIT
        self.started = True
        return message

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()

    def _crashed(self) -> Any:
        self.end()
        if not self.started:
            raise RuntimeError(
                f"a process that opens films does not start (exit code {self.process.returncode})"
            )
        return rejected(self.record, Reason.DECODER_CRASHED, "crashed the process that decoded it")

    def _send(self, message: Any) -> None:
        with suppress(BrokenPipeError):  # the process has died; `result` will find the pipe closed
            self.pipe.send(message)


def _ready(workers: Sequence[_Worker], deadline: float) -> list[_Worker]:
    """Waits until a worker sends a message, dies, or passes its deadline, or until the given deadline."""
    if not workers:
        return []
    deadline = min(deadline, *(worker.deadline for worker in workers))
    timeout = None if deadline == NO_DEADLINE else max(0.0, deadline - time.monotonic())
    readable = wait([worker.pipe for worker in workers], timeout)
    return [worker for worker in workers if worker.pipe in readable or time.monotonic() >= worker.deadline]


# ------------------------------------------------------------------------------------- in the process itself


def serve(descriptor: int) -> None:
    """The main function of a process: receives records and sends results until the pipe is closed."""
    pipe: Connection[Any, Any] = Connection(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted too, and ends this process
    job = pipe.recv()
    cv2.setNumThreads(1)
    _limit_resources()
    pipe.send(None)
    while True:
        try:
            record = pipe.recv()
        except EOFError:
            return
        pipe.send(_apply(job, record))


def _apply(job: Callable[[Any], Any], record: NamedPair) -> Any:
    try:
        return job(record)
    except MemoryError:
        return rejected(record, Reason.TOO_LARGE, "needs more memory than a film may use")
    except Exception as error:
        error.add_note(traceback.format_exc())
        return error


def _limit_resources() -> None:
    """Limit memory, write no core dump, since it would hold the film, and silence C libraries."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
