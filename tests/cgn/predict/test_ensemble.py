"""Predictions from raw films equal those from a cache; boxes return to the source image."""

import dataclasses
import math
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgn.data.breast import PreparedImage, Preprocessing, to_cached
from cgn.data.datasets import mias
from cgn.data.preparation import prepare_pair
from cgn.data.reading.films import FilmPair, OpenedFilm, open_pair
from cgn.errors import ConfigError, ModelError, TimeLimitError
from cgn.figures import draw_prediction, save
from cgn.fit import network_of, predict
from cgn.images import Images
from cgn.metrics import box_from_cam
from cgn.predict import Ensemble

SIZE = 32


def test_films_of_a_cache_are_predicted_as_the_cache_to_the_bit(config, cached, films, ensemble, states_of):
    predictions = ensemble.predict(films)
    assert [prediction.pair_id for prediction in predictions] == cached.pair_id.tolist()
    whole = [network_of(config, state) for state in states_of(config).values()]
    folds = [predict(network, Images(cached), np.arange(len(cached))) for network in whole]
    for i, prediction in enumerate(predictions):
        target, reference = prediction.opened
        np.testing.assert_array_equal(target.prepared.pixels, cached.target[i])
        np.testing.assert_array_equal(reference.prepared.pixels, cached.reference[i])
        assert target.prepared.crop == tuple(cached.target_crop[i])
        assert prediction.fold_p == tuple(float(fold.p_malignant[i]) for fold in folds)
        assert prediction.p_malignant == np.mean(prediction.fold_p)
        assert prediction.spread == pytest.approx(np.std(prediction.fold_p))
        assert prediction.warnings == ()
        malignant = prediction.p_malignant > 0.5
        agree = [fold.cam[i].numpy() for fold in folds if (fold.p_malignant[i] > 0.5) == malignant]
        np.testing.assert_allclose(prediction.cam, np.mean(agree, 0), rtol=1e-5, atol=1e-6)
        box = to_cached(prediction.box, target.prepared.crop, target.chest_wall, SIZE)
        assert box == pytest.approx(box_from_cam(prediction.cam, SIZE))


def test_one_pair_from_files_is_predicted_as_in_a_batch_from_bytes(films, ensemble, tmp_path):
    (batched, *_) = ensemble.predict(films)
    (single,) = ensemble.predict([films[0].on_disk(tmp_path)])
    assert single.p_malignant == pytest.approx(batched.p_malignant, abs=1e-6)
    assert single.box == batched.box
    assert ensemble.predict([]) == []


def test_a_time_limit_includes_the_wait_for_other_threads(films, ensemble):
    counts, opened, go_on = [], threading.Event(), threading.Event()

    def hold(_count):
        opened.set()
        go_on.wait()

    other = threading.Thread(target=ensemble.predict, args=(films[:1],), kwargs={"on_opened": hold})
    other.start()
    opened.wait()
    with pytest.raises(TimeLimitError, match="other requests"):
        ensemble.predict(films, seconds=0.01)
    go_on.set()
    other.join()
    with pytest.raises(TimeLimitError, match=f"of {len(films)} pairs"):
        ensemble.predict(films, seconds=0)
    assert len(ensemble.predict(films, seconds=100, on_opened=counts.append)) == len(films)
    assert counts == list(range(1, len(films) + 1))


def test_a_reloaded_ensemble_reproduces_its_stored_output(ensemble):
    assert ensemble.check() == 0


def test_a_changed_network_does_not_reproduce_the_stored_output(config, folder, states_of):
    with Ensemble.load(folder) as loaded:
        scaled = [{k: v * 1.01 for k, v in state.items()} for state in states_of(config).values()]
        with Ensemble(loaded.facts, scaled) as changed:
            changed.probe = loaded.probe
            assert changed.check() > 0
            changed.probe = None
            with pytest.raises(ModelError, match="loaded from its folder"):
                changed.check()


def test_a_prediction_can_be_drawn(films, ensemble, tmp_path):
    (prediction,) = ensemble.predict(films[:1])
    assert set(ensemble.counterfactual(prediction)) == {"H_T", "H_R", "H_C"}
    save(draw_prediction(ensemble, prediction), tmp_path / "drawn.png")
    assert cv2.imread(str(tmp_path / "drawn.png")).shape[1] > 400


def test_the_picture_of_a_prediction_names_its_probability_spread_and_warnings(films, ensemble):
    (prediction,) = ensemble.predict(films[:1])
    warned = dataclasses.replace(prediction, p_malignant=0.2131, spread=0.1772, warnings=("size: too small",))
    assert warned.summary() == "probability of malignancy 0.213 (folds spread by 0.177)"
    title = draw_prediction(ensemble, warned).get_suptitle()
    assert title.split("\n") == [warned.summary(), "warning: size: too small"]


