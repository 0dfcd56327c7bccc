"""One process at a time."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cgn.errors import ClusterError, StudyError
from cgn.lock import exclusive

HOLD = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_held_lock_raises_the_callers_error(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "one.lock"
    with exclusive(path, ClusterError("unused")):
        with pytest.raises(ClusterError, match="wait for it"), exclusive(path, ClusterError("wait for it")):
            pytest.fail("the lock was taken twice")
        with pytest.raises(StudyError, match="made"), exclusive(path, lambda: StudyError("made")):
            pytest.fail("the lock was taken twice")
    with exclusive(path, ClusterError("it was not released")):
        pass


def test_an_error_in_the_block_releases_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    with pytest.raises(ZeroDivisionError), exclusive(path, StudyError("unused")):
        1 / 0  # noqa: B018
    with exclusive(path, StudyError("it was not released")):
        pass


def test_a_lock_is_waited_for_until_the_timeout(tmp_path: Path) -> None:
    path, release = tmp_path / "one.lock", threading.Event()
    held = threading.Event()

    def hold() -> None:
        with exclusive(path, StudyError("unused")):
            held.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    threading.Timer(0.05, release.set).start()
    with exclusive(path, StudyError("it was not waited for"), timeout=60):
        assert release.is_set()
    thread.join()


def test_a_killed_process_frees_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "one.lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StudyError, match="busy"), exclusive(path, StudyError("busy")):
            pytest.fail("the lock was taken twice")
        process.kill()
    with exclusive(path, StudyError("the killed process still holds it"), timeout=10):
        pass
