import csv
import os
import plistlib
import runpy
from pathlib import Path

import pydicom
import pytest

from cgn.data.breast import Preprocessing, prepare
from cgn.data.cache import open_cache, write_cache
from cgn.data.datasets import inbreast
from cgn.data.folds import SplitPlan
from cgn.data.identity.pseudonym import open_pseudonyms
from cgn.errors import ConfigError, NotADatasetError, UnreadableImageError

TREE = runpy.run_path(str(Path(__file__).with_name("inbreast_tree.py")))
Row, write = TREE["Row"], TREE["write"]

BOMB = """<?xml version="1.0"?><!DOCTYPE plist [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>
<plist version="1.0"><dict><key>Images</key><array><string>&b;</string></array></dict></plist>"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The whole tree with films; tests only read it."""
    return write(tmp_path_factory.mktemp("inbreast"))


@pytest.fixture(scope="module", autouse=True)
def key(same_key):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGN_KEY_FILE", str(same_key))
        yield


def scan(raw, **options):
    return inbreast.scan(inbreast.Options.of({"raw": raw, **options}))


def pair(number):
    return open_pseudonyms().of("pair", str(number))


def by_number(result):
    names = {pair(row.number): row.number - 20000000 for row in TREE["TREE"]}
    return {names[record.pair_id]: record for record in result.records}


def test_targets_are_the_images_of_the_cohort_that_have_another_side(root):
    assert list(by_number(scan(root))) == [100, 154, 254, 300, 330, 350, 500, 527, 950]
    assert list(by_number(scan(root, cohort="mixed"))) == [
        100,
        154,
        254,
        300,
        330,
        350,
        500,
        527,
        600,
        700,
        950,
    ]
    assert list(by_number(scan(root, cohort="all")))[-3:] == [700, 727, 950]


def test_the_parent_folder_is_accepted(root):
    assert scan(root.parent).counts == scan(root).counts


def test_counts_account_for_all_images(root):
    assert scan(root).counts == {
        "images in the table": 23,
        "films in the folder": 21,
        "images of the cohort": 13,
        "of these without a film": 1,
        "without a contralateral film": 3,
        "targets": 9,
        "benign": 4,
        "malignant": 5,
        "women": 5,
        "with a lesion-free reference": 4,
        "without a location": 1,
    }


def test_birads_above_3_is_malignant(root):
    labels = {number: record.label for number, record in by_number(scan(root)).items()}
    assert labels == {100: 1, 154: 1, 254: 1, 300: 1, 330: 0, 350: 0, 500: 0, 527: 1, 950: 0}


def test_another_study_is_used_only_on_request(root):
    records = by_number(scan(root, pairing="any_study"))
    assert 200 in records
    assert records[200].patient_id == records[254].patient_id
    assert records[200].study_id != records[254].study_id
    assert records[100].study_id == records[154].study_id


def test_of_several_candidates_the_nearest_number_is_used(root):
    result = scan(root)
    near, far = (by_number(result)[number].films[0] for number in (330, 300))
    assert by_number(result)[350].films[1] == near != far
    assert (
        f"{pair(20000350)}: 2 films of the other side; the one with the nearest file number is used"
        in result.notes
    )
    assert sum("films of the other side" in note for note in result.notes) == 1


def test_boxes_are_those_of_the_cohorts_outlines(root):
    mass, mixed = by_number(scan(root)), by_number(scan(root, cohort="mixed"))
    assert mass[100].boxes == ((60, 130, 101, 171),)  # drawn twice
    assert mass[154].boxes == ((50, 140, 91, 181),)  # points off the film
    assert mass[330].boxes == ()  # unnamed, or a single point
    assert mixed[600].boxes == ((50, 130, 91, 171),)  # the cluster, not its calcifications
    assert mass[254].boxes
    assert (mass[100].kinds, mixed[100].kinds) == (("mass",), ("mass", "calcification"))
    assert by_number(scan(root, cohort="all"))[727].kinds == ("asymmetry",)


def test_left_breasts_have_their_chest_wall_on_the_left(root):
    for record in scan(root).records:
        films = record.load()
        walls = ("left", "right") if record.side == "L" else ("right", "left")
        assert (films.target.chest_wall, films.reference.chest_wall) == walls
        assert films.target.bits == 14
        assert films.target.pixels.shape in (TREE["SMALL"], TREE["LARGE"])
        assert len(prepare(*films.target, 64, record.boxes).boxes) == len(record.boxes)
        prepare(*films.reference, 64)


def test_without_the_xls_the_kinds_are_those_of_the_outlines(tmp_path):
    result = scan(write(tmp_path, xls=False, pixels=False), cohort="all")
    assert {r.pair_id: r.kinds for r in result.records}[pair(20000700)] == ("distortion",)
    assert result.counts["images of the cohort"] == 15
    assert result.files[0].name == "INbreast.csv"


