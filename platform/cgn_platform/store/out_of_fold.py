"""Out-of-fold test predictions: the one place where the folds of a configuration are joined.

Tables, reports, the gate and MLflow all use this join, so they show the same figures. A configuration with a
missing or damaged unit has no join (INCOMPLETE): figures are never computed over the remaining folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgn import statistics
from cgn.errors import LedgerError
from cgn.statistics import Comparison, Interval
from cgn_platform.store.ledger import Ledger, Unit

MIN_FOLDS = 3  # for a comparison (reading 18); a single 8:1:1 division is shown without one


@dataclass(frozen=True)
class OutOfFold:
    """Reading 21. Test predictions of one configuration, each by a network that was not trained on the pair.

    Attributes:
        index: `(cases,)` rows of the cache, ascending; pairs that no fold tests are absent.
        label, fold, patient: `(cases,)`.
        score: `(seeds, cases)` probability of malignancy.
        localized: `(seeds, cases)` 1 localised, 0 missed, NaN without an annotated lesion.
        cache, splits: fingerprints of the data that the units were made from.
    """

    index: NDArray[np.int64]
    label: NDArray[np.int64]
    fold: NDArray[np.int64]
    patient: NDArray[np.str_]
    score: NDArray[np.float64]
    localized: NDArray[np.float64]
    cache: str
    splits: str

    @property
    def annotated(self) -> bool:
        """Whether any tested pair has an annotated lesion."""
        return bool((~np.isnan(self.localized)).any())

    def auc(self) -> Interval:
        """Mean over folds and seeds, with its interval over patients."""
        return statistics.bootstrap_auc(self.label, self.score, self.patient, self.fold)

    def pooled_auc(self) -> Interval:
        """AUC of the scores of all folds together."""
        return statistics.bootstrap_auc(self.label, self.score, self.patient)

    def localization_error(self) -> Interval | None:
        """Table II, with its interval over patients; None without an annotated lesion."""
        return statistics.proportion(1 - self.localized, self.patient) if self.annotated else None


def join(units: Sequence[Sequence[Unit]]) -> OutOfFold:
    """Join the folds of each seed.

    Args:
        units: of one configuration, `[seed][fold]`.

    Raises:
        LedgerError: a unit is damaged, or the units do not test the same pairs once for each seed.
    """
    seeds = [
        sorted((row for unit in seed for row in unit.predictions.to_pylist()), key=lambda row: row["index"])
        for seed in units
    ]
    first, identity = seeds[0], units[0][0].identity
    tested = [row["index"] for row in first]
    if len(set(tested)) < len(tested) or any([row["index"] for row in rows] != tested for rows in seeds):
        raise LedgerError(
            f"the units of a configuration must test the same pairs once for each seed but those of "
            f"{units[0][0].id} do not: check that they were made from the same splits"
        )

    def column(name: str, dtype: Any) -> NDArray[Any]:
        return np.array([row[name] for row in first], dtype)

    def per_seed(name: str) -> NDArray[np.float64]:
        return np.array([[row[name] for row in rows] for rows in seeds], np.float64)  # null becomes NaN

    return OutOfFold(
        column("index", np.int64),
        column("label", np.int64),
        column("fold", np.int64),
        column("patient_id", np.str_),
        per_seed("p_malignant"),
        per_seed("localized"),
        identity.cache,
        identity.splits,
    )


def read(ledger: Ledger, ids: Sequence[Sequence[str]]) -> OutOfFold | None:
    """Join the units of these ids, `[seed][fold]`; None (INCOMPLETE) if one is missing or damaged."""
    units = [[ledger.find(unit_id) for unit_id in seed] for seed in ids]
    complete = [[unit for unit in seed if unit is not None] for seed in units]
    if not units or not all(complete) or list(map(len, complete)) != list(map(len, units)):
        return None
    try:
        return join(complete)
    except LedgerError:
        return None


def measure(rows: Mapping[str, OutOfFold], baseline: str) -> tuple[dict[str, dict[str, Any]], float | None]:
    """The figures of each row of a table, as plain JSON, and the minimum detectable difference.

    If the baseline is incomplete, the other rows keep their own figures, without a comparison. Rows of fewer
    than `MIN_FOLDS` folds have none.
    """
    if baseline in rows:
        compared = [compare(rows, baseline)]
    else:
        compared = [compare({name: row}, name) for name, row in rows.items()]
    figures = {row.name: row.plain() for each in compared if each is not None for row in each.rows}
    return figures, next((each.detectable for each in compared if each is not None), None)


def compare(rows: Mapping[str, OutOfFold], baseline: str) -> Comparison | None:
    """Compare the rows of a table with its baseline, on the same pairs (`cgn.statistics.compare`).

    Args:
        rows: complete rows by name.
        baseline: name of the row that the others are compared with.

    Returns:
        None if the baseline is incomplete, or if there are fewer than `MIN_FOLDS` folds.
    """
    if baseline not in rows or len(np.unique(rows[baseline].fold)) < MIN_FOLDS:
        return None
    cases = rows[baseline]
    annotated = any(row.annotated for row in rows.values())
    return statistics.compare(
        cases.label,
        {name: row.score for name, row in rows.items()},
        baseline,
        cases.fold,
        cases.patient,
        {name: row.localized for name, row in rows.items()} if annotated else None,
    )
