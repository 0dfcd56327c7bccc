"""Every module of `cgn.data.datasets` passes this."""

import os
from pathlib import Path

import numpy as np
import pytest

from cgn.data import datasets
from cgn.data.breast import prepare
from cgn.errors import ConfigError


@pytest.fixture(params=datasets.names())
def scan(request):
    """A scan of each dataset; those that need raw films take them from CGN_<NAME>_DIR."""
    module = datasets.load(request.param)
    values = {}
    if "raw" in module.Options.model_fields:
        variable = f"CGN_{request.param.upper()}_DIR"
        if not os.environ.get(variable):
            pytest.skip(f"{variable} does not name a folder with the raw films of {request.param}")
        values["raw"] = os.environ[variable]
    return module.scan(module.Options.of(values), 64)


@pytest.mark.parametrize("name", datasets.names())
def test_options_explain_themselves(name):
    options = datasets.load(name).Options
    assert issubclass(options, datasets.DatasetOptions)
    assert all(field.description for field in options.model_fields.values())
    with pytest.raises(ConfigError, match="no option 'colour'; the options are"):
        options.of({"raw": ".", "colour": 1} if "raw" in options.model_fields else {"colour": 1})


@pytest.mark.parametrize("name", datasets.names())
def test_no_path_of_this_machine_is_content(name):
    module = datasets.load(name)
    options = module.Options.of({"raw": "/some/where"} if "raw" in module.Options.model_fields else {})
    assert not any(isinstance(value, Path) or "/some" in str(value) for value in options.content().values())


def test_an_unknown_dataset_is_told_the_known_ones():
    with pytest.raises(ConfigError, match=r"no 'ddsm' among the datasets: take one of .*mias.*phantom"):
        datasets.load("ddsm")


def test_records_are_well_formed(scan):
    assert scan.records
    assert len({record.pair_id for record in scan.records}) == len(scan.records)
    assert {record.label for record in scan.records} == {0, 1}
    assert {record.side for record in scan.records} == {"L", "R"}
    assert all(record.kinds and record.view for record in scan.records)
    assert scan.files
    assert all(len(file.sha256) == 64 and "/" not in file.name for file in scan.files)
    assert scan.counts["targets"] == len(scan.records)


def test_films_fit_their_records_and_can_be_prepared(scan):
    for record in scan.records[:6]:
        target, reference, counterfactual = record.load()
        assert target.chest_wall != reference.chest_wall
        rows, columns = target.pixels.shape
        for x0, y0, x1, y1 in record.boxes:
            assert x0 < x1
            assert y0 < y1
            assert x0 < columns
            assert y0 < rows
        assert prepare(*target, 64, record.boxes).pixels.shape == (64, 64)
        assert prepare(*reference, 64).pixels.dtype == np.uint8
        assert counterfactual is None or counterfactual.pixels.shape == target.pixels.shape
