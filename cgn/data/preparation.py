"""Sec. IV-A. Pairs of films, and healthy films, become 8-bit images of the breast, several at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

from cgn.data import breast
from cgn.data.breast import PreparedImage, Preprocessing
from cgn.data.datasets import FilmRecord
from cgn.data.reading.workers import Pool
from cgn.data.records import NamedPair, PairRecord, Rejection, attributed_to, rejected
from cgn.errors import UnreadableImageError


class PreparedPair(NamedTuple):
    """The images of a pair; only phantoms have a counterfactual."""

    target: PreparedImage
    reference: PreparedImage
    counterfactual: PreparedImage | None


PairOutcome = PreparedPair | Rejection
FilmOutcome = PreparedImage | Rejection


def prepare_pairs(
    records: Sequence[PairRecord], preprocessing: Preprocessing, *, sandboxed: bool
) -> Iterator[tuple[int, PairOutcome]]:
    """Sec. IV-A. Prepares records side by side.

    Args:
        records: of the pairs.
        preprocessing: of every film.
        sandboxed: use processes with limits, one a core; otherwise threads, which start at once.

    Yields:
        The index of a record and its outcome, in the order of completion.
    """
    yield from _side_by_side(partial(prepare_pair, preprocessing=preprocessing), records, sandboxed)


def prepare_films(
    films: Sequence[FilmRecord], preprocessing: Preprocessing, *, sandboxed: bool
) -> Iterator[tuple[int, FilmOutcome]]:
    """Sec. IV-A. Prepares healthy films side by side, as `prepare_pairs` does pairs."""
    prepare = partial(prepare_film, preprocessing=preprocessing)
    for number, outcome in _side_by_side(prepare, films, sandboxed):
        if isinstance(outcome, Rejection):  # that of a process that ended does not name the file
            outcome = films[number].rejected(outcome.reason, outcome.message)
        yield number, outcome


def _side_by_side(
    prepare: Callable[[Any], Any], records: Sequence[NamedPair], sandboxed: bool
) -> Iterator[tuple[int, Any]]:
    if sandboxed:
        with closing(Pool(prepare)) as processes:
            yield from processes.run(records)
        return
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            yield from enumerate(threads.map(prepare, records))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def prepare_pair(record: PairRecord, preprocessing: Preprocessing) -> PairOutcome:
    """Sec. IV-A. Decodes and prepares the films of one pair."""
    prepare = partial(breast.prepare, size=preprocessing.size, background=preprocessing.background)
    try:
        films = record.load()
        with attributed_to("target"):
            region = breast.find_breast(films.target.pixels, films.target.bits)
            target = prepare(*films.target, boxes=record.boxes, region=region)
        with attributed_to("reference"):
            reference = prepare(*films.reference)
    except UnreadableImageError as error:
        return rejected(record, error.reason, str(error), error.role)
    counterfactual = films.counterfactual and prepare(*films.counterfactual, region=region)
    return PreparedPair(target, reference, counterfactual)


def prepare_film(film: FilmRecord, preprocessing: Preprocessing) -> FilmOutcome:
    """Sec. IV-A. Decodes and prepares a healthy film."""
    try:
        with attributed_to("healthy"):
            image = film.load()
            return breast.prepare(*image, size=preprocessing.size, background=preprocessing.background)
    except UnreadableImageError as error:
        return film.rejected(error.reason, str(error))
