"""What a model must show before it is registered: a few checks, each a line with its number.

Pure: it reads units and judges; MLflow is `registry`'s. All checks are made, also after one has failed, so
that whoever is refused hears of everything at once. Scores are of test folds alone, by the networks that
were not trained on them (invariant 6); AUC is the mean over folds and seeds (reading 21).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cgn import statistics
from cgn.errors import ConfigError, LedgerError
from cgn.statistics import Interval
from cgn_platform.store.ledger import Ledger, Unit
from cgn_platform.store.out_of_fold import OutOfFold


@dataclass(frozen=True)
class Demands:
    """What is asked.

    Attributes:
        min_auc: above which the AUC must lie.
        margin: by which the champion may be missed: of AUC, and of the localisation error.
        accept_unpaired: let a candidate pass that cannot be compared with the champion case by case.
    """

    min_auc: float = 0.5
    margin: float = 0.05
    accept_unpaired: bool = False

    def __post_init__(self) -> None:
        for name, value in (("--min-auc", self.min_auc), ("--margin", self.margin)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} must lie in [0, 1] but got {value}")


@dataclass(frozen=True)
class Choice:
    """The best of a search: its AUC as it was chosen by, and corrected for that (BBC-CV); None: unknown.

    Both are of validation folds, by whose scores each network's epoch was chosen, too. BBC-CV does not take
    that away: with few pairs and many epochs the corrected figure is still too high. So the gate asks the
    lower one of it and the test folds' AUC, which in turn knows nothing of the choice among trials.
    """

    raw: float | None
    corrected: Interval | None


@dataclass(frozen=True)
class Reload:
    """The stored probe after the model was loaded again.

    Attributes:
        difference: the largest between what it says and what it said; 0 is the same to the bit.
        error: why the model could not be loaded.
    """

    difference: float = math.nan
    error: str = ""


@dataclass(frozen=True)
class Candidate:
    """Who asks to be let in.

    Attributes:
        units: how many its row must have, over all seeds.
        faults: what is wrong with them, a line each.
        measured: None where a unit is missing.
        choice: of the winner of a search; None where nothing was chosen by figures.
        reload: None where it could not be tried: a unit is missing.
    """

    units: int
    faults: Sequence[str]
    measured: OutOfFold | None
    choice: Choice | None
    reload: Reload | None


@dataclass(frozen=True)
class Champion:
    """Who is in today; `measured` is None where its units are not whole any more, and `why` says so."""

    version: str
    measured: OutOfFold | None
    why: str = ""


@dataclass(frozen=True)
class Check:
    """One question, and its answer in a line; `figure` is what was compared with `demand`."""

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
        """None of them failed."""
        return not self.refusals

    @property
    def refusals(self) -> list[Check]:
        """Those that failed."""
        return [check for check in self.checks if not check.passed]

    def plain(self) -> list[dict[str, Any]]:
        """As JSON holds it."""
        return [asdict(check) for check in self.checks]


def judge(candidate: Candidate, champion: Champion | None, demands: Demands) -> Verdict:
    """Every check, whatever the others say."""
    return Verdict(
        (
            _units(candidate),
            _auc(candidate, demands),
            *_against(candidate, champion, demands),
            reloaded(candidate.reload),
        )
    )


def verified(
    ledger: Ledger, ids: Sequence[Sequence[str]], data: Mapping[str, Any]
) -> tuple[list[list[Unit]], list[str]]:
    """The units of a row, `[seed][fold]`, every file of them hashed again; and what is wrong with them.

    Args:
        ledger: where they are.
        ids: as the row names them.
        data: of its table or sweep: cache, splits, folds.
    """
    units: list[list[Unit]] = []
    faults: list[str] = []
    for names in ids:
        found = []
        for name in names:
            try:
                found.append(ledger.open(name))
            except LedgerError as error:
                faults.append(str(error))
        units.append(found)
    if not faults:
        faults += _strangers(units, data)
    return units, faults


def _strangers(units: Sequence[Sequence[Unit]], data: Mapping[str, Any]) -> list[str]:
    """Units that are whole, and not what the row says they are."""
    faults = []
    made_from = {(unit.identity.cache, unit.identity.splits) for seed in units for unit in seed}
    if made_from != {(data["cache"], data["splits"])}:
        faults.append(f"a unit was not made from cache {data['cache']} and splits {data['splits']}")
    folds = list(range(data["folds"]))
    for seed in units:
        if (there := [unit.identity.fold for unit in seed]) != folds:
            faults.append(f"the folds must be {folds} but are {there}")
    configs = [{**unit.identity.config, "seed": 0} for seed in units for unit in seed]
    seeds = [{unit.identity.config["seed"] for unit in seed} for seed in units]
    if any(config != configs[0] for config in configs) or any(len(each) != 1 for each in seeds):
        faults.append("units of different configurations stand in one row")
    return faults


def told(interval: Interval | statistics.Difference, form: str = ".3f") -> str:
    """A figure with its interval, for a line."""
    low, high = format(interval.low, form), format(interval.high, form)
    return f"{format(interval.estimate, form)} [{low}, {high}]"


CHANCE = 0.5  # AUC of guessing


NOT_MEASURED = "not measured, because its units are not whole"


def _units(candidate: Candidate) -> Check:
    faults, count = candidate.faults, candidate.units
    whole = max(count - len(faults), 0)
    words = f"units: {whole} of {count} are whole and belong together"
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        words = f"{words}, must be all of them: {faults[0]}{more}"
    return Check("units", not faults, words, whole, count)


def _auc(candidate: Candidate, demands: Demands) -> Check:
    must = f"must be above {demands.min_auc:.3f}"
    if candidate.measured is None:
        return Check("auc", False, f"AUC: {NOT_MEASURED}, {must}", None, demands.min_auc)
    interval, choice = candidate.measured.auc(), candidate.choice
    if choice is None:
        figure, words = interval.estimate, f"AUC: {_measured(interval)}, {must}"
        return Check("auc", figure > demands.min_auc, words, figure, demands.min_auc)
    if choice.raw is None or choice.corrected is None:
        words = (
            f"AUC: test folds {told(interval)}; what it was chosen by cannot be corrected for the choice, "
            f"because a unit of a trial is missing: run the sweep's command again; {must}"
        )
        return Check("auc", False, words, None, demands.min_auc)
    words = (
        f"AUC: {choice.raw:.3f} as it was chosen by, corrected {told(choice.corrected)}, "
        f"test folds {_measured(interval)}; the lower one of the last two {must}"
    )
    figure = min(choice.corrected.estimate, interval.estimate)
    return Check("auc", figure > demands.min_auc, words, figure, demands.min_auc)


def _measured(interval: Interval) -> str:
    guessing = interval.low <= CHANCE <= interval.high
    return f"{told(interval)}{', not told apart from guessing' if guessing else ''}"


def _against(candidate: Candidate, champion: Champion | None, demands: Demands) -> tuple[Check, ...]:
    """On the same cases, or not at all."""
    if champion is None:
        return (Check("champion", True, "champion: there is none yet to be compared with"),)
    ours, theirs = candidate.measured, champion.measured
    name = f"champion (version {champion.version})"
    if ours is None:
        return (Check("champion", False, f"{name}: {NOT_MEASURED}", None, -demands.margin),)
    if (apart := _apart(ours, champion)) or theirs is None:
        remedy = "accepted all the same (--accept-unpaired)"
        if not demands.accept_unpaired:
            remedy = "if it shall pass all the same, give --accept-unpaired, which is recorded"
        words = f"{name}: cannot be compared case by case, {apart}; {remedy}"
        return (Check("champion", demands.accept_unpaired, words),)
    difference = statistics.paired_bootstrap(ours.label, ours.score, theirs.score, ours.patient, ours.fold)
    auc = Check(
        "difference",
        difference.low > -demands.margin,
        f"{name}: difference of AUC {told(difference, '+.3f')}, "
        f"the lower end must be above {-demands.margin:+.3f}",
        difference.low,
        -demands.margin,
    )
    if not (ours.annotated and theirs.annotated):
        return auc, Check("localisation", True, f"{name}: localisation does not apply, no lesion is marked")
    more = statistics.paired_rates(1 - ours.localized, 1 - theirs.localized, ours.patient)
    return auc, Check(
        "localisation",
        more.high < demands.margin,
        f"{name}: difference of localisation error {told(more, '+.3f')}, "
        f"the upper end must be below {demands.margin:+.3f}",
        more.high,
        demands.margin,
    )


def _apart(ours: OutOfFold, champion: Champion) -> str:
    """Why two rows have no cases in common; empty where they can be paired."""
    theirs = champion.measured
    if theirs is None:
        return champion.why
    for what in ("cache", "splits"):
        here, there = getattr(ours, what), getattr(theirs, what)
        if here != there:
            return f"it was tested on {what} {there}, this one on {here}"
    return "" if np.array_equal(ours.index, theirs.index) else "it was tested on other pairs"


def reloaded(probe: Reload | None) -> Check:
    """Whether a model that was loaded again says what it said; None: it could not be tried."""
    if probe is None:
        return Check("reload", False, f"reload: {NOT_MEASURED}", None, 0)
    if probe.error:
        return Check("reload", False, f"reload: the model cannot be loaded again: {probe.error}", None, 0)
    words = f"reload: what it says of the stored probe differs by {probe.difference:.3g}, must be 0"
    return Check("reload", probe.difference == 0, words, probe.difference, 0)
