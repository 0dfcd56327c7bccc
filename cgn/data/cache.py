"""Prepared pairs in a folder: written once, named by their content, verified when opened.

`cgn.data.cache_files` describes the files. Beside a cache, `NAME.quarantine.csv` lists the pairs and healthy
films that could not be prepared, readable for its owner only.
"""

import csv
import importlib
import inspect
import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock

from cgn import files, provenance, sealed
from cgn.data import cache_files, cache_manifest, datasets, leaks
from cgn.data.breast import DEFAULT_PREPROCESSING, Preprocessing
from cgn.data.cache_files import CacheContent, open_cache, open_splits
from cgn.data.datasets import DatasetOptions, FilmRecord, Scan
from cgn.data.folds import FIVE_FOLDS, SplitPlan
from cgn.data.preparation import FilmOutcome, PairOutcome, PreparedPair, prepare_films, prepare_pairs
from cgn.data.records import Rejection
from cgn.errors import CacheError, ConfigError, NotADatasetError, one_line
from cgn.places import Place

__all__ = ["CacheReport", "Progress", "open_cache", "open_splits", "write_cache"]

Progress = Callable[[int, int], None]
"""Called with the number of pairs and healthy films that are done, and of all of them."""

Outcome = TypeVar("Outcome")

WITHOUT_EFFECT = ("cgn.data.reading.workers",)
"""Modules that films pass through and that do not change what is cached."""


@dataclass(frozen=True)
class CacheReport:
    """What `write_cache` did.

    Attributes:
        path: the cache's folder.
        fingerprint: of the content; the name of a default folder ends with its first twelve digits.
        fresh: False if the cache existed and nothing was done.
        counts: of the data set and of cached pairs, to be printed.
        missing: what the data set's tables list but its folder lacks.
        rejected: pairs and healthy films that could not be prepared, each with the film and the reason.
        quarantine: the file beside the cache that lists them; None if there are none.
        notes: remarks on pairs that were kept.
        seconds: duration of this call.
        images_per_second: films decoded and prepared; 0 if nothing was done.
    """

    path: Path
    fingerprint: str
    fresh: bool
    counts: dict[str, int]
    missing: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    quarantine: Path | None
    notes: tuple[str, ...]
    seconds: float
    images_per_second: float


def write_cache(
    dataset: str,
    options: DatasetOptions,
    preprocessing: Preprocessing = DEFAULT_PREPROCESSING,
    splits: SplitPlan = FIVE_FOLDS,
    *,
    out: Path | None = None,
    caches: Path = Path("runs/cache"),
    progress: Progress | None = None,
) -> CacheReport:
    """Sec. IV-A, reading 40. Prepares every pair and healthy film of a data set and draws the splits, once.

    If the cache exists, no film is decoded.

    Args:
        dataset: module of `cgn.data.datasets`.
        options: of that module's `Options`.
        preprocessing: size and background of the images.
        splits: how the splits are drawn.
        out: the cache's folder; None names a folder in `caches` by the content.
        caches: folder of the caches without `out`.
        progress: called for every pair and healthy film.

    Raises:
        ConfigError: an unknown data set, splits that cannot be drawn, or `out` is an address.
        NotADatasetError: not a folder of this data set, or no pair of it could be prepared.
        CacheError: `out` holds something else, or the cache has other splits.
    """
    started = time.monotonic()
    _check_local(out)
    scan = _scan(dataset, options, preprocessing.size)
    films = _healthy_films(dataset, options, preprocessing.size)
    recipe = _recipe(dataset, options, preprocessing, scan) | {"healthy": _films_digest(films)}
    fingerprint = cache_manifest.fingerprint_of(recipe)
    name = f"{scan.name}-{preprocessing.size}-{fingerprint[:12]}"
    folder = (caches / name if out is None else out).absolute()

    preparing: float | None = None
    if not _exists(folder, fingerprint, splits):
        _check_folds(scan, splits)
        with _exclusive(folder):
            if not _exists(folder, fingerprint, splits):  # another process may have written it meanwhile
                outcomes, film_outcomes, preparing = _prepare_all(scan, films, preprocessing, progress)
                content = CacheContent(scan, recipe, fingerprint, outcomes, splits, film_outcomes)
                _write(folder, content)
    manifest = cache_manifest.read_manifest(Place(folder))
    return CacheReport(
        path=folder,
        fingerprint=fingerprint,
        fresh=preparing is not None,
        counts=manifest.counts,
        missing=tuple(manifest.missing),
        rejected=tuple(Rejection(*row) for row in manifest.rejected),
        quarantine=_quarantine(folder) if manifest.rejected else None,
        notes=tuple(manifest.notes),
        seconds=time.monotonic() - started,
        images_per_second=(2 * len(scan.records) + len(films)) / preparing if preparing else 0.0,
    )


