"""A cache of phantoms, the units of its folds, the model made of them, and the raw films as files."""

import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from cgn.config import Config
from cgn.data.breast import Preprocessing
from cgn.data.cache import open_cache, open_splits, write_cache
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan
from cgn.data.pairs import Pairs
from cgn.data.reading.films import FilmPair
from cgn_platform.serving import package
from cgn_platform.store.ledger import Ledger

TRAINED = runpy.run_path(str(Path(__file__).parents[1] / "trained.py"))
CONFIG = Config(backbone="tiny", generator_blocks=1, epochs=1, batch_size=4)


@dataclass(frozen=True)
class TrainedModel:
    """`units` are three of one configuration, then three of another; `model` is made of the first three."""

    pairs: Pairs
    ledger: Ledger
    units: list[str]
    films: list[tuple[Path, Path]]
    model: Path

    def package(self, where: Path, units: list[str]) -> Path:
        return package.package(
            where, ledger=self.ledger, units=units, pairs=self.pairs, evidence={"gate": "passed"}
        )

    def predictions(self) -> list[dict[str, Any]]:
        """What the ensemble itself predicts for every pair."""
        with package.load(self.model, processes=1) as ensemble:
            predictions = ensemble.predict([FilmPair.of(*pair) for pair in self.films])
        return [prediction.facts() for prediction in predictions]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    folder = tmp_path_factory.mktemp("serving")
    write_cache("phantom", phantom.Options(pairs=12), Preprocessing(32), SplitPlan(3), out=folder / "cache")
    pairs, splits = open_cache(folder / "cache"), open_splits(folder / "cache")
    ledger = Ledger(folder / "units")
    units = [
        TRAINED["train_unit"](config, fold, pairs, splits, ledger).id
        for config in (CONFIG, CONFIG.edit(alpha=0.3))
        for fold in range(3)
    ]
    made = TrainedModel(pairs, ledger, units, write_films(folder), folder / "model")
    made.package(made.model, units[:3])
    return made


def write_films(folder: Path) -> list[tuple[Path, Path]]:
    """The raw films of the cache as 16-bit PNG files: target and reference of each pair."""
    films = []
    for record in phantom.scan(phantom.Options(pairs=12), 32).records:
        target, reference, _ = record.load()
        paths = tuple(folder / f"{record.pair_id}-{role}.png" for role in ("target", "reference"))
        for path, film in zip(paths, (target, reference), strict=True):
            path.write_bytes(cv2.imencode(".png", np.left_shift(film.pixels, 16 - film.bits))[1].tobytes())
        films.append((paths[0], paths[1]))
    return films
