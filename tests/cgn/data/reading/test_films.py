"""A film is read the same way for a cache and for a prediction."""

import csv
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cgn.data.breast import Preprocessing
from cgn.data.datasets import manifest
from cgn.data.preparation import prepare_pair
from cgn.data.reading import dicom
from cgn.data.reading.films import Film, FilmPair, open_pair, read_pair
from cgn.errors import Reason, UnreadableImageError

dicoms = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "dicoms.py")))

SMALL = Preprocessing(64)


def read_image(film):
    """The film, beside itself."""
    return read_pair(film, film).target


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


def dicom_pair(folder, *films, options=dicom.AS_STORED, bits=16, tags=({}, {})):
    """The pixels and bits of two films that are read as a pair."""
    paths = [
        dicoms.write(folder / f"{number}.dcm", stored, bits=bits, **more)
        for number, (stored, more) in enumerate(zip(films, tags, strict=True))
    ]
    return [image[:2] for image in read_pair(*map(Film, paths), options)[:2]]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16])
@pytest.mark.parametrize(("label", "bits"), [(1000, 12), (16000, 16), (30000, 16)])
def test_films_of_a_pair_have_one_range_of_greys(tmp_path, photometric, kind, label, bits):
    plain = dicoms.breast(bits=12).astype(kind)
    marked = plain.copy()
    marked[0, 0] = label  # it alone needs more bits
    tags = [{"PhotometricInterpretation": photometric}] * 2
    (one, depth), (other, other_depth) = dicom_pair(tmp_path, plain, marked, tags=tags)
    assert depth == other_depth == (15 if bits == 16 and kind == np.int16 else bits)
    np.testing.assert_array_equal(one[1:], other[1:])
    darkest = one.min() if photometric == "MONOCHROME2" else 2**depth - 1 - one.max()
    assert darkest == plain.min()


@pytest.mark.parametrize(("lowest", "black", "depth"), [(-5, 0, 12), (-3000, 4096, 13)])
def test_a_negative_value_in_one_film_shifts_both(tmp_path, lowest, black, depth):
    plain = dicoms.breast(bits=12).astype(np.int16)
    below = plain.copy()
    below[0, 0] = lowest
    images = dicom_pair(tmp_path, plain, below)
    assert [bits for _, bits in images] == [depth, depth]
    np.testing.assert_array_equal(images[0][0], plain + black)
    np.testing.assert_array_equal(images[1][0][1:], images[0][0][1:])


def test_far_negative_values_beside_unsigned_ones_are_refused(tmp_path):
    plain = dicoms.breast(bits=12)
    below = plain.astype(np.int16)
    below[0, 0] = -3000
    with pytest.raises(UnreadableImageError, match="must not be negative beside a film of unsigned values"):
        dicom_pair(tmp_path, plain, below)


def test_a_table_of_few_bits_beside_one_of_more(tmp_path):
    def table(highest):
        item = Dataset()
        item.add_new("LUTDescriptor", "US", [4096, 0, 16])
        item.add_new("LUTData", "US", np.linspace(0, highest, 4096).astype(int).tolist())
        return {"VOILUTSequence": Sequence([item])}

    stored = np.full((20, 30), 4095, np.uint16)
    voi = dicom.DicomOptions(range="voi")
    images = dicom_pair(tmp_path, stored, stored, options=voi, bits=12, tags=(table(4095), table(60000)))
    assert [(image.max(), bits) for image, bits in images] == [(4095, 16), (60000, 16)]


def test_a_window_in_one_film_of_a_pair_alone_is_refused(tmp_path):
    stored, window = dicoms.breast(bits=12), {"WindowCenter": 2048, "WindowWidth": 4096}
    voi = dicom.DicomOptions(range="voi")
    with pytest.raises(UnreadableImageError, match="both films of a pair must have a window") as caught:
        dicom_pair(tmp_path, stored, stored, options=voi, bits=12, tags=(window, {}))
    assert caught.value.reason == Reason.WINDOW
    assert len(dicom_pair(tmp_path, stored, stored, options=voi, bits=12, tags=(window, window))) == 2


def test_png_films_of_a_pair_have_one_range_of_greys(tmp_path):
    for name, bits in (("one", 12), ("other", 16)):
        write_png(tmp_path / f"{name}.png", bits)
    one, other, _ = read_pair(Film(tmp_path / "one.png"), Film(tmp_path / "other.png"))
    assert one.bits == other.bits == 16
    one, other, _ = read_pair(Film(tmp_path / "one.png", bits=12), Film(tmp_path / "other.png"))
    assert (one.bits, other.bits) == (12, 16)


def test_a_view_that_contradicts_the_tags_is_refused_in_a_data_set_and_warned_about_in_a_prediction(tmp_path):
    path = dicoms.write(tmp_path / "film.dcm", dicoms.breast())
    with pytest.raises(UnreadableImageError, match="must be of view CC but its tags say MLO") as caught:
        read_image(Film(path, view="CC"))
    assert (caught.value.reason, caught.value.role) == (Reason.WRONG_VIEW, "target")
    opened = open_pair(FilmPair(Film(path, view="CC"), Film(path)), SMALL)
    assert opened.target.view == "MLO"
