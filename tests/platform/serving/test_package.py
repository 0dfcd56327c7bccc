"""From the ledger to a model folder and back: no pickle, the same predictions."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cgn.errors import ConfigError, LedgerError, ModelError, UnreadableImageError
from cgn_platform.cli.commands import app
from cgn_platform.serving import package
from cgn_platform.serving.origin import ENSEMBLE, units_key
from cgn_platform.store.layout import Store
from cgn_platform.tracking import mlflow_client


def test_a_model_folder_holds_no_pickle_and_its_evidence(trained: Any) -> None:
    names = {path.name for path in trained.model.rglob("*") if path.is_file()}
    assert names >= {"MLmodel", "served.py", "model.json", "fold_0.safetensors", "fold_1.safetensors"}
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth"))]
    assert json.loads((trained.model / package.EVIDENCE).read_text()) == {"gate": "passed"}
    facts = json.loads((trained.model / ENSEMBLE / "model.json").read_text())
    assert facts["made_from"]["units"] == dict(zip("012", trained.units, strict=False))
    assert facts["trained_on"]["dataset"] == "phantom"


def test_units_that_do_not_belong_together_are_refused(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="equal config"):
        trained.package(tmp_path / "a", [trained.units[0], trained.units[4]])
    with pytest.raises(ModelError, match=r"different folds but are of \[0, 0\]"):
        trained.package(tmp_path / "a", [trained.units[0], trained.units[0]])
    with pytest.raises(ModelError, match="at least one fold"):
        trained.package(tmp_path / "a", [])
    with pytest.raises(LedgerError, match="no unit"):
        trained.package(tmp_path / "a", ["f" * 24])
    with pytest.raises(ModelError, match="never overwritten"):
        trained.package(trained.model, trained.units[:3])
    assert not list(tmp_path.iterdir())


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model in"):
        package.load(tmp_path / "nothing")
    with pytest.raises(ModelError, match="no model at models:/cgn@champion"):
        package.load("models:/cgn@champion", store=Store(tmp_path))


def test_a_registered_model_is_found_by_its_alias_and_by_its_number(trained: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    _, client = mlflow_client.connect(mlflow_client.default_uri(store))
    client.create_registered_model("cgn")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        version = client.create_model_version("cgn", str(trained.model))
    client.set_registered_model_alias("cgn", "champion", version.version)
    for address in ("models:/cgn@champion", "models:/cgn/1"):
        with package.load(address, store=store) as ensemble:
            assert ensemble.check() == 0


def test_a_registered_model_whose_files_are_those_of_another_is_refused(trained: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    _, client = mlflow_client.connect(mlflow_client.default_uri(store))
    client.create_registered_model("cgn")
    own, other = trained.units[:3], trained.units[3:]
    for units in (own, other):
        tags = {"cgn.key": units_key([units], units), "cgn.units": json.dumps([units])}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client.create_model_version("cgn", str(trained.model), tags=tags)
    with package.load("models:/cgn/1", store=store) as ensemble:
        assert ensemble.check() == 0
    with pytest.raises(ModelError, match="the files of version 2 of cgn are those of another model") as error:
        package.load("models:/cgn/2", store=store)
    assert all(unit in str(error.value) for unit in own)
    client.set_model_version_tag("cgn", "1", "cgn.units", "?")
    with pytest.raises(ModelError, match="the tags of version 1 of cgn do not name the units"):
        package.load("models:/cgn/1", store=store)


# ------------------------------------------------------------------------------------------- cgn predict


def predict(*words: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, words)], catch_exceptions=True)


def test_the_command_predicts_a_pair(trained: Any, tmp_path: Path) -> None:
    target, reference = trained.films[0]
    (expected, *_) = trained.predictions()
    printed = predict("--model", trained.model, target, reference).stdout
    assert f"{expected['p_malignant']:.3f}" in printed
    assert "(folds spread by " in printed
    figure = tmp_path / "figure.png"
    result = predict("--model", trained.model, target, target, "--side", "R", "--json", "--figure", figure)
    assert json.loads(result.stdout)["warnings"][0].startswith("same_side")
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_what_the_command_cannot_predict_is_one_line(trained: Any, tmp_path: Path) -> None:
    target, reference = trained.films[0]
    assert isinstance(predict("--model", trained.model, target).exception, ConfigError)
    both = predict("--model", trained.model, target, reference, "--out", "x")
    assert isinstance(both.exception, ConfigError)
    missing = predict("--model", trained.model, target, tmp_path / "nothing.png").exception
    assert isinstance(missing, ConfigError)
    assert "no film at" in str(missing)
    text = tmp_path / "text.png"
    text.write_text("no film")
    refused = predict("--model", trained.model, target, text).exception
    assert isinstance(refused, UnreadableImageError)
    assert str(refused).startswith("truncated: the reference")
