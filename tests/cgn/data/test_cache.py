import csv
import dataclasses
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from cgn import sealed
from cgn.data import cache, cache_shards
from cgn.data.breast import Preprocessing, find_breast, prepare
from cgn.data.cache import open_cache, open_splits, write_cache
from cgn.data.datasets import mias, phantom
from cgn.data.folds import FIVE_FOLDS, SplitPlan, splits_fingerprint
from cgn.data.records import Rejection
from cgn.errors import CacheError, ConfigError, NotADatasetError

SIZE = 32
DIVISION = SplitPlan(parts=(8, 1, 1))


def phantoms(folder, pairs=20, *, size=SIZE, background="keep", plan=FIVE_FOLDS, healthy=True, **more):
    options = phantom.Options(pairs=pairs, healthy=healthy)
    return write_cache("phantom", options, Preprocessing(size, background), plan, **{"out": folder, **more})


def mammograms(raw, **where):
    return write_cache("mias", mias.Options(raw=raw), Preprocessing(SIZE), SplitPlan(3), **where)


MIAS = runpy.run_path(str(Path(__file__).parent / "datasets" / "mias_tree.py"))
SIXTEEN = {"numbers": range(1, 17), "table": MIAS["TABLE"] + "mdb016 G NORM\n"}
"""Another woman, of whom one film is known to be normal and the other is not listed."""


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    return phantoms(tmp_path_factory.mktemp("caches") / "phantoms")


@pytest.fixture
def copy(written, tmp_path):
    """A copy of the cache, to be damaged."""
    return Path(shutil.copytree(written.path, tmp_path / "copy"))


def test_what_is_written_is_read(written):
    pairs = open_cache(written.path)
    records = phantom.scan(phantom.Options(pairs=20), SIZE).records
    assert written.fresh
    assert (len(pairs), pairs.size, pairs.name) == (20, SIZE, "phantom")
    assert pairs.fingerprint == written.fingerprint
    assert list(pairs.pair_id) == [r.pair_id for r in records]
    assert list(pairs.label) == [r.label for r in records]
    assert list(pairs.side) == [r.side for r in records]
    assert pairs.kinds[1] == ("spiculated",)
    films = records[3].load()
    region = find_breast(films.target.pixels, films.target.bits)
    target = prepare(*films.target, SIZE, records[3].boxes, region)
    np.testing.assert_array_equal(pairs.target[3], target.pixels)
    np.testing.assert_array_equal(pairs.reference[3], prepare(*films.reference, SIZE).pixels)
    np.testing.assert_array_equal(
        pairs.counterfactual[3], prepare(*films.counterfactual, SIZE, region=region).pixels
    )
    assert pairs.boxes[3] == target.boxes
    assert tuple(pairs.target_crop[3]) == target.crop


def test_the_columns_of_a_shard(written):
    facts = {"pair_id", "patient_id", "study_id", "view", "side", "label"}
    facts |= {"kinds", "boxes", "reference_has_lesion"}
    pixels = {"target", "reference", "counterfactual", "target_crop", "reference_crop"}
    assert set(pq.read_schema(written.path / "pairs-00000.parquet").names) == facts | pixels


def test_arrays_are_read_only(written):
    pairs = open_cache(written.path)
    for array in (pairs.target, pairs.reference, pairs.counterfactual, pairs.label, pairs.target_crop):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_several_shards_read_as_one(tmp_path, written, monkeypatch):
    monkeypatch.setattr(cache_shards, "SHARD", 7)
    report = phantoms(tmp_path / "shards")
    assert len(list(report.path.glob("pairs-*.parquet"))) == 3
    np.testing.assert_array_equal(open_cache(report.path).target, open_cache(written.path).target)
    assert len(list(report.path.glob("healthy-*.parquet"))) == 9
    healthy = (open_cache(path).healthy for path in (report.path, written.path))
    np.testing.assert_array_equal(*(films.image for films in healthy))


def test_healthy_films_are_those_of_the_data_set(written):
    pairs = open_cache(written.path)
    films, records = pairs.healthy, phantom.healthy_films(phantom.Options(pairs=20), SIZE)
    assert len(films) == len(records) == written.counts["healthy films"] == 60
    for name in ("film_id", "patient_id", "view", "side", "no_finding", "no_cohort_finding"):
        assert getattr(films, name).tolist() == [getattr(record, name) for record in records]
    np.testing.assert_array_equal(films.image[:20], pairs.reference)  # read once
    np.testing.assert_array_equal(films.image[25], prepare(*records[25].load(), SIZE).pixels)
    assert set(films.patient_id[:20]) == set(pairs.patient_id)
    assert not set(films.patient_id[20:]) & set(pairs.patient_id)
    with pytest.raises(ValueError, match="read-only"):
        films.image[0] = 0


