"""Folds that are drawn once and serve every row of every table (Sec. IV-A, readings 18 and 19)."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cgn.data.pairs import Split
from cgn.errors import ConfigError


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
    from sklearn.model_selection import StratifiedGroupKFold  # a second to load; workers only read splits

    divider = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    tests = [test for _, test in divider.split(label, label, _numbers(patient_id))]
    if any(len(np.unique(label[test])) < 2 for test in tests):
        raise ConfigError(f"no {folds} folds with both classes in each: take fewer folds or another seed")
    everything = np.arange(len(label))
    splits = []
    for fold in range(folds):
        test, val = tests[fold], tests[(fold + 1) % folds]
        train = np.setdiff1d(everything, np.concatenate([test, val]))
        splits.append(Split(fold, _frozen(train), _frozen(val), _frozen(test)))
    return tuple(splits)


def make_split(
    label: NDArray[np.int64],
    patient_id: NDArray[np.str_],
    parts: tuple[int, int, int] = (8, 1, 1),
    seed: int = 0,
) -> tuple[Split, ...]:
    """Sec. IV-A. One division in proportion `parts` (train, validate, test), by patient, classes alike.

    Patients come in random order; each goes where most pairs of its classes are still wanted.

    Raises:
        ConfigError: a part that is not positive, or a part that would lack a class.
    """
    if min(parts) < 1:
        raise ConfigError(f"splits must be three positive numbers but got {':'.join(map(str, parts))}")
    owner = _numbers(patient_id)
    patients = np.unique(owner)
    pairs = np.zeros((len(patients), 2), np.int64)
    np.add.at(pairs, (owner, label), 1)
    wanted = np.outer(parts, pairs.sum(0)) / sum(parts)
    goes_to = np.zeros(len(patients), np.int64)
    for patient in np.random.default_rng(seed).permutation(len(patients)):
        part = int((wanted @ pairs[patient]).argmax())
        wanted[part] -= pairs[patient]
        goes_to[patient] = part
    train, val, test = (np.flatnonzero(goes_to[owner] == part) for part in range(3))
    if any(len(np.unique(label[rows])) < 2 for rows in (train, val, test)):
        raise ConfigError(
            f"no {':'.join(map(str, parts))} with both classes in each part: take folds, or another seed"
        )
    return (Split(0, _frozen(train), _frozen(val), _frozen(test)),)


def _numbers(patient_id: NDArray[np.str_]) -> NDArray[np.int64]:
    """Patients as numbers in the order of their first pairs: folds do not hang on the key of pseudonyms."""
    _, first, owner = np.unique(patient_id, return_index=True, return_inverse=True)
    return np.asarray(first.argsort().argsort()[owner], np.int64)


def splits_fingerprint(pair_id: Sequence[str] | NDArray[np.str_], splits: Sequence[Split]) -> str:
    """Sixteen hexadecimal digits: which pairs train, validate and test in which fold."""
    canonical = json.dumps(named(pair_id, splits), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def named(pair_id: Sequence[str] | NDArray[np.str_], splits: Sequence[Split]) -> list[dict[str, object]]:
    """Splits as `splits.json` holds them: pairs by name, so that no order of rows is taken for granted."""
    return [
        {"fold": s.fold, **{part: [str(pair_id[i]) for i in getattr(s, part)] for part in PARTS}}
        for s in splits
    ]


def numbered(
    pair_id: Sequence[str] | NDArray[np.str_], folds: Sequence[dict[str, list[str]]]
) -> tuple[Split, ...]:
    """The inverse of `named`. Raises KeyError for a pair that is not there."""
    row = {str(name): index for index, name in enumerate(pair_id)}
    return tuple(
        Split(number, *(_frozen(np.array([row[name] for name in fold[part]], np.int64)) for part in PARTS))
        for number, fold in enumerate(folds)
    )


PARTS = ("train", "val", "test")


def _frozen(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    indices = np.sort(indices).astype(np.int64)
    indices.setflags(write=False)
    return indices
