import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from cgn import metrics


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=4, max_size=30))
def test_auc_is_the_share_of_pairs_in_the_right_order(cases):
    y, score = np.array([c[0] for c in cases], int), np.array([c[1] for c in cases], float)
    if len(set(y)) < 2:
        with pytest.raises(ValueError, match="both classes"):
            metrics.auc(y, score)
        return
    wins = [(p > n) + 0.5 * (p == n) for p in score[y == 1] for n in score[y == 0]]
    assert metrics.auc(y, score) == pytest.approx(np.mean(wins))


def test_auc_refuses_a_score_that_is_not_finite():
    with pytest.raises(ValueError, match="finite"):
        metrics.auc([0, 1], [0.1, math.nan])


def test_box_is_that_of_the_largest_region_above_a_fifth_of_the_maximum():
    cam = np.zeros((12, 12))
    cam[2:5, 3:8] = 0.5  # the larger region, weaker
    cam[9, 10] = 1.0  # the maximum
    x0, y0, x1, y1 = metrics.box_from_cam(cam, 120)
    assert (x0, y0, x1, y1) == pytest.approx((30, 20, 80, 50), abs=6)


def test_box_is_in_width_and_height_of_the_image():
    cam = np.zeros((4, 4))
    cam[:, 3] = 1.0
    x0, y0, x1, y1 = metrics.box_from_cam(cam, (200, 100))
    assert (y0, y1, x1) == (0, 100, 200)
    assert 100 < x0 < 160


def test_a_map_without_a_positive_value_has_an_empty_box():
    assert metrics.box_from_cam(-np.ones((3, 3)), 30) == (0, 0, 0, 0)
    assert metrics.iou((0, 0, 0, 0), (0, 0, 30, 30)) == 0


def test_iou():
    assert metrics.iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert metrics.iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert metrics.iou((2, 3, 8, 9), (2, 3, 8, 9)) == 1
    assert metrics.best_iou((0, 0, 10, 10), [(20, 20, 30, 30), (0, 0, 10, 10)]) == 1
    assert math.isnan(metrics.best_iou((0, 0, 10, 10), []))


def test_localisation_error_counts_only_annotated_images():
    ious = [0.5, 0.1, 0.09, math.nan]
    assert metrics.top1_localization_error(ious) == pytest.approx(1 / 3)
    assert metrics.top1_localization_error(ious, [True, False, True, True]) == pytest.approx(2 / 3)
    assert math.isnan(metrics.top1_localization_error([math.nan]))


def test_frechet_distance_agrees_with_the_matrix_square_root():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4)), rng.normal(size=(150, 4)) + 2
    s_a, s_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(s_a @ s_b)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s_a + s_b - 2 * root.real)
    assert metrics.frechet_distance(a, b) == pytest.approx(expected)


def test_frechet_distance_of_a_set_with_itself_is_zero_even_with_fewer_rows_than_columns():
    a = np.random.default_rng(1).normal(size=(5, 40))
    assert metrics.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet_distance(a, a + 3) == pytest.approx(9 * 40)
