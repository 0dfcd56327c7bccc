"""What a model must show before it is registered: a few checks, each a line with its number.

Pure: it compares measurements with requirements; `units` reads the ledger, `registry` talks to MLflow. All
checks are made, even after one has failed, so that a refusal names every reason at once. Scores are of test
folds only, by networks that were not trained on them (invariant 6); AUC is the mean over folds and seeds
(reading 21).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cgn import statistics
from cgn.errors import ConfigError
from cgn.statistics import Interval
from cgn_platform import text
from cgn_platform.store.out_of_fold import OutOfFold

NOT_MEASURED = "not measured because units are missing or damaged"


@dataclass(frozen=True)
class Requirements:
    """What a candidate must show.

    Attributes:
        min_auc: its AUC must be above this.
        margin: how much worse than the champion it may be, in AUC and in localisation error.
        accept_unpaired: accept a candidate that cannot be compared with the champion case by case.
    """

    min_auc: float = 0.5
    margin: float = 0.05
    accept_unpaired: bool = False

    def __post_init__(self) -> None:
        for name, value in (("--min-auc", self.min_auc), ("--margin", self.margin)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must lie in [0, 1] but got {value}")


@dataclass(frozen=True)
class WinnerAuc:
    """Validation AUC of the winner of a search: as it was selected by, and corrected for that (BBC-CV).

    None means unknown. The validation scores also selected the epoch of each network, which BBC-CV does not
    correct: with few pairs and many epochs the corrected AUC is still too high. The gate therefore takes the
    lower one of it and the AUC of the test folds, which in turn is not corrected for the selection.
    """

    raw: float | None
    corrected: Interval | None


@dataclass(frozen=True)
class ReloadResult:
    """Predictions for the stored probe after the model was loaded again.

    Attributes:
        difference: the largest one from the stored predictions; 0 if they are equal to the bit.
        error: why the model could not be loaded; empty if it could.
    """

    difference: float = math.nan
    error: str = ""


@dataclass(frozen=True)
class Candidate:
    """A model that is to be promoted.

    Attributes:
        units: how many its row must have, over all seeds.
        faults: problems with these units, a line each.
        measured: its test predictions; None if a unit is missing or damaged.
        winner: of the winner of a search; None if it was not selected by its scores.
        reload: None if it could not be tried because a unit is missing or damaged.
    """

    units: int
    faults: Sequence[str]
    measured: OutOfFold | None
    winner: WinnerAuc | None
    reload: ReloadResult | None


@dataclass(frozen=True)
class Champion:
    """The current champion; `measured` is None if its units are missing or damaged, for this `reason`."""

    version: str
    measured: OutOfFold | None
    reason: str = ""


@dataclass(frozen=True)
class Check:
    """The result of one check, as it is recorded: `figure` was compared with `demand`."""

    name: str
    passed: bool
    words: str
    figure: float | None = None
    demand: float | None = None


@dataclass(frozen=True)
class Verdict:
    """All checks, in their order."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.refusals

    @property
    def refusals(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if not check.passed]

    def plain(self) -> list[dict[str, Any]]:
        """Plain JSON. The keys are part of the format of the record."""
        return [asdict(check) for check in self.checks]


def evaluate(candidate: Candidate, champion: Champion | None, requirements: Requirements) -> Verdict:
    """Make every check, also after one has failed."""
    return Verdict(
        (
            _check_units(candidate),
            _check_auc(candidate, requirements),
            *_check_against_champion(candidate, champion, requirements),
            check_reload(candidate.reload),
        )
    )


def check_reload(result: ReloadResult | None) -> Check:
    """Whether a model that was loaded again makes the same predictions; None if it could not be tried."""
    if result is None:
        return Check("reload", False, f"reload: {NOT_MEASURED}", None, 0)
    if result.error:
        return Check("reload", False, f"reload: the model cannot be loaded again: {result.error}", None, 0)
    words = f"reload: predictions for the stored probe differ by {result.difference:.3g}, must be 0"
    return Check("reload", result.difference == 0, words, result.difference, 0)


