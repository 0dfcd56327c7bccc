import subprocess
import sys

import pytest

from cgn import plugins
from cgn.errors import ConfigError


def test_names_are_the_public_modules_of_a_package():
    names = plugins.names("cgn.backbones")
    assert {"alexnet", "tiny"} < set(names)
    assert names == sorted(names)
    assert not any(name.startswith("_") for name in names)  # without _resnet


def test_a_plugin_is_loaded_by_its_name():
    assert plugins.load("cgn.backbones", "tiny").__name__ == "cgn.backbones.tiny"
    with pytest.raises(ConfigError, match=r"^no '_resnet' among the backbones: take one of alexnet, "):
        plugins.load("cgn.backbones", "_resnet")


def test_names_are_checked_without_imports():
    check = "from cgn import plugins; plugins.check('cgn.methods', 'cgn')"
    code = f"import sys; {check}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
