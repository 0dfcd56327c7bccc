"""One film under two names, and folds that overlap: in what is prepared, and in caches that others made."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cgn import sealed
from cgn.data import leaks
from cgn.data.breast import PreparedImage, Preprocessing
from cgn.data.cache import open_cache, open_splits, write_cache
from cgn.data.datasets import FilmRecord, phantom
from cgn.data.folds import SplitPlan, named, splits_fingerprint
from cgn.data.pairs import Split
from cgn.data.preparation import PreparedPair
from cgn.data.records import PairRecord, Rejection, rejected
from cgn.errors import CacheError, Reason

# --------------------------------------------------------------------------------- one film under two names


def record(number, patient, label=0, side="L", view="CC", rows=None):
    return PairRecord(f"pair-{number}", patient, view, side, label, (), (), False, tuple, rows=rows)


def prepared(target, reference):
    """A pair of the images with these numbers: equal numbers are equal images."""
    images = [
        PreparedImage(np.full((4, 4), number, np.uint8), (0, 0, 4, 4), (), "left")
        for number in (target, reference)
    ]
    return PreparedPair(*images, None)


def reasons(records, outcomes):
    kept = leaks.without_contradictions(records, outcomes)
    return {outcome.pair_id: outcome for outcome in kept if isinstance(outcome, Rejection)}


def test_the_same_image_of_two_women_is_rejected_in_both_pairs():
    records = [record(0, "anna", rows=(1, 2)), record(1, "berta", 1, rows=(7, 8)), record(2, "clara")]
    outcomes = [prepared(1, 2), prepared(1, 3), prepared(4, 5)]
    rejections = reasons(records, outcomes)
    assert rejections.keys() == {"pair-0", "pair-1"}
    assert {rejection.reason for rejection in rejections.values()} == {Reason.SAME_FILM}
    assert rejections["pair-0"].message == (
        "the image is also the target film of pair-1 (rows 1 and 7), under another patient and another label"
    )
    assert leaks.without_contradictions(records, outcomes)[2] is outcomes[2]


@pytest.mark.parametrize(
    ("other", "images", "facts"),
    [
        (record(1, "anna", 1), (1, 3), "another label"),
        (record(1, "berta"), (3, 2), "another patient"),  # as references
        (record(1, "berta", side="R"), (2, 3), "another patient"),  # as reference here, as target there
        (record(1, "anna", side="R"), (1, 3), "another side"),
        (record(1, "anna", view="MLO"), (1, 3), "another view"),
    ],
)
def test_facts_that_one_film_cannot_have_both(other, images, facts):
    rejections = reasons([record(0, "anna"), other], [prepared(1, 2), prepared(*images)])
    assert rejections.keys() == {"pair-0", "pair-1"}
    assert rejections["pair-0"].message.endswith(f"under {facts}")


def test_one_image_as_both_sides_of_a_pair_is_rejected():
    (rejection,) = reasons([record(0, "anna")], [prepared(1, 1)]).values()
    assert (rejection.role, rejection.message) == (
        "target",
        "the image is also the reference film of pair-0, under another side",
    )


def test_films_that_a_woman_has_in_several_pairs_are_kept():
    records = [record(0, "anna"), record(1, "anna", 1, side="R"), record(2, "anna")]
    assert reasons(records, [prepared(1, 2), prepared(2, 1), prepared(3, 2)]) == {}


def test_earlier_rejections_stay():
    earlier = rejected(record(0, "anna"), Reason.NO_BREAST, "no breast")
    outcomes = [earlier, prepared(1, 2), prepared(1, 3)]
    kept = leaks.without_contradictions([record(n, f"woman {n}") for n in range(3)], outcomes)
    assert kept[0] is earlier
    assert [outcome.reason for outcome in kept] == ["no_breast", "same_film", "same_film"]


# ------------------------------------------------------------------------------------- folds that overlap


def changed(pairs, **columns):
    return dataclasses.replace(pairs, **columns)


def test_folds_that_are_disjoint_pass(pairs, splits):
    assert leaks.overlap(pairs, splits) == ""


def test_a_pair_in_two_parts(pairs, splits):
    fold = dataclasses.replace(splits[0], train=np.append(splits[0].train, splits[0].test[0]))
    reason = leaks.overlap(pairs, [fold])
    assert reason == "fold 0: training and test have the same pair in pair-000 and pair-000"


def test_a_patient_in_two_parts(pairs, splits):
    patient = pairs.patient_id.copy()
    patient[splits[0].val[1]] = patient[splits[0].train[3]]
    reason = leaks.overlap(changed(pairs, patient_id=patient), splits, images=False)
    assert reason == "fold 0: training and validation have the same patient in pair-019 and pair-009"


@pytest.mark.parametrize(("name", "other"), [("target", "target"), ("target", "reference")])
def test_an_image_in_two_parts(pairs, splits, name, other):
    images = {"target": pairs.target.copy(), "reference": pairs.reference.copy()}
    images[name][splits[0].test[0]] = images[other][splits[0].train[0]]
    same = changed(pairs, **images)
    assert leaks.overlap(same, splits, images=False) == ""
    reason = leaks.overlap(same, splits)
    assert reason == "fold 0: training and test have the same image in pair-016 and pair-000"


def test_a_part_without_a_class(pairs, splits):
    fold = dataclasses.replace(splits[0], val=splits[0].val[::2])
    assert leaks.overlap(pairs, [fold]) == "fold 0: the validation part must have both classes"


def test_a_pair_that_is_tested_twice(pairs, splits):
    again = Split(1, splits[0].train, splits[0].val, splits[0].test)
    assert leaks.overlap(pairs, [splits[0], again]) == "a pair is in the test part of two folds"


# ------------------------------------------------------------------------------------------- healthy films


def film(number, patient, image, side="R", view="CC", name=""):
    """A healthy film of the image with this number."""
    record = FilmRecord(name or f"film-{number}", patient, view, side, True, True, tuple)
    return record, PreparedImage(np.full((4, 4), image, np.uint8), (0, 0, 4, 4), (), "left")


def once(films, records=None, outcomes=None):
    """Names of the films that are kept, and the messages of those that are not."""
    records = [record(0, "anna"), record(1, "berta", 1)] if records is None else records
    outcomes = [prepared(1, 2), prepared(3, 4)] if outcomes is None else outcomes
    kept = leaks.healthy_once(films, records, outcomes)
    rejections = {f.film_id: outcome.message for f, outcome in kept if isinstance(outcome, Rejection)}
    return [f.film_id for f, outcome in kept if isinstance(outcome, PreparedImage)], rejections


def test_a_healthy_film_that_is_a_reference_is_one_film():
    assert once([film(0, "anna", 2), film(1, "clara", 9)]) == (["film-0", "film-1"], {})


@pytest.mark.parametrize(
    ("healthy", "message"),
    [
        (film(0, "anna", 1, side="L"), "the target film of pair-0, under another label"),
        (film(0, "anna", 1), "the target film of pair-0, under another side and another label"),
        (film(0, "clara", 3, side="L"), "the target film of pair-1, under another patient and another label"),
        (film(0, "anna", 4), "the reference film of pair-1, under another patient"),
        (film(0, "berta", 4, view="MLO"), "the reference film of pair-1, under another view"),
    ],
)
def test_a_target_or_a_film_of_another_woman_is_not_healthy(healthy, message):
    others = [film(1, "clara", 9)]
    assert once([healthy, *others]) == (["film-1"], {"film-0": f"the image is also {message}"})


def test_a_film_of_a_pair_that_is_rejected_itself_is_not_healthy_either():
    records = [record(0, "anna"), record(1, "berta", 1)]
    outcomes = [prepared(1, 2), prepared(1, 4)]  # contradict each other
    assert not any(isinstance(o, PreparedPair) for o in leaks.without_contradictions(records, outcomes))
    assert once([film(0, "anna", 1, side="L")], records, outcomes)[0] == []


def test_two_healthy_films_of_one_image():
    copies = [film(0, "clara", 9), film(1, "clara", 9), film(2, "clara", 8, name="film-0")]
    assert once(copies) == (["film-0"], {})
    kept, rejections = once([film(0, "clara", 9), film(1, "dora", 9), film(2, "dora", 8)])
    assert kept == ["film-2"]
    assert rejections == {
        "film-0": "the image is also the healthy film film-1, under another patient",
        "film-1": "the image is also the healthy film film-0, under another patient",
    }


def test_a_healthy_film_that_could_not_be_read_stays_rejected():
    unread = film(0, "clara", 9)[0]
    kept = leaks.healthy_once([(unread, unread.rejected(Reason.UNREADABLE, "gone"))], [], [])
    assert [outcome.message for _, outcome in kept] == ["gone"]


# ---------------------------------------------------------------------------------- caches that others made


@pytest.fixture
def cache(tmp_path):
    options = phantom.Options(pairs=12)
    return write_cache("phantom", options, Preprocessing(32), SplitPlan(3), out=tmp_path / "cache").path


def reseal(cache: Path, splits=None, table: pa.Table | None = None, kind: str = "pairs") -> None:
    """Replace splits or shard of a cache, with all hashes as they should be."""
    manifest = json.loads((cache / "manifest.json").read_text())
    manifest.pop("sha256")
    if splits is not None:
        content = json.loads((cache / "splits.json").read_text())
        content["folds"] = named(manifest["pair_ids"], splits)
        content["fingerprint"] = splits_fingerprint(manifest["pair_ids"], splits)
        (cache / "splits.json").write_bytes(sealed.plain(content))
        manifest["splits"]["sha256"] = sealed.sha256((cache / "splits.json").read_bytes())
    if table is not None:
        shard = cache / f"{kind}-00000.parquet"
        pq.write_table(table, shard, use_dictionary=False, compression="zstd")
        manifest["shards" if kind == "pairs" else kind][0] |= {
            "bytes": shard.stat().st_size,
            "sha256": sealed.sha256(shard.read_bytes()),
        }
    (cache / "manifest.json").write_bytes(sealed.seal(manifest))


def refusal(cache: Path) -> str:
    with pytest.raises(CacheError) as caught:
        open_cache(cache)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy.startswith("remove the cache and run 'cgn cache' again")
    return str(caught.value)


def test_a_cache_whose_pairs_train_and_test_is_refused(cache):
    first, *others = open_splits(cache)
    reseal(cache, [dataclasses.replace(first, train=np.append(first.train, first.test)), *others])
    assert "fold 0: training and test have the same pair" in refusal(cache)
    with pytest.raises(CacheError, match="training and test have the same pair"):
        open_splits(cache)


@pytest.mark.parametrize(
    ("column", "kind"), [("patient_id", "patient"), ("target", "image"), ("reference", "image")]
)
def test_a_cache_whose_patients_or_images_train_and_test_is_refused(cache, column, kind):
    test, train = open_splits(cache)[0].test[0], open_splits(cache)[0].train[0]
    table = pq.read_table(cache / "pairs-00000.parquet")
    values = table.column(column).to_pylist()
    values[test] = values[train]
    place = table.schema.get_field_index(column)
    field = table.schema.field(column)
    reseal(cache, table=table.set_column(place, field, pa.array(values, field.type)))
    assert f"have the same {kind} in phantom-0-" in refusal(cache)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("target", r"phantom-0-00013-. is also the target film of phantom-0-00002"),
        ("reference", r"phantom-0-00013-. is also the reference film of phantom-0-00002, of another woman"),
    ],
)
def test_a_cache_whose_healthy_films_are_not_is_refused(cache, column, message):
    pairs = pq.read_table(cache / "pairs-00000.parquet")
    healthy = pq.read_table(cache / "healthy-00000.parquet")
    values = healthy.column("image").to_pylist()
    values[14] = pairs.column(column).to_pylist()[2]
    place, field = healthy.schema.get_field_index("image"), healthy.schema.field("image")
    reseal(cache, table=healthy.set_column(place, field, pa.array(values, field.type)), kind="healthy")
    assert re.search(rf"the healthy films of the cache at .* cannot be used: {message}", refusal(cache))


def test_an_existing_cache_that_leaks_is_not_reported_as_done(cache):
    first, *others = open_splits(cache)
    reseal(cache, [dataclasses.replace(first, train=np.append(first.train, first.val)), *others])
    with pytest.raises(CacheError, match="training and validation have the same pair"):
        write_cache("phantom", phantom.Options(pairs=12), Preprocessing(32), SplitPlan(3), out=cache)


def test_the_same_pixels_in_other_files_are_rejected_and_the_rest_is_cached(tmp_path, mias_folder):
    """A copy of a woman's films as another woman's, saved in another format."""
    import cv2

    from cgn.data.datasets import mias

    raw = mias_folder()
    for source, copy in (("MDB003.PGM", "MDB009.PGM"), ("mdb004.png", "mdb010.png")):
        pixels = cv2.imread(str(raw / source), cv2.IMREAD_UNCHANGED)
        (raw / copy).unlink()
        cv2.imwrite(str(raw / Path(copy).with_suffix(".pgm" if copy.endswith("png") else ".png")), pixels)
    report = write_cache("mias", mias.Options(raw=raw), Preprocessing(32), SplitPlan(3), out=tmp_path / "m")
    assert [(r.pair_id, r.role, r.reason) for r in report.rejected] == [
        ("mdb004", "target", "same_film"),
        ("mdb009", "reference", "same_film"),
        ("mdb003", "healthy", "same_film"),
        ("mdb010", "healthy", "same_film"),
    ]
    assert report.counts["cached"] == 7
    assert len(open_cache(shutil.copytree(report.path, tmp_path / "copy"))) == 7
