import pytest

from cgn import plugins
from cgn.data import datasets
from cgn.settings import SETTINGS


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_settings_name_what_there_is(name, tmp_path):
    setting = SETTINGS[name]
    options = datasets.load(setting.dataset).Options
    where = {key: tmp_path for key, field in options.model_fields.items() if field.is_required()}
    asked = options.of({**where, **setting.options})
    assert setting.options.items() <= asked.content().items()
    assert setting.config.backbone in plugins.names("cgn.backbones")


def test_they_are_the_papers():
    assert {name: (s.dataset, s.config.backbone, s.parts) for name, s in SETTINGS.items()} == {
        "a": ("inbreast", "alexnet", None),
        "b": ("inbreast", "resnet50", None),
        "c": ("inbreast", "resnet50", None),
        "d": ("manifest", "alexnet", (8, 1, 1)),
    }
