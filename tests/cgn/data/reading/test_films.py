"""A film is read the same way for a cache and for a prediction."""

import csv
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from cgn.data.breast import Preprocessing
from cgn.data.datasets import manifest
from cgn.data.preparation import prepare_pair
from cgn.data.reading.films import Film, FilmPair, open_pair, read_image
from cgn.errors import Reason, UnreadableImageError

dicoms = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "dicoms.py")))

SMALL = Preprocessing(64)


def write_png(path, bits=14):
    image = dicoms.breast(bits=bits)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return image


def test_dicom_is_recognised_by_content(tmp_path):
    path = dicoms.write(tmp_path / "film", dicoms.breast())
    assert read_image(Film(path)).bits == 14
    write_png(tmp_path / "other")
    assert read_image(Film(tmp_path / "other")).bits == 16
    (tmp_path / "bad.dcm").write_bytes(b"no film")
    with pytest.raises(UnreadableImageError) as caught:
        read_image(Film(tmp_path / "bad.dcm"))
    assert caught.value.reason == Reason.NOT_DICOM


def test_stated_bits_must_fit_the_file(tmp_path):
    image = write_png(tmp_path / "film.png")
    read = read_image(Film(tmp_path / "film.png", bits=14))
    assert read.bits == 14
    np.testing.assert_array_equal(read.pixels, image)
    write_png(tmp_path / "flat.png", bits=8)
    with pytest.raises(UnreadableImageError, match="must have 12 bits as stated but has 8") as caught:
        read_image(Film(tmp_path / "flat.png", bits=12))
    assert caught.value.reason == Reason.DEPTH


def test_a_contradicting_side_is_refused_in_a_data_set_and_reported_in_a_prediction(tmp_path):
    path = dicoms.write(tmp_path / "film.dcm", dicoms.breast())
    with pytest.raises(UnreadableImageError) as caught:
        read_image(Film(path, side="R"))
    assert caught.value.reason == Reason.WRONG_SIDE
    opened = open_pair(FilmPair(Film(path, side="R"), Film(path)), SMALL)
    assert (opened.target.side, opened.target.view, opened.target.chest_wall) == ("L", "MLO", "left")


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "film.png")
    for path in (tmp_path / "film.png", tmp_path, tmp_path / "absent"):
        with pytest.raises(UnreadableImageError) as caught:
            read_image(Film(path))
        assert caught.value.reason == Reason.UNREADABLE
    with pytest.raises(TypeError, match="on_disk"):
        read_image(Film(b"content"))


def test_a_pair_to_predict_is_prepared_as_in_a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CGN_KEY_FILE", str(tmp_path / "key"))
    left = dicoms.write(tmp_path / "left.dcm", dicoms.breast(), "jpeg 2000")
    (tmp_path / "right.png").write_bytes(cv2.imencode(".png", dicoms.breast("R"))[1].tobytes())
    with (tmp_path / "films.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [
                ("image", "patient", "laterality", "view", "label", "bits"),
                ("left.dcm", "anna", "L", "MLO", "benign", ""),
                ("right.png", "anna", "R", "MLO", "normal", "14"),
            ]
        )
    (record,) = manifest.scan(manifest.Options(file=tmp_path / "films.csv")).records
    cached = prepare_pair(record, SMALL)
    opened = open_pair(FilmPair(Film(left), Film(tmp_path / "right.png", bits=14)), SMALL)
    for image, film in zip(cached[:2], opened, strict=True):
        assert (image.crop, image.chest_wall) == (film.prepared.crop, film.chest_wall)
        np.testing.assert_array_equal(image.pixels, film.prepared.pixels)


def test_a_pair_is_rejected_with_the_film_that_is_the_cause(tmp_path):
    path = dicoms.write(tmp_path / "film.dcm", dicoms.breast())
    pair = FilmPair.of(path.read_bytes(), b"no film").on_disk(tmp_path)
    rejection = open_pair(pair, SMALL)
    assert (rejection.role, rejection.reason) == ("reference", Reason.TRUNCATED)
