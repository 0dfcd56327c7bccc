import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cgn.data.pseudonym import Pseudonyms, open_pseudonyms
from cgn.data.whose import files_of
from cgn.errors import ConfigError, NotADatasetError

sys.path.insert(0, str(Path(__file__).parent))
import dicoms

KEY = b"k" * 32


def test_a_name_depends_on_key_kind_and_value_and_on_nothing_else():
    one, other = Pseudonyms(KEY), Pseudonyms(b"l" * 32)
    name = one.of("patient", "Mary")
    assert name == Pseudonyms(KEY).of("patient", "Mary")
    names = {name, one.of("patient", "mary"), one.of("study", "Mary"), other.of("patient", "Mary")}
    assert len({n.partition("-")[2] for n in names}) == 4
    assert name.startswith("patient-")
    assert len(name) == len("patient-") + 16
    assert set(name[8:]) <= set("0123456789abcdef")
    assert one.of("a", "b\0c") != one.of("a\0b", "c")


def test_the_key_is_known_by_a_short_mark_and_never_shown():
    one = Pseudonyms(KEY)
    assert one.key_id == Pseudonyms(KEY).key_id != Pseudonyms(b"l" * 32).key_id
    assert len(one.key_id) == 8
    assert "kkk" not in repr(one)


def test_a_key_is_made_once_for_its_owner_alone(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "pseudonym.key"
    monkeypatch.setenv("CGN_KEY_FILE", str(path))
    first = open_pseudonyms()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert open_pseudonyms().key_id == open_pseudonyms(path).key_id == first.key_id
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_default_place_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.delenv("CGN_KEY_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    open_pseudonyms()
    assert (tmp_path / ".config" / "cgn" / "pseudonym.key").is_file()


def test_all_who_come_at_once_have_the_same_key(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: open_pseudonyms(tmp_path / "key").key_id, range(32)))
    assert len(keys) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_may_read_is_refused(tmp_path, mode):
    path = tmp_path / "key"
    path.write_bytes(KEY)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="for its owner only: run 'chmod 600"):
        open_pseudonyms(path)


def test_a_short_key_is_refused(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(b"secret\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="at least 32 bytes but holds 6"):
        open_pseudonyms(path)
    with pytest.raises(ConfigError, match="at least 32 bytes but has 6"):
        Pseudonyms(b"secret")


def test_a_key_in_a_work_tree_is_refused_and_none_is_made_there(tmp_path):
    (tmp_path / ".git").mkdir()
    with pytest.raises(ConfigError, match="must not lie in the git work tree"):
        open_pseudonyms(tmp_path / "deep" / "key")
    assert not (tmp_path / "deep").exists()
    (tmp_path / "link").symlink_to(tmp_path / "key")
    with pytest.raises(ConfigError, match="git work tree"):
        open_pseudonyms(tmp_path / "link")


def test_a_key_file_that_is_none_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "key"):
        with pytest.raises(ConfigError, match=r"key file .*(a directory|exists|owner only)"):
            open_pseudonyms(path)


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw" / "Mass_P_00173_LEFT"
    folder.mkdir(parents=True)
    (folder / "20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm").write_bytes(b"film")
    (tmp_path / "raw" / "cases.csv").write_text('who;file\n"Mary Smith";a.dcm\n')
    return tmp_path / "raw"


@pytest.mark.parametrize(
    ("kind", "value", "where"),
    [
        ("film", hashlib.sha256(b"film").hexdigest(), "_ANON.dcm"),
        ("patient", "6c613a14b80a8591", "_ANON.dcm"),
        ("patient", "P_00173", "_ANON.dcm"),
        ("pair", "20586908", "_ANON.dcm"),
        ("patient", "Mary Smith", "cases.csv:2"),
        ("patient", "woman", "tagged.dcm"),
        ("study", "1.2.3", "tagged.dcm"),
    ],
)
def test_the_holder_of_the_key_finds_the_file_again(raw, kind, value, where):
    dicoms.write(raw / "tagged.dcm", dicoms.breast())
    pseudonyms = Pseudonyms(KEY)
    name = pseudonyms.of(kind, value)
    ((found,),) = files_of([name], raw, pseudonyms).values()
    assert found.endswith(where)
    assert files_of([name], raw, Pseudonyms(b"l" * 32)) == {name: []}


def test_the_way_back_starts_at_a_folder(tmp_path):
    with pytest.raises(NotADatasetError, match="no folder"):
        files_of(["film-0"], tmp_path / "none", Pseudonyms(KEY))


def test_whose_prints_files_and_says_what_it_did_not_find(raw, tmp_path):
    key = tmp_path / "key"
    pseudonyms = open_pseudonyms(key)
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "cgn_platform.cli",
            "whose",
            pseudonyms.of("pair", "20586908"),
            "film-0",
            "--raw",
            raw,
        ],
        env={**os.environ, "CGN_KEY_FILE": str(key)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 2
    assert told.stdout.count("\n") == 1
    assert told.stdout.startswith(f"{pseudonyms.of('pair', '20586908')}: {raw}")
    assert "stands behind film-0 under this key" in told.stderr