def _check_units(candidate: Candidate) -> Check:
    faults, count = candidate.faults, candidate.units
    usable = max(count - len(faults), 0)
    words = f"units: {usable} of {count} are complete and match the row"
    if faults:
        others = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        words = f"{words}, must be all of them: {faults[0]}{others}"
    return Check("units", not faults, words, usable, count)


def _check_auc(candidate: Candidate, requirements: Requirements) -> Check:
    minimum = requirements.min_auc
    must = f"must be above {minimum:.3f}"
    if candidate.measured is None:
        return Check("auc", False, f"AUC: {NOT_MEASURED}, {must}", None, minimum)
    interval, winner = candidate.measured.auc(), candidate.winner
    if winner is None:
        words = f"AUC: {text.measured_auc(interval)}, {must}"
        return Check("auc", interval.estimate > minimum, words, interval.estimate, minimum)
    if winner.raw is None or winner.corrected is None:
        words = (
            f"AUC: test folds {text.measured_auc(interval)}; the validation AUC cannot be corrected for the "
            f"selection because a unit of a trial is missing: run the sweep's command again; {must}"
        )
        return Check("auc", False, words, None, minimum)
    words = (
        f"AUC: test folds {text.measured_auc(interval)}; validation folds, which selected it, "
        f"{winner.raw:.3f}, corrected for the selection {text.interval(winner.corrected)}; "
        f"the lower one of test and corrected AUC {must}"
    )
    lower = min(winner.corrected.estimate, interval.estimate)
    return Check("auc", lower > minimum, words, lower, minimum)


def _check_against_champion(
    candidate: Candidate, champion: Champion | None, requirements: Requirements
) -> tuple[Check, ...]:
    """Not worse than the champion on the same cases, in AUC and in localisation error."""
    if champion is None:
        return (Check("champion", True, "champion: there is none yet"),)
    margin, name = requirements.margin, f"champion (version {champion.version})"
    ours, theirs = candidate.measured, champion.measured
    if ours is None:
        return (Check("champion", False, f"{name}: {NOT_MEASURED}", None, -margin),)
    reason = _unpaired_reason(ours, champion)
    if theirs is None or reason:
        return (_unpaired_check(name, reason, requirements),)
    difference = statistics.paired_bootstrap(ours.label, ours.score, theirs.score, ours.patient, ours.fold)
    auc = Check(
        "difference",
        difference.low > -margin,
        f"{name}: difference of AUC {text.difference(difference)}, "
        f"the lower bound must be above {-margin:+.3f}",
        difference.low,
        -margin,
    )
    return auc, _check_localisation(name, ours, theirs, margin)


def _check_localisation(name: str, ours: OutOfFold, theirs: OutOfFold, margin: float) -> Check:
    if not (ours.annotated and theirs.annotated):
        return Check("localisation", True, f"{name}: localisation not compared, no lesion is annotated")
    difference = statistics.paired_rates(1 - ours.localized, 1 - theirs.localized, ours.patient)
    return Check(
        "localisation",
        difference.high < margin,
        f"{name}: difference of localisation error {text.difference(difference)}, "
        f"the upper bound must be below {margin:+.3f}",
        difference.high,
        margin,
    )


def _unpaired_check(name: str, reason: str, requirements: Requirements) -> Check:
    remedy = "to promote it anyway, give --accept-unpaired, which is recorded"
    if requirements.accept_unpaired:
        remedy = "accepted without a comparison (--accept-unpaired)"
    words = f"{name}: cannot be compared case by case, {reason}; {remedy}"
    return Check("champion", requirements.accept_unpaired, words)


def _unpaired_reason(ours: OutOfFold, champion: Champion) -> str:
    """Why candidate and champion have no cases in common; empty if they can be paired."""
    theirs = champion.measured
    if theirs is None:
        return champion.reason
    for name, mine, other in (
        ("cache", ours.cache, theirs.cache),
        ("splits", ours.splits, theirs.splits),
    ):
        if mine != other:
            return f"it was tested on {name} {other}, this one on {mine}"
    return "" if np.array_equal(ours.index, theirs.index) else "it was tested on other pairs"
