import csv
import runpy
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from cgn.data.breast import prepare
from cgn.data.datasets import cbis
from cgn.errors import NotADatasetError, UnreadableImageError

TREE = runpy.run_path(str(Path(__file__).with_name("cbis_tree.py")))
write, TABLE = TREE["write"], TREE["TABLE"]


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    monkeypatch.setenv("CGN_KEY_FILE", str(tmp_path / "key"))


def scan(raw, **options):
    return cbis.scan(cbis.Options.of({"raw": raw, **options}))


def test_only_films_with_a_finding_on_both_sides_are_pairs(tmp_path):
    result = scan(write(tmp_path))
    assert [(r.view, r.side, r.label) for r in result.records] == [
        ("CC", "L", 1),
        ("CC", "R", 0),
        ("MLO", "L", 0),
        ("MLO", "R", 1),
    ]
    assert all(record.reference_has_lesion for record in result.records)
    assert result.notes == (cbis.PRIOR,)
    assert result.counts["labelled benign or malignant"] == 5
    assert result.counts["of these without a contralateral image"] == 1
    assert result.missing == ("the films of 1 images in the tables are not in the folder",)


def test_a_film_with_two_findings_has_the_worse_label(tmp_path):
    first = scan(write(tmp_path)).records[0]
    assert first.kinds == ("calcification", "mass")
    assert first.label == 1


def test_women_are_taken_from_the_table_not_from_the_files(tmp_path):
    records = scan(write(tmp_path)).records
    assert records[0].patient_id == records[1].patient_id != records[2].patient_id


def test_boxes_are_those_of_the_masks(tmp_path):
    root = write(tmp_path)
    boxes = [record.boxes for record in scan(root).records]
    assert boxes == [((80, 110, 95, 130), (40, 60, 70, 100)), (), ((40, 60, 70, 100),), ()]
    before = scan(root).files
    (mask,) = (root / "CBIS-DDSM" / "Mass-Training_P_00002_LEFT_MLO_1").rglob("mask.dcm")
    mask.unlink()
    result = scan(root)
    assert result.records[2].boxes == ()
    assert set(result.files) < set(before)


def test_a_mask_that_cannot_be_read_is_counted_and_costs_its_box_alone(tmp_path):
    root = write(tmp_path)
    (mask,) = (root / "CBIS-DDSM" / "Mass-Training_P_00002_LEFT_MLO_1").rglob("mask.dcm")
    mask.write_bytes(mask.read_bytes()[:-100])
    result = scan(root)
    assert [len(record.boxes) for record in result.records] == [2, 0, 0, 0]
    assert result.notes == ("1 masks cannot be read: their findings have no box", cbis.PRIOR)


def films_and_masks(root):
    return sorted((root / "CBIS-DDSM").rglob("*.dcm"))


def rescan(root, cohort="mixed"):
    """The boxes of the records, and the notes beside the one on the prior."""
    result = scan(root, cohort=cohort)
    assert (len(result.records), result.counts["images"]) == (4, 5)
    return [record.boxes for record in result.records], result.notes[:-1]


def test_files_that_a_mac_leaves_beside_others_are_ignored(tmp_path):
    root = write(tmp_path)
    boxes, _ = rescan(root)
    for path in (*films_and_masks(root), root / "mass_case_description_train_set.csv"):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7" + b"\0" * 400)
    assert rescan(root) == (boxes, ("12 hidden files (._ and others) are ignored",))


@pytest.mark.parametrize("ending", ["", ".DCM", ".dicom", ".ima"])
def test_files_with_another_ending_or_none_are_found(tmp_path, ending):
    root = write(tmp_path)
    boxes, notes = rescan(root)
    for path in films_and_masks(root):
        path.rename(path.with_suffix(ending))
        path.with_name("notes.txt").write_text("no film")
    assert rescan(root) == (boxes, notes)


def test_a_second_download_is_ignored(tmp_path):
    root = write(tmp_path)
    boxes, _ = rescan(root)
    count = len(films_and_masks(root))
    shutil.copytree(root / "CBIS-DDSM", root / "CBIS-DDSM (1)")
    table = root / "mass_case_description_train_set.csv"
    shutil.copy(table, table.with_name("mass_case_description_train_set (1).csv"))
    assert rescan(root) == (boxes, (f"{count} files are copies of others and are ignored",))
    film = next((root / "CBIS-DDSM (1)" / "Mass-Training_P_00003_LEFT_CC").rglob("*.dcm"))
    dataset = pydicom.dcmread(film)
    dataset.Laterality = "R"
    dataset.save_as(film)
    assert "the films of 1 images in the tables have several different files" in scan(root).missing


def reshape(root, change):
    """Changes the pixels of the mask of the second woman's finding."""
    (path,) = (root / "CBIS-DDSM" / "Mass-Training_P_00002_LEFT_MLO_1").rglob("mask.dcm")
    TREE["SAVE"](path, change(pydicom.dcmread(path).pixel_array), 8)


