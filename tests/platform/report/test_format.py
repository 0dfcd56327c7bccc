"""Numbers as text."""

import pytest

from cgn_platform.report.format import number, setting, value_at

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
