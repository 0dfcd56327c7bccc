"""What a network must not see twice: one film under two names in a data set, and folds that overlap.

Images are compared after preparation: copies are found in other files, mirrored, or with other headers.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cgn.data.pairs import Pairs, Split
from cgn.data.preparation import PairOutcome, PreparedPair
from cgn.data.records import PairRecord, Rejection, Role, rejected
from cgn.errors import Reason

Names = dict[str, list[set[str | bytes]]]
"""By kind, e.g. patient: the names that each row has."""

PARTS = {"train": "training", "val": "validation", "test": "test"}


class _Listed(NamedTuple):
    """One film of a prepared pair, and its facts in the data set; the label of a reference is not known."""

    record: PairRecord
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
                    rejections.setdefault(film.record.pair_id, _rejection(film, other, facts))
    return [
        outcome if isinstance(outcome, Rejection) else rejections.get(record.pair_id, outcome)
        for record, outcome in zip(records, outcomes, strict=True)
    ]


def _films(record: PairRecord) -> tuple[_Listed, _Listed]:
    other = "R" if record.side == "L" else "L"
    return (
        _Listed(record, "target", record.patient_id, record.side, record.view, record.label),
        _Listed(record, "reference", record.patient_id, other, record.view, None),
    )


def _rejection(film: _Listed, other: _Listed, facts: Sequence[str]) -> Rejection:
    rows = [dict(zip(("target", "reference"), f.record.rows or (), strict=False)) for f in (film, other)]
    numbers = [row.get(f.role) for row, f in zip(rows, (film, other), strict=True)]
    where = f" (rows {numbers[0]} and {numbers[1]})" if all(numbers) else ""
    message = (
        f"the image is also the {other.role} film of {other.record.pair_id}{where}, under another "
        f"{' and another '.join(facts)}"
    )
    return rejected(film.record, Reason.SAME_FILM, message, film.role)


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
