"""Pairs are prepared side by side; films that are not trusted, in processes with limits.

A decoder written in C that crashes, hangs or asks for all memory costs the pair it was at, and no other.
"""

import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NamedTuple, Protocol

import cv2

from cgn.data import breast
from cgn.data.breast import Background, Prepared
from cgn.data.datasets import PairRecord, blaming
from cgn.errors import Reason, UnreadableImageError

MEMORY = 6 * 2**30
"""Bytes of address space of such a process; the largest films need a fifth of it."""

SECONDS = 120.0
"""That a pair may take there; the slowest decoder needs 2 s."""


class Named(Protocol):
    """What is known of a pair before its films are opened."""

    @property
    def pair_id(self) -> str: ...  # noqa: D102

    @property
    def films(self) -> tuple[str, str]: ...  # noqa: D102


class PreparedPair(NamedTuple):
    """The three images of a pair; only phantoms have the last."""

    target: Prepared
    reference: Prepared
    counterfactual: Prepared | None


class Rejection(NamedTuple):
    """A pair that could not be prepared: which of its films is at fault ("" if not known), and why."""

    pair_id: str
    role: str
    film: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.pair_id}: {self.role or 'one'} film: {self.message}"


Outcome = PreparedPair | Rejection


def prepare_pairs(
    records: Sequence[PairRecord], size: int, background: Background, *, contained: bool
) -> Iterator[tuple[int, Outcome]]:
    """Sec. IV-A. Each record's number and what became of it, in the order in which they are done.

    Args:
        records: what to prepare.
        size, background: see `cgn.data.breast.prepare`.
        contained: in processes with limits, one a core; else in threads, which start at once.
    """
    prepare = partial(prepare_pair, size=size, background=background)
    if contained:
        with closing(Pool(prepare)) as processes:
            yield from processes.run(records)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield from enumerate(pool.map(prepare, records))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def prepare_pair(record: PairRecord, size: int, background: Background) -> Outcome:
    """Sec. IV-A. Decodes and prepares the films of one pair."""
    try:
        films = record.load()
        with blaming("target"):
            region = breast.find_breast(films.target.pixels, films.target.bits)
            target = breast.prepare(*films.target, size, record.boxes, region, background)
        with blaming("reference"):
            reference = breast.prepare(*films.reference, size, background=background)
    except UnreadableImageError as error:
        return rejection(record, error.reason, str(error), error.role)
    without = films.counterfactual and breast.prepare(
        *films.counterfactual, size, region=region, background=background
    )
    return PreparedPair(target, reference, without)


def rejection(record: Named, reason: Reason, message: str, role: str = "") -> Rejection:
    """This pair cannot be used, by the fault of one of its films where `role` names it."""
    film = dict(zip(("target", "reference"), record.films, strict=True)).get(role, "")
    return Rejection(record.pair_id, role, film, reason.value, message)


# --------------------------------------------------------------------------------------- processes


class Pool:
    """Processes with limits, that stay until it is closed: a start costs a second.

    Not `multiprocessing`'s, which run the caller's script once more in each of them.

    Args:
        job: what is done there with a record; can be pickled, and its result too.
        processes: at most so many; one a core where not given.
    """

    def __init__(self, job: Callable[[Any], Any], processes: int | None = None) -> None:
        self._job, self._most = job, processes or os.cpu_count() or 1
        self._idle: list[_Worker] = []

    def run(self, records: Sequence[Named]) -> Iterator[tuple[int, Any]]:
        """Each record's number and what the job made of it, or a `Rejection`, in the order of their ends."""
        left = list(enumerate(records))[::-1]
        workers = []
        try:
            for _ in range(min(self._most, len(records))):
                workers.append(self._ready() or _Worker(self._job))
                if workers[-1].started:
                    workers[-1].give(*left.pop())
            while workers:
                nearest = min(worker.until for worker in workers)
                limit = None if nearest == float("inf") else max(0.0, nearest - time.monotonic())
                ready = wait([worker.pipe for worker in workers], limit)
                for worker in list(workers):
                    if worker.pipe not in ready and time.monotonic() < worker.until:
                        continue
                    number, outcome = worker.number, worker.outcome(records, worker.pipe in ready)
                    if worker.gone or not left:
                        workers.remove(worker)
                        (_Worker.end if worker.gone else self._idle.append)(worker)
                    if worker.gone and left:
                        workers.append(_Worker(self._job))
                    elif left:
                        worker.give(*left.pop())
                    if outcome is not None:
                        yield number, outcome
        finally:
            for worker in workers:
                worker.end()

    def close(self) -> None:
        """End its processes; a later run starts others."""
        while self._idle:
            self._idle.pop().end()

    def _ready(self) -> "_Worker | None":
        """One that waits for work, and lives."""
        while self._idle:
            worker = self._idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.end()
        return None


class _Worker:
    """A process that does one record at a time."""

    def __init__(self, job: Callable[[Any], Any]) -> None:
        self.pipe, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import _serve; _serve({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        theirs.close()  # so that its end is seen here
        self.pipe.send(job)
        self.number = -1
        self.until = float("inf")
        self.started = self.gone = False  # its first word is that it has started

    def give(self, number: int, record: Named) -> None:
        self.number, self.until = number, time.monotonic() + SECONDS
        with suppress(BrokenPipeError):  # where it has just died, its answer is the end of the pipe
            self.pipe.send(record)

    def outcome(self, records: Sequence[Named], answered: bool) -> Any:
        """What became of its record, None where it has just started; `gone` where it did not survive."""
        if answered:
            try:
                outcome = self.pipe.recv()
            except Exception:  # nothing, half an answer, or what is none
                outcome = self
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not self:
                self.started, self.until = True, float("inf")
                return outcome
        self.gone = True
        self.process.kill()
        code = self.process.wait()
        if not self.started:
            raise RuntimeError(f"a process to prepare pairs in does not start (exit code {code})")
        if answered:
            return rejection(
                records[self.number], Reason.DECODER_CRASHED, "ended the process that decoded it"
            )
        return rejection(records[self.number], Reason.DECODER_TIMEOUT, f"took more than {SECONDS:g} s")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()


def _serve(descriptor: int) -> None:
    """A worker's life: a record in, an outcome out, until nobody asks any more."""
    pipe: Connection[Any, Any] = Connection(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is interrupted, and ends this
    job = pipe.recv()
    cv2.setNumThreads(1)
    _confine()
    pipe.send(None)
    while True:
        try:
            record = pipe.recv()
        except EOFError:
            return
        pipe.send(_guarded(job, record))


def _guarded(job: Callable[[Any], Any], record: Named) -> Any:
    try:
        return job(record)
    except MemoryError:
        return rejection(record, Reason.TOO_LARGE, "asks for more memory than a film may need")
    except Exception as error:
        error.add_note(traceback.format_exc())
        return error


def _confine() -> None:
    """Bounded memory, no core dump (it would hold the film), and no word of a C library on the terminal."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