@pytest.mark.parametrize(
    ("change", "box"),
    [
        (lambda mask: np.pad(mask, ((0, 4), (0, 3))), (40, 60, 70, 100)),
        (lambda mask: mask[:-4, :-3], (40, 60, 70, 100)),
        (lambda mask: np.repeat(np.repeat(mask, 2, 0), 2, 1), (40, 60, 70, 100)),
        (lambda mask: mask[::2, ::2], (40, 60, 70, 100)),
    ],
)
def test_a_mask_of_another_size_than_its_film_keeps_its_box(tmp_path, change, box):
    root = write(tmp_path)
    reshape(root, change)
    boxes, notes = rescan(root)
    assert boxes[2] == (box,)
    assert notes == ("1 masks are larger or smaller than their film: their boxes are fitted to it",)


def test_a_mask_that_fits_no_film_is_noted(tmp_path):
    root = write(tmp_path)
    reshape(root, lambda mask: mask[:, :100])
    boxes, notes = rescan(root)
    assert boxes[2] == ()
    assert notes == ("1 findings have no mask that fits their film, and no box",)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_that_programs_have_converted_are_read(tmp_path, encoding, delimiter):
    root = write(tmp_path)
    expected = rescan(root)
    path = root / "mass_case_description_train_set.csv"
    text = path.read_text("utf-8").replace("P_00001,2", "P_00001,\xe9").replace(",", delimiter)
    path.write_bytes(text.encode(encoding))
    assert rescan(root) == expected


def test_missing_films_are_counted_each(tmp_path):
    root = write(tmp_path)
    for woman in (1, 3):
        for folder in (root / "CBIS-DDSM").glob(f"*P_0000{woman}_*"):
            shutil.rmtree(folder)
    result = scan(root)
    assert result.missing == ("the films of 4 images in the tables are not in the folder",)
    assert result.missing_films == 4


def test_masses_alone(tmp_path):
    result = scan(write(tmp_path), cohort="mass")
    assert result.name == "cbis-mass"
    assert len(result.records) == 4
    assert result.records[0].kinds == ("mass",)
    assert result.records[0].label == 0


def test_the_chest_wall_is_found_by_the_shape(tmp_path):
    for record in scan(write(tmp_path)).records:
        target, reference, _ = record.load()
        assert target.chest_wall is reference.chest_wall is None
        assert prepare(*target, 64, record.boxes).chest_wall != prepare(*reference, 64).chest_wall


def test_nothing_raw_is_returned(tmp_path):
    result = scan(write(tmp_path))
    text = repr((result.files, result.missing, result.notes, result.counts)) + "".join(
        repr((r.pair_id, r.patient_id, r.study_id, r.films)) for r in result.records
    )
    assert "P_0" not in text


def test_a_bad_film_costs_one_pair(tmp_path):
    root = write(tmp_path)
    (film,) = (root / "CBIS-DDSM" / "Mass-Training_P_00001_RIGHT_CC").rglob("*.dcm")
    film.write_bytes(b"no DICOM")
    records = scan(root).records
    assert len(records) == 4
    with pytest.raises(UnreadableImageError):
        records[0].load()
    records[2].load()


def test_a_film_whose_tags_contradict_the_table_is_refused(tmp_path):
    root = write(tmp_path)
    (film,) = (root / "CBIS-DDSM" / "Mass-Training_P_00001_RIGHT_CC").rglob("*.dcm")
    for tags in ({"PatientOrientation": "MLO"}, {"Laterality": "L"}):
        dataset = pydicom.dcmread(film)
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.save_as(film)
        with pytest.raises(UnreadableImageError, match="but its tags say"):
            scan(root).records[0].load()


def test_folders_that_are_no_dataset(tmp_path):
    with pytest.raises(NotADatasetError, match=r"no \*_case_description_\*_set.csv in"):
        scan(tmp_path)
    path = tmp_path / "mass_case_description_train_set.csv"
    path.write_text("patient_id,pathology\n")
    with pytest.raises(NotADatasetError, match=r"must have the columns patient_id, .* but lacks"):
        scan(tmp_path)
    row = dict(zip(TREE["HEADER"], TABLE[0], strict=True)) | {"pathology": "UNSURE"}
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, TREE["HEADER"])
        writer.writeheader()
        writer.writerow(row)
    with pytest.raises(
        NotADatasetError, match=r"line \d: the side must be among LEFT, RIGHT and the pathology"
    ):
        scan(tmp_path)


def test_folders_of_films_and_masks_are_recognised():
    assert np.all([cbis.FOLDER.fullmatch(f"Mass-Training_P_00001_LEFT_CC{end}") for end in ("", "_1", "_12")])
    assert not cbis.FOLDER.fullmatch("1.000000-full mammogram images-24515")
