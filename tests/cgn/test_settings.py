import pytest

from cgn.data.datasets import inbreast
from cgn.settings import SETTING_COHORTS


@pytest.mark.parametrize("setting", sorted(SETTING_COHORTS))
def test_a_setting_is_an_option_of_the_inbreast_cache(setting, tmp_path):
    options = inbreast.Options.of({"raw": tmp_path, "setting": setting})
    assert options.content()["cohort"] == SETTING_COHORTS[setting]


def test_cohorts_are_those_of_the_paper():
    assert SETTING_COHORTS == {"a": "mass", "b": "mass", "c": "mixed"}
