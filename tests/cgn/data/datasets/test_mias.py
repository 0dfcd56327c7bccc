import os
from pathlib import Path

import numpy as np
import pytest

from cgn.data.breast import find_breast, prepare
from cgn.data.datasets import mias
from cgn.errors import ConfigError, NotADatasetError, UnreadableImageError


def scan(raw, cohort="all"):
    return mias.scan(mias.Options(raw=raw, cohort=cohort))


def by_id(scanned):
    return {record.pair_id: record for record in scanned.records}


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("CGN_MIAS_DIR")
    if not folder:
        pytest.skip("CGN_MIAS_DIR does not name a folder with mini-MIAS")
    return Path(folder)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_targets_are_the_abnormal_films(mias_folder, newline):
    scanned = scan(mias_folder(newline=newline))
    assert [int(r.pair_id[3:]) for r in scanned.records] == [1, 4, 5, 6, 7, 9, 11, 13, 14]
    assert scanned.name == "mias-all"
    assert scanned.counts["targets"] == 9
    assert scanned.counts["malignant"] == 4
    assert scanned.counts["films in Info.txt"] == 14
    assert not scanned.missing


def test_odd_films_are_left_breasts_and_pairs_are_one_woman(mias_folder):
    records = by_id(scan(mias_folder()))
    assert (records["mdb001"].side, records["mdb004"].side) == ("L", "R")
    assert records["mdb005"].patient_id == records["mdb006"].patient_id != records["mdb007"].patient_id
    films = records["mdb004"].load()
    assert (films.target.chest_wall, films.reference.chest_wall) == ("left", "right")
    assert films.counterfactual is None


def test_coordinates_start_at_the_bottom_left(mias_folder):
    record = by_id(scan(mias_folder()))["mdb004"]
    assert record.boxes == ((522 - 69, 1023 - 280 - 69, 522 + 69 + 1, 1023 - 280 + 69 + 1),)


def test_several_rows_give_several_boxes_and_the_worst_label(mias_folder):
    records = by_id(scan(mias_folder()))
    assert len(records["mdb005"].boxes) == 2
    assert records["mdb005"].kinds == ("CIRC",)
    assert records["mdb007"].label == 1
    assert len(records["mdb007"].boxes) == 2


@pytest.mark.parametrize("name", ["mdb009", "mdb011"])
def test_a_target_without_a_location_has_no_box(mias_folder, name):
    assert by_id(scan(mias_folder()))[name].boxes == ()


def test_a_reference_may_have_a_lesion_of_its_own(mias_folder):
    records = by_id(scan(mias_folder(), "mass"))
    assert records["mdb005"].reference_has_lesion
    assert not records["mdb001"].reference_has_lesion


@pytest.mark.parametrize(
    ("cohort", "numbers"),
    [("mass", [1, 4, 5, 6, 7, 9]), ("mixed", [1, 4, 5, 6, 7, 9, 11, 14])],
)
def test_cohorts(mias_folder, cohort, numbers):
    assert [int(r.pair_id[3:]) for r in scan(mias_folder(), cohort).records] == numbers


def test_some_of_the_films_are_enough(mias_folder):
    scanned = scan(mias_folder(range(1, 7)))
    assert [r.pair_id for r in scanned.records] == ["mdb001", "mdb004", "mdb005", "mdb006"]
    assert scanned.counts["films in the folder"] == 6
    assert "mdb007, film of mdb007" in scanned.missing
    assert "mdb008, reference of mdb007" in scanned.missing


def test_pgm_and_png_hold_the_same_pixels(mias_folder):
    folder = mias_folder()
    films = by_id(scan(folder))["mdb001"].load()
    assert films.target.pixels.shape == films.reference.pixels.shape == (1024, 1024)
    assert films.target.bits == 8


@pytest.mark.parametrize("name", ["MDB001.PGM", "mdb002.png"])
@pytest.mark.parametrize("keep", [0, 20, 0.5])
def test_a_truncated_film_is_named(mias_folder, name, keep):
    folder = mias_folder()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(keep * len(content)) if keep < 1 else keep])
    record = by_id(scan(folder))["mdb001"]
    with pytest.raises(UnreadableImageError, match=f"{name}: the file is truncated or no PNG, PGM"):
        record.load()


def test_a_film_of_another_size_is_refused_since_its_boxes_would_be_wrong(mias_folder):
    folder = mias_folder()
    (folder / "MDB001.PGM").write_bytes(b"P5\n4 2\n255\n" + bytes(8))
    with pytest.raises(UnreadableImageError, match=r"MDB001.PGM must have 1024 x 1024 .* but has 2 x 4"):
        by_id(scan(folder))["mdb001"].load()


def test_white_borders_are_no_breast(mias_folder):
    target = by_id(scan(mias_folder()))["mdb004"].load().target
    x0, _, width, _ = find_breast(target.pixels, target.bits).crop
    assert (x0, x0 + width) == pytest.approx((200, 700), abs=20)


def test_folders_that_are_no_dataset(mias_folder, tmp_path):
    with pytest.raises(NotADatasetError, match=r"no Info\.txt in"):
        scan(tmp_path / "nowhere")
    folder = mias_folder(numbers=range(0))
    with pytest.raises(NotADatasetError, match="no film like mdb001"):
        scan(folder)
    (folder / "Info.txt").write_text("only prose\nmdb001 is a film\n")
    with pytest.raises(NotADatasetError, match="no row like"):
        scan(folder)


def test_options_name_what_is_required():
    with pytest.raises(ConfigError, match="raw must be given: folder with Info"):
        mias.Options.of({})
    with pytest.raises(ConfigError, match=r"cohort: Input should be .* but got 'some'"):
        mias.Options.of({"raw": ".", "cohort": "some"})


@pytest.mark.parametrize(
    ("cohort", "benign", "malignant", "lesion_free"),
    [("all", 63, 52, 101), ("mass", 36, 20, 51), ("mixed", 57, 43, 87)],
)
def test_counts_of_the_real_films(real, cohort, benign, malignant, lesion_free):
    counts = scan(real, cohort).counts
    assert counts["films in Info.txt"] == 322
    assert (counts["benign"], counts["malignant"]) == (benign, malignant)
    assert counts["with a lesion-free reference"] == lesion_free


def test_real_breasts_are_found_with_their_lesions(real):
    """White borders (131-150, 274, 280), several findings, and the one annotation that lies on air (212)."""
    records = by_id(scan(real))
    for number in (1, 5, 132, 145, 148, 150, 212, 226, 274):
        record = records[f"mdb{number:03d}"]
        films = record.load()
        prepared = prepare(*films.target, 224, record.boxes)
        prepare(*films.reference, 224)
        _, _, width, height = prepared.crop
        assert 0.15 < width * height / 1024**2 < 0.95
        assert len(prepared.boxes) == (0 if number == 212 else len(record.boxes))
        for cached in prepared.boxes:
            left, top, right, bottom = np.round(cached).astype(int)
            assert prepared.pixels[top:bottom, left:right].mean() > 30
