import math

import pytest

from cgn.statistics import Difference, Interval
from cgn_platform import text


@pytest.mark.parametrize(("value", "expected"), [(0.6754, "0.675"), (None, "-"), (math.nan, "-")])
def test_a_number_has_three_decimals_or_is_a_dash(value: float | None, expected: str) -> None:
    assert text.number(value) == expected


def test_an_interval_reads_the_same_from_a_record_and_from_facts() -> None:
    record = Interval(0.675, 0.55, 0.8)
    for interval in (record, record._asdict()):
        assert text.interval(interval) == "0.675 [0.550, 0.800]"
        assert text.bounds(interval, ".1f") == "[0.6, 0.8]"
    gap = Difference(0.1, -0.02, 0.2, 0.1)
    assert text.difference(gap) == text.difference(gap._asdict()) == "+0.100 [-0.020, +0.200]"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.41, 0.64, "not distinguishable from chance"),
        (0.5, 0.64, "not distinguishable from chance"),
        (0.51, 0.64, "better than chance"),
        (0.31, 0.49, "worse than chance"),
    ],
)
def test_a_measured_auc_says_whether_it_differs_from_chance(low: float, high: float, words: str) -> None:
    measured = Interval((low + high) / 2, low, high)
    assert text.measured_auc(measured).endswith(f"[{low:.3f}, {high:.3f}], {words}")


def test_the_result_of_a_search_names_both_aucs_and_the_test_auc_is_first() -> None:
    test, corrected = Interval(0.52, 0.41, 0.64), Interval(0.68, 0.6, 0.75)
    assert text.chosen_trial(3, test, 0.7, corrected) == (
        "Trial 3 was chosen by its validation AUC. "
        "Test AUC: 0.520 [0.410, 0.640], not distinguishable from chance. "
        "Validation AUC: 0.700, 0.680 [0.600, 0.750] corrected for the choice among trials; "
        "this is optimistic, because the validation folds also chose the epochs."
    )
    assert "Test AUC: 0.520. Validation AUC: 0.700; this" in text.chosen_trial(3, 0.52, 0.7)
    assert "Test AUC: -. " in text.chosen_trial(3, None, 0.7)


def test_parameters_are_short() -> None:
    assert text.params({"alpha": 0.123456, "seed": 3, "bilateral": "none"}) == (
        "alpha 0.123, seed 3, bilateral none"
    )


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("better on the new films", "better on the new films"),
        ("table_3-mias, alpha 0.5 [0.4, 0.6]", "table_3-mias, alpha 0.5 [0.4, 0.6]"),
        ("<img src=x onerror=alert(1)>", "\\<img src=x onerror=alert(1)\\>"),
        ("a | b\n\n# Approved", "a \\| b # Approved"),
        ("[click](javascript:x) ![](x)", "[click\\](javascript:x) \\![\\](x)"),
        ("*very* _good_ `code` ~~no~~ &lt;", "\\*very\\* \\_good\\_ \\`code\\` \\~\\~no\\~\\~ \\&lt;"),
        ("a\\*b", "a\\\\\\*b"),
    ],
)
def test_what_people_type_is_shown_as_it_is_in_markdown(typed: str, shown: str) -> None:
    assert text.markdown(typed) == shown


def test_tags_in_charts_are_shown_as_they_are() -> None:
    assert text.chart_text("<b>R&D</b>") == "&lt;b&gt;R&amp;D&lt;/b&gt;"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (99, "99 s"), (252, "4.2 min"), (5999, "100.0 min"), (9000, "2.5 h")],
)
def test_a_duration_has_a_unit_that_suits_it(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected
