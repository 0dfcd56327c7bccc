"""Folds, drawn once for a cache and used by every row of every table (Sec. IV-A, readings 18 and 19)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgn import sealed
from cgn.data.pairs import Split
from cgn.errors import ConfigError

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class SplitPlan:
    """How splits are drawn: so many folds, or a single division.

    Attributes:
        folds: number of folds; ignored if `parts` is given.
        parts: proportion train, validate, test of a single division.
        seed: of the random draw.
    """

    folds: int = 5
    parts: tuple[int, int, int] | None = None
    seed: int = 0

    def draw(self, label: NDArray[np.int64], patient_id: NDArray[np.str_]) -> tuple[Split, ...]:
        """The splits of these pairs. Raises ConfigError as `make_splits` and `make_split` do."""
        if self.parts is None:
            return make_splits(label, patient_id, self.folds, self.seed)
        return make_split(label, patient_id, self.parts, self.seed)

    def facts(self) -> dict[str, Any]:
        """The plan as a cache records it."""
        if self.parts is None:
            return {"folds": self.folds, "seed": self.seed}
        return {"parts": list(self.parts), "seed": self.seed}


FIVE_FOLDS = SplitPlan()


def make_splits(
    label: NDArray[np.int64], patient_id: NDArray[np.str_], folds: int = 5, seed: int = 0
) -> tuple[Split, ...]:
    """Reading 18. Grouped by patient, stratified by label: test fold k, validation fold k + 1.

    Raises:
        ConfigError: fewer than three folds, or more folds than a class has patients.
    """
    if folds < 3:
        raise ConfigError(f"folds must be at least 3 (train, validate, test) but got {folds}")
    for value, name in enumerate(("benign", "malignant")):
        patients = len(np.unique(patient_id[label == value]))
        if patients < folds:
            raise ConfigError(f"folds must not exceed the patients of a class: {folds} > {patients} {name}")
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second; workers only read splits

    divider = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    tests = [test for _, test in divider.split(label, label, _patient_numbers(patient_id))]
    if any(len(np.unique(label[test])) < 2 for test in tests):
        raise ConfigError(f"no {folds} folds with both classes in each: use fewer folds or another seed")
    rows = np.arange(len(label))
    splits = []
    for fold in range(folds):
        test, val = tests[fold], tests[(fold + 1) % folds]
        train = np.setdiff1d(rows, np.concatenate([test, val]))
        splits.append(Split(fold, _frozen(train), _frozen(val), _frozen(test)))
    return tuple(splits)


def make_split(
    label: NDArray[np.int64],
    patient_id: NDArray[np.str_],
    parts: tuple[int, int, int] = (8, 1, 1),
    seed: int = 0,
) -> tuple[Split, ...]:
    """Sec. IV-A. One division in proportion `parts` (train, validate, test), grouped and stratified.

    Patients are assigned in random order, each to the part that lacks the most pairs of the patient's
    classes.

    Raises:
        ConfigError: a part that is not positive, or a part that would lack a class.
    """
    proportion = ":".join(map(str, parts))
    if min(parts) < 1:
        raise ConfigError(f"splits must be three positive numbers but got {proportion}")
    owner = _patient_numbers(patient_id)
    patients = np.unique(owner)
    pairs = np.zeros((len(patients), 2), np.int64)
    np.add.at(pairs, (owner, label), 1)
    wanted = np.outer(parts, pairs.sum(0)) / sum(parts)
    part_of = np.zeros(len(patients), np.int64)
    for patient in np.random.default_rng(seed).permutation(len(patients)):
        part = int((wanted @ pairs[patient]).argmax())
        wanted[part] -= pairs[patient]
        part_of[patient] = part
    train, val, test = (np.flatnonzero(part_of[owner] == part) for part in range(3))
    if any(len(np.unique(label[rows])) < 2 for rows in (train, val, test)):
        raise ConfigError(
            f"no {proportion} division with both classes in each part: use folds, or another seed"
        )
    return (Split(0, _frozen(train), _frozen(val), _frozen(test)),)


def _patient_numbers(patient_id: NDArray[np.str_]) -> NDArray[np.int64]:
    """Patients as numbers, in the order of their first pairs.

    Folds are then the same under any pseudonym key.
    """
    _, first, owner = np.unique(patient_id, return_index=True, return_inverse=True)
    return np.asarray(first.argsort().argsort()[owner], np.int64)


def splits_fingerprint(pair_id: Sequence[str] | NDArray[np.str_], splits: Sequence[Split]) -> str:
    """Sixteen hexadecimal digits: which pairs train, validate and test in which fold."""
    return sealed.digest(named(pair_id, splits))[:16]


def named(pair_id: Sequence[str] | NDArray[np.str_], splits: Sequence[Split]) -> list[dict[str, object]]:
    """Splits as `splits.json` holds them: by the names of pairs, independent of the order of rows."""
    return [
        {
            "fold": split.fold,
            **{part: [str(pair_id[row]) for row in getattr(split, part)] for part in PARTS},
        }
        for split in splits
    ]


def numbered(
    pair_id: Sequence[str] | NDArray[np.str_], folds: Sequence[dict[str, list[str]]]
) -> tuple[Split, ...]:
    """The inverse of `named`. Raises KeyError for an unknown pair."""
    row = {str(name): index for index, name in enumerate(pair_id)}
    return tuple(
        Split(number, *(_frozen(np.array([row[name] for name in fold[part]], np.int64)) for part in PARTS))
        for number, fold in enumerate(folds)
    )


def _frozen(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    indices = np.sort(indices).astype(np.int64)
    indices.setflags(write=False)
    return indices
