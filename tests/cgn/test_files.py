"""Whole or not at all, whatever happens between."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cgn import files
from cgn.errors import ConfigError


def full(_: int) -> None:
    raise OSError(28, "No space left on device")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_the_place_of_another(tmp_path: Path) -> None:
    place = tmp_path / "facts.json"
    files.write(place, "old")
    files.write(place, b"new \xff")
    assert place.read_bytes() == b"new \xff"
    assert names(tmp_path) == ["facts.json"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write(tmp_path / "key", "old", private=True)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(tmp_path / "key", "new", private=True)
    with pytest.raises(OSError, match="No space"), files.atomic(tmp_path / "model") as draft:
        draft.write_text("half")
    assert (tmp_path / "key").read_text() == "old"
    assert names(tmp_path) == ["key"]


def test_a_private_file_is_private_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("os.fsync", lambda handle: seen.append(stat.S_IMODE(os.fstat(handle).st_mode)))
    files.write(tmp_path / "key", "secret", private=True)
    assert seen[0] == stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_everything_in_a_folder_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, synced = tmp_path / "model", []

    def note(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").readlink().name, place.exists()))

    monkeypatch.setattr("os.fsync", note)
    with files.atomic(place) as draft:
        (draft / "inner").mkdir(parents=True)
        (draft / "inner" / "part").write_text("1")
    *before, after = synced
    assert {name for name, _ in before} == {"inner", "part", draft.name}
    assert not any(there for _, there in before)
    assert after == (tmp_path.name, True)


def test_a_folder_does_not_take_the_place_of_a_full_one(tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    (place / "part").write_text("old")
    with pytest.raises(OSError, match="not empty"), files.atomic(place) as draft:
        draft.mkdir()
    assert (place / "part").read_text() == "old"
    assert names(tmp_path) == ["model"]


def test_what_a_killed_writer_leaves_is_tidied_and_nothing_else(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal\n"
        "from cgn import files\n"
        f"with files.atomic(pathlib.Path({str(tmp_path)!r}) / 'model') as draft:\n"
        "    draft.mkdir()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, timeout=60, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    (tmp_path / ".model-2.12345678.tmp").touch()
    assert len(names(tmp_path)) == 2
    files.remove_drafts(tmp_path / "model")
    assert names(tmp_path) == [".model-2.12345678.tmp"]


@pytest.mark.parametrize("name", ["table_3-mias-all", "a", "_x", "1", "v1.2", "x" * files.LONGEST_NAME])
def test_valid_names(name: str) -> None:
    assert files.check_name(name, "--name") == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../../x", "a/b", "/etc/x", "a\\b", "a b", "a\n", "a\x00", "-x", ".hidden", "a%2Fb"),
        *("\u0665", "\u00e9", "x" * (files.LONGEST_NAME + 1), "a?b", "$(x)"),
    ],
)
def test_names_that_mean_something_in_a_path_an_address_or_a_shell_are_refused(name: str) -> None:
    assert not files.is_name(name)
    with pytest.raises(ConfigError, match=r"--name must consist of at most 200 letters.*: give another one"):
        files.check_name(name, "--name", remedy="give another one")


def test_a_private_folder_is_made_with_its_missing_parents(tmp_path):
    tmp_path.chmod(0o755)
    folder = tmp_path / "a" / "b"
    files.make_private(folder)
    files.make_private(folder)
    assert [path.stat().st_mode & 0o777 for path in (folder, folder.parent, tmp_path)] == [
        0o700,
        0o700,
        0o755,
    ]
