from concurrent.futures import ThreadPoolExecutor

import pytest

from cgn.data.identity.pseudonym import Pseudonyms, open_pseudonyms
from cgn.errors import ConfigError

KEY = b"k" * 32


def test_a_pseudonym_depends_on_key_kind_and_value_only():
    one, other = Pseudonyms(KEY), Pseudonyms(b"l" * 32)
    name = one.of("patient", "Mary")
    assert name == Pseudonyms(KEY).of("patient", "Mary")
    pseudonyms = {name, one.of("patient", "mary"), one.of("study", "Mary"), other.of("patient", "Mary")}
    assert len({pseudonym.partition("-")[2] for pseudonym in pseudonyms}) == 4
    assert name.startswith("patient-")
    assert len(name) == len("patient-") + 16
    assert set(name[8:]) <= set("0123456789abcdef")
    assert one.of("a", "b\0c") != one.of("a\0b", "c")


def test_the_key_has_a_short_identifier_and_is_never_shown():
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


def test_the_default_file_is_in_the_users_home(tmp_path, monkeypatch):
    monkeypatch.delenv("CGN_KEY_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    open_pseudonyms()
    assert (tmp_path / ".config" / "cgn" / "pseudonym.key").is_file()


def test_processes_that_start_together_use_the_same_key(tmp_path):
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


def test_a_path_that_is_no_file_is_an_error_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "key"):
        with pytest.raises(ConfigError, match=r"key file .*(a directory|exists|owner only)"):
            open_pseudonyms(path)