def film_processes():
    """Child processes that open films."""
    children = psutil.Process().children()
    return {child.pid for child in children if "reading.workers" in " ".join(child.cmdline())}


def test_processes_that_open_films_are_kept_and_end_with_the_ensemble(folder, films):
    others = film_processes()
    with Ensemble.load(folder, processes=2) as loaded:
        loaded.predict(films[:4])
        first = film_processes() - others
        loaded.predict(films[:4])
        assert film_processes() - others == first
    assert 1 <= len(first) <= 2
    assert film_processes() == others


def test_films_that_cannot_be_used_are_refused_one_by_one(ensemble, films, edited, tmp_path):
    blank = edited(films[1].reference, np.zeros_like)
    pairs = [
        films[0],
        dataclasses.replace(films[1], reference=blank),
        FilmPair.of(b"no film", b"at all"),
        FilmPair.of(tmp_path / "nothing.png", tmp_path / "nothing.png"),
        films[2],
    ]
    predictions = ensemble.predict(pairs)
    assert [math.isnan(p.p_malignant) for p in predictions] == [False, True, True, True, False]
    reasons = [prediction.warnings[0].partition(":")[0] for prediction in predictions[1:4]]
    assert reasons == ["no_breast", "truncated", "unreadable"]
    assert predictions[1].refused.role == "reference"
    (single,) = ensemble.predict([films[2]])
    assert predictions[4].p_malignant == pytest.approx(single.p_malignant, abs=1e-6)
    with pytest.raises(ConfigError, match="must be usable"):
        draw_prediction(ensemble, predictions[1])


# -------------------------------------------------------------------------- boxes in the source image

CROPS = st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(10, 900), st.integers(10, 900))
CORNERS = st.tuples(*[st.integers(0, SIZE - 1)] * 2, *[st.integers(1, SIZE)] * 2)


@given(CROPS, CORNERS, st.sampled_from(["left", "right"]))
@settings(max_examples=50, deadline=None)
def test_a_box_in_the_source_image_is_within_the_crop_and_maps_back(crop, corners, wall):
    x, y, width, height = corners
    box = (float(x), float(y), float(min(x + width, SIZE)), float(min(y + height, SIZE)))
    film = OpenedFilm(PreparedImage(np.zeros((SIZE, SIZE), np.uint8), crop, (), wall), None, None)
    source = film.to_source(box)
    x0, y0, wide, high = crop
    assert x0 - 1e-6 <= source[0] < source[2] <= x0 + wide + 1e-6
    assert y0 - 1e-6 <= source[1] < source[3] <= y0 + high + 1e-6
    assert to_cached(source, crop, wall, SIZE) == pytest.approx(box, abs=1e-6)


def test_mirrored_films_get_mirrored_boxes(ensemble, films, edited):
    pair = films[0]
    mirrored_pair = dataclasses.replace(
        pair,
        target=dataclasses.replace(edited(pair.target, lambda p: p[:, ::-1]), side=None),
        reference=edited(pair.reference, lambda p: p[:, ::-1]),
    )
    plain, mirrored = ensemble.predict([pair, mirrored_pair])
    wide = cv2.imdecode(np.frombuffer(pair.target.content, np.uint8), cv2.IMREAD_UNCHANGED).shape[1]
    assert {plain.opened.target.chest_wall, mirrored.opened.target.chest_wall} == {"left", "right"}
    expected = (wide - plain.box[2], plain.box[1], wide - plain.box[0], plain.box[3])
    assert mirrored.box == pytest.approx(expected, abs=5)


# --------------------------------------------------------------------------------------------- real films


@pytest.mark.skipif("CGN_MIAS_DIR" not in os.environ, reason="CGN_MIAS_DIR names no folder with mini-MIAS")
@pytest.mark.integration
def test_films_of_mini_mias_are_prepared_as_for_a_cache():
    """Where the breast's shape shows the chest wall, which is the case for all but a few films."""
    raw = Path(os.environ["CGN_MIAS_DIR"])
    for record in mias.scan(mias.Options(raw=raw)).records[:24]:
        pair = prepare_pair(record, Preprocessing(224))
        films = open_pair(FilmPair.of(*(raw / name for name in record.films)), Preprocessing(224))
        for cached, opened in zip(pair[:2], films, strict=True):
            np.testing.assert_array_equal(cached.pixels, opened.prepared.pixels)
            assert cached.crop == opened.prepared.crop