def test_the_columns_of_a_shard_of_healthy_films(written):
    facts = {"film_id", "patient_id", "study_id", "view", "side", "no_finding", "no_cohort_finding", "crop"}
    assert set(pq.read_schema(written.path / "healthy-00000.parquet").names) == facts | {"image"}


def test_with_and_without_healthy_films_are_two_caches(tmp_path, written):
    without = phantoms(tmp_path / "without", healthy=False)
    assert without.fingerprint != written.fingerprint
    assert open_cache(without.path).healthy is None
    assert "healthy films" not in without.counts
    np.testing.assert_array_equal(open_cache(without.path).target, open_cache(written.path).target)
    with pytest.raises(CacheError, match="holds another cache"):
        phantoms(written.path, healthy=False)


def test_a_changed_healthy_film_is_another_cache(mias_folder, tmp_path):
    raw = mias_folder(**SIXTEEN)
    first = mammograms(raw, caches=tmp_path)
    cv2.imwrite(str(raw / "mdb016.png"), cv2.imread(str(raw / "mdb016.png"), cv2.IMREAD_UNCHANGED) // 2)
    second = mammograms(raw, caches=tmp_path)
    assert (first.counts["healthy films"], second.fresh) == (6, True)
    assert first.fingerprint != second.fingerprint
    assert not mammograms(raw, caches=tmp_path).fresh


def test_a_truncated_healthy_film_is_named_and_costs_no_pair(mias_folder, tmp_path):
    raw = mias_folder(**SIXTEEN)
    (raw / "mdb016.png").write_bytes(b"no film")
    report = mammograms(raw, out=tmp_path / "m")
    assert (report.counts["cached"], report.counts["rejected"], report.counts["healthy films"]) == (9, 0, 5)
    ((name, role, file, *_),) = report.rejected
    assert (name, role, file) == ("mdb016", "healthy", "mdb016.png")
    assert "mdb016" in report.quarantine.read_text()
    assert "mdb016" not in open_cache(report.path).healthy.film_id


def test_a_second_call_does_no_work(written, monkeypatch):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(cache, "prepare_pairs", never)
    before = {p.name: p.stat().st_mtime_ns for p in written.path.iterdir()}
    again = phantoms(written.path)
    assert not again.fresh
    assert again.fingerprint == written.fingerprint
    assert again.counts == written.counts
    assert before == {p.name: p.stat().st_mtime_ns for p in written.path.iterdir()}


def test_the_default_folder_is_named_by_the_content(tmp_path):
    def make(**more):
        return phantoms(None, 10, plan=SplitPlan(3), caches=tmp_path, **more)

    first, other = make(), make(size=40)
    assert first.path.name == f"phantom-32-{first.fingerprint[:12]}"
    assert first.path.parent == tmp_path
    assert other.path.name.startswith("phantom-40-")
    assert len({first.fingerprint, other.fingerprint, make(background="mask").fingerprint}) == 3
    assert not make().fresh


def test_writing_twice_gives_the_same_bytes(tmp_path, written):
    again = phantoms(tmp_path / "again")
    for path in written.path.iterdir():
        assert path.read_bytes() == (again.path / path.name).read_bytes()


def test_a_changed_film_is_another_cache(mias_folder, tmp_path):
    raw = mias_folder()

    def make():
        return mammograms(raw, caches=tmp_path)

    first = make()
    cv2.imwrite(str(raw / "mdb002.png"), cv2.imread(str(raw / "mdb002.png"), cv2.IMREAD_UNCHANGED) // 2)
    second = make()
    assert second.fresh
    assert second.fingerprint != first.fingerprint
    assert not make().fresh


def test_films_of_real_form(mias_folder, tmp_path):
    report = mammograms(mias_folder(), out=tmp_path / "m")
    pairs = open_cache(report.path)
    assert report.counts["cached"] == len(pairs) == 9
    assert pairs.counterfactual is None
    assert pairs.boxes[list(pairs.pair_id).index("mdb009")] == ()
    assert not any(str(tmp_path) in p.read_text("latin-1") for p in report.path.glob("*.json"))
    assert report.notes == ()


def test_a_truncated_film_costs_its_pairs_and_is_named(mias_folder, tmp_path):
    raw = mias_folder()
    content = (raw / "MDB005.PGM").read_bytes()
    (raw / "MDB005.PGM").write_bytes(content[:1000])
    report = mammograms(raw, out=tmp_path / "m")
    assert report.counts["cached"] == 7
    assert report.counts["rejected"] == 2
    assert [r.pair_id for r in report.rejected] == ["mdb005", "mdb006"]
    assert report.rejected[0].film == "MDB005.PGM"
    assert "the file is truncated" in report.rejected[0].message
    again = mammograms(raw, out=tmp_path / "m")
    assert (again.fresh, again.rejected) == (False, report.rejected)


def test_rejected_films_are_listed_beside_the_cache_for_its_owner_only(mias_folder, tmp_path):
    raw = mias_folder()
    (raw / "MDB005.PGM").write_bytes(cv2.imencode(".pgm", np.zeros((1024, 1024), np.uint8))[1].tobytes())
    report = mammograms(raw, out=tmp_path / "m")
    assert report.quarantine == tmp_path / "m.quarantine.csv"
    assert report.quarantine.stat().st_mode & 0o777 == 0o600
    with report.quarantine.open(newline="") as file:
        rows = [Rejection(*row) for row in list(csv.reader(file))[1:]]
    assert rows == list(report.rejected)
    assert [(r.pair_id, r.role, r.film, r.reason) for r in rows] == [
        ("mdb005", "target", "MDB005.PGM", "no_breast"),
        ("mdb006", "reference", "MDB005.PGM", "no_breast"),
    ]
    assert not list(tmp_path.glob("*.tmp"))


def test_a_cache_without_rejected_films_has_no_list(mias_folder, tmp_path):
    (tmp_path / "m.quarantine.csv").write_text("of an earlier run")
    report = mammograms(mias_folder(), out=tmp_path / "m")
    assert report.quarantine is None
    assert not (tmp_path / "m.quarantine.csv").exists()
    assert report.images_per_second > 0


def test_one_division_instead_of_folds(tmp_path):
    report = phantoms(tmp_path / "p", pairs=60, plan=DIVISION)
    pairs, (split,) = open_cache(report.path), open_splits(report.path)
    assert (split.fold, len(split.train), len(split.val), len(split.test)) == (0, 48, 6, 6)
    assert pairs.label[split.test].sum() == 3
    assert json.loads((report.path / "splits.json").read_text())["drawn"] == {"parts": [8, 1, 1], "seed": 0}
    assert not phantoms(tmp_path / "p", pairs=60, plan=DIVISION).fresh
    with pytest.raises(CacheError, match=r"parts 8:1:1 of seed 0 .* but 5 folds of seed 0 were requested"):
        phantoms(tmp_path / "p", pairs=60)


def test_companions_are_the_other_view_of_the_same_breast(tmp_path):
    options = phantom.Options(pairs=10, views=2)
    report = write_cache("phantom", options, Preprocessing(SIZE), SplitPlan(3), out=tmp_path / "p")
    pairs = open_cache(report.path)
    other = pairs.companion
    assert sorted(other) == list(range(20))
    assert (pairs.view[other] != pairs.view).all()
    for same in (pairs.patient_id, pairs.study_id, pairs.side, pairs.label):
        assert (same[other] == same).all()
    for split in open_splits(report.path):
        assert set(other[split.test]) == set(split.test)


def test_a_missing_or_ambiguous_companion_is_none(pairs):
    columns = {
        "patient_id": ["a", "a", "a", "b", "b", "c"],
        "study_id": ["1"] * 6,
        "view": ["MLO", "CC", "CC", "MLO", "CC", "CC"],
        "side": ["L", "L", "L", "L", "R", "L"],
    }
    six = {name: np.array(values) for name, values in columns.items()} | {"label": pairs.label[:6]}
    assert dataclasses.replace(pairs, **six).companion.tolist() == [-1, 0, 0, -1, -1, -1]
    assert set(pairs.companion) == {-1}


def test_nothing_is_written_if_nothing_can_be_read(mias_folder, tmp_path):
    raw = mias_folder(numbers=range(1, 2))
    with pytest.raises(NotADatasetError, match="no target with both films in the folder"):
        mammograms(raw, out=tmp_path / "m")
    mias_folder()
    for path in raw.glob("*.png"):
        path.write_bytes(b"no film")
    with pytest.raises(NotADatasetError, match=r"no pair of mias-all could be prepared.*mdb002\.png"):
        mammograms(raw, out=tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_folds_are_written_once(written):
    pairs, splits = open_cache(written.path), open_splits(str(written.path))
    assert len(splits) == 5
    assert sorted(np.concatenate([s.test for s in splits])) == list(range(20))
    stored = json.loads((written.path / "splits.json").read_text())
    assert stored["fingerprint"] == splits_fingerprint(pairs.pair_id, splits)
    assert stored["cache"] == pairs.fingerprint
    with pytest.raises(CacheError, match=r"5 folds of seed 0 .* written once, but 4 folds of seed 0"):
        phantoms(written.path, plan=SplitPlan(4))


def test_another_content_does_not_overwrite(written):
    with pytest.raises(CacheError, match="holds another cache"):
        phantoms(written.path, pairs=21)


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CacheError, match="holds something that is no cache"):
        phantoms(tmp_path)
    with pytest.raises(CacheError, match="holds something that is no cache"):
        phantoms(tmp_path / "thesis.txt")
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "empty").mkdir()
    assert phantoms(tmp_path / "empty").fresh


@pytest.mark.parametrize("verify", [True, False])
def test_a_flipped_bit_is_found(copy, verify):
    shard = copy / "pairs-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CacheError, match=r"pairs-00000\.parquet of the cache at .* is damaged"):
        open_cache(copy, verify=verify)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("keep", [0, 0.5, 0.999])
def test_a_truncated_shard_is_found(copy, keep, verify):
    shard = copy / "pairs-00000.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CacheError, match=r"pairs-00000\.parquet of the cache at .* is damaged"):
        open_cache(copy, verify=verify)


@pytest.mark.parametrize("name", ["pairs-00000.parquet", "splits.json"])
def test_a_missing_file_is_found(copy, name):
    (copy / name).unlink()
    with pytest.raises(CacheError, match=rf"{name} of the cache at .* is damaged \(missing\)"):
        open_cache(copy) and open_splits(copy)
    with pytest.raises(CacheError, match="damaged"):
        phantoms(copy)


@pytest.mark.parametrize("name", ["splits.json", "manifest.json"])
@pytest.mark.parametrize(
    "change", [lambda text: text.replace("phantom-0-00003", "phantom-0-00004"), lambda _: "{"]
)
def test_a_changed_document_is_found(copy, name, change):
    (copy / name).write_text(change((copy / name).read_text()))
    with pytest.raises(CacheError, match=rf"{name} of the cache at .* is damaged"):
        open_splits(copy)


@pytest.mark.parametrize("address", ["nowhere", "file:///no/where", "nosuch://bucket/x"])
def test_an_address_without_a_cache(address, tmp_path):
    with pytest.raises(CacheError, match="no cache at"):
        open_cache(address if ":" in address else tmp_path / address)


def test_the_error_for_no_cache_says_how_to_write_one(tmp_path):
    with pytest.raises(CacheError) as caught:
        open_cache(tmp_path)
    assert caught.value.remedy == f"run 'cgn cache DATASET --out {tmp_path}'"


def test_another_format_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["sha256"]
    manifest["recipe"]["format"] = 4
    (copy / "manifest.json").write_bytes(sealed.seal(manifest))
    with pytest.raises(CacheError, match="has format 4 but this version reads format 2 or 3"):
        open_cache(copy)


def test_a_manifest_with_the_name_of_another_cache_is_refused(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["sha256"]
    (copy / "manifest.json").write_bytes(sealed.seal({**manifest, "fingerprint": "0" * 16}))
    with pytest.raises(CacheError, match=r"manifest.json .*its fingerprint is not that of its recipe"):
        open_cache(copy)


@pytest.mark.parametrize("name", ["../../x", "a/b", "", None, ["x"], "x" * 300])
def test_a_cache_whose_own_name_is_a_path_is_refused(copy, name):
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["sha256"]
    (copy / "manifest.json").write_bytes(sealed.seal({**manifest, "name": name}))
    for opened in (open_cache, open_splits):
        with pytest.raises(CacheError, match=r"manifest.json .*its name is not that of a data set"):
            opened(copy)


def test_a_folder_with_the_name_of_another_cache_is_refused(copy):
    other = copy.rename(copy.with_name("phantom-32-000000000000"))
    with pytest.raises(CacheError, match=r"phantom-32-0{12} holds another cache, phantom-\d+-[0-9a-f]{12}"):
        open_cache(other)
    assert len(open_cache(other.rename(other.with_name("mine"))))


def test_a_cache_is_opened_by_address(written):
    pairs = open_cache(written.path.as_uri())
    np.testing.assert_array_equal(pairs.target, open_cache(written.path).target)
    assert len(open_splits(written.path.as_uri())) == 5


def test_a_killed_run_leaves_nothing_under_the_final_name(tmp_path):
    folder = tmp_path / "killed"
    program = (
        "import os, signal, pathlib\n"
        "from cgn.data.breast import Preprocessing\n"
        "from cgn.data.cache import write_cache\n"
        "from cgn.data.datasets import phantom\n"
        "from cgn.data.folds import SplitPlan\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
        "write_cache('phantom', phantom.Options(pairs=10), Preprocessing(32), SplitPlan(3), out=folder)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=False, timeout=60, env=os.environ)
    assert ended.returncode == -signal.SIGKILL
    assert not folder.exists()
    assert len(list(tmp_path.glob(".killed.*.tmp"))) == 1
    with pytest.raises(CacheError, match="no cache at"):
        open_cache(folder)
    assert phantoms(folder, pairs=10, plan=SplitPlan(3)).fresh
    assert not list(tmp_path.glob(".killed.*.tmp"))


def test_an_interrupted_run_cleans_up(tmp_path):
    def stop(done, total):
        assert total == 20 + 60
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        phantoms(tmp_path / "c", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == [".c.lock"]


def test_impossible_requests_are_refused_before_a_film_is_decoded(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError

    monkeypatch.setattr(cache, "prepare_pairs", never)
    with pytest.raises(ConfigError, match="11 folds must have at least 11 patients of each class"):
        phantoms(tmp_path / "c", plan=SplitPlan(11))
    with pytest.raises(ConfigError, match="8:1:1 must have at least 3 patients of each class"):
        phantoms(tmp_path / "c", pairs=5, plan=DIVISION)
    with pytest.raises(ConfigError, match="must be written to a local folder"):
        phantoms("s3://bucket/cache")
    assert not list(tmp_path.iterdir())


def test_folds_that_rejected_films_made_impossible(mias_folder, tmp_path):
    raw = mias_folder()
    for name in ("mdb004.png", "MDB007.PGM"):
        (raw / name).write_bytes(b"no film")
    with pytest.raises(ConfigError, match=r"3 folds must have at least 3 patients .* class has 2, without"):
        mammograms(raw, out=tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert "mdb007" in (tmp_path / "m.quarantine.csv").read_text()


@pytest.mark.parametrize("dataset", ["phantom", "mias", "manifest", "inbreast", "cbis"])
def test_the_recipe_names_the_code_that_decides_the_content(dataset):
    code = cache.deciding_code(dataset)
    assert {f"cgn.data.datasets.{dataset}", "cgn.data.breast", "cgn.data.preparation"} <= code.keys()
    assert ("cgn.data.reading.dicom" in code) == (dataset in ("manifest", "inbreast", "cbis"))
    assert not [name for name in code if "workers" in name or "cache" in name]


def test_an_unknown_dataset(tmp_path):
    with pytest.raises(ConfigError, match="no 'ddsm' among the datasets"):
        write_cache("ddsm", phantom.Options(), out=tmp_path / "c")


def test_progress_is_called_for_every_pair_and_healthy_film(tmp_path):
    calls = []
    phantoms(tmp_path / "p", pairs=10, plan=SplitPlan(3), progress=lambda *done: calls.append(done))
    assert calls == [(number, 40) for number in range(1, 41)]


READER = """
import os, sys
from pathlib import Path
import pyarrow.parquet
from cgn.data.cache import open_cache

def threads():
    names = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return len([name for name in names if name != "jemalloc_bg_thd"])

before = threads()
open_cache(sys.argv[1])
print(threads() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are listed in /proc")
def test_opening_a_cache_leaves_no_thread_that_could_abort_the_process_at_its_exit(written):
    """A thread of Arrow that releases the bytes of a shard while the interpreter ends would abort."""
    command = [sys.executable, "-c", READER, str(written.path)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    assert child.stdout.strip() == "0"
