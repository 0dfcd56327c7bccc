import dataclasses
import os

import pytest

from cgn.config import Config
from cgn.data.breast import Preprocessing
from cgn.errors import ConfigError, ModelError
from cgn.predict import PROBES, read_facts, write_ensemble

SIZE = 32


def test_facts_describe_the_model_and_its_training_data(folder, config, cached):
    facts = read_facts(folder)
    assert facts["folds"] == [0, 1, 2]
    assert Config.of(facts["config"]) == config
    assert facts["made_from"] == {"units": ["a", "b", "c"]}
    assert Preprocessing(**facts["preparation"]) == Preprocessing(SIZE, "keep")
    assert (facts["trained_on"]["pairs"], facts["trained_on"]["views"]) == (len(cached), ["MLO"])
    assert sorted(facts["files"]) == sorted(p.name for p in folder.iterdir() if p.name != "model.json")


def test_no_patients_films_are_stored_with_a_model(ensemble, cached):
    stored = {image.tobytes() for images in ensemble.probe.images.values() for image in images}
    assert len(stored) == 2 * PROBES
    assert stored.isdisjoint(image.tobytes() for image in (*cached.target, *cached.reference))


def test_a_model_is_written_once_and_whole(config, cached, folder, states_of, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="written once"):
        write_ensemble(folder, config, states_of(config), cached, {})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ModelError, match="No space left"):
        write_ensemble(tmp_path / "new", config, states_of(config), cached, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bilateral", "message"), [("sff", "needs both views"), ("oracle", "needs the counterfactual image")]
)
def test_a_model_that_needs_more_than_a_pair_is_not_written(bilateral, message, cached, states_of, tmp_path):
    config = Config(
        backbone="tiny", generator_blocks=1, bilateral=bilateral, triplet="none", negative_embedding=False
    )
    plain = dataclasses.replace(cached, counterfactual=None)
    with pytest.raises(ConfigError, match=message):
        write_ensemble(tmp_path / "model", config, states_of(config), plain, {})
    assert not list(tmp_path.iterdir())
