"""Pairs are prepared side by side; films that are not trusted, in processes with limits.

A decoder written in C that crashes, hangs or asks for all memory costs the pair it was at, and no other.
"""

import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import cv2

from cgn.data import breast
from cgn.data.breast import Background, Prepared
from cgn.data.datasets import PairRecord, blaming
from cgn.errors import Reason, UnreadableImageError

MANY = 64
"""Pairs from which on processes are worth their start; fewer go to threads, unless they must be contained."""

MEMORY = 6 * 2**30
"""Bytes of address space of a process that contains; the largest films need a fifth of it."""

SECONDS = 120.0
"""That a contained pair may take; the slowest decoder needs 2 s."""


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
        contained: in processes with limits, however few the records are.
    """
    if contained or len(records) >= MANY:
        yield from _by_processes(records, size, background, contained)
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
    """A process that prepares one pair at a time."""

    def __init__(self, size: int, background: Background, contained: bool) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # imported once: a fresh process is cheap
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, size, background, contained), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen here
        self.number = -1
        self.until = float("inf")

    def give(self, number: int, record: PairRecord, seconds: float) -> None:
        self.number, self.until = number, time.monotonic() + seconds
        with suppress(BrokenPipeError):  # where it has just died, its answer is the end of the pipe
            self.pipe.send(record)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _by_processes(
    records: Sequence[PairRecord], size: int, background: Background, contained: bool
) -> Iterator[tuple[int, Outcome]]:
    seconds = SECONDS if contained else float("inf")
    left = list(enumerate(records))[::-1]
    workers: list[_Worker] = []
    try:
        for _ in range(min(os.cpu_count() or 1, len(records))):
            workers.append(_Worker(size, background, contained))
            workers[-1].give(*left.pop(), seconds)
        while workers:
            nearest = min(worker.until for worker in workers)
            limit = None if nearest == float("inf") else max(0.0, nearest - time.monotonic())
            ready = wait([worker.pipe for worker in workers], limit)
            for worker in list(workers):
                if worker.pipe not in ready and time.monotonic() < worker.until:
                    continue
                outcome = _outcome(worker, records[worker.number], worker.pipe in ready)
                number, gone = worker.number, isinstance(outcome, Rejection) and outcome.reason in GONE
                if gone or not left:
                    worker.end()
                    workers.remove(worker)
                if gone and left:
                    worker = _Worker(size, background, contained)
                    workers.append(worker)
                if left:
                    worker.give(*left.pop(), seconds)
                yield number, outcome
    finally:
        for worker in workers:
            worker.end()


GONE = (Reason.DECODER_CRASHED, Reason.DECODER_TIMEOUT)
"""What a worker does not survive."""


def _outcome(worker: _Worker, record: PairRecord, ready: bool) -> Outcome:
    if not ready:
        return _rejection(record, Reason.DECODER_TIMEOUT, f"took more than {SECONDS:g} s")
    try:
        outcome = worker.pipe.recv()
    except Exception:  # nothing, half an answer, or what is none
        worker.process.join(5)
        return _rejection(
            record, Reason.DECODER_CRASHED, f"ended the process that decoded it ({worker.process.exitcode})"
        )
    if isinstance(outcome, Exception):
        raise outcome
    return outcome  # type: ignore[no-any-return]


def _serve(pipe: Connection, size: int, background: Background, contained: bool) -> None:
    """A worker's life: a record in, an outcome out, until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is interrupted, and ends this
    cv2.setNumThreads(1)
    if contained:
        _confine()
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
