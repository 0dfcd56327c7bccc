"""Numbers as text."""

import pytest

from cgn.statistics import Interval
from cgn_platform.report.format import interval_text, number, setting, short, value_at

FACTS = {
    "rows": [{"auc": {"low": -0.25}, "config": {"alpha": 0.123456, "epochs": 3, "name": "<x>", "on": True}}]
}


def test_a_number_names_its_path_and_has_a_true_minus() -> None:
    assert number(FACTS, "rows.0.auc.low") == (
        '<data value="-0.25" data-at="rows.0.auc.low" data-form=".3f">−0.250</data>'
    )


@pytest.mark.parametrize("path", ["rows.0.auc.high", "best", "best.value"])
def test_a_missing_number_is_a_dash(path: str) -> None:
    assert value_at(FACTS, path) is None
    assert number(FACTS, path) == "–"


def test_a_setting_is_a_number_or_an_escaped_word() -> None:
    assert ">0.123<" in setting(FACTS, "rows.0.config.alpha")
    assert ">3<" in setting(FACTS, "rows.0.config.epochs")
    assert setting(FACTS, "rows.0.config.name") == "&lt;x&gt;"
    assert setting(FACTS, "rows.0.config.on") == "True"
    assert setting(FACTS, "rows.0.config.none") == "–"


def test_text_without_a_page() -> None:
    assert interval_text(Interval(0.8, 0.7, 0.9)) == "0.800 [0.700, 0.900]"
    assert interval_text(Interval(0.8, -0.7, 0.9), "+.1f") == "+0.8 [-0.7, +0.9]"
    assert (short(0.000123456), short(5), short("a"), short(None)) == ("0.000123", "5", "a", "None")
