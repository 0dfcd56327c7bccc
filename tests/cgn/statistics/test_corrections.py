import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cgn import statistics


def test_holm():
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(statistics.holm([0.9, 0.8]), [1.0, 1.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p):
    adjusted = statistics.holm(p)
    assert (adjusted >= np.array(p)).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


@pytest.mark.parametrize(("folds", "deviations"), [(5, 1.86), (50, 1.04)])
def test_minimum_detectable_difference_of_five_folds_and_of_ten_times_five(folds, deviations):
    """In deviations of the fold differences, with a fifth of the cases in the test fold."""
    differences = stats.zscore(np.random.default_rng(0).normal(size=folds), ddof=1)
    assert statistics.smallest_detectable_difference(differences, 80, 20) == pytest.approx(
        deviations, abs=0.01
    )
