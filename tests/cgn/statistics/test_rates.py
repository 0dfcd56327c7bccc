import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cgn import statistics

SIMULATION = runpy.run_path(str(Path(__file__).with_name("simulation.py")))
mammograms = SIMULATION["mammograms"]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_mcnemar_is_the_binomial_test_of_discordant_pairs(seed):
    a, b = np.random.default_rng(seed).random((2, 30)) < [[0.7], [0.4]]
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b:
        assert statistics.mcnemar(a, b) == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)


def test_mcnemar_exchanges_patients_and_not_single_films():
    """Four patients with three films each, all better: 2 of 16 exchanges are as extreme, not 2 of 4096."""
    a, b, patient = np.ones(12), np.zeros(12), np.repeat(np.arange(4), 3)
    assert statistics.mcnemar(a, b) == pytest.approx(2 / 4096)
    assert statistics.mcnemar(a, b, patient) == pytest.approx(2 / 16)
    assert statistics.mcnemar(np.stack([a, a, a]), np.stack([b, b]), patient) == pytest.approx(2 / 16)
    assert statistics.mcnemar(a, a, patient) == 1.0


def test_paired_rates_give_the_interval_of_the_difference():
    rng = np.random.default_rng(0)
    b = rng.integers(0, 2, 200).astype(float)
    a = np.where(rng.random(200) < 0.2, 1.0, b)
    a[:20] = b[:20] = np.nan  # not annotated
    difference = statistics.paired_rates(a, b)
    assert difference.estimate == pytest.approx(np.nanmean(a) - np.nanmean(b))
    half = 1.96 * np.nanstd(a - b) / np.sqrt(180)
    bounds = (difference.estimate - half, difference.estimate + half)
    assert (difference.low, difference.high) == pytest.approx(bounds, abs=0.01)
    assert statistics.paired_rates(np.stack([a, a]), b) == difference
    assert statistics.paired_rates(a, a)[:3] == (0, 0, 0)
    with pytest.raises(ValueError, match="same cases"):
        statistics.paired_rates(a, np.nan_to_num(b))


def test_a_proportion_of_single_cases_has_wilsons_interval():
    wilson = stats.binomtest(12, 40).proportion_ci(method="wilson")
    result = statistics.proportion(np.arange(40) < 12)
    # the patients' variance is divided by n - 1, the binomial one by n
    assert result == pytest.approx((0.3, wilson.low, wilson.high), abs=0.003)
    none = statistics.proportion(np.zeros(40), np.arange(40) // 2)
    assert none == pytest.approx((0, *stats.binomtest(0, 20).proportion_ci(method="wilson")), abs=1e-9)


@pytest.mark.parametrize("truth", [0.1, 0.3, 0.6])
def test_proportions_have_their_nominal_coverage_and_mcnemar_its_error_rate(truth):
    """91 films of 48 patients; of 500 runs, standard error 1 %."""
    rng, hits, claims, runs = np.random.default_rng(25), 0, 0, 500
    for _ in range(runs):
        _, patient, _ = mammograms(rng)
        a, b = (
            np.sqrt(0.5) * (rng.normal(size=91) + rng.normal(size=48)[patient]) < stats.norm.ppf(truth)
            for _ in range(2)
        )
        interval = statistics.proportion(a, patient)
        hits += interval.low <= truth <= interval.high
        claims += statistics.mcnemar(a, b, patient) < 0.05
    assert 0.92 <= hits / runs <= 0.98
    assert claims / runs < 0.07
