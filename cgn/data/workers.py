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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NamedTuple, cast

import cv2

from cgn.data import breast
from cgn.data.breast import Background, Prepared
from cgn.data.datasets import PairRecord, blaming
from cgn.errors import Reason, UnreadableImageError

MEMORY = 6 * 2**30
"""Bytes of address space of such a process; the largest films need a fifth of it."""

SECONDS = 120.0
"""That a pair may take there; the slowest decoder needs 2 s."""


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
    if contained:
        yield from _by_processes(records, size, background)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield from enumerate(pool.map(lambda record: prepare_pair(record, size, background), records))
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
        return _rejection(record, error.reason, str(error), error.role)
    without = films.counterfactual and breast.prepare(
        *films.counterfactual, size, region=region, background=background
    )
    return PreparedPair(target, reference, without)


def _rejection(record: PairRecord, reason: Reason, message: str, role: str = "") -> Rejection:
    film = dict(zip(("target", "reference"), record.films, strict=True)).get(role, "")
    return Rejection(record.pair_id, role, film, reason.value, message)


# --------------------------------------------------------------------------------------- processes


class _Worker:
    """A process that prepares one pair at a time.

    Not one of `multiprocessing`'s, which runs the caller's script once more in each of its processes.
    """

    def __init__(self, size: int, background: Background) -> None:
        self.pipe, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import _serve; _serve({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        theirs.close()  # so that its end is seen here
        self.pipe.send((size, background))
        self.number = -1  # it is starting; its first word is that it has
        self.until = float("inf")
        self.gone = False

    def give(self, number: int, record: PairRecord) -> None:
        self.number, self.until = number, time.monotonic() + SECONDS
        with suppress(BrokenPipeError):  # where it has just died, its answer is the end of the pipe
            self.pipe.send(record)

    def outcome(self, records: Sequence[PairRecord], answered: bool) -> Outcome | None:
        """What became of its pair, None where it has just started; `gone` where it did not survive."""
        if answered:
            try:
                outcome = self.pipe.recv()
            except Exception:  # nothing, half an answer, or what is none
                outcome = self
            if isinstance(outcome, Exception):
                raise outcome
            if outcome is not self:
                return cast(Outcome | None, outcome)
        self.gone = True
        self.process.kill()
        code = self.process.wait()
        if self.number < 0:
            raise RuntimeError(f"a process to prepare pairs in does not start (exit code {code})")
        if answered:
            return _rejection(
                records[self.number], Reason.DECODER_CRASHED, "ended the process that decoded it"
            )
        return _rejection(records[self.number], Reason.DECODER_TIMEOUT, f"took more than {SECONDS:g} s")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.pipe.close()


def _by_processes(
    records: Sequence[PairRecord], size: int, background: Background
) -> Iterator[tuple[int, Outcome]]:
    left = list(enumerate(records))[::-1]
    workers = []
    try:
        for _ in range(min(os.cpu_count() or 1, len(records))):
            workers.append(_Worker(size, background))
        while workers:
            nearest = min(worker.until for worker in workers)
            limit = None if nearest == float("inf") else max(0.0, nearest - time.monotonic())
            ready = wait([worker.pipe for worker in workers], limit)
            for worker in list(workers):
                if worker.pipe not in ready and time.monotonic() < worker.until:
                    continue
                number, outcome = worker.number, worker.outcome(records, worker.pipe in ready)
                if worker.gone or not left:
                    worker.end()
                    workers.remove(worker)
                if worker.gone and left:
                    workers.append(_Worker(size, background))
                elif left:
                    worker.give(*left.pop())
                if outcome is not None:
                    yield number, outcome
    finally:
        for worker in workers:
            worker.end()


def _serve(descriptor: int) -> None:
    """A worker's life: a record in, an outcome out, until nobody asks any more."""
    pipe: Connection[Any, Any] = Connection(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is interrupted, and ends this
    size, background = pipe.recv()
    cv2.setNumThreads(1)
    _confine()
    pipe.send(None)
    while True:
        try:
            record = pipe.recv()
        except EOFError:
            return
        pipe.send(_guarded(record, size, background))


def _guarded(record: PairRecord, size: int, background: Background) -> Any:
    try:
        return prepare_pair(record, size, background)
    except MemoryError:
        return _rejection(record, Reason.TOO_LARGE, "asks for more memory than a film may need")
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