def _check_local(out: Path | None) -> None:
    if out is not None and re.match(r"[a-z][a-z0-9+.-]+:/", str(out)):
        raise ConfigError(f"a cache must be written to a local folder but got {out}: write it, then copy it")


def _scan(dataset: str, options: DatasetOptions, size: int) -> Scan:
    scan: Scan = datasets.load(dataset).scan(options, size)
    if not scan.records:
        raise NotADatasetError(
            f"{scan.name} has no target with both films in the folder ({scan.missing_films} are missing)"
        )
    files.check_name(scan.name, "the name of a data set")
    return scan


def _healthy_films(dataset: str, options: DatasetOptions, size: int) -> tuple[FilmRecord, ...]:
    """The healthy films of a data set; none without `options.healthy`, or if it does not know which are."""
    module = datasets.load(dataset)
    with_films = options.healthy and hasattr(module, "healthy_films")
    return tuple(module.healthy_films(options, size)) if with_films else ()


def _films_digest(films: Sequence[FilmRecord]) -> str | None:
    """A hash of which films are healthy and of their files; None if there are none."""
    names = ("film_id", "patient_id", "study_id", "view", "side", "no_finding", "no_cohort_finding")
    facts = [[*(getattr(film, name) for name in names), film.film] for film in films]
    return sealed.digest(facts) if facts else None


def _recipe(
    dataset: str, options: DatasetOptions, preprocessing: Preprocessing, scan: Scan
) -> dict[str, Any]:
    """What decides the content of a cache; the fingerprint is its hash."""
    return {
        "format": cache_manifest.FORMAT,
        "dataset": dataset,
        "options": options.content(),
        "size": preprocessing.size,
        "background": preprocessing.background,
        "code": deciding_code(dataset),
        "raw": sealed.digest(scan.files),
        "key_id": scan.key_id,
    }


def deciding_code(dataset: str) -> dict[str, str]:
    """Hashes of the modules that decide a cache's pixels and facts, without comments and docstrings."""
    closure = provenance.import_closure(("cgn.data.preparation", f"cgn.data.datasets.{dataset}"))
    deciding = sorted(name for name in closure if name.startswith("cgn.data.") and name not in WITHOUT_EFFECT)
    sources = {name: inspect.getsource(importlib.import_module(name)) for name in deciding}
    essences = {name: provenance.essence(source) for name, source in sources.items()}
    return {name: sealed.sha256(text.encode())[:16] for name, text in essences.items() if text}


def _check_folds(scan: Scan, splits: SplitPlan) -> None:
    """Whether the folds can be drawn, before any film is decoded. Raises ConfigError."""
    label = np.array([record.label for record in scan.records], np.int64)
    splits.draw(label, np.array([record.patient_id for record in scan.records]))