def test_missing_films_are_listed(root):
    result = scan(root)
    assert result.missing == (
        f"{pair(20000854)}: a target without a film in AllDICOMs",
        "the films of 1 images that could be references",
    )
    assert result.missing_films == 2
    assert "1 outlines of pectoral muscles (_muscle.xml) are no lesions" in result.notes


def test_missing_references_are_counted_each(tmp_path):
    root = write(tmp_path, pixels=False)
    wanted = {f"20000{number}" for number in by_number(scan(root))}
    references = [path for path in sorted((root / "AllDICOMs").iterdir()) if path.name[:8] not in wanted]
    for path in references[:3]:  # the table lists two of them
        path.unlink()
    result = scan(root)
    assert result.missing[1:] == ("the films of 3 images that could be references",)
    assert result.missing_films == 4


def test_nothing_raw_is_returned(root):
    result = scan(root, cohort="all", pairing="any_study")
    text = repr((result.files, result.missing, result.notes, result.counts)) + "".join(
        repr((r.pair_id, r.patient_id, r.study_id, r.films)) for r in result.records
    )
    for row in TREE["TREE"]:
        assert str(row.number) not in text
        assert row.woman not in text


def test_a_bad_film_or_annotation_costs_no_other(tmp_path):
    root = write(tmp_path)
    (film,) = (root / "AllDICOMs").glob("20000154_*")
    film.write_bytes(film.read_bytes()[:20000])
    (root / "AllXML" / "20000500.xml").write_text(BOMB)
    (root / "AllXML" / "20000527.xml").write_bytes(plistlib.dumps({"ROIPoints": []}))
    (root / "AllXML" / "20000254.xml").write_bytes(
        (root / "AllXML" / "20000254.xml").read_bytes().replace(b"Espiculated Region", b"Marble")
    )
    result = scan(root)
    records = by_number(result)
    assert len(records) == 9
    assert records[500].boxes == records[527].boxes == records[254].boxes == ()
    assert (
        f"{pair(20000500)}: no outlines, since its XML must be an OsiriX list of regions of interest"
        in result.notes
    )
    assert f"{pair(20000254)}: 1 regions with unknown names are ignored" in result.notes
    with pytest.raises(UnreadableImageError) as caught:
        records[154].load()
    assert caught.value.role == "target"
    assert "20000154" not in str(caught.value)
    records[100].load()


def test_a_film_whose_name_contradicts_the_table_is_ignored(tmp_path):
    root = write(tmp_path, pixels=False)
    (film,) = (root / "AllDICOMs").glob("20000127_*")
    film.rename(film.with_name(film.name.replace("_R_CC_", "_R_ML_")))
    result = scan(root)
    assert 100 not in by_number(result)
    assert f"{pair(20000127)}: the name of its film has another side or view than the table" in result.missing


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"ViewPosition": "CC"}, "must be of view ML or MLO but its tags say CC"),
        ({"ViewPosition": "ML"}, None),  # as INbreast calls MLO
        ({"ViewPosition": "MLO"}, None),
        ({"PatientOrientation": ["F", "A"]}, "the film is turned"),
        ({"PatientOrientation": ["P", "L"], "ImageLaterality": "L"}, "the film is turned"),
    ],
)
def test_a_film_whose_tags_contradict_the_table_is_refused(tmp_path, tags, message):
    root = write(tmp_path)
    record = next(record for record in scan(root).records if (record.view, record.side) == ("MLO", "L"))
    target = record.load.args[0]
    dataset = pydicom.dcmread(target.content)
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(target.content)
    if message is None:
        assert record.load().target.bits == 14
    else:
        with pytest.raises(UnreadableImageError, match=message) as caught:
            record.load()
        assert caught.value.role == "target"


def test_folders_that_are_no_dataset(tmp_path):
    with pytest.raises(NotADatasetError, match=r"no AllDICOMs in .*inbreast needs the folder"):
        scan(tmp_path)
    root = write(tmp_path, xls=False, csv=False, pixels=False)
    with pytest.raises(NotADatasetError, match=r"neither INbreast\.xls nor INbreast\.csv"):
        scan(root)
    (root / "INbreast.csv").write_text("File Name;Laterality\n")
    with pytest.raises(NotADatasetError, match="lacks view, acquisition date, bi-rads"):
        scan(root)
    (root / "INbreast.csv").write_text(f"{TREE['HEADER']}\n\n;;;;;Total;;\n")
    with pytest.raises(NotADatasetError, match="no row with a file number"):
        scan(root)
    (root / "INbreast.csv").write_text(f"{TREE['HEADER']}\n\n;;L;CC;201001;20000100;2;\n")
    with pytest.raises(NotADatasetError, match=r"line 3: must have L or R, .* but has 'L', '201001' and ''"):
        scan(root)
    (root / "INbreast.xls").write_bytes(b"no workbook")
    with pytest.raises(NotADatasetError, match="must be an XLS workbook with a 'Sheet1'"):
        scan(root)


