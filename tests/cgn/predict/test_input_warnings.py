import dataclasses

import cv2
import numpy as np

from cgn.data.reading.films import FilmPair
from cgn.predict.input_warnings import training_ranges


def codes(prediction):
    return [warning.partition(":")[0] for warning in prediction.warnings]


def test_ranges_cover_targets_and_references(cached):
    ranges = training_ranges(cached)
    crops = np.concatenate([cached.target_crop, cached.reference_crop])
    assert ranges["width"] == (crops[:, 2].min(), crops[:, 2].max())
    assert ranges["height"] == (crops[:, 3].min(), crops[:, 3].max())
    means = np.concatenate([cached.target, cached.reference]).mean((1, 2))
    assert np.allclose(ranges["brightness"], (means.min(), means.max()))


def test_films_of_the_same_breast_give_a_warning(predict_one, films, edited):
    assert codes(predict_one(films[0], reference=films[0].target)) == ["same_side"]
    mirrored = edited(films[0].reference, lambda pixels: pixels[:, ::-1])
    assert codes(predict_one(films[0], reference=mirrored)) == ["same_side"]


def test_a_breast_of_another_size_or_brightness_gives_a_warning(predict_one, films, edited):
    larger = edited(films[0].target, lambda pixels: cv2.resize(pixels, None, fx=3, fy=3))
    assert codes(predict_one(films[0], target=larger)) == ["width", "height"]
    dark = dataclasses.replace(films[0].target, bits=16)  # the values use 14 bits
    prediction = predict_one(films[0], target=dark)
    assert codes(prediction) == ["brightness"]
    assert "in the target" in prediction.warnings[0]


def test_another_view_gives_a_warning(predict_one, films):
    target = dataclasses.replace(films[0].target, view="CC")
    warnings = predict_one(films[0], target=target).warnings
    assert warnings == ("view: CC in the target, MLO in training",)


def test_contradicting_tags_give_a_warning(predict_one, films, dicoms, tmp_path):
    def dicom(name, film, side, view):
        path = tmp_path / name
        pixels = cv2.imdecode(np.frombuffer(film.content, np.uint8), cv2.IMREAD_UNCHANGED)
        dicoms["write"](path, pixels, ImageLaterality=side, ViewPosition=view)
        return path

    first = dicom("a.dcm", films[0].target, "L", "MLO")
    second, same_side = (dicom(f"{side}.dcm", films[0].reference, side, "MLO") for side in "RL")
    other_view = dicom("cc.dcm", films[0].reference, "R", "CC")
    assert codes(predict_one(FilmPair.of(first, second, "L"))) == []
    contradicted = predict_one(FilmPair.of(first, second, "R"))
    assert contradicted.warnings == ("laterality: the target was given as R but its tags say L",)
    viewed = predict_one(FilmPair.of(first, second, "L", "CC"))
    assert viewed.warnings == tuple(
        f"view: the {role} was given as CC but its tags say MLO" for role in ("target", "reference")
    )
    assert codes(predict_one(FilmPair.of(first, same_side))) == ["same_side"]
    assert codes(predict_one(FilmPair.of(first, other_view))) == ["view", "view"]
