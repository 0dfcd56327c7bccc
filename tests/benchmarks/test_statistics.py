"""A table of ten rows against the intervals of its rows, one after the other."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from cgn import statistics

pytestmark = pytest.mark.benchmark

SIMULATION = runpy.run_path(str(Path(__file__).parents[1] / "cgn" / "statistics" / "simulation.py"))


def test_a_table_of_ten_rows_and_three_seeds(say, measure):
    rng = np.random.default_rng(18)
    y, patient, folds = SIMULATION["mammograms"](rng)
    rows = {str(n): SIMULATION["readings"](rng, y, patient, folds, 0.8, 3) for n in range(10)}

    def intervals():
        for score in rows.values():
            statistics.bootstrap_auc(y, score, patient, folds)
            statistics.bootstrap_auc(y, score, patient)

    ways = {"table": lambda: statistics.compare(y, rows, "0", folds, patient), "intervals": intervals}
    seconds = measure(ways, rounds=3)
    ratio = seconds["table"] / seconds["intervals"]
    say(f"a table of 10 rows, 3 seeds, 2,000 draws: {seconds['table']:.2f} s, {ratio:.2f} of its intervals")
    assert ratio < 1
