"""What is served is what was measured: the way from raw films, the box on the way back, what is doubted."""

import dataclasses
import json
import math
import os
import runpy
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cgn import methods
from cgn.data.breast import PreparedImage, Preprocessing, to_cached
from cgn.data.cache import open_cache, write_cache
from cgn.data.datasets import mias, phantom
from cgn.data.folds import SplitPlan
from cgn.data.reading.films import Film, FilmPair, OpenedFilm, open_pair
from cgn.errors import ConfigError, ModelError
from cgn.figures import draw_prediction, save
from cgn.fit import Images, network_of, predict
from cgn.metrics import box_from_cam
from cgn.predict import PROBES, Ensemble, write_ensemble

SIZE, FOLDS = 32, 3
DICOMS = runpy.run_path(str(Path(__file__).parent / "data" / "dicoms.py"))


def png(image):
    """The film as a file whose values use all 16 bits but the lowest ones."""
    return cv2.imencode(".png", image.pixels)[1].tobytes()


def states_of(config):
    """Networks that nobody trained, whose batch norms are not those of a new one."""
    states = {}
    for fold in range(FOLDS):
        torch.manual_seed(fold)
        states[fold] = methods.build(config).state_dict()
        for name, tensor in states[fold].items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
    return states


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    place = tmp_path_factory.mktemp("served") / "cache"
    write_cache("phantom", phantom.Options(pairs=12), Preprocessing(SIZE), SplitPlan(3), out=place)
    return open_cache(place)


@pytest.fixture(scope="module")
def films():
    """The same pairs as somebody has them: files of 16 bits that hold 14, or their bytes."""
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


@pytest.fixture(scope="module", params=[False, True], ids=["trained backbone", "frozen backbone"])
def config(request):
    from cgn.config import Config

    return Config(backbone="tiny", generator_blocks=1, frozen_backbone=request.param)


@pytest.fixture(scope="module")
def folder(config, cached, tmp_path_factory):
    place = tmp_path_factory.mktemp("models") / "model"
    write_ensemble(place, config, states_of(config), cached, {"units": ["a", "b", "c"]})
    return place


@pytest.fixture(scope="module")
def ensemble(folder):
    with Ensemble.load(folder, processes=1) as loaded:
        yield loaded


def test_a_film_that_was_cached_is_judged_as_it_was_to_the_bit(config, cached, films, ensemble):
    said = ensemble.predict(films)
    assert [each.pair_id for each in said] == cached.pair_id.tolist()
    whole = [network_of(config, state) for state in states_of(config).values()]
    folds = [predict(network, Images(cached), np.arange(len(cached))) for network in whole]
    for i, each in enumerate(said):
        np.testing.assert_array_equal(each.seen.target.prepared.pixels, cached.target[i])
        np.testing.assert_array_equal(each.seen.reference.prepared.pixels, cached.reference[i])
        assert each.seen.target.prepared.crop == tuple(cached.target_crop[i])
        assert each.fold_p == tuple(float(fold.p_malignant[i]) for fold in folds)
        assert each.p_malignant == np.mean(each.fold_p)
        assert each.spread == pytest.approx(np.std(each.fold_p))
        assert each.warnings == ()
        malignant = each.p_malignant > 0.5
        agree = [fold.cam[i].numpy() for fold in folds if (fold.p_malignant[i] > 0.5) == malignant]
        np.testing.assert_allclose(each.cam, np.mean(agree, 0), rtol=1e-5, atol=1e-6)
        found = to_cached(each.box, each.seen.target.prepared.crop, each.seen.target.chest_wall, SIZE)
        assert found == pytest.approx(box_from_cam(each.cam, SIZE))


def test_one_pair_alone_and_from_files_is_judged_as_in_a_batch(films, ensemble, tmp_path):
    (batched, *_) = ensemble.predict(films)
    (alone,) = ensemble.predict([films[0].on_disk(tmp_path)])
    assert alone.p_malignant == pytest.approx(batched.p_malignant, abs=1e-6)
    assert alone.box == batched.box
    assert ensemble.predict([]) == []


def test_a_reloaded_ensemble_says_what_it_said(folder, ensemble):
    assert ensemble.check() == 0
    facts = json.loads((folder / "model.json").read_text())
    assert facts["folds"] == [0, 1, 2]
    assert facts["made_from"] == {"units": ["a", "b", "c"]}
    assert Preprocessing(**facts["preparation"]) == Preprocessing(SIZE, "keep")


def test_nobodys_films_go_with_a_model(ensemble, cached):
    kept = {image.tobytes() for images in ensemble.probe.pairs.values() for image in images}
    assert len(kept) == 2 * PROBES
    assert kept.isdisjoint(image.tobytes() for image in (*cached.target, *cached.reference))