def test_a_setting_of_the_paper_selects_the_cohort(root):
    for name in "abc":
        options = inbreast.Options.of({"raw": root, "setting": name})
        assert options.cohort == inbreast.COHORT_OF_SETTING[name]
        assert options.content() == {"cohort": options.cohort, "pairing": "same_study"}
    with pytest.raises(ConfigError, match=r"^setting c is the cohort mixed: give one of the two$"):
        inbreast.Options.of({"raw": root, "setting": "c", "cohort": "mass"})


def test_a_cache_can_be_made_of_it(root, tmp_path):
    options = inbreast.Options.of({"raw": root, "setting": "a"})
    report = write_cache("inbreast", options, Preprocessing(32), SplitPlan(3), out=tmp_path / "cache")
    assert not report.rejected
    pairs = open_cache(report.path)
    assert len(pairs) == report.counts["targets"] == 9
    assert pairs.target[:, :, :4].mean() > pairs.target[:, :, -4:].mean()  # chest walls on the left
    assert len(pairs.healthy) == report.counts["healthy films"] == 9
    assert pairs.healthy.image[:, :, :4].mean() > pairs.healthy.image[:, :, -4:].mean()


def test_healthy_films_are_of_birads_1_or_without_a_flag_of_the_cohort(root, tmp_path):
    def numbers(folder, **options):
        films = inbreast.healthy_films(inbreast.Options(raw=folder, **options))
        return [(int(film.load.args[0].content.name[:8]), film.no_finding) for film in films]

    normal = [20000127, 20000181, 20000627, 20000977]
    others = [20000227, 20000600, 20000700, 20000727, 20000900]
    assert numbers(root) == sorted([(n, True) for n in normal] + [(n, False) for n in others])
    assert [n for n, healthy in numbers(root, cohort="all") if not healthy] == [20000227]
    # The CSV has no flags: only BI-RADS 1 says that there is no finding.
    assert numbers(write(tmp_path, xls=False)) == [(n, True) for n in normal]


def test_healthy_films_are_references_of_the_same_pairs(root):
    records = {record.pair_id: record for record in scan(root).records}
    films = inbreast.healthy_films(inbreast.Options(raw=root))
    references = [film for film in films if film.reference_of]
    assert references
    for film in references:
        assert records[film.reference_of].films[1] == film.film.name
        assert records[film.reference_of].patient_id == film.patient_id


# ------------------------------------------------------------------------------------------- the real one


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("CGN_INBREAST_DIR")
    if not folder:
        pytest.skip("CGN_INBREAST_DIR does not name a folder with INbreast's tables")
    return Path(folder)


def test_the_real_table(real):
    _, rows = inbreast.read_table(real)
    assert len(rows) == 410
    assert sum(row.malignant for row in rows.values()) == 100
    assert {row.view for row in rows.values()} == {"CC", "MLO", "FB"}
    assert all(row.month for row in rows.values())


@pytest.fixture(scope="module")
def rebuilt(real, tmp_path_factory):
    """The real structure and layout without pixels; a few patients are inferred, eight are unknown."""
    with (real / "inbreast_structure.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    columns = {"M": "mass", "C": "micros", "D": "distortion", "A": "asymmetry"}
    women = {line["patient_hash"] for line in lines}
    unknown = {name: f"{k:016x}" for k, name in enumerate(sorted(women)) if len(name) != 16}
    rows = [
        Row(
            int(line["file_name"]),
            unknown.get(line["patient_hash"], line["patient_hash"]),
            line["laterality"],
            line["view"],
            line["bi_rads"],
            int(line["acquisition_date"]),
            "".join(letter for letter, column in columns.items() if line[column] == "1"),
        )
        for line in lines
    ]
    return write(tmp_path_factory.mktemp("real"), rows, pixels=False)


def test_pairs_of_the_real_structure(rebuilt):
    same, any_study = (scan(rebuilt, pairing=p).counts for p in ("same_study", "any_study"))
    assert same["images of the cohort"] == 108
    assert same["targets"] == pytest.approx(90, abs=2)
    assert any_study["targets"] == pytest.approx(92, abs=2)
    assert same["benign"] + same["malignant"] == same["targets"]
    assert scan(rebuilt, cohort="mixed").counts["images of the cohort"] > 300