def _prepare_all(
    scan: Scan, films: Sequence[FilmRecord], preprocessing: Preprocessing, progress: Progress | None
) -> tuple[list[PairOutcome], list[tuple[FilmRecord, FilmOutcome]], float]:
    """The outcomes of all records and of all healthy films, in their order, and the seconds taken.

    One film under two names is rejected. A healthy film that is the reference of a pair has the pair's image:
    it is read once, and its greys have the range that both films of the pair have.
    """
    started = time.monotonic()
    done, total = 0, len(scan.records) + len(films)

    def collect(outcomes: Iterator[tuple[int, Outcome]]) -> dict[int, Outcome]:
        nonlocal done
        collected = {}
        for number, outcome in outcomes:
            collected[number] = outcome
            done += 1
            if progress is not None:
                progress(done, total)
        return collected

    by_number = collect(prepare_pairs(scan.records, preprocessing, sandboxed=scan.sandboxed))
    outcomes = [by_number[number] for number in range(len(scan.records))]
    references = {
        record.pair_id: outcome.reference
        for record, outcome in zip(scan.records, outcomes, strict=True)
        if isinstance(outcome, PreparedPair)
    }
    images = collect(
        (number, references[film.reference_of])
        for number, film in enumerate(films)
        if film.reference_of in references
    )
    remaining = [number for number in range(len(films)) if number not in images]
    chosen = [films[number] for number in remaining]
    prepared = collect(prepare_films(chosen, preprocessing, sandboxed=scan.sandboxed))
    film_outcomes: dict[int, FilmOutcome] = {
        **images,
        **{remaining[number]: outcome for number, outcome in prepared.items()},
    }
    in_order = [(film, film_outcomes[number]) for number, film in enumerate(films)]
    once = leaks.healthy_once(in_order, scan.records, outcomes)
    return leaks.without_contradictions(scan.records, outcomes), once, time.monotonic() - started


# ----------------------------------------------------------------------------------------- the cache's folder


def _exists(folder: Path, fingerprint: str, splits: SplitPlan) -> bool:
    """Whether the folder holds this cache; False if it is absent or empty.

    Raises:
        CacheError: it holds something else, the cache is damaged, its folds overlap, or it has other splits.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    place = Place(folder)
    if cache_manifest.MANIFEST not in place.names():
        raise CacheError(f"{folder} holds something that is no cache", "choose another folder")
    manifest = cache_manifest.read_manifest(place)
    if manifest.fingerprint != fingerprint:
        raise CacheError(
            f"{folder} must hold the cache {fingerprint} but holds another cache "
            f"({manifest.name}, {manifest.fingerprint})",
            "choose another folder",
        )
    open_cache(folder)
    if manifest.splits.drawn != splits.facts():
        raise CacheError(
            f"{folder} has {_described(manifest.splits.drawn)} and splits are written once, "
            f"but {_described(splits.facts())} were requested",
            "choose another folder",
        )
    return True


def _described(drawn: dict[str, Any]) -> str:
    kind = f"parts {':'.join(map(str, drawn['parts']))}" if "parts" in drawn else f"{drawn['folds']} folds"
    return f"{kind} of seed {drawn['seed']}"


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from writing this folder, and remove what a killed one left of it."""
    try:
        files.make_private(folder.parent)  # of patients' films
        with FileLock(folder.parent / f".{folder.name}.lock"):
            files.remove_drafts(folder)
            yield
    except OSError as error:
        raise CacheError(f"cannot write {folder}: {one_line(error)}") from error


def _write(folder: Path, content: CacheContent) -> None:
    """Write the cache, and the list of what was rejected before it.

    Raises:
        ConfigError: the folds cannot be drawn any more without the rejected pairs.
    """
    _write_quarantine(folder, content.rejections())
    try:
        cache_files.write_files(folder, content)
    except ConfigError as error:
        message = f"{error.message}, without the pairs that {_quarantine(folder)} lists"
        raise ConfigError(message, error.remedy) from None


def _quarantine(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.quarantine.csv")


def _write_quarantine(folder: Path, rejections: Sequence[Rejection]) -> None:
    """Write the list of what was rejected, or remove an earlier one if nothing was."""
    path = _quarantine(folder)
    if not rejections:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Rejection._fields, *rejections])
    files.write(path, text.getvalue(), private=True)
