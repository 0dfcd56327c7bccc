"""Every module of `cgn.data.datasets` passes these tests, on a small data set that its maker writes."""

import csv
import os
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest

from cgn.data import datasets
from cgn.data.breast import prepare
from cgn.errors import ConfigError, NotADatasetError

TREES = Path(__file__).parents[1] / "cgn" / "data" / "datasets"


def make_cbis(folder):
    return {"raw": runpy.run_path(str(TREES / "cbis_tree.py"))["write"](folder)}


def make_inbreast(folder):
    return {"raw": runpy.run_path(str(TREES / "inbreast_tree.py"))["write"](folder)}


def make_manifest(folder):
    """The films of the small INbreast, listed in a table."""
    root = make_inbreast(folder)["raw"]
    with (folder / "films.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("image", "patient", "laterality", "view", "label", "kinds", "boxes"))
        for path in sorted((root / "AllDICOMs").glob("[0-9]*.dcm")):
            number, woman, _, side, view, _ = path.stem.split("_")
            label = ("benign", "malignant", "normal")[int(number) % 3]
            writer.writerow((path.relative_to(folder), woman, side, view, label, "mass", "60 130 101 171"))
    return {"file": folder / "films.csv"}


def make_mias(folder):
    return {"raw": runpy.run_path(str(TREES / "mias_tree.py"))["write"](folder)}


def make_phantom(folder):
    return {"pairs": 6}


MAKERS = {
    name.removeprefix("make_"): make for name, make in list(globals().items()) if name.startswith("make_")
}
PATHS = {
    name: [key for key, field in datasets.load(name).Options.model_fields.items() if field.annotation is Path]
    for name in datasets.names()
}


@pytest.fixture(scope="module", autouse=True)
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("key") / "key"
    path.touch(0o600)
    path.write_text("of the tests " * 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CGN_KEY_FILE", str(path))
        yield


@pytest.fixture(scope="module", params=datasets.names())
def rescan(request, tmp_path_factory):
    """Scans the small data set."""
    options = MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    module = datasets.load(request.param)
    return lambda: module.scan(module.Options.of(options), 64)


@pytest.fixture(scope="module")
def scan(rescan):
    return rescan()


def test_every_dataset_has_a_maker():
    assert sorted(MAKERS) == datasets.names()


@pytest.mark.parametrize("name", datasets.names())
def test_options_are_described(name):
    options = datasets.load(name).Options
    assert issubclass(options, datasets.DatasetOptions)
    assert options.__doc__
    assert all(field.description for field in options.model_fields.values())
    with pytest.raises(ConfigError, match="no option 'colour'; the options are"):
        options.of({"colour": 1, **dict.fromkeys(PATHS[name], ".")})


@pytest.mark.parametrize("name", datasets.names())
def test_no_path_of_this_machine_is_content(name):
    options = datasets.load(name).Options.of(dict.fromkeys(PATHS[name], "/some/where"))
    assert not any(isinstance(value, Path) or "/some" in str(value) for value in options.content().values())


@pytest.mark.parametrize("name", [name for name in datasets.names() if PATHS[name]])
def test_a_missing_path_is_an_error_that_names_it(name, tmp_path):
    module = datasets.load(name)
    with pytest.raises(NotADatasetError) as caught:
        module.scan(module.Options.of(dict.fromkeys(PATHS[name], tmp_path / "nowhere")), 64)
    assert "nowhere" in str(caught.value)


def test_the_error_for_an_unknown_dataset_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"no 'ddsm' among the datasets: take one of .*mias.*phantom"):
        datasets.load("ddsm")


def test_records_are_well_formed(scan):
    assert scan.records
    assert len({record.pair_id for record in scan.records}) == len(scan.records)
    assert {record.label for record in scan.records} == {0, 1}
    assert {record.side for record in scan.records} == {"L", "R"}
    assert all(record.kinds and record.view for record in scan.records)
    assert scan.files or scan.name == "phantom"  # drawn, not read
    assert all(len(file.sha256) == 64 and "/" not in file.name for file in scan.files)
    assert scan.counts["targets"] == len(scan.records)


def test_records_name_their_films_and_are_picklable(scan):
    names = {file.name for file in scan.files} | {""}
    for record in scan.records:
        assert set(record.films) <= names
        assert pickle.loads(pickle.dumps(record.load)).func is record.load.func  # noqa: S301 - our own


def test_a_scan_is_reproducible_and_another_key_changes_only_pseudonyms(scan, rescan, tmp_path, monkeypatch):
    def facts(scanned, *names):
        return [tuple(getattr(record, name) for name in names) for record in scanned.records]

    ids = ("pair_id", "patient_id", "study_id", "films")
    rest = ("view", "side", "label", "kinds", "boxes")
    again = rescan()
    assert (facts(again, *ids), again.files) == (facts(scan, *ids), scan.files)
    monkeypatch.setenv("CGN_KEY_FILE", str(tmp_path / "key"))
    other = rescan()
    assert facts(other, *rest) == facts(scan, *rest)
    assert (other.key_id != scan.key_id) == bool(scan.key_id)
    if scan.key_id:
        assert not {name for record in facts(other, *ids[:2]) for name in record} & {
            name for record in facts(scan, *ids[:2]) for name in record
        }


@pytest.fixture(scope="module", params=datasets.names())
def find_healthy(request, tmp_path_factory):
    """Lists the healthy films of the small data set, and its scan."""
    module = datasets.load(request.param)
    if not hasattr(module, "healthy_films"):
        pytest.skip(f"{request.param} does not know which films are healthy")
    options = module.Options.of(MAKERS[request.param](tmp_path_factory.mktemp(request.param)))
    return lambda: (module.healthy_films(options, 64), module.scan(options, 64))


def test_which_datasets_know_healthy_films():
    known = [name for name in datasets.names() if hasattr(datasets.load(name), "healthy_films")]
    assert known == ["inbreast", "manifest", "mias", "phantom"]  # every film of cbis has a finding


def test_healthy_films_are_well_formed(find_healthy):
    films, scan = find_healthy()
    assert films
    assert len({film.film_id for film in films}) == len(films)
    assert {film.side for film in films} == {"L", "R"}
    assert all(film.view and film.patient_id for film in films)
    assert any(film.no_finding for film in films)
    assert all(film.no_finding or film.no_cohort_finding for film in films)
    targets = {record.films[0] for record in scan.records} - {""}
    assert not targets & {film.film.name for film in films if film.film}
    assert all(len(film.film.sha256) == 64 and "/" not in film.film.name for film in films if film.film)
    records = {record.pair_id: record for record in scan.records}
    references = [film for film in films if film.reference_of]
    assert references
    for film in references:
        record = records[film.reference_of]
        assert (film.patient_id, film.view) == (record.patient_id, record.view)
        assert film.side != record.side
        assert record.films[1] == (film.film.name if film.film else "")


def test_healthy_films_can_be_prepared_and_are_picklable(find_healthy):
    films, _ = find_healthy()
    for film in films[:6]:
        image = prepare(*pickle.loads(pickle.dumps(film.load))(), 64)  # noqa: S301 - our own
        assert image.pixels.shape == (64, 64)


def test_healthy_films_are_reproducible_and_another_key_changes_only_pseudonyms(
    find_healthy, tmp_path, monkeypatch
):
    def facts(films, *names):
        return [tuple(getattr(film, name) for name in names) for film in films]

    ids = ("film_id", "patient_id", "study_id", "film", "reference_of")
    rest = ("view", "side", "no_finding", "no_cohort_finding")
    (films, scan), (again, _) = find_healthy(), find_healthy()
    assert facts(again, *ids) == facts(films, *ids)
    monkeypatch.setenv("CGN_KEY_FILE", str(tmp_path / "key"))
    other, _ = find_healthy()
    assert facts(other, *rest) == facts(films, *rest)
    if scan.key_id:
        names = {name for film in facts(films, "film_id", "patient_id") for name in film}
        assert not names & {name for film in facts(other, "film_id", "patient_id") for name in film}


def test_the_healthy_films_of_real_mias():
    folder = os.environ.get("CGN_MIAS_DIR")
    if not folder:
        pytest.skip("CGN_MIAS_DIR does not name a folder with mini-MIAS")
    module = datasets.load("mias")
    options = module.Options.of({"raw": folder})
    films = module.healthy_films(options, 64)
    assert len(films) == 207
    assert sum(bool(film.reference_of) for film in films) == 101
    paired = {name for record in module.healthy(options, 64) for name in record.films}
    assert len(paired) == 106
    assert paired <= {film.film.name for film in films}


def test_films_fit_their_records_and_can_be_prepared(scan):
    for record in scan.records[:6]:
        check(record)


def test_real_mias_films_too():
    folder = os.environ.get("CGN_MIAS_DIR")
    if not folder:
        pytest.skip("CGN_MIAS_DIR does not name a folder with mini-MIAS")
    module = datasets.load("mias")
    for record in module.scan(module.Options.of({"raw": folder}), 64).records[:6]:
        check(record)


def check(record):
    target, reference, counterfactual = record.load()
    rows, columns = target.pixels.shape
    for x0, y0, x1, y1 in record.boxes:
        assert 0 <= x0 < x1
        assert 0 <= y0 < y1
        assert x0 < columns
        assert y0 < rows
    prepared = prepare(*target, 64, record.boxes), prepare(*reference, 64)
    assert prepared[0].chest_wall != prepared[1].chest_wall
    assert all(image.pixels.shape == (64, 64) and image.pixels.dtype == np.uint8 for image in prepared)
    assert counterfactual is None or counterfactual.pixels.shape == target.pixels.shape
