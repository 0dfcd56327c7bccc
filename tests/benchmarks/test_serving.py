"""Predictions a second of an ensemble against one fold, from raw films on, and how long it takes to start."""

import dataclasses
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cgn import methods
from cgn.config import Config
from cgn.data.reading.films import FilmPair
from cgn.predict import Ensemble, write_ensemble

HERE = Path(__file__).parent
MAKE_PAIRS = runpy.run_path(str(HERE.parent / "conftest.py"))["make_pairs"]
FILM = runpy.run_path(str(HERE / "test_data.py"))["film"]
WRITE = runpy.run_path(str(HERE.parent / "cgn" / "data" / "dicoms.py"))["write"]
FOLDS = 5
CONFIG = Config(backbone="alexnet")

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]


def model_of(place, folds, config=CONFIG):
    """Networks of AlexNet's size that nobody trained; a frozen backbone is the same in all folds."""
    torch.manual_seed(0)
    states = {fold: methods.build(config).state_dict() for fold in range(folds)}
    if config.frozen_backbone:
        shared = {name: tensor for name, tensor in states[0].items() if name.startswith("backbone.backbone.")}
        states = {fold: {**state, **shared} for fold, state in states.items()}
    write_ensemble(place, config, states, MAKE_PAIRS(4, 224), {})
    return place


@pytest.fixture(scope="module")
def film_pair(tmp_path_factory):
    """Makes two DICOM films of 3328 x 2560 pixels and 14 bits."""

    def make(syntax):
        folder = tmp_path_factory.mktemp("films")
        right = np.ascontiguousarray(FILM()[:, ::-1])
        target = WRITE(folder / "l.dcm", FILM(), syntax)
        return FilmPair.of(target, WRITE(folder / "r.dcm", right, syntax, ImageLaterality="R"))

    return make


ALL = os.cpu_count() or 1


@pytest.mark.parametrize(
    ("syntax", "pairs", "threads", "frozen"),
    [
        ("jpeg 2000", 1, 1, False),
        ("jpeg 2000", 1, ALL, False),
        ("jpeg 2000", 32, ALL, False),
        ("explicit", 1, 1, False),
        ("explicit", 1, ALL, False),
        ("explicit", 32, ALL, False),
        ("explicit", 32, ALL, True),
    ],
)
def test_an_ensemble_against_one_fold(measure, say, tmp_path, film_pair, syntax, pairs, threads, frozen):
    """AlexNet at 224, from films to predictions; films as archives have them in less than 2.5 times one fold.

    Films without compression are the fastest to open: there the networks, of which nothing can be shared
    unless the backbone is frozen, weigh most. They are reported without a goal.
    """
    config = CONFIG.edit(frozen_backbone=frozen)
    torch.set_num_threads(threads)
    pair = film_pair(syntax)
    requests = [dataclasses.replace(pair, pair_id=str(i)) for i in range(pairs)]
    with (
        Ensemble.load(model_of(tmp_path / "five", FOLDS, config)) as five,
        Ensemble.load(model_of(tmp_path / "one", 1, config)) as one,
    ):
        (prediction, *_) = five.predict(requests[:1])
        assert prediction.refused is None
        pixels = [np.repeat(film.prepared.pixels[None], pairs, 0) for film in prediction.opened]
        ready = dataclasses.replace(MAKE_PAIRS(pairs, 224), target=pixels[0], reference=pixels[1])
        seconds = measure(
            {
                "five": lambda: five.predict(requests),
                "one": lambda: one.predict(requests),
                "five networks": lambda: five.predict_prepared(ready),
                "one network": lambda: one.predict_prepared(ready),
            },
            rounds=5 if pairs == 1 else 1,
        )
    ratio = seconds["five"] / seconds["one"]
    say(
        f"{pairs} pairs of films, {syntax}, AlexNet{', frozen' if frozen else ''}, {threads} threads: "
        f"{FOLDS} folds {pairs / seconds['five']:.2f} predictions/s, one {pairs / seconds['one']:.2f}, "
        f"ratio of times {ratio:.2f} ({'goal 2.5' if syntax == 'jpeg 2000' else 'no goal'}); networks alone "
        f"{pairs / seconds['five networks']:.2f} and {pairs / seconds['one network']:.2f}, "
        f"{seconds['five networks'] / seconds['one network']:.2f}"
    )
    if syntax == "jpeg 2000":
        assert ratio < 2.5


def test_start_up(say, tmp_path, film_pair):
    """A process of its own: from its start to a loaded model, and to the first prediction."""
    place = model_of(tmp_path / "model", FOLDS)
    script = (
        "import sys, time; from pathlib import Path; from cgn.predict import Ensemble\n"
        "from cgn.data.reading.films import FilmPair\n"
        "imported = time.time(); ensemble = Ensemble.load(Path(sys.argv[1]), processes=1)\n"
        "loaded = time.time(); ensemble.predict([FilmPair.of(*map(Path, sys.argv[2:]))])\n"
        "print(imported, loaded, time.time()); ensemble.close()\n"
    )
    pair = film_pair("explicit")
    films = [pair.target.content, pair.reference.content]
    begun = time.time()
    ran = subprocess.run(
        [sys.executable, "-c", script, place, *films], capture_output=True, text=True, check=True, timeout=600
    )
    imported, loaded, predicted = (float(word) - begun for word in ran.stdout.split())
    say(
        f"start-up of {FOLDS} folds of AlexNet: imports {imported:.1f} s, with the model "
        f"read {loaded:.1f} s, first prediction {predicted:.1f} s"
    )
    assert imported < loaded < predicted
