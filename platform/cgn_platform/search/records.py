"""Plain records of a search: the study, trials to run, epochs of running trials, stored trials."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cgn.config import Config
from cgn_platform.space import Scalar

State = Literal["complete", "pruned", "failed", "orphan", "running", "waiting"]
ENDED: tuple[State, ...] = ("complete", "pruned", "failed")
"""States in which a trial has ended and is not repeated."""
ORPHAN = "orphan: its driver ended before it did"
"""The reason that is stored with a trial that was running when its driver was killed."""


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study stores it.

    Attributes:
        number: from 0; trial 0 is the default configuration.
        state: how it ended, or that it has not.
        value: mean validation AUC over folds of a complete trial, else None.
        params: value of each searched dimension.
        curve: mean validation AUC by epoch, as it was reported.
        config: the whole configuration; None if its values are invalid together.
        facts: stored at its end (test_auc, folds, seconds, reason, ...).
        began, ended: in milliseconds since 1970.
    """

    number: int
    state: State
    value: float | None
    params: Mapping[str, Scalar]
    curve: Mapping[int, float]
    config: Config | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    began: int | None = None
    ended: int | None = None


def best_of(records: Sequence[TrialRecord]) -> TrialRecord | None:
    """The complete trial with the highest mean validation AUC, the earliest of equals; None without one."""
    complete = [record for record in records if record.state == "complete" and record.value is not None]
    return max(complete, key=lambda record: (record.value or 0.0, -record.number), default=None)


@dataclass(frozen=True)
class TrialSpec:
    """A trial to run: its number, its configuration, the value of each searched dimension."""

    number: int
    config: Config
    params: Mapping[str, Scalar]


@dataclass(frozen=True)
class EpochUpdate:
    """One epoch of a trial, as its worker reports it.

    Attributes:
        epoch: from 0.
        val_auc: mean over all folds at this epoch.
        folds: validation AUC of each fold.
        losses: mean over folds, by term.
        seconds: of this epoch, summed over the folds.
        scores: of each validated case, fold after fold.
        result: facts of the finished cross-validation, only with the last epoch.
        failure: why the trial cannot continue; all other fields are unset then.
    """

    epoch: int = -1
    val_auc: float = math.nan
    folds: Mapping[int, float] | None = None
    losses: Mapping[str, float] | None = None
    seconds: float = 0.0
    scores: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)
    result: Mapping[str, Any] | None = None
    failure: str | None = None


@dataclass(frozen=True)
class StudyInfo:
    """An opened study, as its listeners get it.

    Attributes:
        name: of the study.
        id: distinguishes it from a study of the same name in another database.
        trials: total number.
        records: the trials that it has already.
        orphans: number of trials of a killed driver that were queued again.
        dataset: name of the data set.
        folds: of each trial.
        tags: fingerprints of cache, splits and code, and the git commit.
        params: the dimensions and their ranges, for display.
    """

    name: str
    id: str
    trials: int
    records: Sequence[TrialRecord] = ()
    orphans: int = 0
    dataset: str = ""
    folds: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
