"""A cache that somebody else sealed: whatever is wrong with it is one typed error and takes little memory."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cgn import sealed
from cgn.data.breast import Preprocessing
from cgn.data.cache import open_cache, open_splits, write_cache
from cgn.data.cache_manifest import fingerprint_of
from cgn.data.datasets import phantom
from cgn.data.folds import SplitPlan
from cgn.errors import CacheError

SHARD, HEALTHY = "pairs-00000.parquet", "healthy-00000.parquet"
Facts = dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "cache"
    write_cache("phantom", phantom.Options(pairs=12), Preprocessing(32), SplitPlan(3), out=folder)
    return folder


@pytest.fixture
def cache(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "cache"))


def reseal(cache: Path, change: Callable[[Facts], Any]) -> None:
    """Change the manifest, with a seal and a fingerprint as they should be."""
    facts = json.loads((cache / "manifest.json").read_text())
    facts.pop("sha256")
    change(facts)
    if isinstance(facts.get("recipe"), dict) and "fingerprint" in facts:
        facts["fingerprint"] = fingerprint_of(facts["recipe"])
        splits = json.loads((cache / "splits.json").read_text())
        (cache / "splits.json").write_bytes(sealed.plain(splits | {"cache": facts["fingerprint"]}))
        if isinstance(facts.get("splits"), dict):
            facts["splits"]["sha256"] = sealed.sha256((cache / "splits.json").read_bytes())
    (cache / "manifest.json").write_bytes(sealed.seal(facts))


def replace_shard(cache: Path, table: pa.Table, name: str = SHARD, **options: Any) -> None:
    shard, key = cache / name, "shards" if name == SHARD else "healthy"
    pq.write_table(table, shard, **{"use_dictionary": False, "compression": "zstd", **options})
    size, sha256 = shard.stat().st_size, sealed.sha256(shard.read_bytes())
    reseal(cache, lambda facts: facts[key][0].update(bytes=size, sha256=sha256))


def rows(cache: Path, name: str = SHARD) -> pa.Table:
    return pq.read_table(cache / name)


def with_column(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def refusal(cache: Path) -> str:
    """The one line with which the cache is refused; verified or not makes no difference."""
    messages = set()
    for verify in (True, False):
        with pytest.raises(CacheError) as caught:
            open_cache(cache, verify=verify)
        messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message
    assert len(message) < 500 + len(str(cache))
    assert caught.value.remedy
    return message


def test_an_honest_cache_sealed_again_opens(cache: Path) -> None:
    reseal(cache, lambda facts: facts["notes"].append("of somebody else"))
    replace_shard(cache, rows(cache))
    replace_shard(cache, rows(cache, HEALTHY), HEALTHY)
    assert len(open_cache(cache)) == 12
    assert len(open_cache(cache).healthy or ()) == 36
    assert len(open_splits(cache)) == 3


KEYS = (
    "name",
    "fingerprint",
    "recipe",
    "counts",
    "missing",
    "rejected",
    "notes",
    "pair_ids",
    "splits",
    "shards",
)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key(cache: Path, key: str) -> None:
    reseal(cache, lambda facts: facts.pop(key))
    assert "manifest.json of the cache at" in refusal(cache)
    with pytest.raises(CacheError):
        open_splits(cache)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [None, -1, "x", [[[]]], {"a": {"b": 1}}], ids=str)
def test_a_value_of_another_type(cache: Path, key: str, value: Any) -> None:
    reseal(cache, lambda facts: facts.update({key: value}))
    if (key, value) == ("name", "x"):
        assert open_cache(cache).name == "x"
    elif key != "fingerprint":  # which is made anew
        assert "manifest.json of the cache at" in refusal(cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(name="../../etc"), "its name is not that of a data set"),
        (lambda f: f["recipe"].update(size=10**6), "recipe.*less than or equal to 4096"),
        (lambda f: f["recipe"].update(size="32"), "recipe.*valid integer"),
        (lambda f: f["recipe"].update(size=40), "columns of a cache of 40 x 40 pixels"),
        (lambda f: f["recipe"].update(background="red"), "recipe"),
        (lambda f: f.update(pair_ids=f["pair_ids"][:1] * 12), "a pair is listed twice"),
        (lambda f: f.update(pair_ids=f["pair_ids"][::-1]), "its pairs are not those of the manifest"),
        (lambda f: f.update(pair_ids=[]), "pair_ids"),
        (lambda f: f.update(shards=[]), "shards"),
        (lambda f: f["shards"].append(f["shards"][0]), "a file of pairs is listed twice"),
        (lambda f: f["shards"][0].update(name="../cache/" + SHARD), "shards.0.name"),
        (lambda f: f["shards"][0].update(name="/etc/passwd"), "shards.0.name"),
        (lambda f: f["shards"][0].update(name=SHARD + "\n"), "shards.0.name"),
        (lambda f: f["shards"][0].update(rows=0), "shards.0.rows"),
        (lambda f: f["shards"][0].update(rows=10**9), "shards.0.rows"),
        (lambda f: f["shards"][0].update(rows=11), "12 pairs are listed but its files have 11 rows"),
        (lambda f: f["shards"][0].update(bytes=1), "must have at most 1 bytes"),
        (lambda f: f["shards"][0].update(bytes=10**9), "must have 1000000000 bytes but has"),
        (lambda f: f["shards"][0].pop("sha256"), "shards.0.sha256 is missing"),
        (
            lambda f: f["splits"].update(drawn={"parts": [8, 1, 1]}),
            "drawn must be folds or parts, and a seed",
        ),
        (lambda f: f["rejected"].append(["one", "two"]), "rejected"),
        (lambda f: f["recipe"].update(healthy="all of them"), "recipe"),
        (lambda f: f["recipe"].update(healthy=None), "its recipe has no healthy films but"),
        (lambda f: f["recipe"].pop("healthy"), "its recipe has no healthy films but"),
        (lambda f: f["recipe"].update(healthy=None, format=2), "its recipe has no healthy films but"),
        (lambda f: f.update(healthy="x"), "healthy"),
        (lambda f: f["healthy"].append(f["healthy"][0]), "a file of healthy films is listed twice"),
        (lambda f: f["healthy"][0].update(name=SHARD), "healthy.0.name"),
        (lambda f: f["healthy"][0].update(name="../cache/" + HEALTHY), "healthy.0.name"),
        (lambda f: f["healthy"][0].update(rows=10**9), "healthy.0.rows"),
        (lambda f: f["healthy"][0].update(rows=35), "must have 35 rows but has 36"),
        (lambda f: f["healthy"][0].update(bytes=1), "must have at most 1 bytes"),
        (lambda f: f["healthy"][0].update(bytes=10**9), "must have 1000000000 bytes but has"),
        (lambda f: f["shards"][0].update(name=HEALTHY), "shards.0.name"),
    ],
)
def test_a_manifest_that_contradicts_itself_or_its_files(
    cache: Path, change: Callable[[Facts], Any], message: str
) -> None:
    reseal(cache, change)
    with pytest.raises(CacheError, match=message):
        open_cache(cache)
    refusal(cache)


@pytest.mark.parametrize("name", ["manifest.json", "splits.json"])
@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"a":' * 100_000, "[]", "null", "1", "{}", '"text"', "\ufeff{}", "1" * 5000]
)
def test_a_document_of_another_form(cache: Path, name: str, content: str) -> None:
    (cache / name).write_text(content)
    if name == "splits.json":
        digest = sealed.sha256((cache / name).read_bytes())
        facts = json.loads((cache / "manifest.json").read_text())
        facts.pop("sha256")
        facts["splits"]["sha256"] = digest
        (cache / "manifest.json").write_bytes(sealed.seal(facts))
    assert name in refusal(cache)


def with_folds(cache: Path, change: Callable[[Facts], Any]) -> None:
    content = json.loads((cache / "splits.json").read_text())
    change(content)
    (cache / "splits.json").write_bytes(sealed.plain(content))
    reseal(cache, lambda _: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(folds=[]), "must have the folds of this cache"),
        (lambda s: s["folds"][0].pop("val"), "must list the pairs"),
        (lambda s: s["folds"][0].update(test=["nobody"]), "must list the pairs"),
        (lambda s: s["folds"][0].update(test=[["phantom-0-00001"]]), "must list the pairs"),
        (lambda s: s["folds"][0].update(test=[]), "fold 0: the test part must have both classes"),
        (
            lambda s: s["folds"][0].update(test=s["folds"][0]["test"] * 2),
            "the test part must have a pair once",
        ),
        (lambda s: s["folds"].append(s["folds"][0]), "a pair is in the test part of two folds"),
    ],
)
def test_folds_that_cannot_be(cache: Path, change: Callable[[Facts], Any], message: str) -> None:
    with_folds(cache, change)
    assert message in refusal(cache)


def test_folds_of_another_cache(cache: Path) -> None:
    content = json.loads((cache / "splits.json").read_text()) | {"cache": "0" * 16}
    (cache / "splits.json").write_bytes(sealed.plain(content))
    facts = json.loads((cache / "manifest.json").read_text())
    facts.pop("sha256")
    facts["splits"]["sha256"] = sealed.sha256((cache / "splits.json").read_bytes())
    (cache / "manifest.json").write_bytes(sealed.seal(facts))
    assert "must have the folds of this cache" in refusal(cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.slice(0, 0), "must have 12 rows but has 0"),
        (lambda t: pa.concat_tables([t, t]), "must have 12 rows but has 24"),
        (lambda t: t.drop_columns(["boxes"]), "columns of a cache of 32 x 32 pixels"),
        (lambda t: t.append_column("more", t.column("label")), "columns of a cache"),
        (lambda t: with_column(t, "label", [0, 7] * 6), "no pair has such a value of label"),
        (lambda t: with_column(t, "side", ["up"] * 12), "no pair has such a value of side"),
        (lambda t: with_column(t, "kinds", [[None]] * 12), "no pair has such a value of kinds"),
        (lambda t: with_column(t, "boxes", [[[np.nan] * 4]] * 12), "no pair has such a value of boxes"),
        (lambda t: with_column(t, "boxes", [[[1.0, None, 3.0, 4.0]]] * 12), "such a value of boxes"),
        (lambda t: with_column(t, "boxes", [[None]] * 12), "pairs-00000.parquet of the cache at"),
        (lambda t: with_column(t, "target_crop", [[1, 2, 3, None]] * 12), "such a value of target_crop"),
        (lambda t: with_column(t, "pair_id", ["a"] * 12), "its pairs are not those of the manifest"),
        (lambda t: t.take(list(range(11, -1, -1))), "its pairs are not those of the manifest"),
    ],
)
def test_a_shard_of_another_form(cache: Path, change: Callable[[pa.Table], pa.Table], message: str) -> None:
    replace_shard(cache, change(rows(cache)))
    assert message in refusal(cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.slice(0, 0), "must have 36 rows but has 0"),
        (lambda t: t.drop_columns(["crop"]), "columns of a cache of 32 x 32 pixels"),
        (lambda t: t.append_column("more", t.column("side")), "columns of a cache"),
        (lambda t: with_column(t, "side", ["up"] * 36), "no healthy film has such a value of side"),
        (lambda t: with_column(t, "crop", [[1, 2, 3, None]] * 36), "such a value of crop"),
        (lambda t: with_column(t, "film_id", ["a"] * 36), "a healthy film is listed twice"),
        (lambda t: with_column(t, "view", ["x" * 2000] * 36), "such a value of view"),
    ],
)
def test_a_shard_of_healthy_films_of_another_form(
    cache: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    replace_shard(cache, change(rows(cache, HEALTHY)), HEALTHY)
    refused = refusal(cache)
    assert HEALTHY in refused
    assert message in refused


def test_a_shard_of_healthy_films_that_is_missing_or_damaged(cache: Path) -> None:
    content = bytearray((cache / HEALTHY).read_bytes())
    content[len(content) // 2] ^= 1
    (cache / HEALTHY).write_bytes(content)
    for verify in (True, False):
        with pytest.raises(CacheError, match=f"{HEALTHY} of the cache at .* is damaged"):
            open_cache(cache, verify=verify)
    (cache / HEALTHY).unlink()
    assert f"{HEALTHY} of the cache at {cache} is damaged (missing)" in refusal(cache)


def test_text_that_is_none(cache: Path) -> None:
    text = pa.array([b"\xff\xfe"] * 12, pa.binary()).view(pa.string())
    table = rows(cache)
    replace_shard(cache, table.set_column(3, table.schema.field("view"), text))
    assert f"{SHARD} of the cache at" in refusal(cache)


def test_what_is_no_file(cache: Path) -> None:
    (cache / SHARD).unlink()
    os.mkfifo(cache / SHARD)
    assert f"cannot read {SHARD}" in refusal_without_remedy(cache)
    (cache / SHARD).unlink()
    (cache / SHARD).symlink_to("/dev/zero")
    assert f"cannot read {SHARD}" in refusal_without_remedy(cache)
    (cache / SHARD).unlink()
    (cache / SHARD).mkdir()
    assert f"cannot read {SHARD}" in refusal_without_remedy(cache)
    (cache / SHARD).rmdir()
    (cache / SHARD).symlink_to("nowhere")
    assert f"cannot read {SHARD}" in refusal_without_remedy(cache)


def refusal_without_remedy(cache: Path) -> str:
    with pytest.raises(CacheError) as caught:
        open_cache(cache)
    assert "\n" not in str(caught.value)
    return str(caught.value)


BOMBS: dict[str, Callable[[Path], None]] = {
    "kinds": lambda cache: replace_shard(
        cache,
        with_column(rows(cache), "kinds", [["mass"] * 5_000_000, *[["mass"]] * 11]),
        use_dictionary=True,
    ),
    "dictionary": lambda cache: replace_shard(
        cache,
        with_column(rows(cache), "kinds", [["x" * 100_000] * 500] * 12),
        use_dictionary=True,
    ),
    "rows": lambda cache: replace_shard(cache, pa.table({"pair_id": pa.nulls(50_000_000, pa.string())})),
    "text": lambda cache: replace_shard(cache, with_column(rows(cache), "view", ["x" * 10_000_000] * 12)),
    "name": lambda cache: replace_shard(
        cache, with_column(rows(cache), "view", ["x" * 50_000_000, *["CC"] * 11])
    ),
    "pixels": lambda cache: replace_shard(
        cache, pa.table({"target": pa.array([bytes(4096**2)] * 12, pa.binary(4096**2))})
    ),
    "healthy text": lambda cache: replace_shard(
        cache, with_column(rows(cache, HEALTHY), "view", ["x" * 10_000_000] * 36), HEALTHY
    ),
    "healthy rows": lambda cache: replace_shard(
        cache, pa.table({"film_id": pa.nulls(50_000_000, pa.string())}), HEALTHY
    ),
    "manifest": lambda cache: os.truncate(cache / "manifest.json", 2**33),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_memory_is_bounded(cache: Path, bomb: str) -> None:
    """Measured in a process of its own."""
    BOMBS[bomb](cache)
    program = (
        "import sys, resource\n"
        "from cgn.data.cache import open_cache\n"
        "from cgn.errors import CacheError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    open_cache(sys.argv[1])\n"
        "except CacheError as error:\n    print(error)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(cache)], capture_output=True, text=True, timeout=120, check=True
    )
    message, mebibytes = done.stdout.splitlines()
    assert f"of the cache at {cache} is damaged" in message
    assert int(mebibytes) < 100
