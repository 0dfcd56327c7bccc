"""What a network must not see twice: one film under two names in a data set, and folds that overlap.

Nor may a healthy film be a target, or a film of another woman.

Images are compared after preparation: copies are found in other files, mirrored, or with other headers.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cgn.data.datasets import FilmRecord
from cgn.data.pairs import Pairs, Split
from cgn.data.preparation import FilmOutcome, PairOutcome, PreparedPair
from cgn.data.records import NamedPair, PairRecord, Rejection, Role, rejected
from cgn.errors import Reason

Names = dict[str, list[set[str | bytes]]]
"""By kind, e.g. patient: the names that each row has."""

PARTS = {"train": "training", "val": "validation", "test": "test"}


HEALTHY = -1
"""The label of a healthy film, which a target cannot have."""


class _Listed(NamedTuple):
    """One prepared film, and its facts in the data set; the label of a reference is not known.

    `row` is its number in the table, if it is known.
    """

    record: NamedPair
    row: int | None
    role: Role
    patient: str
    side: str
    view: str
    label: int | None

    def contradicts(self, other: "_Listed") -> list[str]:
        """Facts that one film cannot have both."""
        names = ["patient", "side", "view"]
        if self.label is not None and other.label is not None:
            names.append("label")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def without_contradictions(
    records: Sequence[PairRecord], outcomes: Sequence[PairOutcome]
) -> list[PairOutcome]:
    """The outcomes, with a rejection for every pair that has an image under other facts than another pair.

    Nobody but the owner of the films can say which of two rows is right, so that both are rejected.
    """
    listed: dict[bytes, list[_Listed]] = defaultdict(list)
    for record, outcome in zip(records, outcomes, strict=True):
        if isinstance(outcome, PreparedPair):
            for film, image in zip(_films(record), outcome[:2], strict=True):
                listed[_digest(image.pixels)].append(film)
    rejections: dict[str, Rejection] = {}
    for films in listed.values():
        for film in films:
            for other in films:
                if facts := film.contradicts(other):
                    message = _contradiction(film, other, facts)
                    rejections.setdefault(
                        film.record.pair_id, rejected(film.record, Reason.SAME_FILM, message, film.role)
                    )
    return [
        outcome if isinstance(outcome, Rejection) else rejections.get(record.pair_id, outcome)
        for record, outcome in zip(records, outcomes, strict=True)
    ]


def healthy_once(
    films: Sequence[tuple[FilmRecord, FilmOutcome]],
    records: Sequence[PairRecord],
    outcomes: Sequence[PairOutcome],
) -> list[tuple[FilmRecord, FilmOutcome]]:
    """The healthy films, each once: an image or a file that comes again with the same facts is left out.

    Args:
        films: healthy films, and what became of them.
        records: of the pairs.
        outcomes: theirs, before contradictions between pairs are rejected.

    Returns:
        The films, with a rejection for one that is also a target, or listed with another patient, side or
        view: as a film of a pair, or as another healthy film. The pair is kept.
    """
    names = [_names(film, outcome) for film, outcome in films]
    listed: dict[str | bytes, list[_Listed]] = defaultdict(list)
    for record, outcome in zip(records, outcomes, strict=True):
        if isinstance(outcome, PreparedPair):
            for other, prepared in zip(_films(record), outcome[:2], strict=True):
                listed[_digest(prepared.pixels)].append(other)
    for (film, _), own_names in zip(films, names, strict=True):
        for name in own_names:
            listed[name].append(_healthy(film))
    kept: list[tuple[FilmRecord, FilmOutcome]] = []
    seen: set[str | bytes] = set()
    for (film, image), own_names in zip(films, names, strict=True):
        own = _healthy(film)
        others = (other for name in own_names for other in listed[name])
        message = next(
            (_contradiction(own, other, facts) for other in others if (facts := own.contradicts(other))), ""
        )
        if message:
            kept.append((film, film.rejected(Reason.SAME_FILM, message)))
        elif not own_names & seen:
            kept.append((film, image))
        seen |= own_names
    return kept


def _names(film: FilmRecord, outcome: FilmOutcome) -> set[str | bytes]:
    """Its own name, and its image; none for a film that is rejected already."""
    return set() if isinstance(outcome, Rejection) else {film.film_id, _digest(outcome.pixels)}


def _healthy(film: FilmRecord) -> _Listed:
    return _Listed(film, None, "healthy", film.patient_id, film.side, film.view, HEALTHY)


def _films(record: PairRecord) -> tuple[_Listed, _Listed]:
    other = "R" if record.side == "L" else "L"
    rows = record.rows or (None, None)
    return (
        _Listed(record, rows[0], "target", record.patient_id, record.side, record.view, record.label),
        _Listed(record, rows[1], "reference", record.patient_id, other, record.view, None),
    )


def _contradiction(film: _Listed, other: _Listed, facts: Sequence[str]) -> str:
    where = f" (rows {film.row} and {other.row})" if film.row and other.row else ""
    what = f"the {other.role} film" if other.role == "healthy" else f"the {other.role} film of"
    return (
        f"the image is also {what} {other.record.pair_id}{where}, under another {' and another '.join(facts)}"
    )


def repeated(pair_id: Sequence[str] | NDArray[np.str_], splits: Sequence[Split]) -> str:
    """Why these folds cannot be used; "" if no pair is twice in a fold or in two test parts."""
    names: Names = {"pair": [{str(name)} for name in pair_id]}
    for split in splits:
        for part, text in PARTS.items():
            if len(set(getattr(split, part))) < len(getattr(split, part)):
                return f"fold {split.fold}: the {text} part must have a pair once"
    if reason := next(_shared(pair_id, splits, names), ""):
        return reason
    tested = [row for split in splits for row in split.test]
    return "a pair is in the test part of two folds" if len(set(tested)) < len(tested) else ""


def overlap(pairs: Pairs, splits: Sequence[Split], *, images: bool = True) -> str:
    """Why these folds cannot be used; "" if training, validation and test are disjoint and have both classes.

    Args:
        pairs: that the folds are indices of.
        splits: of these pairs.
        images: compare images too, and not only pairs and patients.
    """
    if reason := repeated(pairs.pair_id, splits):
        return reason
    for split in splits:
        for part, text in PARTS.items():
            if len(np.unique(pairs.label[getattr(split, part)])) < 2:
                return f"fold {split.fold}: the {text} part must have both classes"
    names: Names = {"patient": [{name} for name in pairs.patient_id.tolist()]}
    if images:
        both = zip(pairs.target, pairs.reference, strict=True)
        names["image"] = [{_digest(target), _digest(reference)} for target, reference in both]
    return next(_shared(pairs.pair_id, splits, names), "")


def not_healthy(pairs: Pairs) -> str:
    """Why the healthy films cannot be used; "" if none is a target, or in a pair of another woman."""
    films = pairs.healthy
    if films is None:
        return ""
    listed: dict[bytes, list[tuple[str, int]]] = defaultdict(list)
    for role in ("target", "reference"):
        for row, image in enumerate(getattr(pairs, role)):
            listed[_digest(image)].append((role, row))
    for film, image in enumerate(films.image):
        for role, row in listed.get(_digest(image), ()):
            if role == "target":
                return f"{films.film_id[film]} is also the target film of {pairs.pair_id[row]}"
            if films.patient_id[film] != pairs.patient_id[row]:
                pair = f"{pairs.pair_id[row]}, of another woman"
                return f"{films.film_id[film]} is also the reference film of {pair}"
    return ""


def _shared(
    pair_id: Sequence[str] | NDArray[np.str_], splits: Sequence[Split], names: Names
) -> Iterator[str]:
    """What two parts of a fold share."""
    for split in splits:
        for one, other in combinations(PARTS, 2):
            for kind, of_row in names.items():
                owner = {name: row for row in getattr(split, one) for name in of_row[row]}
                for row in getattr(split, other):
                    for name in of_row[row] & owner.keys():
                        yield (
                            f"fold {split.fold}: {PARTS[one]} and {PARTS[other]} have the same {kind} in "
                            f"{pair_id[owner[name]]} and {pair_id[row]}"
                        )


def _digest(image: NDArray[np.uint8]) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
