"""What a fold may read while it trains, for every method: the comparison notices a planted leak."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from cgn import plugins, stages
from cgn.config import Config
from cgn.data import folds
from cgn.data.folds import healthy_films
from cgn.data.pairs import Films, Pairs, Split
from cgn.errors import ConfigError
from cgn.fit import fit

METHODS = plugins.names("cgn.methods")
every_method = pytest.mark.parametrize("method", METHODS)
STAGED = ["anogan", "cyclegan", "fixedpoint"]


@pytest.fixture(scope="module")
def pairs(pairs: Pairs) -> Pairs:
    """With two healthy films per woman: the reference, and its mirror image."""
    twice = np.tile(np.arange(len(pairs)), 2)
    films = Films(
        film_id=np.array([f"film-{n}" for n in range(len(twice))]),
        patient_id=pairs.patient_id[twice],
        view=pairs.view[twice],
        side=pairs.side[twice],
        no_finding=np.ones(len(twice), bool),
        no_cohort_finding=np.ones(len(twice), bool),
        image=np.concatenate([pairs.reference, pairs.reference[:, ::-1]]),
    )
    return dataclasses.replace(pairs, healthy=films)


def configure(method: str, tiny: Config) -> Config:
    """The first variant of the method, with healthy films from the cache."""
    module = plugins.load("cgn.methods", method)
    edits: dict[str, Any] = {**module.VARIANTS[0], **getattr(module, "REQUIRES", {})}
    if method in STAGED:
        edits["options.healthy"] = "finding"
    return tiny.edit(method=method, **edits)


def learned(config: Config, pairs: Pairs, split: Split) -> list[dict[str, float]]:
    """The losses of all epochs, stages included; they depend on nothing that is only scored."""
    return [dict(report.losses) for report in fit(config, pairs, split)]


def changed(pairs: Pairs, rows: np.ndarray, *names: str) -> Pairs:
    """Other pixels at these rows."""
    arrays = {}
    for name in names:
        array = getattr(pairs, name).copy()
        array[rows] = 255 - array[rows]
        arrays[name] = array
    return dataclasses.replace(pairs, **arrays)


@every_method
def test_nothing_of_a_scored_pair_is_learned_from(method, tiny, pairs, splits):
    config, split = configure(method, tiny), splits[0]
    scored = np.concatenate([split.val, split.test])
    names = ("target", "reference", "counterfactual")
    expected = learned(config, pairs, split)
    assert learned(config, changed(pairs, scored, *names), split) == expected
    assert learned(config, changed(pairs, split.train, *names), split) != expected


@pytest.mark.parametrize("method", STAGED)
def test_no_healthy_film_of_a_woman_with_a_scored_pair_is_used(method, tiny, pairs, splits, monkeypatch):
    config, split = configure(method, tiny), splits[0]
    films = pairs.healthy
    scored = np.isin(films.patient_id, pairs.patient_id[np.concatenate([split.val, split.test])])
    image = films.image.copy()
    image[scored] = 255 - image[scored]
    other = dataclasses.replace(pairs, healthy=dataclasses.replace(films, image=image))
    assert learned(config, other, split) == learned(config, pairs, split)
    monkeypatch.setattr(stages, "healthy_films", lambda pairs, *_: pairs.healthy.image)  # a planted leak
    assert learned(config, other, split) != learned(config, pairs, split)


@every_method
def test_the_true_counterfactual_is_read_by_the_oracle_alone(method, tiny, pairs, splits):
    config = configure(method, tiny)
    without = dataclasses.replace(pairs, counterfactual=None)
    assert learned(config, without, splits[0]) == learned(config, pairs, splits[0])


@pytest.mark.parametrize("method", STAGED)
def test_a_stage_belongs_to_its_fold_and_seed(method, tiny, pairs, splits):
    config = configure(method, tiny)
    first = learned(config, pairs, splits[0])[0]
    for other in (learned(config, pairs, splits[1])[0], learned(config.edit(seed=1), pairs, splits[0])[0]):
        own = [name for name in first if "." in name]
        assert own
        assert all(first[name] != other[name] for name in own)


def test_annotations_are_not_read(tiny, pairs, splits):
    """Healthy is a fact of the whole film: boxes change nothing but localisation."""
    none = dataclasses.replace(pairs, boxes=[()] * len(pairs))
    for method in METHODS:
        config = configure(method, tiny)
        assert learned(config, none, splits[0]) == learned(config, pairs, splits[0])


def test_a_film_counts_once(pairs, splits):
    split = splits[0]
    assert len(healthy_films(pairs, split, "finding")) == 2 * len(split.train)
    twice = dataclasses.replace(pairs.healthy, image=np.concatenate([pairs.reference, pairs.reference]))
    assert len(healthy_films(dataclasses.replace(pairs, healthy=twice), split, "finding")) == len(split.train)


def test_only_films_of_the_kind_that_is_asked_for_are_healthy(pairs, splits):
    split, films = splits[0], pairs.healthy
    some = np.zeros(len(films), bool)
    some[split.train[:3]] = True
    marked = dataclasses.replace(pairs, healthy=dataclasses.replace(films, no_finding=some))
    assert len(healthy_films(marked, split, "finding")) == 3
    assert len(healthy_films(marked, split, "cohort")) == 2 * len(split.train)
    lesions = np.zeros(len(pairs), bool)
    lesions[split.train[:2]] = True
    abnormal = dataclasses.replace(pairs, reference_has_lesion=lesions)
    assert len(healthy_films(abnormal, split, "references")) == len(split.train) - 2


def test_without_healthy_films_the_ways_out_are_named(tiny, pairs, splits):
    none = dataclasses.replace(pairs, healthy=None)
    config = configure("cyclegan", tiny)
    with pytest.raises(ConfigError, match=r"no healthy film .* set options.healthy=references"):
        next(fit(config, none, splits[0]))
    assert learned(config.edit(**{"options.healthy": "references"}), none, splits[0])


def test_women_without_a_pair_may_serve_in_every_fold(pairs, splits):
    films = pairs.healthy
    strangers = dataclasses.replace(films, patient_id=np.array([f"woman-{n}" for n in range(len(films))]))
    everywhere = dataclasses.replace(pairs, healthy=strangers)
    assert {len(folds.healthy_films(everywhere, split, "finding")) for split in splits} == {len(films)}


def test_a_draw_from_an_endless_permutation_needs_no_state():
    from cgn.streams import endless

    draws = [endless(5, 3, step, lambda number: number) for step in range(5)]
    together = torch.cat(draws)
    assert sorted(together[:5].tolist()) == list(range(5))
    assert sorted(together[5:10].tolist()) == list(range(5))
    assert torch.equal(endless(5, 3, 3, lambda number: number), draws[3])
