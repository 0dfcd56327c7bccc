"""A cache of phantoms, the same films as files, and models that were written from them."""

import dataclasses
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from cgn import methods
from cgn.config import Config
from cgn.data.breast import Preprocessing
from cgn.data.cache import open_cache, write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan
from cgn.data.pairs import Pairs
from cgn.data.reading.films import Film, FilmPair
from cgn.predict import Ensemble, PairPrediction, write_ensemble

SIZE, FOLDS = 32, 3


@pytest.fixture(scope="session")
def dicoms() -> dict[str, Any]:
    """Functions that write DICOM files."""
    return runpy.run_path(str(Path(__file__).parents[1] / "data" / "dicoms.py"))


@pytest.fixture(scope="session")
def states_of() -> Callable[[Config], dict[int, Any]]:
    """Tensors of untrained networks, one per fold, whose batch norms differ from the initial ones."""

    def states(config: Config) -> dict[int, Any]:
        made = {}
        for fold in range(FOLDS):
            torch.manual_seed(fold)
            made[fold] = methods.build(config).state_dict()
            for name, tensor in made[fold].items():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 1.5)
        return made

    return states


@pytest.fixture(scope="session")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    place = tmp_path_factory.mktemp("served") / "cache"
    write_cache("phantom", phantom.Options(pairs=12), Preprocessing(SIZE), SplitPlan(3), out=place)
    return open_cache(place)


@pytest.fixture(scope="session")
def films() -> list[FilmPair]:
    """The same pairs as raw films: files whose values have 16 bits, of which 14 are used."""

    def png(image: Any) -> bytes:
        return cv2.imencode(".png", image.pixels)[1].tobytes()

    made = []
    for record in phantom.scan(phantom.Options(pairs=12), SIZE).records:
        target, reference, _ = record.load()
        made.append(
            FilmPair(
                Film(png(target), record.side, "MLO", target.bits),
                Film(png(reference), bits=reference.bits),
                record.pair_id,
            )
        )
    return made


@pytest.fixture(scope="session", params=[False, True], ids=["trained backbone", "frozen backbone"])
def config(request: pytest.FixtureRequest) -> Config:
    return Config(backbone="tiny", generator_blocks=1, frozen_backbone=request.param)


@pytest.fixture(scope="session")
def folder(
    config: Config,
    cached: Pairs,
    states_of: Callable[[Config], dict[int, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    place = tmp_path_factory.mktemp("models") / "model"
    write_ensemble(place, config, states_of(config), cached, {"units": ["a", "b", "c"]})
    return place


@pytest.fixture(scope="session")
def ensemble(folder: Path) -> Iterator[Ensemble]:
    with Ensemble.load(folder, processes=1) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def predict_one(
    cached: Pairs,
    states_of: Callable[[Config], dict[int, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., PairPrediction]]:
    """Predicts a pair, with these fields of it changed, by a model with a trained backbone."""
    place = tmp_path_factory.mktemp("served") / "model"
    config = Config(backbone="tiny", generator_blocks=1)
    write_ensemble(place, config, states_of(config), cached, {})
    with Ensemble.load(place, processes=1) as loaded:

        def predict(pair: FilmPair, **changes: Any) -> PairPrediction:
            (prediction,) = loaded.predict([dataclasses.replace(pair, **changes)])
            return prediction

        yield predict


@pytest.fixture(scope="session")
def edited() -> Callable[[Film, Callable[[Any], Any]], Film]:
    """A film whose pixels a function changed."""

    def edit(film: Film, change: Callable[[Any], Any]) -> Film:
        pixels = cv2.imdecode(np.frombuffer(film.content, np.uint8), cv2.IMREAD_UNCHANGED)
        content = cv2.imencode(".png", np.ascontiguousarray(change(pixels)))[1].tobytes()
        return dataclasses.replace(film, content=content)

    return edit
