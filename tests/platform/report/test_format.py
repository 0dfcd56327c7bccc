"""Numbers as text."""

import re

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


def test_settings_of_a_method_and_loss_weights_are_one_line() -> None:
    """A table of methods with options had no page: a mapping was formatted as a number."""
    config = {"options": {"steps": 5, "healthy": "<references>"}, "loss_weights": {}}
    shown = setting({"rows": [{"config": config}]}, "rows.0.config.options")
    assert re.sub(r"<[^>]+>", "", shown) == "steps 5, healthy &lt;references&gt;"
    assert 'data-at="rows.0.config.options.steps"' in shown
    assert setting({"rows": [{"config": config}]}, "rows.0.config.loss_weights") == "–"