def test_another_network_is_noticed(config, cached, folder, tmp_path):
    with Ensemble.load(folder) as loaded:
        other = {fold: {k: v * 1.01 for k, v in s.items()} for fold, s in states_of(config).items()}
        with Ensemble(loaded.facts, list(other.values())) as changed:
            changed.probe = loaded.probe
            assert changed.check() > 0
            changed.probe = None
            with pytest.raises(ModelError, match="loaded from its folder"):
                changed.check()


@pytest.mark.parametrize("name", ["fold_1.safetensors", "probe.safetensors", "probe.json", "model.json"])
@pytest.mark.parametrize("harm", ["a bit", "missing"])
def test_a_file_that_was_tampered_with_is_refused_by_name(folder, tmp_path, name, harm):
    place = tmp_path / "copy"
    place.mkdir()
    for path in folder.iterdir():
        content = bytearray(path.read_bytes())
        if path.name == name:
            content[len(content) // 2] ^= 1
        if path.name != name or harm == "a bit":
            (place / path.name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        Ensemble.load(place)


def test_a_model_is_written_once_and_whole(config, cached, folder, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="written once"):
        write_ensemble(folder, config, states_of(config), cached, {})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(ModelError, match="No space left"):
        write_ensemble(tmp_path / "new", config, states_of(config), cached, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bilateral", ["sff", "oracle"])
def test_a_model_that_needs_more_than_a_pair_is_not_written(bilateral, cached, tmp_path):
    from cgn.config import Config

    config = Config(
        backbone="tiny", generator_blocks=1, bilateral=bilateral, triplet="none", negative_embedding=False
    )
    plain = dataclasses.replace(cached, counterfactual=None)
    with pytest.raises(ConfigError, match="take another value"):
        write_ensemble(tmp_path / "model", config, states_of(config), plain, {})


def test_what_it_sees_can_be_drawn(films, ensemble, tmp_path):
    (said,) = ensemble.predict(films[:1])
    assert set(ensemble.counterfactual(said)) == {"H_T", "H_R", "H_C"}
    save(draw_prediction(ensemble, said), tmp_path / "seen.png")
    assert cv2.imread(str(tmp_path / "seen.png")).shape[1] > 400


def opening():
    """Processes of this one that open films."""
    children = psutil.Process().children()
    return {child.pid for child in children if "reading.workers" in " ".join(child.cmdline())}


def test_processes_that_open_films_stay_and_end_with_it(folder, films):
    others = opening()
    with Ensemble.load(folder, processes=2) as loaded:
        loaded.predict(films[:4])
        first = opening() - others
        loaded.predict(films[:4])
        assert opening() - others == first
    assert 1 <= len(first) <= 2
    assert opening() == others


# ------------------------------------------------------------------------------------------- warnings


def one(ensemble, pair, **changes):
    (said,) = ensemble.predict([dataclasses.replace(pair, **changes)])
    return said


def codes(said):
    return [warning.partition(":")[0] for warning in said.warnings]


def read(film):
    return cv2.imdecode(np.frombuffer(film.content, np.uint8), cv2.IMREAD_UNCHANGED)


def edited(film, edit):
    content = cv2.imencode(".png", np.ascontiguousarray(edit(read(film))))[1].tobytes()
    return dataclasses.replace(film, content=content)


@pytest.fixture(scope="module")
def served(cached, tmp_path_factory):
    from cgn.config import Config

    place = tmp_path_factory.mktemp("served") / "model"
    config = Config(backbone="tiny", generator_blocks=1)
    write_ensemble(place, config, states_of(config), cached, {})
    with Ensemble.load(place, processes=1) as loaded:
        yield loaded


def test_both_films_of_one_side_are_doubted(served, films):
    assert codes(one(served, films[0], reference=films[0].target)) == ["same_side"]
    turned = edited(films[0].reference, lambda pixels: pixels[:, ::-1])
    assert codes(one(served, films[0], reference=turned)) == ["same_side"]


def test_a_breast_of_another_size_or_brightness_is_doubted(served, films):
    larger = edited(films[0].target, lambda pixels: cv2.resize(pixels, None, fx=3, fy=3))
    assert codes(one(served, films[0], target=larger)) == ["width", "height"]
    dark = dataclasses.replace(films[0].target, bits=16)  # 14 bits, taken for 16
    said = one(served, films[0], target=dark)
    assert codes(said) == ["brightness"]
    assert "in the target" in said.warnings[0]


def test_another_view_is_doubted(served, films):
    target = dataclasses.replace(films[0].target, view="CC")
    assert one(served, films[0], target=target).warnings == ("view: CC in the target, MLO in training",)


def test_tags_that_contradict_are_doubted(served, films, tmp_path):
    def dicom(name, film, side, view):
        path = tmp_path / name
        DICOMS["write"](path, read(film), ImageLaterality=side, ViewPosition=view)
        return path

    first = dicom("a.dcm", films[0].target, "L", "MLO")
    second, wrong = (dicom(f"{s}.dcm", films[0].reference, s, "MLO") for s in "RL")
    other_view = dicom("cc.dcm", films[0].reference, "R", "CC")
    assert codes(one(served, FilmPair.of(first, second, "L"))) == []
    assert codes(one(served, FilmPair.of(first, second, "R"))) == ["laterality"]
    assert codes(one(served, FilmPair.of(first, wrong))) == ["same_side"]
    assert codes(one(served, FilmPair.of(first, other_view))) == ["view", "view"]


def test_films_that_cannot_be_used_get_no_number_and_others_theirs(served, films, tmp_path):
    blank = edited(films[1].reference, np.zeros_like)
    pairs = [
        films[0],
        dataclasses.replace(films[1], reference=blank),
        FilmPair.of(b"no film", b"at all"),
        FilmPair.of(tmp_path / "nothing.png", tmp_path / "nothing.png"),
        films[2],
    ]
    said = served.predict(pairs)
    assert [math.isnan(each.p_malignant) for each in said] == [False, True, True, True, False]
    assert [each.warnings[0].partition(":")[0] for each in said[1:4]] == [
        "no_breast", "truncated", "unreadable",
    ]  # fmt: skip
    assert said[1].refused.role == "reference"
    assert said[4].p_malignant == pytest.approx(one(served, films[2]).p_malignant, abs=1e-6)
    with pytest.raises(ConfigError, match="must be usable"):
        draw_prediction(served, said[1])


# ------------------------------------------------------------------------------------ the box's way back

CROPS = st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(10, 900), st.integers(10, 900))
CORNERS = st.tuples(*[st.integers(0, SIZE - 1)] * 2, *[st.integers(1, SIZE)] * 2)


@given(CROPS, CORNERS, st.sampled_from(["left", "right"]))
@settings(max_examples=50, deadline=None)
def test_a_box_comes_back_through_turning_and_crop(crop, corners, wall):
    """Within the crop, and there where `to_cached` has it from."""
    x, y, width, height = corners
    box = (float(x), float(y), float(min(x + width, SIZE)), float(min(y + height, SIZE)))
    seen = OpenedFilm(PreparedImage(np.zeros((SIZE, SIZE), np.uint8), crop, (), wall), None, None)
    source = seen.to_source(box)
    x0, y0, wide, high = crop
    assert x0 - 1e-6 <= source[0] < source[2] <= x0 + wide + 1e-6
    assert y0 - 1e-6 <= source[1] < source[3] <= y0 + high + 1e-6
    assert to_cached(source, crop, wall, SIZE) == pytest.approx(box, abs=1e-6)


def test_turned_films_get_turned_boxes(served, films):
    """The same breasts in a mirror: the same probability, and the box where the lesion then stands."""
    pair = films[0]
    turned = dataclasses.replace(
        pair,
        target=dataclasses.replace(edited(pair.target, lambda p: p[:, ::-1]), side=None),
        reference=edited(pair.reference, lambda p: p[:, ::-1]),
    )
    here, there = served.predict([pair, turned])
    wide = read(pair.target).shape[1]
    assert {here.seen.target.chest_wall, there.seen.target.chest_wall} == {"left", "right"}
    assert there.box == pytest.approx(
        (wide - here.box[2], here.box[1], wide - here.box[0], here.box[3]), abs=5
    )


# --------------------------------------------------------------------------------------------- real films


@pytest.mark.skipif("CGN_MIAS_DIR" not in os.environ, reason="CGN_MIAS_DIR names no folder with mini-MIAS")
@pytest.mark.integration
def test_films_of_mini_mias_are_prepared_as_they_were_cached():
    """Where the breast's shape tells the chest wall, which it does but for a few films."""
    records = mias.scan(mias.Options(raw=Path(os.environ["CGN_MIAS_DIR"]))).records[:24]
    from cgn.data.preparation import prepare_pair

    raw = Path(os.environ["CGN_MIAS_DIR"])
    for record in records:
        pair = prepare_pair(record, Preprocessing(224))
        seen = open_pair(FilmPair.of(*(raw / name for name in record.films)), Preprocessing(224))
        for cached, opened in zip(pair[:2], seen, strict=True):
            np.testing.assert_array_equal(cached.pixels, opened.prepared.pixels)
            assert cached.crop == opened.prepared.crop
