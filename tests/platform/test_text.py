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


def test_parameters_are_short() -> None:
    assert text.params({"alpha": 0.123456, "seed": 3, "bilateral": "none"}) == (
        "alpha 0.123, seed 3, bilateral none"
    )
