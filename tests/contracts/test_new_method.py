"""The method of CONTRIBUTING.md, added as a file and trained."""

import sys
from pathlib import Path

import numpy as np
import pytest

import cgn.methods
from cgn import plugins
from cgn.errors import ConfigError
from cgn.fit import fit
from cgn.results import last

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"
BEGIN = '''"""The mean grey value."""

import torch
import torch.nn.functional as F
from torch import nn

from cgn.methods import BatchPrediction, Method

READS = ("loss_weights",)
TERMS = ("l_cls",)
VARIANTS = ({},)


'''
END = """

def build(config):
    return Brightness(config)
"""


@pytest.fixture
def added(tmp_path, monkeypatch):
    code = GUIDE.read_text().partition("```python\n")[2].partition("```")[0]
    (tmp_path / "brightness.py").write_text(BEGIN + code + END)
    folders = [*cgn.methods.__path__, str(tmp_path)]
    monkeypatch.setattr(cgn.methods, "__path__", folders)
    monkeypatch.setattr(cgn.methods.__spec__, "submodule_search_locations", folders)
    yield
    sys.modules.pop("cgn.methods.brightness", None)


def test_the_method_of_the_guide_is_found_and_learns(added, tiny, pairs, splits):
    assert "brightness" in plugins.names("cgn.methods")
    result = last(fit(tiny.edit(method="brightness", epochs=3, learning_rate=0.1), pairs, splits[0]))
    assert result.test_auc > 0.9  # a bright square is the lesion
    assert np.isfinite(result.predictions.p_malignant).all()


def test_its_loss_terms_are_the_ones_that_can_be_weighted(added, tiny, pairs, splits):
    with pytest.raises(ConfigError, match="loss_weights may name l_cls for method brightness but got 'l_ft'"):
        next(fit(tiny.edit(method="brightness", loss_weights={"l_ft": 2.0}), pairs, splits[0]))
