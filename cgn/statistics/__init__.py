"""What small data allows one to conclude: intervals, paired tests, corrections, tables. Pure NumPy and SciPy.

Scores belong to test cases only, one score per case (out of fold), and were never used to choose anything:
`(cases,)`, or `(seeds, cases)` where the same folds were trained with several seeds. AUCs lie in [0, 1].

Intervals describe other patients, given the networks as they were trained: patients are resampled, trainings
are not. Several seeds average out the noise of training, which is not part of the interval.

- `analytic`: DeLong's standard errors, without resampling
- `bootstrap`: percentile intervals of AUCs and of their differences
- `rates`: intervals and tests of rates of 0 and 1, such as localisation
- `corrections`: Holm's correction, and the minimum detectable difference under retraining
- `selection`: the winner of a search, corrected for having been selected
- `comparison`: every row of a table against its baseline
"""

from cgn.statistics._checks import Floats, StatisticsError
from cgn.statistics._resampling import DEFAULT, Difference, Interval, Resampling
from cgn.statistics.analytic import DeLong, FoldDeLong, delong, fold_delong
from cgn.statistics.bootstrap import bootstrap_auc, paired_bootstrap
from cgn.statistics.comparison import (
    BETTER,
    MIN_FOLDS,
    UNCLEAR,
    WORSE,
    BaselineComparison,
    Comparison,
    RowFacts,
    compare,
)
from cgn.statistics.corrections import holm, smallest_detectable_difference
from cgn.statistics.rates import mcnemar, paired_rates, proportion
from cgn.statistics.selection import Winner, bbc, winner

__all__ = [
    "BETTER",
    "DEFAULT",
    "MIN_FOLDS",
    "UNCLEAR",
    "WORSE",
    "BaselineComparison",
    "Comparison",
    "DeLong",
    "Difference",
    "Floats",
    "FoldDeLong",
    "Interval",
    "Resampling",
    "RowFacts",
    "StatisticsError",
    "Winner",
    "bbc",
    "bootstrap_auc",
    "compare",
    "delong",
    "fold_delong",
    "holm",
    "mcnemar",
    "paired_bootstrap",
    "paired_rates",
    "proportion",
    "smallest_detectable_difference",
    "winner",
]
