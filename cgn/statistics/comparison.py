"""Every row of a table against its baseline."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cgn.statistics._aucs import fold_aucs, mean_aucs
from cgn.statistics._checks import Floats, Labels, StatisticsError, checked_scores
from cgn.statistics._resampling import (
    DEFAULT,
    Difference,
    Interval,
    Resampling,
    draw,
    percentile_difference,
    percentile_interval,
)
from cgn.statistics.corrections import holm, smallest_detectable_difference
from cgn.statistics.rates import mcnemar, proportion

BETTER, WORSE = "better than the baseline", "worse than the baseline"
UNCLEAR = "not distinguishable from the baseline with this data"

MIN_FOLDS = 3  # test, validation and training folds differ (reading 18)


@dataclass(frozen=True)
class BaselineComparison:
    """A row against the baseline: its p-value, the p-value adjusted over the rows (Holm), and the verdict."""

    p_value: float
    p_adjusted: float
    verdict: str  # BETTER, WORSE or UNCLEAR


@dataclass(frozen=True)
class RowFacts:
    """Figures of one row of a table. Comparisons are None for the baseline itself."""

    name: str
    auc: Interval  # mean over folds and seeds
    pooled_auc: Interval
    difference: Difference | None
    auc_versus: BaselineComparison | None
    localization_error: Interval | None  # None if nothing was localised
    localization_versus: BaselineComparison | None

    def plain(self) -> dict[str, Any]:
        """Plain JSON. The keys are part of the format of stored facts."""
        auc, place, error = self.auc_versus, self.localization_versus, self.localization_error
        return {
            "auc": self.auc._asdict(),
            "pooled_auc": self.pooled_auc._asdict(),
            "difference": self.difference and self.difference._asdict(),
            "p_adjusted": auc and auc.p_adjusted,
            "words": auc and auc.verdict,
            "localization_error": error and error._asdict(),
            "localization_p_adjusted": place and place.p_adjusted,
            "localization_words": place and place.verdict,
        }


@dataclass(frozen=True)
class Comparison:
    """Figures of a table.

    Verdicts describe the networks as they were trained, on other patients. `detectable` is the minimum
    detectable difference of mean AUC under retraining (Nadeau & Bengio).
    """

    baseline: str
    rows: tuple[RowFacts, ...]
    detectable: float | None  # None if the baseline is the only row


def compare(
    y: ArrayLike,
    rows: Mapping[str, ArrayLike],
    baseline: str,
    folds: ArrayLike,
    groups: ArrayLike | None = None,
    localized: Mapping[str, ArrayLike] | None = None,
    resampling: Resampling = DEFAULT,
) -> Comparison:
    """Reading 21. Compare every row of a table with its baseline, on the same cases and the same draws.

    Intervals and p-values of the AUC are those of `bootstrap_auc` and `paired_bootstrap`, those of
    localisation are those of `proportion` and `mcnemar`. Each of the two outcomes is corrected by Holm 1979
    over the rows. A row is better or worse if its adjusted p-value is below `1 - level`.

    Args:
        y: `(cases,)` labels.
        rows: name to scores, `(cases,)` or `(seeds, cases)`, of the same cases in the same order.
        baseline: name of the row that the others are compared with.
        folds: `(cases,)` test fold of each case.
        groups: `(cases,)` patients.
        localized: name to 1 localised, 0 missed, NaN not annotated; shaped as the scores.
        resampling: number and seed of the draws, level of intervals and verdicts.

    Raises:
        StatisticsError: no such baseline, fewer than three folds, or rows with different cases.
    """
    _check_names(rows, baseline, localized)
    level = resampling.level
    checked = [checked_scores(y, np.atleast_2d(np.asarray(scores, np.float64))) for scores in rows.values()]
    labels, tables = checked[0][0], {name: table for name, (_, table) in zip(rows, checked, strict=True)}
    drawn = draw(groups, len(labels), resampling.n, resampling.seed)
    means = {name: mean_aucs(labels, table, folds, drawn).mean(0) for name, table in tables.items()}
    pooled = {name: mean_aucs(labels, table, None, drawn).mean(0) for name, table in tables.items()}
    differences = {
        name: percentile_difference(means[name] - means[baseline], level) for name in rows if name != baseline
    }
    auc_versus = _verdicts({name: (d.estimate, d.p_value) for name, d in differences.items()}, level)
    errors, localization_versus = _compare_localization(localized or {}, baseline, groups, level)
    facts = tuple(
        RowFacts(
            name,
            percentile_interval(means[name], level),
            percentile_interval(pooled[name], level),
            differences.get(name),
            auc_versus.get(name),
            errors.get(name),
            localization_versus.get(name),
        )
        for name in rows
    )
    return Comparison(baseline, facts, _detectable(labels, tables, baseline, folds, level))


def _check_names(
    rows: Mapping[str, ArrayLike], baseline: str, localized: Mapping[str, ArrayLike] | None
) -> None:
    if baseline not in rows:
        raise StatisticsError(f"the baseline must be one of {', '.join(rows)} but is {baseline}")
    if localized is not None and set(localized) != set(rows):
        raise StatisticsError(
            f"localisation must be given for all rows or for none but was given for {', '.join(localized)}"
        )


def _compare_localization(
    localized: Mapping[str, ArrayLike], baseline: str, groups: ArrayLike | None, level: float
) -> tuple[dict[str, Interval], dict[str, BaselineComparison]]:
    """Localisation error of each row, and its comparison with the baseline; both empty without rows."""
    missed = {name: 1 - np.asarray(hits, np.float64) for name, hits in localized.items()}
    errors = {name: proportion(share, groups, level) for name, share in missed.items()}
    gains = {
        name: (
            errors[baseline].estimate - errors[name].estimate,
            mcnemar(missed[name], missed[baseline], groups),
        )
        for name in localized
        if name != baseline
    }
    return errors, _verdicts(gains, level)


def _verdicts(gains: Mapping[str, tuple[float, float]], level: float) -> dict[str, BaselineComparison]:
    """Comparisons by name, from the gain over the baseline (positive: better) and its p-value."""
    adjusted = holm([p for _, p in gains.values()])
    return {
        name: BaselineComparison(p, float(q), UNCLEAR if q > 1 - level else BETTER if gain > 0 else WORSE)
        for (name, (gain, p)), q in zip(gains.items(), adjusted, strict=True)
    }


def _detectable(
    labels: Labels, tables: Mapping[str, Floats], baseline: str, folds: ArrayLike, level: float
) -> float | None:
    """`smallest_detectable_difference` with the variance pooled over the rows; None without other rows.

    It is computed from the folds' means over seeds, because seeds share their test cases. A fold trains on
    neither its test nor its validation cases (reading 18).
    """
    itself = np.ones((1, len(labels)))
    by_fold = {name: fold_aucs(labels, table, folds, itself).mean((1, 2)) for name, table in tables.items()}
    k = len(by_fold[baseline])
    if k < MIN_FOLDS:
        raise StatisticsError(
            f"at least three folds with both classes are needed (reading 18) but there are {k}"
        )
    test = len(labels) / k
    detectable = [
        smallest_detectable_difference(by_fold[name] - by_fold[baseline], (k - 2) * test, test, level)
        for name in tables
        if name != baseline
    ]
    return float(np.sqrt(np.square(detectable).mean())) if detectable else None
