"""Temporary folders: private, removed at the end, or by the next process if theirs was killed."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cgn import temporary


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, also of child processes."""
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_scratch_folder_is_private_and_removed_at_the_end(base: Path) -> None:
    with temporary.scratch() as folder:
        assert folder.parent == base
        assert folder.name.startswith(f"cgn-{os.getpid()}-")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "film").touch()
    assert names(base) == []


def test_libraries_use_a_scratch_folder_until_the_end_of_the_block(base: Path) -> None:
    with temporary.within_scratch():
        (outer,) = base.iterdir()
        inner = Path(tempfile.mkdtemp())
        assert inner.parent == outer
    assert names(base) == []
    assert tempfile.gettempdir() == str(base)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("context", ["scratch", "within_scratch"])
def test_what_a_killed_process_leaves_is_removed_by_the_next_one(
    base: Path, context: str, ending: signal.Signals
) -> None:
    program = (
        "import os, tempfile\n"
        "from cgn import temporary\n"
        f"with temporary.{context}() as folder:\n"
        "    open(os.path.join(folder or tempfile.mkdtemp(), 'film'), 'w').close()\n"
        f"    os.kill(os.getpid(), {int(ending)})\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, timeout=60)
    assert killed.returncode == -ending
    (left,) = base.rglob("film")
    assert left.relative_to(base).parts[0].startswith("cgn-")
    with temporary.scratch() as folder:
        assert names(base) == [folder.name]


def test_folders_of_running_processes_and_of_others_are_kept(base: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)
    gone = ended.stdout.decode().strip()
    kept = [f"cgn-{os.getpid()}-x", f"cgn-{os.getppid()}-x", "cgn-1-x", "cgn-other", f"cgnup-{gone}-x"]
    for name in (*kept, f"cgn-{gone}-x", f"cgn-{10**30}-x"):
        (base / name).mkdir()
    temporary.remove_leftovers(base)
    assert names(base) == sorted(kept)


def test_a_link_with_such_a_name_leads_to_no_removal(base: Path) -> None:
    (base / "films").mkdir()
    (base / "films" / "film").touch()
    (base / f"cgn-{10**30}-x").symlink_to(base / "films")
    temporary.remove_leftovers(base)
    assert names(base / "films") == ["film"]


def test_folders_of_other_accounts_are_kept(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / f"cgn-{10**30}-x").mkdir()
    monkeypatch.setattr("os.getuid", lambda: base.stat().st_uid + 1)
    temporary.remove_leftovers(base)
    assert names(base) == [f"cgn-{10**30}-x"]
