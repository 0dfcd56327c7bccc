"""Folds, drawn once for a cache and used by every row of every table (Sec. IV-A, readings 18 and 19)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cgn import sealed
from cgn.data.pairs import Pairs, Split
from cgn.errors import ConfigError

PARTS = ("train", "val", "test")

CLASSES = ("benign", "malignant")

FEWEST = 3
"""Parts that any plan has: training, validation and test."""


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
        ConfigError: fewer than three folds, or more folds than a class has patients. All others can be drawn.
    """
    if folds < FEWEST:
        raise ConfigError(f"folds must be at least {FEWEST} (train, validate, test) but got {folds}")
    _check_patients(label, patient_id, folds, f"{folds} folds")
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second; workers only read splits

    divider = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    owner = _patient_numbers(patient_id)
    tests = [test for _, test in divider.split(label, label, owner)]
    if _lack_a_class(label, tests):
        tests = _divided(label, owner, (1,) * folds, seed, seeded=True)
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

    Raises:
        ConfigError: a part that is not positive, or a class with fewer than three patients.
    """
    proportion = ":".join(map(str, parts))
    if min(parts) < 1:
        raise ConfigError(f"splits must be three positive numbers but got {proportion}")
    _check_patients(label, patient_id, FEWEST, f"a division {proportion}")
    owner = _patient_numbers(patient_id)
    rows = _divided(label, owner, parts, seed, seeded=False)
    if _lack_a_class(label, rows):
        rows = _divided(label, owner, parts, seed, seeded=True)
    train, val, test = rows
    return (Split(0, _frozen(train), _frozen(val), _frozen(test)),)


def _check_patients(
    label: NDArray[np.int64], patient_id: NDArray[np.str_], parts: int, description: str
) -> None:
    """Whether so many parts exist: each needs a patient of each class, who may be the same.

    Raises:
        ConfigError: a class has fewer patients.
    """
    patients = {name: len(np.unique(patient_id[label == value])) for value, name in enumerate(CLASSES)}
    name, fewest = min(patients.items(), key=lambda item: item[1])
    if fewest >= parts:
        return
    if fewest < FEWEST:
        remedy = f"add films; {FEWEST} patients of each class are enough for {FEWEST} folds or one division"
    else:
        remedy = f"use at most {fewest} folds"
    raise ConfigError(
        f"{description} must have at least {parts} patients of each class but the {name} class has {fewest}",
        remedy,
    )


def _divided(
    label: NDArray[np.int64], owner: NDArray[np.int64], parts: Sequence[int], seed: int, *, seeded: bool
) -> list[NDArray[np.int64]]:
    """The rows of each part, in proportion `parts`.

    Patients are assigned in random order, each to the part that lacks the most pairs of the patient's
    classes. If `seeded`, each part receives a patient of each class first.
    """
    pairs = np.zeros((owner.max() + 1, 2), np.int64)
    np.add.at(pairs, (owner, label), 1)
    wanted = np.outer(parts, pairs.sum(0)) / sum(parts)
    part_of = np.full(len(pairs), -1, np.int64)
    order = np.random.default_rng(seed).permutation(len(pairs))
    for part, patients in enumerate(_one_of_each_class(pairs, order, len(parts)) if seeded else ()):
        for patient in patients:
            wanted[part] -= pairs[patient]
            part_of[patient] = part
    for patient in order:
        if part_of[patient] < 0:
            part = int((wanted @ pairs[patient]).argmax())
            wanted[part] -= pairs[patient]
            part_of[patient] = part
    return [np.flatnonzero(part_of[owner] == part) for part in range(len(parts))]


def _one_of_each_class(
    pairs: NDArray[np.int64], order: NDArray[np.int64], parts: int
) -> list[tuple[int, ...]]:
    """Patients for each part: one with pairs of both classes while there is one, then one of each class.

    Patients with few pairs come first, so that proportions are kept. `_check_patients` has made sure that
    there are enough.
    """
    few_first = sorted(order.tolist(), key=lambda patient: int(pairs[patient].sum()))
    both = [(patient,) for patient in few_first if pairs[patient].all()]
    benign = [patient for patient in few_first if not pairs[patient, 1]]
    malignant = [patient for patient in few_first if not pairs[patient, 0]]
    return [*both, *zip(benign, malignant, strict=False)][:parts]


def _lack_a_class(label: NDArray[np.int64], parts: Sequence[NDArray[np.int64]]) -> bool:
    return any(len(np.unique(label[rows])) < 2 for rows in parts)


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


Healthy = Literal["finding", "cohort", "references", "benign"]


def healthy_films(pairs: Pairs, split: Split, which: Healthy) -> NDArray[np.uint8]:
    """Reading 40. Healthy films that a fold may train on: of no woman with a validation or test pair.

    Args:
        pairs: with `healthy`, except for "references".
        split: the fold.
        which: "finding": films without any finding; "cohort": without a finding of the cohort's kinds;
            "references": the training pairs' other breasts without a lesion, for data without healthy films;
            "benign": the benign training targets.

    Returns:
        `(m, size, size)` uint8, each film once.

    Raises:
        ConfigError: there is none; the message names the ways out.
    """
    if which == "references":
        rows = split.train[~pairs.reference_has_lesion[split.train]]
        films = pairs.reference[rows]
    elif which == "benign":
        films = pairs.target[split.train[pairs.label[split.train] == 0]]
    else:
        films = _of_other_women(pairs, split, which)
    if not len(films):
        raise ConfigError(
            f"fold {split.fold} of {pairs.name} has no healthy film ({which}) but the method needs some: "
            "use a dataset with healthy films, or set options.healthy=references"
        )
    return np.unique(films, axis=0)


def _of_other_women(pairs: Pairs, split: Split, which: Healthy) -> NDArray[np.uint8]:
    films = pairs.healthy
    if films is None:
        return np.empty((0, pairs.size, pairs.size), np.uint8)
    scored = pairs.patient_id[np.concatenate([split.val, split.test])]
    fits = films.no_finding if which == "finding" else films.no_cohort_finding
    chosen: NDArray[np.uint8] = films.image[fits & ~np.isin(films.patient_id, scored)]
    return chosen
